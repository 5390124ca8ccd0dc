"""Going through normal photos without a browser: what is kept and dropped, what a page is told, and mistakes."""

import asyncio
from concurrent.futures import ThreadPoolExecutor as Apart  # a browser's loop may run in this thread
from io import BytesIO

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from spade_kit import SPADE, review_suspects


@pytest.fixture
def review(spade):
    review = review_suspects(spade)
    yield review
    review.close()


def gallery_of(spade) -> list[bytes]:
    return [normal.digest for normal in spade.gallery.normals]


def which(jpeg: bytes, spade) -> int:
    """The normal photo that looks most like a small picture."""
    small = np.asarray(Image.open(BytesIO(jpeg)).resize((224, 224)), int)
    return int(np.argmin([np.abs(small - spade.normal_image(index)).mean() for index in range(len(spade))]))


def told(review) -> tuple:
    """All that is told, but for whether scores of what was decided are of the gallery as it is now."""
    suspects = [(index, score, fresh or bool(decided), decided) for index, score, fresh, decided in review.suspects]
    return review.index, review.kept, review.dropped, suspects, review.state, review.photo["index"]


# ---- the order -------------------------------------------------------------------------------------------------------


def test_the_strangest_comes_first(review, spade, strangest):
    assert review.index == strangest[0]
    assert [index for index, *_ in review.suspects] == strangest == spade.suspects().index.tolist()
    scores = [round(spade.predict_left_out(index).image_score, 3) for index in strangest]
    assert [score for _, score, *_ in review.suspects] == scores
    assert all(fresh and decided == "" for _, _, fresh, decided in review.suspects)
    assert repr(review) == "Review(of 12 normal photos 0 kept, 0 dropped)"


def test_any_of_them_can_be_looked_at(review, spade):
    review.index = 7
    np.testing.assert_array_equal(review.result.anomaly_map, spade.predict_left_out(7).anomaly_map)
    assert review.photo["index"] == 7
    assert review.about["names"][7] == "good/007"


# ---- keep and drop ---------------------------------------------------------------------------------------------------


def test_what_is_kept_changes_nothing_but_the_next_one(review, spade, strangest):
    review.index = strangest[3]
    review.keep()
    assert (review.kept, review.dropped, review.index) == ([strangest[3]], [], strangest[0])
    review.keep()
    assert (review.kept, review.index) == ([strangest[3], strangest[0]], strangest[1])
    assert gallery_of(review.spade) == gallery_of(spade)
    assert [index for index, *_ in review.suspects] == [strangest[at] for at in (3, 0, 1, 2, *range(4, 12))]
    assert [decided for *_, decided in review.suspects][:3] == ["kept", "kept", ""]
    assert review.state == {"kept": 2, "dropped": 0, "left": 12, "code": "# nothing was dropped from spade"}


def test_what_is_dropped_is_gone_as_from_a_refit(review, refit, strangest):
    review.drop()
    anew, left = refit
    review.finish()
    for index in left:
        review.index = index
        alike = anew.predict_left_out(left.index(index))
        np.testing.assert_array_equal(review.result.anomaly_map, alike.anomaly_map)
    ranked = anew.suspects()
    assert [index for index, *_ in review.suspects] == [strangest[0], *(left[at] for at in ranked.index)]
    np.testing.assert_allclose([score for _, score, *_ in review.suspects][1:], ranked["score"], atol=6e-4)
    assert gallery_of(review.spade) == gallery_of(anew)
    assert (review.kept, review.dropped) == ([], [strangest[0]])
    assert (review.state["left"], review.state["dropped"]) == (11, 1)


def test_the_next_suspect_is_the_strangest_that_is_still_to_be_decided(review, refit, strangest):
    review.keep()
    review.index = strangest[5]
    review.drop()
    assert review.index == strangest[1]
    assert review.photo["index"] == strangest[1]


