"""Lesson 04: stage 3 worked out by hand, and the value of position-free matching."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from spade_kit.features.pyramid import Pyramid
from spade_kit.figures.style import RING
from spade_kit.lessons.checking import check_answer, explain, tell
from spade_kit.lessons.material import make_pyramids, open_charts, show_grid

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


def draw_pyramids(query: Pyramid, normal: Pyramid) -> Figure:
    """The fine and the coarse grid of two images, with their numbers; an outline around the first coarse cell."""
    names = [f"{image}, {grid} grid" for image in ("query", "normal") for grid in ("fine", "coarse")]
    levels = [level[0, 0].numpy() for level in (*query.levels, *normal.levels)]
    figure = _draw_numbers(dict(zip(names, levels)), "{:.0f}")
    for panel in figure.axes:
        panel.add_patch(Rectangle((-0.5, -0.5), 2, 2, fill=False, edgecolor=RING, linewidth=3))
    return figure


def draw_distances(grids: Mapping[str, Float[np.ndarray, "h w"]]) -> Figure:
    """Grids of distances with their numbers, side by side on one scale."""
    return _draw_numbers(grids, "{:.2f}")


def _draw_numbers(grids: Mapping[str, Float[np.ndarray, "h w"]], form: str) -> Figure:
    """Grids over one area, the cells of coarse ones larger."""
    figure, panels = open_charts(2.3 * len(grids), 2.6, count=len(grids))
    side, end = max(map(len, grids.values())), max(map(np.max, grids.values()))
    for panel, (name, values) in zip(panels, grids.items()):
        show_grid(panel, values, name, vmin=0, vmax=end, extent=(-0.5, side - 0.5, side - 0.5, -0.5))
        panel.set(xticks=range(side), yticks=range(side))
        step = side // len(values)
        for (row, col), value in np.ndenumerate(values):
            colour = "black" if value > end / 2 else "white"  # the colours end bright
            x, y = (at * step + (step - 1) / 2 for at in (col, row))
            panel.text(x, y, form.format(value), ha="center", va="center", color=colour, fontsize=9)
    return figure


def check_radius(radius: int) -> None:
    """Check the smallest radius with which all cells of the small query but one are at distance 0."""
    mistakes = {
        "The mirror image of column 0 is column 3, but column 2 looks the same: which of them is nearer?": 3,
        "With radius 1 the cells of columns 1 and 2 find their twin, those of columns 0 and 3 do not.": 1,
        "At its own place, no cell has a twin.": 0,
        "None lets a cell look everywhere: what is the smallest number that is enough?": np.inf,
    }
    otherwise = f"A radius of {radius} is not the smallest: count cells."
    told = "The cells of columns 0 and 3 have to look two columns farther."
    check_answer(np.inf if radius is None else radius, 2, mistakes, otherwise, told)


def check_think(cells: int) -> None:
    """Check among how many normal cells a cell in the corner looks with radius 4 and K = 50."""
    mistakes = {
        "That holds inside the image: a corner has cells on two of its four sides only.": 50 * 81,
        "The cell's own place counts, too: 5 x 5 in each image.": 50 * 16,
        "That is one image: there are 50.": 25,
        "That is the search without a radius.": 50 * 56 * 56,
        "That is a disc. The radius counts rows and columns separately, so the cells form a square.": 50 * 17,
    }
    otherwise = f"{cells} is not 50 times the cells within 4 of a corner."
    told = "5 x 5 cells in each of 50 images; inside the image it is 9 x 9, and 4,050."
    check_answer(cells, 1250, mistakes, otherwise, told)


def check(nearest: Callable[[np.ndarray, np.ndarray], tuple[int, float]]) -> None:
    """Check that ``nearest`` gives the nearest of n normal pixels (n, c) to a pixel (c,), as (index, distance)."""
    rng = np.random.default_rng(93)  # a case in which each mistake finds another pixel
    pixel, normals = rng.normal(size=5), rng.normal(size=(40, 5))
    right = "That is all of stage 3; the rest is doing it fast for 3,136 pixels and 156,800 normal ones."
    tell(lambda: nearest(pixel, normals), lambda answer: _find_mistake(answer, pixel, normals), right)


def _find_mistake(answer: tuple[int, float], pixel: np.ndarray, normals: np.ndarray) -> str | None:
    if np.size(answer) != 2:
        return f"Two numbers are needed, the index and the distance; got {answer}."
    index, distance = answer
    differences = normals - pixel
    right = np.array([sum((a - b) ** 2 for a, b in zip(pixel, normal)) ** 0.5 for normal in normals])
    best = int(right.argmin())
    if np.allclose(answer, (right[best], best)):
        return "The order is the index first, then the distance."
    mistakes = {
        "That is the farthest normal pixel: np.argmin gives the nearest.": right.argmax(),
        "Sum over the channels, axis 1 of (n, c).": (differences**2).sum(axis=0).argmin(),
        "That is the nearest by absolute differences: square them.": abs(differences).sum(axis=1).argmin(),
        "That compares one channel only, the one that differs most: sum over all.": abs(differences)
        .max(axis=1)
        .argmin(),
        "That is the nearest by angle (cosine). A Euclidean distance sums squared differences.": (
            (normals @ pixel / np.linalg.norm(normals, axis=1)).argmax()
        ),
    }
    if index != best:
        return explain(index, best, mistakes, f"Normal pixel {index} is not the nearest: {best} is.")
    squared = {"The index is right, but the distance is squared: take the square root.": right[best] ** 2}
    otherwise = f"The index is right, but the distance must be {right[best]:.3f}; got {float(distance):.3f}."
    return explain(distance, right[best], squared, otherwise)
