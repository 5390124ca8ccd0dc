"""Reviewing normal photos in a real browser: keys and buttons, with the display checked against Python."""

import numpy as np
import pytest
from browsing import (
    INSIDE,
    Notebook,
    Shown,
    assert_accessible,
    lay_out,
    open_offline,
    page_hurries,
    read_canvas,
    resized,
    run_beside,
    settle_on,
)
from PIL import Image

from spade_kit import review_suspects
from spade_kit.figures.style import SCALE
from spade_kit.widgets._shared.encoding import colour_table

START = """
import time
import spade_kit
parts = spade_kit.load_dataset("demo")
spade = spade_kit.SPADE.load("fitted")
rv = spade_kit.review_suspects(spade)
three = spade_kit.SPADE(k=2).fit(parts.train[:3])
kept, gone = (spade_kit.review_suspects(three) for _ in range(2))
def reset(review=rv):
    while review.kept or review.dropped or review.unknown:
        review.undo()
    review.index, review.problem = int(review.spade.suspects().index[0]), ""
    review.finish()
"""
CELLS = (START, "rv", "kept", "gone")
COLOURS = np.frombuffer(colour_table(), np.uint8).reshape(256, 3)
CUT_OFF = """root => [...root.querySelectorAll('button, label, figcaption, p, span')].filter(node => {
    const [inner, outer] = [node.getBoundingClientRect(), document.documentElement.getBoundingClientRect()];
    const cut = inner.left < -1 || inner.right > outer.right + 1 || node.scrollWidth > node.clientWidth + 1;
    return cut && inner.width && !node.closest('.sk-strip');
}).map(node => node.outerHTML.slice(0, 90))"""
KEYS = {"keep": "good G", "drop": "defect D", "skip": "unknown U", "undo": "undo Z"}
PLACES = ((100, 61), (5, 9), (218, 130))


@pytest.fixture
def shown(notebook):
    notebook.execute("reset()")
    shown = Shown(notebook.page)
    notebook.page.mouse.move(0, 0)
    settle(notebook, shown)
    return shown


def settle(notebook, shown, name: str = "rv") -> None:
    settle_on(notebook, shown, name, "photo")


def until_decided(notebook, shown, kept: list[int], dropped: list[int], index: int) -> None:
    notebook.until("[rv.kept, rv.dropped, rv.index]", [kept, dropped, index])
    settle(notebook, shown)


def cards_of(shown) -> list[tuple[int, str, str]]:
    """Number, class and text of each card of the strip, in order."""
    cards = shown.root.locator(".sk-card").evaluate_all(
        "cards => cards.map(card => [+card.dataset.key, card.className, card.innerText])"
    )
    return [(key, kinds, " ".join(text.replace("\u200b", "").split())) for key, kinds, text in cards]


def progress(shown) -> str:
    return shown.root.locator(".sk-score").inner_text()


def assert_shows(shown, result, level: float) -> None:
    """Photo, map and outline match this result, the map within one grey level."""
    photo = shown.pixels(shown.photo)[..., :3].astype(int)
    assert np.abs(photo - result.image).mean() < 3
    grey = np.clip(result.judged_map / (SCALE * level) * 256, 0, 255).astype(int)
    drawn = shown.pixels(shown.map)[..., :3].astype(int)
    off = [np.abs(drawn - COLOURS[np.clip(grey + by, 0, 255)]).sum(-1) for by in (-1, 0, 1)]
    assert np.min(off, 0).max() <= 2
    inside = np.array(shown.photo.locator(".sk-found .ink").evaluate(INSIDE), bool).reshape(224, 224)
    clear = np.abs(result.judged_map - level) > 0.5  # outlines are rounded to a tenth of a pixel
    np.testing.assert_array_equal(inside[clear], (result.judged_map >= level)[clear])
    caption = shown.map.locator("xpath=..").inner_text()
    assert f"score {result.image_score:.2f}; outline: reference level" in caption


