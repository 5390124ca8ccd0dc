"""Thresholds with a confidence: order statistics against exact sums of binomials, and true rates in simulations."""

import warnings
from fractions import Fraction
from math import comb, inf, nextafter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from spade_kit import SPADE
from spade_kit.scores import count_needed, examine_certain_threshold, find_certain_threshold, find_threshold

RATES = st.integers(1, 99).map(lambda percent: Fraction(percent, 100))
CONFIDENCES = st.integers(1, 999).map(lambda thousandth: Fraction(thousandth, 1000))


def rank_by_hand(count: int, fpr: Fraction, confidence: Fraction) -> int | None:
    """The least k of n for which at most k - 1 scores are below the quantile with this probability; in fractions."""
    below = Fraction(0)
    for k in range(1, count + 1):
        below += comb(count, k - 1) * (1 - fpr) ** (k - 1) * fpr ** (count - k + 1)
        if below >= confidence:
            return k
    return None


# ---- the definition --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "fpr", "confidence", "above"),
    [  # 1 of 2: 1/4 + 2/4 = 3/4; tables of Wilks' formula for 95 %: 59, 93, 124 and 299, 473, 628
        (2, 0.5, 0.25, 1),
        (2, 0.5, 0.75, 0),
        (3, 0.5, 0.5, 1),
        (59, 0.05, 0.95, 0),
        (92, 0.05, 0.95, 0),
        (93, 0.05, 0.95, 1),
        (124, 0.05, 0.95, 2),
        (299, 0.01, 0.95, 0),
        (473, 0.01, 0.95, 1),
        (628, 0.01, 0.95, 2),
    ],
)
def test_as_many_scores_reach_the_threshold_as_in_the_tables(rng, count, fpr, confidence, above):
    scores = rng.permutation(np.arange(count)).astype(np.float32)
    threshold = find_certain_threshold(scores, fpr, confidence)
    assert (scores >= threshold).sum() == above
    assert threshold == np.nextafter(np.float32(count - 1 - above), np.float32(inf))


@given(st.integers(1, 120), RATES, CONFIDENCES)
def test_the_rank_is_that_of_exact_sums(count, fpr, confidence):
    rank = rank_by_hand(count, fpr, confidence)
    scores = np.arange(1.0, count + 1)
    if rank is None:
        with pytest.raises(ValueError, match=f"different normal images, or groups of them; got {count}"):
            find_certain_threshold(scores, float(fpr), float(confidence))
    else:
        assert find_certain_threshold(scores, float(fpr), float(confidence)) == nextafter(rank, inf)


@given(RATES, CONFIDENCES)
def test_the_number_needed_is_the_least_that_suffices(fpr, confidence):
    count = count_needed(float(fpr), float(confidence))
    assert (1 - fpr) ** count <= 1 - confidence < (1 - fpr) ** (count - 1)


@given(st.integers(2, 400), st.floats(1e-4, 0.999), st.floats(1e-4, 0.999))
def test_the_rate_of_the_advice_is_possible_and_no_lower_one_with_three_digits(count, fpr, confidence):
    scores = np.arange(float(count))
    try:
        find_certain_threshold(scores, fpr, confidence)
    except ValueError as error:
        advised = float(str(error).split("allow a rate of ")[1].split(" or more")[0])
        assert find_certain_threshold(scores, advised, confidence) > scores[-1]
        with pytest.raises(ValueError, match="needs at least"):
            find_certain_threshold(scores, 0.99 * advised, confidence)


@given(st.lists(st.integers(0, 9), min_size=50, max_size=80), st.sampled_from([0.06, 0.1, 0.3]))
def test_a_higher_confidence_or_a_lower_rate_gives_no_lower_threshold(values, fpr):
    scores = np.array(values, np.float32)
    usual = find_certain_threshold(scores, fpr, 0.5)
    assert usual <= find_certain_threshold(scores, fpr, 0.9)
    assert usual <= find_certain_threshold(scores, 0.9 * fpr, 0.5)
    assert find_certain_threshold(scores[::-1], fpr, 0.5) == usual


def test_scores_equal_to_the_one_below_raise_no_alarm_in_their_own_precision():
    """NumPy compares float32 maps with a Python float in float32."""
    scores = np.full(20, 63.1, np.float32)
    threshold = find_certain_threshold(scores, 0.2, 0.95)
    assert not (scores >= threshold).any()
    assert not any(float(score) >= threshold for score in scores)
    assert threshold == pytest.approx(63.1, rel=1e-6)


# ---- simulations: true rates of known distributions ------------------------------------------------------------------

DRAWS = 1000
CASES = [(20, 0.2, 0.9), (30, 0.5, 0.8), (100, 0.05, 0.95), (299, 0.01, 0.95)]
CONTINUOUS = {  # how to draw, and the exact probability of a score at or above a threshold
    "normal": (lambda rng, size: rng.normal(size=size), "norm"),
    "exponential": (lambda rng, size: rng.exponential(size=size), "expon"),
    "heavy tails": (lambda rng, size: rng.standard_cauchy(size=size), "cauchy"),
}


