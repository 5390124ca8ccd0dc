"""The explorer in a real browser: every control, with the display checked against Python."""

import json
import re
from base64 import b64encode
from fractions import Fraction

import numpy as np
import pytest
from browsing import INSIDE, RUN_ALL, Notebook, Shown, read_canvas, resized, run_beside
from PIL import Image

from spade_kit.scores import make_map
from spade_kit.widgets._shared.encoding import colour_table

START = """
import spade_kit
parts = spade_kit.load_dataset("demo")
spade = spade_kit.SPADE.load("fitted")
ex = spade_kit.explore(spade, parts)
def reset(index=0):
    for name, value in ex.about["start"].items():
        setattr(ex, name, value)
    ex.index, ex.roi, ex.beside, ex.pinned, ex.alone = index, None, None, False, False
    ex.ratio, ex.compact = False, False
    ex.finish()
"""
CELLS = (START, "ex")
PHOTOS = (2, 19, 26)  # a chip, a misplaced part, a scratch
COLOURS = np.frombuffer(colour_table(), np.uint8).reshape(256, 3).astype(int)


@pytest.fixture
def shown(notebook):
    notebook.execute("reset()")
    shown = Shown(notebook.page)
    notebook.page.mouse.move(0, 0)
    shown.settle()
    return shown


def grey(values: np.ndarray, end: float) -> np.ndarray:
    """The index of a distance among the 256 colours."""
    return np.clip(values / end * 256, 0, 255).astype(int)


def grey_of(pixels: np.ndarray) -> np.ndarray:
    """The index of each pixel's colour among the 256 colours."""
    colours, which = np.unique(pixels[..., :3].reshape(-1, 3), axis=0, return_inverse=True)
    return np.abs(colours[:, None].astype(int) - COLOURS).sum(-1).argmin(-1)[which].reshape(pixels.shape[:2])


def in_order(value):
    """The items of a mapping in order; other values unchanged."""
    return list(value.items()) if isinstance(value, dict) else value


def assert_shows_layers(shown: Shown, maps, notebook) -> None:
    """The panes of the layers show these distances, each up to twice its own reference level."""
    notebook.execute("ex.finish()")
    levels, whole = notebook.ask("[ex.layer_levels['levels'], ex.normals['level']]")
    ends = ", ".join(f"{2 * level:.{1 if 2 * level >= 10 else 2}f}" for level in levels)
    shown.root.locator(".sk-row", has_text=f"reference level: {ends}").wait_for(timeout=5000)
    for stage, values, level in zip(shown.layers, maps, levels):
        assert_shows(shown, stage, values, notebook, 2 * level / whole)


def assert_shows(shown: Shown, stage, values: np.ndarray, notebook, end: float = 2) -> None:
    """A pane shows these distances, within one of 256 grey levels, once the reference level is final.

    The colours end at ``end`` times the reference level.
    """
    notebook.execute("ex.finish()")
    shown.settle()
    end *= notebook.ask("ex.normals['level']")
    near = COLOURS[np.clip(grey(values, end)[..., None] + [-1, 0, 1], 0, 255)]
    differs = (near != shown.pixels(stage)[..., None, :3]).any(-1).all(-1)
    assert not differs.any(), f"another colour at {differs.mean():.1%} of the pixels"


# ---- pointing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", PHOTOS)
def test_the_rings_are_where_the_match_is(notebook, shown, spade, demo, index):
    notebook.execute(f"ex.index = {index}")
    shown.settle()
    result = spade.predict(demo.test[index])
    for place, stage in zip([(5, 9), (100, 61), (218, 130)], (shown.photo, shown.map, shown.layers[1])):
        shown.hover(stage, *place)
        match = result.match(*place)
        for view in (shown.photo, shown.map, *shown.layers):
            assert shown.ring(view) == place
        assert shown.ring(shown.normal) == (match.row, match.col)
        figure = shown.root.locator("figure", has=shown.page.locator("[aria-label^='Normal photo that explains']"))
        assert f"Normal {match.image}neighbour {match.neighbour + 1} of 5" in figure.inner_text().replace("\n", "")
        said = f"({place[0]}, {place[1]}) → normal {match.image}, neighbour {match.neighbour + 1}, "
        said += f"({match.row}, {match.col}), distance {match.distance:.3f}: layer1 "
        shown.root.locator(".sk-live", has_text=said).wait_for(timeout=2000)
        shares = [round(100 * part / match.distance) for part in match.layers.values()]
        heard = shown.root.locator(".sk-live").inner_text()
        assert heard.endswith(", ".join(f"layer{layer} {share} %" for layer, share in enumerate(shares, 1)))


def test_a_click_pins_hovering_compares_a_second_place_and_escape_unpins(notebook, shown, spade, demo):
    shown.click(shown.photo, 40, 50)
    shown.hover(shown.map, 150, 120)
    assert shown.ring(shown.layers[0], "pinned") == (40, 50)
    assert shown.ring(shown.layers[0]) == (150, 120)
    headings = shown.root.locator(".sk-readout thead th").all_inner_texts()
    assert headings == ["pinned", "hover"]
    notebook.until("[ex.probe, ex.pinned]", [[40, 50], True])
    places = shown.root.locator(".sk-readout tbody tr").first.locator("td").all_inner_texts()
    assert places == ["(40, 50)", "(150, 120)"]
    smoothed = shown.root.locator(".sk-readout tr", has_text="map value").locator("td").all_inner_texts()
    for said, place in zip(smoothed, [(40, 50), (150, 120)]):
        assert float(said) == pytest.approx(spade.predict(demo.test[0]).anomaly_map[place], abs=2e-3)
    shown.photo.focus()
    shown.page.keyboard.press("Escape")
    assert shown.ring(shown.photo, "pinned") is None
    notebook.until("ex.pinned", False)


def test_a_second_click_the_button_and_escape_unpin_wherever_the_click_was(notebook, shown):
    pin = lambda: shown.ring(shown.photo, "pinned")  # noqa: E731
    shown.click(shown.layers[1], 40, 50)
    assert pin() == (40, 50)
    shown.page.keyboard.press("Escape")
    assert pin() is None
    shown.click(shown.map, 60, 50)
    shown.click(shown.map, 60, 50)
    assert pin() is None
    shown.click(shown.map, 60, 50)
    shown.press("unpin")
    assert pin() is None
    notebook.until("ex.pinned", False)
    shown.root.locator(".sk-heading").first.click()  # on a non-focusable element
    shown.page.keyboard.press("]")
    shown.settle()
    notebook.until("ex.index", 1)


def test_the_distances_of_the_pinned_pixel_tell_how_unique_its_match_is(notebook, shown, spade, demo):
    result = spade.predict(demo.test[0])
    told = shown.root.locator(".sk-near [role=status]")
    shown.press("distances")
    assert told.inner_text() == "pin a pixel"
    for place in [(100, 61), (30, 180)]:
        shown.click(shown.photo, *place)
        match = result.match(*place)
        distances = result.distances_from(*place)[match.neighbour]
        near = np.unravel_index(distances.argmin(), distances.shape)
        rows, cols = np.indices(distances.shape)
        far = np.where(np.maximum(abs(rows - near[0]), abs(cols - near[1])) > 5.6, distances, np.inf)
        second = np.unravel_index(far.argmin(), far.shape)
        at = [f"({4 * row + 2}, {4 * col + 2})" for row, col in (near, second)]
        ratio = f"{distances.min() / far.min():.2f}"
        expected = f"at {at[0]}; next ✕ {far.min():.1f} at {at[1]}: ratio {ratio}"
        shown.root.locator(".sk-near", has_text=expected).wait_for(timeout=5000)
        assert shown.normal.locator(".sk-runner").get_attribute("data-row") == str(4 * second[0] + 2)
        drawn = grey_of(shown.pixels(shown.normal, "over"))[
            2::4, 2::4
        ]  # a corner of four pixels lies at the cell's centre
        between = make_map(distances, (224, 224), 0)[2::4, 2::4]
        ends = float(distances.min()), float(distances.max())  # the scale is that of the pixel
        assert np.abs(drawn - grey(between - ends[0], ends[1] - ends[0])).max() <= 2
        assert shown.root.locator(".sk-near .scale").inner_text().split() == [f"{end:.1f}" for end in ends]
        shown.hover(shown.photo, 150, 150)  # what is shown of the pinned pixel stays
        assert shown.ring(shown.normal, "pinned") == (match.row, match.col)
    other = shown.root.get_by_label("retrieved normal photos").locator(".sk-card").nth((match.neighbour + 1) % 5)
    other.click()
    lowest = result.distances_from(30, 180)[(match.neighbour + 1) % 5].min()
    shown.root.locator(".sk-near", has_text=f"nearest {lowest:.1f} at").wait_for(timeout=5000)
    shown.page.keyboard.press("Escape")
    shown.root.locator(".sk-near", has_text="pin a pixel").wait_for(timeout=5000)
    assert shown.normal.locator(".sk-runner").get_attribute("visibility") == "hidden"
    shown.page.keyboard.press("Escape")  # deselects the neighbour
    shown.press("distances")


