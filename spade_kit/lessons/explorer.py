"""Lesson 07: which normal image explains the most cells of a part?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from spade_kit.lessons.checking import tell
from spade_kit.result import Result


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
