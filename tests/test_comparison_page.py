"""Views side by side in a real browser: every control, with the display checked against Python."""

import re

import matplotlib
import numpy as np
import pytest
from browsing import Shown, assert_accessible, lay_out, open_offline, page_hurries, read_canvas, resized, run_beside
from PIL import Image

import spade_kit
from spade_kit.evaluation.metrics import aupro
from spade_kit.options import Options
from spade_kit.widgets._shared.encoding import colour_table

START = """
import spade_kit
parts = spade_kit.load_dataset("demo")
spade = spade_kit.SPADE.load("fitted")
c = spade_kit.compare_layers(spade, parts)
d = spade_kit.compare_layers(spade, parts.test[24], [None, "layer1"])  # gets another fit later
start = c.views
def reset(index):
    c.views, c.scale, c.difference, c.index, c.pinned, c.problem = start, "own", None, index, False, ""
    c.send({"kind": "here"})  # reconnects a page that has given up waiting
    c.finish()
"""
CELLS = (START, "c", "d")
LATE = """
import time
with c._lock:
    time.sleep(1.5)
"""
NAMES = ["layer1", "layer2", "layer3", "all layers"]
SCRATCH, GOOD = 24, 6
MAPS = np.frombuffer(colour_table(), np.uint8).reshape(256, 3).astype(int)
SIGNED = (matplotlib.colormaps["PuOr_r"](np.arange(256))[:, :3] * 255).round().astype(int)
FIGURES = ".sk-compared > figure"


class Compared(Shown):
    """A user's access to the page; the stages are the photo and the views, one of which may show the difference."""

    def view(self, at: int):
        return self.stages.nth(at + 1)

    @property
    def names(self) -> list[str]:
        """The titles of the views."""
        return self.root.locator(f"{FIGURES}:has(.sk-badge) .sk-title").all_inner_texts()

    @property
    def words(self) -> list[str]:
        """The text below each view."""
        return self.root.locator(f"{FIGURES} div.sk-found-here p").all_inner_texts()

    @property
    def answer(self) -> str:
        return self.root.locator(".sk-answer").inner_text()

    @property
    def colours(self):
        """The description of the colour scale."""
        return self.root.locator(".sk-remark", has_text="Colours: ")

    @property
    def place(self) -> str:
        """The text below the photo."""
        return self.root.locator(f"{FIGURES} p.sk-remark").first.inner_text()

    def until_named(self, names: list[str]) -> None:
        """Wait until these views are shown and their reference levels are final."""
        self.until(lambda: self.names, names)
        self.until(lambda: "so far" in self.colours.inner_text(), False)
        self.settle()

    def until_photo(self, index: int) -> None:
        self.root.locator(f":scope[data-shown='{index}']").wait_for(timeout=30_000)
        self.settle()

    def ask_for(self, looks_at: str = "", **typed: str) -> None:
        """Fill in the form for a new view and add it."""
        self.choose("layers", looks_at)
        self.choose("weights", typed.pop("weights", ""))
        for name in ("K", "kappa", "radius"):
            self.root.get_by_label(name, exact=True).fill(typed.pop(name, ""))
        assert not typed
        self.press("add view")


@pytest.fixture
def shown(notebook):
    notebook.execute(f"reset({SCRATCH})")
    shown = Compared(notebook.page)
    notebook.page.mouse.move(0, 0)
    shown.until_photo(SCRATCH)
    shown.until_named(NAMES)
    return shown


@pytest.fixture(scope="module")
def python(spade, demo):
    """The same comparison in Python, without a page."""
    comparison = spade_kit.compare_layers(spade, demo)
    comparison.index = SCRATCH
    comparison.finish()
    return comparison


@pytest.fixture(scope="module")
def levels(left_out):
    """The reference level of each view: the 99th percentile of normal pixels, leave-one-out."""
    return [float(np.percentile(np.stack(maps), 99)) for maps in zip(*map(maps_of, left_out))]


def maps_of(result) -> list[np.ndarray]:
    return [*result.layer_alone.values(), result.anomaly_map]