@pytest.fixture
def asked(notebook, shown):
    """An expression for the places whose distances the page has asked for, while they are switched on."""
    notebook.execute("asked, send = [], ex.send; ex.send = lambda told, *of: (asked.append(told), send(told, *of))")
    shown.press("distances")
    places = "[[one['row'], one['col']] for one in asked if one['kind'] == 'distances']"
    shown.hover(shown.photo, 10, 10)
    notebook.until(f"{places}[-1:]", [[10, 10]])
    shown.page.wait_for_timeout(300)  # the reply is on its way
    notebook.execute("asked.clear()")
    yield places
    notebook.execute("ex.send = send")
    shown.press("distances")


def test_the_distances_of_the_cell_under_the_pointer_are_there_when_it_is_pinned(notebook, shown, spade, demo, asked):
    shown.hover(shown.photo, 100, 61)
    notebook.until(asked, [[102, 62]])
    shown.page.wait_for_timeout(300)  # the reply is on its way
    shown.click(shown.photo, 101, 63)  # another pixel of this cell
    match = spade.predict(demo.test[0]).match(100, 61)
    told = f"nearest {match.distance:.1f} at ({match.row}, {match.col})"
    shown.root.locator(".sk-near", has_text=told).wait_for(timeout=2000)
    assert notebook.ask(asked) == [[102, 62]]  # not asked again


def test_distances_of_cells_are_asked_for_one_at_a_time(notebook, shown, asked, tmp_path):
    end = tmp_path / "end"
    run_beside(
        shown.page, f"import os, time\nwith ex._lock:\n while not os.path.exists({str(end)!r}): time.sleep(0.05)"
    )
    for row in (20, 60, 100, 140):
        shown.hover(shown.photo, row, 61)
        shown.page.wait_for_timeout(150)
    end.touch()
    notebook.until(asked, [[22, 62], [142, 62]])


def test_the_ratio_map_shows_how_ambiguous_matches_are_and_says_how_far_it_is(notebook, shown, spade, demo):
    result = spade.predict(demo.test[0])
    notebook.execute("import time; from spade_kit import result; plain = result.find_ratios")
    notebook.execute("result.find_ratios = lambda *of: (time.sleep(0.3), plain(*of))[1]")
    ends = shown.root.locator(".sk-bar .ends")
    try:
        shown.press("ratio")
        told = re.compile(r"^ratios of distances: [\d,]+ of 3,136 cells$")
        shown.root.locator(".sk-progress", has_text=told).wait_for(timeout=10_000)
        assert told.match(shown.root.locator(".sk-remark").nth(1).inner_text())
        assert shown.root.locator(".sk-spinner").evaluate("node => getComputedStyle(node).visibility") == "visible"
        shown.root.locator(".sk-bar .ends", has_text="1: others as near").wait_for(timeout=20_000)
    finally:
        notebook.execute("result.find_ratios = plain")
    assert ends.inner_text().split("\n") == ["0: no other place", "1: others as near"]
    between = make_map(result.ratio_map, (224, 224), 0)[2::4, 2::4]
    assert np.abs(grey_of(shown.pixels(shown.map))[2::4, 2::4] - grey(between, 1)).max() <= 2
    shown.hover(shown.photo, 102, 61)
    row = shown.root.locator(".sk-readout tr", has=shown.page.get_by_role("rowheader", name="ratio", exact=True))
    assert row.locator("td").inner_text() == f"{result.ratio_map[25, 15]:.2f}"
    shown.press("excess")
    notebook.until("(ex.ratio, ex.judged)", [False, "excess"])
    shown.press("map")
    shown.root.locator(".sk-title", has_text="Anomaly map ≥").wait_for(timeout=5000)
    assert ends.inner_text().startswith("0\n")


def test_a_second_photo_is_shown_on_the_same_scale_and_pointed_at_in_the_same_place(notebook, shown, spade, demo):
    first, second = (spade.predict(demo.test[index]) for index in (0, 26))
    shown.choose("beside", "26")
    shown.root.locator(":scope.beside").wait_for(timeout=5000)
    shown.settle()
    assert notebook.ask("ex.beside") == 26
    photo, map_, normal = (shown.stages.nth(at) for at in (3, 4, 5))
    level = notebook.ask("ex.normals['level']")
    assert np.abs(grey_of(shown.pixels(map_)) - grey(second.anomaly_map, 2 * level)).max() <= 2
    assert np.abs(grey_of(shown.pixels(shown.map)) - grey(first.anomaly_map, 2 * level)).max() <= 2
    assert not np.array_equal(shown.pixels(photo), shown.pixels(shown.photo))
    outline = map_.locator(".sk-found path.ink").evaluate(INSIDE)
    np.testing.assert_array_equal(np.reshape(outline, (224, 224)), second.segmentation(notebook.ask("ex.threshold")))
    for pane, place in ((shown.photo, (60, 50)), (map_, (151, 173))):
        shown.hover(pane, *place)
        one, other = first.match(*place), second.match(*place)
        assert shown.ring(shown.map) == shown.ring(photo) == place
        assert shown.ring(shown.normal) == (one.row, one.col)
        assert shown.ring(normal) == (other.row, other.col)
        assert shown.root.locator("figcaption", has=shown.page.locator(f"text='Normal {other.image}'")).count() >= 1
    head = shown.root.locator(".sk-readout thead").inner_text().split()
    assert head == [f"{sample.label}/{sample.path.stem}" for sample in (demo.test[0], demo.test[26])]
    cells = shown.root.locator(".sk-readout tr", has_text="distance").locator("td").all_inner_texts()
    assert cells == [f"{match.distance:.3f}" for match in (one, other)]
    shown.slide("K", 2)
    assert np.abs(grey_of(shown.pixels(map_)) - grey(second.with_k(2).anomaly_map, 2 * level)).max() <= 3
    notebook.execute("ex.k = 5; ex.judged = 'excess'; ex.finish()")
    shown.root.locator(".sk-title", has_text=re.compile("^Excess$")).wait_for(timeout=10_000)
    level = notebook.ask("ex.normals['level']")
    assert np.abs(grey_of(shown.pixels(map_)) - grey(second.excess_map, 2 * level)).max() <= 2
    shown.choose("beside", "")
    shown.root.locator(":scope:not(.beside)").wait_for(timeout=5000)
    notebook.until("ex.beside", None)


def test_a_second_photo_is_picked_by_key_and_in_the_strip(notebook, shown):
    strip = shown.root.get_by_label("photos", exact=True)
    shown.photo.focus()
    shown.page.keyboard.press("b")
    notebook.until("ex.beside", 0)
    shown.page.keyboard.press("]")
    shown.settle()
    assert notebook.ask("(ex.index, ex.beside)") == [1, 0]
    assert "second" in strip.locator("[data-key='0']").get_attribute("class")
    shown.page.keyboard.press("b")
    notebook.until("ex.beside", None)
    strip.locator("[data-key='2']").click(modifiers=["Shift"])
    notebook.until("(ex.index, ex.beside)", [1, 2])
    shown.settle()
    shown.page.keyboard.press("b")
    notebook.until("ex.beside", None)
    strip.locator("[data-key='3']").focus()
    shown.page.keyboard.press("b")
    notebook.until("(ex.index, ex.beside)", [1, 3])


def test_a_click_pins_the_hovered_place(notebook, shown):
    """The pointer moves by fractions of a screen pixel, but clicks have whole ones."""
    shown.photo.scroll_into_view_if_needed()
    for part in (0.311, 0.4372, 0.5391):
        box = shown.photo.bounding_box()
        shown.page.mouse.move(box["x"] + part * box["width"], box["y"] + part * box["height"])
        pointed = shown.ring(shown.photo)
        shown.page.mouse.down()
        shown.page.mouse.up()
        assert shown.ring(shown.photo, "pinned") == pointed


def test_the_hovered_place_stays_when_the_pointer_leaves(notebook, shown):
    shown.hover(shown.photo, 77, 33)
    shown.page.mouse.move(0, 0)
    assert shown.ring(shown.photo) == (77, 33)
    notebook.until("ex.probe", [77, 33])


def test_the_patches_show_the_place_and_its_match(notebook, shown, spade, demo):
    shown.hover(shown.photo, 120, 100)
    match = spade.predict(demo.test[0]).match(120, 100)
    pictures = (demo.test[0].image, (120, 100)), (spade.normal_image(match.image), (match.row, match.col))
    shown.page.wait_for_timeout(300)  # the full normal crop is loaded on first use
    for canvas, (picture, (row, col)) in zip(shown.root.locator(".sk-patches canvas").all(), pictures):
        drawn = read_canvas(canvas)[..., :3].astype(float)
        if picture.shape[0] != 224:
            picture = spade.backbone.find_crop(picture).cut(picture)
        expected = picture[row - 15 : row + 16, col - 15 : col + 16].mean((0, 1))
        assert np.abs(drawn[6:-6, 6:-6].mean((0, 1)) - expected).max() < 12


