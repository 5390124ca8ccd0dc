"""Lesson 04: matching by hand, and an exercise that names the mistake."""

import numpy as np
import pytest

import spade_kit
from spade_kit.lessons.correspondence import check, make_small_pyramids, match_by_hand


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
        (lambda p, n: 3, "Your code raises TypeError"),
    ],
)
def test_the_exercise_names_the_mistake(capsys, answer, said):
    check(answer)
    assert said in capsys.readouterr().out
