"""Lesson 06: which normal photograph explains most of a part?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spade_kit.lessons.checking import tell
from spade_kit.result import Result


def check(find: Callable[[Result], int], result: Result) -> None:
    """Is it the training image that explains most cells of a result?"""
    tell(
        lambda: find(result),
        lambda answer: _find_mistake(int(answer), result),
        "The yellow bars under the explorer's neighbours are these counts.",
    )


def _find_mistake(answer: int, result: Result) -> str | None:
    counts: dict[int, int] = {}
    for neighbour in result.correspondence.image[0].ravel().tolist():  # counted one by one, as with a pencil
        image = int(result.neighbours.index[neighbour])
        counts[image] = counts.get(image, 0) + 1
    most = max(counts.values())
    if counts.get(answer) == most:
        return None
    ranks = np.bincount(result.correspondence.image[0].ravel())
    if answer == int(ranks.argmax()):
        return (
            "That is its rank among the neighbours. correspondence.image counts along result.neighbours, "
            "whose index says which training image each is."
        )
    if answer == int(result.neighbours.index[0]):
        return "That is the nearest photo as a whole. It need not be the one that explains most cells: count them."
    if answer == most:
        return "That is how many cells it explains; which training image is it?"
    return f"Training image {answer} explains {counts.get(answer, 0)} cells, but another one explains {most}."
