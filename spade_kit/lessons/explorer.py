"""Lesson 07: which normal image explains a pixel, which one the most cells, and which ones none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from spade_kit.lessons.checking import check_answer, tell
from spade_kit.result import Result
from spade_kit.widgets.explorer import Explorer


def check_normal(find: Callable[[Explorer], int], explorer: Explorer) -> None:
    """Check that the answer is the training image that explains the probe of an explorer."""
    seen = explorer.readout().loc["probe"]
    mistakes = {
        "That is its rank among the neighbours: the column normal holds the training image.": seen["neighbour"],
        "That is the place in the normal image, its row.": seen["normal row"],
        "That is the index of the image under test.": explorer.index,
        "That is the distance.": seen["distance"],
    }
    told = "The same row says where in that image, and how far it is."
    check_answer(
        lambda: find(explorer),
        seen["normal"],
        mistakes,
        lambda got: f"Training image {got} does not explain the probe.",
        told,
    )


def check_think(idle: int) -> None:
    """Check how many of six neighbours can be left out without a change of the map."""
    mistakes = {
        "All of those that explain nothing can go together: none of them is missed by any cell.": 1,
        "Some neighbours explain cells, and these cells would be farther from normal.": 6,
        "A neighbour that explains no cell changes none.": 0,
    }
    otherwise = f"{idle} is not the number of neighbours that explain nothing."
    told = "Three: a large K costs time for neighbours that explain nothing, and nothing else."
    check_answer(idle, 3, mistakes, otherwise, told)


def check(find: Callable[[Result], int], result: Result) -> None:
    """Check that the answer is the training image that explains the most cells of a result."""
    right = "The yellow bars below the neighbours in the explorer show these counts."
    tell(lambda: find(result), lambda answer: _find_mistake(int(answer), result), right)


def _find_mistake(answer: int, result: Result) -> str | None:
    ranks, index = result.correspondence.image[0].ravel(), result.neighbours.index
    counts = Counter(index[ranks].tolist())  # how many cells each training image explains
    most = max(counts.values())
    if counts[answer] == most:
        return None
    if answer == np.bincount(ranks).argmax():
        return (
            "That is its rank among the neighbours. correspondence.image holds positions in result.neighbours; "
            "look up the training image in result.neighbours.index."
        )
    if answer == index[0]:
        return "That is the nearest image as a whole. It need not be the one that explains the most cells: count them."
    if answer == most:
        return "That is the number of cells it explains. Return the index of the training image."
    return f"Training image {answer} explains {counts[answer]} cells, but another one explains {most}."
