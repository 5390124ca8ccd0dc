"""Stage 1: feature pyramids of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from pathlib import Path
from threading import Lock
from typing import TypeAlias, TypeVar

import numpy as np
import psutil
import torch
from jaxtyping import Float, UInt8
from numpy.typing import ArrayLike
from torch import Tensor, nn

from spade_kit._arguments import check_count, choose, warn
from spade_kit._work import share, side_by_side, track
from spade_kit.datasets.images import UnreadablePhotoError
from spade_kit.datasets.roi import Roi, RoiError, Where
from spade_kit.datasets.samples import Photo, Sample, as_array, as_list, name_of, shape_of
from spade_kit.features.backbones import EMBEDDED, Backbone, Device, load_backbone
from spade_kit.features.crops import Crop, Cropping, SmallPhotoError
from spade_kit.features.levels import as_features
from spade_kit.options import LARGEST

_SIDE = 320  # px: of larger crops, fewer are passed at once
_PASS = 500  # bytes per pixel that a pass of the embedded network takes; larger networks take more
_WORTH_ASKING = 2**30  # bytes
Read: TypeAlias = 'tuple[Crop, UInt8[np.ndarray, "H W 3"]]'
Batch: TypeAlias = 'tuple[list[Photo], list[Crop], list[UInt8[np.ndarray, "H W 3"]], Pyramid]'
_NAMED = 3  # how many skipped images a warning lists with their reason
_T = TypeVar("_T")
_R = TypeVar("_R")
_reading = Lock()  # opened images may share a stream


@dataclass(frozen=True, eq=False)
class Pyramid:
    """The features of n images: maps from fine to coarse, and one vector per image.

    Attributes
    ----------
    levels
        One ``(n, c, h, w)`` float32 tensor per level, fine to coarse.
    layers
        The names of the levels; ``layer1`` is the finest.
    pooled
        ``(n, d)``: one vector per image.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> pyramid = spade_kit.extract_features(parts.train[:2])
    >>> pyramid.layers, tuple(pyramid.pooled.shape), len(pyramid.select([0]).pooled)
    (('layer1', 'layer2', 'layer3'), (2, 320), 1)
    """

    levels: Sequence[Float[Tensor, "n _c _h _w"]]
    layers: Sequence[str]
    pooled: Float[Tensor, "n d"]

    def __post_init__(self) -> None:
        levels = (as_features("a level", level).detach().float() for level in self.levels)
        object.__setattr__(self, "levels", tuple(levels))
        object.__setattr__(self, "pooled", as_features("pooled", self.pooled).detach().float())
        object.__setattr__(self, "layers", tuple(self.layers))
        shapes = [tuple(level.shape) for level in self.levels]
        sound = (
            len(shapes) == len(set(self.layers)) == len(self.layers) > 0
            and self.pooled.ndim == 2
            and all(len(shape) == 4 and shape[0] == len(self.pooled) for shape in shapes)
            and all(fine[2] >= coarse[2] and fine[3] >= coarse[3] for fine, coarse in pairwise(shapes))
        )
        if not sound:
            raise ValueError(
                "A pyramid must have one (n, c, h, w) level per layer name, unique names, fine to coarse, and pooled "
                f"(n, d); got levels {shapes}, layers {self.layers} and pooled {tuple(self.pooled.shape)}."
            )

    def __len__(self) -> int:
        return len(self.pooled)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {tuple(level.shape)}" for name, level in zip(self.layers, self.levels))
        return f"Pyramid({shapes}, pooled {tuple(self.pooled.shape)})"

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the finest level."""
        height, width = self.levels[0].shape[2:]
        return height, width

    def select(self, index: ArrayLike) -> Pyramid:
        """The pyramid of some of the images, in the order given; a single index gives a pyramid of one image."""
        try:
            chosen = np.arange(len(self))[np.asarray(index, None if np.size(index) else int)]
        except (IndexError, ValueError) as problem:  # ValueError: lists of different lengths
            raise ValueError(
                f"index must hold numbers of images, from 0 to {len(self) - 1}, or True for those to select; "
                f"got {index!r}."
            ) from problem
        rows = torch.from_numpy(chosen.reshape(-1))
        *levels, pooled = (held[rows.to(held.device)] for held in (*self.levels, self.pooled))
        return Pyramid(levels, self.layers, pooled)

    def only(self, layers: Sequence[str]) -> Pyramid:
        """The same images with only some of the layers, fine to coarse."""
        kept = chosen_layers(layers, self.layers)
        return Pyramid([self.levels[at] for at in kept], [self.layers[at] for at in kept], self.pooled)


def check_pyramids(**given: Pyramid) -> None:
    for name, value in given.items():
        if not isinstance(value, Pyramid):
            kind = type(value).__name__
            raise ValueError(f"{name} must be a Pyramid; got a value of type {kind}. Use extract_features(images).")