def assert_explains(shown, spade, result, place: tuple[int, int], numbers: list[int]) -> None:
    """Check rings, text and normal photo at a pixel; ``numbers`` are the original numbers of the fitted photos."""
    match = result.match(*place)
    number = numbers[match.image]
    assert shown.ring(shown.photo) == shown.ring(shown.map) == place
    assert shown.ring(shown.normal) == (match.row, match.col)
    said = f"({place[0]}, {place[1]}) → normal {number}, ({match.row}, {match.col}), distance {match.distance:.3f}"
    shown.root.locator(".sk-live", has_text=said).wait_for(timeout=2000)
    assert f"Normal {number}" in shown.normal.locator("xpath=..").inner_text()
    expected = spade.normal_image(number).astype(int)
    shown.page.wait_for_timeout(100)  # the crop is loaded on first use
    assert np.abs(shown.pixels(shown.normal)[..., :3] - expected).mean() < 1


def test_a_review_and_a_painting_show_the_excess_and_that_it_is_being_computed(browser, lab, spade, demo, tmp_path):
    judge = spade.with_options(score="excess", judged="excess")
    start = f"""
import spade_kit
parts = spade_kit.load_dataset("demo")
judge = spade_kit.SPADE.load("fitted").with_options(score="excess", judged="excess")
rv, pd = spade_kit.review_suspects(judge), spade_kit.paint_defect(judge, parts, folder={str(tmp_path)!r})
"""
    with Notebook(browser, lab, "excess.ipynb", start, "rv", "pd") as notebook:
        review, painting = Shown(notebook.page, 0), Shown(notebook.page, 1)
        notebook.until("[rv.waiting, pd.waiting]", ["", ""])
        notebook.execute("rv.finish(); pd.finish()")
        first = int(judge.suspects().index[0])
        review.root.locator(f":scope[data-shown='{first}']").wait_for()
        for shown in (review, painting):
            shown.settle()
        result = judge.predict_left_out(first)
        assert_shows(review, result, result.judged_level)
        assert "Excess against the others" in review.map.locator("xpath=..").inner_text()
        result, score = judge.predict(demo.test[0]), painting.root.locator(".sk-score")
        assert f"score {result.image_score:.2f} (before {result.image_score:.2f})" in score.inner_text()
        grey = np.clip(result.judged_map / (SCALE * result.judged_level) * 256, 0, 255).astype(int)
        drawn = painting.pixels(painting.map)[..., :3].astype(int)
        assert min(np.abs(drawn - COLOURS[np.clip(grey + by, 0, 255)]).sum(-1).mean() for by in (-1, 0, 1)) < 2
        notebook.execute("rv.waiting = pd.waiting = 'computing the excess: 3 of 12 normal photos judged…'")
        notebook.execute("rv._refresh(); pd._refresh(); pd._show()")
        for shown in (review, painting):
            shown.root.locator(".sk-score", has_text="3 of 12 normal photos judged…").wait_for()
            assert shown.root.locator(".sk-spinner").is_visible()
            assert not shown.photo.locator(".sk-found .ink").get_attribute("d")


# ---- keep, drop, undo ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hand", ["keys", "buttons"])
def test_photos_are_kept_dropped_and_undone(notebook, shown, spade, most_anomalous, refit, hand):
    def decide(kind: str) -> None:
        if hand == "keys":
            shown.page.keyboard.press(KEYS[kind][-1].lower())
        else:
            shown.press(KEYS[kind])

    shown.photo.focus()
    first, second, *_ = most_anomalous
    assert_shows(shown, spade.predict_left_out(first), spade.normal_level)
    assert progress(shown) == "0 kept, 0 dropped, 12 to review; 12 normal photos"
    decide("drop")
    refitted, left = refit
    scores = refitted.suspects()["score"]
    following = [left[at] for at in scores.index]
    notebook.until("[rv.kept, rv.dropped, rv.index]", [[], [first], second])
    settle(notebook, shown)
    assert_shows(shown, refitted.predict_left_out(left.index(second)), spade.normal_level)
    notebook.execute("rv.finish()")
    settle(notebook, shown)
    assert progress(shown) == "0 kept, 1 dropped, 11 to review; 11 normal photos"
    assert [key for key, *_ in cards_of(shown)] == [first, *following]
    decide("keep")
    until_decided(notebook, shown, [second], [first], following[1])
    assert progress(shown) == "1 kept, 1 dropped, 10 to review; 11 normal photos"
    decide("undo")
    until_decided(notebook, shown, [], [first], second)
    decide("undo")
    until_decided(notebook, shown, [], [], first)
    assert_shows(shown, spade.predict_left_out(first), spade.normal_level)
    notebook.execute("rv.finish()")
    settle(notebook, shown)
    assert [key for key, *_ in cards_of(shown)] == most_anomalous
    assert shown.root.get_by_role("button", name=KEYS["undo"]).is_disabled()


