"""Fits from which little can be learnt: duplicates, and thresholds that rest on one image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import spade_kit
from spade_kit import SPADE, Sample, choose_threshold, draw_result, explore, paint_defect, review_suspects
from spade_kit.scores import doubt_threshold, find_threshold


@pytest.fixture(scope="module")
def arrays(demo):
    return [sample.image for sample in demo.train[:5]]


@pytest.fixture(scope="module")
def twins(arrays):
    """Fitted images 0, 2 and 5 are the same."""
    with pytest.warns(UserWarning, match=r"2 of 7 fitted images are duplicates. Duplicates are left out together.$"):
        return SPADE(k=3).fit([arrays[at] for at in (0, 1, 0, 2, 3, 0, 4)])


@pytest.fixture(scope="module")
def alike(arrays):
    with pytest.warns(UserWarning, match="All are identical: there is no threshold"):
        return SPADE(k=3).fit([arrays[0]] * 4)


# ---- duplicates ------------------------------------------------------------------------------------------------------


def test_an_image_is_not_judged_against_its_duplicates(twins, arrays):
    others = SPADE(k=3).fit(arrays[1:])
    for index in (0, 2, 5):
        result = twins.predict_left_out(index)
        assert result.among.tolist() == [1, 3, 4, 6]
        np.testing.assert_allclose(result.anomaly_map, others.predict(arrays[0]).anomaly_map, rtol=1e-4)


def test_duplicates_have_the_scores_of_a_fit_without_copies(twins, arrays):
    once = SPADE(k=3).fit(arrays)
    ranked, expected = twins.suspects()["score"], once.suspects()["score"]
    for index, original in enumerate((0, 1, 0, 2, 3, 0, 4)):
        if original == 0:
            assert ranked[index] == pytest.approx(expected[original], rel=1e-4)
    assert min(twins.suspects()["score"]) > 0


def test_duplicates_count_as_one_image_in_all_thresholds(twins, arrays, demo, tmp_path, capsys):
    """As a fit without copies: rates, thresholds, their intervals, and the sentences about them."""
    everyone = twins.options.replace(k=50)  # fewer neighbours would be fewer different ones
    twins, once = twins.under(everyone), SPADE(k=3).fit(arrays).under(everyone)
    for of, fpr in (("image", 0.3), ("pixel", 0.05)):
        assert twins.threshold(fpr, of=of) == pytest.approx(once.threshold(fpr, of=of), rel=1e-4)
        interval, expected = (spade.threshold_interval(fpr, of=of, draws=1000) for spade in (twins, once))
        np.testing.assert_allclose(interval, expected, rtol=0.02)  # other images are drawn
    assert twins.normal_level == pytest.approx(once.normal_level, rel=1e-4)
    folder = _write(tmp_path / "in", [demo.test[0].image])
    told = []
    for spade, out in ((twins, "twins"), (once, "once")):
        frame = spade.predict_folder(folder, tmp_path / out)
        chooser = choose_threshold(spade)
        chooser.finish()
        told.append(
            (capsys.readouterr().out, chooser.sentence, chooser.rule, [rule for rule, _ in chooser.study["rules"]])
        )
        assert "as about 17 % of normal images do (estimated from 5)" in told[-1][0]
        assert "of 5 normal images" in chooser.sentence
        assert float(chooser) == pytest.approx(frame["threshold"][0], rel=1e-4)
    assert told[0] == told[1]


def test_a_file_that_was_fitted_twice_is_judged_against_the_others(twins, arrays):
    assert twins.judge(arrays[0]).among.tolist() == [1, 3, 4, 6]
    assert twins.judge(arrays[1]).among.tolist() == [0, 2, 3, 4, 5, 6]


def test_groups_and_duplicates_are_both_left_out(twins):
    groups = ["a", "b", "c", "b", "a", "d", "d"]
    assert twins.gallery.others(0, groups).tolist() == [1, 3, 6]
    assert twins.gallery.others(1, groups).tolist() == [0, 2, 4, 5, 6]


def test_identical_images_give_no_threshold(alike, arrays, tmp_path):
    for ask in (alike.threshold, alike.suspects, lambda: alike.predict_left_out(1)):
        with pytest.raises(ValueError, match="at least one other normal image; all 4 images are identical"):
            ask()
    with pytest.raises(ValueError, match="all 4 images are identical"):
        alike.predict_folder(_write(tmp_path / "in", arrays), tmp_path / "out")
    with pytest.raises(ValueError, match="at least one other normal image; all 4 images are identical"):
        choose_threshold(alike)
    assert alike.normal_level is None


def test_another_image_can_be_compared_with_identical_ones(alike, arrays):
    result = alike.predict(arrays[1])
    assert result.image_score == SPADE(k=1).fit(arrays[:1]).predict(arrays[1]).image_score
    assert "identical normal images" in [axes.get_title() for axes in draw_result(result).axes][2]


def test_widgets_show_an_image_beside_identical_ones(alike, arrays, tmp_path):
    explorer = explore(alike, arrays[1:2])
    explorer.finish()
    assert explorer.threshold_rule == "hand"
    painting = paint_defect(alike, arrays[1], folder=tmp_path)
    painting.finish()
    assert painting.readout().columns[1] == "normals of 0 at or above"
    comparison = spade_kit.compare_layers(alike, arrays[1])
    comparison.finish()
    chooser = choose_threshold(alike, arrays[1:2])
    chooser.finish()
    assert "No normal images were judged: the false-alarm rate is unknown." in chooser.judgement.remarks


def test_a_review_keeps_two_images_that_differ(arrays):
    with pytest.warns(UserWarning, match="duplicates"):
        spade = SPADE(k=2).fit([arrays[0], arrays[1], arrays[0]])
    review = review_suspects(spade)
    review.index = 1
    with pytest.raises(ValueError, match="Cannot drop one of the last two"):
        review.drop()
    review.index = 0
    review.drop()
    assert len(review.spade) == 2


def test_the_explorer_knows_which_fitted_image_it_shows(twins):
    explorer = explore(twins)
    assert explorer.photo["normal"] in (0, 2, 5)
    explorer.index = 3
    assert explorer.photo["normal"] == 3


# ---- thresholds that rest on one image -------------------------------------------------------------------------------


def _doubt(scores, fpr=0.01, groups=None):
    scores = [np.atleast_1d(np.array(own, np.float32)) for own in scores]
    return doubt_threshold(scores, groups or range(len(scores)), fpr, lambda at: f"ok_{at}.png")


def test_a_threshold_that_rests_on_one_image_names_it():
    assert _doubt([40, 41, 77, 39]) == (
        "The threshold rests on one image: without ok_2.png it would be 41 instead of 77. "
        "Check that this image is normal."
    )


def test_a_threshold_that_rests_on_no_single_image_has_no_remark():
    assert _doubt([40, 41, 50, 39]) == ""  # 41 is more than four fifths of 50
    assert _doubt([40, 77, 76, 39]) == ""
    assert _doubt([0, 0, 0]) == ""
    assert _doubt([40, 77]) == ""  # with one image there is no threshold


def test_duplicates_count_as_one_image():
    assert _doubt([40, 77, 41, 77]) == ""
    assert "without ok_1.png (and 1 left out with it) it would be 41" in _doubt([40, 77, 41, 77, 9], groups="abcbd")


def test_the_pixels_of_one_image_can_raise_a_threshold():
    few = [[1, 2, 3, 4]] * 9
    assert "without ok_9.png it would be 4 instead of 90" in _doubt([*few, [90, 91, 92, 93]], fpr=0.1)


@given(st.lists(st.floats(0.5, 100, width=32), min_size=3, max_size=30, unique=True), st.sampled_from([0.05, 0.2, 0.4]))
def test_the_remark_appears_when_leaving_out_an_image_lowers_the_threshold_by_a_fifth(scores, fpr):
    def find(some):
        return sorted(some)[min(int(np.ceil(round((len(some) + 1) * (1 - fpr), 9))), len(some)) - 1]

    threshold = find(scores)
    lowest = min(find(scores[:at] + scores[at + 1 :]) for at in range(len(scores)))
    said = _doubt(scores, fpr)
    assert bool(said) == (lowest <= 0.8 * threshold)
    if said:
        assert f"it would be {lowest:.3g} instead of {threshold:.3g}" in said


def _write(folder, images, names=None):
    folder.mkdir(exist_ok=True)
    paths = [folder / (names[at] if names else f"{at}.png") for at in range(len(images))]
    for path, image in zip(paths, images):
        Image.fromarray(image).save(path)
    return paths if names else folder


@pytest.fixture(scope="module")
def spoilt(demo, tmp_path_factory):
    """Nineteen normal images and a defective one, ok_17.png."""
    images = [sample.image for sample in demo.train[:20]]
    images[17] = next(sample for sample in demo.test if sample.label == "thread").image
    paths = _write(tmp_path_factory.mktemp("spoilt"), images, [f"ok_{at}.png" for at in range(20)])
    return SPADE(k=5).fit([Sample(path) for path in paths])


def test_the_threshold_warns_with_what_it_would_be_without_the_image(spoilt):
    with pytest.warns(UserWarning, match="rests on one image") as said:
        threshold = spoilt.threshold(0.05, of="image")
    scores = spoilt.suspects()["score"]
    assert (scores.index[0], scores.iloc[0]) == (17, threshold)
    expected = f"without ok_17.png it would be {scores.iloc[1]:.3g} instead of {threshold:.3g}."
    assert expected in str(said[0].message)
    assert spoilt.with_options().remove(17).threshold(0.05, of="image") == pytest.approx(scores.iloc[1], rel=0.02)


def test_the_folder_and_the_chooser_say_it_too(spoilt, demo, tmp_path, capsys):
    spoilt.predict_folder(_write(tmp_path / "in", [demo.test[0].image]), tmp_path / "out")
    assert "The threshold rests on one image: without ok_17.png it would be" in capsys.readouterr().out
    chooser = choose_threshold(spoilt)
    chooser.finish()
    told = [remark for remark in chooser.judgement.remarks if "rests on one image" in remark]
    assert len(told) == 1
    assert "without ok_17.png" in told[0]
    assert told[0] in chooser.told["remarks"]
    chooser.threshold = 50.0
    assert not any("rests on" in remark for remark in chooser.judgement.remarks)


def test_the_remark_agrees_with_the_threshold():
    scores = [np.array([value], np.float32) for value in (40, 41, 77, 39)]
    with pytest.warns(UserWarning, match="at least 99"):
        assert f"instead of {find_threshold(np.concatenate(scores), 0.01):.3g}" in _doubt(scores)
