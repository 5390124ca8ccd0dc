"""The evaluated crop: which part of an image is judged, and how a map is placed back onto the image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from scipy.ndimage import map_coordinates

from spade_kit.datasets.roi import Roi, RoiError
from spade_kit.datasets.samples import SQUASHED

GRID = 32  # sides that are multiples of this make the grids of strides 4, 8, 16 and 32 nest
RESHAPED = 1.15  # like `SQUASHED`, where the whole image is judged, which is to keep its shape
SMALLEST = 32  # px: a smaller image has no detail that strides 4 to 16 could describe
_LARGEST = 65_500  # px: side of a crop, the limit of JPEG
_ROWS = 256  # of an image that are interpolated at once


class SmallPhotoError(ValueError):
    """The image is too small to have detail to describe."""


@dataclass(frozen=True)
class Crop:
    """The position of the evaluated crop: the image is scaled, then a window is cut out of the scaled image.

    All sizes are (rows, columns). The backbone sees the crop, and every map, mask and probe refers to it.
    """

    photo: tuple[int, int]  # the original image, in pixels
    scaled: tuple[int, int]  # the image after resizing
    offset: tuple[int, int]  # the window's first row and column in the scaled image
    size: tuple[int, int]  # the window
    roi: Bool[np.ndarray, "h w"] | None = field(default=None, compare=False, repr=False)  # of the window; None: all

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) in pixels of the original image; ``photo[top:bottom, left:right]`` was judged.

        A pixel belongs to the crop if its centre does.
        """
        (top, bottom), (left, right) = self._limits(0), self._limits(1)
        return top, left, bottom, right

    @property
    def judged(self) -> float:
        """The fraction of the original image's pixels that were judged."""
        top, left, bottom, right = self.box
        whole = (bottom - top) * (right - left) / (self.photo[0] * self.photo[1])
        return whole if self.roi is None else whole * float(self.roi.mean())

    @property
    def looked_at(self) -> Bool[np.ndarray, "h w"]:
        """The roi, also where it is all of the crop."""
        return np.ones(self.size, bool) if self.roi is None else self.roi

    @property
    def squash(self) -> float:
        """How much the aspect ratio was changed: 1.5 if an image of 300 x 200 pixels became square, 1 if unchanged."""
        return max(self.change, 1 / self.change)

    @property
    def change(self) -> float:
        """Rows to columns of the image, divided by those after resizing: `squash`, or 1 / `squash` of a wide image."""
        return self.photo[0] * self.scaled[1] / (self.photo[1] * self.scaled[0])

    def describe(self) -> str:
        """How much of the image was judged, for captions."""
        limit = RESHAPED if self.size == self.scaled else SQUASHED
        squashed = f", squashed by {_ratio(self.squash)}" if self.squash > limit else ""
        return f"{100 * self.judged:.0f} % of the image judged{squashed}"

    def _limits(self, axis: int) -> tuple[int, int]:
        photo, scaled, offset = self.photo[axis], self.scaled[axis], self.offset[axis]
        # ceil(edge * photo / scaled - 1/2), in integers: a centre may lie exactly on the edge
        first, last = (-((scaled - 2 * edge * photo) // (2 * scaled)) for edge in (offset, offset + self.size[axis]))
        return max(first, 0), min(last, photo)

    def cut(self, photo: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """The evaluated crop of an image (antialiased bilinear)."""
        return self._cut(Image.fromarray(photo), Image.Resampling.BILINEAR)

    def cut_mask(self, mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "h w"]:
        """The same window of a mask. Nearest only: interpolation would shift the border and with it every metric."""
        return self._cut(Image.fromarray(mask.astype(np.uint8)), Image.Resampling.NEAREST).astype(bool)

    def _cut(self, image: Image.Image, resample: Image.Resampling) -> np.ndarray:
        height, width = self.scaled
        (top, left), (rows, columns) = self.offset, self.size
        scaled = np.asarray(image.resize((width, height), resample))
        return np.ascontiguousarray(scaled[top : top + rows, left : left + columns])

    def put_back(self, values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "H W"]:
        """A map of the crop at the size of the original image, bilinear; NaN where it was not judged."""
        top, left, bottom, right = self.box
        rows = self._places(np.arange(top, bottom), 0)
        columns = self._places(np.arange(left, right), 1)
        on_photo = np.full(self.photo, np.nan, np.float32)
        for start in range(0, len(rows), _ROWS):  # the positions of all pixels would take many times the map
            places = np.meshgrid(rows[start : start + _ROWS], columns, indexing="ij")
            part = on_photo[top + start : top + start + len(places[0]), left:right]
            part[:] = map_coordinates(values, places, order=1, mode="nearest")
            if self.roi is not None:
                part[~map_coordinates(self.roi, places, order=0, mode="nearest")] = np.nan
        return on_photo

    def within(self, mask: Bool[np.ndarray, "H W"]) -> Crop:
        """The crop with the roi that a mask of the original image marks."""
        roi = self.cut_mask(mask)
        if not roi.any():
            top, left, bottom, right = self.box
            raise RoiError(
                f"roi must mark some of the evaluated crop, rows {top} to {bottom - 1} and columns {left} to "
                f"{right - 1} of the image; got {np.count_nonzero(mask)} pixels, none of them there. Mark more, or use "
                "load_backbone(..., crop=None)."
            )
        roi.setflags(write=False)  # images may share it
        return replace(self, roi=None if roi.all() else roi)

    def on_photo(self, places: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Positions (row, col) of the crop on the original image; whole numbers are pixel centres on both."""
        return (places + 0.5 + np.array(self.offset)) * np.array(self.photo) / np.array(self.scaled) - 0.5

    def _places(self, pixels: np.ndarray, axis: int) -> np.ndarray:
        """The centres of the original image's pixels, in pixel coordinates of the crop."""
        return (pixels + 0.5) * self.scaled[axis] / self.photo[axis] - 0.5 - self.offset[axis]


@dataclass(frozen=True)
class Cropping:
    """How images are cropped; ``resize`` and ``crop`` are those of `load_backbone`.

    Where whole images are judged, ``size`` is the (rows, columns) that all images of a fit are resized to; None if each
    keeps its own shape. Their sides are multiples of ``multiple``, the patch of a vision transformer.
    """

    resize: int
    crop: int | None
    size: tuple[int, int] | None = None
    multiple: int = GRID
    roi: Roi | None = None

    def fit(self, photos: Iterable[tuple[int, int]]) -> Cropping:
        """One size for whole images of these (rows, columns): the median aspect ratio, sides in multiples of a number.

        The short side is the multiple nearest ``resize``, the long one that which brings the aspect ratio nearest the
        median. Images that are too small to be fitted do not count.
        """
        multiple = self.multiple
        aspects = [rows / columns for rows, columns in photos if min(rows, columns) >= SMALLEST]
        if self.crop is not None or not aspects:
            return self
        aspect = float(np.exp(np.median(np.log(aspects))))
        cells = max(round(self.resize / multiple), 1)
        longer = round(cells * max(aspect, 1 / aspect), 6)  # a tie is rounded alike for tall and for wide images
        short, long = cells * multiple, round(longer) * multiple
        return replace(self, size=_check_sides(long, short) if aspect > 1 else _check_sides(short, long))

    def find(self, photo: tuple[int, int]) -> Crop:
        """The evaluated crop of an image of (rows, columns).

        Notes
        -----
        With ``crop`` given the image is resized to a ``resize`` px square, whatever its aspect ratio, as benchmark code
        does: most of a long image would be lost otherwise. With ``crop=None`` the whole image keeps its aspect ratio,
        its short side near ``resize``, both sides rounded to multiples of 32 so that the grids nest, or of a vision
        transformer's patch; the images of a fit share one such size.
        """
        if min(photo) < SMALLEST:
            raise SmallPhotoError(
                f"An image must have at least {SMALLEST} pixels on each side; got {photo[0]} x {photo[1]} "
                "(rows x columns). Use a larger image."
            )
        if self.crop is not None:
            margin = (self.resize - self.crop) // 2
            return Crop(photo, (self.resize, self.resize), (margin, margin), (self.crop, self.crop))
        scale = self.resize / min(photo)
        cells = (max(1, round(side * scale / self.multiple)) for side in photo)
        height, width = self.size or _check_sides(*(count * self.multiple for count in cells))
        return Crop(photo, (height, width), (0, 0), (height, width))

    def look(self, photo: UInt8[np.ndarray, "H W 3"]) -> Crop:
        """The evaluated crop of an image, with its roi."""
        height, width, _ = photo.shape
        place, roi = self.find((height, width)), self.roi
        if roi is None:
            return place
        return place.within(roi.find(photo)) if roi.size is None else _look_at(roi, place)

    def describe_coverage(self, names: Sequence[str], judged: Sequence[float], squash: Sequence[float]) -> str:
        """How much of each image was judged, and which were squashed: `Crop.judged`, `Crop.squash` of each, by name."""
        if not len(names):
            return ""
        least, most = (f"{100 * end:.0f}" for end in (min(judged), max(judged)))
        told = f"{least if least == most else f'{least} to {most}'} % of each image was judged"
        told += "." if least == "100" or self.roi else "; load_backbone(..., crop=None) judges all of it."
        return " ".join(filter(None, [told, self.describe_squash(names, squash)]))

    def describe_squash(self, names: Sequence[str], squash: Sequence[float]) -> str:
        """A remark on images that were squashed by more than the limit, naming the worst; empty if none were."""
        whole = self.crop is None
        squashed = [at for at, change in enumerate(squash) if change > (RESHAPED if whole else SQUASHED)]
        if not squashed:
            return ""
        worst = max(squashed, key=squash.__getitem__)
        name, change = names[worst], _ratio(squash[worst])
        size = " to the {} x {} px of the fit".format(*self.size) if self.size else ""
        told = f"{len(squashed)} of {len(names)} images were squashed{size}, such as {name} by {change}"
        told = f"{name} was squashed by {change}{size}" if len(names) == 1 else told
        cells = max(self.size or (1, 1)) / self.multiple  # of the long side, rounded: this alone changes the shape
        rounded = self.size is not None and squash[worst] <= cells / (cells - 0.5)
        cure = f"Fit images of another shape separately{', or use a larger resize' if rounded else ''}."
        return f"{told}. {cure if whole else 'Use load_backbone(..., crop=None) to keep the aspect ratio.'}"


@lru_cache(64)
def _look_at(roi: Roi, place: Crop) -> Crop:
    if roi.size != place.photo:
        told = "{} x {} px".format
        raise RoiError(
            f"roi must have the size of its image, {told(*place.photo)}; got a {roi.kind} for {told(*roi.size or ())}. "
            "Use a function of the image for images of several sizes."
        )
    return place.within(roi.mask)


def _check_sides(height: int, width: int) -> tuple[int, int]:
    if max(height, width) > _LARGEST:
        raise ValueError(
            f"The sides of a whole image must be at most {_LARGEST:,} px after resizing; got {height} x {width}. Use a "
            "smaller resize, or cut long images into parts."
        )
    return height, width


def _ratio(squash: float) -> str:
    return f"{squash:.3g} : 1" if squash < SQUASHED else f"{squash:.2g} : 1"
