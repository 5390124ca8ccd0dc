"""Counts compared with loops, intervals with scipy and plain draws, and the wording of sentences and remarks."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import precision_score, recall_score

from spade_kit.evaluation.operating_point import OperatingPoint
from spade_kit.evaluation.threshold_study import collect

LABELS = ["good", "scratch", None, "stain", "good"]
NAMES = {True: ("missed", "found"), False: ("passed", "alarms"), None: ("unknown_below", "unknown_above")}


def some_maps(rng, count, scale=1.0):
    """Maps of odd, unequal sizes; values repeat, so that scores equal thresholds and each other."""
    shapes = [(int(rng.integers(2, 6)), int(rng.integers(2, 6))) for _ in range(count)]
    return [(rng.integers(0, 40, shape) * scale / 10).astype(np.float32) for shape in shapes]


def some_test(rng):
    """Five test images, all but the third with a mask."""
    maps = some_maps(rng, len(LABELS), 1.5)
    return maps, LABELS, [None if at == 2 else rng.random(values.shape) < 0.4 for at, values in enumerate(maps)]


def count_by_hand(of, threshold, normals, maps, labels, masks):
    """The counts of an operating point, one score at a time."""
    counts = dict.fromkeys(["normals", "reached", *NAMES[True], *NAMES[False], *NAMES[None]], 0)
    for values in normals:
        for score in [values.max()] if of == "image" else values.ravel():
            counts["normals"] += 1
            counts["reached"] += float(score) >= threshold
    for values, label, mask in zip(maps, labels, masks):
        if of == "image":
            known = [(values.max(), None if label is None else label != "good")]
        else:
            known = [(score, None if mask is None else bool(mask[place])) for place, score in np.ndenumerate(values)]
        for score, truth in known:
            counts[NAMES[truth][int(float(score) >= threshold)]] += 1
    return counts


def share_of_anomalous_half(maps):
    """Mean fraction of pixels, in the more anomalous half of the maps, at or above that half's lowest maximum."""
    half = sorted(maps, key=np.max)[len(maps) // 2 :]
    return np.mean([np.mean(values >= min(other.max() for other in half)) for values in half])


def upper_end(reached, count):
    return binomtest(int(reached), count).proportion_ci(0.95, "exact").high


# ---- counts ----------------------------------------------------------------------------------------------------------


def test_images_are_counted_by_their_maxima():
    normals = [np.array([[1.0, 2.0]]), np.array([[3.0], [0.0], [1.0]]), np.array([[5.0]])]
    maps = [np.array([[0.0, 9.0]]), np.array([[3.0]]), np.array([[2.0, 2.5]]), np.array([[4.0]]), np.array([[1.0]])]
    judgement = collect("image", normals, maps, LABELS, [None] * 5).at(3.0)  # 9 good, 3 bad, 2.5 ?, 4 bad, 1 good
    assert (judgement.photos, judgement.normals, judgement.reached) == (3, 3, 2)
    assert (judgement.found, judgement.missed, judgement.alarms, judgement.passed) == (2, 0, 1, 1)
    assert (judgement.unknown_above, judgement.unknown_below) == (0, 1)
    assert (judgement.rate, judgement.recall, judgement.precision) == (2 / 3, 1, 2 / 3)


def test_pixels_are_counted_by_masks_whatever_the_label():
    maps = [np.array([[1.0, 4.0], [3.0, 2.0]]), np.array([[5.0, 0.0]])]
    masks = [np.array([[False, True], [False, True]]), None]
    judgement = collect("pixel", [np.array([[1.0, 3.0]])], maps, [None, "good"], masks).at(3.0)
    assert (judgement.photos, judgement.normals, judgement.reached) == (1, 2, 1)
    assert (judgement.found, judgement.missed, judgement.alarms, judgement.passed) == (1, 1, 1, 1)
    assert (judgement.unknown_above, judgement.unknown_below) == (1, 1)


@pytest.mark.parametrize("of", ["image", "pixel"])
@given(seed=st.integers(0, 2**32 - 1), threshold=st.integers(-1, 70).map(lambda tenths: tenths / 10))
def test_every_threshold_is_counted_exactly(of, seed, threshold):
    rng = np.random.default_rng(seed)
    normals, test = some_maps(rng, 4), some_test(rng)
    judgement = collect(of, normals, *test).at(threshold)
    expected = count_by_hand(of, threshold, normals, *test)
    assert {name: getattr(judgement, name) for name in expected} == expected
    assert judgement.rate == expected["reached"] / expected["normals"]


@pytest.mark.parametrize("of", ["image", "pixel"])
def test_a_threshold_is_not_rounded_to_the_precision_of_the_maps(of):
    score = np.float32(0.1)  # 0.10000000149
    study = collect(of, [np.full((1, 1), score)], [], [], [])
    assert np.float32(0.100000002) == score
    assert [study.at(value).reached for value in (0.100000001, float(score), 0.100000002)] == [1, 1, 0]


@given(seed=st.integers(0, 2**32 - 1), thresholds=st.lists(st.floats(0, 7), min_size=2, max_size=8))
def test_a_lower_threshold_finds_everything_that_a_higher_one_finds(seed, thresholds):
    rng = np.random.default_rng(seed)
    study = collect("pixel", some_maps(rng, 4), *some_test(rng))
    judged = [study.at(threshold) for threshold in sorted(thresholds)]
    for name in ("rate", "low", "high", "found", "alarms", "unknown_above"):
        values = [getattr(judgement, name) for judgement in judged]
        assert values == sorted(values, reverse=True)
    assert len({judgement.found + judgement.missed for judgement in judged}) == 1
    assert len({judgement.alarms + judgement.passed for judgement in judged}) == 1


@pytest.mark.parametrize("of", ["image", "pixel"])
def test_precision_and_recall_are_those_of_scikit_learn(of, rng):
    maps, labels = [rng.random((7, 5)) for _ in range(12)], ["good", "scratch", "stain"] * 4
    masks = [rng.random((7, 5)) < 0.3 for _ in maps]
    scores = np.max(maps, (1, 2)) if of == "image" else np.ravel(maps)
    truth = [label != "good" for label in labels] if of == "image" else np.ravel(masks)
    study = collect(of, [], maps, labels, masks)
    for threshold in np.quantile(scores, [0.1, 0.4, 0.8, 0.9]):
        judgement = study.at(threshold)
        assert judgement.recall == pytest.approx(recall_score(truth, scores >= threshold))
        assert judgement.precision == pytest.approx(precision_score(truth, scores >= threshold))


def test_the_threshold_for_a_rate_has_about_that_rate(spade):
    maps = list(spade.calibration.maps(spade.options))
    for fpr in (0.001, 0.01, 0.1):
        rate = collect("pixel", maps, [], [], []).at(spade.threshold(fpr)).rate
        assert rate == pytest.approx(fpr, abs=2 / np.size(maps))


# ---- bins ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["image", "pixel"])
def test_bins_count_the_scores_between_their_edges(of, rng):
    normals, (maps, labels, masks) = some_maps(rng, 4), some_test(rng)
    study = collect(of, normals, maps, labels, masks)
    highest = max(float(values.max()) for values in normals + maps)
    assert study.edges[0] == 0
    assert highest < study.edges[-1] < highest + 1e-9
    for lower, upper, *found in zip(
        study.edges, study.edges[1:], study.normal.T, study.good, study.defect, study.unknown
    ):
        low, high = count_by_hand(of, lower, normals, maps, labels, masks), study.at(upper)
        assert found[0].sum() == low["reached"] - high.reached
        assert found[1:] == [low[name] - getattr(high, name) for name in ("alarms", "found", "unknown_above")]
    assert study.normal.shape == (4, len(study.edges) - 1)
    assert study.normal.sum(1).tolist() == [1 if of == "image" else values.size for values in normals]


@pytest.mark.parametrize("of", ["image", "pixel"])
def test_the_band_equals_the_operating_points_at_its_edges(of, rng):
    study = collect(of, some_maps(rng, 5), *some_test(rng))
    judged = [study.at(edge) for edge in study.edges]
    for band, name in zip(study.band(), ("rate", "low", "high")):
        np.testing.assert_allclose(band, [getattr(judgement, name) for judgement in judged], rtol=1e-12)


def test_pixels_take_no_more_memory_than_their_maps(rng):
    normals, test = some_maps(rng, 4), some_test(rng)
    study = collect("pixel", normals, *test)
    kept = sum(scores.nbytes for scores in [*study._normals, *study._test])
    assert kept == sum(values.nbytes for values in [*normals, *test[0]])


def test_all_zero_maps_have_bins_too():
    study = collect("pixel", [np.zeros((2, 3))] * 2, [], [], [])
    assert (np.diff(study.edges) > 0).all()
    assert study.normal[:, 0].tolist() == [6, 6]
    assert (study.at(0).reached, study.at(1e-9).reached) == (12, 0)


# ---- confidence intervals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7, 60])
def test_the_interval_of_images_is_clopper_and_pearson_s(count):
    study = collect("image", [np.full((2, 3), score) for score in range(1, count + 1)], [], [], [])
    for reached in range(count + 1):
        judgement, exact = study.at(count - reached + 0.5), binomtest(reached, count).proportion_ci(0.95, "exact")
        assert judgement.reached == reached
        np.testing.assert_allclose((judgement.low, judgement.high), exact, rtol=1e-9)


@pytest.mark.parametrize("count", [2, 5, 6])
def test_the_interval_of_pixels_is_that_of_bootstrap_draws_of_images(rng, count):
    maps = some_maps(rng, count)
    study = collect("pixel", maps, [], [], [])
    _, lows, highs = study.band()
    draws = np.random.default_rng(0).multinomial(count, [1 / count] * count, 1000)
    for at in (0, 100, 180, 240, 256):
        rates = []
        for drawn in draws:
            picked = np.concatenate([values.ravel() for values, times in zip(maps, drawn) for _ in range(times)])
            rates.append(np.mean(picked.astype(float) >= study.edges[at]))
        low, high = np.quantile(rates, [0.025, 0.975])
        photos = sum(values.max() >= study.edges[at] for values in maps)
        assert lows[at] == pytest.approx(low)
        assert highs[at] == pytest.approx(max(high, upper_end(photos, count) * share_of_anomalous_half(maps)))


def test_the_upper_end_is_exact_where_no_pixel_reaches_the_threshold():
    maps = [np.linspace(0, most, 100).reshape(4, 25) for most in range(10, 20)]
    part = np.mean([np.mean(np.linspace(0, most, 100) >= 15) for most in range(15, 20)])
    judgement = collect("pixel", maps, [], [], []).at(20)
    assert (judgement.rate, judgement.low) == (0, 0)
    assert judgement.high == pytest.approx(upper_end(0, 10) * part)


def test_the_upper_end_rarely_misses_the_rate_of_rare_pixels():
    """Random spots on a quarter of the images: the true rate is known, and the bootstrap alone misses it often."""
    rng, place = np.random.default_rng(0), np.hypot(*np.mgrid[-7:8, -7:8])
    many = [rng.random((15, 15)) + (rng.random() < 0.25) * rng.exponential(4) / (1 + place) for _ in range(4000)]
    threshold, missed, missed_by_draws = 6, 0, 0
    truth = np.mean(np.array(many) >= threshold)
    for _ in range(60):
        maps = [many[at] for at in rng.integers(4000, size=20)]
        missed += collect("pixel", maps, [], [], []).at(threshold).high < truth
        shares = np.mean(np.array(maps) >= threshold, (1, 2))
        missed_by_draws += np.quantile(rng.multinomial(20, [0.05] * 20, 1000) @ shares / 20, 0.975) < truth
    assert missed <= 3 < 20 <= missed_by_draws


@pytest.mark.parametrize(("of", "low"), [("image", 0.025), ("pixel", 0)])
def test_one_normal_image_gives_a_wide_interval(of, low):
    judgement = collect(of, [np.ones((2, 2))], [], [], []).at(1)
    assert (judgement.rate, judgement.low, judgement.high) == (1, pytest.approx(low), 1)


@pytest.mark.parametrize("of", ["image", "pixel"])
def test_without_normal_images_the_interval_is_0_to_1(of, rng):
    study = collect(of, [], *some_test(rng))
    judgement, (rates, lows, highs) = study.at(1), study.band()
    assert np.isnan(judgement.rate)
    assert np.isnan(rates).all()
    assert (judgement.low, judgement.high) == (lows.min(), highs.max()) == (0, 1)
    assert study.normal.shape == (0, len(study.edges) - 1)


# ---- sentences and remarks -------------------------------------------------------------------------------------------


def judge(of="image", threshold=41.234, photos=60, normals=60, reached=1, low=0.000422, high=0.0894, **counts):
    names = ("found", "missed", "alarms", "passed", "unknown_above", "unknown_below")
    return OperatingPoint(of, threshold, photos, normals, reached, low, high, *[counts.get(name, 0) for name in names])


def test_a_sentence_gives_the_rate_and_the_test_results():
    assert judge(found=35, missed=1, alarms=1, passed=11).sentence == (
        "Threshold 41.23 for whole images: 1 of 60 normal images, each judged against the others, reaches it (1.7 %; "
        "95 % confidence interval 0.042 to 8.9 %). 35 of 36 defective test images reach it (recall 97 %); 1 of 12 good "
        "test images reaches it (precision 97 %)."
    )


def test_a_sentence_of_pixels_gives_the_number_of_images():
    judgement = judge("pixel", 18, 60, 3_010_560, 30_105, 0.0062, 0.0148, found=2, missed=1, alarms=0, passed=5000)
    assert judgement.sentence == (
        "Threshold 18 for pixels: 30,105 of 3,010,560 pixels in 60 normal images, each judged against the others, "
        "reach it (1 %; 95 % confidence interval 0.62 to 1.5 %). 2 of 3 defective test pixels reach it (recall 67 %); "
        "none of 5,000 good test pixels reaches it (precision 100 %)."
    )


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ({}, ""),
        ({"unknown_above": 1}, " 1 of 1 unlabelled test image reaches it."),
        ({"passed": 2}, " None of 2 good test images reaches it."),
        ({"missed": 2}, " None of 2 defective test images reaches it (recall 0 %)."),
        ({"found": 2}, " 2 of 2 defective test images reach it (recall 100 %)."),
        (
            {"missed": 1, "passed": 1, "unknown_below": 1},
            " None of 1 defective test image reaches it (recall 0 %); none of 1 good test image reaches it; "
            "none of 1 unlabelled test image reaches it.",
        ),
    ],
)
def test_a_sentence_omits_unknown_values(counts, told):
    assert judge(photos=0, normals=0, reached=0, **counts).sentence == f"Threshold 41.23 for whole images.{told}"


