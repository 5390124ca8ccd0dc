"""The scores of all photographs of an album, as far as they are known."""

from __future__ import annotations

import numpy as np

from spade_kit.metrics import f1_threshold
from spade_kit.scores import make_map
from spade_kit.spade import SPADE
from spade_kit.widgets.album import Album
from spade_kit.widgets.sight import Options


class Scored:
    """Scores under some options; those of other options stay, marked as stale, until they are replaced."""

    def __init__(self, album: Album) -> None:
        self._album = album
        self._options: tuple[Options, float] | None = None
        self._scores: dict[int, float | None] = {}  # None where a photo cannot be read
        self._distances: dict[int, tuple[np.ndarray, tuple[int, int], np.ndarray | None]] = {}  # with size and mask
        self.fresh: set[int] = set()

    def start(self, options: Options, sigma: float) -> None:
        """What follows is scored under these options."""
        if self._options == (options, sigma):
            return
        if self._options is None or self._options[0] != options:
            self._distances = {}
        self._options, self.fresh = (options, sigma), set()

    def score(self, index: int, judge: SPADE) -> None:
        distances = self._distances
        if index not in distances:
            try:
                result = self._album.judge(index, judge)
            except (ValueError, OSError):
                self._scores[index] = None
                self.fresh.add(index)
                return
            distances[index] = result.correspondence.distance, result.crop.size, result.mask
        distance, size, _ = distances[index]
        self._scores[index] = float(make_map(distance, size, judge.sigma).max())
        self.fresh.add(index)

    def complete(self, options: tuple[Options, float], count: int) -> bool:
        return self._options == options and len(self.fresh) == count

    def pack(self, count: int) -> list[list]:
        """For each photo its score, None where unknown, and whether it is of the present options."""
        return [[self._scores.get(index), index in self.fresh] for index in range(count)]

    def best_f1_threshold(self) -> float:
        """Over the pixels of all photographs whose truth is known."""
        assert self._options is not None
        known = [(distance, size, mask) for distance, size, mask in self._distances.values() if mask is not None]
        maps = [make_map(distance, size, self._options[1]).ravel() for distance, size, _ in known]
        return f1_threshold(np.concatenate(maps), np.concatenate([mask.ravel() for _, _, mask in known]))