# ---- parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", PHOTOS)
def test_the_map_equals_pythons_for_every_k_sigma_and_scale(notebook, shown, spade, demo, index):
    notebook.execute(f"ex.index = {index}")
    shown.settle()
    result = spade.predict(demo.test[index])
    assert_shows(shown, shown.map, result.anomaly_map, notebook)
    for k in (3, 1):
        shown.slide("K", k)
        fewer = result.with_k(k)
        assert_shows(shown, shown.map, fewer.anomaly_map, notebook)
        assert_shows_layers(shown, fewer.layer_maps.values(), notebook)
        assert f"score {fewer.image_score:.2f}" in shown.root.locator(".sk-score").inner_text()
    notebook.until("ex.k", 1)
    assert notebook.ask("[ex.k, ex.result.image_score]") == [1, pytest.approx(fewer.image_score, rel=1e-5)]
    shown.slide("sigma", 1.5)
    assert_shows(shown, shown.map, fewer.with_options(sigma=1.5).anomaly_map, notebook)
    shown.slide("sigma", 0)
    assert_shows(shown, shown.map, fewer.with_options(sigma=0).anomaly_map, notebook)


def test_k_can_be_raised_above_that_of_the_fit(notebook, shown, spade, demo):
    shown.slide("K", 11)
    assert_shows(shown, shown.map, spade.with_options(k=11).predict(demo.test[0]).anomaly_map, notebook)


def test_the_outline_of_detections_is_the_segmentation(notebook, shown, spade, demo):
    values = spade.predict(demo.test[0]).anomaly_map
    threshold = float(np.quantile(values, 0.9))
    shown.slide("threshold", threshold)
    segmentation = values >= threshold
    notebook.until("ex.threshold_rule", "hand")
    assert notebook.ask("[ex.threshold, ex.threshold_rule]") == [pytest.approx(threshold, rel=1e-6), "hand"]
    assert f"{100 * segmentation.mean():.1f} % of this photo" in shown.map.locator("xpath=..").inner_text()
    inside = shown.photo.locator(".sk-found .ink").evaluate(
        """path => {
            const [H, W] = [224, 224], found = [];
            const drawn = new Path2D(path.getAttribute('d')), context = new OffscreenCanvas(1, 1).getContext('2d');
            for (let i = 0; i < H * W; i++)
                found.push(+context.isPointInPath(drawn, (i % W) + 0.5, Math.floor(i / W) + 0.5, 'evenodd'));
            return found;
        }"""
    )
    assert (np.array(inside, bool).reshape(224, 224) != segmentation).mean() < 0.002  # rounding along the outline


def test_the_table_of_regions_leads_to_the_pixel_that_explains_each(notebook, shown, spade, demo):
    result = spade.predict(demo.test[0])
    threshold = float(np.quantile(result.anomaly_map, 0.95))
    shown.slide("threshold", threshold)
    region = result.regions(threshold).loc[2]
    shown.press("go to region 2")
    notebook.until("[ex.probe, ex.pinned]", [[region["row"], region["col"]], True])
    assert shown.ring(shown.normal, "pinned") == (region["normal_row"], region["normal_col"])
    notebook.execute(f"ex.only = {region['normal']}")  # no threshold applies to the map
    shown.settle()
    assert shown.root.locator(".sk-regions").inner_text() == ""
    assert shown.root.locator(".sk-numbers span").count() == 0


def test_the_truth_is_outlined_where_the_mask_is(notebook, shown, demo, spade):
    mask = spade.predict(demo.test[0]).mask
    box = shown.photo.locator(".sk-truth .ink").evaluate(
        "p => { const b = p.getBBox(); return [b.y, b.x, b.height, b.width]; }"
    )
    rows, cols = np.nonzero(mask)
    expected = [rows.min(), cols.min(), np.ptp(rows) + 1, np.ptp(cols) + 1]
    np.testing.assert_allclose(box, expected, atol=1.01)


def test_the_legend_switches_each_mark_and_a_held_key_hides_all(notebook, shown):
    notebook.execute("ex.roi = [(60, 60), (60, 250), (250, 200)]; ex.threshold = 40; ex.probe = (100, 100)")
    shown.photo.locator(".sk-border").wait_for()
    shown.settle()
    marks = {"detected": ".sk-found", "ground truth": ".sk-truth", "regions": ".sk-numbers", "roi": ".sk-border"}
    seen = lambda mark: [stage.locator(mark).is_visible() for stage in (shown.photo, shown.map)]  # noqa: E731
    assert all(all(seen(mark)) for mark in marks.values())
    for name, mark in marks.items():
        shown.press(name)
        assert shown.root.get_by_role("button", name=name, exact=True).get_attribute("aria-pressed") == "false"
        assert [one for one in marks.values() if not any(seen(one))] == [mark]
        shown.press(name)
    shown.photo.focus()
    shown.page.keyboard.down("h")
    assert not any(any(seen(mark)) for mark in (*marks.values(), ".sk-ring.pinned", "canvas.over"))
    assert shown.photo.locator("canvas.base").is_visible()
    shown.page.keyboard.up("h")
    assert all(all(seen(mark)) for mark in marks.values())
    menu = shown.root.get_by_label("show", exact=True)
    menu.focus()
    chosen = menu.input_value()
    shown.page.keyboard.down("h")
    assert not any(any(seen(mark)) for mark in marks.values())
    shown.page.keyboard.up("h")
    assert menu.input_value() == chosen
    shown.press("next photo")
    shown.root.get_by_label("photo", exact=True).select_option("10")  # a good one, with no truth to show
    shown.settle()
    assert not shown.root.get_by_role("button", name="ground truth").is_visible()


def test_the_overlay_follows_its_slider(notebook, shown):
    shown.slide("overlay", 0.8)
    assert shown.photo.locator("canvas.over").evaluate("c => getComputedStyle(c).opacity") == "0.8"
    notebook.until("ex.opacity", 0.8)
    np.testing.assert_array_equal(shown.pixels(shown.photo, "over"), shown.pixels(shown.map))


def test_the_switch_shows_the_excess_and_the_score_follows_its_choice(notebook, shown, spade, demo):
    notebook.execute("ex.index = 26")
    shown.settle()
    judge = spade.with_options(score="excess", judged="excess")
    result = judge.predict(demo.test[26])
    excess = shown.root.get_by_role("button", name="excess", exact=True)
    excess.focus()
    shown.page.keyboard.press("Enter")
    assert excess.get_attribute("aria-pressed") == "true"
    notebook.until("ex.judged", "excess")
    assert_shows(shown, shown.map, result.excess_map, notebook)
    assert notebook.ask("ex.threshold") == pytest.approx(judge.threshold(0.01), rel=1e-6)
    np.testing.assert_array_equal(shown.pixels(shown.photo, "over"), shown.pixels(shown.map))
    said = shown.map.locator("xpath=..").inner_text()
    assert f"Excess ≥ {judge.threshold(0.01):.2f}" in said
    share = (result.excess_map >= judge.threshold(0.01)).mean()
    assert f"{100 * share:.1f} % of this photo, 1.0 % of normal pixels" in said
    assert_shows_layers(shown, result.layer_maps.values(), notebook)  # shares of the map itself
    shown.click(shown.map, 100, 61)
    told = shown.root.locator(".sk-readout tr", has_text="excess").locator("td").first.inner_text()
    assert float(told) == pytest.approx(result.excess_map[100, 61], abs=2e-3)
    for score in ("top", "excess"):
        shown.choose("image score", score)
        notebook.until("ex.score", score)
        notebook.execute("ex.finish()")
        expected = judge.with_options(score=score).predict(demo.test[26]).image_score
        shown.root.locator(".sk-score", has_text=f"score {expected:.2f}").wait_for(timeout=2000)
    normals = [judge.predict_left_out(at).image_score for at in range(12)]
    reached = sum(score >= expected for score in normals)
    rank = f"{reached} of 12 normal photos score at least this" if reached else "above all 12 normal photos"
    assert rank in shown.root.locator(".sk-score").inner_text()
    row = shown.root.locator(".sk-place")
    shown.press("ask the normal photos")
    row.get_by_text("Place explains").wait_for()
    assert row.locator(".sk-remark").inner_text() == "\n".join(
        [notebook.ask("str(ex.placement)"), notebook.ask("ex.about['advice']")]
    )
    shown.slide("sigma", 1.5)  # another level: the old one stays, marked as stale
    row.get_by_role("button").wait_for()  # of other options nothing is known
    assert shown.root.locator(".sk-title.waiting").count() == 1
    other = spade.with_options(sigma=1.5, judged="excess").predict(demo.test[26])
    assert_shows(shown, shown.map, other.excess_map, notebook)
    assert shown.root.locator(".sk-title.waiting").count() == 0
    shown.press("map")
    assert_shows(shown, shown.map, other.anomaly_map, notebook)