def test_a_sentence_gives_the_bound_of_the_rate_and_its_confidence():
    told = replace(judge(passed=2), fpr=0.005, confidence=0.95).sentence
    assert told.endswith(
        "8.9 %). With 95 % confidence (one-sided), at most 0.5 % of new normal images from the same process reach it. "
        "None of 2 good test images reaches it."
    )


def test_the_sentence_omits_each_for_one_normal_image():
    told = judge(photos=1, normals=1).sentence
    assert "1 of 1 normal image, judged against the others, reaches it (100 %;" in told


@pytest.mark.parametrize(
    ("found", "of", "told"),
    [
        (0, 7, "0"),
        (7, 7, "100"),
        (1, 6, "17"),
        (1, 60, "1.7"),
        (1, 100, "1"),
        (1, 600, "0.17"),
        (1, 3_010_560, "0.000033"),
        (1, 2, "50"),
        (35, 36, "97"),
        (996, 1000, "99.6"),
        (2999, 3000, "99.97"),
    ],
)
def test_percentages_have_the_digits_they_need(found, of, told):
    assert f"(recall {told} %)" in judge(found=found, missed=of - found).sentence


def test_unknown_values_are_none():
    assert (judge(missed=2).recall, judge(missed=2).precision) == (0, None)
    assert (judge(found=2).recall, judge(found=2).precision) == (1, None)
    assert (judge(alarms=2).recall, judge(alarms=2).precision) == (None, None)
    assert (judge(missed=2, passed=1).recall, judge(missed=2, passed=1).precision) == (0, None)


