"""The explorer outside JupyterLab (saved pages, Voila, Notebook 7), and its accessibility."""

import subprocess
import sys

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import (
    READY,
    Jupyter,
    Notebook,
    Shown,
    assert_accessible,
    open_offline,
    read_saved,
    wait_for,
    write_notebook,
)

import spade_kit
from spade_kit.scores import make_map

START = """
import spade_kit
parts = spade_kit.load_dataset("demo")
ex = spade_kit.explore(spade_kit.SPADE.load("fitted"), parts.test[:4])
"""
SEEN = (2, 26)
# what is wider than its box, or than the page
CUT = """() => {
    const root = document.querySelector('.spade-kit');
    return [...root.querySelectorAll('button, label, select, figcaption, th, td')].filter(node => {
        const [inner, outer] = [node.getBoundingClientRect(), root.getBoundingClientRect()];
        const text = document.createElement('span');
        text.textContent = node.tagName === 'SELECT' ? node.selectedOptions[0]?.textContent : '';
        text.style.font = getComputedStyle(node).font;
        root.append(text);
        const cut = inner.right > outer.right + 1 || node.scrollWidth > node.clientWidth + 1
            // a menu has its arrow beside the text
            || (node.tagName === 'SELECT' && text.getBoundingClientRect().width > node.clientWidth - 26);
        text.remove();
        return cut && inner.width && !node.closest('.sk-strip');
    }).map(node => node.outerHTML.slice(0, 90));
}"""


@pytest.fixture(scope="module")
def saved(spade, demo, tmp_path_factory):
    """Two photos in one file."""
    explorer = spade_kit.explore(spade, demo)
    explorer.index, explorer.alone = SEEN[0], True
    explorer.finish()
    path = tmp_path_factory.mktemp("saved") / "page.html"
    explorer.save_html(path, SEEN)
    return path


@pytest.fixture
def offline(browser, saved):
    """The saved page without a network, and its requests."""
    with open_offline(browser, saved) as page:
        yield page


def grey_of_map(shown: Shown, values: np.ndarray, end: float) -> np.ndarray:
    from matplotlib import colormaps

    expected = colormaps["cividis"](np.clip((values / end * 256).astype(int), 0, 255), bytes=True)
    return np.abs(shown.pixels(shown.map).astype(int) - expected).max()


def test_a_saved_page_takes_at_most_a_megabyte_per_photo_and_refers_to_nothing_outside(saved):
    assert saved.stat().st_size < len(SEEN) * 1_000_000
    text = read_saved(saved)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.slow
def test_a_saved_page_of_fifty_neighbours_takes_less_than_a_megabyte(demo, tmp_path):
    explorer = spade_kit.explore(spade_kit.SPADE().fit(demo.train), demo)
    explorer.index = 40
    explorer.save_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 1_000_000


def test_a_saved_page_follows_the_pointer_and_the_sliders_offline(offline, spade, demo):
    shown = Shown(offline)
    result = spade.predict(demo.test[SEEN[0]])
    shown.hover(shown.photo, 100, 61)
    match = result.match(100, 61)
    assert shown.ring(shown.normal) == (match.row, match.col)
    shown.click(shown.map, 30, 40)
    assert shown.ring(shown.photo, "pinned") == (30, 40)
    shown.slide("K", 2)
    end = 2 * spade.normal_level
    few = result.with_k(2)
    assert grey_of_map(shown, few.anomaly_map, end) <= 4  # of 256 colour values: one grey level
    shown.slide("threshold", end / 4)
    share = (few.anomaly_map >= end / 4).mean()
    assert f"{100 * share:.1f} % of this photo" in shown.map.locator("xpath=..").inner_text()
    shown.slide("overlay", 0.6)
    assert shown.photo.locator("canvas.over").evaluate("c => getComputedStyle(c).opacity") == "0.6"
    shown.press("shares")
    shown.slide("K", 5)
    shown.press("each alone")
    assert "layer1 alone" in shown.layers[0].locator("xpath=..").inner_text()
    shown.press("next photo")
    shown.root.locator(f":scope[data-shown='{SEEN[1]}']").wait_for()
    other = spade.predict(demo.test[SEEN[1]])
    assert grey_of_map(shown, other.anomaly_map, end) <= 4
    shown.hover(shown.photo, 60, 160)
    match = other.match(60, 160)
    assert shown.ring(shown.normal) == (match.row, match.col)
    assert shown.root.get_by_label("kappa", exact=True).is_disabled()
    assert shown.root.get_by_role("alert").count() == 0