def place_in(table: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """The index of each pixel's colour in a table of 256."""
    colours, which = np.unique(pixels[..., :3].reshape(-1, 3), axis=0, return_inverse=True)
    return np.abs(colours[:, None].astype(int) - table).sum(-1).argmin(-1)[which].reshape(pixels.shape[:2])


def assert_shows(shown: Compared, stage, values: np.ndarray, end: float, table: np.ndarray = MAPS) -> None:
    """A pane shows these values, 0 the first colour and ``end`` the last, within one of 256."""
    expected = np.clip(values / end * 256, 0, 255).astype(int)
    difference = np.abs(place_in(table, shown.pixels(stage)) - expected)
    assert difference.max() <= 1, f"{difference.max()} colours, at {(difference > 1).mean():.1%} of the pixels"


def assert_says(shown: Compared, python, place: tuple[int, int]) -> None:
    """The text below each view equals Python's match at a pixel."""
    python.probe = place
    told = python.readout()
    assert len(shown.words) == len(told)
    for words, (_, found) in zip(shown.words, told.iterrows()):
        form = r"normal (\d+) \((\d+),\xa0(\d+)\)\ndistance (\d+\.\d\d)\n(\d+\.\d\d) \xd7 reference"
        *match, distance, times = re.fullmatch(form, words).groups()
        assert [int(number) for number in match] == [found.normal, found.row, found.col]
        assert float(distance) == pytest.approx(found.distance, abs=0.0056)  # both are rounded
        assert float(times) == pytest.approx(found["of normal"], abs=0.011)


def assert_patch(shown: Compared, at: int, crop: np.ndarray, place: tuple[int, int]) -> None:
    """The close-up of a view: ten cells of its grid around a pixel of a normal crop; grey outside the crop."""
    side = 10 * 224 // (56, 28, 14, 56)[at]
    rows, cols = (np.floor(middle + 0.5 + side * ((np.arange(120) + 0.5) / 120 - 0.5)).astype(int) for middle in place)
    inside = [(axis >= 0) & (axis < 224) for axis in (rows, cols)]
    expected = np.full((120, 120, 3), 128.0)
    expected[np.ix_(*inside)] = crop[np.ix_(rows[inside[0]], cols[inside[1]])]
    canvas = shown.root.locator(f"{FIGURES} div.sk-found-here canvas").nth(at)
    differs = lambda: np.median(np.abs(read_canvas(canvas)[..., :3] - expected).mean(-1))  # noqa: E731
    shown.until(lambda: differs() < 5, True)  # crops are loaded on first use


# ---- pointing --------------------------------------------------------------------------------------------------------


def test_rings_mark_the_place_in_all_panes_and_texts_equal_pythons(notebook, shown, python):
    shown.press("difference")
    panes = shown.stages.all()
    assert len(panes) == 5  # the photo and four views, one of which shows the difference
    places = [(5, 9), (100, 61), (218, 130), (37, 200), (150, 3)]
    for pane, place in zip(panes, places):
        shown.hover(pane, *place)
        assert [shown.ring(each) for each in panes] == [place] * 5
        assert [shown.ring(each, "pinned") for each in panes] == [None] * 5
        assert_says(shown, python, place)
        assert shown.place == f"probe ({place[0]}, {place[1]})"


def test_screen_readers_hear_the_place_and_every_view(notebook, shown, python):
    shown.hover(shown.view(1), 100, 61)
    shown.root.locator(".sk-live", has_text="(100, 61): layer1 ").wait_for(timeout=2000)
    python.probe = (100, 61)
    heard = shown.root.locator(".sk-live").inner_text().removeprefix("(100, 61): ").split("; ")
    for said, (name, found) in zip(heard, python.readout().iterrows()):
        called, times, normal = re.fullmatch(r"(.+) (\d+\.\d\d) times the reference level, normal (\d+)", said).groups()
        assert (called, int(normal)) == (name, found.normal)
        assert float(times) == pytest.approx(found["of normal"], abs=0.011)


def test_close_ups_show_the_match_of_each_view(notebook, shown, python, spade):
    shown.hover(shown.photo, 60, 160)
    python.probe = (60, 160)
    for at, found in enumerate(python.readout().itertuples()):
        assert_patch(shown, at, spade.normal_image(found.normal), (found.row, found.col))


def test_a_click_pins_a_second_click_and_escape_unpin(notebook, shown, python):
    pin = lambda: [shown.ring(stage, "pinned") for stage in shown.stages.all()]  # noqa: E731
    shown.click(shown.view(2), 40, 50)
    assert pin() == [(40, 50)] * 5
    notebook.until("[c.probe, c.pinned]", [[40, 50], True])
    shown.hover(shown.view(0), 150, 120)  # hovering elsewhere keeps the pin
    assert pin() == [(40, 50)] * 5
    assert shown.ring(shown.view(3)) == (150, 120)
    assert_says(shown, python, (150, 120))
    shown.page.mouse.move(0, 0)
    assert shown.ring(shown.view(3)) is None
    assert_says(shown, python, (40, 50))
    assert shown.place == "probe (40, 50), pinned"
    shown.click(shown.photo, 41, 50)  # the same place, off by one pixel
    assert pin() == [None] * 5
    notebook.until("c.pinned", False)
    shown.click(shown.photo, 90, 20)
    assert pin() == [(90, 20)] * 5
    shown.page.keyboard.press("Escape")
    assert pin() == [None] * 5
    notebook.until("c.pinned", False)


def test_the_hovered_place_stays_when_the_pointer_leaves(notebook, shown):
    shown.hover(shown.view(0), 77, 33)
    shown.page.mouse.move(0, 0)
    assert shown.ring(shown.view(3)) == (77, 33)
    notebook.until("c.probe", [77, 33])


def test_python_moves_the_rings(notebook, shown, python):
    notebook.execute("c.probe = (200, 13)")
    shown.root.locator(".sk-ring.pinned[data-row='200'][data-col='13']").first.wait_for(state="attached")
    assert [shown.ring(stage, "pinned") for stage in shown.stages.all()] == [(200, 13)] * 5
    assert_says(shown, python, (200, 13))


def test_arrow_keys_move_the_place_to_the_border_and_no_further(notebook, shown, python):
    notebook.execute("c.probe = (100, 214); c.pinned = False")
    shown.photo.focus()
    keyboard = shown.page.keyboard
    for keys, place in {
        ("ArrowRight",): (100, 218),
        ("ArrowUp", "ArrowUp"): (92, 218),
        ("Shift+ArrowDown",): (108, 218),
        ("ArrowLeft", "ArrowRight", "ArrowRight", "ArrowRight"): (108, 223),
    }.items():
        for key in keys:
            keyboard.press(key)
        assert [shown.ring(stage) for stage in shown.stages.all()] == [place] * 5
    assert_says(shown, python, (108, 223))
    notebook.until("[c.probe, c.pinned]", [[108, 223], False])
    keyboard.press("Enter")
    assert shown.ring(shown.view(0), "pinned") == (108, 223)
    notebook.until("c.pinned", True)


# ---- photos ----------------------------------------------------------------------------------------------------------


def test_photos_are_picked_by_key_button_and_list(notebook, shown, spade, demo, levels):
    shown.photo.focus()
    shown.page.keyboard.press("]")
    shown.until_photo(SCRATCH + 1)
    shown.press("next photo")
    shown.until_photo(SCRATCH + 2)
    shown.press("previous photo")
    shown.until_photo(SCRATCH + 1)
    shown.page.keyboard.press("[")
    shown.until_photo(SCRATCH)
    shown.choose("photo", "47")
    shown.until_photo(47)
    shown.press("next photo")  # there is none
    shown.settle()
    notebook.until("c.index", 47)
    assert shown.root.get_attribute("data-shown") == "47"
    assert shown.root.locator(f"{FIGURES} .sk-title").first.inner_text() == "wrong_colour/005"
    result = spade.predict(demo.test[47])
    assert np.abs(shown.pixels(shown.photo)[..., :3].astype(int) - result.image).mean() < 4  # a JPEG of it
    for at, (seen, level) in enumerate(zip(maps_of(result), levels)):
        assert_shows(shown, shown.view(at), seen, 2 * level)


def test_the_truth_is_outlined_in_every_view(notebook, shown, result):
    rows, cols = np.nonzero(result.mask)
    for stage in shown.stages.all():
        box = stage.locator(".sk-truth .ink").evaluate(
            "p => { const b = p.getBBox(); return [b.y, b.x, b.height, b.width]; }"
        )
        expected = [rows.min(), cols.min(), np.ptp(rows) + 1, np.ptp(cols) + 1]
        np.testing.assert_allclose(box, expected, atol=1.01)


# ---- colours ---------------------------------------------------------------------------------------------------------


def test_the_colour_scale_follows_its_buttons(notebook, shown, result, levels):
    own, one = (shown.root.get_by_role("button", name=name) for name in ("per view", "shared"))

    def assert_all(ends: list[float]) -> None:
        for at, (seen, end) in enumerate(zip(maps_of(result), ends)):
            assert_shows(shown, shown.view(at), seen, end)

    assert_all([2 * level for level in levels])
    assert [own.get_attribute("aria-pressed"), one.get_attribute("aria-pressed")] == ["true", "false"]
    assert f"({', '.join(f'{2 * level:.1f}' for level in levels)})" in shown.colours.inner_text()
    one.click()
    assert_all([2 * max(levels)] * 4)
    assert [own.get_attribute("aria-pressed"), one.get_attribute("aria-pressed")] == ["false", "true"]
    assert f"0 to {2 * max(levels):.1f} for all views (raw distance)" in shown.colours.inner_text()
    notebook.until("c.scale", "one")
    own.click()
    assert_all([2 * level for level in levels])
    notebook.until("c.scale", "own")


def test_a_difference_is_orange_where_the_first_is_larger_and_violet_elsewhere(notebook, shown, result, levels):
    button, maps = shown.root.get_by_role("button", name="difference"), maps_of(result)
    boxes = [stage.bounding_box() for stage in shown.stages.all()]

    def assert_subtracts(first: int, second: int, units: list[float], end: float) -> None:
        values, stage = maps[first] / units[first] - maps[second] / units[second], shown.view(first)
        assert shown.names[first] == f"{NAMES[first]} - {NAMES[second]}"
        assert_shows(shown, stage, values + end, 2 * end, SIGNED)
        red, _, blue = np.moveaxis(shown.pixels(stage)[..., :3].astype(int), -1, 0)
        clearly = np.abs(values) > end / 25  # in the middle both are white
        assert clearly.mean() > 0.2
        assert units[0] == 1 or len(set((values > 0)[clearly])) == 2
        np.testing.assert_array_equal((red > blue)[clearly], (values > 0)[clearly])
        assert [shown.root.get_by_label(name, exact=True).input_value() for name in ("show", "minus")] == [
            *(str(first), str(second))
        ]
        assert f"Orange: higher in {NAMES[first]}; violet: higher in {NAMES[second]}." in shown.colours.inner_text()
        assert [stage.bounding_box() for stage in shown.stages.all()] == boxes  # nothing moves

    button.click()
    notebook.until("c.difference", [0, 3])
    assert button.get_attribute("aria-pressed") == "true"
    assert_subtracts(0, 3, levels, 1)
    shown.choose("show", "2")
    notebook.until("c.difference", [2, 3])
    assert_subtracts(2, 3, levels, 1)
    shown.choose("minus", "0")
    notebook.until("c.difference", [2, 0])
    assert_subtracts(2, 0, levels, 1)
    shown.press("shared")  # raw distances, up to half the end of the shared scale
    assert_subtracts(2, 0, [1] * 4, max(levels))
    shown.choose("minus", "2")  # a view minus itself would be empty: another view is chosen
    notebook.until("c.difference", [2, 3])
    button.click()
    notebook.until("c.difference", None)
    shown.until(lambda: shown.names, NAMES)
    assert_shows(shown, shown.view(2), maps[2], 2 * max(levels))


def test_long_work_says_how_far_it_is(notebook, shown):
    notebook.execute("plain = c._judge_for_ranking; import time")
    notebook.execute("c._judge_for_ranking = lambda *of: (time.sleep(0.3), plain(*of))[1]")
    try:
        shown.ask_for("", K="1")
        progress = shown.root.locator(".sk-progress")
        shown.until(lambda: "normal photos judged under all layers, K=1: " in progress.inner_text(), True)
        for at in (2, 4):
            shown.until(lambda at=at: progress.inner_text(), f"photos with scratch ranked: {at} of 6")
            assert shown.root.locator(".sk-spinner").is_visible()
        shown.until(progress.inner_text, "")
        assert not shown.root.locator(".sk-spinner").is_visible()
        assert "…" not in shown.root.inner_text()
    finally:
        notebook.execute("del c._judge_for_ranking")


@pytest.mark.parametrize("width", [700, 1000, 1600])
def test_nothing_moves_for_a_difference_or_while_python_works(notebook, shown, width):
    with resized(shown, width):
        before = lay_out(shown.root)
        shown.press("difference")
        shown.until(lambda: "Orange" in shown.colours.inner_text(), True)
        assert lay_out(shown.root) == pytest.approx(before, abs=1)
        notebook.execute("c.waiting = 'normal photos judged under all layers, K=1, kappa=2: 10 of 12'")
        shown.root.locator(".sk-progress", has_text="10 of 12").wait_for()
        assert lay_out(shown.root) == pytest.approx(before, abs=1)
        notebook.execute("c.waiting = ''")


def test_all_views_are_enlarged_together_and_bare_while_h_is_held(notebook, shown):
    windows = lambda: {view.get_attribute("viewBox") for view in shown.root.locator(".sk-stage .marks").all()}  # noqa: E731
    shown.hover(shown.photo, 100, 61)
    shown.photo.focus()
    shown.page.keyboard.press("+")
    shown.page.keyboard.press("+")
    (window,) = windows()
    left, top, width, height = map(float, window.split())
    assert (width, height) == pytest.approx((224 / 1.5**2,) * 2)
    assert ((100.5 - top) / height, (61.5 - left) / width) == pytest.approx((100.5 / 224, 61.5 / 224))  # it stays there
    box = shown.view(0).bounding_box()
    shown.page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.75 * box["height"])
    assert shown.ring(shown.photo) == (int(top + 0.75 * height), int(left + 0.25 * width))
    shown.ask_for("", K="1")
    shown.until_named([*NAMES, "all layers, K=1"])
    assert windows() == {window}  # a new view, too
    box, pinned = shown.view(0).bounding_box(), notebook.ask("(c.probe, c.pinned)")
    shown.page.mouse.dblclick(box["x"] + 50, box["y"] + 50)
    assert windows() == {"0 0 224 224"}
    notebook.until("(c.probe, c.pinned)", pinned)
    shown.photo.focus()
    shown.page.keyboard.down("h")
    assert not shown.root.locator(".marks").first.is_visible()
    shown.page.keyboard.up("h")
    assert shown.root.locator(".marks").first.is_visible()


