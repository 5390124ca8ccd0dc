"""Painting in a real browser: every control, with the display checked against Python."""

import re
import time
from functools import cache
from itertools import pairwise
from math import hypot

import numpy as np
import pytest
from browsing import Shown, assert_accessible, page_hurries, resized
from PIL import Image

from spade_kit import paint_defect
from spade_kit.datasets.synthetic import Stroke, changed, paint
from spade_kit.widgets._shared.encoding import colour_table

START = """
from dataclasses import replace
from pathlib import Path
import spade_kit
parts = spade_kit.load_dataset("demo")
spade = spade_kit.SPADE.load("fitted")
Path("broken.png").write_bytes(b"nothing")
some = replace(parts, test=[*parts.test[:2], spade_kit.Sample(Path("broken.png"), "chip")])
pd = spade_kit.paint_defect(spade, some)
pd.finish()
def reset():
    pd.problem = ""
    for index in (1, 0):
        pd.index = index
        pd.clear()
"""
CELLS = (START, "pd")
COLOURS = np.frombuffer(colour_table(), np.uint8).reshape(256, 3).astype(int)
STROKES = "[[s.tool, s.points, s.size, s.strength, s.colour] for s in pd.strokes]"
CUT_OFF = """root => {
    const parts = 'button, label, select, input, figcaption, p, .ends, .sk-score';
    return [...root.querySelectorAll(parts)].filter(node => {
        const [inner, outer] = [node.getBoundingClientRect(), root.getBoundingClientRect()];
        const beyond = inner.right > outer.right + 1 || inner.left < outer.left - 1;
        const cut = node.matches('button, label, figcaption') && node.scrollWidth > node.clientWidth + 1;
        return inner.width && (beyond || cut);
    }).map(node => node.outerHTML.slice(0, 90));
}"""


@pytest.fixture
def shown(notebook):
    shown = Shown(notebook.page)
    notebook.page.mouse.up()
    shown.hover(shown.photo, 100, 100)
    notebook.page.mouse.move(0, 0)  # the pen, possibly moved by keys, leaves the photo
    notebook.execute("reset()")
    shown.root.locator(":scope[data-shown='0 0']").wait_for()
    shown.settle()
    return shown


@pytest.fixture(scope="module")
def saved(spade, demo, tmp_path_factory):
    """A page saved with a stroke."""
    folder = tmp_path_factory.mktemp("saved")
    painting = paint_defect(spade, demo, folder=folder / "painted")
    painting.stroke("stain", [(100, 60), (120, 100)])
    painting.keep("stain")
    painting.finish()
    painting.save_html(folder / "page.html")
    yield folder / "page.html", painting
    painting.close()


# ---- helpers ---------------------------------------------------------------------------------------------------------


def take(shown, tool, **settings):
    """Select a tool and set its sliders and colour."""
    shown.press(tool)
    for name, value in settings.items():
        shown.slide(name, 100 * value if name == "strength" else value)


def drag(shown, *places, hold=False):
    first, *others = [shown.at(shown.photo, *place) for place in places]
    mouse = shown.page.mouse
    mouse.move(**first)
    mouse.down()
    for place in others:
        mouse.move(**place, steps=6)
    if not hold:
        mouse.up()


def strokes_of(notebook) -> list[Stroke]:
    return [
        Stroke(tool, tuple(map(tuple, points)), size, strength, tuple(colour))
        for tool, points, size, strength, colour in notebook.ask(STROKES)
    ]


def on_map(points) -> list[tuple[float, float]]:
    """Pixels of the demo's photos in map pixels: 320 px become 256, and 16 are cropped."""
    return [tuple((at + 0.5) / 1.25 - 0.5 - 16 for at in point) for point in points]


def on_photo(*place) -> tuple[float, float]:
    return tuple((at + 0.5 + 16) * 1.25 - 0.5 for at in place)


def far_off(place, start, end) -> float:
    """The distance of a pixel from a line segment."""
    down, across = end[0] - start[0], end[1] - start[1]
    along = ((place[0] - start[0]) * down + (place[1] - start[1]) * across) / (down**2 + across**2)
    along = min(max(along, 0), 1)
    return hypot(place[0] - start[0] - along * down, place[1] - start[1] - along * across)


def greys(pixels: np.ndarray) -> np.ndarray:
    """The index of each pixel's colour among the 256 colours."""
    colours, which = np.unique(pixels[..., :3].reshape(-1, 3), axis=0, return_inverse=True)
    return np.abs(colours[:, None].astype(int) - COLOURS).sum(-1).argmin(-1)[which].reshape(pixels.shape[:2])


