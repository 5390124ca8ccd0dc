"""The map of all images in a real browser, with places, lines and the lasso checked against Python."""

import shutil
from dataclasses import replace

import matplotlib.colors
import numpy as np
import pytest
from browsing import Notebook, Shown, assert_accessible, open_offline, read_canvas
from matplotlib.path import Path

from spade_kit import map_images

CELLS = (
    """
from dataclasses import replace
import spade_kit, traitlets
parts = spade_kit.load_dataset("demo")
parts = replace(parts, test=parts.test[::4])
spade = spade_kit.SPADE.load("fitted")
atlas, explorer = spade_kit.map_images(spade, parts), spade_kit.explore(spade, parts)
link = traitlets.link((atlas, "selection"), (explorer, "selection"))
""",
    "atlas",
    "explorer",
)
# how many cards have their pictures in the first frame in which any has
COUNT_FIRST = """() => void (window.first = new Promise(done => {
    const look = () => {
        const count = document.querySelectorAll('.sk-card img[src]').length;
        return count ? done(count) : requestAnimationFrame(look);
    };
    look();
}))"""
EDGE, BORDER = 16, 1  # px around all points, and around the stage


@pytest.fixture(scope="module")
def atlas(spade, demo):
    atlas = map_images(spade, replace(demo, test=demo.test[::4]))
    atlas.finish()
    yield atlas
    atlas.close()


@pytest.fixture(scope="module")
def scored(atlas):
    atlas.projection, atlas.colour = "tsne", "score"
    atlas.finish()
    return atlas


@pytest.fixture
def saved(scored, tmp_path):
    scored.projection, scored.colour = "pca", "kind"
    scored.save_html(tmp_path / "map.html")
    return tmp_path / "map.html"


def stage_of(shown):
    return shown.root.locator(".sk-atlas")


def screen_places(shown, atlas, projection="pca") -> np.ndarray:
    """(n, 2) px on the screen: one scale for both axes, as large as fits."""
    places = np.frombuffer(atlas.places[projection], np.float32).reshape(-1, 2).astype(float)
    low, high = places.min(0), places.max(0)
    box = stage_of(shown).bounding_box()
    size = np.array([box["width"], box["height"]]) - 2 * BORDER
    scale = ((size - 2 * EDGE) / (high - low)).min()
    return np.array([box["x"], box["y"]]) + BORDER + size / 2 + scale * (places - (low + high) / 2) * [1, -1]


def draw_lasso(shown, corners) -> None:
    mouse = shown.page.mouse
    mouse.move(*corners[0])
    mouse.down()
    for corner in corners[1:]:
        mouse.move(*corner)
    mouse.up()


def cards_of(shown) -> list[int]:
    return [int(card.get_attribute("data-key")) for card in shown.root.locator(".sk-card").all()]


def colour_at(shown, canvas, place) -> np.ndarray:
    """RGBA from 0 to 1 at a place on the screen."""
    box = stage_of(shown).bounding_box()
    pixels = read_canvas(stage_of(shown).locator("canvas").nth(canvas))
    return pixels[round(place[1] - box["y"] - BORDER), round(place[0] - box["x"] - BORDER)] / 255


def test_points_are_drawn_at_their_places_in_their_colours(browser, saved, scored):
    with open_offline(browser, saved) as page:
        shown = Shown(page)
        places = screen_places(shown, scored)
        far = np.linalg.norm(places[:, None] - places, axis=2) + 99 * np.eye(len(places))
        alone = np.flatnonzero(far.min(0) > 14)
        assert len(alone) > 8
        looks = {kind: look for kind, *look in scored.about["kinds"]}
        for at in alone:
            colour, _ = looks[scored.photos[at][1]]
            np.testing.assert_allclose(colour_at(shown, 0, places[at]), matplotlib.colors.to_rgba(colour), atol=0.02)
        shown.choose("colour", "score")
        scores = np.frombuffer(scored.values["score"], np.float32)
        scale = matplotlib.colormaps["cividis"]((scores - scores.min()) / np.ptp(scores))
        for at in alone:
            np.testing.assert_allclose(colour_at(shown, 0, places[at]), scale[at], atol=0.02)
            colour, marker = looks[scored.photos[at][1]]
            outwards = [colour_at(shown, 0, places[at] + [right, 0]) for right in (8, 7, 6, 5, 4, 3)]
            if marker in "os":  # the kind stays visible at the edge
                kind = matplotlib.colors.to_rgb(colour)
                assert min(np.abs(edge[:3] - kind).max() for edge in outwards) < 0.1
            rim = next(edge for edge in outwards if edge[3] > 0.25)
            np.testing.assert_allclose(rim[:3], 0.5, atol=0.15)  # pale kinds, too, are seen on white