def test_what_was_dropped_is_judged_against_all_that_are_left(review, refit, strangest, demo):
    review.drop()
    review.index = strangest[0]
    alike = refit[0].predict(demo.train[strangest[0]]).anomaly_map
    np.testing.assert_allclose(review.result.anomaly_map, alike, rtol=1e-4, atol=1e-3)  # features of another batch


def test_scores_of_before_say_so_until_they_are_computed_again(review, strangest):
    before = {index: score for index, score, *_ in review.suspects}
    review.drop()
    fresh = {index: fresh for index, _, fresh, _ in review.suspects}
    assert [index for index, yes in fresh.items() if yes] == [review.index]
    stale = {index: score for index, score, yes, _ in review.suspects if not yes}
    assert stale == {index: before[index] for index in stale}
    review.finish()
    assert all(fresh for _, _, fresh, decided in review.suspects if not decided)
    assert {index: score for index, score, *_ in review.suspects if index != strangest[0]} != {
        index: score for index, score in before.items() if index != strangest[0]
    }


def test_the_score_of_what_was_kept_follows_the_gallery_too(review, strangest, demo):
    kept, dropped = strangest[:2]
    review.keep()
    review.drop()
    review.finish()
    left = [index for index in range(12) if index != dropped]
    anew = SPADE(k=5).fit([demo.train[index] for index in left]).predict_left_out(left.index(kept))
    told = next(card for card in review.suspects if card[0] == kept)
    assert told == [kept, pytest.approx(anew.image_score, abs=1e-3), True, "kept"]


def test_scores_come_by_themselves_in_a_running_loop(spade):
    async def wait() -> tuple:
        review = review_suspects(spade)
        review.drop()
        waited = sum(not fresh for _, _, fresh, decided in review.suspects if not decided)
        while not all(fresh for _, _, fresh, decided in review.suspects if not decided):
            await asyncio.sleep(0.05)
        return waited, review.suspects

    waited, suspects = Apart(1).submit(lambda: asyncio.run(asyncio.wait_for(wait(), 30))).result()
    other = review_suspects(spade)
    other.drop()
    other.finish()
    assert (waited, suspects) == (10, other.suspects)


def test_to_finish_between_two_steps_of_the_background_leaves_nothing_untold(review):
    review.drop()
    for compute, tell in review._background_steps():
        if len(review._scores.fresh) == 11:
            break  # all are judged, and the page has yet to hear of it
        tell(compute())
    review.finish()
    assert all(fresh for _, _, fresh, decided in review.suspects if not decided)


# ---- undo ------------------------------------------------------------------------------------------------------------


def test_undo_takes_back_one_decision_after_the_other(review, spade, strangest):
    before = told(review), review.result.anomaly_map
    review.keep()
    kept = told(review)
    review.drop()
    assert len(review.spade) == 11
    review.undo()
    review.finish()
    assert (told(review), gallery_of(review.spade)) == (kept, gallery_of(spade))
    review.undo()
    assert told(review) == before[0]
    np.testing.assert_array_equal(review.result.anomaly_map, before[1])


def test_undo_looks_at_that_photo_again_wherever_one_is(review, strangest):
    review.keep()
    review.index = strangest[8]
    review.undo()
    assert (review.index, review.kept) == (strangest[0], [])


def test_what_was_given_stays_as_it_was(review, spade, strangest):
    gallery, suspects = spade.gallery, spade.suspects()
    review.drop()
    review.drop()
    assert spade.gallery is gallery
    assert len(spade) == 12
    assert spade.suspects().equals(suspects)


# ---- as Python -------------------------------------------------------------------------------------------------------