@pytest.mark.parametrize("width", [700, 1000, 1600])
def test_nothing_moves_when_much_is_decided(notebook, shown, width):
    with resized(shown, width):
        before = lay_out(shown.root)
        notebook.execute("rv.keep(); rv.drop(); rv.skip()")
        settle(notebook, shown)
        assert progress(shown).startswith("1 kept, 1 dropped, 1 unknown, 9 to review; 11 normal photos")
        assert lay_out(shown.root) == pytest.approx(before, abs=1)


def test_the_pictures_are_enlarged_together_and_bare_while_h_is_held(notebook, shown):
    windows = lambda: {view.get_attribute("viewBox") for view in shown.root.locator(".marks").all()}  # noqa: E731
    shown.hover(shown.photo, 100, 61)
    shown.page.keyboard.down("Control")
    shown.page.mouse.wheel(0, -60)
    shown.page.keyboard.up("Control")
    shown.root.locator(".sk-stage.zoomed").first.wait_for()
    (window,) = windows()
    assert float(window.split()[2]) == pytest.approx(224 / np.exp(0.6), rel=1e-3)
    shown.photo.focus()
    shown.page.keyboard.press("0")
    assert windows() == {"0 0 224 224"}
    shown.page.keyboard.down("h")
    assert not shown.root.locator(".marks").first.is_visible()
    shown.page.keyboard.up("h")
    assert shown.root.locator(".marks").first.is_visible()


def test_the_legend_switches_what_is_found(notebook, shown):
    found = shown.root.locator(".sk-found").first
    assert found.is_visible()
    shown.press("above reference level")
    assert not found.is_visible()
    shown.press("above reference level")
    assert found.is_visible()
    assert "H hides marks" in shown.root.locator(".sk-legend").inner_text()


def test_decided_photos_are_marked_and_locked(notebook, shown, most_anomalous):
    shown.photo.focus()
    shown.page.keyboard.press("d")
    until_decided(notebook, shown, [], most_anomalous[:1], most_anomalous[1])
    shown.page.keyboard.press("k")
    notebook.until("rv.kept", [most_anomalous[1]])
    notebook.execute("rv.finish()")
    settle(notebook, shown)
    dropped, kept, *others = cards_of(shown)
    assert (dropped[0], kept[0]) == tuple(most_anomalous[:2])
    assert "out" in dropped[1].split()
    assert "✕ dropped" in dropped[2]
    assert "out" not in kept[1].split()
    assert "✓ kept" in kept[2]
    assert all(set(kinds.split()) == {"sk-card"} for _, kinds, _ in others)
    card = shown.root.locator(".sk-card").first
    excluded = card.evaluate("card => getComputedStyle(card.querySelector('.bottom')).textDecorationLine")
    assert excluded == "line-through"
    card.click()
    notebook.until("rv.index", most_anomalous[0])
    settle(notebook, shown)
    assert "✕ dropped" in shown.photo.locator("xpath=..").inner_text()
    for name in [KEYS[kind] for kind in ("keep", "drop", "skip")]:
        assert shown.root.get_by_role("button", name=name, exact=True).is_disabled()
    shown.page.keyboard.press("k")
    shown.page.wait_for_timeout(200)
    assert notebook.ask("[rv.kept, rv.dropped, rv.problem]") == [[most_anomalous[1]], [most_anomalous[0]], ""]


