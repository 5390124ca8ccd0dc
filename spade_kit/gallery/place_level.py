"""The level that normal images reach at each place: what is taken off a map to get its excess."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import floor

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter

_PERCENTILE = 0.95
_SMOOTHING = 0.02  # standard deviation as a fraction of the width


@dataclass(frozen=True, eq=False)
class HighestValues:
    """The highest values at each pixel over many maps: enough for their percentile, in a fraction of the memory.

    Attributes
    ----------
    values
        (m, H, W), descending: the m highest of the maps at each pixel.
    count
        The number of maps.
    spare
        How many maps can be taken out again.
    """

    values: Float[np.ndarray, "m H W"]
    count: int
    spare: int

    @classmethod
    def of(cls, maps: Iterable[Float[np.ndarray, "H W"]], count: int, spare: int = 0) -> HighestValues:
        """Collect the highest values of ``count`` maps, one at a time."""
        needed = min(count, count - _position(count)[0] + spare)
        kept: list[np.ndarray] = []
        for values in maps:
            for rank, higher in enumerate(kept):
                kept[rank], values = np.maximum(higher, values), np.minimum(higher, values)
            kept = [*kept, values][:needed]
        return cls(np.stack(kept), count, spare)

    @cached_property
    def level(self) -> Float[np.ndarray, "H W"]:
        """The level over all maps."""
        return smooth(self.percentile())

    def percentile(self, without: Iterable[Float[np.ndarray, "H W"]] = ()) -> Float[np.ndarray, "H W"]:
        """The 95th percentile at each pixel (linear), over all maps but at most ``spare`` of them."""
        values, count = self.values, self.count
        for gone in without:  # it moves the values below its own up by one
            values, count = np.where(values[:-1] > gone, values[:-1], values[1:]), count - 1
        low, part = _position(count)
        below, above = values[count - 1 - low], values[max(count - 2 - low, 0)]
        return below + (above - below) * np.float32(part)


def _position(count: int) -> tuple[int, float]:
    """The percentile's position in ``count`` ascending values: a place, and the way to the next."""
    place = floor(position := round(_PERCENTILE * (count - 1), 9))
    return place, position - place


def smooth(level: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """A level without the detail that comes from having few images."""
    return gaussian_filter(level, _SMOOTHING * level.shape[1], mode="reflect", truncate=4)
