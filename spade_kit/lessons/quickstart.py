"""Lesson 00: from a map to a verdict."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np

from spade_kit.lessons.checking import tell


def check(judge: Callable[[SimpleNamespace, float], bool]) -> None:
    """Does it call a part defective where its image score reaches the threshold?"""
    parts = [_make_part(3, 14), _make_part(6, 8), _make_part(3, 10)]  # a small defect, a good part, one just at 10
    right = "A part is called defective where a single pixel of its smoothed map reaches the threshold."
    tell(lambda: [judge(part, 10.0) for part in parts], _find_mistake, right)


def _make_part(level: float, peak: float) -> SimpleNamespace:
    """What a result has that matters here: a map of one level with one peak."""
    anomaly_map = np.full((40, 60), level, np.float32)
    anomaly_map[7, 50] = peak
    return SimpleNamespace(anomaly_map=anomaly_map, image_score=float(peak))


def _find_mistake(verdicts: list[bool]) -> str | None:
    small, good, just = map(bool, verdicts)
    if not small and good:
        return "It is the wrong way round: good parts are called defective."
    if good:
        return "A good part, whose map stays below the threshold everywhere, is called defective."
    if not small:
        return "A small defect is missed. Is that the mean of the map? One strange pixel is enough: take the maximum."
    if not just:
        return "A part that just reaches the threshold is missed: the rule is >=, as in result.segmentation."
    return None
