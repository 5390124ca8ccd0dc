"""Lesson 00: from a map to a verdict."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from spade_kit.lessons.checking import tell


def check(judge: Callable[[SimpleNamespace, float], bool]) -> None:
    """Does it call a part defective where its image score reaches the threshold?"""
    tell(
        lambda: _judge_all(judge),
        _find_mistake,
        "A part is called defective where a single pixel of its smoothed map reaches the threshold.",
    )


def _make_part(level: float, peak: float) -> SimpleNamespace:
    """What a result has that matters here: a map of one level with one peak."""
    anomaly_map = np.full((40, 60), level, np.float32)
    anomaly_map[7, 50] = peak
    return SimpleNamespace(anomaly_map=anomaly_map, image_score=float(peak))


_PARTS = {
    "a small defect": _make_part(3, 14),
    "a good part": _make_part(6, 8),
    "a part that just reaches the threshold": _make_part(3, 10),
}


def _judge_all(judge: Callable[[SimpleNamespace, float], bool]) -> Any:
    verdicts = [judge(part, 10.0) for part in _PARTS.values()]
    return ... if any(verdict is ... for verdict in verdicts) else verdicts


def _find_mistake(verdicts: list[bool]) -> str | None:
    small, good, just = (bool(verdict) for verdict in verdicts)
    if not small and good:
        return "It is the wrong way round: good parts are called defective."
    if good:
        return "A good part, whose map stays below the threshold everywhere, is called defective."
    if not small:
        return "A small defect is missed. Is that the mean of the map? One strange pixel is enough: take the maximum."
    if not just:
        return "A part that just reaches the threshold is missed: the rule is >=, as in result.segmentation."
    return None
