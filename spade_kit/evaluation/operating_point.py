"""The operating point of a threshold: counts, rates and a summary in words."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log10, nan

import numpy as np

from spade_kit.evaluation.bootstrap import LEVEL, clopper_pearson

_FEW = 20  # normal images; with fewer, a rate is only a hint
_WIDE = 3  # times the rate; a higher upper end gets a remark


@dataclass(frozen=True)
class OperatingPoint:
    """The operating point of a threshold: counts, rates and a summary in words.

    Attributes
    ----------
    of
        The unit of all counts: ``"image"`` for whole images, or ``"pixel"``.
    photos
        Number of normal images that were judged.
    normals, reached
        Number of normal images or pixels, and of those at or above the threshold.
    low, high
        Ends of the 95 % confidence interval of ``rate``; 0 and 1 if nothing is known.
    found, missed
        Number of defective test images or pixels that reach the threshold, and that do not.
    alarms, passed
        Number of good test images or pixels that reach it, and that do not.
    unknown_above, unknown_below
        Number of test images or pixels of unknown truth that reach it, and that do not.
    doubt
        A remark if the threshold rests on one normal image, otherwise empty; see `doubt_threshold`.
    fpr, confidence
        The bound on the true rate and its confidence, if the threshold has one; see `find_certain_threshold`.
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
    doubt: str = ""
    fpr: float | None = None
    confidence: float | None = None

    @property
    def rate(self) -> float:
        """The fraction of normals that reach the threshold; NaN if there are none."""
        return self.reached / self.normals if self.normals else nan

    @property
    def recall(self) -> float | None:
        """The fraction of defects that are found; None if no defect is known."""
        return self.found / self._defects if self._defects else None

    @property
    def precision(self) -> float | None:
        """The defective fraction of everything that reaches the threshold; None unless good and defective are known."""
        above = self.found + self.alarms
        return self.found / above if above and self._defects and self._goods else None

    @property
    def sentence(self) -> str:
        """The rate, its bound if there is one, and the test results at the threshold, in one to three sentences."""
        told = f"Threshold {self.threshold:.4g} for {'whole images' if self.of == 'image' else 'pixels'}"
        if self.photos:
            pixels = f"{_many(self.normals, 'pixel')} in " if self.of == "pixel" else ""
            told += (
                f": {_count(self.reached)} of {pixels}{_many(self.photos, 'normal image')}, "
                f"{'each ' * (self.photos > 1)}judged against the others, {_reach(self.reached)} "
                f"({_percent(self.rate)} %; {_percent(LEVEL)} % confidence interval "
                f"{_percent(self.low)} to {_percent(self.high)} %)"
            )
        if self.confidence is not None and self.fpr is not None:
            told += (
                f". With {100 * self.confidence:g} % confidence (one-sided), at most {100 * self.fpr:g} % of new "
                "normal images from the same process reach it"
            )
        noun = f"test {self.of}"
        parts = (
            _count_phrase(self._defects, f"defective {noun}", self.found, "recall", self.recall),
            _count_phrase(self._goods, f"good {noun}", self.alarms, "precision", self.precision),
            _count_phrase(self._unknown, f"unlabelled {noun}", self.unknown_above),
        )
        test = "; ".join(filter(None, parts))
        return f"{told}. {test[0].upper()}{test[1:]}." if test else f"{told}."

    @property
    def remarks(self) -> tuple[str, ...]:
        """Caveats, one or two sentences each."""
        remarks = [self._doubt_rate(), self.doubt, self._doubt_truth()]
        if self._unknown and (self._defects or self._goods):
            left_out = _many(self._unknown, f"unlabelled test {self.of}")
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

    def _doubt_rate(self) -> str:
        if not self.photos:
            return "No normal images were judged: the false-alarm rate is unknown."
        if not self.reached and self.photos > 1:
            return self._doubt_none()
        if self.photos < _FEW:
            few = _many(self.photos, "normal image")
            return f"{few} {'is' if self.photos == 1 else 'are'} too few: others may give a very different rate."
        if self.high > _WIDE * self.rate:
            high = _percent(self.high)
            return f"The interval is wide: the rate may be as high as {high} %. Add normal images to narrow it."
        return ""

    def _doubt_none(self) -> str:
        """Remark if no normal image or pixel reaches the threshold."""
        if self.of == "image":
            rarer = 10 ** max(2, len(str(self.photos + 1)))  # 1 in 100, 1 in 1000, ...: the next rate out of reach
            return (
                f"{self.photos:,} normal images cannot resolve rates below {_percent(1 / (self.photos + 1))} %; "
                f"for {_percent(1 / rarer)} % use at least {rarer - 1:,}."
            )
        most = _percent(clopper_pearson(np.zeros(1, int), self.photos)[1].item())
        return (
            f"No pixel of {self.photos:,} normal images reaches it, yet up to {most} % of all images may have pixels "
            "that do. The upper end allows for them: it assumes as many per image as the more anomalous half of the "
            "normal images have at or above that half's lowest maximum."
        )

    def _doubt_truth(self) -> str:
        truth = "label" if self.of == "image" else "mask"
        if not (self._defects or self._goods):
            lack = f"No test image has a {truth}" if self._unknown else "There are no test images"
            return f"{lack}: the numbers of found and missed defects are unknown."
        if not self._defects:
            return f"No test {self.of} is known to be defective: recall and precision are unknown."
        if not self._goods:
            return f"No test {self.of} is known to be good: precision is unknown."
        caution = "a threshold tuned to raise them performs worse on new images"
        return f"Recall and precision come from test {truth}s: {caution}."


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _count(count: int) -> str:
    return f"{count:,}" if count else "none"


def _reach(count: int) -> str:
    return "reach it" if count > 1 else "reaches it"


def _count_phrase(count: int, noun: str, above: int, name: str = "", value: float | None = None) -> str:
    """``3 of 5 good test images reach it (precision 97 %)``; empty if ``count`` is 0."""
    made = "" if value is None else f" ({name} {_percent(value)} %)"
    return f"{_count(above)} of {_many(count, noun)} {_reach(above)}{made}" if count else ""


def _percent(part: float) -> str:
    """Two digits, or enough to distinguish it from 100: 0.17, 1.7, 17, 97, 99.6."""
    if not 0 < part < 1:
        return f"{100 * part:g}"
    places = max(0, -floor(log10(100 * min(part / 10, 1 - part))))
    return np.format_float_positional(round(100 * part, places), trim="-")