def test_a_good_rate_gets_only_the_caveat_about_labels():
    assert judge(reached=6, low=0.038, high=0.205, found=3, passed=4).remarks == (
        "Recall and precision come from test labels: a threshold tuned to raise them performs worse on new images.",
    )


@pytest.mark.parametrize(
    ("judgement", "doubt"),
    [
        (judge(photos=0, normals=0, reached=0), "No normal images were judged: the false-alarm rate is unknown."),
        (
            judge(photos=8, normals=8, reached=0),
            "8 normal images cannot resolve rates below 11 %; for 1 % use at least 99.",
        ),
        (
            judge(photos=12, normals=12, reached=0),
            "12 normal images cannot resolve rates below 7.7 %; for 1 % use at least 99.",
        ),
        (
            judge(photos=99, normals=99, reached=0),
            "99 normal images cannot resolve rates below 1 %; for 0.1 % use at least 999.",
        ),
        (
            judge("pixel", normals=60 * 4, reached=0),
            "No pixel of 60 normal images reaches it, yet up to 6 % of all images may have pixels that do. "
            "The upper end allows for them: it assumes as many per image as the more anomalous half",
        ),
        (judge(photos=19, normals=19), "19 normal images are too few: others may give a very different rate."),
        (judge(photos=20, normals=20, high=0.249), "The interval is wide: the rate may be as high as 25 %."),
        (judge(photos=1, normals=1, reached=0), "1 normal image is too few: others may give a very different rate."),
        (judge(), "The interval is wide: the rate may be as high as 8.9 %. Add normal images to narrow it."),
    ],
)
def test_a_weak_rate_gets_the_first_remark(judgement, doubt):
    assert judgement.remarks[0].startswith(doubt)