def test_the_legend_switches_the_ground_truth_and_the_network_is_named(notebook, shown, spade):
    truth = shown.root.locator(".sk-truth")
    assert all(mark.is_visible() for mark in truth.all())
    shown.press("ground truth")
    assert not any(mark.is_visible() for mark in truth.all())
    shown.press("ground truth")
    assert all(mark.is_visible() for mark in truth.all())
    assert "H hides marks" in shown.root.locator(".sk-legend").inner_text()
    assert shown.root.locator(".sk-source").get_attribute("title") == spade.backbone.describe()
    notebook.execute(f"c.index = {GOOD}")
    shown.until_photo(GOOD)
    assert not shown.root.get_by_role("button", name="ground truth").is_visible()


def test_a_view_is_not_added_with_a_number_that_is_none(notebook, shown):
    field = shown.root.get_by_label("K", exact=True)
    field.fill("")
    field.press_sequentially("2,5")
    shown.press("add view")
    assert field.evaluate("field => field.matches(':invalid')")
    assert notebook.ask("len(c.views)") == 4
    field.fill("")


def test_keys_work_after_a_view_is_removed(notebook, shown):
    shown.press("remove view 1")
    shown.until_named(NAMES[1:])
    assert shown.root.evaluate("root => root.contains(document.activeElement)")
    shown.press("remove view 3")  # the last: its button goes with it
    shown.until_named(NAMES[1:3])
    assert shown.root.evaluate("root => root.contains(document.activeElement)")


