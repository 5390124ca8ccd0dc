"""Manual corrections in the explorer: equal to a refit, and undoable."""

import numpy as np
import pytest

from spade_kit import SPADE, explore


@pytest.fixture
def explorer(spade, demo):
    explorer = explore(spade, demo)
    yield explorer
    explorer.close()


def good_photo(demo) -> int:
    return next(index for index, sample in enumerate(demo.test) if sample.label == "good")


def test_adding_a_normal_photo_equals_a_refit(explorer, spade, demo):
    added, other = good_photo(demo), good_photo(demo) + 1
    explorer.index = added
    explorer.add()
    refitted = SPADE(k=5).fit([*demo.train[:12], demo.test[added]])
    np.testing.assert_array_equal(explorer.result.anomaly_map, refitted.predict_left_out(12).anomaly_map)
    explorer.index = other
    np.testing.assert_array_equal(explorer.result.anomaly_map, refitted.predict(demo.test[other]).anomaly_map)
    assert len(spade) == 12
    assert explorer.gallery == {
        "normals": 13,
        "corrected": [f"{demo.test[added].label}/{demo.test[added].path.stem} added"],
        "undo": True,
    }


def test_removing_a_normal_photo_equals_a_refit(explorer, demo):
    nearest = int(explorer.result.neighbours.index[0])
    explorer.without, explorer.only = [nearest], None
    explorer.remove(nearest)
    refitted = SPADE(k=5).fit([sample for index, sample in enumerate(demo.train[:12]) if index != nearest])
    np.testing.assert_array_equal(explorer.result.anomaly_map, refitted.predict(demo.test[0]).anomaly_map)
    assert explorer.without == ()
    stem = demo.train[nearest].path.stem
    assert explorer.gallery["corrected"] == [f"normal {nearest} ({stem}) removed"]


def test_the_current_photo_is_not_read_again_for_a_correction(explorer, demo, monkeypatch):
    nearest = int(explorer.result.neighbours.index[0])
    monkeypatch.setattr("spade_kit.spade.compute_features", lambda *_: pytest.fail("read again"))
    explorer.remove(nearest)
    assert len(explorer.spade) == 11
    explorer.undo()
    assert explorer.result.neighbours.index[0] == nearest


def test_the_current_normal_photo_stays_left_out_after_a_correction(spade, demo):
    explorer = explore(spade, [demo.train[3], demo.test[0]])
    explorer.remove(0)
    refitted = SPADE(k=5).fit(demo.train[1:12])
    np.testing.assert_array_equal(explorer.result.anomaly_map, refitted.predict_left_out(2).anomaly_map)
    explorer.remove()  # itself
    refitted = SPADE(k=5).fit([*demo.train[1:3], *demo.train[4:12]])
    np.testing.assert_array_equal(explorer.result.anomaly_map, refitted.predict(demo.train[3]).anomaly_map)


def test_undo_restores_each_step(explorer, demo):
    before = explorer.result.anomaly_map
    explorer.remove(0)
    explorer.remove(0)
    explorer.undo()
    refitted = SPADE(k=5).fit(demo.train[1:12])
    np.testing.assert_array_equal(explorer.result.anomaly_map, refitted.predict(demo.test[0]).anomaly_map)
    explorer.undo()
    np.testing.assert_array_equal(explorer.result.anomaly_map, before)
    assert not explorer.gallery["undo"]
    with pytest.raises(ValueError, match="no correction to undo"):
        explorer.undo()


@pytest.mark.slow
def test_thresholds_and_scores_are_stale_until_they_are_of_the_corrected_gallery(explorer, demo):
    explorer.finish()
    scores, threshold = explorer.scores, explorer.threshold
    assert all(fresh for _, fresh in scores)
    assert not explorer.normals["stale"]
    nearest = int(explorer.result.neighbours.index[0])
    explorer.remove(nearest)
    assert explorer.normals["stale"]
    explorer.finish()
    refitted = SPADE(k=5).fit([sample for index, sample in enumerate(demo.train[:12]) if index != nearest])
    assert explorer.threshold == pytest.approx(refitted.threshold(0.01), rel=1e-6) != threshold
    assert [score for score, _ in explorer.scores[:4]] == [
        pytest.approx(refitted.predict(sample).image_score) for sample in demo.test[:4]
    ]
    explorer.undo()
    explorer.finish()
    assert explorer.threshold == threshold
    assert [score for score, _ in explorer.scores] == [score for score, _ in scores]


def test_scores_of_another_gallery_are_marked(explorer):
    explorer.finish()
    explorer.remove(1)
    explorer._scores.start(explorer._request_of_all)  # the first thing the background does
    assert not any(fresh for _, fresh in explorer._scores.pack())


