"""Lesson 12: the folders of cells, the words of a report, and the gain in recall."""

from collections import Counter

import numpy as np
import pandas
import pytest
from ipywidgets import IntSlider

from spade_kit import Report
from spade_kit.lessons.hand_it_on import (
    check,
    check_fraction,
    check_think,
    compare_recall,
    find_defects,
    lay_out,
    read_report,
    unsaved,
)

BEFORE = np.array([True, False, False, True, False, False, False, True])
AFTER = np.array([True, True, True, False, True, True, False, True])


def test_the_folders_hold_what_the_lesson_says(tmp_path):
    keys = lay_out(tmp_path)
    names = {folder.name: [cell.name for cell in folder.iterdir()] for folder in tmp_path.iterdir()}
    assert Counter(keys[name] for name in names["reference"]) == {"G": 30, "D": 1}
    assert Counter(keys[name] for name in names["line"]) == {"G": 60, "D": 30, "U": 10}
    assert Counter(keys[name] for name in names["more"]) == {"G": 30}
    assert len(keys) == sum(map(len, names.values()))  # no cell is in two folders


def test_the_words_of_a_report_end_where_its_figures_begin(tmp_path):
    page = tmp_path / "report.html"
    page.write_text("<p>head</p><body><h1>2 of 3</h1>\n<p class='where'>here</p><p>a &lt;\n b</p><figure><p>later</p>")
    assert read_report(page) == ["2 of 3", "a < b"]


def test_a_widget_is_not_saved():
    with unsaved():
        widget = IntSlider()
    assert type(widget.comm).__name__ == "DummyComm"
    widget.close()


def test_only_defects_are_found():
    rows = {"label": ["good", "defect", None, "defect"], "image_score": [9.0, 2.0, 9.0, 1.9]}
    np.testing.assert_array_equal(find_defects(Report("a", {}, pandas.DataFrame(rows), []), 2.0), [True, False])


def test_a_gain_has_the_interval_of_its_draws():
    rng, gains = np.random.default_rng(0), []
    for _ in range(1000):
        drawn = rng.choice(8, 8)
        gains.append(AFTER[drawn].mean() - BEFORE[drawn].mean())
    gain, *interval = compare_recall(BEFORE, AFTER)
    assert gain == 3 / 8
    assert interval == pytest.approx(np.quantile(gains, [0.025, 0.975]))
    assert compare_recall(BEFORE, BEFORE) == (0, 0, 0)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda before, after, drawn: ..., "Not answered yet"),
        (lambda before, after, drawn: after[drawn].mean() - before[drawn].mean(), "Right. "),
        (lambda before, after, drawn: (after[drawn] * 1 - before[drawn]).mean(), "Right. "),
        (lambda before, after, drawn: before[drawn].mean() - after[drawn].mean(), "That is the loss"),
        (lambda before, after, drawn: after.mean() - before.mean(), "take the drawn ones"),
        (lambda before, after, drawn: after[drawn].mean(), "take off the one before"),
        (lambda before, after, drawn: after[drawn].sum() - before[drawn].sum(), "take the mean, not the sum"),
        (lambda before, after, drawn: 9.0, "The gain must be"),
        (lambda before, after, drawn: after[drawn] - before[drawn], "Your code raises TypeError"),
    ],
)
def test_the_exercise_names_the_mistake(capsys, answer, said):
    check(answer)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda scores, threshold: ..., "Not answered yet"),
        (lambda scores, threshold: (scores >= threshold).mean(), "Right. "),
        (lambda scores, threshold: (scores >= threshold).sum(), "divide it by the number of all"),
        (lambda scores, threshold: (scores > threshold).mean(), "use >="),
        (lambda scores, threshold: scores.mean(), "The fraction must be 0.5"),
    ],
)
def test_the_warm_up_names_the_mistake(capsys, answer, said):
    check_fraction(answer)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., "Not answered yet"),
        (next(n for n in range(1000) if 0.98**n <= 0.05), "Right. "),
        (148, "Round up"),
        (59, "the number for 5 %"),
        (50, "no confidence"),
        (next(n for n in range(1000) if 0.98**n <= 0.01), "a confidence of 99 %"),
        (100, "0.98 to the power of 100 is 0.133"),
        ("many", "an answer of another form; got 'many'"),
    ],
)
def test_the_question_names_the_mistake(capsys, answer, said):
    check_think(answer)
    assert said in capsys.readouterr().out