@pytest.mark.parametrize("width", [700, 1000])
def test_the_keys_named_below_the_photo_stay_together(notebook, shown, width):
    with resized(shown, width):
        lines = shown.root.locator(".sk-legend span").last.evaluate(
            """span => {
                const [range, text] = [document.createRange(), span.firstChild];
                range.setStart(text, text.length - "+ - 0 zoom".length);
                range.setEnd(text, text.length);
                return new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size;
            }"""
        )
        assert lines == 1


def test_views_are_three_in_a_row_on_a_narrow_page(notebook, shown):
    with resized(shown, 700, 1800):
        tops = [round(stage.bounding_box()["y"]) for stage in shown.stages.all()]
        assert [tops.count(top) for top in sorted(set(tops))] == [3, 2]
        assert shown.root.bounding_box()["height"] < 1100


def test_the_views_of_a_difference_can_be_changed_by_keys(notebook, shown):
    shown.press("difference")
    first = shown.root.get_by_label("show", exact=True)
    first.focus()
    shown.page.keyboard.press("ArrowDown")
    notebook.until("c.difference", [1, 3])
    assert first.evaluate("select => select === document.activeElement")
    shown.page.keyboard.press("ArrowDown")
    notebook.until("c.difference", [2, 3])


# ---- adding and removing views ---------------------------------------------------------------------------------------


