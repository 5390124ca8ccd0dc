"""What normal images say about place: is the same normal everywhere, and do parts lie alike?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from spade_kit.scores import Map, mean_of_top

NEAR, FAR = 0.05, 0.15  # radius, relative to the short side: for parts that lie alike, and for all others
_CELLS = 80  # of the width: maps are sampled on about as many places
_PASSED = 0.9  # of the normal images: a defect has to stand out from so many


@dataclass(frozen=True)
class Placement:
    """How much place explains of normal images, from their maps alone, each judged against the others.

    With a roi, only places inside that of every normal image count, unless there is no such place.

    Attributes
    ----------
    share
        The share of the variance of a map that the mean of the others' maps explains: 1 if all maps are alike, 0 or
        less if place says nothing.
    alike
        The fraction of pixels whose best match, searched within 15 % of the short side, lies within 5 %: high if parts
        lie alike, a fourth or less by chance.
    hurdle
        How far a defect must raise the excess to pass 9 of 10 normal images, relative to the same for the map: below 1
        if the excess makes defects easier to see.
    relief
        How uneven the level of normal images is: its standard deviation over places, relative to its mean.
    """

    share: float
    alike: float
    hurdle: float
    relief: float

    @classmethod
    def of(cls, maps: Iterable[tuple[Map, Map]], level: Map, alike: float) -> Placement:
        """Measure the maps and excess maps of normal images, where the level over all of them is not NaN.

        Notes
        -----
        A defect raises a map where parts are, and parts are where normal maps are higher than on the background: each
        place counts by the mean map less its 1st percentile. The hurdle of a score, the mean of the highest 1 %, is its
        90th percentile over the images, less the mean value at such places.
        """
        inside, sampled = ~np.isnan(level), np.zeros(level.shape, bool)
        step = max(1, level.shape[1] // _CELLS)
        sampled[::step, ::step] = inside[::step, ::step]
        if not sampled.any():  # a roi smaller than a step
            sampled = inside
        seen, tops = [], []
        for pair in maps:
            tops.append([mean_of_top(values[inside]) for values in pair])
            seen.append([values[sampled] for values in pair])
        raw, excess = np.array(seen, np.float64).transpose(1, 0, 2)  # (n, places) each
        mean = raw.mean(0)
        others = (raw.sum(0) - raw) / (len(raw) - 1)
        variance = ((raw - raw.mean()) ** 2).mean()
        parts = np.maximum(mean - np.percentile(mean, 1), 0) + 1e-12
        usual = [np.average(values.mean(0), weights=parts) for values in (raw, excess)]
        high, low = np.quantile(tops, _PASSED, axis=0) - usual
        return cls(
            share=float(1 - ((raw - others) ** 2).mean() / max(variance, 1e-30)),
            alike=alike,
            hurdle=float(low / high) if high > 0 else 1.0,
            relief=float(level[inside].std() / max(level[inside].mean(), 1e-30)),
        )

    def __str__(self) -> str:
        return (
            f"Place explains {100 * max(self.share, 0):.0f} % of what differs within and between normal maps; "
            f"{100 * self.alike:.0f} % of the pixels match within {100 * NEAR:.0f} % of the short side. By the excess, "
            f"a defect needs {self.hurdle:.2f} times the rise to stand out; the level varies by "
            f"{100 * self.relief:.0f} % over places."
        )