@pytest.mark.parametrize(
    ("name", "value", "options"),
    [
        ("kappa", 3, {"kappa": 3}),
        ("kappa", 6, {"kappa": 6}),  # above the limit for following K without the kernel
        ("radius", 2, {"radius": 2}),
        ("weight of layer2", 0.25, {"weights": {"layer1": 1, "layer2": 0.25, "layer3": 1}}),
    ],
    ids=str,
)
def test_a_slider_that_needs_a_search_shows_the_result_of_predict(notebook, shown, spade, demo, name, value, options):
    shown.slide(name, value)
    shown.settle()
    result = spade.with_options(**options).predict(demo.test[0])
    assert_shows(shown, shown.map, result.anomaly_map, notebook)
    shown.slide("K", 2)
    shown.settle()
    assert_shows(shown, shown.map, result.with_k(2).anomaly_map, notebook)
    notebook.until("ex.k", 2)
    (option,) = options
    assert in_order(notebook.ask(f"ex.{option}")) == in_order(options[option])


def test_equal_weights_and_the_ensemble_can_be_set_and_reset(notebook, shown, spade, demo):
    shown.choose("weights", "equal")
    shown.settle()
    equal = spade.with_options(weights="equal").predict(demo.test[0])
    assert_shows(shown, shown.map, equal.anomaly_map, notebook)
    shown.choose("matching", "ensemble")
    shown.settle()
    assert_shows(shown, shown.map, equal.with_options(combine="ensemble").anomaly_map, notebook)
    shown.slide("K", 3)  # needs the kernel
    shown.settle()
    assert_shows(shown, shown.map, equal.with_options(combine="ensemble", k=3).anomaly_map, notebook)
    shown.press("reset")
    shown.settle()
    assert_shows(shown, shown.map, spade.predict(demo.test[0]).anomaly_map, notebook)


def test_solo_and_mute_change_weights_and_restore_them(notebook, shown, spade, demo):
    shown.slide("weight of layer1", 2)
    shown.press("mute layer3")
    shown.settle()
    notebook.until("ex.weights", {"layer1": 2, "layer2": 1, "layer3": 0})
    shown.press("solo layer2")
    shown.settle()
    notebook.until("ex.weights", {"layer1": 0, "layer2": 1, "layer3": 0})
    only = spade.with_options(weights={"layer1": 0, "layer3": 0}).predict(demo.test[0])
    assert_shows(shown, shown.map, only.anomaly_map, notebook)
    assert shown.root.get_by_role("button", name="mute layer2").is_disabled()  # at least one layer must count
    shown.press("solo layer2")
    shown.press("mute layer3")
    shown.settle()
    assert notebook.ask("ex.weights")["layer1"] == 2


