"""The method in one picture in a real browser: every number, picture and call checked against the package."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from browsing import Notebook, Shown, assert_accessible, open_offline, read_canvas
from PIL import Image

import spade_kit

CELLS = (
    """
import spade_kit
parts = spade_kit.load_dataset("demo")
spade = spade_kit.SPADE.load("fitted")
stages = spade_kit.show_stages(spade, parts.test[::8])
""",
    "stages",
)
NAMES = ["Image", "Pyramid", "Retrieval", "Correspondence", "Map", "Segmentation"]
SIDE, GAP = 224, 8  # map pixels of a picture, and between two


@pytest.fixture(scope="module")
def thread(demo):
    return next(sample for sample in demo.test if sample.label == "thread")


@pytest.fixture(scope="module")
def result(spade, thread):
    return spade.predict(thread)


@pytest.fixture(scope="module")
def saved(spade, thread, tmp_path_factory):
    path = tmp_path_factory.mktemp("stages") / "stages.html"
    spade_kit.show_stages(spade, thread).save_html(path)
    return path


@pytest.fixture
def shown(browser, saved):
    with open_offline(browser, saved) as page:
        yield Page(page)


class Page(Shown):
    """A user's access to the picture."""

    def __init__(self, page, nth: int = 0) -> None:
        super().__init__(page, nth)
        self.big, self.cards = self.root.locator(".sk-open .sk-stage"), self.root.locator(".sk-step")

    def open(self, name: str) -> None:
        self.cards.filter(has_text=name).click()
        self.settle()

    def slide(self, name: str, value: float) -> None:
        super().slide(name, value)
        self.settle()

    @property
    def told(self) -> str:
        self.settle()
        return self.root.locator(".sk-told").inner_text()

    @property
    def facts(self) -> list[str]:
        self.settle()
        return self.root.locator(".sk-step .fact").all_inner_texts()

    @property
    def spots(self) -> list[tuple[int, int]]:
        """(row, col) of the pixels that the rings of the open stage surround, in the coordinates of both pictures."""
        self.settle()
        path = self.big.locator(".sk-spot .ink").first.get_attribute("d")
        rings = re.findall(r"M([\d.-]+) ([\d.-]+)a([\d.]+)", path)
        return [(round(float(y) - 0.5), round(float(x) + float(r) - 0.5)) for x, y, r in rings]

    def go(self, row: float, col: float, right: int = 0) -> tuple[float, float]:
        """Move the mouse to a pixel of the left picture or of the right one."""
        self.big.scroll_into_view_if_needed()
        box = self.big.bounding_box()
        across = (col + 0.5 + right * (SIDE + GAP)) / (2 * SIDE + GAP)
        place = box["x"] + across * box["width"], box["y"] + (row + 0.5) / SIDE * box["height"]
        self.page.mouse.move(*place)
        return place


def test_a_click_on_each_card_opens_its_stage(shown):
    pictures = []
    assert [card.get_attribute("aria-expanded") for card in shown.cards.all()] == ["true"] + ["false"] * 5
    for name in NAMES[1:] + NAMES[:1]:
        shown.open(name)
        expanded = [card.get_attribute("aria-expanded") == "true" for card in shown.cards.all()]
        assert expanded == [other == name for other in NAMES]
        assert shown.root.locator("h2:visible").all_inner_texts() == [f"{NAMES.index(name) + 1} {name}"]
        pictures.append(read_canvas(shown.big.locator("canvas")).tobytes())
    assert len(set(pictures)) == 6
    shown.open("Image")
    assert not shown.big.is_visible()
    assert shown.cards.first.get_attribute("aria-expanded") == "false"


def test_all_is_reached_by_keys(shown, result):
    press = shown.page.keyboard.press
    seen = []
    for _ in range(8):
        press("Tab")
        seen.append(shown.page.evaluate("document.activeElement.querySelector('.name')?.textContent"))
    assert [name for name in seen if name] == NAMES
    shown.cards.nth(3).focus()
    press("Enter")
    shown.big.focus()
    before = shown.spots[0]
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowUp", "ArrowLeft", "ArrowDown"):
        press(key)
    row, col = before[0] + 4, before[1] + 4  # a cell is 4 map pixels
    match = result.match(row, col)
    assert shown.spots == [(row, col), (match.row, match.col + SIDE + GAP)]
    for name in ["Map", "Segmentation", "Image", "Pyramid", "Retrieval"]:
        shown.root.locator(".sk-block.here button").last.focus()
        press("Enter")
        shown.settle()
        assert shown.root.locator("h2:visible").inner_text().endswith(name)
        assert shown.page.evaluate("document.activeElement.closest('.sk-block').classList.contains('here')")
    shown.big.focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft"):
        press(key)
    assert f"Rank 2: normal {result.neighbours.index[1]}, distance {result.neighbours.distance[1]:.3f}." in shown.told