def test_a_saved_page_switches_between_the_map_and_its_excess(offline, spade, demo):
    shown, judge = Shown(offline), spade.with_options(judged="excess")
    threshold = lambda: float(shown.root.get_by_label("threshold", exact=True).input_value())  # noqa: E731
    before = threshold()
    for index in SEEN:
        shown.press("excess")
        result = judge.predict(demo.test[index])
        assert grey_of_map(shown, result.excess_map, 2 * result.judged_level) <= 4
        assert threshold() == pytest.approx(judge.threshold(0.01), rel=1e-6)
        share = (result.excess_map >= judge.threshold(0.01)).mean()
        assert (
            f"{100 * share:.1f} % of this photo, 1.0 % of normal pixels" in shown.map.locator("xpath=..").inner_text()
        )
        shown.slide("threshold", 3)
        shown.press("map")
        assert grey_of_map(shown, result.anomaly_map, 2 * spade.normal_level) <= 4
        assert threshold() == pytest.approx(before)
        shown.press("excess")
        assert threshold() == pytest.approx(3, rel=1e-6)
        shown.slide("threshold", judge.threshold(0.01))
        shown.press("next photo")
        shown.root.locator(f":scope[data-shown='{SEEN[1]}']").wait_for()
        shown.press("map")


def tell_region(region) -> list[str]:
    half = 1e-9  # JavaScript rounds halves up
    area = f"{region.area + half:.1f}" if region.area < 10 else f"{region.area + half:,.0f}"
    where = f"rows {region.top} to {region.bottom - 1}, cols {region.left} to {region.right - 1}"
    normal = f"normal {region.normal}, ({region.normal_row}, {region.normal_col})"
    return [f"{region.Index}", f"{area} px²", f"{region.peak:.1f}", where, normal]


@pytest.mark.parametrize(("share", "sigma"), [(0.5, 4), (0.75, 0), (0.99, 4)])  # rough, regions touch at corners
def test_a_saved_page_lists_the_regions_of_python_and_goes_to_them(offline, spade, demo, share, sigma):
    shown, result = Shown(offline), spade.with_options(sigma=sigma).predict(demo.test[SEEN[0]])
    shown.slide("sigma", sigma)
    threshold = float(np.quantile(result.anomaly_map, share))
    shown.slide("threshold", threshold)
    expected = list(result.regions(threshold).itertuples())
    listed = [row.locator("th, td").all_inner_texts() for row in shown.root.locator(".sk-regions tbody tr").all()]
    assert listed == [tell_region(region) for region in expected[:20]]
    more = f"{len(expected) - 20} more, with lower peaks" if len(expected) > 20 else ""
    assert shown.root.locator(".sk-regions p").inner_text() == more
    for stage in (shown.photo, shown.map):
        numbers = stage.locator(".sk-numbers span").all()
        assert [number.inner_text() for number in numbers] == [cells[0] for cells in listed]
        limits = stage.bounding_box()
        for number, region in zip(numbers, expected):
            box = number.bounding_box()
            assert limits["x"] <= box["x"] <= box["x"] + box["width"] <= limits["x"] + limits["width"]
            row = (box["y"] + box["height"] / 2 - limits["y"]) * shown.size[0] / limits["height"] - 0.5
            assert row == pytest.approx(np.clip(region.row, 6, shown.size[0] - 7), abs=2)
    for at in {0, len(listed) - 1}:
        row, region = shown.root.locator(".sk-regions tbody tr").nth(at), expected[at]
        if at:
            row.locator("td").nth(1).click()
        else:
            row.get_by_role("button").focus()
            offline.keyboard.press("Enter")
        assert shown.ring(shown.map, "pinned") == (region.row, region.col)
        assert shown.ring(shown.normal, "pinned") == (region.normal_row, region.normal_col)
        assert shown.root.locator(".sk-regions .here th").inner_text() == f"{region.Index}"


def test_without_a_region_a_saved_page_says_so(offline):
    shown = Shown(offline)
    shown.slide("threshold", 1e6)
    offline.evaluate("0")
    assert shown.root.locator(".sk-regions").inner_text() == "No region reaches the threshold."
    assert shown.root.locator(".sk-numbers span").count() == 0


