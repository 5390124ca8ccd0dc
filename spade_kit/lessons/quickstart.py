"""Lesson 00: a folder of images, and from an anomaly map to a verdict."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace

import numpy as np

from spade_kit.datasets.loading import load_dataset
from spade_kit.lessons.checking import tell


def copy_demo() -> Path:
    """Copy the demo to a new folder with the subfolders ``train``, ``test`` and ``ground_truth``; return its path."""
    demo = load_dataset("demo").train[0].path.parents[2]
    return shutil.copytree(demo, Path(mkdtemp()) / "demo")


def check(judge: Callable[[SimpleNamespace, float], bool]) -> None:
    """Check that ``judge`` calls a part defective if its image score reaches the threshold."""
    parts = [_make_part(3, 14), _make_part(6, 8), _make_part(3, 10)]  # a small defect, a good part, one exactly at 10
    right = "A part is called defective if a single pixel of its smoothed map reaches the threshold."
    tell(lambda: [judge(part, 10.0) for part in parts], _find_mistake, right)


def _make_part(level: float, peak: float) -> SimpleNamespace:
    """A stand-in for a result: a flat map with one peak."""
    anomaly_map = np.full((40, 60), level, np.float32)
    anomaly_map[7, 50] = peak
    return SimpleNamespace(anomaly_map=anomaly_map, image_score=float(peak))


def _find_mistake(verdicts: list[bool]) -> str | None:
    small, good, just = map(bool, verdicts)
    if not small and good:
        return "Your rule is the wrong way round: it calls good parts defective."
    if good:
        return "A good part is called defective, although its map stays below the threshold everywhere."
    if not small:
        return "A small defect is missed. Is that the mean of the map? One anomalous pixel is enough: take the maximum."
    if not just:
        return "A part that just reaches the threshold is missed: use >=, as result.segmentation does."
    return None
