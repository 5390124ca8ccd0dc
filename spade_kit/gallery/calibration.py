"""Leave-one-out calibration: the images of a gallery, each judged against the others, and the resulting thresholds."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas
from jaxtyping import Float

from spade_kit._arguments import choose, warn
from spade_kit._files import as_text
from spade_kit._progress import track
from spade_kit.gallery.gallery import Gallery
from spade_kit.options import Options
from spade_kit.scores import check_fpr, doubt_threshold, find_threshold, make_map, threshold_interval

_SAMPLED = 64  # images from which the reference level is taken
_FEW = 4
_KEPT = 8  # number of options with cached leave-one-out distances


@dataclass(frozen=True, eq=False)
class NormalScores:
    """The scores of some normal images, each judged against the others.

    Attributes
    ----------
    level
        The reference level: the 99th percentile of their maps.
    pixels, scores
        All values of their maps, and the maximum of each map, ascending.
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

    @property
    def sample(self) -> list[int]:
        """At most 64 of the images, evenly spaced: enough for the reference level."""
        count = len(self.gallery)
        return np.unique(np.linspace(0, count - 1, min(count, _SAMPLED)).astype(int)).tolist()

    @property
    def few(self) -> list[int]:
        """A few images of the sample, for a first estimate of the reference level."""
        images = self.sample
        return images[:: -(-len(images) // _FEW)]

    def maps(
        self, options: Options, images: Sequence[int] | None = None, groups: Iterable[Hashable] | None = None
    ) -> Iterator[Float[np.ndarray, "H W"]]:
        """Yield the maps of some or all images; with groups, no image is judged against its own group."""
        labels = self._check_groups(groups)
        kept = self._kept(options, labels)
        for oldest in list(self._distances)[:-_KEPT]:
            self._distances.pop(oldest, None)
        gallery = self.gallery
        images = range(len(gallery)) if images is None else images
        missing = [index for index in images if index not in kept]
        for index in track(missing, desc="normal images, each left out in turn"):
            _, found = gallery.search(gallery.pyramid(index), options, gallery.others(index, labels))
            kept[index] = found.distance
        for index in images:
            yield make_map(kept[index], gallery.normals[index].crop.size, options.sigma)

    def knows(self, options: Options, images: Iterable[int]) -> bool:
        """Whether these images were already judged under these options."""
        return self._kept(options, None).keys() >= set(images)

    def _kept(self, options: Options, labels: tuple[Hashable, ...] | None) -> dict[int, np.ndarray]:
        return self._distances.setdefault((options.of_search(len(self.gallery) - 1), labels), {})

    def scores(self, options: Options, images: Sequence[int]) -> NormalScores:
        """The scores of some of the images; the gallery must hold others."""
        maps = np.stack(list(self.maps(options, images)))
        return NormalScores(float(np.percentile(maps, 99)), np.sort(maps, axis=None), np.sort(maps.max((1, 2))))

    def level(self, options: Options) -> float | None:
        """The reference level; None if there are no different images to be judged against."""
        if not self.gallery.comparable:
            return None
        if options not in self._levels:
            self._levels[options] = float(np.percentile(np.stack(list(self.maps(options, self.sample))), 99))
        return self._levels[options]

    def threshold(self, options: Options, fpr: float, of: str, groups: Iterable[Hashable] | None) -> float:
        """See `SPADE.threshold`."""
        threshold, doubt = self.examine_threshold(options, fpr, of, groups)
        if doubt:
            warn(doubt)
        return threshold

    def examine_threshold(
        self, options: Options, fpr: float, of: str, groups: Iterable[Hashable] | None = None
    ) -> tuple[float, str]:
        """A threshold, and a remark if it rests on one image; see `doubt_threshold`."""
        labels = self._check_groups(groups)
        scores = self._scores_of(options, fpr, of, labels)
        threshold = find_threshold(np.concatenate(scores), fpr)
        groups = labels or self.gallery.contents.tolist()
        return threshold, doubt_threshold(scores, groups, fpr, self.gallery.name)

    def threshold_interval(
        self,
        options: Options,
        fpr: float,
        of: str,
        groups: Iterable[Hashable] | None,
        level: float,
        draws: int,
        seed: int,
    ) -> tuple[float, float]:
        """See `SPADE.threshold_interval`."""
        labels = self._check_groups(groups)
        scores = self._scores_of(options, fpr, of, labels)
        find_threshold(np.concatenate(scores), fpr)  # warns if there are too few
        return threshold_interval(scores, labels or self.gallery.contents.tolist(), fpr, level, draws, seed)

    def suspects(self, options: Options, groups: Iterable[Hashable] | None) -> pandas.DataFrame:
        """See `SPADE.suspects`."""
        rows = []
        for normal, values in zip(self.gallery.normals, self.maps(options, groups=groups)):
            row, col = np.unravel_index(values.argmax(), values.shape)
            path = as_text(normal.sample.path) if normal.sample else ""
            rows.append({"path": path, "score": float(values.max()), "row": int(row), "col": int(col)})
        return pandas.DataFrame(rows).sort_values("score", ascending=False, kind="stable")

    def _scores_of(
        self, options: Options, fpr: float, of: str, groups: Iterable[Hashable] | None
    ) -> list[Float[np.ndarray, "_"]]:
        """For each image its score, or the scores of all its pixels."""
        check_fpr(fpr)
        choose("of", of, ("pixel", "image"))
        maps = self.maps(options, groups=groups)
        return [values.max(keepdims=True).ravel() if of == "image" else values.ravel() for values in maps]

    def _check_groups(self, groups: Iterable[Hashable] | None) -> tuple[Hashable, ...] | None:
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
