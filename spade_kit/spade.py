"""SPADE: the three stages combined into one detector."""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any, SupportsIndex

import numpy as np
import pandas
from jaxtyping import UInt8
from sklearn.exceptions import NotFittedError
from torch import nn

from spade_kit._arguments import check_attribute, cut_count, suggest, warn
from spade_kit._files import as_folder
from spade_kit.batch import predict_folder
from spade_kit.correspondence import warn_about_clipping
from spade_kit.datasets.roi import Look, Roi, Where
from spade_kit.datasets.samples import GOOD, Photo, Sample, as_list, name_of, shape_of
from spade_kit.features.backbones import EMBEDDED, Backbone, Device, load_backbone
from spade_kit.features.pyramid import compute_features, fit_cropping, read_crop
from spade_kit.gallery.calibration import Calibration, Groups
from spade_kit.gallery.checkpoint import load_gallery, save_gallery, save_settings
from spade_kit.gallery.fitting import fit_into
from spade_kit.gallery.gallery import Gallery, QueryImage, build_gallery, digest
from spade_kit.gallery.placement import Placement
from spade_kit.gallery.recommendation import UNDECIDED, Row, choose, describe_fixed, recommend
from spade_kit.options import OPTIONS, Options, Weights
from spade_kit.result import Result
from spade_kit.scores import make_map

RUNS_DEPEND_ON = ("spade_kit", "torch", "numpy")
_correcting = Lock()  # corrections in two threads follow each other, and none is lost


