"""Lesson 06: which normal photograph explains most of a part?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from spade_kit.lessons.checking import tell
from spade_kit.result import Result


def check(find: Callable[[Result], int], result: Result) -> None:
    """Is it the training image that explains most cells of a result?"""
    right = "The yellow bars under the explorer's neighbours are these counts."
    tell(lambda: find(result), lambda answer: _find_mistake(int(answer), result), right)


def _find_mistake(answer: int, result: Result) -> str | None:
    ranks, index = result.correspondence.image[0].ravel(), result.neighbours.index
    counts = Counter(index[ranks].tolist())  # how many cells each training image explains
    most = max(counts.values())
    if counts[answer] == most:
        return None
    if answer == np.bincount(ranks).argmax():
        return (
            "That is its rank among the neighbours. correspondence.image counts along result.neighbours, "
            "whose index says which training image each is."
        )
    if answer == index[0]:
        return "That is the nearest photo as a whole. It need not be the one that explains most cells: count them."
    if answer == most:
        return "That is how many cells it explains; which training image is it?"
    return f"Training image {answer} explains {counts[answer]} cells, but another one explains {most}."