def test_labels_are_given_by_keys_and_kept_in_a_table(browser, lab, demo, tmp_path):
    for sample in demo.train[:4]:
        (tmp_path / sample.path.name).write_bytes(sample.path.read_bytes())
    start = f"""
import pathlib, spade_kit
folder = {str(tmp_path)!r}
table = pathlib.Path(folder, "labels.csv")
parts = spade_kit.load_dataset(folder)
rv = spade_kit.review_suspects(spade_kit.SPADE(k=2).fit(parts.train), folder)
"""
    with Notebook(browser, lab, "labels.ipynb", start, "rv") as notebook:
        shown, rows = Shown(notebook.page), ["path,label"]
        settle(notebook, shown)
        assert shown.root.locator(".sk-source").inner_text().endswith(f"labels in {tmp_path.as_posix()}/labels.csv")
        shown.photo.focus()
        for key, label in (("u", "unknown"), ("g", "good"), ("d", "defect")):
            at = notebook.ask("rv.index")
            rows.append(f"{demo.train[at].path.name},{label}")
            shown.page.keyboard.press(key)
            notebook.until("table.read_text().split() if table.exists() else []", rows)
            settle(notebook, shown)
        assert progress(shown).startswith("1 kept, 1 dropped, 1 unknown, 1 to review; 3 normal photos")
        assert "? unknown" in cards_of(shown)[0][2]
        shown.page.keyboard.press("z")
        notebook.until("table.read_text().split() if table.exists() else []", rows[:-1])


def test_stale_scores_are_marked_until_they_are_fresh(notebook, shown, spade, most_anomalous, refit):
    before = {key: text for key, _, text in cards_of(shown)}
    notebook.execute("plain = rv.images.judge; rv.images.judge = lambda *of: (time.sleep(0.2), plain(*of))[1]")
    try:
        shown.photo.focus()
        shown.page.keyboard.press("d")
        notebook.until("rv.dropped", most_anomalous[:1])
        settle(notebook, shown)
        cards = cards_of(shown)[1:]
        scores = {key: text for key, kinds, text in cards if "stale" in kinds.split()}
        assert scores == {key: before[key] for key in most_anomalous[2:]}
        assert progress(shown).endswith("11 normal photos, 10 to rescore")
        shown.root.locator(".sk-card.stale").first.wait_for(state="detached", timeout=20_000)  # in the background
    finally:
        notebook.execute("del rv.images.judge")
    refitted, left = refit
    scores = refitted.suspects()["score"]
    expected = [(left[at], f"{left[at]} {score:.1f}") for at, score in scores.items()]
    assert [(key, text) for key, _, text in cards_of(shown)[1:]] == expected
    assert progress(shown).endswith("11 normal photos")


def test_a_kept_photo_does_not_wait_for_a_new_score(notebook, shown, most_anomalous):
    notebook.execute("rv.keep(); rv.drop(); rv.finish()")
    settle(notebook, shown)
    kept = shown.root.locator(f".sk-card[data-key='{most_anomalous[0]}']")
    assert "kept" in kept.get_attribute("aria-label")
    assert "not yet rescored" not in kept.get_attribute("aria-label")


def test_decisions_from_python_are_shown(notebook, shown, most_anomalous):
    notebook.execute("rv.index = 7; rv.drop(); rv.index = 3")
    settle(notebook, shown)
    assert [key for key, kinds, _ in cards_of(shown) if "out" in kinds.split()] == [7]
    picked = shown.root.locator(".sk-card[aria-pressed=true]")
    assert picked.get_attribute("data-key") == "3"
    assert "Normal 3: good/003" in shown.photo.locator("xpath=..").inner_text()


# ---- looking ---------------------------------------------------------------------------------------------------------


def test_photos_are_picked_from_the_strip_and_by_keys(notebook, shown, spade, most_anomalous):
    cards = shown.root.locator(".sk-card")
    cards.nth(4).click()
    notebook.until("rv.index", most_anomalous[4])
    settle(notebook, shown)
    assert_shows(shown, spade.predict_left_out(most_anomalous[4]), spade.normal_level)
    assert cards.nth(4).get_attribute("aria-pressed") == "true"
    for key, at in (("]", 5), ("]", 6), ("[", 5)):
        shown.page.keyboard.press(key)
        notebook.until("rv.index", most_anomalous[at])
        settle(notebook, shown)
    shown.root.locator(".sk-score").click()  # on a non-focusable element
    shown.page.keyboard.press("]")
    notebook.until("rv.index", most_anomalous[6])
    notebook.execute(f"rv.index = {most_anomalous[0]}")
    settle(notebook, shown)
    shown.page.keyboard.press("[")  # there is no previous photo
    shown.page.wait_for_timeout(100)
    assert notebook.ask("[rv.index, rv.problem]") == [most_anomalous[0], ""]