def test_views_can_be_removed_down_to_two(notebook, shown, result, levels):
    shown.press("difference")
    away = lambda at: shown.root.get_by_role("button", name=f"remove view {at}")  # noqa: E731
    away(2).click()
    shown.until_named(["layer1", "layer3", "all layers"])
    notebook.until("[[view['name'] for view in c.views], c.difference]", [["layer1", "layer3", "all layers"], None])
    assert shown.stages.count() == 4
    away(1).click()
    shown.until_named(["layer3", "all layers"])
    assert [away(1).is_disabled(), away(2).is_disabled(), away(3).count()] == [True, True, 0]
    for at in (0, 1):
        assert_shows(shown, shown.view(at), maps_of(result)[at + 2], 2 * levels[at + 2])


@pytest.mark.parametrize(
    ("looks_at", "typed", "name", "options"),
    [
        ("", {"K": "2", "kappa": "3"}, "all layers, K=2, kappa 3", {"k": 2, "kappa": 3}),
        (
            *("layer1,layer3", {"radius": "4", "weights": "equal"}, "layer1 + layer3, radius 4, weights equal"),
            {"radius": 4, "weights": "equal"},
        ),
        ("layer2", {"radius": "0"}, "layer2, radius 0", {"radius": 0}),
    ],
)
def test_a_view_can_be_added_with_every_option(notebook, shown, spade, scratched, looks_at, typed, name, options):
    shown.ask_for(looks_at, **typed)
    shown.until_named([*NAMES, name])
    if looks_at == "layer1,layer3":
        weights = dict(zip(NAMES[:3], spade.gallery.factors(Options(weights="equal"), np.arange(12)).tolist()))
        options = options | {"weights": weights | {"layer2": 0}}
    asked = spade.with_options(**options)
    see = lambda result: result.layer_alone["layer2"] if looks_at == "layer2" else result.anomaly_map  # noqa: E731
    level = np.percentile(np.stack([see(asked.predict_left_out(index)) for index in range(12)]), 99)
    assert_shows(shown, shown.view(4), see(asked.predict(scratched)), 2 * level)
    shown.hover(shown.photo, 60, 60)
    for _ in range(40):  # a busy machine draws later
        if shown.ring(shown.view(4)) == (60, 60):
            break
        shown.page.wait_for_timeout(50)
    assert shown.ring(shown.view(4)) == (60, 60)


def test_weights_can_be_none(notebook, shown):
    shown.ask_for("", weights="none")
    notebook.until("c.views[-1]", {"base": 0, "layers": None, "weights": None, "name": "all layers, weights none"})