def chosen_layers(layers: Sequence[str], known: Sequence[str]) -> list[int]:
    """The indices of some layers, fine to coarse; at least one."""
    if isinstance(layers, str) or not layers:
        raise ValueError(f"layers must be a list of names among {', '.join(known)}; got {layers!r}.")
    for name in layers:
        choose("A layer", name, known)
    return [at for at, name in enumerate(known) if name in layers]


def extract_features(
    images: Iterable[Photo] | Photo,
    backbone: str | nn.Module | Backbone = EMBEDDED,
    *,
    batch_size: int | None = None,
    device: Device = None,
) -> Pyramid:
    """Compute the feature pyramid of one or more images.

    Each image is resized and cropped for the backbone (see `load_backbone`), then passed through the network once.
    Whole images (``crop=None``) are resized to one size, which follows from their median aspect ratio.

    Parameters
    ----------
    images
        One image or many: Samples, paths, PIL images, (H, W, 3) uint8 arrays.
    backbone
        A name, or a `Backbone` from `load_backbone`.
    batch_size
        Images per forward pass, by default 4 on the CPU, which fits its caches, and 16 elsewhere; fewer if the crop is
        larger than 320 px. It affects speed and memory; values change only by rounding.
    device
        Where to compute; by default where the backbone is.

    Returns
    -------
    Pyramid
        With the embedded backbone ``layer1`` (n, 24, 56, 56), ``layer2`` (n, 40, 28, 28), ``layer3``
        (n, 112, 14, 14) and ``pooled`` (n, 320).

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> pyramid = spade_kit.extract_features(parts.train[:2])
    >>> [tuple(level.shape) for level in pyramid.levels]
    [(2, 24, 56, 56), (2, 40, 28, 28), (2, 112, 14, 14)]
    """
    if batch_size is not None:
        check_count("batch_size", batch_size)
    network, photos = load_backbone(backbone, device=device), as_list(images)
    cropping = fit_cropping(photos, network)
    batches = [pyramid for *_, pyramid in iterate_features(photos, network, cropping, batch_size)]
    if not batches:
        raise ValueError("extract_features needs at least one image; got none.")
    *levels, pooled = map(torch.cat, zip(*((*batch.levels, batch.pooled) for batch in batches)))
    return Pyramid(levels, batches[0].layers, pooled)


def fit_cropping(images: Sequence[Photo], backbone: Backbone, roi: Where | None = None) -> Cropping:
    """How the backbone crops these images together; whole ones need their sizes, which the heads of files tell."""
    cropping = replace(backbone.cropping, roi=find_roi(images, roi))
    if backbone.crop is not None:
        return cropping
    return cropping.fit(filter(None, map(shape_of, track(images, desc="sizes"))))


def find_roi(images: Iterable[Photo], given: Where | None) -> Roi | None:
    """Where to look; a polygon holds for images of the size of the first that can be read."""
    return None if given is None else Roi.of(given, next(filter(None, map(shape_of, images)), None))


def iterate_features(
    images: Sequence[Photo], backbone: Backbone, cropping: Cropping, batch_size: int | None = None, skip: bool = False
) -> Iterator[Batch]:
    """Yield `pass_batches` with a progress bar.

    With ``skip``, files that cannot be read and images that are too small are left out and listed in one warning; if
    none remain, the error of the first is raised.
    """
    skipped: list[Exception] | None = [] if skip else None
    with track(total=len(images), desc="features") as progress:
        yield from pass_batches(images, backbone, cropping, skipped, progress.update, batch_size)
    tell_skipped(skipped or [], len(images))


def pass_batches(
    images: Sequence[Photo],
    backbone: Backbone,
    cropping: Cropping,
    skipped: list[Exception] | None,
    count: Callable[[int], object],
    batch_size: int | None = None,
) -> Iterator[Batch]:
    """Yield batches: images, the positions of their evaluated crops, the pixels of the crops, and their pyramid.

    ``count`` is told how many images were read. The errors of those that cannot be used are added to ``skipped``;
    without such a list, the first is raised.
    """

    def work(some: Sequence[Photo]) -> list[tuple[list[Exception], Batch | None]]:
        found = [(image, try_to_read(image, cropping)) for image in some]
        problems = [read for _, read in found if isinstance(read, Exception)]
        if problems and skipped is None:
            raise problems[0]
        kept = [(image, *read) for image, read in found if not isinstance(read, Exception)]
        if not kept:
            return [(problems, None)]
        photos, places, crops = map(list, zip(*kept))
        return [(problems, (photos, places, crops, compute_features(crops, backbone)))]

    for problems, batch in in_batches(work, images, backbone, cropping, batch_size):
        count(len(problems) + (len(batch[0]) if batch else 0))
        if skipped is not None:
            skipped += problems
        if batch:
            yield batch