def test_cards_have_the_pictures_of_their_photos(notebook, shown, spade, most_anomalous):
    drawn = shown.root.locator(".sk-card img").evaluate_all(
        """async images => Promise.all(images.map(async image => {
            await image.decode();
            const canvas = new OffscreenCanvas(32, 32), context = canvas.getContext('2d');
            context.drawImage(image, 0, 0, 32, 32);
            return [...context.getImageData(0, 0, 32, 32).data];
        }))"""
    )
    pictures = [np.asarray(Image.fromarray(spade.normal_image(at)).resize((32, 32)), int) for at in range(12)]
    for index, pixels in zip(most_anomalous, drawn, strict=True):
        pixels = np.array(pixels).reshape(32, 32, 4)[..., :3]
        assert int(np.argmin([np.abs(pixels - picture).mean() for picture in pictures])) == index


def test_the_match_at_a_place_equals_pythons(notebook, shown, spade, most_anomalous):
    result = spade.predict_left_out(most_anomalous[0])
    highest = tuple(int(at) for at in np.unravel_index(result.anomaly_map.argmax(), (224, 224)))
    assert_explains(shown, spade, result, highest, list(range(12)))
    assert shown.root.locator(".sk-live").inner_text().startswith("Most anomalous pixel: ")
    for place, stage in zip(PLACES, (shown.photo, shown.map, shown.photo)):
        shown.hover(stage, *place)
        assert_explains(shown, spade, result, place, list(range(12)))
    shown.page.mouse.move(0, 0)
    assert_explains(shown, spade, result, highest, list(range(12)))


def test_after_a_drop_matches_keep_the_original_photo_numbers(notebook, shown, spade, most_anomalous, refit):
    refitted, left = refit
    shown.photo.focus()
    shown.page.keyboard.press("d")
    until_decided(notebook, shown, [], most_anomalous[:1], most_anomalous[1])
    result = refitted.predict_left_out(left.index(most_anomalous[1]))
    for place in PLACES:
        shown.hover(shown.photo, *place)
        assert_explains(shown, spade, result, place, left)


def test_the_close_ups_show_the_place_and_its_match(notebook, shown, spade, most_anomalous):
    result = spade.predict_left_out(most_anomalous[0])

    def around(picture: np.ndarray, row: int, col: int) -> np.ndarray:
        """Ten cells of four pixels."""
        return picture[row - 19 : row + 21, col - 19 : col + 21].astype(int)

    def find(place: tuple[int, int]) -> list[tuple[np.ndarray, tuple[int, int]]]:
        match = result.match(*place)
        return [(result.image, place), (spade.normal_image(match.image), (match.row, match.col))]

    places = [(row, col) for row in range(30, 194, 12) for col in range(30, 194, 12)]
    places = [place for place in places if all(26 <= at < 197 for at in find(place)[1][1])]
    place = max(places, key=lambda place: min(around(picture, *at).std((0, 1)).mean() for picture, at in find(place)))
    shown.hover(shown.photo, *place)
    shown.page.wait_for_timeout(300)  # the crop is loaded on first use
    for canvas, (picture, (row, col)) in zip(shown.root.locator(".sk-pair canvas").all(), find(place), strict=True):
        drawn = Image.fromarray(read_canvas(canvas)[..., :3]).resize((40, 40), Image.Resampling.BOX)
        off = {}
        for down in (-6, -3, 0, 3, 6):
            for right in (-6, -3, 0, 3, 6):
                differs = np.abs(around(picture, row + down, col + right) - np.asarray(drawn))
                differs[15:26, 15:26] = 0  # the frame around the cell
                off[down, right] = differs.mean()
        assert min(off, key=off.get) == (0, 0)


# ---- export ----------------------------------------------------------------------------------------------------------


def test_python_code_a_picture_and_a_page_can_be_exported(notebook, shown, most_anomalous, tmp_path):
    shown.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    shown.photo.focus()
    shown.page.keyboard.press("d")
    until_decided(notebook, shown, [], most_anomalous[:1], most_anomalous[1])
    shown.press("copy as Python")
    shown.root.get_by_role("button", name="copied").wait_for()
    code = shown.page.evaluate("navigator.clipboard.readText()")
    assert code.splitlines()[1:] == [f"corrected.remove({most_anomalous[0]})"]
    notebook.execute(code)  # unchanged, with this notebook's variable names
    same = "[n.digest for n in corrected.gallery.normals] == [n.digest for n in rv.spade.gallery.normals]"
    assert notebook.ask(f"[len(spade), len(corrected), {same}]") == [12, 11, True]
    with shown.page.expect_download() as png:
        shown.press("PNG")
    png.value.save_as(tmp_path / "slide.png")
    with Image.open(tmp_path / "slide.png") as slide:
        assert slide.width > 1000
    with shown.page.expect_download() as page:
        shown.press("save page")
    assert page.value.suggested_filename == f"normal-{most_anomalous[1]}.html"