def test_layers_alone_equal_separate_searches(notebook, shown, spade, demo):
    shown.press("each alone")
    shown.settle()
    result = spade.predict(demo.test[0])
    assert_shows_layers(shown, result.layer_alone.values(), notebook)
    shown.hover(shown.photo, 60, 60)
    cells = shown.root.locator(".sk-readout tbody tr").all_inner_texts()
    for name, alone in result.match_alone.items():
        h, w = alone.distance.shape
        at = 60 * h // 224, 60 * w // 224
        (said,) = [cell for cell in cells if cell.startswith(f"{name} alone")]
        assert f"{alone.distance[at]:.3f}" in said
        agrees = result.layer_agrees[name][60 * 56 // 224, 60 * 56 // 224]
        assert ("same pixel" if agrees else f"neighbour {alone.image[0][at] + 1}, ") in said
        veil = shown.layers[list(result.layer_alone).index(name)].locator("canvas.veil")
        assert veil.get_attribute("data-kind") == "disagree"
    shown.press("shares")
    notebook.until("ex.alone", False)
    assert_shows_layers(shown, result.layer_maps.values(), notebook)


def test_the_threshold_follows_its_rule(notebook, shown, spade, demo):
    shown.choose("threshold rule", "pixel 0.05")
    shown.settle()
    assert notebook.ask("ex.threshold") == pytest.approx(spade.threshold(0.05), rel=1e-6)
    shown.choose("threshold rule", "f1")
    notebook.until("ex.threshold_rule", "f1")
    masks = [(result.anomaly_map, result.mask) for result in map(spade.predict, demo.test)]
    from sklearn.metrics import precision_recall_curve

    maps, truths = (np.concatenate([pair[at].ravel() for pair in masks]) for at in (0, 1))
    precision, recall, thresholds = precision_recall_curve(truths, maps)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = thresholds[f1[:-1].argmax()]
    notebook.until(f"abs(ex.threshold - {best}) < {1e-4 * best}", True)
    assert (
        "uses test labels"
        in shown.root.get_by_label("threshold rule", exact=True).locator("option:checked").inner_text()
    )


# ---- neighbours ------------------------------------------------------------------------------------------------------


def test_neighbours_are_in_order_with_the_fraction_they_explain(notebook, shown, spade, demo):
    result = spade.predict(demo.test[0])
    cards = shown.root.get_by_label("retrieved normal photos").locator(".sk-card")
    shares = [(result.correspondence.image[0] == rank).mean() for rank in range(5)]
    for rank, (card, share) in enumerate(zip(cards.all(), shares)):
        index, distance = result.neighbours.index[rank], result.neighbours.distance[rank]
        expected = (
            f"neighbour {rank + 1}, normal {index}, distance {distance:.2f}, explains {100 * share:.1f} % of the pixels"
        )
        assert card.get_attribute("aria-label") == expected
    assert cards.count() == 5
    cards.nth(1).click()
    explained = result.correspondence.image[0] == 1
    places = {(r, c) for r, c in zip(result.correspondence.row[0][explained], result.correspondence.col[0][explained])}
    assert shown.normal.locator(".sk-dots circle").count() == len(places)
    veil = shown.pixels(shown.map, "veil")[2::4, 2::4, 3] > 0
    np.testing.assert_array_equal(veil, ~explained)
    shown.press("close")
    assert shown.normal.locator(".sk-dots circle").count() == 0


def test_a_neighbour_can_be_excluded_included_and_used_alone(notebook, shown, spade, demo):
    result = spade.predict(demo.test[0])
    second = int(result.neighbours.index[1])
    cards = shown.root.get_by_label("retrieved normal photos").locator(".sk-card")
    cards.nth(1).click()
    shown.press("exclude")
    shown.settle()
    others = [index for index in range(12) if index != second]
    assert_shows(shown, shown.map, result.with_normals(others).anomaly_map, notebook)
    notebook.until("ex.without", [second])
    assert "out" in cards.nth(1).get_attribute("class")
    assert cards.count() == 6
    shown.press("include")
    shown.settle()
    assert_shows(shown, shown.map, result.anomaly_map, notebook)
    shown.press("only this one")
    shown.settle()
    assert_shows(shown, shown.map, result.with_normals([second]).anomaly_map, notebook)
    shown.press("compare with all")
    shown.settle()
    assert_shows(shown, shown.map, result.anomaly_map, notebook)
    shown.press("close")


def test_a_comparison_with_one_photo_marks_nothing_as_anomalous(notebook, shown):
    """The threshold and the ranks assume a comparison with all normal images."""
    shown.slide("threshold", 20)
    cards = shown.root.get_by_label("retrieved normal photos").locator(".sk-card")
    cards.nth(1).click()
    image = int(cards.nth(1).get_attribute("data-key"))
    assert shown.photo.locator(".sk-found .ink").get_attribute("d") != ""
    shown.press("only this one")
    shown.settle()
    assert shown.root.locator(".sk-score").inner_text().endswith(f", compared with normal {image} only")
    assert shown.photo.locator(".sk-found .ink").get_attribute("d") == ""
    assert "no threshold" in shown.map.locator("xpath=..").inner_text()
    shown.root.get_by_role("button", name=f"normal {image} only").click()
    shown.settle()
    notebook.until("ex.only", None)
    assert shown.photo.locator(".sk-found .ink").get_attribute("d") != ""
    notebook.execute(f"ex.only = {image}")
    shown.press("next photo")
    shown.settle()
    notebook.until("[ex.index, ex.only]", [1, None])


def test_a_neighbour_is_deselected_with_its_photo_above_k_and_by_its_chip(notebook, shown):
    cards = shown.root.get_by_label("retrieved normal photos").locator(".sk-card")
    mark = shown.root.get_by_role("button", name="bright: explained by normal")

    def choose() -> None:
        cards.nth(3).click()
        assert mark.is_visible()
        assert shown.pixels(shown.photo, "veil")[..., 3].any()

    def assert_let_go() -> None:
        shown.settle()
        assert not mark.is_visible()
        assert not shown.pixels(shown.photo, "veil")[..., 3].any()
        assert shown.normal.locator(".sk-dots circle").count() == 0

    for let_go in (
        mark.click,
        lambda: shown.slide("K", 2),
        lambda: shown.press("next photo"),
        lambda: shown.press("reset"),
        lambda: shown.page.keyboard.press("Escape"),
    ):
        choose()
        let_go()
        assert_let_go()
        shown.slide("K", 5)


# ---- photos ----------------------------------------------------------------------------------------------------------


def test_photos_are_picked_by_arrow_list_strip_and_key(notebook, shown):
    shown.press("next photo")
    shown.settle()
    notebook.until("ex.index", 1)
    shown.choose("photo", "5")
    shown.settle()
    notebook.until("ex.index", 5)
    shown.root.get_by_label("photos", exact=True).locator(".sk-card").nth(8).click()
    shown.settle()
    notebook.until("ex.index", 8)
    shown.page.keyboard.press("[")
    shown.settle()
    notebook.until("ex.index", 7)
    assert shown.root.get_attribute("data-shown") == "7"


def test_the_strip_can_be_filtered_and_sorted(notebook, shown, spade, demo):
    strip = shown.root.get_by_label("photos", exact=True)
    scores = {index: spade.predict(sample).image_score for index, sample in enumerate(demo.test)}
    clipped = """cards => cards.flatMap(card => [...card.querySelectorAll('.top, .kind')])
        .filter(label => label.scrollWidth > label.clientWidth || label.scrollHeight > label.clientHeight).length"""
    shown.choose("show", "label wrong_colour")
    assert strip.locator(".kind").first.inner_text().replace("\u200b", "") == "wrong_colour"
    assert strip.locator(".sk-card").evaluate_all(clipped) == 0
    shown.choose("show", "label scratch")
    scratches = [index for index, sample in enumerate(demo.test) if sample.label == "scratch"]
    keys = lambda: [int(card.get_attribute("data-key")) for card in strip.locator(".sk-card").all()]  # noqa: E731
    assert keys() == scratches
    shown.choose("order", "score")
    assert keys() == sorted(scratches, key=lambda index: -scores[index])
    threshold = max(spade.predict_left_out(index).image_score for index in range(12))
    good = [index for index, sample in enumerate(demo.test) if sample.label == "good"]
    shown.choose("show", "alarms")
    assert set(keys()) == {index for index in good if scores[index] >= threshold}
    middle = float(np.median(list(scores.values()))) + 0.01  # between two scores
    typed = shown.root.get_by_label("image threshold", exact=True)
    typed.fill(f"{middle:.2f}")
    typed.press("Enter")
    notebook.until("ex.image_threshold_rule", "hand")
    shown.choose("show", "misses")
    misses = {i for i, score in scores.items() if i not in good and score < middle}
    assert set(keys()) == misses
    shown.slide("threshold", middle / 2)  # of pixels
    assert set(keys()) == misses
    assert (
        shown.root.get_by_label("show", exact=True).locator("option:checked").inner_text() == f"misses ({len(misses)})"
    )
    assert strip.get_attribute("data-remark") == ""
    shown.choose("show", "all")
    shown.choose("order", "listed")
    for index in (min(misses), int(np.argmax(list(scores.values())))):
        shown.choose("photo", str(index))
        shown.settle()
        verdict = "normal" if index in misses else "▲ anomalous"
        shown.root.locator(".sk-verdict", has_text=verdict).wait_for(timeout=2000)
        assert ("▲" in strip.locator("[aria-pressed=true]").inner_text()) == (index not in misses)
    shown.choose("image threshold rule", "image 0.2")
    notebook.until("ex.image_threshold_rule", "image 0.2")
    assert notebook.ask("ex.image_threshold") == pytest.approx(spade.threshold(0.2, of="image"), rel=1e-6)


def test_after_fifty_photos_picked_in_two_seconds_the_last_is_shown(notebook, shown, spade, demo):
    shown.page.evaluate(
        """async () => {
            const select = document.querySelector('.spade-kit select[aria-label=photo]');
            for (let i = 0; i < 50; i++) {
                select.value = (i * 7) % 48;
                select.dispatchEvent(new Event('change'));
                await new Promise(done => setTimeout(done, 40));
            }
        }"""
    )
    shown.settle()
    last = 49 * 7 % 48
    notebook.until("ex.index", last)
    assert notebook.ask("ex.index") == last
    assert shown.root.get_attribute("data-shown") == str(last)
    assert_shows(shown, shown.map, spade.predict(demo.test[last]).anomaly_map, notebook)


def test_a_second_hundred_photos_uses_no_more_memory_than_the_first(notebook, shown):
    session = shown.page.context.new_cdp_session(shown.page)
    session.send("Performance.enable")

    def measure(count: int) -> dict[str, float]:
        for step in range(count):
            shown.choose("photo", str(step % 48))
            shown.settle()
        session.send("HeapProfiler.collectGarbage")
        metrics = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
        resident = notebook.ask("int(open('/proc/self/statm').read().split()[1]) * 4096 / 1e6")
        return {"heap": metrics["JSHeapUsedSize"] / 1e6, "nodes": metrics["Nodes"], "python": resident}

    first, second = measure(100), measure(100)
    assert second["heap"] < first["heap"] + 8  # MB
    assert second["nodes"] < first["nodes"] + 500
    assert second["python"] < first["python"] + 60


def upload(shown: Shown, *files) -> None:
    shown.root.get_by_label("photo from disk").set_input_files(*files)


def test_an_uploaded_photo_is_judged_even_if_it_is_large(notebook, shown, spade, demo, tmp_path, rng):
    large = Image.fromarray(demo.test[2].image).resize((4000, 3000))
    noisy = np.asarray(large) // 2 + rng.integers(0, 128, (3000, 4000, 3), dtype=np.uint8)  # does not compress well
    Image.fromarray(noisy).save(tmp_path / "large.jpg", quality=92)
    upload(shown, tmp_path / "large.jpg")
    shown.root.locator(":scope[data-shown='48']").wait_for(timeout=30_000)
    shown.settle()
    notebook.execute("ex.finish()")
    assert shown.root.get_by_label("photo", exact=True).locator("option:checked").inner_text() == "large"
    assert notebook.ask("ex.code()").splitlines()[1].startswith("photo = 'large.jpg'")
    shown.choose("order", "score")
    card = shown.root.get_by_label("photos", exact=True).locator("[aria-pressed=true]")
    in_sight = """node => {
        const [card, strip] = [node, node.parentNode].map(one => one.getBoundingClientRect());
        return card.left >= strip.left && card.right <= strip.right;
    }"""
    assert card.evaluate(in_sight)
    shown.choose("order", "listed")
    with pytest.warns(UserWarning, match=r"large\.jpg was squashed by 1\.3 : 1"):
        expected = spade.predict(tmp_path / "large.jpg")
    assert_shows(shown, shown.map, expected.anomaly_map, notebook)


def test_a_photo_can_be_dropped(notebook, shown, spade, demo):
    before = len(notebook.ask("ex.photos"))
    drop = shown.page.evaluate_handle(
        """async content => {
            const drop = new DataTransfer();
            const blob = await (await fetch('data:image/jpeg;base64,' + content)).blob();
            drop.items.add(new File([blob], 'dropped.jpg', { type: 'image/jpeg' }));
            return drop;
        }""",
        b64encode(demo.test[30].path.read_bytes()).decode(),
    )
    shown.photo.dispatch_event("drop", {"dataTransfer": drop})
    shown.root.locator(f":scope[data-shown='{before}']").wait_for(timeout=30_000)
    assert shown.root.get_by_label("photo", exact=True).locator("option:checked").inner_text() == "dropped"
    assert_shows(shown, shown.map, spade.predict(demo.test[30].path).anomaly_map, notebook)


def test_a_broken_upload_is_named_and_changes_nothing(notebook, shown, tmp_path):
    before = notebook.ask("[ex.index, len(ex.photos)]")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    top = shown.photo.bounding_box()["y"]
    upload(shown, tmp_path / "broken.png")
    told = "Cannot read broken.png as an image: its format is none of"
    shown.root.get_by_role("alert").filter(has_text=told).wait_for()
    shown.settle()  # the spinner has stopped
    assert shown.photo.bounding_box()["y"] == top
    shown.press("close this message")
    assert shown.root.get_by_role("alert").count() == 0
    upload(shown, tmp_path / "broken.png")
    shown.root.get_by_role("alert").wait_for()
    assert notebook.ask("[ex.index, len(ex.photos)]") == before
    shown.press("next photo")
    shown.settle()
    assert shown.root.get_by_role("alert").count() == 0


# ---- from Python -----------------------------------------------------------------------------------------------------


def test_values_set_from_python_are_shown(notebook, shown, spade, demo):
    notebook.execute("ex.index, ex.k, ex.kappa, ex.sigma = 26, 3, 2, 2")
    notebook.execute("ex.radius = 6; ex.weights = {'layer1': 0.5}; ex.threshold = 40; ex.probe = (120, 80)")
    notebook.execute("ex.finish()")
    shown.settle()
    judge = spade.with_options(k=3, kappa=2, sigma=2, radius=6, weights={"layer1": 0.5})
    result = judge.predict(demo.test[26])
    assert_shows(shown, shown.map, result.anomaly_map, notebook)
    match = result.match(120, 80)
    assert shown.ring(shown.photo, "pinned") == (120, 80)
    assert shown.ring(shown.normal, "pinned") == (match.row, match.col)
    shows = {
        name: shown.root.get_by_label(name, exact=True).input_value() for name in ("K", "kappa", "radius", "sigma")
    }
    assert shows == {"K": "3", "kappa": "2", "radius": "6", "sigma": "2"}
    assert float(shown.root.get_by_label("threshold", exact=True).input_value()) == 40
    assert shown.root.get_by_label("weights", exact=True).input_value() == "hand"


def test_the_copied_code_reproduces_the_view(notebook, shown):
    shown.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    shown.slide("kappa", 2)
    shown.slide("sigma", 3)
    shown.settle()
    notebook.until("ex.sigma", 3)  # the code comes from Python, which the page does not wait for
    shown.press("copy as Python")
    code = shown.page.evaluate("navigator.clipboard.readText()")
    assert "spade.with_options(kappa=2, sigma=3.0).predict(parts.test[0])" in code
    notebook.execute(code)  # unchanged, with this notebook's variable names
    assert notebook.ask("bool((result.anomaly_map == ex.result.anomaly_map).all())")


def test_a_picture_for_slides_and_a_page_can_be_downloaded(notebook, shown, tmp_path):
    with shown.page.expect_download() as png:
        shown.press("PNG")
    png.value.save_as(tmp_path / "slide.png")
    with Image.open(tmp_path / "slide.png") as slide:
        assert slide.width > 1000
    with shown.page.expect_download() as page:
        shown.press("save page")
    assert page.value.suggested_filename == "chip-000.html"


# ---- keys, touch, zoom -----------------------------------------------------------------------------------------------


def test_keys_alone_are_enough(notebook, shown, spade, demo):
    notebook.execute("ex.probe = (100, 100); ex.pinned = False")
    keyboard = shown.page.keyboard
    shown.root.get_by_role("button", name="previous photo").focus()
    keyboard.press("Tab")
    for _ in range(30):  # a strip is a single tab stop
        keyboard.press("Tab")
        if shown.photo.evaluate("stage => stage === document.activeElement"):
            break
    keyboard.press("ArrowRight")
    keyboard.press("Shift+ArrowDown")
    keyboard.press("Enter")
    assert shown.ring(shown.photo, "pinned") == (116, 104)
    notebook.until("[ex.probe, ex.pinned]", [[116, 104], True])
    match = spade.predict(demo.test[0]).match(116, 104)
    assert shown.ring(shown.normal, "pinned") == (match.row, match.col)
    keyboard.press("ArrowUp")  # a second probe next to the pinned one
    assert (shown.ring(shown.photo, "pinned"), shown.ring(shown.photo)) == ((116, 104), (112, 104))
    keyboard.press("Escape")
    notebook.until("ex.pinned", False)
    keyboard.press("]")
    shown.settle()
    notebook.until("ex.index", 1)
    keyboard.press("?")
    assert shown.root.locator(".sk-help").is_visible()
    keyboard.press("Escape")
    assert not shown.root.locator(".sk-help").is_visible()
    # the notebook's shortcuts were not triggered: no cell was added or removed
    cells = shown.page.evaluate("jupyterapp.shell.currentWidget.content.widgets.length")
    assert cells == 2


def test_sliders_move_by_keys(notebook, shown, spade, demo):
    shown.root.get_by_label("K", exact=True).focus()
    shown.page.keyboard.press("ArrowLeft")
    shown.page.keyboard.press("ArrowLeft")
    notebook.until("ex.k", 3)
    assert_shows(shown, shown.map, spade.predict(demo.test[0]).with_k(3).anomaly_map, notebook)


def window(stage) -> list[float]:
    """What is seen of a picture: left, top, width and height, in map pixels."""
    return [float(number) for number in stage.locator(".marks").get_attribute("viewBox").split()]


def test_all_pictures_are_enlarged_together_and_the_rings_keep_their_size(notebook, shown, spade, demo):
    shown.hover(shown.photo, 100, 61)
    ring = shown.map.locator(".sk-ring.hovered circle").first
    size = ring.bounding_box()["width"]
    shown.page.keyboard.down("Control")
    shown.page.mouse.wheel(0, -60)
    shown.page.mouse.wheel(0, -60)
    shown.page.keyboard.up("Control")
    shown.page.wait_for_function("document.querySelector('.sk-stage.zoomed')")
    left, top, width, height = window(shown.photo)
    assert width == height == pytest.approx(224 / np.exp(1.2), rel=1e-3)
    assert (100.5 - top) / height == pytest.approx(100.5 / 224, abs=0.01)  # what was under the pointer stays there
    assert (61.5 - left) / width == pytest.approx(61.5 / 224, abs=0.01)
    assert all(window(stage) == [left, top, width, height] for stage in (shown.map, shown.normal, *shown.layers))
    assert ring.bounding_box()["width"] == pytest.approx(size, rel=0.01)
    box = shown.map.bounding_box()
    shown.page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.75 * box["height"])
    place = (int(top + 0.75 * height), int(left + 0.25 * width))
    assert shown.ring(shown.photo) == place
    match = spade.predict(demo.test[0]).match(*place)
    assert shown.ring(shown.normal) == (match.row, match.col)
    canvas, stage = shown.photo.locator("canvas.base").bounding_box(), shown.photo.bounding_box()
    assert canvas["width"] / stage["width"] == pytest.approx(224 / width, rel=0.01)
    assert (stage["x"] - canvas["x"]) / canvas["width"] == pytest.approx(left / 224, abs=0.002)

    shown.page.mouse.down()
    shown.page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"], steps=4)
    shown.page.mouse.up()
    assert window(shown.photo)[:2] == pytest.approx([max(left - width / 4, 0), top + height / 4], abs=0.5)
    assert not notebook.ask("ex.pinned")  # a drag is no click
    notebook.execute("ex.probe, ex.pinned = (30, 40), True")
    shown.settle()
    shown.page.mouse.dblclick(box["x"] + 50, box["y"] + 50)
    assert window(shown.photo) == [0, 0, 224, 224]
    notebook.until("[*ex.probe, ex.pinned]", [30, 40, True])  # and no pixel is pinned on the way
    assert shown.ring(shown.photo, "pinned") == (30, 40)
    assert shown.page.evaluate("getSelection().toString()") == ""
    notebook.execute("ex.probe = 50, 60")
    shown.settle()
    shown.photo.focus()
    shown.page.keyboard.press("+")
    shown.normal.dblclick()  # where a click pins nothing
    assert window(shown.photo) == [0, 0, 224, 224]
    notebook.until("[*ex.probe, ex.pinned]", [50, 60, True])
    shown.photo.focus()
    shown.page.keyboard.press("+")
    assert window(shown.normal)[2] == pytest.approx(224 / 1.5, rel=1e-3)
    shown.page.keyboard.press("-")
    shown.page.keyboard.press("+")
    shown.page.keyboard.press("0")
    assert window(shown.normal) == [0, 0, 224, 224]