def test_a_removed_photo_is_judged_against_the_remaining_ones(spade, demo):
    explorer = explore(spade)
    explorer.index = 3
    explorer.remove()
    refitted = SPADE(k=5).fit([sample for index, sample in enumerate(demo.train[:12]) if index != 3])
    np.testing.assert_array_equal(explorer.result.query.pooled, spade.predict_left_out(3).query.pooled)
    alike = refitted.predict(demo.train[3]).anomaly_map
    np.testing.assert_allclose(explorer.result.anomaly_map, alike, rtol=1e-4, atol=1e-3)  # features of another batch
    explorer.index = 4
    np.testing.assert_array_equal(explorer.result.anomaly_map, refitted.predict_left_out(3).anomaly_map)
    explorer.index = 3
    explorer.add()
    assert len(explorer.spade) == 12


def test_a_restored_photo_is_left_out_again(demo):
    explorer = explore(SPADE(k=2).fit(demo.train[:2]))
    before = explorer.result.anomaly_map
    explorer.remove()
    explorer.undo()
    np.testing.assert_array_equal(explorer.result.anomaly_map, before)
    assert explorer.photo["normal"] == 0


@pytest.mark.parametrize("by_hand", [False, True])
def test_the_rule_of_the_threshold_comes_back_with_the_second_normal_photo(demo, by_hand):
    explorer = explore(SPADE(k=2).fit(demo.train[:2]), demo.test[:1])
    explorer.threshold_rule = "pixel 0.02"
    explorer.finish()
    threshold = explorer.threshold
    explorer.remove(0)
    assert [explorer.threshold_rule, explorer.image_threshold_rule] == ["hand", "hand"]
    if by_hand:
        explorer.threshold = 33
    explorer.undo()
    explorer.finish()
    assert (explorer.threshold_rule, explorer.threshold) == (("hand", 33) if by_hand else ("pixel 0.02", threshold))
    assert explorer.image_threshold_rule == "image 0.05"


def test_k_stays_at_the_end_of_its_slider(demo):
    explorer = explore(SPADE().fit(demo.train[:6]), demo)
    assert explorer.k == 6
    explorer.remove(0)
    assert explorer.k == 5
    explorer.undo()
    assert explorer.k == 6
    explorer.k = 3
    explorer.remove(0)
    assert explorer.k == 3


def test_the_python_code_reproduces_the_corrections(explorer, spade, demo):
    explorer.index = good_photo(demo)
    explorer.add()
    explorer.remove(2)
    lines = explorer.code().replace("dataset.", "parts.").splitlines()
    here = {"parts": demo, "spade": spade}
    exec("\n".join(lines), here)
    assert "corrected.remove(2)" in lines
    np.testing.assert_array_equal(here["result"].anomaly_map, explorer.result.anomaly_map)
    assert len(spade) == 12


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda explorer: explorer.remove(), "is not a normal image"),
        (lambda explorer: explorer.remove(12), "must refer to one of the training images, from 0 to 11"),
        (lambda explorer: [explorer.add(), explorer.add()], "is already a normal image"),
        (lambda explorer: [explorer.remove(0) for _ in range(12)], "At least one normal image must remain"),
    ],
)
@pytest.mark.filterwarnings("ignore:1 of 13 fitted images are labelled as defects")
def test_invalid_corrections_raise_errors(explorer, act, sentence):
    with pytest.raises(ValueError, match=sentence):
        act(explorer)


def test_a_photo_fitted_as_an_array_cannot_be_fitted_again(demo):
    explorer = explore(SPADE().fit([sample.image for sample in demo.train[:4]]))
    explorer.index = 1
    explorer.remove()
    with pytest.raises(ValueError, match="only features are kept"):
        explorer.add()
    assert "# photo as normal 1 was fitted" in explorer.code()


@pytest.mark.filterwarnings("ignore:1 of 1 photos")
def test_a_file_that_became_unreadable_is_named_and_nothing_is_lost(spade, demo, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(demo.test[0].path.read_bytes())
    explorer = explore(spade, [path])
    path.write_bytes(b"no longer a photo")
    with pytest.raises((ValueError, OSError), match=r"photo\.png"):
        explorer.add()
    assert len(explorer.spade) == 12
    assert not explorer.gallery["undo"]


def test_adding_a_labelled_defect_shows_a_warning_in_the_page(explorer, demo):
    explorer.index = next(index for index, sample in enumerate(demo.test) if sample.label == "scratch")
    explorer._on_message(None, {"kind": "add"}, [])
    assert "labelled as defects, such as 'scratch'" in explorer.problem
    assert len(explorer.spade) == 13
    explorer._on_message(None, {"kind": "undo"}, [])
    assert explorer.problem == ""
    explorer._on_message(None, {"kind": "undo"}, [])
    assert "no correction to undo" in explorer.problem
