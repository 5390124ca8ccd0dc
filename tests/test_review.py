"""Reviewing normal images without a browser: decisions, page data and errors."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor as Apart  # a browser's event loop may run in this thread
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from browsing import read_saved
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

import spade_kit
from spade_kit import SPADE, review_suspects
from spade_kit.datasets import tables


@pytest.fixture
def review(spade):
    review = review_suspects(spade)
    yield review
    review.close()


def gallery_of(spade) -> list[bytes]:
    return [normal.digest for normal in spade.gallery.normals]


def which(jpeg: bytes, spade) -> int:
    """The normal image most similar to a thumbnail."""
    small = np.asarray(Image.open(BytesIO(jpeg)).resize((224, 224)), int)
    return int(np.argmin([np.abs(small - spade.normal_image(index)).mean() for index in range(len(spade))]))


def told(review) -> tuple:
    """The full state for the page, ignoring whether scores of decided images are fresh."""
    suspects = [(index, score, fresh or bool(decided), decided) for index, score, fresh, decided in review.suspects]
    return review.index, review.kept, review.dropped, suspects, review.state, review.photo["index"]


# ---- the order -------------------------------------------------------------------------------------------------------


def test_the_most_anomalous_comes_first(review, spade, most_anomalous):
    assert review.index == most_anomalous[0]
    assert [index for index, *_ in review.suspects] == most_anomalous == spade.suspects().index.tolist()
    scores = [round(spade.predict_left_out(index).image_score, 3) for index in most_anomalous]
    assert [score for _, score, *_ in review.suspects] == scores
    assert all(fresh and decided == "" for _, _, fresh, decided in review.suspects)
    assert repr(review) == "Review(12 normal images: 0 kept, 0 dropped)"


def test_any_of_them_can_be_looked_at(review, spade):
    review.index = 7
    np.testing.assert_array_equal(review.result.anomaly_map, spade.predict_left_out(7).anomaly_map)
    assert review.photo["index"] == 7
    assert review.about["names"][7] == "good/007"


# ---- keep and drop ---------------------------------------------------------------------------------------------------


def test_keeping_a_photo_only_moves_to_the_next_one(review, spade, most_anomalous):
    review.index = most_anomalous[3]
    review.keep()
    assert (review.kept, review.dropped, review.index) == ([most_anomalous[3]], [], most_anomalous[0])
    review.keep()
    assert (review.kept, review.index) == ([most_anomalous[3], most_anomalous[0]], most_anomalous[1])
    assert gallery_of(review.spade) == gallery_of(spade)
    assert [index for index, *_ in review.suspects] == [most_anomalous[at] for at in (3, 0, 1, 2, *range(4, 12))]
    assert [decided for *_, decided in review.suspects][:3] == ["kept", "kept", ""]
    assert review.state == {"kept": 2, "dropped": 0, "left": 12, "code": "# no images were dropped from spade"}


def test_dropping_a_photo_equals_a_refit(review, refit, most_anomalous):
    review.drop()
    refitted, left = refit
    review.finish()
    for index in left:
        review.index = index
        alike = refitted.predict_left_out(left.index(index))
        np.testing.assert_array_equal(review.result.anomaly_map, alike.anomaly_map)
    ranked = refitted.suspects()
    assert [index for index, *_ in review.suspects] == [most_anomalous[0], *(left[at] for at in ranked.index)]
    np.testing.assert_allclose([score for _, score, *_ in review.suspects][1:], ranked["score"], atol=6e-4)
    assert gallery_of(review.spade) == gallery_of(refitted)
    assert (review.kept, review.dropped) == ([], [most_anomalous[0]])
    assert (review.state["left"], review.state["dropped"]) == (11, 1)


def test_the_next_suspect_is_the_most_anomalous_that_is_still_to_be_decided(review, refit, most_anomalous):
    review.keep()
    review.index = most_anomalous[5]
    review.drop()
    assert review.index == most_anomalous[1]
    assert review.photo["index"] == most_anomalous[1]


def test_a_dropped_photo_is_judged_against_the_remaining_ones(review, refit, most_anomalous, demo):
    review.drop()
    review.index = most_anomalous[0]
    alike = refit[0].predict(demo.train[most_anomalous[0]]).anomaly_map
    np.testing.assert_allclose(review.result.anomaly_map, alike, rtol=1e-4, atol=1e-3)  # features of another batch


def test_dropping_a_photo_judges_no_other_one_and_keeps_the_scale_of_the_maps(review, spade):
    review.drop()
    assert review.photo["level"] == spade.normal_level
    assert not any(review.spade.calibration._distances.values())


def test_old_scores_are_stale_until_they_are_computed_again(review, most_anomalous):
    before = {index: score for index, score, *_ in review.suspects}
    review.drop()
    fresh = {index: fresh for index, _, fresh, _ in review.suspects}
    assert [index for index, yes in fresh.items() if yes] == [review.index]
    stale = {index: score for index, score, yes, _ in review.suspects if not yes}
    assert stale == {index: before[index] for index in stale}
    review.finish()
    assert all(fresh for _, _, fresh, decided in review.suspects if not decided)
    assert {index: score for index, score, *_ in review.suspects if index != most_anomalous[0]} != {
        index: score for index, score in before.items() if index != most_anomalous[0]
    }


def test_the_score_of_a_kept_photo_follows_the_gallery(review, most_anomalous, demo):
    kept, dropped = most_anomalous[:2]
    review.keep()
    review.drop()
    review.finish()
    left = [index for index in range(12) if index != dropped]
    refitted = SPADE(k=5).fit([demo.train[index] for index in left]).predict_left_out(left.index(kept))
    told = next(card for card in review.suspects if card[0] == kept)
    assert told == [kept, pytest.approx(refitted.image_score, abs=1e-3), True, "kept"]


def test_scores_are_updated_in_the_background_of_a_running_loop(spade):
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


def test_finishing_between_two_background_steps_still_updates_the_page(review):
    review.drop()
    steps = review._background_steps()
    compute = next(steps)
    while len(review._scores.fresh) < 10:
        compute = steps.send(compute())
    review._scores.take(compute())  # all are judged, but the page has not been updated yet
    review.finish()
    assert all(fresh for _, _, fresh, decided in review.suspects if not decided)


# ---- undo ------------------------------------------------------------------------------------------------------------


def test_undo_reverts_one_decision_at_a_time(review, spade, most_anomalous):
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


def test_undo_returns_to_its_photo(review, most_anomalous):
    review.keep()
    review.index = most_anomalous[8]
    review.undo()
    assert (review.index, review.kept) == (most_anomalous[0], [])


def test_the_given_spade_is_not_modified(review, spade, most_anomalous):
    gallery, suspects = spade.gallery, spade.suspects()
    review.drop()
    review.drop()
    assert spade.gallery is gallery
    assert len(spade) == 12
    assert spade.suspects().equals(suspects)


# ---- Python code -----------------------------------------------------------------------------------------------------


def test_the_python_code_drops_the_same_photos(review, spade, most_anomalous, demo):
    review.drop()
    review.keep()
    review.index = 9
    review.drop()
    review.index = 1
    review.drop()
    names = {"spade": spade}
    exec(review.code(), names)
    assert gallery_of(names["corrected"]) == gallery_of(review.spade)
    gone = {most_anomalous[0], 9, 1}
    stems = [normal.sample.path.stem for normal in names["corrected"].gallery.normals]
    assert stems == [demo.train[index].path.stem for index in range(12) if index not in gone]
    assert len(spade) == 12
    assert review.state["code"] == review.code()


def test_without_a_drop_the_code_does_nothing(review):
    review.keep()
    assert review.code() == "# no images were dropped from spade"


# ---- arrays and duplicates -------------------------------------------------------------------------------------------


def test_photos_fitted_as_arrays_are_kept_dropped_and_brought_back(demo):
    arrays = [sample.image for sample in demo.train[:4]]
    spade = SPADE(k=2).fit(arrays)
    review = review_suspects(spade)
    assert review.about["names"] == [f"normal {index}" for index in range(4)]
    first = review.index
    review.drop()
    refitted = SPADE(k=2).fit([array for index, array in enumerate(arrays) if index != first])
    assert gallery_of(review.spade) == gallery_of(refitted)
    names = {"spade": spade}
    exec(review.code(), names)
    assert gallery_of(names["corrected"]) == gallery_of(refitted)
    review.keep()
    review.undo()
    review.undo()
    assert (review.index, gallery_of(review.spade)) == (first, gallery_of(spade))


def test_duplicates_of_a_photo_are_dropped_separately(demo):
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


# ---- data for the page -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropped", [False, True])
def test_a_page_has_the_matches_with_the_original_photo_numbers(review, spade, monkeypatch, dropped):
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


def test_a_newly_opened_page_gets_all_thumbnails(review, spade, most_anomalous, monkeypatch):
    sent = []
    monkeypatch.setattr(review, "send", lambda content, buffers=(): sent.append((content, list(buffers))))
    review._on_message(None, {"kind": "hello"}, [])
    (here, _), (thumbs, jpegs) = sent
    assert (here, thumbs) == ({"kind": "here"}, {"kind": "thumbs", "indexes": most_anomalous})
    assert [which(jpeg, spade) for jpeg in jpegs] == most_anomalous


def test_a_page_can_keep_drop_and_undo(review, most_anomalous):
    for kind, expected in (
        ("keep", ([most_anomalous[0]], 0)),
        ("drop", ([most_anomalous[0]], 1)),
        ("undo", ([most_anomalous[0]], 0)),
        ("undo", ([], 0)),
    ):
        review._on_message(None, {"kind": kind}, [])
        assert (review.kept, len(review.dropped)) == expected
        assert review.problem == ""
    review._on_message(None, {"kind": "undo"}, [])
    assert review.problem == "There is no decision to undo."
    review._on_message(None, {"kind": "keep"}, [])
    assert review.problem == ""
    review.set_state({"index": 5})
    assert (review.photo["index"], review.problem) == (5, "")


def test_the_static_preview_is_deterministic(review, spade):
    assert isinstance(review.draw(), Figure)
    data, _ = review._repr_mimebundle_()
    again, _ = review._repr_mimebundle_()
    third, _ = review_suspects(spade)._repr_mimebundle_()
    assert set(data) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
    for name in ("image/png", "text/plain"):
        assert data[name] == again[name] == third[name]


def test_a_saved_page_is_small_and_self_contained(review, tmp_path):
    review.drop()
    review.save_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 1_000_000
    assert "http" not in read_saved(tmp_path / "page.html").replace("http://www.w3.org/2000/svg", "")


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (12, "index must refer to one of the normal images, from 0 to 11; got 12"),
        (-1, "index must be a whole number of at least 0; got -1"),
        (1.5, "index must be a whole number of at least 0; got 1.5"),
    ],
)
def test_an_invalid_index_is_an_error_that_changes_nothing(review, value, sentence):
    before = told(review)
    with pytest.raises(ValueError, match=sentence):
        review.index = value
    assert told(review) == before
    review.set_state({"index": value})
    assert sentence in review.problem
    assert told(review) == before


@pytest.mark.parametrize(("first", "said"), [("keep", "kept"), ("drop", "dropped")])
@pytest.mark.parametrize("second", ["keep", "drop"])
def test_a_photo_cannot_be_decided_twice(review, most_anomalous, first, second, said):
    getattr(review, first)()
    review.index = most_anomalous[0]
    before = told(review)
    with pytest.raises(ValueError, match=f"Normal image {most_anomalous[0]} is already {said}"):
        getattr(review, second)()
    assert told(review) == before


def test_undo_without_a_decision_is_an_error(review):
    before = told(review)
    with pytest.raises(ValueError, match="There is no decision to undo"):
        review.undo()
    assert told(review) == before


def test_dropping_too_many_is_an_error_that_changes_nothing(demo):
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


def test_a_review_needs_at_least_two_photos(demo):
    with pytest.raises(ValueError, match="Leave-one-out needs at least one other normal image"):
        review_suspects(SPADE(k=1).fit(demo.train[:1]))


# ---- labels ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def shots(demo, tmp_path) -> tuple[SPADE, Path]:
    """A fit of four images of a folder, and one of its labels beside them."""
    for sample in demo.train[:4]:
        (tmp_path / sample.path.name).write_bytes(sample.path.read_bytes())
    return SPADE(k=2).fit(spade_kit.load_dataset(tmp_path).train), tmp_path


def labels_in(folder) -> list[str]:
    return (folder / "labels.csv").read_text().splitlines()


def name_of(spade, index) -> str:
    return spade.gallery.normals[index].sample.path.name


def test_labels_are_kept_after_each_key_and_read_by_a_dataset(shots):
    spade, folder = shots
    review = review_suspects(spade, folder)
    assert not (folder / "labels.csv").exists()
    rows, labels = ["path,label"], {"keep": "good", "drop": "defect", "skip": "unknown"}
    for kind, label in labels.items():
        rows.append(f"{name_of(spade, review.index)},{label}")
        review._on_message(None, {"kind": kind}, [])
        assert (review.problem, labels_in(folder)) == ("", rows)
    assert [len(review.kept), len(review.dropped), len(review.unknown), len(review.spade)] == [1, 1, 1, 3]
    assert [decided for *_, decided in review.suspects] == ["kept", "dropped", "unknown", ""]
    dataset = spade_kit.load_dataset(folder).label(folder / "labels.csv")
    assert [f"{one.path.name},{one.label}" for one in dataset.test] == [rows[2]]
    assert sorted(str(one.label) for one in dataset.train) == ["None", "good", "good"]
    review.undo()
    review.undo()
    assert (labels_in(folder), len(review.spade)) == (rows[:2], 4)
    review.close()


def test_a_later_review_goes_on_from_the_labels(shots):
    spade, folder = shots
    names = [name_of(spade, index) for index in range(4)]
    rows = ["path,label", f"{names[2]},scratch", f"{names[0]},OK", "other/9.png,chip", f"{names[1]},"]
    (folder / "labels.csv").write_text("\ufeff" + "\r\n".join(rows).replace(",", ";") + "\r\n", encoding="utf-8")
    review = review_suspects(spade, folder)
    assert (review.kept, review.dropped, review.unknown, review.index) == ([0], [2], [1], 3)
    assert [normal.digest for normal in review.spade.gallery.normals] == [gallery_of(spade)[at] for at in (0, 1, 3)]
    review.skip()
    kept = ["other/9.png,chip", f"{names[0]},good", f"{names[1]},unknown", f"{names[2]},scratch", f"{names[3]},unknown"]
    assert labels_in(folder) == ["path,label", *kept]
    for _ in range(4):
        review.undo()
    assert (labels_in(folder), gallery_of(review.spade)) == (["path,label", kept[0]], gallery_of(spade))
    review.close()


def test_images_elsewhere_are_named_relative_to_the_table(shots, tmp_path_factory):
    spade, folder = shots
    other = tmp_path_factory.mktemp("labels")
    review = review_suspects(spade, other)
    path = os.path.relpath(spade.gallery.normals[review.index].sample.path, other)
    review.keep()
    assert labels_in(other) == ["path,label", f"{path},good"]
    assert [one.label for one in spade_kit.load_dataset(folder).label(other / "labels.csv").train] == ["good"] * 4
    review.close()


@pytest.mark.parametrize(
    ("table", "got"),
    [
        ("path,label,note\n1.png,good,mine\n", r"\['path', 'label', 'note'\]"),
        ("path,label,note\n", r"\['path', 'label', 'note'\]"),
        ("path,label\n1.png,good,mine\n", r"\['1.png', 'good', 'mine'\]"),
        ("path,label\n1.png,good\n2.png,good\n1.png,chip\n", r"\['1.png', 'good'\]"),
        ("label,path\ngood,1.png\n", r"\['label', 'path'\]"),
        ("my notes\n", r"\['my notes'\]"),
        ("\n", r"\[\]"),
        pytest.param(f'path,label\n"{"x" * 200_000}",good\n', ".*", id="a huge cell"),
    ],
)
def test_a_table_that_holds_more_than_labels_is_not_overwritten(shots, table, got):
    spade, folder = shots
    (folder / "labels.csv").write_text(table)
    told = rf"labels\.csv must have the columns path and label and one row an image; got {got}\. Keep your notes in "
    with pytest.raises(ValueError, match=told):
        review_suspects(spade, folder)
    assert (folder / "labels.csv").read_text() == table


@pytest.mark.parametrize("kind", ["keep", "drop", "undo"])
def test_a_table_that_another_program_changed_is_not_overwritten(shots, kind):
    spade, folder = shots
    review = review_suspects(spade, folder)
    review.drop()
    (folder / "labels.csv").write_text("path,label,note\n")
    before = told(review), gallery_of(review.spade)
    review._on_message(None, {"kind": kind}, [])
    assert review.problem.endswith("labels.csv was changed by another program. Open the review again to read it.")
    assert (told(review), gallery_of(review.spade)) == before
    assert (folder / "labels.csv").read_text() == "path,label,note\n"
    review.close()


def test_a_full_disk_changes_no_decision(shots, monkeypatch):
    spade, folder = shots
    review = review_suspects(spade, folder)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tables, "write_whole", fail)
    with pytest.raises(OSError, match="No space left"):
        review.drop()
    assert (review.dropped, gallery_of(review.spade)) == ([], gallery_of(spade))
    review.close()


def test_arrays_have_no_labels_to_keep(demo, tmp_path):
    spade = SPADE(k=2).fit([sample.image for sample in demo.train[:3]])
    with pytest.raises(ValueError, match=r"Labels are kept by path; got images that were fitted as arrays\. Leave"):
        review_suspects(spade, tmp_path)


@given(
    st.dictionaries(
        st.text(min_size=1).filter(lambda text: text == text.strip() and text.isprintable()),
        st.sampled_from(["good", "a, b", 'a "b"', ""]),
        min_size=1,
    )
)
def test_a_table_is_read_as_it_was_written(labels):
    with TemporaryDirectory() as folder:
        table = tables.LabelTable(Path(folder))
        table.write(labels)
        assert tables.LabelTable(Path(folder)).labels == labels
        assert dict(tables.read_labels(Path(folder, "labels.csv"))) == labels
