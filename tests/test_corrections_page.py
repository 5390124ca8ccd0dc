"""The correction controls of the explorer in a real browser: equal to a refit, listed, and undoable."""

import re

import numpy as np
import pytest
from browsing import Shown, settle_on
from PIL import Image
from test_explorer_page import assert_shows

from spade_kit import SPADE

START = """
import time
import spade_kit
parts = spade_kit.load_dataset("demo")
photos = [*parts.test[::4], parts.train[2]]
spade = spade_kit.SPADE.load("fitted")
ex = spade_kit.explore(spade, photos)
few = spade_kit.explore(spade_kit.SPADE(k=2).fit(parts.train[:2]))
def reset(explorer=ex):
    while explorer.gallery["undo"]:
        explorer.undo()
    for name, value in explorer.about["start"].items():
        setattr(explorer, name, value)
    explorer.index, explorer.pinned, explorer.alone, explorer.problem = 0, False, False, ""
    explorer.finish()
"""
CELLS = (START, "ex", "few")
CHIP, GOOD, FITTED = 0, 2, 12  # a defect, a good photo, and one fitted as normal 2
STALE = "cards => cards.filter(card => card.classList.contains('stale')).length"


@pytest.fixture(scope="module")
def photos(demo):
    return [*demo.test[::4], demo.train[2]]


@pytest.fixture(scope="module")
def with_good(demo, photos):
    """A refit that includes the good photo as normal 12."""
    return SPADE(k=5).fit([*demo.train[:12], photos[GOOD]])


@pytest.fixture(scope="module")
def nearest(spade, photos) -> int:
    """The normal photo nearest to the chip."""
    return int(spade.predict(photos[CHIP]).neighbours.index[0])


@pytest.fixture(scope="module")
def without_nearest(demo, nearest):
    """A refit without it."""
    return SPADE(k=5).fit([sample for index, sample in enumerate(demo.train[:12]) if index != nearest])


@pytest.fixture
def shown(notebook):
    notebook.execute("reset()")
    shown = Shown(notebook.page)
    notebook.page.mouse.move(0, 0)
    settle(notebook, shown)
    return shown


def settle(notebook, shown, name: str = "ex") -> None:
    settle_on(notebook, shown, name, "matches")


def look_at(notebook, shown, index: int) -> None:
    notebook.execute(f"ex.index = {index}")
    settle(notebook, shown)


def corrected(shown) -> str:
    """The line that lists the corrections, or ""."""
    line = shown.root.locator(".sk-corrected")
    return line.locator("span").inner_text() if line.is_visible() else ""


def neighbours(shown):
    return shown.root.get_by_label("retrieved normal photos").locator(".sk-card")


def press_in_head(shown, name: str) -> None:
    shown.root.locator(".sk-head").get_by_role("button", name=name, exact=True).click()


def call_not_normal(shown, rank: int) -> None:
    """Select a neighbour and remove it."""
    neighbours(shown).nth(rank).click()
    shown.root.locator(".sk-chosen").get_by_role("button", name="not normal", exact=True).click()


def assert_slider_of_k(shown, k: int, normals: int, others: int | None = None) -> None:
    """The maximum is one less for a photo that is judged against the others."""
    slider = shown.root.get_by_label("K", exact=True)
    assert (slider.input_value(), slider.get_attribute("max")) == (str(k), str(others or normals))
    assert slider.get_attribute("aria-valuetext") == f"{k} of {normals}"


# ---- adding and removing ---------------------------------------------------------------------------------------------


def test_a_good_photo_is_added_to_the_normal_ones_and_undone(notebook, shown, spade, photos, with_good):
    look_at(notebook, shown, GOOD)
    before = spade.predict(photos[GOOD])
    name = f"good/{photos[GOOD].path.stem}"
    assert corrected(shown) == ""
    assert_slider_of_k(shown, 5, 12)
    press_in_head(shown, "this is normal")
    notebook.until("len(ex.spade)", 13)
    settle(notebook, shown)
    assert corrected(shown) == f"13 normal photos now: {name} added"
    assert_shows(shown, shown.map, with_good.predict_left_out(12).anomaly_map, notebook)
    assert_slider_of_k(shown, 5, 13, others=12)
    assert "normal 12, judged against the others" in shown.photo.locator("xpath=..").inner_text()
    assert shown.root.locator(".sk-head").get_by_role("button", name="not normal").is_visible()
    assert shown.root.locator(".sk-source").inner_text().endswith("; 13 normal photos")
    look_at(notebook, shown, CHIP)
    assert_slider_of_k(shown, 5, 13)
    look_at(notebook, shown, GOOD)
    shown.press("undo")
    notebook.until("len(ex.spade)", 12)
    settle(notebook, shown)
    assert corrected(shown) == ""
    assert_shows(shown, shown.map, before.anomaly_map, notebook)
    assert_slider_of_k(shown, 5, 12)
    assert shown.root.locator(".sk-head").get_by_role("button", name="this is normal").is_visible()
    assert "judged against the others" not in shown.photo.locator("xpath=..").inner_text()