@pytest.mark.parametrize(
    ("counts", "doubts"),
    [
        ({}, ["There are no test images: the numbers of found and missed defects are unknown."]),
        ({"unknown_below": 3}, ["No test image has a {truth}: the numbers of found and missed defects are unknown."]),
        ({"passed": 3}, ["No test {noun} is known to be defective: recall and precision are unknown."]),
        ({"found": 3}, ["No test {noun} is known to be good: precision is unknown."]),
        (
            {"found": 3, "passed": 3, "unknown_above": 1},
            [
                "Recall and precision come from test {truth}s: a threshold tuned to raise them performs worse on new "
                "images.",
                "Recall and precision leave out 1 unlabelled test {noun}.",
            ],
        ),
    ],
)
@pytest.mark.parametrize(("of", "noun", "truth"), [("image", "image", "label"), ("pixel", "pixel", "mask")])
def test_missing_truth_is_named(of, noun, truth, counts, doubts):
    remarks = judge(of, reached=30, **counts).remarks  # of 60: a rate without doubts
    assert list(remarks) == [doubt.format(noun=noun, truth=truth) for doubt in doubts]


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [(2, 2, 1), (2, 1, 2), (1, 2, 2), (3, 2, 2), (2, 3, 2)])
def test_each_test_image_needs_a_label_and_a_mask(counts):
    maps, labels, masks = counts
    with pytest.raises(ValueError, match=f"got {maps} maps, {labels} labels and {masks} masks. Pass one of each"):
        collect("image", [], iter([np.ones((2, 2))] * maps), ["good"] * labels, [None] * masks)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("of", ["image", "pixel"])