class _Option:
    """An option as an attribute of SPADE, checked when it is set."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, spade: SPADE | None, owner: type) -> Any:
        return self if spade is None else spade.options.as_given()[self.name]

    def __set__(self, spade: SPADE, value: Any) -> None:
        spade._decide({self.name: value})


class SPADE:
    """Detect anomalies in an image by comparing it with normal images.

    No training: a pretrained network computes features, the K most similar normal images are retrieved, and every pixel
    is matched to the nearest pixel in them.

    Parameters
    ----------
    backbone
        A name, or a `Backbone` from `load_backbone`.
    k
        Number of normal images to retrieve, 50 by default; limited to the number fitted.
    kappa, radius, weights, combine, search, squared
        See `match_pixels`. With ``weights="equal"`` variances are computed over all fitted images.
    sigma
        Standard deviation of the Gaussian that smooths the map, in map pixels; 0 for none.
    score
        How an image is scored: ``"max"``, the maximum of the map; ``"top"``, the mean of its highest 1 %;
        ``"excess"``, the mean of the highest 1 % of `Result.excess_map`.
    judged
        The map from which pixel thresholds and segmentations are taken: ``"map"`` or ``"excess"``.
    device
        Where to compute, by default where the backbone is.

    Notes
    -----
    By default the image score is the maximum of the map. The paper's own score, the mean distance to the retrieved
    images, is ``Result.retrieval_score``; small defects hardly change it.

    References
    ----------
    .. [1] N. Cohen and Y. Hoshen, "Sub-Image Anomaly Detection with Deep Pyramid Correspondences",
       arXiv:2005.02357, 2020.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> spade = spade_kit.SPADE(k=5).fit(parts.train[:12])
    >>> result = spade.predict(parts.test[5])  # a chipped part
    >>> bool(result.image_score > spade.threshold(fpr=0.1, of="image"))
    True
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
        score: str = "max",
        judged: str = "map",
        squared: bool = False,
        device: Device = None,
        **gone: Any,
    ) -> None:
        _refuse(gone)
        options = Options(k, kappa, radius, weights, combine, sigma, search, score, judged, squared)
        self._backbone = load_backbone(backbone, device=device)
        self.options = self._check(options)
        self.folder: Path | None = None  # where the gallery was saved or loaded
        self._fitted: Calibration | None = None  # of the gallery, which it holds: both are replaced at once
        self._undecided: frozenset[str] = frozenset()  # options that a fit chooses, and "resize"
        self._choices = _tabulate([])

    k, kappa, radius, weights, combine, sigma, search, score, judged, squared = (_Option() for _ in OPTIONS)

    @property
    def backbone(self) -> Backbone:
        """The network that computes the features; distances between features of two networks mean nothing."""
        return self._backbone

    @backbone.setter
    def backbone(self, other: Any) -> None:
        raise AttributeError("A SPADE keeps its backbone. Make another one, SPADE(backbone), and fit the images again.")

    @classmethod
    def recommended(
        cls, backbone: str | Backbone = EMBEDDED, *, size: int | None = None, device: Device = None
    ) -> SPADE:
        """The settings that performed best over all our datasets, for images about which nothing else is known.

        The whole image at its own aspect ratio, its short side 320 px; features averaged over 3 x 3 cells, so that a
        cell includes its surroundings; ``weights="equal"``; sigma 2.5. The radius, how images are scored and which map
        is judged are chosen by `fit`, from the normal images alone: `choices` says what and why. What you set yourself
        stays.

        For a vision transformer the settings are those that RAD publishes [1]_: 448 px of 512, vectors of length 1,
        each of four blocks searched within one cell (``radius=1``, ``combine="ensemble"``), squared distances, K = 150,
        the mean of the highest 1 % as image score, sigma 1.75.

        Parameters
        ----------
        backbone
            A name, or a `Backbone`, whose own sizes are then used; a vision transformer needs ``unit=True``.
        size
            The short side in px, 320 by default; sigma grows with it. Small defects gain from 512, at three times the
            time. Of a vision transformer the crop, 448 by default.

        Notes
        -----
        ``benchmarks/results`` shows the effect of each setting on each dataset, and where they do not help.

        RAD's distance is 1 - cos, half of ours. It smooths a map of 256 px with sigma 1 and zeros beyond the border;
        here the map has the size of the crop, sigma grows with it, and the border is mirrored.

        References
        ----------
        .. [1] X. Zhang et al., "Is Training Necessary for Anomaly Detection?", arXiv:2601.22763, 2026.
        """
        network, options, undecided = recommend(backbone, size, device)
        spade = cls(network, **options)
        spade._undecided = undecided
        return spade

    @property
    def choices(self) -> pandas.DataFrame:
        """What `recommended` has set, and why: ``value``, ``why`` and the figure it ``rests_on``, by option.

        Saved with it, and empty for any other SPADE. Options that you set yourself are not in it.
        """
        held = (self.backbone.recipe or {}) | self.options.as_given()
        values = self._choices["value"].items()
        return self._choices.loc[[option in held and held[option] == value for option, value in values]]

    @property
    def placement(self) -> Placement | None:
        """How much place explains of the normal images, from these alone; None if there are no two different ones.

        Computed on first use, from left-out maps of at most 200 images. Where place explains much, ``score="excess"``
        and a ``radius`` help; where the level is about the same everywhere, ``judged="excess"`` does.
        """
        return self.calibration.placement(self.options)

    def _decide(self, options: Mapping[str, Any]) -> None:
        """Set options for good: no fit chooses them again."""
        self.options = self._check(self.options.replace(**options))
        self._undecided -= options.keys()
        self._choices = self._choices.drop(index=list(options), errors="ignore")

    def __setattr__(self, name: str, value: Any) -> None:
        if "_fitted" in vars(self):  # construction is complete
            check_attribute(self, name)
        super().__setattr__(name, value)

    def __copy__(self) -> SPADE:
        return self._with_state(vars(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> SPADE:
        return self._with_state(copy.deepcopy(vars(self), memo))

    def _with_state(self, state: dict[str, Any]) -> SPADE:
        other = object.__new__(type(self))
        vars(other).update(state)
        return other

    def __getstate__(self) -> dict[str, Any]:
        if self._fitted is not None:  # memory for the kernels, which has a format of its own in files
            raise TypeError(
                "A fitted SPADE and its results cannot be pickled. Use spade.save(folder) and SPADE.load(folder), and "
                "of a result keep the numbers and maps."
            )
        return vars(self)

    def _check(self, options: Options) -> Options:
        """Check that the weights name layers of the backbone, also by their labels."""
        options = options.rename(self.backbone.find_layer)
        options.factors(self.backbone.layers, lambda: [1.0] * len(self.backbone.layers))
        return options

    def _warn_about_clipping(self, given: Iterable[str]) -> None:
        """Warn about options just given that exceed what the gallery holds."""
        gallery, options = self.gallery, self.options
        if "k" in given and options.k is not None:
            cut_count("k", options.k, len(gallery), "normal images")
        if options.need_level and not gallery.comparable and {"score", "judged"} & set(given):
            warn(
                "The excess needs at least two different normal images; got one. The highest 1 % of the map scores an "
                "image, and the map itself is judged."
            )
        if {"k", "kappa", "radius", "combine"} & set(given):
            warn_about_clipping(options, gallery.shapes, options.retrieved(len(gallery)))

    def __repr__(self) -> str:
        fitted = self._fitted
        normals = f"{len(fitted.gallery)} normal images" if fitted is not None else "not fitted"
        return f"SPADE({self.backbone.name}, {self.describe_options()}; {normals})"

    def __str__(self) -> str:
        """With what the normal images say about place, once that is known: see `placement`."""
        known = None if self._fitted is None else self._fitted.known_placement(self.options)
        return repr(self) if known is None else f"{self!r}\n{known}"

    def __len__(self) -> int:
        """The number of fitted normal images."""
        return len(self.gallery)

    def describe_options(self) -> str:
        """The options in one line, for captions; with a roi, its kind and a hash."""
        told = self.options.rename(self.backbone.find_label).describe()
        return told if self._fitted is None or self.roi is None else f"{told}, roi {self.gallery.roi_mark}"

    def describe_run(self) -> dict[str, Any]:
        """The run manifest: versions, the network with a hash of its weights, options, a hash of the normal images."""
        normals = self.gallery.normals
        height, width = normals[0].crop.size
        chosen = self.backbone.recipe is None or self.backbone.recipe["layers"]
        return {
            **{package: version(package) for package in RUNS_DEPEND_ON},
            "backbone": self.backbone.name,
            "weights": self.backbone.weights,
            "weights_sha256": self.backbone.sha256,
            **({"layers": ", ".join(self.backbone.sources)} if chosen else {}),
            "crop": f"{height} x {width}",
            "options": self.describe_options(),
            "normals": len(normals),
            "normals_sha256": hashlib.sha256(b"".join(normal.digest for normal in normals)).hexdigest(),
            **({"roi_code": self.roi.code} if self.roi and self.roi.function else {}),
        }

    # ---- the gallery -------------------------------------------------------------------------------------------------

    @property
    def gallery(self) -> Gallery:
        """The current gallery: the normal images with their features, and the search among them."""
        return self.calibration.gallery

    @property
    def calibration(self) -> Calibration:
        """The leave-one-out calibration of the gallery; shared by all objects that share the gallery."""
        if self._fitted is None:
            raise NotFittedError("This SPADE has no normal images yet. Call spade.fit(images) first.")
        return self._fitted

    @property
    def roi(self) -> Roi | None:
        """The region of interest that was given to `fit`, and holds for all images; None if all is scored."""
        return self.gallery.cropping.roi

    def fit(
        self,
        images: Iterable[Photo] | Photo,
        *,
        roi: Where | None = None,
        folder: str | Path | None = None,
        jobs: int = 1,
        client: Any = None,
    ) -> SPADE:
        """Store the features of normal images, and each crop as a JPEG for display.

        Parameters
        ----------
        images
            Samples, paths, PIL images or (H, W, 3) uint8 arrays, all normal.
        roi
            Where to look: outside it nothing is scored, in these images and in those to be judged; neighbours may lie
            anywhere. In pixels of the image: a mask (a path, a PIL image, an (H, W) bool or uint8 array), or a polygon
            (a list of (row, col)), for images of one size; or a function, which takes an (H, W, 3) uint8 array and
            returns an (H, W) mask, and is called for each image, by several threads at once.
        folder
            Where to save the fit, as `save` does. Features are written there as they are computed, and those of more
            than 1 GB stay there: for more images than memory holds.
        jobs, client
            Processes, or a client whose workers share the work, as in `predict_folder`; they need a ``folder``.
        """
        photos, backbone = as_list(images), self.backbone.renewed()
        if folder is not None:
            place = as_folder("folder", folder)
            gallery = fit_into(place, photos, backbone, self.options, jobs, client, roi)
        elif jobs == 1 and client is None:
            gallery = build_gallery(photos, backbone, fit_cropping(photos, backbone, roi))
        else:
            raise ValueError("With jobs or a client, fit needs a folder for what the workers write. Pass folder=.")
        self._backbone = backbone
        self._replace(gallery)
        self._warn_about_training_images()
        if told := self.gallery.squashed:
            warn(told)
        if self._undecided:
            self._choose()
        self._warn_about_clipping({"k", "kappa", "score", "judged"})
        if folder is not None:
            save_settings(place, self.gallery, self.options, self._list_choices())
            self.folder = place
        return self

    def _list_choices(self) -> list[tuple]:
        return list(self.choices.itertuples(name=None))

    def _choose(self) -> None:
        """Set what `recommended` leaves to the normal images."""
        chosen = choose(self.calibration, self.options.of_map, self._undecided)
        self.options = self.options.replace(**{name: value for name, value, *_ in chosen})
        self._choices = _tabulate([*describe_fixed(self.backbone, self._undecided), *chosen])

    def add(self, images: Iterable[Photo] | Photo, why: str = "added") -> SPADE:
        """Append normal images to the fitted ones, as if all had been fitted at once.

        Only this object changes; results, and other objects with the same gallery, keep the old one. Cached values such
        as thresholds are discarded, since they depend on all normal images. Whole images (``crop=None``) keep the size
        of the first fit, and its roi holds.

        Parameters
        ----------
        why
            A note on where they come from, saved with them.
        """
        gallery, photos = self.gallery, as_list(images)
        if not photos:
            raise ValueError("add needs at least one normal image; got none.")
        self.backbone.check_unchanged()
        more = build_gallery(photos, self.backbone, gallery.cropping, why)
        with _correcting:
            self._replace(self.gallery.take(np.arange(len(self)), more))
        added = range(len(self) - len(more), len(self))
        if told := gallery.describe_squash(list(map(self.gallery.name, added)), [one.crop for one in more.normals]):
            warn(told)
        self._warn_about_training_images()
        return self

    def remove(self, index: SupportsIndex | Iterable[SupportsIndex]) -> SPADE:
        """Remove normal images, as if they had never been fitted. The indices of later images decrease accordingly.

        Only this object changes, as with `add`.
        """
        given = list(index) if isinstance(index, Iterable) else [index]
        with _correcting:
            gone = {self.gallery.check_index(place) for place in given}
            kept = np.array([at for at in range(len(self)) if at not in gone], np.int64)
            if len(kept) == 0:
                raise ValueError(
                    f"At least one normal image must remain; got all {len(self)} to remove. Fit other images instead."
                )
            self._replace(self.gallery.take(kept))
        self._warn_about_clipping({"score", "judged"})
        return self

    def save(self, folder: str | Path) -> None:
        """Save the gallery and the options to a folder.

        An older save in the folder stays intact until the new one is complete. Features are stored as safetensors and
        the crops of normal images as JPEG; ``spade.json`` records where each image came from, when and why. Nothing in
        the folder is executable code: of a function given as roi, only the masks of the normal images are saved.

        Raises
        ------
        ValueError
            If another process is saving there, or the folder holds a ``spade.json`` of another kind.
        OSError
            If it cannot be written; an older save stays intact.
        """
        place = as_folder("folder", folder)
        save_gallery(place, self.gallery, self.backbone, self.options, self._list_choices())
        self.folder = place

    @classmethod
    def load(
        cls,
        folder: str | Path,
        backbone: str | Backbone | None = None,
        *,
        device: Device = None,
        roi: Look | None = None,
    ) -> SPADE:
        """Read a folder written by `save`. Features above 1 GB stay in the file until a search needs them.

        Leave such a file as it is while it is in use: a search of a file that was cut ends the process. Saving to the
        same folder is safe.

        Parameters
        ----------
        backbone
            The backbone it was fitted with, if that is a custom module, which is not saved, or if its file of weights
            is somewhere else now.
        roi
            The function that was given to `fit` as roi, if it was one: it is needed to judge other images.

        Raises
        ------
        FileNotFoundError, ValueError
            If the folder holds no saved SPADE, or one that is damaged or from another backbone or version.
        """
        stored = load_gallery(as_folder("folder", folder), backbone, device)
        gallery = stored.gallery if roi is None else stored.gallery.with_look(roi)
        spade = cls(stored.backbone).under(stored.options).with_gallery(gallery)
        spade.folder = as_folder("folder", folder)
        spade._choices = _tabulate(stored.choices)
        spade._undecided = frozenset({*UNDECIDED, "k", "resize"}) & {option for option, *_ in stored.choices}
        return spade

    def with_gallery(self, gallery: Gallery) -> SPADE:
        """The same options with another gallery of the same backbone."""
        other = copy.copy(self)
        other._replace(gallery)
        return other

    def _replace(self, gallery: Gallery) -> None:
        """Set another gallery with an empty calibration; other objects may keep using the old ones."""
        self._fitted, self.folder = Calibration(gallery), None

    def _freeze(self) -> SPADE:
        """This object as it is now: other threads may change the gallery or the options while it judges."""
        return copy.copy(self)

    def normal_image(self, index: SupportsIndex) -> UInt8[np.ndarray, "H W 3"]:
        """The evaluated crop of a training image, as stored for display."""
        return self.gallery.normals[self.gallery.check_index(index)].image

    def with_options(self, **options: Any) -> SPADE:
        """The same gallery under other options (k, kappa, radius, ...: see `SPADE`); no new fit."""
        other = copy.copy(self)
        other._decide(options)
        if self._fitted is not None:
            other._warn_about_clipping(options)
        return other

    def under(self, options: Options) -> SPADE:
        """The same gallery under these options; values above what is available are reduced silently."""
        other = copy.copy(self)
        other.options = self._check(options)
        return other

    # ---- predictions -------------------------------------------------------------------------------------------------

    def _warn_about_training_images(self) -> None:
        """Warn if fitted images are labelled as defects or are duplicates."""
        gallery = self.gallery
        normals = gallery.normals
        defects = [normal.sample for normal in normals if normal.sample and normal.sample.label not in (GOOD, None)]
        if defects:
            warn(
                f"{len(defects)} of {len(normals)} fitted images are labelled as defects, such as "
                f"{defects[0].label!r}. Fit normal images only."
            )
        if twice := len(normals) - len(gallery.places):
            alike = "" if gallery.comparable else " All are identical: there is no threshold. Fit more normal images."
            warn(f"{twice} of {len(normals)} fitted images are duplicates. Duplicates are left out together.{alike}")

    def predict(self, image: Photo, *, roi: Where | None = None) -> Result:
        """Judge one image, within the roi given to `fit`, or another one for this image.

        Warns if the image is one of the fitted ones: it matches itself at distance 0. Also if it was squashed by more
        than 1.2 : 1 to fit a square crop, unless `fit` warned about images squashed alike; or, with ``crop=None``, by
        more than 1.15 : 1 to fit the size of the normal images.
        """
        now = self._freeze()
        query = now.read(image, roi=roi)
        if query.digest in now.gallery.places:
            warn(
                "This image is one of the fitted images and matches itself at distance 0. Call predict_left_out(index) "
                "to judge it against the others."
            )
        if told := now.gallery.describe_squash([name_of(image) or "The image"], [query.crop]):
            warn(told)
        return now.judge(query, np.arange(len(now)))

    def predict_left_out(self, index: SupportsIndex) -> Result:
        """Judge training image ``index`` against all the others, as if it had not been fitted; nor its duplicates."""
        now = self._freeze()
        index = now.gallery.check_index(index)
        return now.judge(now.gallery.query(index), now.gallery.others(index))

    def reads_like(self, other: SPADE) -> bool:
        """Whether both have the same backbone and crop images alike, so that an image read by one suits the other."""
        return self.backbone is other.backbone and self.gallery.cropping == other.gallery.cropping

    def read(self, image: Photo, *, roi: Where | None = None) -> QueryImage:
        """Prepare an image to be judged: crop it like the fitted ones, and pass it through the network once."""
        gallery = self.gallery
        cropping = gallery.cropping if roi is None else replace(gallery.cropping, roi=Roi.of(roi, shape_of(image)))
        crop, pixels = read_crop(image, cropping)
        self.backbone.check_unchanged(quickly=True)
        mark = digest(pixels)
        known = gallery.places.get(mark)  # reuse its features: another batch gives other rounding
        pyramid = compute_features([pixels], self.backbone) if known is None else gallery.pyramid(known)
        return QueryImage(pyramid, pixels, crop, image if isinstance(image, Sample) else None, mark)

    def judge(
        self, image: Photo | QueryImage, among: Sequence[int] | np.ndarray | None = None, before: Result | None = None
    ) -> Result:
        """Judge an image against some of the normal images; by default against all except itself, if it is one of them.

        The image may have been read before, by any SPADE that `reads_like` this one. ``among`` holds indices of normal
        images, or is True for those to use. ``before``, the result of this image under other options, saves time: its
        matches are tried first, or reused if they still hold. A result of another image or gallery is not used.
        """
        now = self._freeze()
        query, gallery = image if isinstance(image, QueryImage) else now.read(image), now.gallery
        if among is None:
            known = gallery.places.get(query.digest)
            if known is not None:
                query = replace(query, pyramid=gallery.pyramid(known))
            among = np.arange(len(gallery)) if known is None else gallery.others(known)
        among = gallery.check_among(among)
        same = isinstance(before, Result) and before.source.digest == query.digest and before.spade.gallery is gallery
        before = before if same else None
        if before is not None and before.is_matched_by(gallery, now.options, among):
            neighbours, found = before.neighbours, before.correspondence
        else:
            first = None if before is None else before.correspondence.place
            neighbours, found = gallery.search(query.pyramid, now.options, among, first)
        anomaly_map = make_map(found.distance, query.crop.size, now.options.sigma)
        return Result(anomaly_map, neighbours, found, query, among, now)

    def predict_folder(
        self,
        folder: str | Path,
        out: str | Path,
        fpr: float | None = None,
        *,
        maps: bool = True,
        overlays: bool = False,
        report: bool = True,
        jobs: int = 1,
        client: Any = None,
    ) -> pandas.DataFrame:
        """Judge every image in a folder and its subfolders; no labels needed.

        The folder ``out`` gets ``results.csv``, one row per image; ``regions.csv``, one row per region, with the
        image's ``path``, the number of the ``region`` and the columns of `Result.regions`; ``segmentations`` as PNG,
        white where the judged map reaches ``threshold()``, the threshold for pixels, as in the regions; and ``maps``,
        raw distances as float32 TIFF. Both have the size of the original image and are 0 where it was not judged
        (``load_backbone(..., crop=None)`` judges all of it). A second call resumes an interrupted run; an image whose
        content changed, or whose outputs were deleted, is judged again. An image that cannot be read gets a row with
        the reason. Fitted images are judged against the others.

        Parameters
        ----------
        fpr
            The fraction of normal images that may reach the threshold: 0.05 unless there are too few of them.
        maps
            Whether to write the raw maps, 4 bytes per pixel of the original image; those of an earlier run are kept up
            to date.
        overlays
            Whether to write ``overlays``, the images with numbered outlines of their regions, at most 1,024 px.
        report
            Whether to write ``report.html``, one page of less than 4 MB for a browser, with the threshold and what
            justifies it, and pictures of the most anomalous images.
        jobs
            Processes on this machine that share the work, of one core each.
        client
            A `dask.distributed.Client`, whose workers share the work. They must see the same folders, among them the
            one where this SPADE was saved or loaded; if there is none, it is saved in ``out``.

        Returns
        -------
        pandas.DataFrame
            The table: ``path``, ``verdict``, ``image_score``, ``retrieval_score``, ``threshold``, ``nearest_normal``,
            ``row`` and ``col`` of the most anomalous pixel of the original image, ``regions``, their number, ``area``,
            that of all in pixels of the original image, ``judged``, the fraction of the image that was judged,
            ``squash``, the factor by which its aspect ratio was changed, ``reason``; size, time of change and hash of
            the file: ``bytes``, ``modified``, ``sha256``.

        Raises
        ------
        ValueError
            If ``out`` holds results of another fit, other options or another input folder, or is in use.
        OSError
            If something cannot be written; files written before are intact.
        """
        written = {"maps": maps, "overlays": overlays, "report": report}
        return predict_folder(self._freeze(), folder, out, fpr, written, jobs, client)

    # ---- thresholds and the reference level --------------------------------------------------------------------------

    def threshold(
        self, fpr: float = 0.01, *, of: str = "pixel", groups: Groups = None, confidence: float | None = None
    ) -> float:
        """The threshold for a given false-alarm rate, from normal images alone.

        Each training image is judged against all the others, with the same smoothing as in `predict`; duplicates count
        as one image. Distances are cached: another rate or sigma needs no new search.

        Parameters
        ----------
        fpr
            The false-alarm rate to allow, such as 0.01.
        of
            ``"pixel"``: the fraction of pixels of normal images that may be marked. ``"image"``: the fraction of normal
            images that may have an image score at or above the threshold.
        groups
            One label per training image: images of the same part share a label and are left out together.
        confidence
            None: the rate is ``fpr`` on average. A probability such as 0.95, only with ``of="image"``: the lowest
            threshold whose true rate is at most ``fpr`` with this confidence. It needs more images, 299 for 1 % and
            0.95. Duplicates count once. With ``groups`` a group counts once, with its highest score: ``fpr`` is then
            the fraction of groups with an image that reaches the threshold.

        Returns
        -------
        float
            The ceil((N + 1)(1 - fpr))-th smallest of N scores. A segmentation is ``judged_map >= threshold``. With
            ``confidence`` the next float above a higher one, from the binomial distribution; see
            `find_certain_threshold`.

        Raises
        ------
        ValueError
            If there are too few images for ``fpr`` and ``confidence``; the message gives the number needed.

        Notes
        -----
        ``confidence`` holds for independent images that come from the same process as the training images. Left-out
        scores are independent only approximately, since they share the other training images; with one training image
        fewer to be matched to, they are usually a little higher than those of new images, which is the safe side.
        """
        threshold, doubt = self.calibration.examine_threshold(self.options, fpr, of, groups, confidence)
        if doubt:
            warn(doubt)
        return threshold

    def threshold_interval(
        self,
        fpr: float = 0.01,
        *,
        of: str = "pixel",
        groups: Groups = None,
        level: float = 0.95,
        draws: int = 200,
        seed: int = 0,
    ) -> tuple[float, float]:
        """The confidence interval of a threshold: how much it depends on the choice of normal images.

        Bootstrap over training images or, with groups, over groups; each image is judged against the others once, as in
        `threshold`. Pixel scores are sorted into bins with rates about a hundredth of ``fpr`` apart.

        Parameters
        ----------
        fpr, of, groups
            As in `threshold`.
        level
            The fraction of draws inside the interval.
        """
        return self.calibration.threshold_interval(self.options, fpr, of, groups, level, draws, seed)

    def suspects(self, groups: Groups = None) -> pandas.DataFrame:
        """The training images, ranked by how anomalous they are compared with all the others.

        A defect among the normal images hides the same defect on other images: inspect the first rows, and fit again
        without the images that are not normal. A faint defect may not be among the first.

        Parameters
        ----------
        groups
            As in `threshold`: images of the same part must not be compared with each other.

        Returns
        -------
        pandas.DataFrame
            Indexed by training image, the most anomalous first: its ``path``, if known, its image ``score``, and the
            position of the maximum of its judged map as map ``row`` and ``col``.
        """
        return self.calibration.suspects(self.options, groups)

    @property
    def normal_level(self) -> float | None:
        """The reference level: the 99th percentile of left-out maps of at most 64 training images.

        99 % of the pixels of normal images stay below this mark on every colour bar. Computed on first use; None if
        there is only one normal image.
        """
        return self.calibration.level(self.options.of_map)


def _tabulate(choices: list[Row]) -> pandas.DataFrame:
    return pandas.DataFrame(choices, columns=["option", "value", "why", "rests_on"], dtype=object).set_index("option")


def _refuse(gone: dict[str, Any]) -> None:
    """Explain parameters that were removed; reject unknown ones as Python does."""
    if "precision" in gone:
        raise ValueError(
            "precision is no longer an option: features are stored as float32, which the fast search needs. Leave it "
            "out; to save memory, use fewer normal images or a smaller crop."
        )
    for name in gone:
        hint = suggest(name.lower(), [*OPTIONS, "backbone", "device"])
        if name in inspect.signature(load_backbone).parameters:
            hint = f" Pass load_backbone(..., {name}=...) as the backbone."
        raise TypeError(f"SPADE.__init__() got an unexpected keyword argument {name!r}.{hint}")