def read(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def until(wanted, seconds: float = 10) -> None:
    """Wait until nothing is wrong: pictures are drawn shortly after their bytes arrive."""
    end = time.monotonic() + seconds
    while (wrong := wanted()) and time.monotonic() < end:
        time.sleep(0.05)
    assert not wrong, wrong


@cache
def left_out_scores(spade) -> list[float]:
    return [spade.predict_left_out(index).image_score for index in range(len(spade))]


def what_is_wrong(shown, result, before: float, spade) -> str:
    """A description of visible differences between the page and a result, or ""."""
    drawn = shown.pixels(shown.photo)[..., :3].astype(int)
    off = np.abs(drawn - result.image)
    if off.mean() > 2 or np.percentile(off, 99) > 20:  # it was sent as a JPEG
        return (
            f"the photo is off by {off.mean():.2f} grey levels on the average, {np.percentile(off, 99)} at most places"
        )
    end = 2 * spade.normal_level
    levels = np.abs(greys(shown.pixels(shown.map)) - np.clip(result.anomaly_map / end * 256, 0, 255).astype(int))
    if levels.max() > 1:
        return f"the map is off by {levels.max()} of 256 colours, at {(levels > 1).mean():.1%} of its pixels"
    text = shown.root.locator(".sk-score").inner_text()
    scores = [float(number) for number in re.findall(r"\d+\.\d+", text)]
    if not np.allclose(scores, [result.image_score, before], atol=0.011):
        return f"{text!r}, but Python says {result.image_score:.2f} and {before:.2f}"
    reached = sum(score >= result.image_score for score in left_out_scores(spade))
    rank = f": {reached} of 12 normal photos score at least this" if reached else ": above all 12 normal photos"
    return "" if text.endswith(rank) else f"{text!r} does not end with {rank!r}"


def assert_shows_strokes(notebook, shown, spade, photo) -> np.ndarray:
    """The page shows the photo with Python's strokes and the resulting map; returns the painted photo."""
    shown.settle()
    painted = paint(photo.image, strokes_of(notebook))
    result, before = spade.predict(painted), spade.predict(photo).image_score
    until(lambda: what_is_wrong(shown, result, before, spade))
    return painted


# ---- tools -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "tool", "settings"),
    [
        ("brush", "brush", {"size": 7, "strength": 0.8, "colour": "#1e90ff"}),
        ("scratch", "scratch", {"size": 4, "strength": 1}),
        ("stain", "stain", {"size": 31, "strength": 0.65, "colour": "#8b4513"}),
        ("blur", "blur", {"size": 44, "strength": 0.9}),
        ("recolour", "colour", {"size": 50, "strength": 0.75, "colour": "#ff8c00"}),
    ],
)
def test_a_drawn_stroke_is_painted_and_judged(notebook, shown, spade, demo, label, tool, settings):
    take(shown, label, **settings)
    assert shown.root.get_by_label("colour", exact=True).is_disabled() == ("colour" not in settings)
    corners = [(60, 50), (150, 70), (120, 170)]
    drag(shown, *corners)
    notebook.until("len(pd.strokes)", 1)
    assert_shows_strokes(notebook, shown, spade, demo.test[0])
    (stroke,) = strokes_of(notebook)
    assert stroke.tool == tool
    assert stroke.size == pytest.approx(1.25 * settings["size"])
    assert stroke.strength == settings["strength"]
    if "colour" in settings:
        assert "#{:02x}{:02x}{:02x}".format(*stroke.colour) == settings["colour"]
    places = on_map(stroke.points)
    assert hypot(places[0][0] - 60, places[0][1] - 50) < 1.5
    assert hypot(places[-1][0] - 120, places[-1][1] - 170) < 1.5 + settings["size"] / 8
    assert min(hypot(row - 150, col - 70) for row, col in places) < 1.5 + settings["size"] / 8
    assert len(places) > 8
    for place in places:
        assert min(far_off(place, *piece) for piece in pairwise(corners)) < 1.5
    assert (
        shown.photo.locator("xpath=..")
        .locator("figcaption")
        .inner_text()
        .split("\n")[-1]
        .endswith("1 stroke; 77 % of the image judged")
    )


def test_the_outline_of_the_painted_area_matches_the_mask(notebook, shown, demo):
    take(shown, "brush", size=9, strength=1, colour="#00ff00")
    drag(shown, (60, 50), (60, 120))
    notebook.until("len(pd.strokes)", 1)
    shown.settle()
    visible = changed(demo.test[0].image, paint(demo.test[0].image, strokes_of(notebook)))
    rows, cols = (np.array(axis) for axis in np.nonzero(visible))
    (top, left), (bottom, right) = on_map([(rows.min(), cols.min()), (rows.max(), cols.max())])
    box = "path => { const b = path.getBBox(); return [b.y, b.x, b.y + b.height, b.x + b.width]; }"
    for stage in (shown.photo, shown.map):
        outline = stage.locator(".sk-truth .ink").evaluate(box)
        np.testing.assert_allclose(outline, [top, left, bottom + 1, right + 1], atol=1.1)