def test_a_saved_page_offers_no_more_neighbours_than_it_has(browser, spade, demo, tmp_path, monkeypatch):
    monkeypatch.setattr("spade_kit.widgets._shared.caches._REACH", 7)
    path = tmp_path / "page.html"
    spade_kit.explore(spade, demo).save_html(path)
    with open_offline(browser, path) as page:
        shown = Shown(page)
        assert shown.root.get_by_label("K", exact=True).get_attribute("max") == "7"
        shown.slide("K", 12)
        seven = spade.predict(demo.test[0]).with_options(k=7)
        assert grey_of_map(shown, seven.anomaly_map, 2 * spade.normal_level) <= 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_there_are_no_serious_accessibility_violations(browser, saved, scheme):
    page = browser.new_page(color_scheme=scheme)
    page.goto(saved.as_uri())
    shown = Shown(page)
    shown.press("help")
    shown.root.get_by_label("retrieved normal photos").locator(".sk-card").nth(1).click()
    assert_accessible(page)
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_saved_page_stays_inside_a_drawn_roi(browser, spade, demo, tmp_path, scheme):
    explorer = spade_kit.explore(spade, [demo.test[26], demo.test[0].image[:, 20:300]])
    explorer.roi = [(60, 60), (60, 250), (250, 200)]
    explorer.save_html(tmp_path / "page.html", photos=[0, 1])
    with open_offline(browser, tmp_path / "page.html", color_scheme=scheme) as page:
        shown = Shown(page)
        score = spade.predict(demo.test[26], roi=explorer.roi).image_score
        assert f"score {score:.2f}" in shown.root.locator(".sk-score").inner_text()
        assert shown.root.locator(".sk-roi code").inner_text() == "roi = [(60, 60), (60, 250), (250, 200)]"
        shown.press("next photo")
        shown.root.locator(".sk-roi", has_text="320 x 280 px and is judged without it").wait_for(timeout=2000)
        assert_accessible(page)


@pytest.fixture(scope="module")
def pair(spade, demo, tmp_path_factory):
    """Two photos beside each other, with the ratio map of each."""
    explorer = spade_kit.explore(spade, demo)
    explorer.index, explorer.beside, explorer.ratio = 2, 26, True
    path = tmp_path_factory.mktemp("pair") / "page.html"
    explorer.save_html(path)
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_saved_page_keeps_two_photos_and_their_ratio_maps(browser, pair, spade, demo, scheme):
    second = spade.predict(demo.test[26])
    with open_offline(browser, pair, color_scheme=scheme) as page:
        shown = Shown(page)
        shown.root.locator(":scope.beside").wait_for(timeout=5000)
        shown.hover(shown.map, 100, 61)
        match = second.match(100, 61)
        assert shown.ring(shown.stages.nth(3)) == (100, 61)
        assert shown.ring(shown.stages.nth(5)) == (match.row, match.col)
        assert_accessible(page)
        shown.choose("beside", "")
        assert shown.root.locator(":scope.beside").count() == 0
        shown.choose("photo", "26")
        shown.root.locator(":scope[data-shown='26']").wait_for(timeout=5000)
        between = make_map(second.ratio_map, (224, 224), 0)
        assert grey_of_map(shown, between, 1) <= 4
        shown.slide("K", 2)
        shown.root.locator(".sk-remark", has_text="ratios are known for K = 5").wait_for(timeout=2000)
        shown.choose("beside", "2")
        shown.root.locator(":scope.beside").wait_for(timeout=5000)


@pytest.mark.parametrize("width", [700, 1000, 1600])
@pytest.mark.parametrize("two", [False, True])
def test_a_saved_compact_page_fits_700_px(browser, spade, demo, tmp_path, width, two):
    explorer = spade_kit.explore(spade, demo)
    explorer.index, explorer.compact, explorer.beside = 2, True, 26 if two else None
    explorer.probe = 100, 61
    explorer.save_html(tmp_path / "page.html")
    with open_offline(browser, tmp_path / "page.html", viewport={"width": width, "height": 900}) as page:
        shown = Shown(page)
        if two:
            shown.root.locator(":scope.beside").wait_for(timeout=5000)
        assert shown.root.locator("h1").is_visible()
        assert shown.root.bounding_box()["height"] <= (700 if width > 900 or not two else 1000)
        rows = {round(shown.stages.nth(at).bounding_box()["y"]) for at in range(6 if two else 3)}
        assert len(rows) == (1 if width > 900 or not two else 2)
        assert page.evaluate(CUT) == []


