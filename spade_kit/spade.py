"""SPADE: the three stages tied together, and what they say about one photograph."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Hashable, Iterable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import pandas
import torch
from jaxtyping import Int, UInt8
from sklearn.exceptions import NotFittedError
from torch import nn

from spade_kit._arguments import cut_count, warn
from spade_kit.batch import predict_folder
from spade_kit.correspondence import warn_about_clipping
from spade_kit.datasets.samples import GOOD, Photo, Sample, as_array, as_list
from spade_kit.features.backbones import EMBEDDED, Backbone, load_backbone
from spade_kit.features.pyramid import compute_features
from spade_kit.gallery.calibration import Calibration
from spade_kit.gallery.checkpoint import load_gallery, save_gallery
from spade_kit.gallery.gallery import Gallery, QueryImage, build_gallery, digest
from spade_kit.options import OPTIONS, Options, Weights
from spade_kit.result import Result
from spade_kit.scores import make_map

_RUNS_DEPEND_ON = ("spade_kit", "torch", "numpy")
_ONE_ASPECT = "With crop=None all photos need the same aspect; take a backbone with crop=224 otherwise."
_ITSELF = (
    "This photo is one of the fitted images and matches itself at distance 0. "
    "predict_left_out(index) judges it against the others."
)


class _Option:
    """One of the options as an attribute of SPADE, checked when it is set."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, spade: SPADE | None, owner: type) -> Any:
        return self if spade is None else spade.options.as_given()[self.name]

    def __set__(self, spade: SPADE, value: Any) -> None:
        spade.options = spade._check(spade.options.replace(**{self.name: value}))


