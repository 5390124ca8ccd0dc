"""SPADE: the three stages tied together, and what they say about one photograph."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import pandas
import torch
from jaxtyping import Int, UInt8
from sklearn.exceptions import NotFittedError
from torch import nn

from spade_kit._arguments import DefaultInt, check_count, check_index, choose, cut_count, warn
from spade_kit._progress import track
from spade_kit.batch import predict_folder
from spade_kit.correspondence import (
    DEFAULT_KAPPA,
    Correspondence,
    Weights,
    check_search,
    cut_kappa,
    freeze_weights,
    resolve_weights,
    search,
)
from spade_kit.datasets.samples import GOOD, Photo, Sample, as_array, as_list
from spade_kit.features.backbones import EMBEDDED, Backbone, load_backbone
from spade_kit.features.crops import Crop
from spade_kit.features.pyramid import Pyramid, compute_features
from spade_kit.gallery.checkpoint import load_gallery, save_gallery
from spade_kit.gallery.gallery import PRECISIONS, Gallery, build_gallery, digest
from spade_kit.result import Result
from spade_kit.retrieval import DEFAULT_K, Neighbours, find_nearest
from spade_kit.scores import check_fpr, check_sigma, find_threshold, make_map, threshold_interval

OPTIONS = ("k", "kappa", "radius", "weights", "combine", "sigma")
_NORMALS_FOR_SCALE = 64
_OPTIONS_KEPT = 8  # for how many options the distances of left-out normal images are remembered
_ITSELF = (
    "This photo is one of the fitted images and matches itself at distance 0. "
    "predict_left_out(index) judges it against the others."
)


class SPADE:
    """Find what is wrong in a photograph by comparing it with photographs of what is right.

    No training: features of a pretrained network, the K most similar normal images, and for every pixel the nearest
    pixel in them.

    Parameters
    ----------
    backbone
        A name or what `load_backbone` gave.
    k
        How many normal images to retrieve. More than there are is cut.
    kappa, radius, weights, combine
        See `match_pixels`. With ``weights="equal"`` variances are taken over all fitted images.
    sigma
        Of the Gaussian that smooths the map, in map pixels; 0 for none.
    precision
        ``"float32"``, or ``"float16"`` to hold the features in half the memory and search more slowly.
    device
        Where to compute, by default where the backbone is.

    Notes
    -----
    The image score is the maximum of the map; the paper's own, the mean distance to the retrieved images, stands
    beside it as ``Result.retrieval_score``. Small defects hardly move the latter.

    References
    ----------
    .. [1] N. Cohen and Y. Hoshen, "Sub-Image Anomaly Detection with Deep Pyramid Correspondences",
       arXiv:2005.02357, 2020.
    """

    def __init__(
        self,
        backbone: str | nn.Module | Backbone = EMBEDDED,
        *,
        k: int = DEFAULT_K,
        kappa: int = DEFAULT_KAPPA,
        radius: int | None = None,
        weights: Weights = None,
        combine: str = "concat",
        sigma: float = 4,
        precision: str = "float32",
        device: str | torch.device | None = None,
    ) -> None:
        self.backbone = load_backbone(backbone, device=device)
        self.precision = choose("precision", precision, PRECISIONS)
        self._gallery: Gallery | None = None
        self._left_out: dict[tuple, dict[int, np.ndarray]] = {}  # options -> training image -> its distances
        self._levels: dict[tuple, float] = {}  # options -> the normals' level
        self._set(k=k, kappa=kappa, radius=radius, weights=weights, combine=combine, sigma=sigma)

    @classmethod
    def recommended(cls, backbone: str = EMBEDDED, *, device: str | torch.device | None = None) -> SPADE:
        """What did best over all the datasets we have, for photographs of which nothing else is known.

        Features averaged over 3 x 3 cells, so that a cell knows what is around it; 320 px instead of 224, for the
        resolution that this costs; all levels equal; matches no farther than 12 of 80 cells, since most parts lie more
        or less alike; sigma 2.5. About one and a half times as slow as the defaults. What each of these does where
        stands in ``benchmarks/results``.
        """
        network = load_backbone(backbone, resize=366, crop=320, average=3, device=device)
        return cls(network, radius=12, weights="equal", sigma=2.5)

    def _set(self, k: int, kappa: int, radius: int | None, weights: Weights, combine: str, sigma: float) -> None:
        """Check the options and take them, weights as a copy."""
        self.k = check_count("k", k)
        self.kappa, self.radius, self.combine = check_search(kappa, radius, combine)
        resolve_weights(weights, self.backbone.layers, lambda: np.ones(len(self.backbone.layers)))
        self.weights = dict(weights) if isinstance(weights, Mapping) else weights
        self.sigma = check_sigma(sigma)

    def _say_what_is_cut(self, given: set[str]) -> None:
        """Of the options just given, those that ask for more than the gallery has."""
        gallery = self._fitted
        if "k" in given:
            cut_count("k", self.k, len(gallery), "normal images")
        if given & {"k", "kappa", "radius", "combine"}:
            cut_kappa(self.kappa, gallery.shapes, self.radius, self.combine, min(int(self.k), len(gallery)))

    def __repr__(self) -> str:
        normals = f"{len(self)} normal images" if self._gallery is not None else "not fitted"
        return f"SPADE({self.backbone.name}, {self.describe_options()}; {normals})"

    def __len__(self) -> int:
        """How many normal images were fitted."""
        return len(self._fitted)

    def describe_options(self) -> str:
        """The options in small print."""
        radius = "everywhere" if self.radius is None else f"radius {self.radius}"
        weights = self.weights
        if isinstance(weights, Mapping):
            weights = ", ".join(f"{name} x {value:g}" for name, value in weights.items())
        weighing = f", weights {weights}" if weights else ""
        return f"K={int(self.k)}, kappa={int(self.kappa)}, {radius}, {self.combine}{weighing}, sigma={self.sigma:g}"

    # ---- the gallery -------------------------------------------------------------------------------------------------

    def fit(self, images: Iterable[Photo] | Photo) -> SPADE:
        """Remember what normal looks like: the features of normal images, and each crop as a JPEG for showing.

        Parameters
        ----------
        images
            Samples, paths, PIL images or (H, W, 3) uint8 arrays, all normal.
        """
        self._replace(build_gallery(as_list(images), self.backbone, self.precision))
        self._say_what_is_odd()
        self._say_what_is_cut({"k", "kappa"})
        return self

    def add(self, images: Iterable[Photo] | Photo, why: str = "added") -> SPADE:
        """Fit some more normal images, behind those that are there: as if all had been fitted at once.

        It happens to this object alone; others that share its gallery, and results, keep what they had. What was known
        of normal images, such as thresholds, is forgotten, since it depends on all of them.

        Parameters
        ----------
        why
            A word on where they come from, which is saved with them.
        """
        gallery, photos = self._fitted, as_list(images)
        if not photos:
            raise ValueError("add needs at least one normal image, but none came.")
        more = build_gallery(photos, self.backbone, self.precision, why)
        _check_shapes(more, gallery)
        self._replace(gallery.take(np.arange(len(gallery)), more))
        self._say_what_is_odd()
        return self

    def remove(self, index: SupportsIndex | Iterable[SupportsIndex]) -> SPADE:
        """Take normal images out: as if they had never been fitted. The others move up.

        It happens to this object alone, as with `add`.
        """
        given = list(index) if isinstance(index, Iterable) else [index]
        gone = {self._check_index(place) for place in given}
        kept = np.array([at for at in range(len(self)) if at not in gone], np.int64)
        if len(kept) == 0:
            raise ValueError(
                f"At least one normal image has to stay, but all {len(self)} were to go. Fit others instead."
            )
        self._replace(self._fitted.take(kept))
        return self

    def save(self, folder: str | Path) -> None:
        """Write everything that was fitted, and the options, to a folder; what was there before stays whole until then.

        Features as safetensors, the crops of normal images as JPEG, and in ``spade.json`` where each came from, when
        and why. Nothing in it is code.

        Raises
        ------
        OSError
            If it cannot be written; what was there before is whole.
        """
        options = {name: getattr(self, name) for name in OPTIONS}
        for name in ("k", "kappa"):  # a default that nobody asked for stays one
            options[name] = None if isinstance(options[name], DefaultInt) else int(options[name])
        save_gallery(Path(folder).expanduser(), self._fitted, self.backbone, self.precision, options)

    @classmethod
    def load(
        cls, folder: str | Path, backbone: str | Backbone | None = None, *, device: str | torch.device | None = None
    ) -> SPADE:
        """Read what `save` has written. Features stay in the file until a search looks at them.

        Parameters
        ----------
        backbone
            The one that it was fitted with, where that is a module of your own, which is not saved.

        Raises
        ------
        FileNotFoundError, ValueError
            If nothing is there, or it is damaged, or from another backbone or version.
        """
        stored = load_gallery(Path(folder).expanduser(), backbone, device)
        if set(stored.options) != set(OPTIONS):
            raise ValueError(
                f"{folder} says options {sorted(stored.options)}, but {sorted(OPTIONS)} are needed. Fit again."
            )
        options = {name: value for name, value in stored.options.items() if value is not None}
        spade = cls(stored.backbone, precision=stored.precision, **options)
        spade._replace(stored.gallery)
        return spade

    def _replace(self, gallery: Gallery) -> None:
        """Another gallery, and nothing remembered of the one before, which others may go on using."""
        self._gallery, self._left_out, self._levels = gallery, {}, {}

    @property
    def _fitted(self) -> Gallery:
        if self._gallery is None:
            raise NotFittedError("SPADE needs normal images first, but fit was not called. Call spade.fit(images).")
        return self._gallery

    def normal_image(self, index: SupportsIndex) -> UInt8[np.ndarray, "H W 3"]:
        """The evaluated crop of a training image, as it was kept for showing."""
        return self._fitted.normals[self._check_index(index)].image

    def with_options(self, **options: Any) -> SPADE:
        """The same gallery under other options (k, kappa, radius, weights, combine, sigma); nothing is fitted anew."""
        for name in options:
            choose("An option", name, OPTIONS)
        other = copy.copy(self)
        other._set(**{name: getattr(self, name) for name in OPTIONS} | options)
        if self._gallery is not None:
            other._say_what_is_cut(set(options))
        return other

    # ---- predictions -------------------------------------------------------------------------------------------------

    def _say_what_is_odd(self) -> None:
        """What was fitted should be normal, and each photograph be there once."""
        normals = self._fitted.normals
        defects = [normal.sample for normal in normals if normal.sample and normal.sample.label not in (GOOD, None)]
        if defects:
            warn(
                f"{len(defects)} of {len(normals)} fitted photos are labelled as defects, such as "
                f"{defects[0].label!r}: fit takes normal ones."
            )
        twice = len(normals) - len(self._fitted.places)
        if twice:
            warn(f"{twice} of {len(normals)} fitted photos are there twice: left out, they find themselves.")

    def predict(self, image: Photo) -> Result:
        """Judge one photograph.

        Warns where the photograph is one of the fitted ones: it would match itself at distance 0.
        """
        return self._predict(image)

    def _predict(self, image: Photo, *, leave_out: bool = False) -> Result:
        """Judge a photograph; one of the fitted ones with a warning, or with ``leave_out`` against all the others."""
        gallery = self._fitted
        photo = as_array(image)
        place = self.backbone.find_crop(photo)
        crop = place.cut(photo)
        known = gallery.places.get(digest(crop))
        if known is not None and leave_out:
            return self.predict_left_out(known)
        if known is None:
            query = gallery.rounded(compute_features([crop], self.backbone))
        else:
            warn(_ITSELF)
            query = gallery.pyramid(known)  # computed again, in another batch, it would differ by rounding
        _check_grid(query, gallery)
        sample = image if isinstance(image, Sample) else None
        return self._judge(query, np.arange(len(gallery)), crop, place, sample)

    def predict_left_out(self, index: SupportsIndex) -> Result:
        """Judge training image ``index`` as if it had never been seen: against all the others."""
        gallery = self._fitted
        index = self._check_index(index)
        normal = gallery.normals[index]
        return self._judge(gallery.pyramid(index), self._others(index, None), normal.image, normal.crop, normal.sample)

    def _judge_normal(self, gallery: Gallery, index: int) -> Result:
        """Judge a normal photograph of a gallery, this one or one before; one that is still here is left out."""
        normal = gallery.normals[index]
        here = index if gallery is self._fitted else self._fitted.places.get(normal.digest)
        if here is not None:
            return self.predict_left_out(here)
        return self._judge(gallery.pyramid(index), np.arange(len(self)), normal.image, normal.crop, normal.sample)

    def predict_folder(self, folder: str | Path, out: str | Path, fpr: float | None = None) -> pandas.DataFrame:
        """Judge every photograph in a folder and below; no labels needed.

        In the folder ``out``: ``results.csv``, a row a photo; ``segmentations`` as PNG, white where the map reaches the
        threshold; ``maps``, raw distances as float32 TIFF, both at the photo's own size and 0 where it was not judged
        (``load_backbone(..., crop=None)`` judges all of it). Interrupted, a second call goes on where it was. What
        cannot be read is a row with its reason. Photographs that were fitted are judged against the others.

        Parameters
        ----------
        fpr
            The rate of normal photographs that may reach the threshold: 0.05 unless there are too few of them.

        Returns
        -------
        pandas.DataFrame
            The table: ``path``, ``verdict``, ``image_score``, ``retrieval_score``, ``threshold``, ``nearest_normal``,
            ``row`` and ``col`` of the most anomalous place in photo pixels, ``reason``.

        Raises
        ------
        ValueError
            If ``out`` holds results of another fit or other options.
        OSError
            If something cannot be written; what was written before is whole.
        """
        return predict_folder(self, folder, out, fpr)

    def _check_index(self, index: SupportsIndex) -> int:
        return check_index("index", index, len(self), "training image")

    def _others(self, index: int, groups: tuple[Hashable, ...] | None) -> Int[np.ndarray, "m"]:
        """All training images but this one, or but all of its group."""
        labels: Sequence[Hashable] = range(len(self)) if groups is None else groups
        others = np.array([at for at, label in enumerate(labels) if label != labels[index]], np.int64)
        if len(others) == 0:
            raise ValueError(
                "Leaving an image out needs at least one other "
                + ("normal image" if groups is None else "group")
                + ", but there is none. Fit more normal images."
            )
        return others

    def _search(
        self, query: Pyramid, among: Int[np.ndarray, "m"], first: Int[np.ndarray, "f h w"] | None = None
    ) -> tuple[Neighbours, Correspondence]:
        """Stages 2 and 3 among some of the training images."""
        neighbours = self._retrieve(query, among)
        return neighbours, search(query, **self._search_among(neighbours, among), first=first)

    def _retrieve(self, query: Pyramid, among: Int[np.ndarray, "m"]) -> Neighbours:
        """Stage 2: the nearest, by their place in the gallery."""
        near = find_nearest(query.pooled, self._fitted.pooled[torch.from_numpy(among)], min(int(self.k), len(among)))
        return Neighbours(among[near.index[0]], near.distance[0])

    def _search_among(self, neighbours: Neighbours, among: Int[np.ndarray, "m"]) -> dict[str, Any]:
        """What `search` has to know beside the query."""
        gallery = self._fitted
        return {
            "gallery": gallery.pixels,
            "images": neighbours.index,
            "weights": gallery.weights(self.weights, among),
            "kappa": int(self.kappa),
            "radius": self.radius,
            "combine": self.combine,
        }

    def _judge(
        self, query: Pyramid, among: Int[np.ndarray, "m"], crop: np.ndarray, place: Crop, sample: Sample | None
    ) -> Result:
        neighbours, found = self._search(query, among)
        height, width, _ = crop.shape
        anomaly_map = make_map(found.distance, (height, width), self.sigma)
        as_it_is_now = copy.copy(self)
        return Result(anomaly_map, neighbours, found, crop, place, sample, query, among, as_it_is_now)

    def _judge_again(self, result: Result) -> Result:
        """The same photograph under these options; what was found under its own is tried first, if it is searched."""
        neighbours, found = result.neighbours, result.correspondence
        if self._search_options != result.spade._search_options:
            neighbours, found = self._search(result.query, result.among, found.place)
        return result._matched(neighbours, found, self, result.among)

    def _judge_anew(self, result: Result) -> Result:
        """The photograph of a result of another gallery, against this one; of one that is in it, against the others."""
        here = self._fitted.places.get(digest(result.image))
        if here is not None:
            return self.predict_left_out(here)
        return self._judge(result.query, np.arange(len(self)), result.image, result.crop, result.sample)

    def _judge_among(self, result: Result, among: Int[np.ndarray, "m"]) -> Result:
        """The same photograph against some of the training images."""
        neighbours, found = self._search(result.query, among)
        return result._matched(neighbours, found, self, among)

    # ---- what is normal ----------------------------------------------------------------------------------------------

    def threshold(self, fpr: float = 0.01, *, of: str = "pixel", groups: Iterable[Hashable] | None = None) -> float:
        """The score that normal images reach at a given rate, from normal images alone.

        Each training image is judged against all the others, with the same smoothing as in use. Distances are kept:
        asking again, for another rate or sigma, does not search again.

        Parameters
        ----------
        fpr
            The false-alarm rate to allow, such as 0.01.
        of
            ``"pixel"``: how many pixels of normal images may be marked. ``"image"``: how many normal images may have
            an image score at or above the threshold.
        groups
            One label per training image: photographs of the same piece share a label and are left out together.

        Returns
        -------
        float
            The ceil((N + 1)(1 - fpr))-th smallest of N scores. A segmentation is ``map >= threshold``.
        """
        return find_threshold(np.concatenate(self._normal_scores(fpr, of, groups)), fpr)

    def _normal_scores(self, fpr: float, of: str, groups: Iterable[Hashable] | None) -> list[np.ndarray]:
        """Of each training image, left out, its image score or the scores of all its pixels."""
        check_fpr(fpr)
        choose("of", of, ("pixel", "image"))
        maps = self._left_out_maps(range(len(self)), self._check_groups(groups))
        return [values.max(keepdims=True).ravel() if of == "image" else values.ravel() for values in maps]

    def threshold_interval(
        self,
        fpr: float = 0.01,
        *,
        of: str = "pixel",
        groups: Iterable[Hashable] | None = None,
        level: float = 0.95,
        draws: int = 200,
        seed: int = 0,
    ) -> tuple[float, float]:
        """Between which values a threshold lies: how much it hangs on which normal images happened to be there.

        Bootstrap over training images, with groups over groups; each is judged against the others once, as `threshold`
        does. Of pixels scores are sorted into bins, whose rates are about a hundredth of ``fpr`` apart.

        Parameters
        ----------
        fpr, of, groups
            As of `threshold`.
        level
            The part of all draws that the interval holds.
        """
        checked = self._check_groups(groups)
        scores = self._normal_scores(fpr, of, checked)
        find_threshold(np.concatenate(scores), fpr)  # says so where there are too few to tell
        return threshold_interval(scores, checked or range(len(self)), fpr, level, draws, seed)

    def _check_groups(self, groups: Iterable[Hashable] | None) -> tuple[Hashable, ...] | None:
        if groups is None:
            return None
        if not isinstance(groups, Iterable):
            raise ValueError(f"groups is a list of names or numbers, one a training image, but {groups!r} came.")
        groups = tuple(groups)
        if not all(isinstance(label, Hashable) for label in groups):
            raise ValueError(
                "groups holds names or numbers, one a training image, but lists came. Take one label each."
            )
        if len(groups) != len(self) or any(label != label for label in groups):
            missing = sum(label != label for label in groups)
            raise ValueError(
                f"groups needs one label per training image, {len(self)}, but {len(groups)} came, {missing} of "
                "them NaN. Give every image a label."
            )
        return groups

    def suspects(self, groups: Iterable[Hashable] | None = None) -> pandas.DataFrame:
        """The training images, the one first that looks most anomalous to all the others.

        A defect among the normal images explains the same defect on others away: look at the first of these, and fit
        again without those that are not normal. A faint defect need not be among the first.

        Parameters
        ----------
        groups
            As of `threshold`: photographs of the same piece must not vouch for each other.

        Returns
        -------
        pandas.DataFrame
            By training image: its ``path``, if it came with one, its ``score``, the maximum of its map, and the
            place of that as map ``row`` and ``col``.
        """
        maps = self._left_out_maps(range(len(self)), self._check_groups(groups))
        rows = []
        for normal, values in zip(self._fitted.normals, maps):
            row, col = np.unravel_index(values.argmax(), values.shape)
            path = str(normal.sample.path) if normal.sample else ""
            rows.append({"path": path, "score": float(values.max()), "row": int(row), "col": int(col)})
        return pandas.DataFrame(rows).sort_values("score", ascending=False, kind="stable")

    @property
    def normal_level(self) -> float | None:
        """The 99th percentile of the maps of at most 64 training images, each judged against the others.

        The mark on every colour bar: what lies below is as normal images are. Computed on first use; None where there
        is only one normal image.
        """
        if len(self) == 1:
            return None
        options = (*self._search_options, self.sigma)
        if options not in self._levels:
            maps = np.stack(list(self._left_out_maps(self._normals_for_scale, None)))
            self._levels[options] = float(np.percentile(maps, 99))
        return self._levels[options]

    @property
    def _normals_for_scale(self) -> list[int]:
        return np.unique(np.linspace(0, len(self) - 1, min(len(self), _NORMALS_FOR_SCALE)).astype(int)).tolist()

    @property
    def _search_options(self) -> tuple:
        """All that distances depend on; sigma only smooths them."""
        return self.k, self.kappa, self.radius, freeze_weights(self.weights), self.combine

    def _remembers(self, images: Iterable[int]) -> bool:
        """Whether these training images were already judged, each against the others, under the present options."""
        kept = self._left_out.get((*self._search_options, None), {})
        return all(image in kept for image in images)

    def _left_out_maps(self, images: Sequence[int], groups: tuple[Hashable, ...] | None) -> Iterator[np.ndarray]:
        """The maps of training images, each against the others; distances are searched once and kept."""
        kept = self._left_out.setdefault((*self._search_options, groups), {})
        for oldest in list(self._left_out)[:-_OPTIONS_KEPT]:
            self._left_out.pop(oldest, None)
        for index in track(images, desc="normal images, each left out in turn"):
            if index not in kept:
                _, found = self._search(self._fitted.pyramid(index), self._others(index, groups))
                kept[index] = found.distance
            height, width = self._fitted.normals[index].crop.size
            yield make_map(kept[index], (height, width), self.sigma)


def _check_shapes(more: Gallery, gallery: Gallery) -> None:
    if more.shapes != gallery.shapes:
        raise ValueError(
            f"More normal images must give the grids of the fitted ones, {gallery.shapes}, but {more.shapes} came. "
            "With crop=None all photos need the same aspect; take a backbone with crop=224 otherwise."
        )


def _check_grid(query: Pyramid, gallery: Gallery) -> None:
    came, needed = query.grid, tuple(gallery.shapes[0][1:])
    if came != needed:
        raise ValueError(
            f"A photo must give the grid of the fitted images, {needed}, but this one gives {came}. "
            "With crop=None all photos need the same aspect; take a backbone with crop=224 otherwise."
        )