def tell_skipped(skipped: Sequence[Exception], total: int) -> None:
    """Warn about images that were left out; if none remain, raise the error of the first."""
    if skipped and len(skipped) == total:
        raise skipped[0]
    if skipped:
        named = "; ".join(map(str, skipped[:_NAMED]))
        warn(f"Skipped {len(skipped)} of {total} images. {named}{'; ...' if len(skipped) > _NAMED else ''}")


def in_batches(
    work: Callable[[Sequence[_T]], Iterable[_R]],
    items: Sequence[_T],
    backbone: Backbone,
    cropping: Cropping,
    batch_size: int | None = None,
) -> Iterator[_R]:
    """What ``work`` yields for some images at a time, in order, by as many threads as network and memory allow.

    On a CPU, two passes side by side by one core each, while one of them reads an image or searches, are faster than
    one pass after the other by two cores.
    """
    size = batch_size or choose_batch(cropping, backbone)
    batches = [[items[at] for at in places] for places in share(len(items), size)]
    threads = min(len(batches), _choose_threads(size, cropping, backbone))
    return side_by_side(work, batches, max(threads, 1))


def try_to_read(image: Photo, cropping: Cropping) -> Read | Exception:
    """What `read_crop` returns, or why the image cannot be used."""
    try:
        with nullcontext() if isinstance(image, (Sample, str, Path)) else _reading:
            return read_crop(image, cropping)
    except (UnreadablePhotoError, OSError) as problem:
        return problem
    except (SmallPhotoError, RoiError) as problem:
        return type(problem)(f"{name}: {problem}") if (name := name_of(image)) else problem


def read_crop(image: Photo, cropping: Cropping) -> Read:
    """The position of the evaluated crop of an image, and its pixels."""
    photo = as_array(image)
    place = cropping.look(photo)
    return place, place.cut(photo)


def _choose_threads(batch_size: int, cropping: Cropping, backbone: Backbone) -> int:
    if not backbone.runs_in_threads:
        return 1
    if backbone.device.type != "cpu":
        return 2  # one reads while the other computes
    room = free_memory(backbone.device) // (2 * _PASS * batch_size * _area(cropping))
    return min(torch.get_num_threads(), room)


def choose_batch(cropping: Cropping, backbone: Backbone) -> int:
    """Images per forward pass, whose memory is in proportion to their pixels."""
    most = 4 if backbone.device.type == "cpu" else 16
    return max(int(most * min(_SIDE**2 / _area(cropping), 1)), 1)


def _area(cropping: Cropping) -> int:
    """Pixels of a crop."""
    side = cropping.crop or cropping.resize
    return prod(cropping.size or (side, side))


def compute_features(crops: Sequence[UInt8[np.ndarray, "H W 3"]], backbone: Backbone) -> Pyramid:
    """One forward pass over evaluated crops of one size."""
    _check_room(crops, backbone.device)
    levels, pooled = backbone(np.stack(crops))
    check_size([*levels, pooled], [*backbone.layers, "pooled"], np.ones(len(levels) + 1))
    return Pyramid([level.contiguous() for level in levels], backbone.layers, pooled)


def compute_each(crops: Sequence[UInt8[np.ndarray, "H W 3"]], backbone: Backbone) -> list[Pyramid | Exception]:
    """The pyramid of each crop, computed together; alone, if that fails, and where that fails, too, its error."""
    if not crops:
        return []
    try:
        whole = compute_features(crops, backbone)
        return [whole.select(at) for at in range(len(crops))]
    except (ValueError, MemoryError) as problem:
        return [problem] if len(crops) == 1 else [one for crop in crops for one in compute_each([crop], backbone)]


def _check_room(crops: Sequence[UInt8[np.ndarray, "H W 3"]], device: torch.device) -> None:
    """Check that a pass over large crops fits into memory: the system would end the process."""
    height, width, _ = crops[0].shape
    needed = _PASS * len(crops) * height * width
    if needed > _WORTH_ASKING and needed > (free := free_memory(device)):
        raise MemoryError(
            f"The network needs about {needed / 2**30:.1f} GB of memory for a crop of {height} x {width} px, and "
            f"{free / 2**30:.1f} GB are available. Use a smaller crop: load_backbone(resize=..., crop=...)."
        )


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def check_size(levels: Sequence[Tensor], names: Sequence[str], weights: Float[np.ndarray, "L"]) -> None:
    """Check that the largest possible squared distance, 4 w c max^2 summed over levels, fits into float32.

    A search of other features could return places that do not exist.
    """
    for level, name, weight in zip(levels, names, weights.tolist()):
        least, most = level.aminmax()
        largest = float(torch.maximum(most, -least))  # NaN if any value is
        if not 4 * max(weight, 1) * level.shape[1] * largest**2 * len(weights) < LARGEST:
            raise ValueError(
                f"Features must be finite, and their weighted squares must fit into float32; got up to {largest:g} at "
                f"{name}, with weight {weight:g}. Check the images and the backbone, or scale the features."
            )