def test_a_patch_is_moved_only_if_it_is_dragged(notebook, shown, spade, demo):
    take(shown, "move", size=30, strength=1)
    shown.click(shown.photo, 112, 60)
    shown.settle()
    drag(shown, (112, 60), (112.6, 60.6))  # a slight jitter
    shown.settle()
    assert strokes_of(notebook) == []
    drag(shown, (112, 60), (90, 100), (60, 150))
    notebook.until("len(pd.strokes)", 1)
    painted = assert_shows_strokes(notebook, shown, spade, demo.test[0])
    (stroke,) = strokes_of(notebook)
    assert stroke.tool == "move"
    np.testing.assert_allclose(on_map(stroke.points), [(112, 60), (60, 150)], atol=1)
    start, end = np.rint(on_photo(112, 60)).astype(int), np.rint(on_photo(60, 150)).astype(int)
    by = np.rint(np.subtract(*stroke.points[::-1])).astype(int)
    np.testing.assert_allclose(end - start, by, atol=2)
    here = np.s_[end[0] - 8 : end[0] + 9, end[1] - 8 : end[1] + 9]
    there = np.s_[end[0] - by[0] - 8 : end[0] - by[0] + 9, end[1] - by[1] - 8 : end[1] - by[1] + 9]
    np.testing.assert_array_equal(painted[here], demo.test[0].image[there])


def test_erasing_restores_the_photo(notebook, shown, spade, demo):
    take(shown, "brush", size=8, strength=1, colour="#ff0000")
    drag(shown, (80, 80), (110, 130))
    notebook.until("bool(pd.mask.any())", True)
    shown.settle()
    assert shown.root.get_by_role("button", name="keep as test photo").is_enabled()
    take(shown, "erase", size=40, strength=1)
    drag(shown, (80, 80), (110, 130), (110, 140))
    notebook.until("bool(pd.mask.any())", False)
    painted = assert_shows_strokes(notebook, shown, spade, demo.test[0])
    np.testing.assert_array_equal(painted, demo.test[0].image)
    assert shown.root.get_by_role("button", name="keep as test photo").is_disabled()  # no visible change
    assert shown.root.get_by_role("button", name="undo").is_enabled()


def test_each_tool_keeps_its_settings_and_the_pen_has_the_stroke_size(shown):
    take(shown, "brush", size=24, strength=0.35, colour="#123456")
    take(shown, "blur", size=60, strength=0.5)
    shown.hover(shown.photo, 100, 110)
    pen = shown.photo.locator(".sk-pen:not([visibility=hidden]) .ink")
    box = "circle => { const b = circle.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; }"
    assert pen.count() == 1
    assert pen.get_attribute("r") == "30"
    middle = shown.at(shown.photo, 100, 110)
    np.testing.assert_allclose(pen.evaluate(box), [middle["x"], middle["y"]], atol=2)
    shown.press("brush")
    said = {name: shown.root.get_by_label(name, exact=True).input_value() for name in ("size", "strength", "colour")}
    assert said == {"size": "24", "strength": "35", "colour": "#123456"}
    typed = [shown.root.get_by_label(f"{name}, typed", exact=True).input_value() for name in ("size", "strength")]
    assert typed == ["24", "35"]
    assert [shown.root.locator(f".sk-slider output >> nth={at}").inner_text().strip() for at in (0, 1)] == ["px", "%"]
    pressed = shown.root.locator("[aria-label=tool] [aria-pressed=true]").all_inner_texts()
    assert pressed == ["brush"]


# ---- while drawing ---------------------------------------------------------------------------------------------------


def test_the_map_follows_while_the_pointer_is_still_down(notebook, shown, spade, demo):
    take(shown, "brush", size=10, strength=1, colour="#ff0000")
    before = shown.pixels(shown.map)
    drag(shown, (50, 50), (100, 60), (110, 120), hold=True)
    assert_shows_strokes(notebook, shown, spade, demo.test[0])
    held = shown.pixels(shown.map)
    assert (held != before).any()
    so_far = len(strokes_of(notebook)[0].points)
    shown.page.mouse.move(**shown.at(shown.photo, 170, 150), steps=10)
    shown.page.mouse.up()
    notebook.until(f"len(pd.strokes[0].points) > {so_far} and len(pd.strokes)", 1)
    assert_shows_strokes(notebook, shown, spade, demo.test[0])
    assert (shown.pixels(shown.map) != held).any()
    assert hypot(*np.subtract(on_map(strokes_of(notebook)[0].points)[-1], (170, 150))) < 3