def test_every_combination_of_layers_is_offered(notebook, shown):
    offered = shown.root.get_by_label("layers", exact=True).locator("option").all_inner_texts()
    pairs = ["layer1 + layer2", "layer1 + layer3", "layer2 + layer3"]
    assert offered[0] == "all layers"
    assert sorted(offered[1:4]) == NAMES[:3]
    assert sorted(offered[4:]) == pairs


def test_there_are_at_most_eight_views(notebook, shown):
    add = shown.root.get_by_role("button", name="add view")
    full = shown.root.get_by_text("At most 8 views fit: remove one first.")
    for k in (1, 2, 3, 4):
        assert not full.is_visible()
        shown.ask_for("", K=f"{k}")
        shown.until_named([*NAMES, *(f"all layers, K={used}" for used in range(1, k + 1))])
    assert add.is_disabled()
    assert full.is_visible()
    shown.hover(shown.view(5), 100, 61)
    assert [shown.ring(stage) for stage in shown.stages.all()] == [(100, 61)] * 9
    shown.root.get_by_role("button", name="remove view 5").click()
    shown.until_named([*NAMES, *(f"all layers, K={used}" for used in (2, 3, 4))])
    assert add.is_enabled()
    assert not full.is_visible()


def test_an_invalid_view_shows_an_error_and_changes_nothing(notebook, shown):
    alert = shown.root.get_by_role("alert")
    shown.ask_for("", K="0")
    alert.get_by_text("k must be a whole number of at least 1; got 0.").wait_for(timeout=5000)
    shown.settle()
    assert shown.names == NAMES
    assert notebook.ask("len(c.views)") == 4
    shown.ask_for("layer1", weights="equal")
    alert.get_by_text("weights applies to several layers, but this view uses layer1 alone.").wait_for(timeout=5000)
    shown.press("close this message")
    assert alert.count() == 0
    notebook.until("c.problem", "")
    shown.ask_for("", K="0")
    alert.get_by_text("k must be").wait_for(timeout=5000)
    shown.ask_for("", K="4")
    shown.until_named([*NAMES, "all layers, K=4"])
    assert alert.count() == 0


def test_a_repeated_error_is_shown_again(notebook, shown):
    alert = shown.root.get_by_role("alert").get_by_text("k must be a whole number of at least 1; got 0.")
    for _ in range(2):
        shown.ask_for("", K="0")
        alert.wait_for(timeout=4000)
        shown.root.locator(":scope[aria-busy=false]").wait_for(timeout=1000)
        assert shown.root.get_by_role("button", name="add view").is_enabled()


def test_a_disconnected_page_takes_back_what_it_asked_for_and_reconnects_when_python_replies(notebook, shown):
    with page_hurries(shown.page, status="idle"):
        run_beside(shown.page, LATE)
        shown.press("next photo")
        alert = shown.root.get_by_role("alert").get_by_text("No kernel connected")
        alert.wait_for(timeout=5000)
        assert shown.root.get_by_role("button", name="next photo").is_disabled()
    shown.until(alert.count, 0)
    notebook.until("c.index", SCRATCH)  # what no reply came to was taken back
    shown.until_photo(SCRATCH)
    assert shown.root.get_by_label("photo", exact=True).input_value() == f"{SCRATCH}"
    assert shown.root.get_by_role("button", name="next photo").is_enabled()


def test_another_fit_set_by_python_can_be_used(notebook):
    notebook.execute("d.views = [None, spade_kit.SPADE(k=2).fit(parts.train[20:22])]; d.finish()")
    shown = Compared(notebook.page, 1)
    shown.until_named(["all layers, fit 1", "all layers, fit 2"])
    fits = shown.root.get_by_label("fit", exact=True).locator("option").all_inner_texts()
    assert fits == ["efficientnet_lite0, 12 normal photos", "efficientnet_lite0, 2 normal photos"]
    shown.choose("fit", "1")
    shown.ask_for("layer2")
    shown.until_named(["all layers, fit 1", "all layers, fit 2", "layer2, fit 2"])


# ---- ranking ---------------------------------------------------------------------------------------------------------


def test_badges_and_a_sentence_rank_the_views(notebook, shown, spade, demo, result):
    results = [spade.predict(sample) for sample in demo.test if sample.label == "scratch"]
    masks = np.stack([one.mask for one in results])
    here = [aupro(seen[None], result.mask[None]) for seen in maps_of(result)]
    over = [aupro(np.stack(maps), masks) for maps in zip(*map(maps_of, results))]
    badges = [badge.split(" · AUPRO ") for badge in shown.root.locator(f"{FIGURES} .sk-badge").all_inner_texts()]
    assert [float(score) for _, score in badges] == pytest.approx(here, abs=6e-4)
    order = np.argsort(here)[::-1]
    assert [badges[at][0] for at in order] == ["1st", "2nd", "3rd", "4th"]
    best = shown.root.locator(f"{FIGURES}.best .sk-title").all_inner_texts()
    assert best == [NAMES[order[0]]]
    shown.until(lambda: "Over 6 photos with scratch: " in shown.answer, True)
    told, more = (
        shown.answer.removeprefix("Best view of this scratch: ").rstrip(".").split(". Over 6 photos with scratch: ")
    )
    told = [re.fullmatch(r"(.+) \(AUPRO (\d\.\d{3})\)", one).groups() for one in told.split(", then ")]
    more = [re.fullmatch(r"(.+) (\d\.\d{3})", one).groups() for one in more.split(", ")]
    for said, scores in ((told, here), (more, over)):
        assert [name for name, _ in said] == [NAMES[at] for at in np.argsort(scores)[::-1]]
        assert [float(score) for _, score in said] == pytest.approx(sorted(scores)[::-1], abs=6e-4)