def test_the_lines_of_python_drop_what_was_dropped(review, spade, strangest, demo):
    review.drop()
    review.keep()
    review.index = 9
    review.drop()
    review.index = 1
    review.drop()
    names = {"spade": spade}
    exec(review.code(), names)
    assert gallery_of(names["corrected"]) == gallery_of(review.spade)
    gone = {strangest[0], 9, 1}
    stems = [normal.sample.path.stem for normal in names["corrected"].gallery.normals]
    assert stems == [demo.train[index].path.stem for index in range(12) if index not in gone]
    assert len(spade) == 12
    assert review.state["code"] == review.code()


def test_without_a_drop_there_is_nothing_to_do(review):
    review.keep()
    assert review.code() == "# nothing was dropped from spade"


# ---- other photos ----------------------------------------------------------------------------------------------------


def test_photos_fitted_as_arrays_are_kept_dropped_and_brought_back(demo):
    arrays = [sample.image for sample in demo.train[:4]]
    spade = SPADE(k=2).fit(arrays)
    review = review_suspects(spade)
    assert review.about["names"] == [f"photo {index}" for index in range(4)]
    first = review.index
    review.drop()
    anew = SPADE(k=2).fit([array for index, array in enumerate(arrays) if index != first])
    assert gallery_of(review.spade) == gallery_of(anew)
    names = {"spade": spade}
    exec(review.code(), names)
    assert gallery_of(names["corrected"]) == gallery_of(anew)
    review.keep()
    review.undo()
    review.undo()
    assert (review.index, gallery_of(review.spade)) == (first, gallery_of(spade))


def test_of_a_photo_that_was_fitted_twice_each_is_dropped_by_itself(demo):
    with pytest.warns(UserWarning, match="1 of 4 fitted images are duplicates"):
        spade = SPADE(k=2).fit([demo.train[0], demo.train[1], demo.train[0], demo.train[2]])
    review = review_suspects(spade)
    review.index = 0
    review.drop()
    assert sorted(gallery_of(review.spade)) == sorted(gallery_of(spade)[1:])
    review.index = 2
    review.drop()
    assert gallery_of(review.spade) == [gallery_of(spade)[1], gallery_of(spade)[3]]
    names = {"spade": spade}
    exec(review.code(), names)
    assert gallery_of(names["corrected"]) == gallery_of(review.spade)


# ---- what a page is told ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropped", [False, True])
def test_a_page_has_the_matches_by_the_numbers_that_photos_had_at_first(review, spade, monkeypatch, dropped):
    if dropped:
        review.drop()
    sent = []
    monkeypatch.setattr(review, "send", lambda content, buffers=(): sent.append((content, list(buffers))))
    seen, result = review.photo["seen"], review.result
    found = result.correspondence
    np.testing.assert_array_equal(np.frombuffer(seen["distance"], "<f4"), found.distance.ravel())
    np.testing.assert_array_equal(np.frombuffer(seen["image"], "<u2"), found.image[0].ravel())
    np.testing.assert_array_equal(np.frombuffer(seen["place"], "<u4"), (found.row[0] * 56 + found.col[0]).ravel())
    assert (seen["grid"], seen["sigma"], review.photo["size"]) == ([56, 56], 4, [224, 224])
    numbers = [number for _, number in seen["normals"]]
    assert [shown for shown, _ in seen["normals"]] == numbers
    assert review.neighbours["images"] == numbers
    assert [which(small, spade) for small in review.neighbours["jpegs"]] == numbers
    review._on_message(None, {"kind": "normals", "images": numbers}, [])
    ((content, jpegs),) = sent
    assert (content["kind"], content["images"]) == ("normals", numbers)
    for number, jpeg, image in zip(numbers, jpegs, result.neighbours.index):
        np.testing.assert_array_equal(spade.normal_image(number), review.spade.normal_image(image))
        np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(jpeg))), spade.normal_image(number))


def test_a_page_that_opens_is_sent_all_small_pictures(review, spade, strangest, monkeypatch):
    sent = []
    monkeypatch.setattr(review, "send", lambda content, buffers=(): sent.append((content, list(buffers))))
    review._on_message(None, {"kind": "hello"}, [])
    (here, _), (thumbs, jpegs) = sent
    assert (here, thumbs) == ({"kind": "here"}, {"kind": "thumbs", "indexes": strangest})
    assert [which(jpeg, spade) for jpeg in jpegs] == strangest