@pytest.mark.parametrize("projection", ["pca", "tsne"])
def test_the_lasso_selects_what_is_inside_its_path(browser, saved, scored, projection):
    with open_offline(browser, saved) as page:
        shown = Shown(page)
        shown.choose("projection", projection)
        places = screen_places(shown, scored, projection)
        middle = places.mean(0)
        angles = np.linspace(0, 4 * np.pi, 6)[:-1]  # a star, which crosses itself
        corners = np.round(middle + 220 * np.column_stack([np.cos(angles), np.sin(angles)]) * [1.6, 1])
        draw_lasso(shown, corners)
        inside = np.flatnonzero(Path(np.vstack([corners, corners[:1]])).contains_points(places))
        assert 2 < len(inside) < 20
        assert cards_of(shown) == inside.tolist()
        tops = shown.root.locator(".sk-card .top").all_inner_texts()
        assert tops[len(inside) - 1] == str(inside[-1] - 12)  # its kind, normal, stands below
        tests = (inside < 12).sum()
        told = f"{tests} test and {len(inside) - tests} normal photos selected"
        shown.root.get_by_text(told, exact=True).wait_for()
        more = next(at for at in np.linalg.norm(places - middle, axis=1).argsort()[::-1] if at not in inside)
        page.keyboard.down("Shift")
        page.mouse.move(*places[more])
        draw_lasso(shown, [places[more], places[more] + 1])
        assert cards_of(shown) == sorted([*inside, more])
        page.keyboard.up("Shift")
        page.keyboard.press("Escape")
        assert cards_of(shown) == []


def test_a_point_shows_its_picture_and_lines_to_its_neighbours(browser, saved, scored, spade, demo):
    with open_offline(browser, saved) as page:
        shown = Shown(page)
        places = screen_places(shown, scored)
        far = np.linalg.norm(places[:, None] - places, axis=2) + 99 * np.eye(len(places))
        at = int(far[:12].min(1).argmax())
        page.mouse.move(*places[at])
        near = spade.predict(demo.test[::4][at]).neighbours.index
        told = f"test {scored.images.name(at)}, score {np.frombuffer(scored.values['score'], np.float32)[at]:.2f}, "
        told += f"its neighbours: normal {', '.join(map(str, near))}"
        assert shown.root.locator(".sk-live").inner_text() == told
        shown.root.locator(".sk-thumb").wait_for()
        assert shown.root.locator(".sk-thumb").evaluate("image => image.naturalWidth") == 72
        for normal in range(12):
            way = places[at] + (places[12 + normal] - places[at]) * 0.97
            alone = all(
                np.linalg.norm(places[12 + other] - places[12 + normal]) > 12 for other in range(12) if other != normal
            )
            if alone:
                box = stage_of(shown).bounding_box()
                row, col = (round(way[axis] - box["xy"[axis]] - BORDER) for axis in (1, 0))
                around = read_canvas(stage_of(shown).locator("canvas").nth(1))[row - 1 : row + 2, col - 1 : col + 2, 3]
                assert around.any() == (normal in near), normal
        page.mouse.move(2, 2)
        said = shown.root.locator(".sk-live")
        assert said.inner_text() == ""
        assert "Point at a photo" in said.evaluate("node => getComputedStyle(node, '::before').content")
        assert not shown.root.locator(".sk-thumb").is_visible()


def test_keys_walk_over_the_points_and_select_them(browser, saved, scored):
    with open_offline(browser, saved) as page:
        shown = Shown(page)
        places = screen_places(shown, scored)
        said = shown.root.locator(".sk-live")
        stage_of(shown).focus()
        names = [f"test {name}" if at < 12 else name for at, (name, _) in enumerate(scored.photos)]
        walked = []
        for key in ("ArrowRight", "ArrowRight", "ArrowUp", "ArrowLeft", "ArrowDown"):
            page.keyboard.press(key)
            walked.append(names.index(said.inner_text().split(",")[0]))
        box = stage_of(shown).bounding_box()
        middle = np.array([box["x"] + box["width"] / 2, box["y"] + box["height"] / 2])
        assert walked[0] == np.linalg.norm(places - middle, axis=1).argmin()
        steps = np.diff(places[walked], axis=0)
        assert [steps[0, 0] > 0, steps[1, 1] < 0, steps[2, 0] < 0, steps[3, 1] > 0] == [True] * 4
        page.keyboard.press("Enter")
        assert cards_of(shown) == walked[-1:]
        page.keyboard.press("Enter")
        assert cards_of(shown) == []