def test_on_a_good_photo_nothing_is_ranked(notebook, shown):
    notebook.execute(f"c.index = {GOOD}")
    shown.until_photo(GOOD)
    assert shown.answer == "Good photo without a defect, so views are not ranked."
    assert shown.root.locator(f"{FIGURES} .sk-badge").all_inner_texts() == [""] * 4
    assert shown.root.locator(f"{FIGURES}.best").count() == 0
    assert shown.photo.locator(".sk-truth .ink").get_attribute("d") == ""


# ---- export ----------------------------------------------------------------------------------------------------------


def test_a_picture_for_slides_and_a_page_can_be_downloaded(notebook, shown, tmp_path):
    with shown.page.expect_download() as png:
        shown.press("PNG")
    assert png.value.suggested_filename == "scratch-000-compared.png"
    png.value.save_as(tmp_path / "slide.png")
    with Image.open(tmp_path / "slide.png") as slide:
        assert slide.width > 1000
    with shown.page.expect_download() as page:
        shown.press("save page")
    assert page.value.suggested_filename == "scratch-000-compared.html"
    page.value.save_as(tmp_path / "page.html")
    assert "<title>scratch/000, compared</title>" in (tmp_path / "page.html").read_text()


@pytest.fixture(scope="module")
def saved(python, tmp_path_factory):
    python.pinned = False
    path = tmp_path_factory.mktemp("saved") / "compared.html"
    python.save_html(path)
    return path


@pytest.fixture(scope="module")
def crowded(spade, scratched, tmp_path_factory):
    """The fullest page: six views with long names and a difference, some levels still estimated."""
    layers = ("layer1", ("layer1", "layer2"), ("layer2", "layer3"), None)
    more = [{"kappa": 3, "radius": 12, "weights": "equal", "combine": "ensemble"}, {"name": "without_a_place_to_break"}]
    comparison = spade_kit.compare_layers(spade, scratched, [*layers, *more])
    comparison.difference, comparison.scale, comparison.probe = (1, 2), "one", (100, 61)
    path = tmp_path_factory.mktemp("saved") / "crowded.html"
    comparison.save_html(path)
    return path


@pytest.fixture(scope="module")
def blocks(demo, tmp_path_factory):
    """Six blocks of a vision transformer, and all of them together."""
    layers = [f"blocks.{at}" for at in range(1, 12, 2)]
    net = spade_kit.load_backbone("vit_small_patch14_dinov2.lvd142m", pretrained=False, layers=layers)
    comparison = spade_kit.compare_layers(spade_kit.SPADE(net, k=2).fit(demo.train[:3]), demo.test[SCRATCH])
    assert list(comparison.maps) == [*layers, "all layers"]
    path = tmp_path_factory.mktemp("saved") / "blocks.html"
    comparison.save_html(path)
    return path


@pytest.fixture
def offline(browser, saved):
    """The saved page without a network, and its requests."""
    with open_offline(browser, saved) as page:
        yield page


def test_a_saved_page_works_offline(offline, python, result, levels):
    shown = Compared(offline)
    assert shown.names == NAMES
    for stage, place in zip(shown.stages.all(), [(30, 200), (100, 61), (218, 130), (112, 112), (7, 7)]):
        shown.hover(stage, *place)
        assert [shown.ring(each) for each in shown.stages.all()] == [place] * 5
        assert_says(shown, python, place)
    shown.click(shown.view(1), 30, 40)
    shown.page.mouse.move(0, 0)
    assert [shown.ring(each, "pinned") for each in shown.stages.all()] == [(30, 40)] * 5
    assert_says(shown, python, (30, 40))
    shown.page.keyboard.press("ArrowDown")
    assert shown.ring(shown.photo, "pinned") == (34, 40)
    shown.page.keyboard.press("Escape")
    assert shown.ring(shown.photo, "pinned") is None
    maps = maps_of(result)
    for at, (seen, level) in enumerate(zip(maps, levels)):
        assert_shows(shown, shown.view(at), seen, 2 * level)
    shown.press("shared")
    assert_shows(shown, shown.view(0), maps[0], 2 * max(levels))
    shown.press("per view")
    shown.press("difference")
    shown.choose("minus", "1")
    values = maps[0] / levels[0] - maps[1] / levels[1]
    assert_shows(shown, shown.view(0), values + 1, 2, SIGNED)
    assert "Best view of this scratch: " in shown.answer
    assert "Over 6 photos with scratch: " in shown.answer
    for name in ("add view", "remove view 1", "save page", "PNG"):
        assert shown.root.get_by_role("button", name=name, exact=True).is_disabled()
    shown.page.keyboard.press("]")  # there is no other photo
    shown.settle()
    assert shown.root.get_attribute("data-shown") == f"{SCRATCH}"
    assert shown.root.get_by_role("alert").count() == 0


