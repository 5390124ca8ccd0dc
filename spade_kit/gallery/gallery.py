"""The normal images of a fit: their features laid out for the search, and a small picture of each to show."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from spade_kit._arguments import warn
from spade_kit.correspondence import Weights, resolve_weights
from spade_kit.datasets.samples import Photo, Sample
from spade_kit.features.backbones import Backbone
from spade_kit.features.crops import Crop
from spade_kit.features.pyramid import Pyramid, chosen_layers, iterate_features
from spade_kit.search.branch_and_bound import can_descend
from spade_kit.search.dispatch import levels_of
from spade_kit.search.layout import Lanes

PRECISIONS = {"float32": torch.float32, "float16": torch.float16}
_WORTH_SAYING = 2 * 2**30  # bytes
_JPEG_QUALITY = 92


@dataclass(frozen=True)
class Normal:
    """What is kept of one normal image beside its features."""

    jpeg: bytes  # the evaluated crop, for showing only
    digest: bytes  # of the crop's pixels, to recognise a photo that is in the gallery
    crop: Crop
    sample: Sample | None  # where it came from, if it came as a Sample
    added: str = ""  # when, in UTC
    why: str = "fit"

    @property
    def image(self) -> UInt8[np.ndarray, "H W 3"]:
        return np.array(Image.open(BytesIO(self.jpeg)))


@dataclass(frozen=True, eq=False)
class Gallery:
    """n normal images, immutable.

    Attributes
    ----------
    pooled
        (n, d).
    pixels
        `Lanes` where the descent can search them in place, otherwise the pyramid's levels, each (n, c, h, w).
    moments
        Per level and image, the channels' means and mean squares: (n, c) float64 each. They give the variance over
        any part of the gallery, such as all but one.
    precision
        In which features are held, and to which a query is rounded, too.
    """

    layers: Sequence[str]
    normals: tuple[Normal, ...]
    pooled: Float[Tensor, "n d"]
    pixels: Lanes | list[Tensor]
    moments: list[tuple[np.ndarray, np.ndarray]]
    precision: torch.dtype

    def __len__(self) -> int:
        return len(self.normals)

    @cached_property
    def places(self) -> dict[bytes, int]:
        """Which image has these pixels, by digest."""
        return {normal.digest: index for index, normal in enumerate(self.normals)}

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """(c, h, w) of each level."""
        return self.pixels.shapes if isinstance(self.pixels, Lanes) else [tuple(x.shape[1:]) for x in self.pixels]

    @property
    def nbytes(self) -> int:
        """Of the pixels' features, next to which all else is little."""
        return self.pixels.nbytes if isinstance(self.pixels, Lanes) else sum(level.nbytes for level in self.pixels)

    def pyramid(self, index: int) -> Pyramid:
        """The features of one normal image, as a query would have them."""
        return Pyramid(levels_of(self.pixels, np.array([index])), self.layers, self.pooled[index, None])

    def only(self, layers: Sequence[str]) -> Gallery:
        """The same images as some of the layers alone see them."""
        kept = chosen_layers(layers, self.layers)
        if len(kept) == len(self.layers):
            return self
        held = levels_of(self.pixels, np.arange(len(self)))
        levels = [held[at].to(self.precision) for at in kept]
        descends = isinstance(self.pixels, Lanes) and can_descend([level.shape for level in levels])
        pixels = Lanes.of(levels) if descends else levels
        names, moments = [self.layers[at] for at in kept], [self.moments[at] for at in kept]
        return replace(self, layers=names, pixels=pixels, moments=moments)

    def take(self, images: Int[np.ndarray, "m"], more: Gallery | None = None) -> Gallery:
        """Some of the images, and all of another gallery's behind them: what a fit of these would be."""
        others = [more] if more else []
        if isinstance(self.pixels, Lanes):
            pixels: Lanes | list[Tensor] = self.pixels.take(images, more and more.pixels)  # type: ignore[arg-type]
        else:
            chosen = torch.from_numpy(images)
            held = [level[chosen.to(level.device)] for level in self.pixels]
            pixels = [torch.cat(levels) for levels in zip(held, *(other.pixels for other in others))]  # type: ignore
        return replace(
            self,
            normals=sum((other.normals for other in others), tuple(self.normals[at] for at in images)),
            pooled=torch.cat([self.pooled[torch.from_numpy(images)], *(other.pooled for other in others)]),
            pixels=pixels,
            moments=[
                _join([(means[images], squares[images]), *(other.moments[level] for other in others)])
                for level, (means, squares) in enumerate(self.moments)
            ],
        )

    def rounded(self, query: Pyramid) -> Pyramid:
        """A query in the gallery's precision, so that both are rounded alike."""
        return Pyramid(tuple(level.to(self.precision) for level in query.levels), query.layers, query.pooled)

    def weights(self, weights: Weights, images: Int[np.ndarray, "m"]) -> Float[np.ndarray, "L"]:
        """What each level counts, where "equal" looks at these images only."""
        return resolve_weights(weights, self.layers, lambda: [_variance(*level, images) for level in self.moments])