def test_a_fitted_photo_is_removed_and_added_again(notebook, shown, demo, photos):
    look_at(notebook, shown, FITTED)
    assert "normal 2, judged against the others" in shown.photo.locator("xpath=..").inner_text()
    press_in_head(shown, "not normal")
    notebook.until("len(ex.spade)", 11)
    settle(notebook, shown)
    assert corrected(shown) == "11 normal photos now: normal 2 (002) removed"
    refitted = SPADE(k=5).fit([sample for index, sample in enumerate(demo.train[:12]) if index != 2])
    assert_shows(shown, shown.map, refitted.predict(photos[FITTED]).anomaly_map, notebook)
    assert_slider_of_k(shown, 5, 11)
    press_in_head(shown, "this is normal")
    notebook.until("len(ex.spade)", 12)
    settle(notebook, shown)
    assert corrected(shown) == "12 normal photos now: normal 2 (002) removed, good/002 added"
    assert shown.root.locator(".sk-head").get_by_role("button", name="not normal").is_visible()
    assert "normal 11, judged against the others" in shown.photo.locator("xpath=..").inner_text()


def test_a_selected_neighbour_is_removed(notebook, shown, photos, nearest, without_nearest):
    call_not_normal(shown, 0)
    notebook.until("len(ex.spade)", 11)
    settle(notebook, shown)
    result = without_nearest.predict(photos[CHIP])
    assert corrected(shown) == f"11 normal photos now: normal {nearest} ({nearest:03}) removed"
    assert_shows(shown, shown.map, result.anomaly_map, notebook)
    assert_slider_of_k(shown, 5, 11)
    for rank, card in enumerate(neighbours(shown).all()):
        index, distance = result.neighbours.index[rank], result.neighbours.distance[rank]
        told = card.get_attribute("aria-label")
        assert told.startswith(f"neighbour {rank + 1}, normal {index}, distance {distance:.2f}, explains ")
    assert neighbours(shown).count() == 5
    assert shown.root.locator(".sk-card[aria-pressed=true]").count() == 1  # the photo; no neighbour is selected now
    assert not shown.pixels(shown.photo, "veil")[..., 3].any()


def test_steps_are_listed_and_undone_one_by_one(notebook, shown, spade, photos, with_good):
    look_at(notebook, shown, GOOD)
    press_in_head(shown, "this is normal")
    notebook.until("len(ex.spade)", 13)
    settle(notebook, shown)
    steps = [f"good/{photos[GOOD].path.stem} added"]
    for left in (12, 11, 10):
        gone = int(neighbours(shown).first.get_attribute("data-key"))
        stem = notebook.ask(f"ex.spade.gallery.normals[{gone}].sample.path.stem")
        call_not_normal(shown, 0)
        notebook.until("len(ex.spade)", left)
        settle(notebook, shown)
        steps.append(f"normal {gone} ({stem}) removed")
    assert corrected(shown) == f"10 normal photos now: 1 earlier, {', '.join(steps[1:])}"
    for left in (11, 12):
        shown.press("undo")
        notebook.until("len(ex.spade)", left)
        settle(notebook, shown)
        steps.pop()
        assert corrected(shown) == f"{left} normal photos now: {', '.join(steps)}"
    shown.press("undo")
    notebook.until("len(ex.spade)", 13)
    settle(notebook, shown)
    assert_shows(shown, shown.map, with_good.predict_left_out(12).anomaly_map, notebook)
    shown.press("undo")
    notebook.until("len(ex.spade)", 12)
    settle(notebook, shown)
    assert corrected(shown) == ""
    assert_shows(shown, shown.map, spade.predict(photos[GOOD]).anomaly_map, notebook)


# ---- effects ---------------------------------------------------------------------------------------------------------


def read_pictures(cards) -> dict[int, np.ndarray]:
    """The pictures of cards, by number."""
    drawn = cards.evaluate_all(
        """async cards => Promise.all(cards.map(async card => {
            const image = card.querySelector('img');
            await image.decode();
            const canvas = new OffscreenCanvas(32, 32), context = canvas.getContext('2d');
            context.drawImage(image, 0, 0, 32, 32);
            return [+card.dataset.key, [...context.getImageData(0, 0, 32, 32).data]];
        }))"""
    )
    return {key: np.array(pixels).reshape(32, 32, 4)[..., :3] for key, pixels in drawn}