def test_a_page_keeps_drops_and_takes_back(review, strangest):
    for kind, expected in (
        ("keep", ([strangest[0]], 0)),
        ("drop", ([strangest[0]], 1)),
        ("undo", ([strangest[0]], 0)),
        ("undo", ([], 0)),
    ):
        review._on_message(None, {"kind": kind}, [])
        assert (review.kept, len(review.dropped)) == expected
        assert review.problem == ""
    review._on_message(None, {"kind": "undo"}, [])
    assert review.problem == "There is no decision to take back."
    review._on_message(None, {"kind": "keep"}, [])
    assert review.problem == ""
    review.set_state({"index": 5})
    assert (review.photo["index"], review.problem) == (5, "")


def test_a_figure_and_the_picture_that_stands_in_are_the_same_every_time(review, spade):
    assert isinstance(review.draw(), Figure)
    data, _ = review._repr_mimebundle_()
    again, _ = review._repr_mimebundle_()
    anew, _ = review_suspects(spade)._repr_mimebundle_()
    assert set(data) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
    for name in ("image/png", "text/plain"):
        assert data[name] == again[name] == anew[name]


def test_a_saved_page_is_small_and_names_no_other_place(review, tmp_path):
    review.drop()
    review.save_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 1_000_000
    assert "http" not in (tmp_path / "page.html").read_text().replace("http://www.w3.org/2000/svg", "")


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (12, "index must be the number of a normal photo, from 0 to 11; got 12."),
        (-1, "index must be a whole number of at least 0; got -1."),
        (1.5, "index must be a whole number of at least 0; got 1.5."),
    ],
)
def test_a_photo_that_is_none_is_a_mistake_that_changes_nothing(review, value, sentence):
    before = told(review)
    with pytest.raises(ValueError, match=sentence):
        review.index = value
    assert told(review) == before
    review.set_state({"index": value})
    assert sentence in review.problem
    assert told(review) == before


@pytest.mark.parametrize(("first", "said"), [("keep", "kept"), ("drop", "dropped")])
@pytest.mark.parametrize("second", ["keep", "drop"])
def test_nobody_decides_twice_on_a_photo(review, strangest, first, second, said):
    getattr(review, first)()
    review.index = strangest[0]
    before = told(review)
    with pytest.raises(ValueError, match=f"Normal photo {strangest[0]} is {said} already"):
        getattr(review, second)()
    assert told(review) == before


def test_where_nothing_was_decided_there_is_nothing_to_take_back(review):
    before = told(review)
    with pytest.raises(ValueError, match="There is no decision to take back"):
        review.undo()
    assert told(review) == before


def test_when_too_few_would_be_left_that_is_said_and_nothing_is_lost(demo):
    spade = SPADE(k=2).fit(demo.train[:3])
    review = review_suspects(spade)
    with pytest.raises(ValueError, match=r"at least one other normal image|must remain"):  # noqa: PT012
        for _ in range(3):
            before = told(review), gallery_of(review.spade), review.code()
            review.drop()
    assert (told(review), gallery_of(review.spade), review.code()) == before
    assert len(review.spade) == 3 - len(review.dropped) >= 1
    review._on_message(None, {"kind": "drop"}, [])
    assert "least one" in review.problem
    assert (told(review), gallery_of(review.spade), review.code()) == before
    while review.dropped:
        review.undo()
    assert gallery_of(review.spade) == gallery_of(spade)


def test_to_review_one_photo_takes_another(demo):
    with pytest.raises(ValueError, match="Leave-one-out needs at least one other normal image"):
        review_suspects(SPADE(k=1).fit(demo.train[:1]))
