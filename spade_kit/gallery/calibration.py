"""Leave-one-out calibration: the images of a gallery, each judged against the others, and the resulting thresholds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import pandas
from jaxtyping import Float, Int

from spade_kit._arguments import choose, spread_evenly
from spade_kit._files import as_text
from spade_kit._work import track
from spade_kit.gallery.gallery import Gallery
from spade_kit.gallery.place_level import HighestValues, smooth
from spade_kit.gallery.placement import FAR, NEAR, Placement
from spade_kit.options import Options
from spade_kit.scores import (
    Map,
    check_confidence,
    check_fpr,
    choose_map,
    doubt_threshold,
    examine_certain_threshold,
    find_threshold,
    make_map,
    score_image,
    take_inside,
    take_level,
    threshold_interval,
    tighten_fpr,
)

_SAMPLED = 64  # images from which the reference level is taken
_LEVEL_SAMPLED = 200  # images from which the level at each place is taken
_COMPARED = 12  # images of which it is seen where their matches lie
_FEW = 4
_KEPT = 8  # number of options with cached leave-one-out distances
Groups: TypeAlias = Iterable[Hashable] | None  # a label per training image
Labels: TypeAlias = tuple[Hashable, ...] | None  # the same, checked


@dataclass(frozen=True, eq=False)
class NormalScores:
    """The scores of some normal images, each judged against the others.

    Attributes
    ----------
    level
        The reference level: the 99th percentile of their judged maps.
    pixels, scores
        All values of their judged maps, and their image scores, ascending.
    """

    level: float
    pixels: Float[np.ndarray, "p"]
    scores: Float[np.ndarray, "n"]
    _thresholds: dict[tuple[str, float], float] = field(default_factory=dict)  # a cache

    def threshold(self, of: str, fpr: float) -> float:
        if (of, fpr) not in self._thresholds:
            self._thresholds[of, fpr] = find_threshold(self.pixels if of == "pixel" else self.scores, fpr)
        return self._thresholds[of, fpr]


class Calibration:
    """The images of a gallery, each left out in turn and judged against the others, under any options.

    Distances are searched once and cached for the latest options; another sigma or rate needs no search.
    """

    def __init__(self, gallery: Gallery) -> None:
        self.gallery = gallery
        self._distances: dict[tuple, dict[int, np.ndarray]] = {}  # options of a search -> image -> its distances
        self._levels: dict[Options, float] = {}
        self._placements: dict[Options, Placement] = {}
        self._alike: dict[Options, float] = {}
        self._highest: dict[tuple, HighestValues] = {}  # options of a map, groups -> the highest values at each place

    @property
    def sample(self) -> list[int]:
        """At most 64 of the images, evenly spaced, without duplicates: enough for the reference level."""
        images = self.gallery.distinct
        return [images[place] for place in spread_evenly(len(images), _SAMPLED)]

    @property
    def few(self) -> list[int]:
        """A few images of the sample, for a first estimate of the reference level."""
        images = self.sample
        return images[:: -(-len(images) // _FEW)]

    @property
    def level_sample(self) -> Int[np.ndarray, "m"]:
        """The images from which the level at each place is taken: at most 200, evenly spaced."""
        count = len(self.gallery)
        return np.linspace(0, count - 1, min(count, _LEVEL_SAMPLED)).round().astype(int)

    def place_level(self, options: Options, among: Int[np.ndarray, "m"], labels: Labels = None) -> Map | None:
        """What some normal images reach at each place, each judged against all others: see `Result.excess_map`.

        None if there are no different images to be judged against.
        """
        if not self.gallery.comparable:
            return None
        images = self.level_sample
        inside = np.isin(images, among)
        if not inside.any():
            images, inside = among, np.ones(len(among), bool)
        highest = self._collect_highest(options, images, labels)
        if inside.all():
            return highest.level
        if (~inside).sum() <= highest.spare:
            return smooth(highest.percentile(self.maps(options, images[~inside].tolist(), labels)))
        few = images[inside].tolist()
        return smooth(HighestValues.of(self.maps(options, few, labels), len(few)).percentile())

    def _collect_highest(self, options: Options, images: Int[np.ndarray, "m"], labels: Labels) -> HighestValues:
        """The highest values over the maps of these images; as many can be taken out as are left out together."""
        key = options.of_map, labels, images.tobytes()
        if key not in self._highest:
            for oldest in list(self._highest)[: 1 - _KEPT]:
                self._highest.pop(oldest, None)
            kinds = Counter((labels or self.gallery.contents)[image] for image in images)
            maps = self.maps(options, images.tolist(), labels)
            self._highest[key] = HighestValues.of(maps, len(images), max(kinds.values()))
        return self._highest[key]

    def judge(self, options: Options, images: Iterable[int], labels: Labels = None) -> Iterator[tuple[Map, float]]:
        """Yield the judged map and the image score of some images, each judged against the others in its roi."""
        images = list(images)
        for image, (values, level) in zip(images, self._maps_and_levels(options, images, labels)):
            roi = self.gallery.normals[image].crop.roi
            yield choose_map(values, level, options.judged, roi), score_image(values, level, options.score, roi)

    def _maps_and_levels(
        self, options: Options, images: Sequence[int], labels: Labels
    ) -> Iterator[tuple[Map, Map | None]]:
        """The map of each image and, if the options need it, the level over the maps of the others."""
        for image, anomaly_map in zip(images, self.maps(options, images, labels)):
            others = self.gallery.others(image, labels)
            yield anomaly_map, self.place_level(options, others, labels) if options.need_level else None

    def placement(self, options: Options) -> Placement | None:
        """How much place explains of the normal images; None if there are no different ones."""
        if not self.gallery.comparable:
            return None
        options = self._of_placement(options)
        if options not in self._placements:
            images = self.level_sample
            level = self.place_level(options, images)
            assert level is not None
            pairs = self._maps_and_levels(options, images.tolist(), None)
            excess = ((anomaly_map, take_level(anomaly_map, own)) for anomaly_map, own in pairs)
            inside = np.where(self.gallery.common_roi, level, np.float32(np.nan))
            self._placements[options] = Placement.of(excess, inside, self.alike(options))
        return self._placements[options]

    def known_placement(self, options: Options) -> Placement | None:
        """The result of `placement` if it has been computed."""
        return self._placements.get(self._of_placement(options))

    def _of_placement(self, options: Options) -> Options:
        """What the placement depends on; the excess is judged, so that levels are made."""
        return options.of_map.replace(judged="excess", k=max(1, options.retrieved(len(self.gallery) - 1)))

    def alike(self, options: Options) -> float:
        """The fraction of pixels that match near their own place: see `Placement`."""
        gallery = self.gallery
        h, w = gallery.shapes[0][1:]
        near, far = (max(1, round(part * min(h, w))) for part in (NEAR, FAR))
        options = options.of_map.replace(radius=far, sigma=0)
        if options not in self._alike:
            rows, cols = np.indices((h, w))
            height, width = gallery.common_roi.shape
            inside = np.logical_or.reduceat(gallery.common_roi, np.arange(h) * height // h)
            inside = np.logical_or.reduceat(inside, np.arange(w) * width // w, axis=1)  # cells with a pixel of the roi
            close = []
            for image in track(spread_evenly(len(gallery), _COMPARED), desc="where matches lie"):
                _, found = gallery.search(gallery.pyramid(image), options, gallery.others(image))
                close.append(np.maximum(abs(found.row[0] - rows), abs(found.col[0] - cols))[inside] <= near)
            self._alike[options] = float(np.mean(close))
        return self._alike[options]

    def maps(self, options: Options, images: Iterable[int] | None = None, groups: Groups = None) -> Iterator[Map]:
        """Yield the maps of some or all images; with groups, no image is judged against its own group."""
        labels = self._check_groups(groups)
        kept = self._kept(options, labels)
        for oldest in list(self._distances)[:-_KEPT]:
            self._distances.pop(oldest, None)
        gallery = self.gallery
        images = list(range(len(gallery)) if images is None else images)
        missing = [index for index in images if index not in kept]
        for index in track(missing, desc="normal images, each left out in turn"):
            _, found = gallery.search(gallery.pyramid(index), options, gallery.others(index, labels))
            kept[index] = found.distance
        for index in images:
            yield make_map(kept[index], gallery.normals[index].crop.size, options.sigma)

    def required(self, options: Options, images: Iterable[int]) -> list[int]:
        """The images to be judged first, so that `scores` of some images are known at once."""
        also = self.level_sample.tolist() if options.need_level else []
        return [image for image in {*images, *also} if image not in self._kept(options, None)]

    def _kept(self, options: Options, labels: Labels) -> dict[int, np.ndarray]:
        return self._distances.setdefault((options.of_search(len(self.gallery) - 1), labels), {})

    def scores(self, options: Options, images: Sequence[int]) -> NormalScores:
        """The scores of some of the images; the gallery must hold others."""
        maps, scores = map(np.array, zip(*self.judge(options, images)))
        return NormalScores(find_level(maps), np.sort(take_inside(maps)), np.sort(scores))

    def level(self, options: Options) -> float | None:
        """The reference level of the judged maps; None if there are no different images to be judged against."""
        if not self.gallery.comparable:
            return None
        options = options.replace(score="max")
        if options not in self._levels:
            self._levels[options] = find_level([judged for judged, _ in self.judge(options, self.sample)])
        return self._levels[options]

    def examine_threshold(
        self, options: Options, fpr: float, of: str, groups: Groups = None, confidence: float | None = None
    ) -> tuple[float, str]:
        """A threshold, see `SPADE.threshold`, and a remark if it rests on one image, see `doubt_threshold`."""
        labels = self._check_groups(groups)
        if confidence is not None:
            check_confidence(confidence, of)
            self.gallery.others(0, labels)  # an error if there is none, whatever the rate
            contents = self.gallery.contents.tolist()
            units = [labels[image] for image in contents] if labels else contents  # a duplicate is in its twin's group
            tighten_fpr(len(set(units)), check_fpr(fpr), confidence)  # too few are an error before the search
            every = self._scores_of(options, fpr, of, labels)
            return examine_certain_threshold(every, units, fpr, confidence, self.gallery.name, self.scale(options, of))
        scores, groups = self._once(self._scores_of(options, fpr, of, labels), labels)
        threshold, names = find_threshold(np.concatenate(scores), fpr), map(self.gallery.name, self.gallery.distinct)
        return threshold, doubt_threshold(scores, groups, fpr, list(names).__getitem__, self.scale(options, of))

    def scale(self, options: Options, of: str) -> float | None:
        """What a change of an excess is compared with: the reference level. None for raw distances."""
        excess = "excess" in (options.judged if of == "pixel" else options.score)
        return self.level(options.of_map) if excess else None

    def threshold_interval(
        self, options: Options, fpr: float, of: str, groups: Groups, level: float, draws: int, seed: int
    ) -> tuple[float, float]:
        """See `SPADE.threshold_interval`."""
        labels = self._check_groups(groups)
        scores, groups = self._once(self._scores_of(options, fpr, of, labels), labels)
        find_threshold(np.concatenate(scores), fpr)  # warns if there are too few
        return threshold_interval(scores, groups, fpr, level, draws, seed)

    def suspects(self, options: Options, groups: Groups) -> pandas.DataFrame:
        """See `SPADE.suspects`."""
        rows = []
        judged = self.judge(options, range(len(self.gallery)), self._check_groups(groups))
        for normal, (values, score) in zip(self.gallery.normals, judged):
            row, col = np.unravel_index(np.nanargmax(values), values.shape)
            path = as_text(normal.sample.path) if normal.sample else ""
            rows.append({"path": path, "score": score, "row": int(row), "col": int(col)})
        return pandas.DataFrame(rows).sort_values("score", ascending=False, kind="stable")

    def _scores_of(self, options: Options, fpr: float, of: str, labels: Labels) -> list[Float[np.ndarray, "_"]]:
        """For each image its score, or the scores of all its pixels."""
        check_fpr(fpr)
        choose("of", of, ("pixel", "image"))
        # spare what is not read
        options = options.replace(**({"score": "max"} if of == "pixel" else {"judged": "map"}))
        judged = self.judge(options, range(len(self.gallery)), labels)
        return [np.array([score], np.float32) if of == "image" else take_inside(values) for values, score in judged]

    def _once(
        self, scores: Sequence[Float[np.ndarray, "_"]], labels: Sequence[Hashable] | None
    ) -> tuple[list[Float[np.ndarray, "_"]], list[Hashable]]:
        """The scores of one image of each content, and their groups: an image without a label is a group of its own."""
        images = self.gallery.distinct
        return [scores[image] for image in images], [labels[image] if labels else image for image in images]

    def _check_groups(self, groups: Groups) -> Labels:
        if groups is None:
            return None
        if not isinstance(groups, Iterable):
            raise ValueError(f"groups must be a list of names or numbers, one per training image; got {groups!r}.")
        labels = tuple(groups)
        if not all(isinstance(label, Hashable) for label in labels):
            raise ValueError("groups must hold one name or number per training image; got lists. Use one label each.")
        if len(labels) != len(self.gallery) or any(label != label for label in labels):
            missing = sum(label != label for label in labels)
            raise ValueError(
                f"groups must hold one label per training image ({len(self.gallery)}); got {len(labels)}, {missing} "
                "of them NaN. Give every image a label."
            )
        return labels


def find_level(maps: Sequence[np.ndarray] | np.ndarray) -> float:
    """The reference level of some judged maps: 99 % of their pixels stay below it."""
    return float(np.percentile(take_inside(np.asarray(maps)), 99))
