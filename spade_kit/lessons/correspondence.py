"""Lesson 04: stage 3 worked out by hand, and the value of position-free matching."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spade_kit.features.pyramid import Pyramid
from spade_kit.lessons.checking import explain, tell
from spade_kit.lessons.material import make_pyramids

# One channel per level: a fine 4 x 4 grid, and a coarse 2 x 2 grid in which each cell covers 2 x 2 fine ones.
_FINE = {"query": [[1, 1, 2, 2], [1, 9, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]], "normal": [
    [2, 2, 1, 1], [2, 2, 1, 1], [4, 4, 3, 3], [4, 4, 3, 3]]}  # fmt: skip
_COARSE = {"query": [[5, 6], [7, 8]], "normal": [[6, 5], [8, 7]]}


def make_small_pyramids() -> tuple[Pyramid, Pyramid]:
    """A query and a normal image of 4 x 4 cells: the normal one is the query's mirror image, without its 9."""
    return make_pyramids(_FINE, _COARSE)


def match_by_hand(query: Pyramid, normal: Pyramid, radius: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Stage 3 as you would do it on paper: compare every cell of the query with every cell of the normal image.

    Returns the Euclidean distance to the nearest cell, (h, w), and its place as (row, col), (h, w, 2).
    """
    h, w = query.grid
    distance, place = np.full((h, w), np.inf), np.zeros((h, w, 2), int)
    for row, col in np.ndindex(h, w):
        for other_row, other_col in np.ndindex(h, w):
            if radius is not None and max(abs(row - other_row), abs(col - other_col)) > radius:
                continue
            squared = 0.0
            for here, there in zip(query.levels, normal.levels):
                step = h // here.shape[2]  # a coarse cell covers several fine ones
                difference = here[0, :, row // step, col // step] - there[0, :, other_row // step, other_col // step]
                squared += float((difference.double() ** 2).sum())
            if squared**0.5 < distance[row, col]:
                distance[row, col], place[row, col] = squared**0.5, (other_row, other_col)
    return distance, place


def check(nearest: Callable[[np.ndarray, np.ndarray], tuple[int, float]]) -> None:
    """Check that ``nearest`` gives the nearest of n normal pixels (n, c) to a pixel (c,), as (index, distance)."""
    rng = np.random.default_rng(0)
    pixel, normals = rng.normal(size=5), rng.normal(size=(40, 5))
    right = "That is all of stage 3; the rest is doing it fast for 3,136 pixels and 156,800 normal ones."
    tell(lambda: nearest(pixel, normals), lambda answer: _find_mistake(answer, pixel, normals), right)


def _find_mistake(answer: tuple[int, float], pixel: np.ndarray, normals: np.ndarray) -> str | None:
    index, distance = answer
    right = np.array([sum((a - b) ** 2 for a, b in zip(pixel, normal)) ** 0.5 for normal in normals])
    best = int(right.argmin())
    if index == right.argmax():
        return "That is the farthest normal pixel: np.argmin gives the nearest."
    if index != best:
        return f"The nearest normal pixel is number {best}; got {index}. Sum over the channels, axis 1 of (n, c)."
    squared = {"The index is right, but the distance is squared: take the square root.": right[best] ** 2}
    otherwise = f"The index is right, but the distance must be {right[best]:.3f}; got {float(distance):.3f}."
    return explain(distance, right[best], squared, otherwise)