def which(pixels: np.ndarray, spade) -> int:
    """The normal photo most similar to this picture."""
    side = pixels.shape[:2][::-1]
    pictures = (np.asarray(Image.fromarray(spade.normal_image(at)).resize(side), int) for at in range(len(spade)))
    return int(np.argmin([np.abs(pixels - picture).mean() for picture in pictures]))


def test_numbers_match_their_pictures_before_after_and_after_undo(
    notebook, shown, spade, photos, nearest, without_nearest
):
    shown.slide("K", 10)

    def assert_pictures(judge) -> None:
        settle(notebook, shown)
        result = judge.with_options(k=10).predict(photos[CHIP])
        seen = read_pictures(neighbours(shown))
        assert list(seen) == result.neighbours.index.tolist()
        assert [which(pixels, judge) for pixels in seen.values()] == list(seen)
        for place in ((100, 61), (30, 180), (170, 40)):
            shown.hover(shown.photo, *place)
            shown.page.wait_for_timeout(250)  # a full crop is loaded on first use
            match = result.match(*place)
            assert shown.ring(shown.normal) == (match.row, match.col)
            expected = judge.normal_image(match.image).astype(int)
            assert np.abs(shown.pixels(shown.normal)[..., :3] - expected).mean() < 1
        shown.page.mouse.move(0, 0)

    assert_pictures(spade)
    call_not_normal(shown, 0)
    notebook.until("len(ex.spade)", 11)
    assert_pictures(without_nearest)
    shown.press("undo")
    notebook.until("len(ex.spade)", 12)
    assert_pictures(spade)


def test_threshold_and_scores_are_stale_until_they_are_of_the_corrected_normals(
    notebook, shown, photos, without_nearest
):
    strip = shown.root.get_by_label("photos", exact=True).locator(".sk-card")
    shown.page.wait_for_timeout(400)  # the strip is re-sorted at most this often
    assert strip.evaluate_all(STALE) == 0
    assert shown.root.locator(".sk-bar.stale").count() == 0
    before = notebook.ask("ex.threshold")
    notebook.execute("plain = ex.images.judge; ex.images.judge = lambda *of: (time.sleep(0.2), plain(*of))[1]")
    try:
        call_not_normal(shown, 0)
        shown.root.locator(".sk-bar.stale").wait_for(timeout=5000)
        shown.root.locator(".sk-score.stale", has_text="so far").wait_for(timeout=2000)
        shown.page.wait_for_timeout(400)  # the strip is re-sorted at most this often
        assert strip.evaluate_all(STALE) >= 12  # all except those judged meanwhile
        shown.root.locator(".sk-bar:not(.stale)").wait_for(timeout=20_000)
        shown.page.wait_for_function(
            f"!({STALE})([...document.querySelectorAll('.sk-strip .sk-card')])", timeout=20_000
        )
    finally:
        notebook.execute("del ex.images.judge")
    scores = [without_nearest.predict(sample).image_score for sample in photos[:FITTED]]
    told = [re.findall(r"\d+\.\d\d", card.get_attribute("aria-label"))[-1] for card in strip.all()[:FITTED]]
    assert told == [f"{score:.2f}" for score in scores]
    threshold = without_nearest.threshold(0.01)
    assert notebook.ask("ex.threshold") == pytest.approx(threshold, rel=1e-6) != before
    assert f"Anomaly map ≥ {threshold:.2f}" in shown.map.locator("xpath=..").inner_text()
    reached = sum(without_nearest.predict_left_out(at).image_score >= scores[CHIP] for at in range(11))
    rank = f"{reached} of 11 normal photos score at least this" if reached else "above all 11 normal photos"
    assert shown.root.locator(".sk-score").inner_text() == f"score {scores[CHIP]:.2f}: {rank}"


def test_k_at_the_end_of_its_slider_stays_there(notebook, shown):
    shown.slide("K", 12)
    notebook.until("ex.k", 12)
    call_not_normal(shown, 0)
    notebook.until("len(ex.spade)", 11)
    settle(notebook, shown)
    assert_slider_of_k(shown, 11, 11)
    assert notebook.ask("ex.k") == 11
    shown.press("undo")
    notebook.until("len(ex.spade)", 12)
    settle(notebook, shown)
    assert_slider_of_k(shown, 12, 12)