def test_size_and_strength_can_be_typed(notebook, shown, demo):
    shown.press("brush")
    for name, wrong, value in (("size", "500", "7.5"), ("strength", "300", "62")):
        field = shown.root.get_by_label(f"{name}, typed", exact=True)
        before = field.input_value()
        field.fill(wrong)
        field.press("Enter")
        assert field.input_value() == before
        field.fill(value)
        field.press("Enter")
        assert field.input_value() == value
    shown.click(shown.photo, 100, 100)
    notebook.until("len(pd.strokes)", 1)
    (stroke,) = strokes_of(notebook)
    assert (stroke.size, stroke.strength) == (pytest.approx(1.25 * 7.5), 0.62)


def test_a_stroke_on_enlarged_pictures_is_where_it_was_drawn(notebook, shown):
    take(shown, "brush", size=6, strength=1, colour="#ff0000")
    shown.hover(shown.photo, 112, 61)
    for key in "++":
        shown.page.keyboard.press(key)
    windows = {view.get_attribute("viewBox") for view in shown.root.locator(".marks").all()}
    (window,) = windows  # one for all pictures
    left, top, width, _ = map(float, window.split())
    assert width == pytest.approx(224 / 1.5**2)
    box = shown.photo.bounding_box()
    shown.page.mouse.dblclick(box["x"] + 0.2 * box["width"], box["y"] + 0.7 * box["height"])  # two dabs
    assert shown.photo.locator(".marks").get_attribute("viewBox") == window
    notebook.until("len(pd.strokes)", 2)
    shown.settle()
    for stroke in strokes_of(notebook):
        (place,) = on_map(stroke.points)
        assert place == pytest.approx((top + 0.7 * width - 0.5, left + 0.2 * width - 0.5), abs=0.5)
    shown.page.keyboard.press("0")
    assert shown.photo.locator(".marks").get_attribute("viewBox") == "0 0 224 224"


def test_the_legend_switches_marks_a_held_key_hides_all_and_the_network_is_named(notebook, shown, spade):
    take(shown, "brush", size=14, strength=1)
    drag(shown, (80, 80), (110, 130))
    notebook.until("len(pd.strokes)", 1)
    shown.settle()
    for name, mark in (("painted", ".sk-truth"), ("above reference level", ".sk-found")):
        assert shown.map.locator(mark).is_visible()
        shown.press(name)
        assert not shown.map.locator(mark).is_visible()
        shown.press(name)
    shown.photo.focus()
    shown.page.keyboard.down("h")
    assert not shown.map.locator(".marks").is_visible()
    shown.page.keyboard.up("h")
    assert shown.map.locator(".marks").is_visible()
    assert "H hides marks" in shown.root.locator(".sk-legend").inner_text()
    source = shown.root.locator(".sk-source")
    assert source.inner_text().startswith("efficientnet_lite0, weights: ImageNet")
    assert source.get_attribute("title") == f"{spade.backbone.describe()}; {spade.describe_options()}"


@pytest.mark.parametrize("held", [False, True], ids=["at once", "after it was painted"])
def test_the_preview_line_is_removed_once_python_has_painted_the_stroke(notebook, shown, held):
    take(shown, "brush", size=12, strength=1, colour="#ff0000")
    drag(shown, (70, 70), (72, 90), hold=True)
    line = shown.pixels(shown.photo, "over")
    assert line[71, 80].tolist() == [255, 0, 0, 255]  # at once, without the kernel
    if held:
        notebook.until("len(pd.strokes) and len(pd.strokes[0].points) > 1", True)
        until(lambda: "" if on_map(strokes_of(notebook)[0].points)[-1][1] > 87 else "not all of it is painted")
        shown.settle()
    shown.page.mouse.up()
    notebook.until("len(pd.strokes)", 1)
    shown.settle()
    until(lambda: "a line is left" if shown.pixels(shown.photo, "over").any() else "", 2)


def test_the_page_is_busy_until_a_stroke_is_fully_painted(notebook, shown):
    take(shown, "brush", size=6, strength=1, colour="#0000ff")
    notebook.execute("answer = pd._show; import time\ndef slow():\n    time.sleep(0.4)\n    answer()\npd._show = slow")
    try:
        drag(shown, (50, 50), (60, 150), (140, 150))
        shown.settle()
        end = shown.pixels(shown.photo)[138, 150].astype(int)
        assert end[2] > end[0] + 100, f"{end} is not blue"
        last = on_map(strokes_of(notebook)[0].points)[-1]  # asked after the page's messages
        assert hypot(last[0] - 140, last[1] - 150) < 3
    finally:
        notebook.execute("del pd._show")
        notebook.until("len(pd.strokes)", 1)


# ---- undo and redo ---------------------------------------------------------------------------------------------------