def test_a_saved_page_shows_the_normal_pixels_too(offline, python, spade):
    shown = Compared(offline)
    shown.hover(shown.photo, 60, 160)
    python.probe = (60, 160)
    for at, found in enumerate(python.readout().itertuples()):
        assert_patch(shown, at, spade.normal_image(found.normal), (found.row, found.col))


def test_a_saved_page_opens_in_its_saved_state(browser, crowded, spade, scratched):
    page = browser.new_page()
    page.goto(crowded.as_uri())
    shown = Compared(page)
    assert shown.stages.count() == 7
    assert [shown.ring(each, "pinned") for each in shown.stages.all()] == [(100, 61)] * 7
    pressed = shown.root.locator("button[aria-pressed=true]").all_inner_texts()
    assert pressed == ["shared", "difference", "ground truth"]
    assert [shown.root.get_by_label(name, exact=True).input_value() for name in ("show", "minus")] == ["1", "2"]
    first, second = (spade.with_options(weights={layer: 0}).predict(scratched) for layer in ("layer3", "layer1"))
    values = first.anomaly_map - second.anomaly_map
    end = float(re.search(r"±(\d+\.\d) raw", shown.colours.inner_text())[1])
    red, _, blue = np.moveaxis(shown.pixels(shown.view(1))[..., :3].astype(int), -1, 0)
    clearly = np.abs(values) > end / 25
    assert (values > 0)[clearly].any()
    assert (values < 0)[clearly].any()
    np.testing.assert_array_equal((red > blue)[clearly], (values > 0)[clearly])
    page.close()


def test_a_saved_page_does_not_announce_pending_work(browser, crowded):
    page = browser.new_page()
    page.goto(crowded.as_uri())
    assert "so far" not in Compared(page).colours.inner_text()
    page.close()


# ---- accessibility and layout ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_there_are_no_serious_accessibility_violations(browser, saved, scheme):
    page = browser.new_page(color_scheme=scheme)
    page.goto(saved.as_uri())
    shown = Compared(page)
    shown.press("help")
    shown.press("difference")
    shown.click(shown.view(0), 100, 61)
    assert_accessible(page)
    page.close()


def test_there_are_no_serious_accessibility_violations_in_both_jupyterlab_themes(notebook, shown):
    shown.press("difference")
    shown.ask_for("", K="0")
    shown.root.get_by_role("alert").wait_for()
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        notebook.page.evaluate(f"jupyterapp.commands.execute('apputils:change-theme', {{ theme: '{theme}' }})")
        notebook.page.wait_for_timeout(800)
        assert_accessible(notebook.page, ".spade-kit")


@pytest.mark.parametrize(
    ("saved_as", "width"), [("crowded", 600), ("crowded", 900), ("crowded", 1600), ("blocks", 1000)]
)
def test_nothing_is_cut_off_at_any_width(request, browser, saved_as, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(request.getfixturevalue(saved_as).as_uri())
    shown = Compared(page)
    shown.press("help")
    shown.hover(shown.view(4), 100, 61)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    beyond = shown.root.evaluate(
        """root => [...root.querySelectorAll('button, label, figcaption, p, span, input, select')].filter(node => {
            const around = node.closest('figure') ?? root;
            const [inner, outer] = [node.getBoundingClientRect(), around.getBoundingClientRect()];
            const out = inner.right > outer.right + 1 || inner.left < outer.left - 1 || inner.bottom > outer.bottom + 1;
            const fits = node.scrollWidth <= node.clientWidth + 1 || getComputedStyle(node).display === 'inline';
            return inner.width && (out || !fits);
        }).map(node => node.outerHTML.slice(0, 120))"""
    )
    assert beyond == []
    sides = [stage.bounding_box() for stage in shown.stages.all()]
    for box, patch in zip(sides[1:], shown.root.locator("div.sk-found-here canvas").all()):
        assert patch.bounding_box()["y"] >= box["y"] + box["height"] + 4  # below the outline of the best view
    assert min(box["width"] for box in sides) > 120  # large enough to be useful
    assert width == 600 or len({box["y"] for box in sides[:5]}) == 1  # as many in a row as with fewer views
    caption = [shown.root.locator(f"figure .sk-{part}").first.bounding_box()["y"] for part in ("title", "remark")]
    assert caption == sorted(caption)
    assert max(abs(box["width"] - box["height"]) for box in sides) < 1
    page.close()