def test_a_pinch_enlarges_all_pictures(notebook, shown):
    box = shown.photo.bounding_box()
    for kind, name, x in [
        ("down", 1, 0.4),
        ("down", 2, 0.6),
        ("move", 1, 0.3),
        ("move", 2, 0.7),
        ("up", 1, 0),
        ("up", 2, 0),
    ]:
        where = {"clientX": box["x"] + x * box["width"], "clientY": box["y"] + 0.5 * box["height"]}
        finger = {"pointerId": name, "pointerType": "touch", "isPrimary": name == 1, "bubbles": True}
        shown.photo.dispatch_event(f"pointer{kind}", where | finger)
    left, _, width, _ = window(shown.map)
    assert width == pytest.approx(112, rel=0.01)  # the fingers are twice as far apart
    assert left == pytest.approx(56, abs=1)
    shown.photo.focus()
    shown.page.keyboard.press("0")
    assert window(shown.map) == [0, 0, 224, 224]


def test_a_double_click_selects_no_text(notebook, shown):
    shown.page.mouse.dblclick(**shown.at(shown.photo, 2, 2))
    shown.root.locator(".sk-slider .name").first.dblclick()
    assert shown.page.evaluate("getSelection().toString()") == ""


def test_numbers_can_be_typed(notebook, shown, spade, demo):
    def enter(name: str, value: str) -> None:
        shown.root.get_by_label(name, exact=True).fill(value)
        shown.page.keyboard.press("Enter")

    for name, value in {"K": "3", "sigma": "1.7", "radius": "6"}.items():
        enter(f"{name}, typed", value)
    enter("pixel threshold", "31.5")
    notebook.until("[ex.k, ex.sigma, ex.radius, ex.threshold, ex.threshold_rule]", [3, 1.7, 6, 31.5, "hand"])
    result = spade.with_options(k=3, sigma=1.7, radius=6).predict(demo.test[0])
    assert_shows(shown, shown.map, result.anomaly_map, notebook)
    field = shown.root.get_by_label("K, typed", exact=True)
    for value in ("0", "", "2,5", "many"):  # no number of photos
        field.fill("")
        field.press_sequentially(value)
        assert field.evaluate("field => field.matches(':invalid')")
        shown.page.keyboard.press("Enter")
        assert field.input_value() == "3"
        assert not field.evaluate("field => field.matches(':invalid')")
    assert notebook.ask("ex.k") == 3
    field.press("ArrowUp")
    notebook.until("ex.k", 4)
    for name, trait, value in (("sigma, typed", "sigma", "1,7"), ("pixel threshold", "threshold", "31,5")):
        shown.root.get_by_label(name, exact=True).fill("")
        shown.root.get_by_label(name, exact=True).press_sequentially(value)
        shown.page.keyboard.press("Enter")
        notebook.until(f"ex.{trait}", float(value.replace(",", ".")))
    enter("K, typed", "500")
    notebook.until("ex.k", 12)
    shown.settle()
    assert shown.root.get_by_label("K, typed", exact=True).input_value() == "12"