def buttons(shown) -> list[bool]:
    """Whether undo, redo and clear all are enabled."""
    return [
        shown.root.get_by_role("button", name=name, exact=True).is_enabled() for name in ("undo", "redo", "clear all")
    ]


def test_strokes_are_undone_and_redone_by_buttons_and_keys(notebook, shown, spade, demo):
    take(shown, "brush", size=8, strength=1, colour="#ff0000")
    assert buttons(shown)[::2] == [False, False]
    drag(shown, (60, 60), (60, 100))
    notebook.until("len(pd.strokes)", 1)
    shown.settle()
    drag(shown, (120, 60), (120, 100))
    notebook.until("len(pd.strokes)", 2)
    shown.settle()
    both = notebook.ask(STROKES)
    keys, name = shown.page.keyboard, shown.press
    for act, control, left in (
        (name, "undo", 1),
        (keys.press, "Control+z", 0),
        (keys.press, "Control+Shift+Z", 1),
        (name, "redo", 2),
        (name, "clear all", 0),
        (keys.press, "Control+y", 1),
        (keys.press, "Control+Shift+Z", 2),
        (keys.press, "Control+z", 1),
    ):
        act(control)
        notebook.until("len(pd.strokes)", left)
        shown.root.locator(f":scope[data-shown='0 {left}']").wait_for(timeout=5000)
        assert notebook.ask(STROKES) == both[:left]
        assert buttons(shown) == [left > 0, left < 2, left > 0]
    assert_shows_strokes(notebook, shown, spade, demo.test[0])
    assert shown.root.get_by_role("alert").count() == 0


def test_keys_work_after_a_click_on_a_non_focusable_element(notebook, shown):
    take(shown, "brush", size=8, strength=1)
    drag(shown, (60, 60), (60, 100))
    notebook.until("len(pd.strokes)", 1)
    shown.settle()
    shown.click(shown.map, 50, 50)
    shown.page.keyboard.press("Control+z")
    notebook.until("len(pd.strokes)", 0)


def test_keys_alone_are_enough(notebook, shown, spade, demo):
    take(shown, "brush", size=9, strength=1, colour="#00ffff")
    notebook.execute("pd.probe = (100, 100)")
    shown.photo.focus()
    keys = shown.page.keyboard
    for key in ("ArrowRight", "Shift+ArrowDown", "ArrowLeft", "ArrowLeft", "ArrowUp"):
        keys.press(key)
    keys.press("Enter")
    notebook.until("len(pd.strokes)", 1)
    assert notebook.ask("pd.strokes[0].points") == [pytest.approx(on_photo(112, 96), abs=0.01)]
    keys.press("Shift+ArrowRight")
    keys.press("Space")
    notebook.until("len(pd.strokes)", 2)
    assert notebook.ask("pd.strokes[1].points") == [pytest.approx(on_photo(112, 112), abs=0.01)]
    assert_shows_strokes(notebook, shown, spade, demo.test[0])
    for _ in range(40):
        keys.press("Shift+ArrowUp")
    keys.press("Enter")  # not beyond the edge
    notebook.until("pd.strokes[-1].points[0][0]", on_photo(0, 0)[0])


def test_a_patch_is_moved_by_keys_from_one_place_to_another(notebook, shown, spade, demo):
    take(shown, "move", size=30, strength=1)
    notebook.execute("pd.probe = (112, 60)")
    shown.photo.focus()
    keys = shown.page.keyboard
    keys.press("Enter")
    shown.settle()
    assert strokes_of(notebook) == []
    for _ in range(3):
        keys.press("Shift+ArrowRight")
    keys.press("ArrowUp")
    keys.press("Enter")
    notebook.until("len(pd.strokes)", 1)
    (stroke,) = strokes_of(notebook)
    assert stroke.tool == "move"
    np.testing.assert_allclose(on_map(stroke.points), [(112, 60), (108, 108)], atol=0.02)
    assert_shows_strokes(notebook, shown, spade, demo.test[0])


def test_keys_do_not_reach_the_notebook(notebook, shown):
    cells = "jupyterapp.shell.currentWidget.content.widgets.map(cell => cell.model.sharedModel.getSource())"
    seen = f"[{cells}, jupyterapp.shell.currentWidget.content.activeCellIndex]"
    notebook.page.evaluate("jupyterapp.commands.execute('notebook:insert-cell-below')")
    notebook.page.evaluate("jupyterapp.commands.execute('notebook:enter-command-mode')")
    keys = shown.page.keyboard
    shown.photo.focus()  # this selects its cell
    before = notebook.page.evaluate(seen)
    assert len(before[0]) == 3
    for focused in (shown.photo, shown.root.get_by_role("button", name="blur", exact=True)):
        focused.focus()
        for key in ("Control+z", "Control+Shift+Z", "z", "Shift+Z", "ArrowUp", "d", "d", "x", "b", "Enter", "Escape"):
            keys.press(key)
    kind = shown.root.get_by_label("defect type", exact=True)
    kind.fill("")
    kind.focus()
    keys.type("dd a z b x")
    keys.press("Control+z")
    keys.type("?")
    assert notebook.page.evaluate(seen) == before
    assert "?" in kind.input_value()
    assert not shown.root.locator(".sk-remark", has_text="Choose a tool").is_visible()
    notebook.page.evaluate("jupyterapp.shell.currentWidget.content.activeCellIndex = 2")
    notebook.page.evaluate("jupyterapp.commands.execute('notebook:delete-cell')")