class SPADE:
    """Find what is wrong in a photograph by comparing it with photographs of what is right.

    No training: features of a pretrained network, the K most similar normal images, and for every pixel the nearest
    pixel in them.

    Parameters
    ----------
    backbone
        A name or what `load_backbone` gave.
    k
        How many normal images to retrieve, 50 if left out. More than there are is cut.
    kappa, radius, weights, combine, search
        See `match_pixels`. With ``weights="equal"`` variances are taken over all fitted images.
    sigma
        Of the Gaussian that smooths the map, in map pixels; 0 for none.
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
        k: int | None = None,
        kappa: int = 1,
        radius: int | None = None,
        weights: Weights = None,
        combine: str = "concat",
        sigma: float = 4,
        search: str = "auto",
        device: str | torch.device | None = None,
        **gone: Any,
    ) -> None:
        _refuse(gone)
        self.backbone = load_backbone(backbone, device=device)
        self.options = self._check(Options(k, kappa, radius, weights, combine, sigma, search))
        self._gallery: Gallery | None = None

    k, kappa, radius, weights, combine, sigma, search = (_Option() for _ in OPTIONS)

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

    def _check(self, options: Options) -> Options:
        """The options, if their weights are of the backbone's layers."""
        options.factors(self.backbone.layers, lambda: [1.0] * len(self.backbone.layers))
        return options

    def _warn_about_clipping(self, given: Iterable[str]) -> None:
        """Of the options just given, those that ask for more than the gallery has."""
        gallery, options = self.gallery, self.options
        if "k" in given and options.k is not None:
            cut_count("k", options.k, len(gallery), "normal images")
        if {"k", "kappa", "radius", "combine"} & set(given):
            warn_about_clipping(options, gallery.shapes, options.retrieved(len(gallery)))

    def __repr__(self) -> str:
        normals = f"{len(self)} normal images" if self._gallery is not None else "not fitted"
        return f"SPADE({self.backbone.name}, {self.describe_options()}; {normals})"

    def __len__(self) -> int:
        """How many normal images were fitted."""
        return len(self.gallery)

    def describe_options(self) -> str:
        """The options in small print."""
        return self.options.describe()

    def describe_run(self) -> dict[str, Any]:
        """What results depend on: versions, the network with a hash of its weights, options, a hash of the images."""
        normals = self.gallery.normals
        height, width = normals[0].crop.size
        return {
            **{package: version(package) for package in _RUNS_DEPEND_ON},
            "backbone": self.backbone.name,
            "weights": self.backbone.weights,
            "weights_sha256": self.backbone.sha256,
            "crop": f"{height} x {width}",
            "options": self.describe_options(),
            "normals": len(normals),
            "normals_sha256": hashlib.sha256(b"".join(normal.digest for normal in normals)).hexdigest(),
        }

    # ---- the gallery -------------------------------------------------------------------------------------------------

    @property
    def gallery(self) -> Gallery:
        """What was fitted, as it is now: the normal images with their features, and the search among them."""
        if self._gallery is None:
            raise NotFittedError("SPADE needs normal images first, but fit was not called. Call spade.fit(images).")
        return self._gallery

    @property
    def calibration(self) -> Calibration:
        """What is normal: the images of the gallery, each left out in turn; shared by all that share the gallery."""
        self.gallery  # noqa: B018  says so if there is none
        return self._calibration

    def fit(self, images: Iterable[Photo] | Photo) -> SPADE:
        """Remember what normal looks like: the features of normal images, and each crop as a JPEG for showing.

        Parameters
        ----------
        images
            Samples, paths, PIL images or (H, W, 3) uint8 arrays, all normal.
        """
        self._replace(build_gallery(as_list(images), self.backbone))
        self._warn_about_training_images()
        self._warn_about_clipping({"k", "kappa"})
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
        gallery, photos = self.gallery, as_list(images)
        if not photos:
            raise ValueError("add needs at least one normal image, but none came.")
        more = build_gallery(photos, self.backbone, why)
        if more.shapes != gallery.shapes:
            raise ValueError(
                f"More normal images must give the grids of the fitted ones, {gallery.shapes}, but {more.shapes} came. "
                f"{_ONE_ASPECT}"
            )
        self._replace(gallery.take(np.arange(len(gallery)), more))
        self._warn_about_training_images()
        return self

    def remove(self, index: SupportsIndex | Iterable[SupportsIndex]) -> SPADE:
        """Take normal images out: as if they had never been fitted. The others move up.

        It happens to this object alone, as with `add`.
        """
        given = list(index) if isinstance(index, Iterable) else [index]
        gone = {self.gallery.check_index(place) for place in given}
        kept = np.array([at for at in range(len(self)) if at not in gone], np.int64)
        if len(kept) == 0:
            raise ValueError(
                f"At least one normal image has to stay, but all {len(self)} were to go. Fit others instead."
            )
        self._replace(self.gallery.take(kept))
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
        save_gallery(Path(folder).expanduser(), self.gallery, self.backbone, self.options)

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
        return cls(stored.backbone).under(stored.options).with_gallery(stored.gallery)

    def with_gallery(self, gallery: Gallery) -> SPADE:
        """The same options over other normal images, of the same backbone."""
        other = copy.copy(self)
        other._replace(gallery)
        return other

    def _replace(self, gallery: Gallery) -> None:
        """Another gallery, and nothing remembered of the one before, which others may go on using."""
        self._gallery, self._calibration = gallery, Calibration(gallery)

    def normal_image(self, index: SupportsIndex) -> UInt8[np.ndarray, "H W 3"]:
        """The evaluated crop of a training image, as it was kept for showing."""
        return self.gallery.normals[self.gallery.check_index(index)].image

    def with_options(self, **options: Any) -> SPADE:
        """The same gallery under other options (k, kappa, radius, weights, combine, sigma, search); no new fit."""
        other = self.under(self.options.replace(**options))
        if self._gallery is not None:
            other._warn_about_clipping(options)
        return other

    def under(self, options: Options) -> SPADE:
        """The same gallery under these options; what asks for more than there is, is cut without a word."""
        other = copy.copy(self)
        other.options = self._check(options)
        return other

    # ---- predictions -------------------------------------------------------------------------------------------------

    def _warn_about_training_images(self) -> None:
        """What was fitted should be normal, and each photograph be there once."""
        normals = self.gallery.normals
        defects = [normal.sample for normal in normals if normal.sample and normal.sample.label not in (GOOD, None)]
        if defects:
            warn(
                f"{len(defects)} of {len(normals)} fitted photos are labelled as defects, such as "
                f"{defects[0].label!r}: fit takes normal ones."
            )
        if twice := len(normals) - len(self.gallery.places):
            warn(f"{twice} of {len(normals)} fitted photos are there twice: left out, they find themselves.")

    def predict(self, image: Photo) -> Result:
        """Judge one photograph.

        Warns where the photograph is one of the fitted ones: it would match itself at distance 0.
        """
        query = self.read(image)
        if query.digest in self.gallery.places:
            warn(_ITSELF)
        return self.judge(query, np.arange(len(self)))

    def predict_left_out(self, index: SupportsIndex) -> Result:
        """Judge training image ``index`` as if it had never been seen: against all the others."""
        index = self.gallery.check_index(index)
        return self.judge(self.gallery.query(index), self.gallery.others(index))

    def read(self, image: Photo) -> QueryImage:
        """A photograph ready to be judged: cut, and passed through the network once."""
        gallery, photo = self.gallery, as_array(image)
        crop = self.backbone.find_crop(photo)
        pixels = crop.cut(photo)
        mark = digest(pixels)
        known = gallery.places.get(mark)  # its features, computed again in another batch, would differ by rounding
        pyramid = compute_features([pixels], self.backbone) if known is None else gallery.pyramid(known)
        needed = tuple(gallery.shapes[0][1:])
        if pyramid.grid != needed:
            raise ValueError(
                f"A photo must give the grid of the fitted images, {needed}, but this one gives {pyramid.grid}. "
                f"{_ONE_ASPECT}"
            )
        return QueryImage(pyramid, pixels, crop, image if isinstance(image, Sample) else None, mark)

    def judge(
        self, image: Photo | QueryImage, among: Int[np.ndarray, "m"] | None = None, before: Result | None = None
    ) -> Result:
        """Judge an image among some of the normal ones; by default among all but itself, should it be one of them.

        It may have been read before, by this or another fit of the same backbone. What was said of it ``before``, under
        other options, saves time: its matches are tried first, or taken where they still hold.
        """
        query, gallery = image if isinstance(image, QueryImage) else self.read(image), self.gallery
        if among is None:
            known = gallery.places.get(query.digest)
            if known is not None:
                query = replace(query, pyramid=gallery.pyramid(known))
            among = np.arange(len(gallery)) if known is None else gallery.others(known)
        if before is not None and before.is_matched_by(gallery, self.options, among):
            neighbours, found = before.neighbours, before.correspondence
        else:
            first = None if before is None else before.correspondence.place
            neighbours, found = gallery.search(query.pyramid, self.options, among, first)
        anomaly_map = make_map(found.distance, query.crop.size, self.options.sigma)
        return Result(anomaly_map, neighbours, found, query, among, copy.copy(self))

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
            If ``out`` holds results of another fit or other options, or is being written.
        OSError
            If something cannot be written; what was written before is whole.
        """
        return predict_folder(self, folder, out, fpr)

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
        return self.calibration.threshold(self.options, fpr, of, groups)

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
        return self.calibration.threshold_interval(self.options, fpr, of, groups, level, draws, seed)

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
        return self.calibration.suspects(self.options, groups)

    @property
    def normal_level(self) -> float | None:
        """The 99th percentile of the maps of at most 64 training images, each judged against the others.

        The mark on every colour bar: what lies below is as normal images are. Computed on first use; None where there
        is only one normal image.
        """
        return self.calibration.level(self.options)


def _refuse(gone: dict[str, Any]) -> None:
    """Parameters that there are no longer, in words, and those that there never were, as Python does."""
    if "precision" in gone:
        raise ValueError(
            "precision is no longer an option: features are held as float32, since the fast search needs that. Leave "
            "it out; take fewer normal images or a smaller crop where memory is short."
        )
    for name in gone:
        raise TypeError(f"SPADE.__init__() got an unexpected keyword argument {name!r}")