# ---- a saved page ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(spade, tmp_path_factory):
    """A saved page with one dropped and one kept photo."""
    review = review_suspects(spade)
    review.drop()
    review.keep()
    review.finish()
    path = tmp_path_factory.mktemp("saved") / "page.html"
    review.save_html(path)
    return path, review


@pytest.fixture
def offline(browser, saved):
    """The saved page without a network, and its requests."""
    with open_offline(browser, saved[0]) as page:
        yield page


def test_a_saved_page_shows_matches_offline(offline, saved, spade, most_anomalous, refit):
    shown = Shown(offline)
    review, (refitted, left) = saved[1], refit
    assert shown.root.get_attribute("data-shown") == str(review.index)
    result = refitted.predict_left_out(left.index(review.index))
    assert_shows(shown, result, spade.normal_level)
    for place in PLACES:
        shown.hover(shown.map, *place)
        assert_explains(shown, spade, result, place, left)
    assert [key for key, *_ in cards_of(shown)] == [index for index, *_ in review.suspects]
    assert progress(shown) == "1 kept, 1 dropped, 10 to review; 11 normal photos"
    for name in (*KEYS.values(), "save page", "PNG"):
        assert shown.root.get_by_role("button", name=name, exact=True).is_disabled()
    assert shown.root.get_by_role("alert").count() == 0


def test_keys_and_cards_change_nothing_in_a_saved_page(offline, saved):
    shown = Shown(offline)
    before = cards_of(shown), progress(shown), shown.root.get_attribute("data-shown")
    shown.photo.focus()
    for key in "kdu[]":
        offline.keyboard.press(key)
    shown.root.locator(".sk-card").nth(5).click()
    offline.wait_for_timeout(100)
    assert (cards_of(shown), progress(shown), shown.root.get_attribute("data-shown")) == before
    assert shown.root.get_attribute("aria-busy") == "false"
    place = (90, 40)
    shown.hover(shown.photo, *place)
    assert shown.ring(shown.map) == place


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_there_are_no_serious_accessibility_violations(browser, saved, scheme):
    page = browser.new_page(color_scheme=scheme)
    page.goto(saved[0].as_uri())
    Shown(page)
    assert_accessible(page)
    page.close()