def test_k_can_be_raised_where_each_k_is_requested(notebook, shown, spade, photos):
    shown.slide("kappa", 6)  # above the limit for following K without the kernel
    notebook.until("ex.kappa", 6)
    settle(notebook, shown)
    assert_slider_of_k(shown, 5, 12)
    for k in (2, 9):
        shown.slide("K", k)
        notebook.until("ex.k", k)
        settle(notebook, shown)
        assert_slider_of_k(shown, k, 12)
        judge = spade.with_options(k=k, kappa=6)
        assert_shows(shown, shown.map, judge.predict(photos[CHIP]).anomaly_map, notebook)


def test_the_copied_code_includes_the_corrections(notebook, shown):
    shown.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    call_not_normal(shown, 0)
    notebook.until("len(ex.spade)", 11)
    settle(notebook, shown)
    shown.press("copy as Python")
    code = shown.page.evaluate("navigator.clipboard.readText()")
    assert "corrected = spade.with_options()" in code
    notebook.execute(code)  # unchanged, with this notebook's variable names
    same = "bool((result.anomaly_map == ex.result.anomaly_map).all())"
    assert notebook.ask(f"[len(spade), len(corrected), {same}]") == [12, 11, True]


# ---- warnings --------------------------------------------------------------------------------------------------------


def test_adding_a_labelled_defect_shows_a_warning(notebook, shown, photos):
    press_in_head(shown, "this is normal")
    notebook.until("len(ex.spade)", 13)
    settle(notebook, shown)
    alert = shown.root.get_by_role("alert")
    alert.filter(has_text="1 of 13 fitted images are labelled as defects, such as 'chip'").wait_for(timeout=2000)
    assert corrected(shown) == f"13 normal photos now: chip/{photos[CHIP].path.stem} added"
    shown.press("undo")
    notebook.until("len(ex.spade)", 12)
    settle(notebook, shown)
    assert alert.count() == 0


def test_an_undo_without_visible_effect_gets_a_reply(notebook, shown, spade, photos, with_good):
    """The page gets only the nearest photos, and the added one may not be among them."""
    elsewhere = next(
        index
        for index, photo in enumerate(photos[:FITTED])
        if index != GOOD and 12 not in with_good.predict(photo).neighbours.index
    )
    notebook.execute(f"ex.kappa = 6; ex.index = {GOOD}; ex.add(); ex.index = {elsewhere}")
    settle(notebook, shown)
    shown.press("undo")
    notebook.until("len(ex.spade)", 12)
    settle(notebook, shown)
    assert corrected(shown) == ""
    assert shown.root.get_by_role("alert").count() == 0


@pytest.fixture
def other(notebook):
    """Two normal photos, each judged against the other."""
    notebook.execute("reset(few)")
    other = Shown(notebook.page, 1)
    settle(notebook, other, "few")
    return other


def test_the_last_normal_photo_cannot_be_removed(notebook, other):
    press_in_head(other, "not normal")
    notebook.until("len(few.spade)", 1)
    settle(notebook, other, "few")
    assert corrected(other) == "1 normal photos now: normal 0 (000) removed"
    neighbours(other).first.click()
    actions = other.root.locator(".sk-chosen").get_by_role("button").all_inner_texts()
    assert actions == ["close"]
    alert = other.root.get_by_role("alert")
    notebook.execute("few._on_message(None, {'kind': 'remove', 'image': 0}, [])")  # as from an outdated page
    alert.filter(has_text="At least one normal image must remain").wait_for(timeout=2000)
    settle(notebook, other, "few")
    assert notebook.ask("len(few.spade)") == 1
    other.press("close this message")
    other.press("next photo")  # the last one has nothing to be judged against
    alert.filter(has_text="needs at least one other normal image").wait_for(timeout=5000)
    settle(notebook, other, "few")
    assert notebook.ask("few.index") == 0
    other.press("undo")
    notebook.until("len(few.spade)", 2)
    settle(notebook, other, "few")
    assert alert.count() == 0


def test_one_remaining_normal_photo_gives_no_reference_level(notebook, other):
    assert other.root.locator(".sk-bar .level").is_visible()
    press_in_head(other, "not normal")
    notebook.until("len(few.spade)", 1)
    settle(notebook, other, "few")
    assert notebook.ask("few.normals") == {}
    assert not other.root.locator(".sk-bar .level").is_visible()
    assert "normal photos" not in other.root.locator(".sk-score").inner_text()
    other.press("undo")
    notebook.until("len(few.spade)", 2)
    notebook.execute("few.finish()")
    settle(notebook, other, "few")
    assert other.root.locator(".sk-bar .level").is_visible()