# ---- keeping and saving ----------------------------------------------------------------------------------------------


def test_a_kept_photo_is_added_to_the_test_photos(notebook, shown, demo, lab):
    there = notebook.ask("len(pd.dataset.test)")
    take(shown, "brush", size=14, strength=1, colour="#ff00ff")
    drag(shown, (80, 80), (110, 130))
    notebook.until("len(pd.strokes)", 1)
    shown.settle()
    shown.root.get_by_label("defect type", exact=True).fill("hand made")
    shown.press("keep as test photo")
    shown.root.get_by_role("status").filter(has_text="Kept: hand made/000").wait_for(timeout=5000)
    assert notebook.ask("[len(pd.dataset.test), pd.dataset.test[-1].label]") == [there + 1, "hand made"]
    painted = paint(demo.test[0].image, strokes_of(notebook))
    np.testing.assert_array_equal(read(lab.folder / "painted/test/hand made/000.png"), painted)
    mask = read(lab.folder / "painted/ground_truth/hand made/000_mask.png")
    np.testing.assert_array_equal(mask > 0, changed(demo.test[0].image, painted))
    shown.press("keep as test photo")
    shown.root.get_by_role("status").filter(has_text="hand made/000, hand made/001").wait_for(timeout=5000)


def test_an_invalid_folder_name_shows_an_error_that_can_be_closed(notebook, shown, lab):
    take(shown, "brush", size=14, strength=1)
    drag(shown, (80, 80), (110, 130))
    notebook.until("len(pd.strokes)", 1)
    shown.settle()
    kind = shown.root.get_by_label("defect type", exact=True)
    for _ in range(2):
        kind.fill("a/b")
        shown.press("keep as test photo")
        alert = shown.root.get_by_role("alert").filter(
            has_text="label must be a defect type that is a valid folder name"
        )
        alert.wait_for(timeout=5000)
        shown.settle()  # the spinner has stopped
        shown.press("close this message")
        assert shown.root.get_by_role("alert").count() == 0
    notebook.until("pd.problem", "")
    shown.press("keep as test photo")
    alert.wait_for(timeout=5000)
    kind.fill("slash")
    shown.press("keep as test photo")
    shown.root.get_by_role("status").filter(has_text="slash/000").wait_for(timeout=5000)
    assert shown.root.get_by_role("alert").count() == 0
    assert not (lab.folder / "painted/test/a").exists()


def test_photo_mask_picture_and_page_can_be_downloaded(notebook, shown, demo, tmp_path):
    take(shown, "brush", size=14, strength=1, colour="#ff00ff")
    drag(shown, (80, 80), (110, 130))
    notebook.until("len(pd.strokes)", 1)
    shown.settle()
    with (
        shown.page.expect_download(lambda file: "mask" in file.suggested_filename) as mask,
        shown.page.expect_download(lambda file: "mask" not in file.suggested_filename) as photo,
    ):
        shown.press("photo + mask")
    names = [each.value.suggested_filename for each in (photo, mask)]
    assert names == ["chip-000-painted.png", "chip-000-painted_mask.png"]
    painted = paint(demo.test[0].image, strokes_of(notebook))
    np.testing.assert_array_equal(read(photo.value.path()), painted)
    visible = changed(demo.test[0].image, painted)
    np.testing.assert_array_equal(read(mask.value.path()), 255 * visible)
    with shown.page.expect_download() as png:
        shown.press("PNG")
    assert png.value.suggested_filename == "chip-000-painted.png"
    assert read(png.value.path()).shape[1] > 1000
    with shown.page.expect_download() as page:
        shown.press("save page")
    assert page.value.suggested_filename == "chip-000-painted.html"
    assert page.value.path().read_text().startswith("<!doctype html>")
    for name in ("PNG", "save page"):
        assert shown.root.get_by_role("button", name=name, exact=True).get_attribute("aria-busy") is None


# ---- photos ----------------------------------------------------------------------------------------------------------