def test_the_calls_give_the_arrays_that_are_named_and_the_result(shown, spade, demo, thread, result):
    shown.page.evaluate("() => void (navigator.clipboard.writeText = () => Promise.reject())")
    shown.press("copy as Python")
    names = {"spade": spade, "image": thread, "normal_images": demo.train[:12]}
    exec(shown.root.locator("textarea").input_value(), names)
    np.testing.assert_allclose(names["anomaly_map"], result.anomaly_map, rtol=1e-4)
    told = f"threshold {names['anomaly_map'][names['anomalous']].min():.2f}"
    assert names["anomalous"].any(), told
    listed = shown.root.locator(".sk-block code").all_text_contents()
    arrays = [re.fullmatch(r"([\w.\[\]]+) (\(.*\))", one) for one in listed]
    shapes = {found[1]: found[2] for found in arrays if found}
    assert len(shapes) == 13
    assert {name: str(tuple(eval(name, names).shape)) for name in shapes} == shapes


def test_a_pixel_under_the_pointer_is_explained_as_in_the_result(shown, result):
    shown.open("Correspondence")
    for row, col in [(71, 137), (5, 5), (220, 3), (110, 112)]:
        shown.go(row, col)
        match = result.match(row, col)
        expected = f"Pixel ({row}, {col}) is explained by pixel ({match.row}, {match.col}) of normal {match.image}, "
        expected += f"rank {match.neighbour + 1}, at distance {match.distance:.2f}."
        assert shown.told == expected
        assert shown.facts[3] == f"distance {match.distance:.{2 if match.distance < 10 else 1}f}"
        assert shown.spots == [(row, col), (match.row, match.col + SIDE + GAP)]
    shown.page.mouse.move(1, 1)
    probe = np.unravel_index(result.anomaly_map.argmax(), result.anomaly_map.shape)
    assert shown.spots[0] == probe
    shown.page.mouse.click(*shown.go(30, 200))
    shown.page.mouse.move(1, 1)
    assert shown.spots[0] == (30, 200)
    shown.open("Pyramid")
    assert shown.told.startswith("Pixel (30, 200) lies in the cells (7, 50) of layer1, (3, 25) of layer2, (1, 12) of")
    shown.open("Map")
    for right in (0, 1):
        shown.go(60, 70, right)
        assert f"after smoothing {result.anomaly_map[60, 70]:.2f}." in shown.told
        assert f"Pixel (60, 70): distance {result.match(60, 70).distance:.2f}" in shown.told


def test_the_pictures_are_those_of_the_image_and_its_match(shown, result):
    shown.open("Correspondence")
    match = result.match(*shown.spots[0])
    drawn = Image.fromarray(read_canvas(shown.big.locator("canvas"))[..., :3]).resize((2 * SIDE + GAP, SIDE))
    pictures = np.asarray(drawn).astype(float)
    for picture, expected in (
        (pictures[:, :SIDE], result.image),
        (pictures[:, -SIDE:], result.normal_image(match.image)),
    ):
        assert abs(picture - expected).mean() < 4


@pytest.mark.parametrize("k", [1, 2, 5])
def test_k_changes_everything_after_it(shown, result, spade, thread, k):
    shown.open("Retrieval")
    shown.slide("K", k)
    expected = result.with_k(k)
    assert f"Mean of the nearest {k}: {expected.retrieval_score:.3f}, the paper's image score." in shown.told
    assert f"image score {expected.image_score:.2f}:" in shown.root.locator(".sk-score").inner_text()
    assert shown.facts[2] == f"{k} of 12 nearest"
    match = expected.match(*np.unravel_index(result.anomaly_map.argmax(), (SIDE, SIDE)))
    assert shown.facts[3] == f"distance {match.distance:.1f}"
    filled, open_ = (shown.big.locator(f"path.{kind}").get_attribute("d").count("M") for kind in ("near", "far"))
    assert (filled, open_) == (k, 12 - k)


@pytest.mark.parametrize("sigma", [0, 2.5, 12])
def test_sigma_smooths_the_map(shown, result, sigma):
    shown.open("Map")
    shown.slide("sigma", sigma)
    expected = result.with_options(sigma=sigma).anomaly_map
    assert shown.told.startswith(f"Maximum: {expected.max():.2f}.")
    assert (
        f"after smoothing {expected[np.unravel_index(result.anomaly_map.argmax(), expected.shape)]:.2f}" in shown.told
    )
    assert shown.facts[4] == f"maximum {expected.max():.1f}"