@pytest.mark.parametrize("name", ["kappa", "sigma"])
def test_a_number_that_python_refuses_is_undone(notebook, shown, name):
    before = notebook.ask(f"ex.{name}")
    field = shown.root.get_by_label(f"{name}, typed", exact=True)
    field.fill("99999")
    field.press("Enter")
    shown.root.get_by_role("alert").filter(has_text="got 99999.").wait_for()
    shown.until(lambda: float(field.input_value()), before)
    assert float(shown.root.get_by_label(name, exact=True).input_value()) == before
    assert notebook.ask(f"ex.{name}") == before
    shown.press("close this message")


def test_keys_work_after_the_pressed_button_is_gone(notebook, shown):
    shown.root.get_by_label("retrieved normal photos").locator(".sk-card").first.click()
    shown.press("only this one")
    notebook.until("ex.only is None", False)
    shown.settle()
    for _ in range(2):  # deselect it, compare with all again
        shown.page.keyboard.press("Escape")
    notebook.until("ex.only", None)


def test_a_card_keeps_the_focus_when_the_strip_is_sorted(notebook, shown):
    strip = shown.root.get_by_label("photos", exact=True)
    notebook.until("all(fresh for _, fresh in ex.scores)", True)
    card = strip.locator(".sk-card[data-key='0']")
    card.focus()
    shown.root.get_by_label("order", exact=True).evaluate(  # without taking the focus
        "order => { order.value = 'score'; order.dispatchEvent(new Event('change')); }"
    )
    assert strip.locator(".sk-card").first.get_attribute("data-key") != "0"
    assert card.evaluate("card => card === document.activeElement")
    shown.choose("order", "listed")


def test_the_help_comes_into_sight(notebook, shown):
    with resized(shown, 1280, 700):
        shown.photo.focus()
        shown.page.keyboard.press("?")
        last = shown.root.locator(".sk-help dd").last
        assert last.bounding_box()["y"] < 700
        shown.page.keyboard.press("?")


def test_nothing_sticks_out_of_a_narrow_page(notebook, shown):
    with resized(shown, 500, 1000):
        edge = shown.root.bounding_box()
        for part in shown.root.locator(".sk-head *:visible").all():
            box = part.bounding_box()
            assert box["x"] + box["width"] <= edge["x"] + edge["width"] + 1


def test_both_photos_of_the_compact_page_have_one_size(notebook, shown):
    notebook.execute("ex.beside, ex.compact = 3, True")
    shown.root.locator(":scope.beside.compact").wait_for()
    with resized(shown, 1600):
        widths = [stage.bounding_box()["width"] for stage in shown.root.locator(".sk-views .sk-stage").all()]
    assert len(widths) == 6
    assert widths == pytest.approx([widths[0]] * 6, abs=1)


def test_the_photo_beside_leaves_by_its_chip_in_a_compact_page(notebook, shown):
    notebook.execute("ex.beside, ex.compact = 3, True")
    shown.root.locator(":scope.beside.compact").wait_for()
    shown.root.get_by_role("button", name=re.compile("^beside")).click()
    shown.root.locator(":scope.compact:not(.beside)").wait_for(timeout=5000)
    notebook.until("ex.beside", None)


@pytest.mark.parametrize("width", [700, 1000, 1600])
def test_the_compact_page_is_at_most_700_px_high(notebook, shown, width):
    with resized(shown, width + 140, 900):  # with the notebook's own margins
        shown.press("compact")
        notebook.until("ex.compact", True)
        box = shown.root.bounding_box()
        assert box["height"] <= 700
        views = [stage.bounding_box() for stage in (shown.photo, shown.map, shown.normal)]
        assert len({round(view["y"]) for view in views}) == 1
        assert min(view["width"] for view in views) > 180
        names = ["photo", "K", "kappa", "radius", "sigma", *(["overlay"] if width > 900 else [])]
        controls = [shown.root.get_by_label(name, exact=True) for name in names]
        controls.append(shown.root.get_by_role("button", name="compact", exact=True))
        fields = [shown.root.get_by_label(f"{name}, typed", exact=True).bounding_box() for name in names[1:5]]
        labels = [name.bounding_box() for name in shown.root.locator(".sk-controls .sk-slider .name").all()[:4]]
        assert all(field["x"] + field["width"] + 4 < label["x"] for field, label in zip(fields, labels[1:]))
        rows = [control.bounding_box() for control in controls]
        assert max(row["y"] for row in rows) < min(row["y"] + row["height"] for row in rows)  # all in one row
        assert not any(
            shown.root.get_by_label(name, exact=True).is_visible() for name in ("beside", "show", "threshold rule")
        )
        assert not shown.layers[0].is_visible()
        shown.hover(shown.photo, 60, 60)
        assert shown.ring(shown.normal) is not None
        notebook.execute("ex.compact = False")
        shown.layers[0].wait_for()


def test_the_focus_stays_where_it_is_when_a_compact_page_is_repainted(notebook, shown):
    notebook.execute("ex.compact = True")
    slider = shown.root.get_by_label("kappa", exact=True)
    slider.focus()
    shown.page.keyboard.press("ArrowRight")
    notebook.until("ex.kappa", 2)
    shown.settle()
    assert slider.evaluate("node => node === document.activeElement")


def test_the_pictures_stay_in_sight_while_one_scrolls_through_the_layers(notebook, shown):
    below = shown.root.get_by_label("retrieved normal photos")
    panel = shown.page.locator(".jp-WindowedPanel-outer").bounding_box()
    for control in (below, shown.root.get_by_role("button", name="solo layer1", exact=True)):
        control.evaluate("node => node.scrollIntoView({ block: 'end' })")
        for stage in (shown.photo, shown.map, shown.normal):
            assert stage.bounding_box()["y"] >= panel["y"]
        bars = shown.root.locator(".sk-bar").bounding_box()
        assert control.bounding_box()["y"] >= bars["y"] + bars["height"]  # nothing covers it
    with resized(shown, 1280, 700):
        below.evaluate("node => node.scrollIntoView({ block: 'end' })")
        assert shown.map.bounding_box()["y"] < panel["y"]  # there is no room for both


def test_it_fills_the_screen_and_comes_back(notebook, shown):
    shown.press("full screen")
    shown.page.wait_for_function("document.fullscreenElement?.classList.contains('spade-kit')")
    shown.press("full screen")
    shown.page.wait_for_function("document.fullscreenElement === null")


# ---- where to look ---------------------------------------------------------------------------------------------------


def on_photo(*places):
    """The nearest pixels of a demo image, 320 px, to pixels of its crop: the middle 224 px of 256."""
    return [[round(Fraction(2 * at + 1 + 32, 2) * Fraction(320, 256) - Fraction(1, 2)) for at in one] for one in places]


def drawn(stage, mark: str) -> np.ndarray:
    return np.array(stage.locator(f"{mark} .ink").evaluate(INSIDE), bool).reshape(224, 224)