def test_another_photo_is_chosen_and_each_keeps_its_strokes(notebook, shown, spade, demo):
    take(shown, "brush", size=14, strength=1, colour="#ff00ff")
    drag(shown, (80, 80), (110, 130))
    notebook.until("len(pd.strokes)", 1)
    shown.settle()
    shown.choose("photo", "1")
    shown.root.locator(":scope[data-shown='1 0']").wait_for()
    assert_shows_strokes(notebook, shown, spade, demo.test[1])
    assert "chip/001, painted" in shown.photo.locator("xpath=..").inner_text()
    drag(shown, (150, 80), (150, 130))
    notebook.until("[pd.index, len(pd.strokes)]", [1, 1])
    assert_shows_strokes(notebook, shown, spade, demo.test[1])
    shown.choose("photo", "0")
    shown.root.locator(":scope[data-shown='0 1']").wait_for()
    assert_shows_strokes(notebook, shown, spade, demo.test[0])


def test_an_unreadable_photo_is_named_and_changes_nothing(notebook, shown):
    shown.choose("photo", "2")
    told = re.compile(r"Cannot read .*broken\.png as an image")
    shown.root.get_by_role("alert").filter(has_text=told).wait_for(timeout=5000)
    shown.settle()
    assert notebook.ask("pd.index") == 0
    assert shown.root.get_by_label("photo", exact=True).input_value() == "0"
    take(shown, "brush", size=14, strength=1)
    drag(shown, (80, 80), (110, 130))
    notebook.until("[pd.index, len(pd.strokes)]", [0, 1])
    shown.settle()
    assert shown.root.get_by_role("alert").count() == 0  # no error is left


def test_strokes_from_python_are_shown(notebook, shown, spade, demo):
    notebook.execute("pd.stroke('stain', [(100, 60), (120, 100)]); pd.probe = (30, 40)")
    shown.root.locator(":scope[data-shown='0 1']").wait_for()
    assert_shows_strokes(notebook, shown, spade, demo.test[0])
    assert shown.ring(shown.map) == (30, 40)
    match = spade.predict(paint(demo.test[0].image, strokes_of(notebook))).match(30, 40)
    assert shown.ring(shown.normal) == (match.row, match.col)


def test_pointing_at_the_map_shows_the_normal_pixel_that_explains_the_place(notebook, shown, spade, demo):
    notebook.execute("pd.stroke('stain', [(100, 60), (120, 100)])")
    shown.root.locator(":scope[data-shown='0 1']").wait_for()
    result = spade.predict(paint(demo.test[0].image, strokes_of(notebook)))
    for place in [(5, 9), (110, 80), (218, 130)]:
        shown.hover(shown.map, *place)
        match = result.match(*place)
        assert shown.ring(shown.map) == place
        assert shown.ring(shown.normal) == (match.row, match.col)
        figure = shown.normal.locator("xpath=..").inner_text()
        for said in (
            f"Normal {match.image}\n",
            f"explains ({place[0]}, {place[1]})",
            f"pixel ({match.row}, {match.col}), distance {match.distance:.2f}; map ",
        ):
            assert said in figure
        assert float(figure.split("; map ")[1]) == pytest.approx(result.anomaly_map[place], abs=0.011)
        crop = spade.normal_image(match.image).astype(int)
        until(
            lambda crop=crop: "" if np.abs(shown.pixels(shown.normal)[..., :3] - crop).mean() < 2 else "not that normal"
        )


# ---- elsewhere -------------------------------------------------------------------------------------------------------


def test_a_saved_page_shows_strokes_and_map_but_cannot_paint(browser, saved, spade, demo):
    path, painting = saved
    context = browser.new_context(viewport={"width": 1200, "height": 1000}, offline=True)
    page, asked, errors = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    shown = Shown(page)
    result, before = painting.result, spade.predict(demo.test[0]).image_score
    until(lambda: what_is_wrong(shown, result, before, spade))
    for stage in (shown.map, shown.photo):
        shown.hover(stage, 100, 61)
        match = result.match(100, 61)
        assert shown.ring(shown.map) == (100, 61)
        assert shown.ring(shown.normal) == (match.row, match.col)
    crop = spade.normal_image(match.image).astype(int)
    until(lambda: "" if np.abs(shown.pixels(shown.normal)[..., :3] - crop).mean() < 2 else "not that normal")
    shown.photo.focus()
    page.keyboard.press("ArrowRight")
    assert shown.ring(shown.map) == (100, 65)
    page.keyboard.press("Enter")
    page.keyboard.press("Control+z")
    drag(shown, (60, 60), (100, 100))
    assert shown.root.get_attribute("data-shown") == "0 1"
    assert not shown.pixels(shown.photo, "over").any()
    enabled = shown.root.locator(":is(button, input, select, textarea):enabled:visible")
    names = enabled.evaluate_all("nodes => nodes.map(node => node.ariaLabel ?? node.textContent)")
    assert names == ["painted", "above reference level", "help"]
    assert shown.root.get_by_role("alert").count() == 0
    assert "Kept: stain/000" in shown.root.inner_text()
    assert errors == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_saved_page_has_no_serious_accessibility_violations(browser, saved, scheme):
    page = browser.new_page(color_scheme=scheme)
    page.goto(saved[0].as_uri())
    shown = Shown(page)
    shown.press("help")
    assert_accessible(page)
    page.close()


