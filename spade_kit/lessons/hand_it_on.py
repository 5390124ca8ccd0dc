"""Lesson 12: folders of solar cells without labels, what experts say of each cell, and the gain of a change."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import TypeAlias
from unittest.mock import patch

import numpy as np
from comm import DummyComm
from jaxtyping import Bool, Float, Int

from spade_kit.datasets.loading import load_dataset
from spade_kit.datasets.samples import GOOD, Sample
from spade_kit.evaluation.bootstrap import bootstrap
from spade_kit.evaluation.report import Report
from spade_kit.lessons.checking import check_answer, explain, tell
from spade_kit.lessons.material import cell_types

Found: TypeAlias = Bool[np.ndarray, "n"]
_KEYS: dict[str | None, str] = {GOOD: "G", "defect 100 %": "D"}  # of the review; experts doubt all others


def lay_out(folder: Path) -> dict[str, str]:
    """Copy monocrystalline solar cells to three folders, and return the key that an expert presses for each name.

    ``reference``: 30 normal cells and, by mistake, a broken one. ``line``: 60 good, 30 broken and 10 doubtful ones.
    ``more``: 30 other normal cells.
    """
    cells, rng = load_dataset("solar_cells"), np.random.default_rng(6)

    def draw(some: Sequence[Sample], count: int, key: str) -> list[Sample]:
        kinds = zip(some, cell_types(some))
        fit = [cell for cell, kind in kinds if kind == "mono" and _KEYS.get(cell.label, "U") == key]
        return [fit[at] for at in rng.choice(len(fit), count, replace=False)]

    normal, broken = draw(cells.train, 60, "G"), draw(cells.test, 31, "D")
    line = broken[1:] + draw(cells.test, 60, "G") + draw(cells.test, 10, "U")
    for name, some in {"reference": [*normal[:30], broken[0]], "line": line, "more": normal[30:]}.items():
        (folder / name).mkdir()
        for cell in some:
            shutil.copy(cell.path, folder / name)
    return {cell.path.name: _KEYS.get(cell.label, "U") for cell in normal + broken + line}


def read_report(page: Path) -> list[str]:
    """The headline of ``report.html`` and the sentences below it."""
    top = page.read_text(encoding="utf-8").partition("<figure")[0].partition("<body>")[2]
    told = re.findall(r"<(h1|p)>(.*?)</\1>", top, re.DOTALL)
    return [" ".join(unescape(text).split()) for _, text in told]


@contextmanager
def unsaved() -> Iterator[None]:
    """Widgets made here are not saved with a notebook."""
    with patch("comm.create_comm", DummyComm):
        yield


def find_defects(report: Report, threshold: float) -> Found:
    """Whether each defect reaches the threshold for images."""
    frame = report.to_frame()
    return frame["image_score"][frame["label"] == "defect"].to_numpy() >= threshold


def measure_gain(before: Found, after: Found, drawn: Int[np.ndarray, "n"]) -> float:
    """How much the recall of the drawn defects grows by a change."""
    return float(after[drawn].mean() - before[drawn].mean())


def compare_recall(before: Found, after: Found) -> tuple[float, float, float]:
    """The gain in recall, and its 95 % confidence interval: bootstrap over the defects."""
    every = np.arange(len(before))
    interval = bootstrap(
        lambda times: measure_gain(before, after, np.repeat(every, times)), ["defect"] * len(every), 0.95, 1000, 0
    )
    return measure_gain(before, after, every), *interval


def check_fraction(fraction: Callable[[Float[np.ndarray, "n"], float], float]) -> None:
    """Check the fraction of images that reach the threshold."""
    scores = np.array([3.0, 9.0, 5.0, 5.0, 1.0, 2.0, 4.0, 8.0])
    mistakes = {
        "That is a number of images: divide it by the number of all.": 4,
        "An image that just reaches the threshold counts, too: use >=.": 0.25,
    }
    told = "Without labels, a folder tells only this: how many are called anomalous, not how many of them rightly."
    check_answer(
        lambda: fraction(scores, 5.0),
        0.5,
        mistakes,
        lambda got: f"The fraction must be 0.5 for {scores} and 5; got {got}.",
        told,
    )


def check_think(needed: int) -> None:
    """Check how many normal images a threshold for 2 % needs to hold with 95 % confidence."""
    mistakes = {
        "Just too few: 0.98 to the power of 148 is 0.0503. Round up.": 148,
        "That is the number for 5 %: look at r = 2 %.": 59,
        "Of 50, one is expected above the level, but 0.98 to the power of 50 is 0.36: no confidence.": 50,
        "That is the number for a confidence of 99 %.": 228,
    }
    told = "Half the rate needs more than twice the images: 59 for 5 %, 149 for 2 %, 299 for 1 %."
    check_answer(needed, 149, mistakes, lambda got: f"0.98 to the power of {got} is {0.98**got:.3f}.", told)


def check(gain: Callable[[Found, Found, Int[np.ndarray, "n"]], float]) -> None:
    """Check the gain of a change in one draw of the bootstrap."""
    before, after = np.arange(10) < 3, np.arange(10) < 8
    drawn = np.array([0, 1, 1, 2, 4, 5, 8, 8, 9, 9])
    right = "The same cells are drawn for both, so only cells that changed from missed to found, or back, count."
    tell(lambda: gain(before, after, drawn), lambda answer: _find_mistake(answer, before, after, drawn), right)


def _find_mistake(answer: float, before: Found, after: Found, drawn: Int[np.ndarray, "n"]) -> str | None:
    right = measure_gain(before, after, drawn)
    mistakes = {
        "That is the loss: take before from after.": -right,
        "That is the gain of all cells, the same in each draw: take the drawn ones.": after.mean() - before.mean(),
        "That is the recall after the change: take off the one before.": after[drawn].mean(),
        "That is a number of cells: take the mean, not the sum.": after[drawn].sum() - before[drawn].sum(),
    }
    return explain(answer, right, mistakes, f"The gain must be {right:.2f}; got {float(answer):.2f}.")