def is_credible(missed: int, confidence: float) -> bool:
    """Whether so many misses in all draws are credible; one false alarm in 100,000 tests, and seeds are fixed."""
    return missed <= binom.ppf(1 - 1e-5, DRAWS, 1 - confidence)


@pytest.mark.parametrize(("count", "fpr", "confidence"), CASES)
@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_true_rate_stays_below_in_the_promised_fraction_of_draws(name, count, fpr, confidence):
    import scipy.stats

    draw, law = CONTINUOUS[name]
    drawn = draw(np.random.default_rng(count), (DRAWS, count))
    rates = getattr(scipy.stats, law).sf([find_certain_threshold(scores, fpr, confidence) for scores in drawn])
    missed = int((rates > fpr).sum())
    assert is_credible(missed, confidence)
    assert missed > 0  # the bound is not idle
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 60 scores are few for a rate of 1 %
        usual = getattr(scipy.stats, law).sf([find_threshold(scores, fpr) for scores in drawn])
    assert not is_credible(int((usual > fpr).sum()), confidence)  # the threshold without confidence does not keep it


@pytest.mark.parametrize(("count", "fpr", "confidence"), CASES)
@pytest.mark.parametrize("tail", [0.9, 1.1])
def test_the_true_rate_of_discrete_scores_stays_below_too(count, fpr, confidence, tail):
    """Scores 0, 1 and 2, where the probability of a 2 is a little below or above the rate."""
    chances = np.array([(1 - tail * fpr) / 2, (1 - tail * fpr) / 2, tail * fpr])
    drawn = np.random.default_rng(count).choice(3, (DRAWS, count), p=chances).astype(np.float32)
    thresholds = np.array([find_certain_threshold(scores, fpr, confidence) for scores in drawn], np.float32)
    misses = [
        int(((chances * (np.arange(3) >= some[:, None])).sum(1) > fpr).sum())
        for some in (thresholds, np.nextafter(thresholds, np.float32(-inf)))
    ]
    assert is_credible(misses[0], confidence)
    assert tail < 1 or not is_credible(misses[1], confidence)  # the k-th smallest score itself


def test_the_k_th_smallest_itself_would_not_do_for_discrete_scores():
    """All scores are equal: at the largest of them every new image raises an alarm, above it none."""
    scores = np.zeros(500, np.float32)
    assert (scores >= find_threshold(scores, 0.01)).all()
    assert not (scores >= find_certain_threshold(scores, 0.01, 0.95)).any()


@pytest.mark.parametrize(("count", "fpr", "confidence"), CASES)
def test_the_rank_below_would_not_keep_the_confidence(count, fpr, confidence):
    """The true rate at the k-th smallest of n continuous scores is beta distributed."""
    above = int((np.arange(count) >= find_certain_threshold(np.arange(float(count)), fpr, confidence)).sum())
    kept = beta.cdf(fpr, [above + 1, above + 2], [count - above, count - above - 1])
    assert kept[0] >= confidence > kept[1]


# ---- groups ----------------------------------------------------------------------------------------------------------


def test_a_group_counts_once_with_its_highest_score():
    scores = [np.array([value], np.float32) for value in (3, 9, 4, 1, 2, 8)]
    threshold, doubt = examine_certain_threshold(scores, ["a", "b", "a", "c", "c", None], 0.5, 0.6, str)
    assert rank_by_hand(4, Fraction(1, 2), Fraction(3, 5)) == 3  # of 2, 4, 8, 9
    assert threshold == np.nextafter(np.float32(8), np.float32(inf))
    assert doubt == ""


def test_a_threshold_that_rests_on_one_image_names_it():
    scores = [np.array([value], np.float32) for value in [*range(11, 30), 500, 31]]
    threshold, doubt = examine_certain_threshold(scores, range(21), 0.25, 0.95, lambda image: f"{image}.png")
    assert (31 < threshold < 31.01, doubt) == (True, "")  # the second highest of 21
    threshold, doubt = examine_certain_threshold(scores, range(21), 0.14, 0.95, lambda image: f"{image}.png")
    assert threshold > 500
    assert doubt.startswith("The threshold rests on one image: without 19.png it would be 31 instead of 500.")


def test_a_rate_of_groups_stays_below_where_images_of_a_group_are_alike():
    """Parts photographed four times: images taken as independent would break the promise, groups keep it."""
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(DRAWS, 60, 1)) + 0.01 * rng.normal(size=(DRAWS, 60, 4))
    every = rng.normal(size=(20000, 1)) + 0.01 * rng.normal(size=(20000, 4))
    highest = np.sort(every.max(1))
    rate = lambda threshold: 1 - np.searchsorted(highest, threshold) / len(highest)  # noqa: E731
    by_group = [find_certain_threshold(drawn.max(1), 0.05, 0.95) for drawn in parts]
    by_image = [find_certain_threshold(drawn.ravel(), 0.05, 0.95) for drawn in parts]
    assert is_credible(sum(rate(threshold) > 0.055 for threshold in by_group), 0.95)
    assert not is_credible(sum(rate(threshold) > 0.055 for threshold in by_image), 0.95)