def test_a_page_offers_only_what_is_known(browser, spade, demo, tmp_path):
    fresh = map_images(spade, demo.test[:2])
    fresh.save_html(tmp_path / "map.html")
    with open_offline(browser, tmp_path / "map.html") as page:
        shown = Shown(page)
        offered = {
            name: shown.root.get_by_label(name).locator("option").all_inner_texts() for name in ("projection", "colour")
        }
        assert offered == {"projection": ["PCA"], "colour": ["kind", "neighbour count"]}


def test_a_page_says_which_pictures_it_lacks(browser, spade, tmp_path, monkeypatch):
    monkeypatch.setattr("spade_kit.widgets.atlas._SAVED", 5)
    few = map_images(spade)
    few.save_html(tmp_path / "map.html")
    with open_offline(browser, tmp_path / "map.html") as page:
        shown = Shown(page)
        shown.root.get_by_text("Without Python, 5 of 12 photos have pictures and neighbours here.").wait_for()
        places = screen_places(shown, few)
        for at, kept in ((0, True), (1, False)):
            page.mouse.move(*places[at])
            shown.root.locator(".sk-live", has_text="its neighbours: normal" if kept else "need Python").wait_for()
            assert shown.root.locator(".sk-thumb").is_visible() == kept


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [700, 1000, 1600])
def test_nothing_moves_or_is_cut_off_and_axe_finds_nothing(browser, saved, scored, scheme, width):
    with open_offline(browser, saved, viewport={"width": width, "height": 900}, color_scheme=scheme) as page:
        shown = Shown(page)
        parts = ".sk-head, .sk-atlas, .sk-live, .sk-strip, .sk-foot"
        measure = "nodes => nodes.map(node => [node.offsetTop, node.offsetHeight])"
        before = shown.root.locator(parts).evaluate_all(measure)
        places = screen_places(shown, scored)
        low, high = places.min(0) - 9, places.max(0) + 9
        page.evaluate(COUNT_FIRST)
        draw_lasso(shown, [low, (high[0], low[1]), high, (low[0], high[1])])
        assert len(cards_of(shown)) == 24
        assert page.evaluate("window.first") == 24  # all pictures come at once
        page.mouse.move(*places[12])
        shown.choose("colour", "score")
        shown.choose("projection", "tsne")
        assert shown.root.locator(parts).evaluate_all(measure) == before
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert_accessible(page)


def test_the_legend_of_a_reopened_notebook_has_the_same_order(browser, lab):
    legend = lambda notebook: Shown(notebook.page).root.locator(".sk-kinds").first.inner_text()  # noqa: E731
    with Notebook(browser, lab, "kept_atlas.ipynb", *CELLS[:2]) as notebook:
        notebook.until("atlas.waiting", "", 60)
        before = legend(notebook)
        assert before.split()[::2][:2] == ["normal", "good"]
        notebook.page.evaluate("jupyterapp.commands.execute('docmanager:save')")
        notebook.page.wait_for_function("!jupyterapp.shell.currentWidget.context.model.dirty", timeout=20_000)
    shutil.copy(lab.folder / "kept_atlas.ipynb", lab.folder / "reopened_atlas.ipynb")
    with Notebook(browser, lab, "reopened_atlas.ipynb", run=False) as notebook:
        assert legend(notebook) == before


def test_the_lasso_filters_the_strip_of_a_linked_explorer(notebook, atlas):
    shown, other = Shown(notebook.page), Shown(notebook.page, 1)
    notebook.until("atlas.waiting == '' and len(atlas._known)", 24, 30)
    stage_of(shown).scroll_into_view_if_needed()
    shown.settle()
    places = screen_places(shown, atlas)
    low, high = places[2] - 40, places[2] + 40
    corners = np.array([low, (high[0], low[1]), high, (low[0], high[1])]).round()
    draw_lasso(shown, corners)
    inside = np.flatnonzero(Path(np.vstack([corners, corners[:1]])).contains_points(places)).tolist()
    notebook.until("[*atlas.selection, *(12 + at for at in atlas.selected_normals)]", inside)
    tests = [at for at in inside if at < 12]
    assert tests
    shown.root.locator(f".sk-card[data-key='{inside[-1]}'] img[src]").wait_for()
    other.root.locator(".sk-strip").first.locator(f":scope:not(:has(> :nth-child({len(tests) + 1})))").wait_for()
    strip = other.root.locator(".sk-strip").first
    assert sorted(int(card.get_attribute("data-key")) for card in strip.locator(".sk-card").all()) == tests
    assert f"Only the {len(tests)} photos" in strip.get_attribute("data-remark")
    shown.choose("colour", "score")
    notebook.until("bool((atlas._scores > 0).all())", True, 60)
    highest = notebook.ask("float(max(atlas._scores))")
    shown.root.locator(".sk-kinds", has_text=f"{highest:.1f}").wait_for()
