"""Results of an album's photographs under whatever options, those of late at hand."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np

from spade_kit.result import Result
from spade_kit.spade import SPADE
from spade_kit.widgets._shared.images import Album

_KEPT = 8  # this photo, those before and after, and what was just tried


@dataclass(frozen=True)
class Options:
    """All that matches depend on, beside the photograph."""

    spade: SPADE  # with its gallery
    k: int
    kappa: int
    radius: int | None
    weights: tuple[tuple[str, float], ...] | str | None
    combine: str
    without: tuple[int, ...] = ()  # training images left out
    only: int | None = None  # the one to compare with

    @property
    def of_all(self) -> Options:
        """The same, with all training images."""
        return replace(self, without=(), only=None)


class Sight:
    """Judges photographs; one that is at hand under other options, or against another gallery, is not read again."""

    def __init__(self, album: Album) -> None:
        self._album = album
        self._results: OrderedDict[tuple[int, Options], Result] = OrderedDict()
        self._lock = Lock()  # what lies ahead is looked at from another thread

    def judge(self, options: Options, **sigma: float) -> SPADE:
        """The fitted SPADE under these options; counts beyond what there is are cut without a word."""
        spade, names = options.spade, ("k", "kappa", "radius", "weights", "combine")
        return spade.under(spade.options.but(**{name: getattr(options, name) for name in names}, **sigma))

    def forget_all_but(self, index: int) -> None:
        """Of one photograph alone its last result stays, to be judged against another gallery: old ones are large."""
        with self._lock:
            kept = [(key, result) for key, result in self._results.items() if key == (index, key[1].of_all)]
            self._results = OrderedDict(kept[-1:])

    def find(self, index: int, options: Options) -> Result:
        key = (index, options)
        with self._lock:
            known = self._results.get(key)
        result = self._make(index, options) if known is None else known
        with self._lock:
            self._results[key] = result
            self._results.move_to_end(key)
            while len(self._results) > _KEPT:
                self._results.popitem(last=False)
        return result

    def _make(self, index: int, options: Options) -> Result:
        if options.only is not None:
            return self.find(index, options.of_all).with_normals([options.only])
        if options.without:
            result = self.find(index, options.of_all)
            return result.with_normals(np.setdiff1d(result.among, options.without))
        with self._lock:
            at_hand = [result for key, result in self._results.items() if key == (index, key[1].of_all)]
        judge = self.judge(options)
        before = at_hand[-1] if at_hand else None
        if before is not None and before.spade.gallery is judge.gallery:
            return judge.judge(before.source, before.among, before)
        return self._album.judge(index, judge, before)
