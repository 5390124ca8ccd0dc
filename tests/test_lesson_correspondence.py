"""Lesson 04: matching by hand, and an exercise that says what is wrong."""

import numpy as np
import pytest

import spade_kit
from spade_kit.lessons.correspondence import check, make_small_pyramids, match_by_hand


@pytest.mark.parametrize("radius", [None, 0, 1, 2])
def test_by_hand_is_what_the_package_finds(radius):
    query, normal = make_small_pyramids()
    distance, place = match_by_hand(query, normal, radius)
    found = spade_kit.match_pixels(query, normal, radius=radius)
    np.testing.assert_allclose(found.distance, distance, rtol=1e-6)
    np.testing.assert_array_equal(np.stack([found.row[0], found.col[0]], axis=-1), place)


def test_a_case_worked_with_a_pencil():
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
        (lambda p, n: (int(squares(p, n).argmin()), 1.0), "but its distance is"),
        (lambda p, n: (int(((n - p) ** 2).sum(0).argmin()), 1.0), "Sum over the channels"),
        (lambda p, n: n @ p.T @ p, "It stops with"),
        (lambda p, n: 3, "It stops with TypeError"),
    ],
)
def test_the_exercise_says_what_is_wrong(capsys, answer, said):
    check(answer)
    assert said in capsys.readouterr().out
