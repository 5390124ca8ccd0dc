"""Lesson 05: cells to pixels, what smoothing leaves, maps under options, and an exercise that names the mistake."""

from dataclasses import replace
from math import erf, sqrt

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

import spade_kit
from spade_kit.lessons import from_distances_to_a_map as lesson
from spade_kit.scores import make_map, mean_of_top


def test_a_row_enlarged_by_hand_is_the_map_of_the_package(rng):
    cells = rng.random(7)
    _, values = lesson.enlarge(cells, 4)
    np.testing.assert_allclose(make_map(cells[None], (1, 28), sigma=0)[0], values, rtol=1e-6)


def test_the_centre_of_a_cell_stays_in_place_and_moves_if_corners_are_aligned():
    cells, pixels = np.eye(56)[10], np.arange(224)
    centre, moved = ((values := lesson.enlarge(cells, 4, aligned)[1]) @ pixels / values.sum() for aligned in (0, 1))
    assert centre == pytest.approx(10 * 4 + 1.5)
    assert moved == pytest.approx(10 * 223 / 55, abs=0.05)
    assert lesson.enlarge(np.arange(56.0), 4)[0][[0, 223]].tolist() == [-0.375, 55.375]


def test_what_smoothing_leaves_follows_from_the_gaussian_integral():
    table = lesson.measure_smoothing((2, 4, 8))
    tent = np.interp(np.arange(224), np.arange(56) * 4 + 1.5, np.eye(56)[28])  # the profile of one cell
    for sigma, row in table.iterrows():
        assert row["scratch"] == pytest.approx(gaussian_filter1d(tent, sigma, truncate=4).max() / tent.max(), rel=1e-3)
        assert row["stain"] == pytest.approx(erf(20 / (sigma * sqrt(2))) ** 2, abs=0.02)
    assert table["noise"].is_monotonic_decreasing
    assert 1 / (table["noise"][8] / table["noise"][4]) == pytest.approx(
        2, abs=0.25
    )  # wide: as 1 / sigma in two dimensions


def test_maps_are_compared_as_evaluate_does(spade, demo):
    some = replace(demo, test=demo.test[::4])
    results = [spade.predict(sample) for sample in some.test]
    table = lesson.compare_maps(results, {"1": {"sigma": 1}, "excess": {"judged": "excess"}})
    for name, options in (("1", {"sigma": 1}), ("excess", {"judged": "excess"})):
        expected = spade_kit.evaluate(spade.with_options(**options), some).summary()["aupro"]
        assert table[name].to_dict() == pytest.approx(expected.to_dict())


def test_tall_images_are_parts_on_top_of_each_other_and_a_crack_is_dark_and_narrow(demo):
    tall = lesson.stack(demo.train[:4], height=2)
    assert [one.shape for one in tall] == [(640, 320, 3)] * 2
    np.testing.assert_array_equal(tall[1][320:], demo.train[3].image)
    differs = (lesson.crack(tall[0], 0) != tall[0]).any(-1)
    assert 100 < differs.sum() < 700
    assert lesson.crack(tall[0], 0)[differs].mean() < tall[0][differs].mean() - 20


def test_the_excess_is_drawn_beside_what_it_is_made_of(spade, demo):
    result = spade.predict(demo.test[0])
    _, *maps = lesson.draw_excess([result]).axes[:4]
    shown = [panel.images[0].get_array() for panel in maps]
    np.testing.assert_allclose(shown[0] - shown[1], shown[2], atol=1e-4)
    assert len({panel.images[0].get_clim() for panel in maps}) == 1


def test_both_ways_to_enlarge_are_drawn_over_the_cells():
    (panel,) = lesson.draw_enlarged(np.array([0, 1.0, 0]), 4).axes
    kept, aligned = (line.get_ydata() for line in panel.lines)
    assert kept.argmax() in (5, 6)
    np.testing.assert_allclose(kept, kept[::-1])
    np.testing.assert_allclose(aligned, np.interp(np.arange(12) * 2 / 11, [0, 1, 2], [0, 1, 0]))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda pixel, stride: ..., "Not answered yet"),
        (lambda pixel, stride: (pixel + 0.5) / stride - 0.5, "Right. "),
        (lambda pixel, stride: pixel / stride, "Pixel 0 is not at place 0"),
        (lambda pixel, stride: (pixel + 0.5) / stride, "from the edge of the first cell"),
        (lambda pixel, stride: pixel // stride, "the place is a fraction"),
        (lambda pixel, stride: pixel / stride - 0.5, "add 0.5 before you divide"),
        (lambda pixel, stride: pixel, "the places are -0.375, 2.875, 5.781; got 0.000, 13.000, 100.000"),
        (lambda pixel, stride: pixel / "4", "Your code raises TypeError"),
    ],
)
def test_the_exercise_names_the_mistake(capsys, answer, said):
    lesson.check(answer)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda squares: ..., "Not answered yet"),
        (lambda squares: np.sqrt(squares.sum()) * squares / squares.sum(), "Right. "),
        (lambda squares: squares / np.linalg.norm(np.sqrt(squares)), "Right. "),
        (lambda squares: squares, "Split the distance itself"),
        (lambda squares: np.sqrt(squares), "add up to 19, and the distance is 13"),
        (lambda squares: squares / squares.sum(), "Multiply them by the distance"),
        (lambda squares: np.sqrt(squares) / np.sqrt(squares).sum() * 13, "in proportion to the roots"),
        (lambda squares: squares * 0, "they are [ 0.69  1.23 11.08]"),
    ],
)
def test_the_warm_up_names_the_mistake(capsys, answer, said):
    lesson.check_shares(answer)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., "Not answered yet"),
        (int(0.01 * 224**2), "Right. "),
        (502, "rounded down"),
        (0.01 * 224**2, "whole numbers"),
        (2, "1 % of the side"),
        (224**2, "need not fill the map"),
        (5, "5 px are not 1 %"),
    ],
)
def test_the_question_names_the_mistake(capsys, answer, said):
    lesson.check_think(answer)
    assert said in capsys.readouterr().out


def test_from_the_area_of_the_question_on_both_scores_agree():
    for pixels, agree in ((500, False), (501, True)):
        values = np.zeros(224 * 224, np.float32)
        values[:pixels] = 7
        assert (mean_of_top(values.reshape(224, 224)) == values.max()) == agree