def test_maps_are_finite(of, bad):
    broken = np.array([[0.0, bad, 2.0]])
    for normals, test in (([broken], []), ([], [broken])):
        with pytest.raises(ValueError, match=r"finite values; got values from .*\. Use result"):
            collect(of, normals, test, [None] * len(test), [None] * len(test))


def test_an_excess_may_lie_below_0():
    study = collect("pixel", [np.array([[-2.0, 1.0]]), np.array([[-1.0, 3.0]])], [], [], [])
    assert study.edges[0] == -2
    assert study.normal.sum() == 4
    assert [study.at(threshold).reached for threshold in (-2, -1, 0, 3)] == [4, 3, 2, 1]


@pytest.mark.parametrize("shape", [(3,), (0, 3), (1, 2, 2)])
def test_maps_have_rows_and_columns(unchecked, shape):
    with pytest.raises(ValueError, match=r"must have shape \(H, W\); got \(.*\)\. Use result\.anomaly_map"):
        collect("image", [np.ones(shape)], [], [], [])


def test_a_mask_is_as_large_as_its_map():
    with pytest.raises(ValueError, match=r"shape \(2, 3\); got \(3, 2\)\. Use result\.mask"):
        collect("pixel", [], [np.ones((2, 3))], ["stain"], [np.ones((3, 2), bool)])


def test_a_study_without_any_map_is_an_error():
    with pytest.raises(ValueError, match=r"got none\. Judge some images first"):
        collect("image", [], [], [], [])


def test_a_study_is_of_images_or_of_pixels():
    with pytest.raises(ValueError, match=r"'image', 'pixel'; got 'pixels'\. Did you mean 'pixel'"):
        collect("pixels", [np.ones((2, 2))], [], [], [])


def test_a_threshold_is_a_number():
    with pytest.raises(ValueError, match="A threshold must be a finite raw distance"):
        collect("image", [np.ones((2, 2))], [], [], []).at(np.nan)
