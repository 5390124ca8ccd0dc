"""The fitted normal images: their features in the layout of the search, and stages 2 and 3."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cached_property, partial
from io import BytesIO
from math import inf, prod
from pathlib import Path
from typing import SupportsIndex

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor

from spade_kit._arguments import check_index, warn
from spade_kit._files import as_text, encode_picture
from spade_kit.correspondence import Correspondence, Places, Question, search_pixels
from spade_kit.datasets.images import UnreadablePhotoError
from spade_kit.datasets.roi import Look, Roi
from spade_kit.datasets.samples import SQUASHED, Photo, Sample
from spade_kit.features.backbones import Backbone
from spade_kit.features.crops import Crop, Cropping
from spade_kit.features.pyramid import Batch, Pyramid, chosen_layers, free_memory, iterate_features
from spade_kit.options import Options
from spade_kit.retrieval import Neighbours, find_nearest, find_nearest_of_many
from spade_kit.search.dispatch import layout_for, levels_of
from spade_kit.search.layout import Layout, Shards

_WORTH_SAYING = 2.0  # GB
_COMPARED = 3  # images on which a function given as roi is compared with the one that was fitted
_MANY = 10_000  # images: below, a product saves nothing
_JPEG_QUALITY = 92
NO_IMAGES = "fit needs at least one normal image; got none."


@dataclass(frozen=True)
class Normal:
    """The data of one normal image, apart from its features."""

    jpeg: bytes  # the evaluated crop, for display only
    digest: bytes  # of the crop's pixels, to recognise an image of the gallery
    crop: Crop
    sample: Sample | None  # its source, if given as a Sample or a path
    added: str = ""  # time, in UTC
    why: str = "fit"

    @property
    def image(self) -> UInt8[np.ndarray, "H W 3"]:
        return np.array(Image.open(BytesIO(self.jpeg), formats=["JPEG"]))


@dataclass(frozen=True, eq=False)
class QueryImage:
    """An image ready to be judged: its features and its evaluated crop."""

    pyramid: Pyramid
    image: UInt8[np.ndarray, "H W 3"]
    crop: Crop
    sample: Sample | None
    digest: bytes  # of the crop's pixels before JPEG compression


@dataclass(frozen=True, eq=False)
class Gallery:
    """n normal images, immutable.

    Attributes
    ----------
    pooled
        (n, d).
    pixels
        A layout where a compiled search reads them in place, otherwise the pyramid's levels, each (n, c, h, w).
    moments
        Per level and image, the channels' means and mean squares: (n, c) float64 each. They give the variance over any
        subset of the gallery, such as all images but one.
    cropping
        How they, and all images compared with them, are cropped.
    """

    layers: Sequence[str]
    normals: tuple[Normal, ...]
    pooled: Float[Tensor, "n d"]
    pixels: Layout | list[Tensor]
    moments: list[tuple[np.ndarray, np.ndarray]]
    cropping: Cropping

    def __len__(self) -> int:
        return len(self.normals)

    @cached_property
    def places(self) -> dict[bytes, int]:
        """Index of an image by the digest of its pixels."""
        return {normal.digest: index for index, normal in enumerate(self.normals)}

    @cached_property
    def contents(self) -> Int[np.ndarray, "n"]:
        """A number for the content of each image, the same for duplicates."""
        return np.array([self.places[normal.digest] for normal in self.normals], np.int64)

    @cached_property
    def distinct(self) -> list[int]:
        """One image of each content: duplicates are not independent, and count as one."""
        return sorted(self.places.values())

    @property
    def comparable(self) -> bool:
        """Whether images can be left out and judged against others: at least two must differ."""
        return len(self.places) > 1

    def name(self, index: int) -> str:
        """The file name of an image, or its number if it has none."""
        sample = self.normals[index].sample
        return f"normal image {index}" if sample is None else as_text(sample.path.name)

    def with_look(self, look: Look) -> Gallery:
        """The same gallery, as it was saved, with the function that was given as roi."""
        roi = self.cropping.roi
        if roi != Roi() or not callable(look):
            held = f"a {roi.kind}, which was saved" if roi else "none"
            raise ValueError(
                f"roi must be a function, if one was given to fit; got {look!r:.80}, and the roi of this fit is {held}."
                " Leave it out, or fit again."
            )
        samples = [(one.sample, one.crop) for one in self.normals if one.sample]
        for sample, crop in samples[:_COMPARED]:
            try:
                found = Roi(function=look).find(sample.image)
            except (OSError, UnreadablePhotoError):  # its file is gone, for example
                continue
            if not np.array_equal(crop.cut_mask(found), crop.looked_at):
                raise ValueError(
                    "roi must be the function that was given to fit; got one that marks other pixels of "
                    f"{as_text(sample.path)}. Pass that one, or fit again."
                )
        return replace(self, cropping=replace(self.cropping, roi=Roi(function=look)))

    @cached_property
    def roi_mark(self) -> str:
        """The kind of the roi, with a hash of those of the normal images; empty if there is none."""
        if self.cropping.roi is None:
            return ""
        rois = (normal.crop.roi for normal in self.normals)
        packed = (b"all" if roi is None else np.packbits(roi).tobytes() for roi in rois)
        return f"{self.cropping.roi.kind} {hashlib.sha256(b'|'.join(packed)).hexdigest()[:12]}"

    @cached_property
    def common_roi(self) -> Bool[np.ndarray, "H W"]:
        """The places of the crop inside the roi of every image; all if there is no such place."""
        common = np.ones(self.normals[0].crop.size, bool)
        crops = {id(normal.crop.roi): normal.crop for normal in self.normals}  # images may share a roi
        for crop in crops.values():
            common &= crop.looked_at
        return common if common.any() else ~common

    @cached_property
    def _lengths(self) -> Float[np.ndarray, "n"]:
        """The squared lengths of the pooled vectors."""
        pooled = self.pooled.numpy()
        return np.einsum("ij,ij->i", pooled, pooled, dtype=np.float64).astype(np.float32)

    @cached_property
    def squashed(self) -> str:
        """A remark if images were squashed to the crop, otherwise empty."""
        names = [self.name(index) for index in range(len(self))]
        return self.cropping.describe_squash(names, [normal.crop.squash for normal in self.normals])

    def describe_squash(self, names: Sequence[str], crops: Sequence[Crop | None]) -> str:
        """A remark on other images that were squashed; their crops are None if they were not judged.

        Those that were squashed to a square like images that `squashed` tells of are left out.
        """
        said = self.cropping.crop is not None and self.squashed
        known = [normal.crop.change for normal in self.normals] if said else [inf]
        least, most = min(known) / SQUASHED, max(known) * SQUASHED
        squash = [1.0 if crop is None or least <= crop.change <= most else crop.squash for crop in crops]
        return self.cropping.describe_squash(names, squash)

    def check_index(self, index: SupportsIndex, name: str = "index") -> int:
        return check_index(name, index, len(self), "training image")

    def check_among(self, images: Sequence[int] | np.ndarray) -> Int[np.ndarray, "m"]:
        """Training images, ascending and each once, from indices in any order or from a boolean mask."""
        try:
            given = np.asarray(list(images) if isinstance(images, Set) else images)
        except ValueError:  # lists of different lengths
            given = np.empty(0)
        if given.dtype == bool and given.shape == (len(self),):
            given = np.flatnonzero(given)
        whole = given.ndim == 1 and given.dtype.kind in "iu"
        if not (whole and len(given) and 0 <= given.min() <= given.max() < len(self)):
            raise ValueError(
                f"among must hold at least one index of a training image, from 0 to {len(self) - 1}, and no others; "
                f"got {images!r}."
            )
        return np.flatnonzero(np.bincount(given.astype(np.int64), minlength=len(self)))

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """(c, h, w) of each level."""
        return self.pixels.shapes if isinstance(self.pixels, Layout) else [tuple(x.shape[1:]) for x in self.pixels]

    @property
    def nbytes(self) -> int:
        """Size of the pixel features; everything else is small in comparison."""
        return self.pixels.nbytes if isinstance(self.pixels, Layout) else sum(level.nbytes for level in self.pixels)

    @property
    def parts(self) -> list[Gallery]:
        """The gallery shard by shard, or itself."""
        if not isinstance(self.pixels, Shards):
            return [self]
        parts = []
        for at, pixels in zip(map(slice, self.pixels.starts[:-1], self.pixels.starts[1:]), self.pixels.parts):
            moments = [(means[at], squares[at]) for means, squares in self.moments]
            parts.append(Gallery(self.layers, self.normals[at], self.pooled[at], pixels, moments, self.cropping))
        return parts

    def pyramid(self, index: int) -> Pyramid:
        """The features of one normal image, in the form of a query."""
        return Pyramid(levels_of(self.pixels, np.array([index])), self.layers, self.pooled[index, None])

    def query(self, index: int) -> QueryImage:
        """A normal image as a query; its pixels are those of the stored JPEG."""
        normal = self.normals[index]
        return QueryImage(self.pyramid(index), normal.image, normal.crop, normal.sample, normal.digest)

    def others(self, index: int, groups: Sequence[Hashable] | None = None) -> Int[np.ndarray, "m"]:
        """All images except this one and its duplicates, or also except its whole group."""
        apart = self.contents != self.contents[index]
        if groups is not None:
            apart &= [label != groups[index] for label in groups]
        others = np.flatnonzero(apart)
        if len(others) == 0:
            what = "normal image" if groups is None else "group"
            got = "there is none" if self.comparable or len(self) == 1 else f"all {len(self)} images are identical"
            raise ValueError(f"Leave-one-out needs at least one other {what}; {got}. Fit more normal images.")
        return others

    # ---- stages 2 and 3 ----------------------------------------------------------------------------------------------

    def search(
        self, query: Pyramid, options: Options, among: Int[np.ndarray, "m"], first: Places | None = None
    ) -> tuple[Neighbours, Correspondence]:
        """Retrieve neighbours of a query among some images, and match its pixels in them; see `search_pixels`."""
        neighbours = self.retrieve(query, options, among)
        asked = Question(query, self.pixels, neighbours.index, self.factors(options, among), options)
        return neighbours, search_pixels(asked, first)

    def retrieve(self, query: Pyramid, options: Options, among: Int[np.ndarray, "m"]) -> Neighbours:
        """Stage 2: the nearest of some of the images, as indices into the gallery."""
        k, pooled = options.retrieved(len(among)), self.pooled
        if _MANY < len(among) == len(self) and pooled.device == query.pooled.device == torch.device("cpu"):
            near = find_nearest_of_many(query.pooled, pooled, self._lengths, k)
        else:
            near = find_nearest(query.pooled, pooled[torch.from_numpy(among)], k)
        return Neighbours(among[near.index[0]], near.distance[0])

    def factors(self, options: Options, among: Int[np.ndarray, "m"]) -> Float[np.ndarray, "L"]:
        """The weight of each level's squared distance; "equal" uses the variance over some of the images only."""
        if len(among) == len(self):
            return options.factors(self.layers, lambda: self._variances)
        return options.factors(self.layers, lambda: [_variance(*level, among) for level in self.moments])

    @cached_property
    def _variances(self) -> list[float]:
        """Of each level, over all images."""
        return [_variance(*level, np.arange(len(self))) for level in self.moments]

    # ---- other galleries ---------------------------------------------------------------------------------------------

    def only(self, layers: Sequence[str]) -> Gallery:
        """The same images with only some of the layers."""
        kept = chosen_layers(layers, self.layers)
        if len(kept) == len(self.layers):
            return self
        self._check_memory(len(self))
        held = levels_of(self.pixels, np.arange(len(self)))
        levels = [held[at] for at in kept]
        layout = layout_for([level.shape for level in levels]) if isinstance(self.pixels, Layout) else None
        pixels = layout.of(levels) if layout else levels
        names, moments = [self.layers[at] for at in kept], [self.moments[at] for at in kept]
        return replace(self, layers=names, pixels=pixels, moments=moments)

    def _check_memory(self, n: int) -> None:
        """Check that a copy of so many images fits, which may be in files now."""
        if isinstance(self.pixels, Shards):
            _check_memory(n, self.nbytes // len(self), torch.device("cpu"))

    def take(self, images: Int[np.ndarray, "m"], more: Gallery | None = None) -> Gallery:
        """Some of the images, followed by all of another gallery: the same as a fit of these images."""
        others = [more] if more else []
        self._check_memory(len(images) + sum(map(len, others)))
        if isinstance(self.pixels, Layout):
            pixels: Layout | list[Tensor] = self.pixels.take(images, more and more.pixels)  # type: ignore[arg-type]
        else:
            chosen = torch.from_numpy(images)
            held = [level[chosen.to(level.device)] for level in self.pixels]
            pixels = [torch.cat(levels) for levels in zip(held, *(other.pixels for other in others))]  # type: ignore
        normals = sum((other.normals for other in others), tuple(self.normals[at] for at in images))
        pooled = torch.cat([self.pooled[torch.from_numpy(images)], *(other.pooled for other in others)])
        own = [(means[images], squares[images]) for means, squares in self.moments]
        moments = [_join(level) for level in zip(own, *(other.moments for other in others))]
        return replace(self, normals=normals, pooled=pooled, pixels=pixels, moments=moments)


def _variance(means: np.ndarray, squares: np.ndarray, images: np.ndarray) -> float:
    return float((squares[images].mean(0) - means[images].mean(0) ** 2).sum())


def digest(crop: UInt8[np.ndarray, "H W 3"]) -> bytes:
    return hashlib.blake2b(crop.tobytes(), digest_size=16).digest()


def build_gallery(images: Sequence[Photo], backbone: Backbone, cropping: Cropping, why: str = "fit") -> Gallery:
    """Compute the features of all images, batch by batch, directly into the layout of the search."""
    gallery = gather(iterate_features(images, backbone, cropping, skip=True), len(images), cropping, why)
    if gallery is None:
        raise ValueError(NO_IMAGES)
    return gallery


def gather(batches: Iterable[Batch], most: int, cropping: Cropping, why: str) -> Gallery | None:
    """The gallery of at most so many images; None if there are none."""
    normals: list[Normal] = []
    pooled: list[Tensor] = []
    moments: list[list[tuple[np.ndarray, np.ndarray]]] = []
    pixels: Layout | list[Tensor] | None = None
    for photos, places, crops, batch in batches:
        if pixels is None:
            pixels = _make_room(most, batch)
        start = len(normals)
        if isinstance(pixels, Layout):
            pixels.write(start, batch.levels)
        else:
            for room, level in zip(pixels, batch.levels):
                room[start : start + len(crops)] = level
        normals += map(partial(_keep, why), photos, places, crops)
        pooled.append(batch.pooled)
        moments.append([_moments(level) for level in batch.levels])
    if pixels is None:
        return None
    if len(normals) < most:
        pixels = pixels.first(len(normals)) if isinstance(pixels, Layout) else [x[: len(normals)] for x in pixels]
    joined = [_join(level) for level in zip(*moments)]
    return Gallery(batch.layers, tuple(normals), torch.cat(pooled), pixels, joined, cropping)


def _join(batches: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    means, squares = zip(*batches)
    return np.concatenate(means), np.concatenate(squares)


def _make_room(n: int, batch: Pyramid) -> Layout | list[Tensor]:
    """Memory for the features of n images like those of the first batch; MemoryError if that many will not fit."""
    shapes = [tuple(level.shape[1:]) for level in batch.levels]
    device = batch.levels[0].device
    layout = layout_for(shapes) if device.type == "cpu" else None
    problem = _check_memory(n, layout(1, shapes).nbytes if layout else 4 * sum(map(prod, shapes)), device)
    try:
        if layout:
            return layout(n, shapes)
        return [torch.empty((n, *shape), dtype=torch.float32, device=device) for shape in shapes]
    except (MemoryError, RuntimeError) as refused:  # numpy's and torch's
        raise MemoryError(problem) from refused


def _check_memory(n: int, one: int, device: torch.device) -> str:
    """Warn about much memory, or refuse what the system would end the process for; return the sentence."""
    size, free = n * one / 2**30, free_memory(device) / 2**30
    cure = "Use fewer images, a smaller crop (load_backbone(..., resize=..., crop=...)), or fit(..., folder=...)."
    problem = f"The features of {n} images need {size:.1f} GB of memory, and {free:.1f} GB are available. {cure}"
    if size > free:
        raise MemoryError(problem)
    if size > _WORTH_SAYING:
        warn(f"The features of {n} images will take {size:.1f} GB of memory. If that is too much: {cure}")
    return problem


def _keep(why: str, image: Photo, place: Crop, crop: UInt8[np.ndarray, "H W 3"]) -> Normal:
    jpeg = encode_picture(crop, "JPEG", quality=_JPEG_QUALITY)
    sample = Sample(Path(image)) if isinstance(image, (str, Path)) else image if isinstance(image, Sample) else None
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Normal(jpeg, digest(crop), place, sample, now, why)


def _moments(level: Tensor) -> tuple[np.ndarray, np.ndarray]:
    x = level.cpu().double()  # some devices have no float64
    return x.mean((2, 3)).numpy(), (x * x).mean((2, 3)).numpy()
