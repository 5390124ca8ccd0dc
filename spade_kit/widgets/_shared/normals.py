"""What normal photographs score under some options: the scale of the maps, and thresholds from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np

from spade_kit.scores import find_threshold
from spade_kit.spade import SPADE

PIXEL_RATES = (0.05, 0.02, 0.01, 0.005, 0.001)
IMAGE_RATES = (0.2, 0.1, 0.05)
_FEW = 4
_CURVE = 256  # points of the false-alarm curve that a page is sent


@dataclass(frozen=True, eq=False)
class Normals:
    """Normal photographs, each judged against the others.

    Attributes
    ----------
    level
        The 99th percentile of their maps, as `SPADE.normal_level`.
    pixels, scores
        All values of their maps, and the maxima, ascending.
    """

    level: float
    pixels: np.ndarray
    scores: np.ndarray
    _thresholds: dict[tuple[str, float], float] = field(default_factory=dict)  # asked for again and again

    def threshold(self, of: str, fpr: float) -> float:
        if (of, fpr) not in self._thresholds:
            self._thresholds[of, fpr] = find_threshold(self.pixels if of == "pixel" else self.scores, fpr)
        return self._thresholds[of, fpr]

    def pack(self, of: int) -> dict[str, Any]:
        """For the page: level, scores, and what share of normal pixels each of evenly spaced thresholds marks."""
        thresholds = np.linspace(0, self.pixels[-1], _CURVE)
        marked = 1 - np.searchsorted(self.pixels, thresholds) / len(self.pixels)
        enough = [rate for rate in IMAGE_RATES if ceil(1 / rate) - 1 <= len(self.scores)]
        return {
            "level": self.level,
            "scores": self.scores.tolist(),
            "of": of,
            "curve": {"end": float(self.pixels[-1]), "marked": marked.round(6).tolist()},
            "rates": [*(f"pixel {rate:g}" for rate in PIXEL_RATES), *(f"image {rate:g}" for rate in enough)],
        }


def few_of(images: list[int]) -> list[int]:
    """Some of the images, evenly spaced: a first idea of what is normal, until all are judged."""
    return images[:: -(-len(images) // _FEW)]


def judge_normals(spade: SPADE, images: list[int]) -> Normals:
    """Judge some of the fitted photographs under the options of ``spade``; distances are remembered there."""
    maps = np.stack(list(spade._left_out_maps(images, None)))
    level = spade.normal_level if images == spade._normals_for_scale else float(np.percentile(maps, 99))
    assert level is not None  # with one normal photograph there are no others to judge it by
    return Normals(level, np.sort(maps, axis=None), np.sort(maps.max((1, 2))))