def _variance(means: np.ndarray, squares: np.ndarray, images: np.ndarray) -> float:
    return float((squares[images].mean(0) - means[images].mean(0) ** 2).sum())


def digest(crop: UInt8[np.ndarray, "H W 3"]) -> bytes:
    return hashlib.blake2b(crop.tobytes(), digest_size=16).digest()


def build_gallery(images: Sequence[Photo], backbone: Backbone, precision: str, why: str = "fit") -> Gallery:
    """Features of all images, batch by batch, straight into the layout that the search reads."""
    dtype = PRECISIONS[precision]
    normals: list[Normal] = []
    pooled: list[Tensor] = []
    moments: list[list[tuple[np.ndarray, np.ndarray]]] = []
    pixels: Lanes | list[Tensor] | None = None
    for photos, places, crops, batch in iterate_features(images, backbone, skip=True):
        if pixels is None:
            pixels = _make_room(len(images), batch, dtype)
        start = len(normals)
        held = [_hold(level, dtype, name) for level, name in zip(batch.levels, batch.layers)]
        if isinstance(pixels, Lanes):
            pixels.write(start, held)
        else:
            for room, level in zip(pixels, held):
                room[start : start + len(crops)] = level
        normals += map(partial(_keep, why), photos, places, crops)
        pooled.append(batch.pooled)
        moments.append([_moments(level) for level in held])
    if pixels is None:
        raise ValueError("fit needs at least one normal image, but none came.")
    if len(normals) < len(images):
        pixels = pixels.first(len(normals)) if isinstance(pixels, Lanes) else [x[: len(normals)] for x in pixels]
    joined = [_join(level) for level in zip(*moments)]
    return Gallery(batch.layers, tuple(normals), torch.cat(pooled), pixels, joined, dtype)


def _join(batches: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    means, squares = zip(*batches)
    return np.concatenate(means), np.concatenate(squares)


def _make_room(n: int, batch: Pyramid, dtype: torch.dtype) -> Lanes | list[Tensor]:
    shapes = [tuple(level.shape[1:]) for level in batch.levels]
    device = batch.levels[0].device
    descends = dtype == torch.float32 and device.type == "cpu" and can_descend(shapes)
    one = Lanes(1, shapes).nbytes if descends else dtype.itemsize * sum(int(np.prod(shape)) for shape in shapes)
    if n * one > _WORTH_SAYING:
        warn(
            f"The features of {n} images will take {n * one / 2**30:.1f} GB of memory. If that is too much, take fewer "
            'images, precision="float16" for half, or a smaller crop (load_backbone(..., crop=...)).'
        )
    try:
        if descends:
            return Lanes(n, shapes)
        return [torch.empty((n, *shape), dtype=dtype, device=device) for shape in shapes]
    except (MemoryError, RuntimeError) as problem:  # numpy's and torch's
        raise MemoryError(
            f"The features of {n} images need {n * one / 2**30:.1f} GB of memory, which cannot be had. Take fewer "
            'images, precision="float16" for half, or a smaller crop (load_backbone(..., crop=...)).'
        ) from problem


def _hold(level: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    held = level.to(dtype)
    if not torch.isfinite(held).all():
        cure = (
            'Take precision="float32".' if torch.isfinite(level).all() else "Check the backbone's weights and inputs."
        )
        raise ValueError(f"Features must be finite numbers, but at {name} some are not, held as {dtype}. {cure}")
    return held


def _keep(why: str, image: Photo, place: Crop, crop: UInt8[np.ndarray, "H W 3"]) -> Normal:
    stream = BytesIO()
    Image.fromarray(crop).save(stream, "JPEG", quality=_JPEG_QUALITY)
    sample = Sample(Path(image)) if isinstance(image, (str, Path)) else image if isinstance(image, Sample) else None
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Normal(stream.getvalue(), digest(crop), place, sample, now, why)


def _moments(level: Tensor) -> tuple[np.ndarray, np.ndarray]:
    x = level.cpu().double()  # some devices have no float64
    return x.mean((2, 3)).numpy(), (x * x).mean((2, 3)).numpy()