def test_the_threshold_gives_the_verdict_of_the_result(shown, result, left_out):
    shown.open("Segmentation")
    scores = np.array([one.image_score for one in left_out])
    for threshold in (30, 45.5, 60, 80, result.image_score * 0.999):
        shown.slide("threshold", threshold)
        found, regions = result.segmentation(threshold), result.regions(threshold)
        some = f"{len(regions)} region{'s' if len(regions) > 1 else ''}, {found.sum():,} of 50,176 pixels"
        reached = f"With K 5 and sigma 4, {(scores >= threshold).sum()} of 12 normal images reach it."
        assert shown.told == f"anomalous: {some}. {reached}"
        assert shown.facts[5] == "anomalous"
    shown.slide("threshold", 0)
    highest = float(shown.root.get_by_label("threshold", exact=True).get_attribute("max"))
    shown.slide("threshold", highest)
    verdict = "anomalous" if result.image_score >= highest else "normal"
    assert shown.facts[5] == verdict


@pytest.mark.parametrize("width", [440, 600, 760, 840, 900, 1200])
def test_the_names_of_the_stages_can_be_read_at_any_width(shown, width):
    shown.page.set_viewport_size({"width": width, "height": 1000})
    names = shown.root.locator(".sk-step .name").all()
    assert [name.inner_text() for name in names] == NAMES
    for name in names:
        size, cut = name.evaluate(
            "name => [parseFloat(getComputedStyle(name).fontSize), name.scrollWidth - name.clientWidth]"
        )
        assert size >= 11
        assert cut <= 1


def test_k_sigma_and_the_threshold_can_be_typed(shown, result):
    for card, name, value in (("Retrieval", "K", "3"), ("Map", "sigma", "1.25"), ("Segmentation", "threshold", "61.5")):
        shown.open(card)
        shown.root.get_by_label(f"{name}, typed").fill(value)
        shown.page.keyboard.press("Enter")
    expected = result.with_k(3).with_options(sigma=1.25)
    assert shown.facts[2] == "3 of 12 nearest"
    assert f"image score {expected.image_score:.2f}:" in shown.root.locator(".sk-score").inner_text()
    assert f" {expected.segmentation(61.5).sum():,} of 50,176 pixels." in shown.told


def test_a_high_threshold_finds_the_image_normal(browser, spade, demo, tmp_path):
    good = next(sample for sample in demo.test if sample.label == "good")
    stages = spade_kit.show_stages(spade, good)
    stages.stage, stages.threshold = "segmentation", stages.result.image_score * 1.01
    stages.save_html(tmp_path / "good.html")
    with open_offline(browser, tmp_path / "good.html") as page:
        shown = Page(page)
        assert shown.told.startswith("normal: no pixel reaches the threshold.")
        assert shown.facts[5] == "normal"
        assert shown.root.locator(".sk-score").inner_text().endswith(": normal")


def test_the_chart_and_the_pictures_choose_a_normal_image(shown, result):
    shown.open("Retrieval")
    shown.go(50, (2 * SIDE + GAP) * 3.5 / 12)
    assert shown.told.startswith(f"Rank 4: normal {result.neighbours.index[3]}, ")
    shown.go(50, 2 * SIDE)
    assert ", not retrieved." in shown.told
    tags = shown.big.locator(".sk-tag").all_inner_texts()
    assert tags[0] == "K = 5"
    top = float(tags[1].removeprefix("up: distance, 0 to "))
    bars = shown.big.locator("path.far").get_attribute("d")
    highest = max(float(height) for height in re.findall(r"v([\d.]+)h", bars))  # of the chart's 112 map pixels
    farthest = float(re.search(r"distance ([\d.]+),", shown.told)[1])
    assert farthest / top == pytest.approx(highest / 112, abs=0.02)
    assert [tag.split(":")[0] for tag in tags[3:]] == ["10", "11", "12"]
    assert shown.cards.nth(2).locator(".sk-tag").all_inner_texts() == ["distance"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [700, 850, 1000, 1600])
def test_nothing_moves_or_is_cut_off_and_axe_finds_nothing(browser, saved, scheme, width):
    with open_offline(browser, saved, viewport={"width": width, "height": 900}, color_scheme=scheme) as page:
        shown, places = Page(page), []
        for name in NAMES:
            if name != "Image":
                shown.open(name)
            page.mouse.move(1, 1)
            parts = shown.root.locator(".sk-head, .sk-step, .sk-open, .sk-foot, .sk-open .sk-stage")
            places.append(parts.evaluate_all("nodes => nodes.map(node => [node.offsetTop, node.offsetHeight])"))
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            inside = "nodes => nodes.every(node => node.scrollWidth <= node.clientWidth)"
            assert shown.root.locator(".sk-step, .sk-block, .sk-block pre").evaluate_all(inside)
            assert_accessible(page)
        assert all(place == places[0] for place in places)