def test_a_roi_is_drawn_by_mouse_and_kept_as_python(notebook, shown, spade, demo):
    mouse, code = shown.page.mouse, shown.root.locator(".sk-roi code")
    shown.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    shown.press("draw roi")
    for place in [(30, 20), (40, 200), (190, 180), (100, 100)]:
        shown.click(shown.photo, *place)
    shown.page.keyboard.press("Backspace")
    shown.click(shown.photo, 200, 60)
    shown.hover(shown.photo, 200, 60)
    mouse.down()
    shown.hover(shown.photo, 180, 40)
    mouse.up()
    assert notebook.ask("[ex.roi, ex.pinned]") == [None, False]
    shown.hover(shown.photo, 120, 10)
    edge = shown.photo.locator(".sk-draft .ink").get_attribute("d")
    assert edge.endswith("L10.5,120.5Z")
    shown.click(shown.photo, 30, 20)  # the first corner closes
    corners = on_photo((30, 20), (40, 200), (190, 180), (180, 40))
    notebook.until("ex.roi", corners)
    shown.settle()
    assert shown.photo.locator(".sk-draft circle").count() == 0
    shown.press("copy the roi as Python")
    assert shown.page.evaluate("navigator.clipboard.readText()") == code.inner_text()
    assert notebook.execute(f"{code.inner_text()}; print(roi == ex.roi)") == "True"

    for index in (0, 26):
        notebook.execute(f"ex.index = {index}")
        shown.settle()
        result = spade.predict(demo.test[index], roi=corners)
        threshold = float(np.quantile(result.anomaly_map[result.roi], 0.9))
        shown.slide("threshold", threshold)
        shown.root.locator(".sk-score", has_text=f"score {result.image_score:.2f}").wait_for(timeout=2000)
        assert (drawn(shown.photo, ".sk-found") != result.segmentation(threshold)).mean() < 0.002
        assert (drawn(shown.map, ".sk-border") == result.roi).mean() < 0.002  # all outside is dimmed
        regions = result.regions(threshold)
        rows = shown.root.locator(".sk-regions tbody tr").all_inner_texts()
        assert len(rows) == len(regions)
        assert [row.split()[1] for row in rows[:1]] == [f"{regions.area[1]:,.0f}"]
    notebook.execute("ex.finish()")
    assert notebook.ask("ex.scores[26]") == [pytest.approx(result.image_score, rel=1e-5), True]
    shown.press("copy as Python")
    notebook.execute(shown.page.evaluate("navigator.clipboard.readText()"))
    assert notebook.ask("[bool((result.roi == ex.result.roi).all()), result.image_score == ex.result.image_score]") == [
        True, True,
    ]  # fmt: skip
    fitted = "spade_kit.SPADE().fit(parts.train[:3], roi=ex.roi).predict(parts.test[26]).roi"
    assert notebook.ask(f"bool(({fitted} == ex.result.roi).all())")

    shown.press("clear")
    notebook.until("ex.roi", None)
    shown.settle()
    whole = spade.predict(demo.test[26]).image_score
    shown.root.locator(".sk-score", has_text=f"score {whole:.2f}").wait_for(timeout=2000)
    assert code.inner_text() == shown.map.locator(".sk-border .ink").get_attribute("d") == ""


def test_a_roi_is_drawn_by_keys(notebook, shown, spade, demo):
    notebook.execute("ex.probe = (100, 100); ex.pinned = False")
    shown.settle()
    keyboard, remark = shown.page.keyboard, shown.root.locator(".sk-roi [role=status]")
    pencil = shown.root.get_by_role("button", name="draw roi")

    def type_keys(*keys: str) -> None:
        for key in keys:
            keyboard.press(key)

    pencil.focus()
    type_keys("Enter", "Space", "Shift+ArrowDown", "Space", "Enter")
    assert remark.inner_text() == "Corners: 2 of at least 3"
    type_keys("Escape")
    assert (pencil.get_attribute("aria-pressed"), remark.inner_text()) == ("false", "")
    assert notebook.ask("ex.roi") is None
    pencil.focus()
    type_keys("Enter", "Space", "ArrowUp", "Space", "Backspace", "Shift+ArrowRight", "Space", "Shift+ArrowDown")
    assert remark.inner_text() == "Corners: 2 of at least 3"
    type_keys("Space", "Enter")
    corners = on_photo((116, 100), (112, 116), (128, 116))
    notebook.until("ex.roi", corners)
    shown.settle()
    assert notebook.ask("ex.result.image_score") == spade.predict(demo.test[0], roi=corners).image_score
    type_keys("Enter")  # pins again
    notebook.until("[ex.probe, ex.pinned]", [[128, 116], True])


def test_a_drawn_roi_can_be_changed_and_left(notebook, shown):
    corners = [[60, 60], [60, 250], [250, 200]]
    notebook.execute(f"ex.roi = {corners}")
    shown.settle()
    shown.press("draw roi")
    shown.click(shown.photo, 150, 40)
    shown.page.keyboard.press("Escape")
    assert shown.root.locator(".sk-roi code").inner_text() == "roi = [(60, 60), (60, 250), (250, 200)]"
    shown.press("draw roi")
    shown.hover(shown.photo, 32, 32)  # the first corner, at (31.9, 31.9): moving it does not close
    shown.page.mouse.down()
    shown.hover(shown.photo, 20, 25)
    shown.page.mouse.up()
    shown.click(shown.photo, 150, 40)
    shown.page.keyboard.press("Enter")
    notebook.until("ex.roi", on_photo((20, 25)) + corners[1:] + on_photo((150, 40)))


def test_a_photo_of_another_size_is_judged_without_the_roi_and_says_so(notebook, shown):
    notebook.execute("ex.roi = [(60, 60), (60, 250), (250, 200)]; ex.show(parts.test[0].image[:, 20:300])")
    shown.settle()
    said = "This roi is for photos of 320 x 320 px. This one has 320 x 280 px and is judged without it."
    shown.root.locator(".sk-roi", has_text=said).wait_for(timeout=2000)
    assert notebook.ask("ex.result.roi is None")
    assert shown.map.locator(".sk-border .ink").get_attribute("d") == ""
    notebook.execute("ex.index = 0")
    shown.settle()
    assert notebook.ask("ex.result.roi is not None")
    assert (drawn(shown.map, ".sk-border")).any()


# ---- more than one, and none -----------------------------------------------------------------------------------------


def test_two_explorers_in_a_notebook_are_independent(browser, lab):
    more = "other = spade_kit.explore(spade, parts); other.index = 9\nother"
    notebook = Notebook(browser, lab, "two.ipynb", START, "ex", more)
    one, two = Shown(notebook.page, 0), Shown(notebook.page, 1)
    one.slide("K", 2)
    two.slide("K", 4)
    two.press("next photo")
    two.settle()
    notebook.until("[ex.k, other.k, ex.index, other.index]", [2, 4, 0, 10])
    one.hover(one.photo, 100, 100)
    assert two.ring(two.photo) != (100, 100)
    assert notebook.errors == []
    notebook.close()


def test_after_a_kernel_restart_the_page_reports_it_and_a_new_run_works(browser, lab):
    notebook = Notebook(browser, lab, "restart.ipynb", START, "ex")
    shown = Shown(notebook.page)
    notebook.page.evaluate("jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    shown.hover(shown.photo, 60, 60)
    assert shown.ring(shown.photo) == (60, 60)
    shown.slide("kappa", 3)
    shown.root.get_by_role("alert").filter(has_text="No kernel connected").wait_for(timeout=20_000)
    assert notebook.page.evaluate(RUN_ALL) == []
    again = Shown(notebook.page)
    again.slide("kappa", 2)
    again.settle()
    notebook.until("ex.kappa", 2)
    notebook.close()


def test_without_a_kernel_a_reopened_notebook_still_responds_to_the_pointer(browser, lab, spade, demo):
    notebook = Notebook(browser, lab, "kept.ipynb", START, "ex.finish()", "ex")
    Shown(notebook.page).settle()
    notebook.page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    notebook.page.wait_for_function("!jupyterapp.shell.currentWidget.context.model.dirty", timeout=20_000)
    notebook.close()
    assert (lab.folder / "kept.ipynb").stat().st_size < 1_500_000
    saved = json.loads((lab.folder / "kept.ipynb").read_text())
    assert set(saved["cells"][2]["outputs"][0]["data"]) == {
        *("application/vnd.jupyter.widget-view+json", "image/png", "text/plain")
    }
    again = Notebook(browser, lab, "kept.ipynb", run=False)
    shown = Shown(again.page)
    shown.root.get_by_role("alert").filter(has_text="No kernel connected").wait_for(timeout=20_000)
    shown.hover(shown.photo, 100, 61)
    result = spade.predict(demo.test[0])
    match = result.match(100, 61)
    assert shown.ring(shown.normal) == (match.row, match.col)
    shown.slide("K", 2)
    end = 2 * spade.normal_level
    assert np.abs(grey_of(shown.pixels(shown.map)) - grey(result.with_k(2).anomaly_map, end)).max() <= 1
    assert shown.root.get_by_label("kappa", exact=True).is_disabled()
    assert again.errors == []
    again.close()


def test_an_untrusted_notebook_shows_a_picture_and_a_line(browser, lab):
    kept = json.loads((lab.folder / "kept.ipynb").read_text())
    kept["metadata"].pop("signature", None)
    kept["cells"][0]["source"] = "# touched by somebody else\n"
    (lab.folder / "foreign.ipynb").write_text(json.dumps(kept))
    notebook = Notebook(browser, lab, "foreign.ipynb", run=False)
    picture = notebook.page.locator(".jp-OutputArea img")
    picture.wait_for(timeout=20_000)
    assert picture.evaluate("image => image.naturalWidth") > 500
    notebook.close()
