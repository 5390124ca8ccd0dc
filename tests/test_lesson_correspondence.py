"""Lesson 04: matching by hand, and an exercise that names the mistake."""

import numpy as np
import pytest

import spade_kit
from spade_kit.lessons.correspondence import (
    check,
    check_radius,
    check_think,
    draw_distances,
    draw_pyramids,
    make_small_pyramids,
    match_by_hand,
)


@pytest.mark.parametrize("radius", [None, 0, 1, 2])
def test_matches_by_hand_equal_those_of_the_package(radius):
    query, normal = make_small_pyramids()
    distance, place = match_by_hand(query, normal, radius)
    found = spade_kit.match_pixels(query, normal, radius=radius)
    np.testing.assert_allclose(found.distance, distance, rtol=1e-6)
    np.testing.assert_array_equal(np.stack([found.row[0], found.col[0]], axis=-1), place)


def test_a_case_worked_on_paper():
    distance, place = match_by_hand(*make_small_pyramids())
    assert distance[1, 1] == pytest.approx(34**0.5)
    assert place[1, 1].tolist() == [2, 0]
    assert (np.delete(distance.ravel(), 5) == 0).all()


def squares(pixel, normals):
    return ((normals - pixel) ** 2).sum(1)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda pixel, normals: ..., "Not answered yet"),
        (lambda p, n: (int(squares(p, n).argmin()), squares(p, n).min() ** 0.5), "Right. "),
        (lambda p, n: (int(squares(p, n).argmax()), squares(p, n).max() ** 0.5), "Not yet. That is the farthest"),
        (lambda p, n: (int(squares(p, n).argmin()), squares(p, n).min()), "the distance is squared"),
        (lambda p, n: (int(squares(p, n).argmin()), 1.0), "but the distance must be"),
        (lambda p, n: (int(((n - p) ** 2).sum(0).argmin()), 1.0), "Sum over the channels"),
        (lambda p, n: n @ p.T @ p, "Your code raises"),
        (lambda p, n: 3, "Two numbers are needed"),
        (lambda p, n: (squares(p, n).min() ** 0.5, int(squares(p, n).argmin())), "The order is the index first"),
        (lambda p, n: (int(abs(n - p).sum(1).argmin()), 1.0), "absolute differences: square them"),
        (lambda p, n: (int(abs(n - p).max(1).argmin()), 1.0), "one channel only"),
        (lambda p, n: (int((n @ p / np.linalg.norm(n, axis=1)).argmax()), 1.0), "nearest by angle"),
        (lambda p, n: (0, 1.0), "Normal pixel 0 is not the nearest"),
    ],
)
def test_the_exercise_names_the_mistake(capsys, answer, said):
    check(answer)
    assert said in capsys.readouterr().out


def test_grids_are_drawn_with_their_numbers():
    query, normal = make_small_pyramids()
    fine, coarse, *_ = draw_pyramids(query, normal).axes
    assert [text.get_text() for text in fine.texts] == list("1122192233443344")
    assert [text.get_text() for text in coarse.texts] == list("5678")
    distance, _ = match_by_hand(query, normal)
    (panel,) = draw_distances({"anywhere": distance}).axes
    assert [text.get_text() for text in panel.texts] == ["0.00"] * 5 + ["5.83"] + ["0.00"] * 10


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., "Not answered yet"),
        (
            next(r for r in range(9) if (match_by_hand(*make_small_pyramids(), radius=r)[0] == 0).sum() == 15),
            "Right. ",
        ),
        (3, "which of them is nearer"),
        (1, "those of columns 0 and 3 do not"),
        (0, "no cell has a twin"),
        (4, "A radius of 4 is not the smallest"),
        (None, "None lets a cell look everywhere"),
    ],
)
def test_the_warm_up_names_the_mistake(capsys, answer, said):
    check_radius(answer)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., "Not answered yet"),
        (50 * sum(max(row, col) <= 4 for row in range(56) for col in range(56)), "Right. "),
        (4050, "holds inside the image"),
        (800, "own place counts"),
        (25, "one image"),
        (156_800, "without a radius"),
        (50 * sum(row**2 + col**2 <= 16 for row in range(56) for col in range(56)), "That is a disc"),
        (7, "7 is not 50 times"),
    ],
)
def test_the_question_names_the_mistake(capsys, answer, said):
    check_think(answer)
    assert said in capsys.readouterr().out
