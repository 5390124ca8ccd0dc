"""Caches of results and scores for a list of images: each image is judged once, and recent results are kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np

from spade_kit.datasets.roi import Roi
from spade_kit.evaluation.metrics import f1_threshold
from spade_kit.options import Options
from spade_kit.result import Result
from spade_kit.scores import choose_map, make_map, score_image, take_inside
from spade_kit.spade import SPADE
from spade_kit.widgets._shared.encoding import LOOKS_BACK
from spade_kit.widgets._shared.images import ImageList

_REACH = 50  # neighbours: the page follows K without the kernel at least up to this number
Made = TypeVar("Made")


class Recent(Generic[Made]):
    """A small thread-safe LRU cache."""

    def __init__(self, room: int) -> None:
        self._room, self._lock = room, Lock()
        self._made: OrderedDict[Any, Made] = OrderedDict()

    def find(self, key: Hashable, make: Callable[[], Made]) -> Made:
        with self._lock:
            known = self._made.get(key)
        made = make() if known is None else known
        with self._lock:
            self._made[key] = made
            self._made.move_to_end(key)
            while len(self._made) > self._room:
                self._made.popitem(last=False)
        return made

    def last(self, wanted: Callable[[Any], bool]) -> Made | None:
        """The most recent entry with a key that ``wanted`` accepts."""
        with self._lock:
            return next((made for key, made in reversed(self._made.items()) if wanted(key)), None)

    def forget(self, keep: Callable[[Any], bool]) -> None:
        """Drop everything except the most recent entry that ``keep`` accepts."""
        with self._lock:
            self._made = OrderedDict([(key, made) for key, made in self._made.items() if keep(key)][-1:])


@dataclass(frozen=True)
class Request:
    """A SPADE, its options and the subset of its normal images to search; used as a cache key."""

    spade: SPADE
    options: Options
    without: tuple[int, ...] = ()  # excluded training images
    only: int | None = None  # the only training image to search
    roi: Roi | None = None  # drawn on the images; only their scores depend on it

    @property
    def judge(self) -> SPADE:
        return self.spade.under(self.options)

    @property
    def of_all(self) -> Request:
        """This request with all training images."""
        return replace(self, without=(), only=None)

    @property
    def ahead(self) -> Request:
        """This request with more neighbours than K, if the page can then follow K without the kernel."""
        options, count = self.options, len(self.spade)
        follows = options.combine == "concat" and options.kappa <= LOOKS_BACK and len(self.spade.backbone.layers) > 1
        return self.replace(k=min(max(options.retrieved(count), _REACH), count)) if follows else self

    @property
    def of_distances(self) -> Request:
        """This request without the options that only read the distances."""
        return replace(self, options=self.options.of_map.replace(sigma=0))

    def replace(self, **options: Any) -> Request:
        return replace(self, options=self.options.replace(**options))


def look_within(result: Result, roi: Roi | None) -> Result:
    """The result within another roi, if that is for images of its size."""
    if roi is None or roi.size != result.crop.photo:
        return result
    return replace(result, source=replace(result.source, crop=result.crop.within(roi.mask)))


def request_for(spade: SPADE) -> Request:
    return Request(spade, spade.options)


class Results:
    """Judges images; an image cached under other options or for another gallery is not read again."""

    def __init__(self, images: ImageList, room: int = 8) -> None:
        self._images = images
        self._recent: Recent[Result] = Recent(room)

    def find(self, index: int, request: Request) -> Result:
        return self._recent.find((index, request), lambda: self._make(index, request))

    def forget_all_but(self, index: int) -> None:
        """Keep only the last result of one image, for judging it against another gallery: old results are large."""
        self._recent.forget(lambda key: key == (index, key[1].of_all))

    def _make(self, index: int, request: Request) -> Result:
        if request.only is not None:
            return self.find(index, request.of_all).with_normals([request.only])
        if request.without:
            result = self.find(index, request.of_all)
            return result.with_normals(np.setdiff1d(result.among, request.without))
        judge = request.judge
        before = self._recent.last(lambda key: key == (index, key[1].of_all) and judge.reads_like(key[1].spade))
        if before is not None and before.spade.gallery is judge.gallery:
            return judge.judge(before.source, before.among, before)
        return self._images.judge(index, judge, before)


@dataclass(frozen=True, eq=False)
class Score:
    """The score and distances of one image; both are None if it cannot be read.

    ``level`` is what normal images reach at each place, if the options ask for an excess.
    """

    index: int
    score: float | None = None
    distance: np.ndarray | None = None  # on the feature grid
    size: tuple[int, int] = (0, 0)
    mask: np.ndarray | None = None
    level: np.ndarray | None = None
    judged: str = "map"
    among: np.ndarray | None = None  # the normal images it was judged against
    roi: np.ndarray | None = None

    @classmethod
    def of(cls, index: int, result: Result) -> Score:
        options, distance = result.spade.options, result.correspondence.distance
        level = result.place_level if options.need_level else None
        about = result.crop.size, result.mask, level, options.judged, result.among, result.roi
        return cls(index, result.image_score, distance, *about)

    def make_map(self, sigma: float) -> np.ndarray:
        """The judged map; sigma must be that of the level, if there is one."""
        assert self.distance is not None
        return choose_map(make_map(self.distance, self.size, sigma), self.level, self.judged, self.roi)


class Scores:
    """Scores of all images under some options; scores under earlier options are kept as stale until replaced.

    Attributes
    ----------
    known, fresh
        The latest score of each image, and the images that are scored under the current options.
    """

    def __init__(self, images: ImageList) -> None:
        self._images = images
        self._request: Request | None = None
        self.known: dict[int, Score] = {}
        self.fresh: set[int] = set()
        self._best_f1: float | None = None

    def start(self, request: Request) -> None:
        """Scores taken from now on belong to these options."""
        if self._request == request:
            return
        if self._request is not None and self._request.of_distances != request.of_distances:
            self.known = {index: Score(index, known.score) for index, known in self.known.items()}
        self._request, self.fresh, self._best_f1 = request, set(), None

    def missing(self) -> list[int]:
        return [index for index in range(len(self._images)) if index not in self.fresh]

    def score(self, index: int, judge: SPADE, roi: Roi | None = None) -> Score:
        """Judge an image, within a roi; if only sigma, the score or the judged map has changed, reuse the distances."""
        known = self.known.get(index)
        if known is None or known.distance is None:
            try:
                return Score.of(index, look_within(self._images.judge(index, judge), roi))
            except (ValueError, OSError):
                return Score(index)
        options, level = judge.options, None
        if options.need_level and known.among is not None:
            level = judge.calibration.place_level(options, known.among)
        score = score_image(make_map(known.distance, known.size, options.sigma), level, options.score, known.roi)
        return replace(known, score=score, level=level, judged=options.judged)

    def take(self, score: Score) -> None:
        self.known[score.index] = score
        self.fresh.add(score.index)
        self._best_f1 = None

    def complete(self, request: Request) -> bool:
        return self._request == request and not self.missing()

    def pack(self) -> list[list]:
        """For each image its score (None if unknown) and whether it belongs to the current options."""
        unknown = Score(-1)
        return [[self.known.get(at, unknown).score, at in self.fresh] for at in range(len(self._images))]

    def best_f1_threshold(self) -> float:
        """The threshold of the best F1 over the pixels of all images with masks."""
        if self._best_f1 is None:
            assert self._request is not None
            sigma = self._request.options.sigma
            judged = [one for one in self.known.values() if one.distance is not None]
            pairs = [(one.make_map(sigma).ravel(), one.mask.ravel()) for one in judged if one.mask is not None]
            maps, masks = map(np.concatenate, zip(*pairs))
            maps, masks = take_inside(maps), masks[~np.isnan(maps)]
            self._best_f1 = f1_threshold(maps, masks)
        return self._best_f1
