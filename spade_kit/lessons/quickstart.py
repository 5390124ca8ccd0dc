"""Lesson 00: a folder of images, and from an anomaly map to a verdict."""

from __future__ import annotations

import reprlib
import shutil
from collections.abc import Callable
from numbers import Integral
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace

import numpy as np

from spade_kit.datasets.loading import load_dataset
from spade_kit.lessons.checking import explain, tell
from spade_kit.result import Result


def copy_demo() -> Path:
    """Copy the demo to a new folder with the subfolders ``train``, ``test`` and ``ground_truth``; return its path."""
    demo = load_dataset("demo").train[0].path.parents[2]
    return shutil.copytree(demo, Path(mkdtemp()) / "demo")


def check_marked(marked: float, result: Result) -> None:
    """Check the fraction of the image that is marked at the threshold that 5 % of normal pixels reach."""
    rates = ({"fpr": 0.05}, {"fpr": 0.01}, {"fpr": 0.05, "of": "image"})
    loose, tight, of_parts = (result.segmentation(result.spade.threshold(**rate)) for rate in rates)
    mistakes = {
        "That is the fraction at the threshold that 1 % reach: take fpr=0.05.": tight.mean(),
        "That is the threshold for the scores of whole parts: leave out of='image'.": of_parts.mean(),
        "That is the number of marked pixels: take the mean, not the sum.": loose.sum(),
        "That is in percent: write the fraction itself.": 100 * loose.mean(),
        "That is the fraction that is not marked.": 1 - loose.mean(),
        "So much of the defect is marked, but not of the whole image: take the mean over all its pixels.": (
            loose[result.mask].mean()
        ),
    }
    otherwise = "Take spade.threshold(fpr=0.05), then the mean of result.segmentation(...)."
    right = f"{loose.mean():.0%} of this image instead of {tight.mean():.0%}: more false alarms, and a wider glow."

    def find_mistake(answer: float) -> str | None:
        to_two_digits = abs(answer - loose.mean()) <= 0.005
        return None if to_two_digits else explain(answer, loose.mean(), mistakes, otherwise, rtol=0.02)

    tell(lambda: marked, find_mistake, right)


def check(judge: Callable[[SimpleNamespace, float], bool]) -> None:
    """Check that ``judge`` calls a part defective if its image score reaches the threshold."""
    parts = [_make_part(3, 14), _make_part(6, 8), _make_part(3, 10)]  # a small defect, a good part, one exactly at 10
    right = "A part is called defective if a single pixel of its smoothed map reaches the threshold."
    tell(lambda: [judge(part, 10.0) for part in parts], _find_mistake, right)


def _make_part(level: float, peak: float) -> SimpleNamespace:
    """A stand-in for a result: a flat map with one peak."""
    anomaly_map = np.full((40, 60), level, np.float32)
    anomaly_map[7, 50] = peak
    return SimpleNamespace(
        anomaly_map=anomaly_map, image_score=float(peak), segmentation=lambda threshold: anomaly_map >= threshold
    )


def _find_mistake(verdicts: list[bool]) -> str | None:
    other = next((one for one in verdicts if not isinstance(one, (bool, np.bool_))), None)
    if other is not None:
        return f"One True or False for the whole part is asked for; got {reprlib.repr(other)}."
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


def check_think(answer: list[float]) -> None:
    """Check the marked pixels of a good part on average, and how many of 12 good parts have one."""
    right = (
        "Every good part has some marked pixels, so parts need a threshold of their own: threshold(0.05, of='image')."
    )
    tell(lambda: answer, _find_wrong_count, right)


def _find_wrong_count(answer: list[float]) -> str | None:
    pixels, called = answer
    mistakes = {
        "Those are all pixels of the map: take 1 % of them.": 224 * 224,
        "That is 1 % of one side: a map has 224 x 224 pixels.": 2.24,
        "That is 1 % of the whole image of 320 x 320 pixels: only the crop is judged.": 1024,
    }
    wrong = explain(pixels, 0.01 * 224 * 224, mistakes, "Take 1 % of 224 x 224 pixels.", rtol=0.01)
    if wrong is not None or called == 12:
        return wrong
    if called == 1 and not isinstance(called, Integral):
        return "That is a fraction of the parts: how many of the 12 is it?"
    if called in (0, 0.12, 1):
        return (
            "1 % of the pixels is not 1 % of the parts: a single pixel is enough to call a part defective. Judge them."
        )
    return (
        f"Judge the 12 good test parts at threshold, and count those that is_defective calls defective; got {called}."
    )
