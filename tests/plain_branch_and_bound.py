"""A readable branch and bound: NumPy and recursion, any number of levels, any integer ratio between their grids."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from spade_kit.search.runtime import NOWHERE


@dataclass
class Visits:
    """The number of measured and of possible pairs of cells at each level, fine to coarse."""

    measured: list[int]
    possible: list[int]


def plain_branch_and_bound(
    query: Sequence[np.ndarray],
    gallery: Sequence[np.ndarray],
    weights: Sequence[float],
    kappa: int = 1,
    radius: int | None = None,
) -> tuple[np.ndarray, np.ndarray, Visits]:
    """The same search as `search_branch_and_bound`, one pair of cells at a time.

    Parameters
    ----------
    query, gallery
        Levels (c, h, w) and (n, c, h, w), fine to coarse, with nested grids.

    Returns
    -------
    distance, place, visits
        (kappa, h, w) squared distances, nearest first; the places of these pixels, image * h * w + row * w + column;
        and the number of pairs that were measured.
    """
    n, _, h, w = gallery[0].shape
    best = np.full((kappa, h, w), inf)
    found = np.full((kappa, h, w), NOWHERE)
    grids = [level.shape[-2:] for level in query]
    visits = Visits([0] * len(query), [n * (rows * columns) ** 2 for rows, columns in grids])

    def pixels(level: int, row: int, column: int) -> tuple[slice, slice]:
        down, across = h // grids[level][0], w // grids[level][1]
        return slice(row * down, (row + 1) * down), slice(column * across, (column + 1) * across)

    def near(level: int, here: tuple[int, int], there: tuple[int, int]) -> bool:
        spans = zip(pixels(level, *here), pixels(level, *there))
        return radius is None or all(max(b.start - a.stop, a.start - b.stop) + 1 <= radius for a, b in spans)

    def open_pair(level: int, here: tuple[int, int], image: int, there: tuple[int, int], total: float) -> None:
        if total > worst(level, here) or not near(level, here, there):  # nothing below can be nearer
            return
        if level == 0:
            insert(here, total, image * h * w + there[0] * w + there[1])
            return
        for inner in children(level, here):
            for other in children(level, there):
                visits.measured[level - 1] += 1
                difference = query[level - 1][:, inner[0], inner[1]] - gallery[level - 1][image, :, other[0], other[1]]
                distance = float(difference @ difference)
                open_pair(level - 1, inner, image, other, total + weights[level - 1] * distance)

    def worst(level: int, here: tuple[int, int]) -> float:
        return best[-1][pixels(level, *here)].max()

    def children(level: int, cell: tuple[int, int]) -> list[tuple[int, int]]:
        down, across = grids[level - 1][0] // grids[level][0], grids[level - 1][1] // grids[level][1]
        return [(cell[0] * down + i, cell[1] * across + j) for i in range(down) for j in range(across)]

    def insert(here: tuple[int, int], total: float, place: int) -> None:
        at = (slice(None), *here)
        nearest = sorted([*zip(best[at], found[at]), (total, place)])[:kappa]
        best[at], found[at] = zip(*nearest)

    top = len(query) - 1
    visits.measured[top] = visits.possible[top]
    for here in np.ndindex(*grids[top]):
        difference = gallery[top] - query[top][:, here[0], here[1], None, None]
        bound = weights[top] * (difference**2).sum(1)  # (n, rows, columns): lower bound of each block's distance
        for flat in np.argsort(bound, axis=None, kind="stable"):  # best first, so that the rest is soon excluded
            image, row, column = (int(at) for at in np.unravel_index(flat, bound.shape))
            if bound[image, row, column] > worst(top, here):
                break
            open_pair(top, here, image, (row, column), float(bound[image, row, column]))
    return best, found, visits
