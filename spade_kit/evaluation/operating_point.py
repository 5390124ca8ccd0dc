"""What follows from a threshold, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log10, nan

import numpy as np

from spade_kit.evaluation.bootstrap import LEVEL, clopper_pearson

_FEW = 20  # normal photos, below which a rate is no more than a hint
_WIDE = 3  # times the rate: an upper end above is worth a word


@dataclass(frozen=True)
class OperatingPoint:
    """What follows from a threshold, in numbers and in words.

    Attributes
    ----------
    of
        What is counted: ``"image"``, whole photos, or ``"pixel"``.
    photos
        How many normal ones were judged.
    normals, reached
        Normal photos or pixels, and those of them that reach the threshold: that are at or above it.
    low, high
        Ends of the 95 % interval of ``rate``; 0 and 1 where nothing is known.
    found, missed
        Defects that reach the threshold, and those that do not.
    alarms, passed
        Good ones of the test that reach it, and those that do not.
    unknown_above, unknown_below
        Those of the test whose truth is unknown.
    """

    of: str
    threshold: float
    photos: int
    normals: int
    reached: int
    low: float
    high: float
    found: int
    missed: int
    alarms: int
    passed: int
    unknown_above: int
    unknown_below: int

    @property
    def rate(self) -> float:
        """The part of the normals that reach the threshold; NaN where there are none."""
        return self.reached / self.normals if self.normals else nan

    @property
    def recall(self) -> float | None:
        """The part of the defects that is found; None where no defect is known."""
        return self.found / self._defects if self._defects else None

    @property
    def precision(self) -> float | None:
        """Of what reaches the threshold the part that is defective; None unless good and defective ones are known."""
        above = self.found + self.alarms
        return self.found / above if above and self._defects and self._goods else None

    @property
    def sentence(self) -> str:
        """What speaks for the threshold, in one or two sentences."""
        told = f"Threshold {self.threshold:.4g} for {'whole photos' if self.of == 'image' else 'pixels'}"
        if self.photos:
            pixels = f"{_many(self.normals, 'pixel')} of " if self.of == "pixel" else ""
            told += (
                f": of {pixels}{_many(self.photos, 'normal photo')}, {'each ' * (self.photos > 1)}judged against the "
                f"others, {_reach(self.reached)} ({_percent(self.rate)} %; {_percent(LEVEL)} % interval "
                f"{_percent(self.low)} to {_percent(self.high)} %)"
            )
        noun = f"test {self._noun}"
        parts = (
            _count_phrase(self._defects, f"defective {noun}", self.found, "recall", self.recall),
            _count_phrase(self._goods, f"good {noun}", self.alarms, "precision", self.precision),
            _count_phrase(self._unknown, f"unlabelled {noun}", self.unknown_above),
        )
        test = "; of ".join(filter(None, parts))
        return f"{told}. Of {test}." if test else f"{told}."

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to bear in mind, a sentence or two each."""
        remarks = [self._doubt_rate(), self._doubt_truth()]
        if self._unknown and (self._defects or self._goods):
            left_out = _many(self._unknown, f"unlabelled test {self._noun}")
            remarks.append(f"Recall and precision leave out {left_out}.")
        return tuple(filter(None, remarks))

    @property
    def _defects(self) -> int:
        return self.found + self.missed

    @property
    def _goods(self) -> int:
        return self.alarms + self.passed

    @property
    def _unknown(self) -> int:
        return self.unknown_above + self.unknown_below

    @property
    def _noun(self) -> str:
        return "photo" if self.of == "image" else "pixel"

    def _doubt_rate(self) -> str:
        if not self.photos:
            return "No normal photos were judged: how many of them reach the threshold is unknown."
        if not self.reached and self.photos > 1:
            return self._doubt_none()
        if self.photos < _FEW:
            return f"{_many(self.photos, 'normal photo')} can tell little: others may give quite another rate."
        if self.high > _WIDE * self.rate:
            high = _percent(self.high)
            return f"The interval is wide: the rate may as well be {high} %. More normal photos narrow it."
        return ""

    def _doubt_none(self) -> str:
        """What n photos can say when nothing in them reaches the threshold."""
        if self.of == "image":
            rarer = 10 ** max(2, len(str(self.photos + 1)))  # 1 in 100, 1 in 1000 ...: the next that n cannot tell
            return (
                f"With {self.photos:,} normal photos no rate below {_percent(1 / (self.photos + 1))} % can be told; "
                f"for {_percent(1 / rarer)} % take at least {rarer - 1:,}."
            )
        most = _percent(clopper_pearson(np.zeros(1, int), self.photos)[1].item())
        return (
            f"No pixel of {self.photos:,} normal photos reaches it, yet up to {most} % of all photos may have pixels "
            "that do. The upper end allows for them, as many in each such photo as the stranger half of the normal "
            "photos have above the other half."
        )

    def _doubt_truth(self) -> str:
        truth = "label" if self.of == "image" else "mask"
        if not (self._defects or self._goods):
            lack = f"No test photo has a {truth}" if self._unknown else "There are no test photos"
            return f"{lack}: how many defects are found and missed is unknown."
        if not self._defects:
            return f"No test {self._noun} is known to be defective: recall and precision are unknown."
        if not self._goods:
            return f"No test {self._noun} is known to be good: precision is unknown."
        caution = "a threshold moved to raise them does worse on new photos"
        return f"Recall and precision come from test {truth}s: {caution}."


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _reach(count: int) -> str:
    return "none reaches it" if not count else "1 reaches it" if count == 1 else f"{count:,} reach it"


def _count_phrase(count: int, noun: str, above: int, name: str = "", value: float | None = None) -> str:
    """Of how many how many reach the threshold, and what that makes; nothing where there are none."""
    made = "" if value is None else f" ({name} {_percent(value)} %)"
    return f"{_many(count, noun)} {_reach(above)}{made}" if count else ""


def _percent(part: float) -> str:
    """Two digits, or as many as tell it from 100: 0.17, 1.7, 17, 97, 99.6."""
    if not 0 < part < 1:
        return f"{100 * part:g}"
    places = max(0, -floor(log10(100 * min(part / 10, 1 - part))))
    return np.format_float_positional(round(100 * part, places), trim="-")