@pytest.mark.parametrize("width", [600, 900, 1600])
def test_nothing_is_cut_off_at_any_width(browser, saved, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(saved[0].as_uri())
    shown = Shown(page)
    assert shown.root.evaluate(CUT_OFF) == []
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    if width > 600:  # a name and a line about it
        heights = shown.root.locator("figcaption").evaluate_all("all => all.map(one => one.clientHeight)")
        assert max(heights) < 48
    page.close()


# ---- keyboard --------------------------------------------------------------------------------------------------------


def test_keys_do_not_reach_the_notebook(notebook, shown, most_anomalous):
    """There, they would delete a cell."""
    shown.photo.focus()
    for key in "dduu":
        shown.page.keyboard.press(key)
        shown.page.wait_for_timeout(150)
    notebook.until("[len(rv.dropped), len(rv.unknown)]", [2, 2])
    settle(notebook, shown)
    assert shown.page.evaluate("jupyterapp.shell.currentWidget.content.widgets.length") == 4


@pytest.mark.parametrize("on", ["a card", KEYS["keep"], KEYS["undo"]])
def test_keys_keep_working_after_a_click(notebook, shown, most_anomalous, on):
    """A decision moves the card and may disable the button."""
    if on == "a card":
        shown.root.locator(".sk-card").nth(2).click()
        notebook.until("rv.index", most_anomalous[2])
        settle(notebook, shown)
        shown.page.keyboard.press("k")
        until_decided(notebook, shown, [most_anomalous[2]], [], most_anomalous[0])
    elif on == KEYS["keep"]:
        shown.press(KEYS["keep"])
        until_decided(notebook, shown, [most_anomalous[0]], [], most_anomalous[1])
    else:
        notebook.execute("rv.keep()")
        settle(notebook, shown)
        shown.press(KEYS["undo"])
        until_decided(notebook, shown, [], [], most_anomalous[0])
    kept, index = notebook.ask("[rv.kept, rv.index]")
    shown.page.keyboard.press("k")
    notebook.until("rv.kept", [*kept, index], seconds=3)


def test_keys_wait_for_a_busy_kernel(notebook, shown, most_anomalous):
    """Each counts for the photo that is shown once those before it are done."""
    shown.photo.focus()
    with page_hurries(shown.page):
        run_beside(shown.page, "time.sleep(2)")
        for key in "ddd":
            shown.page.keyboard.press(key)
        shown.page.wait_for_timeout(1500)  # a kernel that is not busy would have replied
        assert shown.root.get_by_role("alert").count() == 0
    notebook.until("[len(rv.dropped), rv.dropped[:2], rv.problem]", [3, most_anomalous[:2], ""])
    settle(notebook, shown)
    before = notebook.ask("rv.index")
    run_beside(shown.page, "time.sleep(1)")
    for key in "g]uz":
        shown.page.keyboard.press(key)
    notebook.until("[len(rv.dropped), rv.kept, rv.unknown]", [3, [before], []])
    settle(notebook, shown)
    following = [index for index, *_, decided in notebook.ask("rv.suspects") if not decided]
    assert notebook.ask("rv.index") in following[1:]  # not the next: a step lay between


def test_keys_after_a_key_that_failed_are_forgotten(notebook):
    shown = of_three(notebook, "gone", 2)
    run_beside(notebook.page, "time.sleep(1)")
    for key in "dddg":
        notebook.page.keyboard.press(key)
    shown.root.get_by_role("alert").filter(has_text="at least one").wait_for(timeout=5000)
    notebook.page.wait_for_timeout(300)
    assert notebook.ask("[len(gone.dropped), len(gone.kept)]") == [1, 0]


def of_three(notebook, name: str, nth: int) -> Shown:
    """A review of three photos, to reach its end quickly."""
    notebook.execute(f"reset({name})")
    shown = Shown(notebook.page, nth)
    settle(notebook, shown, name)
    shown.photo.focus()
    return shown


def test_after_the_last_decision_the_page_is_not_busy(notebook):
    shown = of_three(notebook, "kept", 1)
    order = [key for key, *_ in cards_of(shown)]
    for count in (1, 2, 3):
        notebook.page.keyboard.press("k")
        notebook.until("kept.kept", order[:count])
        settle(notebook, shown, "kept")
    assert progress(shown) == "3 kept, 0 dropped, 0 to review; 3 normal photos"
    assert shown.root.get_attribute("aria-busy") == "false"
    notebook.page.keyboard.press("z")
    notebook.until("kept.kept", order[:2], seconds=3)
    settle(notebook, shown, "kept")
    notebook.page.keyboard.press("k")
    notebook.until("kept.kept", order, seconds=3)
    assert shown.root.get_by_role("alert").count() == 0


def test_dropping_too_many_shows_an_error_and_the_review_continues(notebook):
    shown = of_three(notebook, "gone", 2)
    for _ in range(3):
        left, before = notebook.ask("len(gone.spade)"), cards_of(shown)
        decided = notebook.ask("len(gone.dropped)")
        notebook.page.keyboard.press("d")
        notebook.until(f"len(gone.dropped) > {decided} or gone.problem != ''", True)
        if notebook.ask("gone.problem"):
            break
        settle(notebook, shown, "gone")
    shown.root.get_by_role("alert").filter(has_text="at least one").wait_for(timeout=2000)
    settle(notebook, shown, "gone")
    assert notebook.ask("[len(gone.spade), len(gone.dropped)]") == [left, decided]
    now = [(key, "out" in kinds) for key, kinds, _ in cards_of(shown)]
    assert now == [(key, "out" in kinds) for key, kinds, _ in before]
    notebook.page.keyboard.press("k")
    notebook.until("len(gone.kept)", 1)
    settle(notebook, shown, "gone")
    assert shown.root.get_by_role("alert").count() == 0