@pytest.mark.parametrize("width", [760, 1600])
def test_nothing_is_cut_off_at_any_width(browser, saved, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(saved.as_uri())
    Shown(page)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.evaluate(CUT) == []
    page.close()


def test_at_200_percent_zoom_rings_are_at_the_pointer(browser, saved, spade, demo):
    context = browser.new_context(viewport={"width": 640, "height": 500}, device_scale_factor=2)
    page = context.new_page()
    page.goto(saved.as_uri())
    shown = Shown(page)
    shown.hover(shown.photo, 190, 30)
    match = spade.predict(demo.test[SEEN[0]]).match(190, 30)
    assert shown.ring(shown.photo) == (190, 30)
    assert shown.ring(shown.normal) == (match.row, match.col)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    context.close()


def test_a_tap_pins(browser, saved):
    context = browser.new_context(viewport={"width": 800, "height": 1000}, has_touch=True)
    page = context.new_page()
    page.goto(saved.as_uri())
    shown = Shown(page)
    place = shown.at(shown.photo, 120, 90)
    page.touchscreen.tap(place["x"], place["y"])
    assert shown.ring(shown.photo, "pinned") == (120, 90)
    context.close()


def test_layout_does_not_jump_while_hovering(offline):
    shown = Shown(offline)
    tops = set()
    for row in range(4, 220, 24):
        shown.hover(shown.photo, row, 223 - row)
        offline.wait_for_timeout(180)
        tops.add(shown.root.locator(".sk-foot").evaluate("foot => foot.offsetTop"))
    assert max(tops) - min(tops) <= 24  # at most a line of the readout


def test_a_page_with_one_photo_stays_on_it(browser, spade, demo, tmp_path):
    explorer = spade_kit.explore(spade, demo)
    explorer.index = 7
    explorer.save_html(tmp_path / "one.html")
    page = browser.new_page()
    page.goto((tmp_path / "one.html").as_uri())
    shown = Shown(page)
    shown.press("next photo")
    assert shown.root.get_attribute("data-shown") == "7"
    page.close()


def test_the_explorer_works_in_voila(browser, spade, tmp_path):
    spade.save(tmp_path / "fitted")
    write_notebook(tmp_path / "app.ipynb", START, "ex")
    voila = Jupyter(tmp_path, "voila", "--Voila.ip=127.0.0.1", str(tmp_path / "app.ipynb"))
    try:
        wait_for(f"http://127.0.0.1:{voila.port}/voila/static/favicon.ico?token={voila.query}", voila.process)
        page = browser.new_page()
        page.goto(voila.url(""))
        shown = Shown(page)
        shown.slide("kappa", 2)
        shown.settle()
        shown.press("next photo")
        shown.settle()
        assert shown.root.get_attribute("data-shown") == "1"
        page.close()
    finally:
        voila.close()


def test_the_explorer_works_in_notebook_7(browser, lab):
    write_notebook(lab.folder / "seven.ipynb", START, "ex")
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.goto(lab.url("notebooks/seven.ipynb"))
    page.wait_for_selector(".jp-Notebook")
    page.wait_for_function(READY, timeout=60_000)
    page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
    shown = Shown(page)
    shown.slide("kappa", 2)
    shown.settle()
    assert shown.root.get_by_role("alert").count() == 0
    page.close()


def test_text_is_readable_in_both_jupyterlab_themes(browser, lab):
    notebook = Notebook(browser, lab, "themes.ipynb", START, "ex.finish()", "ex")
    shown = Shown(notebook.page)
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        notebook.page.evaluate(f"jupyterapp.commands.execute('apputils:change-theme', {{ theme: '{theme}' }})")
        notebook.page.wait_for_timeout(800)
        shown.settle()
        found = Axe().run(notebook.page, context=[[".spade-kit"]], options={"runOnly": ["color-contrast"]})
        assert found.response["violations"] == [], found.generate_report()
    notebook.close()


@pytest.mark.slow
def test_the_explorer_works_in_a_script_without_an_event_loop(spade, tmp_path):
    spade.save(tmp_path / "fitted")
    script = START + "ex.finish(); print(ex); print(ex.readout().columns.tolist())"
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("Explorer(")
    assert "'distance', 'layer1', 'layer2', 'layer3']" in run.stdout