# ---- SPADE.threshold -------------------------------------------------------------------------------------------------


def test_the_threshold_of_images_is_above_the_left_out_score_of_that_rank(spade, left_out):
    scores = np.sort([result.anomaly_map.max() for result in left_out])
    for fpr, confidence in ((0.2, 0.9), (0.3, 0.9), (0.5, 0.8), (0.5, 0.99)):
        rank = rank_by_hand(12, Fraction(str(fpr)), Fraction(str(confidence)))
        threshold = spade.threshold(fpr, of="image", confidence=confidence)
        assert threshold == np.nextafter(scores[rank - 1], np.float32(inf))
        assert [result.image_score >= threshold for result in left_out].count(True) == 12 - rank
    assert spade.threshold(0.2, of="image", confidence=None) == spade.threshold(0.2, of="image")


@pytest.mark.parametrize("score", ["top", "excess"])
def test_the_threshold_is_that_of_the_score_in_use(spade, score):
    judge = spade.with_options(score=score)
    scores = np.sort([judge.predict_left_out(index).image_score for index in range(12)])
    threshold = judge.threshold(0.3, of="image", confidence=0.9)
    assert threshold == pytest.approx(scores[rank_by_hand(12, Fraction(3, 10), Fraction(9, 10)) - 1], rel=1e-5)
    assert (scores >= threshold).sum() == 12 - rank_by_hand(12, Fraction(3, 10), Fraction(9, 10))


def test_duplicates_count_once_also_across_groups(demo):
    photos = demo.train[:6]
    once = SPADE().fit(photos)
    with pytest.warns(UserWarning, match="2 of 8 fitted images are duplicates"):
        twice = SPADE().fit([*photos, photos[0], photos[0]])
    expected = once.threshold(0.5, of="image", confidence=0.9)
    assert twice.threshold(0.5, of="image", confidence=0.9) == pytest.approx(expected, rel=1e-5)
    assert twice.threshold(0.5, of="image", groups=range(8), confidence=0.9) == pytest.approx(expected, rel=1e-5)
    for groups in (None, range(8)):
        with pytest.raises(ValueError, match="got 6"):
            twice.threshold(0.1, of="image", groups=groups, confidence=0.5)


def test_groups_are_left_out_together_and_count_once(spade):
    groups = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    maps = spade.calibration.maps(spade.options, groups=groups)
    parts = np.sort(np.reshape([values.max() for values in maps], (6, 2)).max(1))
    rank = rank_by_hand(6, Fraction(1, 2), Fraction(4, 5))
    threshold = spade.threshold(0.5, of="image", groups=groups, confidence=0.8)
    assert threshold == np.nextafter(parts[rank - 1], np.float32(inf))
    with pytest.raises(ValueError, match=r"needs at least 7 different normal images, or groups of them; got 6\."):
        spade.threshold(0.2, of="image", groups=groups, confidence=0.75)


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_too_few_images_are_an_error_before_any_search(demo, monkeypatch):
    judge = SPADE(k=2).fit(demo.train[:4])
    monkeypatch.setattr("spade_kit.gallery.gallery.search_pixels", None)
    sentence = (
        r"A false-alarm rate of 0\.01 with 95 % confidence needs at least 299 different normal images, or groups of "
        r"them; got 4\. Fit more, allow a rate of 0\.528 or more, or leave confidence out\."
    )
    with pytest.raises(ValueError, match=sentence):
        judge.threshold(0.01, of="image", confidence=0.95)
    for alone, groups in ((judge.remove([1, 2, 3]), None), (SPADE(k=2).fit(demo.train[:2]), [0, 0])):
        for rate in (0.01, 0.95):  # no rate is possible
            with pytest.raises(ValueError, match=r"Leave-one-out needs at least one other (normal image|group); there"):
                alone.threshold(rate, of="image", groups=groups, confidence=0.95)


def test_a_confidence_needs_whole_images(spade):
    sentence = r"confidence must be None for pixels, because those of one image are not independent; got 0\.95\. Use of"
    with pytest.raises(ValueError, match=sentence):
        spade.threshold(0.01, confidence=0.95)
    with pytest.raises(ValueError, match="of must be one of 'pixel', 'image'; got 'images'"):
        spade.threshold(0.01, of="images", confidence=0.95)


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.5, float("nan"), "high", True])
def test_a_confidence_is_a_probability(unchecked, spade, confidence):
    with pytest.raises(ValueError, match=r"confidence must be a probability between 0 and 1, like 0\.95; got"):
        spade.threshold(0.2, of="image", confidence=confidence)


def test_a_rate_is_checked_with_a_confidence_too(spade):
    with pytest.raises(ValueError, match="fpr must be a false-alarm rate between 0 and 1"):
        spade.threshold(0, of="image", confidence=0.9)