def test_with_a_kernel_python_and_the_page_follow_each_other(notebook, spade, demo):
    shown = Page(notebook.page)
    assert shown.root.get_attribute("data-shown") == "0"
    shown.choose("image", "3")
    shown.root.locator(":scope[data-shown='3']").wait_for()
    expected = spade.predict(demo.test[24])
    shown.root.locator(".sk-score", has_text=f"image score {expected.image_score:.2f}").wait_for()
    shown.open("Retrieval")
    notebook.until("stages.stage", "retrieval")
    shown.slide("K", 9)
    notebook.until("stages.k", 9)
    nine = spade.with_options(k=9).predict(demo.test[24])
    assert notebook.ask("round(stages.result.image_score, 2)") == round(nine.image_score, 2)
    notebook.execute("stages.k, stages.sigma, stages.stage = 3, 0, 'map'")
    raw = expected.with_k(3).with_options(sigma=0).image_score
    shown.root.locator(".sk-score", has_text=f"image score {raw:.2f}").wait_for()
    assert shown.root.locator("h2:visible").inner_text() == "5 Map"
    notebook.execute("stages.threshold = 1000")
    shown.root.locator(".sk-score", has_text="normal").wait_for()
    assert notebook.ask("stages.problem") == ""  # Python knows what the page asks for


def test_without_a_kernel_a_reopened_notebook_shows_all_stages(browser, lab, spade, demo):
    with Notebook(browser, lab, "kept_stages.ipynb", *CELLS) as notebook:
        Page(notebook.page).settle()
        notebook.page.evaluate("jupyterapp.commands.execute('docmanager:save')")
        notebook.page.wait_for_function("!jupyterapp.shell.currentWidget.context.model.dirty", timeout=20_000)
    assert (lab.folder / "kept_stages.ipynb").stat().st_size < 600_000
    shutil.copy(lab.folder / "kept_stages.ipynb", lab.folder / "reopened_stages.ipynb")
    result = spade.predict(demo.test[0]).with_k(2)
    with Notebook(browser, lab, "reopened_stages.ipynb", run=False) as notebook:
        shown = Page(notebook.page)
        shown.root.get_by_role("alert").filter(has_text="No kernel connected").wait_for(timeout=20_000)
        shown.open("Retrieval")
        shown.slide("K", 2)
        assert f"image score {result.image_score:.2f}:" in shown.root.locator(".sk-score").inner_text()
        shown.open("Correspondence")
        shown.go(100, 61)
        match = result.match(100, 61)
        assert shown.spots == [(100, 61), (match.row, match.col + SIDE + GAP)]
        assert shown.root.get_by_label("image", exact=True).is_disabled()


def test_tall_images_keep_their_shape(browser, spade, demo, tmp_path):
    network = spade_kit.load_backbone(crop=None, resize=64)
    tall = [sample.image[:, 80:240] for sample in demo.train[:4]]
    stages = spade_kit.show_stages(spade_kit.SPADE(network, k=2).fit(tall), tall[:1])
    stages.stage = "correspondence"
    stages.save_html(tmp_path / "tall.html")
    with open_offline(browser, tmp_path / "tall.html") as page:
        shown = Page(page)
        box, (height, width) = shown.big.bounding_box(), stages.photo["size"]
        assert box["width"] / box["height"] == pytest.approx((2 * width + width / 28) / height, rel=0.01)
        assert height == 2 * width
        card = shown.cards.first.locator("canvas").bounding_box()
        assert card["width"] == pytest.approx(card["height"], abs=1)


def test_a_roi_limits_what_is_found(browser, spade, demo, thread, tmp_path):
    mask = np.zeros((320, 320), bool)
    mask[180:, :] = True
    fitted = spade_kit.SPADE(spade.backbone, k=3).fit(demo.train[:4], roi=mask)
    stages = spade_kit.show_stages(fitted, replace(demo, test=[thread]))
    stages.stage, stages.threshold = "segmentation", 30.0
    stages.save_html(tmp_path / "roi.html")
    result = fitted.predict(thread)
    with open_offline(browser, tmp_path / "roi.html") as page:
        shown = Page(page)
        assert f"{np.nansum(result.judged_map >= 30):,} of 50,176 pixels" in shown.told
        assert f"image score {result.image_score:.2f}: anomalous" in shown.root.locator(".sk-score").inner_text()
