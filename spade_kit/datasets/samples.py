"""Photographs with what is known of them: samples, datasets, and every form in which a photo may come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from spade_kit.datasets.images import as_rgb, read_image, read_mask, read_size

GOOD = "good"


@dataclass(frozen=True)
class Sample:
    """One photograph with what is known of it; pixels are read on access, never kept.

    ``label`` is "good", the type of defect, or None where nobody said. ``mask_path`` points at the ground truth of a
    defect, a picture or a folder of several; ``masked`` says that the dataset has such masks at all, so that a good
    photo's mask is empty, not unknown.
    """

    path: Path
    label: str | None = None
    mask_path: Path | None = None
    masked: bool = False

    @property
    def image(self) -> UInt8[np.ndarray, "H W 3"]:
        return read_image(self.path)

    @property
    def mask(self) -> Bool[np.ndarray, "H W"] | None:
        """True where the defect is; all False for a good photo of a dataset with masks; None where unknown."""
        if self.mask_path is not None:
            return read_mask(self.mask_path)
        if self.masked and self.label == GOOD:
            return np.zeros(read_size(self.path), bool)
        return None


@dataclass(frozen=True)
class Dataset:
    """Normal photographs to compare with (``train``) and photographs to judge (``test``).

    ``layout`` is how its folder was understood; ``remarks`` are sentences on what was skipped or may surprise.
    """

    name: str
    train: list[Sample] = field(repr=False)
    test: list[Sample] = field(repr=False)
    layout: str = ""
    remarks: tuple[str, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        kinds = Counter(sample.label or "unknown" for sample in self.test)
        tested = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: item[0] != GOOD))
        told = f"{self.name}: {len(self.train)} normal photos, {len(self.test)} to test"
        masks = sum(sample.mask_path is not None for sample in self.test)
        details = [self.layout, f"{masks or 'no'} masks", _describe_sizes(self.train + self.test)]
        return "\n".join([f"{told} ({tested})" if tested else told, "; ".join(filter(None, details)), *self.remarks])


def _describe_sizes(samples: list[Sample]) -> str:
    """Rows x columns, from the heads of the files."""
    sizes: Counter[tuple[int, int]] = Counter()
    for sample in samples:
        with suppress(OSError, ValueError):
            sizes[read_size(sample.path)] += 1
    lost = len(samples) - sizes.total()
    if not sizes:
        return f"{lost} unreadable"
    (h, w), (H, W) = min(sizes, key=np.prod), max(sizes, key=np.prod)
    told = f"{h} x {w} px" if len(sizes) == 1 else f"{len(sizes)} sizes from {h} x {w} to {H} x {W} px"
    return f"{told}, {lost} unreadable" if lost else told


Photo: TypeAlias = "Sample | Path | str | Image.Image | np.ndarray"


def as_array(photo: Photo) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of a Sample, a path, a PIL image, or an (H, W, 3) array, uint8 or float from 0 to 1."""
    if isinstance(photo, Sample):
        return photo.image
    if isinstance(photo, (str, Path)):
        return read_image(photo)
    if isinstance(photo, Image.Image):
        return as_rgb(photo)
    came, cure = f"a {type(photo).__name__}", "Take one photo at a time."
    if isinstance(photo, np.ndarray):
        came, cure = f"an array {photo.shape} of {photo.dtype}", _conversion_hint(photo)
        if photo.ndim == 3 and photo.shape[2] == 3:
            if photo.dtype == np.uint8:
                return photo
            if photo.dtype.kind == "f" and photo.size:
                if photo.min() >= 0 and photo.max() <= 1:  # false where there is NaN
                    return (photo * 255).round().astype(np.uint8)
                came += f", from {photo.min():.4g} to {photo.max():.4g},"
    raise ValueError(
        "A photo is a Sample, a path, a PIL image or an (H, W, 3) array, uint8 or float from 0 to 1, "
        f"but {came} came. {cure}"
    )


def _conversion_hint(values: np.ndarray) -> str:
    if values.ndim == 2:
        return "Of a grey photo take np.dstack([photo] * 3)."
    if values.ndim == 3 and values.shape[2] == 4:
        return "Leave transparency out: photo[..., :3]."
    if values.ndim == 3 and values.shape[0] == 3 and values.shape[2] != 3:
        return "Put the channels last: photo.transpose(1, 2, 0)."
    if values.ndim == 4:
        return "Take one photo at a time."
    return "Scale its values to 0..255, all photos alike, and take photo.astype(np.uint8)."


def as_list(photos: Iterable[Photo] | Photo) -> list[Photo]:
    """One photo or many, as a list."""
    if isinstance(photos, np.ndarray) and photos.ndim in (2, 3):  # 2 is wrong, and `as_array` says so
        return [photos]
    if isinstance(photos, (Sample, str, Path, Image.Image)):
        return [photos]
    if isinstance(photos, Dataset) or not isinstance(photos, Iterable):
        raise ValueError(
            f"Photos come as a list, but a {type(photos).__name__} came. Of a Dataset take its .train or .test."
        )
    return list(photos)
