"""Lesson 08: thresholds by hand and from left-out images, and an exercise that explains mistakes."""

import math

import numpy as np
import pytest

from spade_kit.lessons import thresholds as lesson
from spade_kit.scores import find_threshold


@pytest.mark.parametrize(("rank", "count"), [(8, 10), (9, 10), (10, 10), (1, 1), (3, 19)])
def test_a_new_score_reaches_a_rank_as_often_as_there_are_gaps_above(rank, count):
    assert lesson.try_rank(rank, count) == pytest.approx((count + 1 - rank) / (count + 1), abs=0.005)


def test_the_rank_by_hand_keeps_the_rate_and_the_one_below_does_not():
    scores = np.array([31, 12, 25, 40, 18, 33, 22, 35, 28, 20.0])
    assert find_threshold(scores, 0.2) == sorted(scores)[9 - 1] == 35
    assert lesson.try_rank(9) < 0.2 < lesson.try_rank(8)


def test_normals_that_find_themselves_give_a_threshold_of_zero(spade, demo):
    normals, good = demo.train[:12], [sample for sample in demo.test if sample.label == "good"][:2]
    table = lesson.compare_thresholds(spade, normals, good, kappas=(1, 3), fpr=0.1)
    assert table["kappa"].tolist() == [1, 1, 3, 3]
    assert table["judged against"].tolist() == ["all, itself included", "all others"] * 2
    assert table[["threshold", "false alarms"]].iloc[0].tolist() == [0, 2]
    assert 0 < table["threshold"].iloc[2] < table["threshold"].iloc[3]
    highest = max(spade.predict_left_out(index).image_score for index in range(12))  # ceil(13 * 0.9) = 12
    alarms = sum(spade.predict(sample).image_score >= highest for sample in good)
    assert table[["threshold", "false alarms"]].iloc[1].tolist() == [round(highest), alarms]


def test_score_suppresses_the_warning_for_fitted_images_and_predict_does_not(spade, demo):
    assert lesson.score(spade, demo.train[:2]).tolist() == [0, 0]
    assert lesson.score(spade, demo.test[:1])[0] == spade.predict(demo.test[0]).image_score
    with pytest.warns(UserWarning, match="fitted"):
        spade.predict(demo.train[0])


def test_false_alarms_are_counted_for_each_promised_rate(spade, demo):
    good = [sample for sample in demo.test if sample.label == "good"][:4]
    table = lesson.keep_promises(spade, good, rates=(0.2, 0.5))
    scores = [spade.predict(sample).image_score for sample in good]
    counts = [sum(one >= spade.threshold(rate, of="image") for one in scores) for rate in (0.2, 0.5)]
    assert table["promised"].tolist() == ["20%", "50%"]
    assert table["false alarms"].tolist() == [f"{count} of 4: {25 * count}%" for count in counts]


def test_each_group_of_scores_is_a_row_of_dots():
    figure = lesson.draw_scores({"normals": np.arange(3.0), "defects": np.array([5.0, 9.0])}, {"line": 4.0})
    (panel,) = figure.axes
    assert [dots.get_offsets().tolist() for dots in panel.collections] == [
        [[0, 0], [1, 0], [2, 0]],
        [[5, -1], [9, -1]],
    ]
    assert [text.get_text() for text in panel.get_yticklabels()] == ["normals (3)", "defects (2)"]
    assert panel.lines[0].get_xdata() == [4, 4]


@pytest.mark.parametrize("count", [9, 10, 30])
@pytest.mark.parametrize("rate", [0.1, 0.2, 0.35])
def test_the_rule_of_the_exercise_is_that_of_the_package(count, rate):
    scores = np.random.default_rng(count).normal(size=count)
    assert sorted(scores)[math.ceil(round((count + 1) * (1 - rate), 9)) - 1] == find_threshold(scores, rate)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda scores, rate: ..., "Not answered yet"),
        (find_threshold, "Right. "),
        (lambda scores, rate: np.sort(scores)[math.ceil(len(scores) * (1 - rate)) - 1], "the new image counts, too"),
        (lambda scores, rate: np.sort(scores)[math.ceil((len(scores) + 1) * (1 - rate))], "Python counts from 0"),
        (lambda scores, rate: np.quantile(scores, 1 - rate), "without interpolation"),
        (lambda scores, rate: math.ceil((len(scores) + 1) * (1 - rate)), "That is a rank, not a score"),
        (lambda scores, rate: np.sort(scores)[::-1][math.ceil((len(scores) + 1) * (1 - rate)) - 1], "low to high"),
        (lambda scores, rate: np.sort(scores)[int((len(scores) + 1) * (1 - rate)) - 1], "The rank is rounded down"),
        (lambda scores, rate: np.sort(scores)[round((len(scores) + 1) * (1 - rate)) - 1], "to the nearest number"),
        (lambda scores, rate: np.quantile(scores, 1 - rate, method="higher"), "right for some N and too low"),
        (lambda scores, rate: np.sort(scores)[int(len(scores) * (1 - rate))], "right for some N and too low"),
        (lambda scores, rate: scores[math.ceil((len(scores) + 1) * (1 - rate)) - 1], "sort them first"),
        (lambda scores, rate: scores.mean(), "take the score of that rank"),
        (lambda scores, rate: scores[27.9], "Your code raises IndexError"),
    ],
)
def test_the_exercise_says_what_is_wrong(capsys, answer, said):
    lesson.check(answer)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., "Not answered yet"),
        (next(n for n in range(1, 100) if math.ceil((n + 1) * 0.98 - 1e-9) <= n), "Right. "),
        (50, "One more than needed"),
        (48, "only 48 scores"),
        (99, "twice as many"),
        (24, "4 %"),
        (10, "1 of 11"),
    ],
)
def test_the_warm_up_says_what_is_wrong(capsys, answer, said):
    lesson.check_count(answer)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([..., ..., ...], "Not answered yet"),
        ([180 + 49.5, 110 + 316.8, 40 + 643.5], "Right. "),
        ([320 + 49.5, 390 + 316.8, 460 + 643.5], "fraction found"),
        ([180 + 50, 110 + 320, 40 + 650], "of the 990 good parts"),
        ([49.5, 316.8, 643.5], "false alarms alone"),
        ([180, 110, 40], "misses alone"),
        ([3.6 + 49.5, 2.2 + 316.8, 0.8 + 643.5], "costs 50"),
        ([230, 427, 684], "Right. "),
        ([1, 2, 3], "How many of the 10 defects are missed"),
    ],
)
def test_the_question_says_what_is_wrong(capsys, answer, said):
    lesson.check_think(answer)
    assert said in capsys.readouterr().out