def test_both_jupyterlab_themes_have_no_serious_accessibility_violations(notebook, shown):
    """With enabled controls: disabled ones are exempt from contrast rules."""
    take(shown, "brush", size=14, strength=1)
    drag(shown, (80, 80), (110, 130))
    notebook.until("len(pd.strokes)", 1)
    shown.press("help")
    theme = "jupyterapp.commands.execute('apputils:change-theme', {{ theme: 'JupyterLab {}' }})"
    for name in ("Dark", "Light"):
        notebook.page.evaluate(theme.format(name))
        notebook.page.locator(f"body[data-jp-theme-light={'true' if name == 'Light' else 'false'}]").wait_for(
            state="attached"
        )
        notebook.page.wait_for_timeout(300)
        shown.settle()
        assert_accessible(notebook.page, ".spade-kit")
    shown.press("help")


@pytest.mark.parametrize("width", [600, 900, 1600])
def test_nothing_is_cut_off_at_any_width(browser, saved, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(saved[0].as_uri())
    shown = Shown(page)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert shown.root.evaluate(CUT_OFF) == []
    page.close()


def test_nothing_is_cut_off_at_any_width_in_a_notebook(notebook, shown):
    """A notebook adds the list of photos and the cell margins."""
    for width in (600, 900, 1600):
        with resized(shown, width):
            assert shown.root.evaluate(CUT_OFF) == [], width
            assert shown.root.evaluate("root => root.scrollWidth <= root.clientWidth"), width


@pytest.mark.parametrize("width", [700, 1000, 1600])
def test_the_numbers_below_the_map_stand_apart(browser, saved, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(saved[0].as_uri())
    ends = [end.bounding_box() for end in Shown(page).root.locator(".sk-scale .ends > span").all()]
    assert len(ends) == 3
    for left, right in pairwise(ends):
        assert right["x"] - left["x"] - left["width"] > 12
    page.close()


def test_layout_does_not_jump_while_drawing(notebook, shown):
    top = lambda: shown.root.locator(".sk-foot").evaluate("foot => foot.offsetTop")  # noqa: E731
    take(shown, "brush", size=14, strength=1)
    before = top()
    drag(shown, (80, 80), (110, 130))
    notebook.until("len(pd.strokes)", 1)
    shown.settle()
    assert abs(top() - before) <= 1
    shown.hover(shown.map, 200, 7)
    shown.page.wait_for_timeout(200)
    assert abs(top() - before) <= 1


# ---- slow replies: last, since a disconnected page would break other tests -------------------------------------------


def test_drawing_without_a_visible_change_still_gets_replies(notebook, shown):
    """Erasing an unpainted area: later parts of the stroke change nothing."""
    take(shown, "erase", size=10, strength=1)
    drag(shown, (50, 50), (60, 60), hold=True)
    notebook.until("len(pd.strokes)", 1)
    shown.settle()
    shown.page.mouse.move(**shown.at(shown.photo, 140, 150), steps=6)
    shown.page.mouse.up()
    shown.root.locator(":scope[aria-busy=false]").wait_for(timeout=4000)  # before the page counts as disconnected
    last = on_map(strokes_of(notebook)[0].points)[-1]
    assert hypot(last[0] - 140, last[1] - 150) < 3


def test_after_a_slow_reply_everything_works_again(notebook, shown):
    notebook.execute("import time; answer = pd._show")
    notebook.execute("pd._show = lambda: (time.sleep(2), answer())")
    take(shown, "brush", size=8, strength=1)
    with page_hurries(shown.page, status="idle"):
        shown.click(shown.photo, 60, 60)
        shown.root.get_by_role("alert").filter(has_text="No kernel connected").wait_for(timeout=8000)
    assert shown.root.get_by_role("button", name="brush", exact=True).is_disabled()
    shown.root.locator(":scope[data-shown='0 1']").wait_for(timeout=20_000)
    notebook.execute("del pd._show")
    shown.settle()
    assert shown.root.get_by_role("alert").count() == 0
    assert shown.root.get_by_role("button", name="brush", exact=True).is_enabled()
    shown.click(shown.photo, 90, 60)
    notebook.until("len(pd.strokes)", 2)
