"""The scores of all photographs of an album, as far as they are known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from spade_kit.evaluation.metrics import f1_threshold
from spade_kit.scores import make_map
from spade_kit.spade import SPADE
from spade_kit.widgets._shared.images import Album
from spade_kit.widgets._shared.sight import Options


@dataclass(frozen=True, eq=False)
class Score:
    """What is known of one photograph; no score and no result where it cannot be read."""

    index: int
    score: float | None = None
    seen: tuple[np.ndarray, tuple[int, int], np.ndarray | None] | None = None  # distances of the grid, size, mask

    def make_map(self, sigma: float) -> np.ndarray:
        assert self.seen is not None
        distance, size, _ = self.seen
        return make_map(distance, size, sigma)


class Scored:
    """Scores under some options; those of other options stay, marked as stale, until they are replaced."""

    def __init__(self, album: Album) -> None:
        self._album = album
        self._options: tuple[Options, float] | None = None
        self._scores: dict[int, Score] = {}
        self._fresh: set[int] = set()
        self._best_f1: float | None = None

    def start(self, options: Options, sigma: float) -> None:
        """What is taken from now on is scored under these options."""
        if self._options == (options, sigma):
            return
        if self._options is not None and self._options[0] != options:
            self._scores = {index: Score(index, known.score) for index, known in self._scores.items()}
        self._options, self._fresh, self._best_f1 = (options, sigma), set(), None

    def missing(self) -> list[int]:
        return [index for index in range(len(self._album)) if index not in self._fresh]

    def score(self, index: int, judge: SPADE) -> Score:
        """Judge a photograph; where only sigma has changed, from the distances that are known."""
        known = self._scores.get(index)
        if known is None or known.seen is None:
            try:
                result = self._album.judge(index, judge)
            except (ValueError, OSError):
                return Score(index)
            known = Score(index, None, (result.correspondence.distance, result.crop.size, result.mask))
        return replace(known, score=float(known.make_map(judge.sigma).max()))

    def take(self, score: Score) -> None:
        self._scores[score.index] = score
        self._fresh.add(score.index)
        self._best_f1 = None

    def complete(self, options: tuple[Options, float]) -> bool:
        return self._options == options and not self.missing()

    def pack(self) -> list[list]:
        """For each photo its score, None where unknown, and whether it is of the present options."""
        unknown = Score(-1)
        return [[self._scores.get(at, unknown).score, at in self._fresh] for at in range(len(self._album))]

    def best_f1_threshold(self) -> float:
        """Over the pixels of all photographs whose truth is known."""
        if self._best_f1 is None:
            assert self._options is not None
            known = [(score, score.seen[2]) for score in self._scores.values() if score.seen is not None]
            maps = [score.make_map(self._options[1]).ravel() for score, mask in known if mask is not None]
            masks = [mask.ravel() for _, mask in known if mask is not None]
            self._best_f1 = f1_threshold(np.concatenate(maps), np.concatenate(masks))
        return self._best_f1
