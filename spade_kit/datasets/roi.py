"""Where to look: the region of interest of an image. Outside it nothing is scored; neighbours may lie anywhere."""

from __future__ import annotations

import hashlib
import os
from base64 import b85decode, b85encode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from math import prod
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeAlias
from zlib import compress, decompressobj

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw

from spade_kit._arguments import warn
from spade_kit._files import as_text
from spade_kit.datasets.images import count_colours, interpret_opened, read_mask

Corners: TypeAlias = "tuple[tuple[float, float], ...]"
Look: TypeAlias = "Callable[[np.ndarray], np.ndarray]"
Where: TypeAlias = "Roi | Path | str | Image.Image | np.ndarray | Sequence[tuple[float, float]] | Look"
_FARTHEST = 10**6  # px: of a corner


class RoiError(ValueError):
    """The roi does not suit this image."""


@dataclass(frozen=True)
class Roi:
    """The region of interest of all images of one size, as a mask or a polygon, or a function that finds that of each.

    Attributes
    ----------
    size
        (rows, columns) of the images, in pixels; None for a function.
    packed
        A mask, as text.
    corners
        (row, col) of the corners of a polygon, in pixels, its edge included; whole numbers are pixel centres.
    function
        Of an (H, W, 3) uint8 image; returns its mask, (H, W) bool or uint8. None if it is not known: it is not saved.
    """

    size: tuple[int, int] | None = None
    packed: str = field(default="", repr=False)
    corners: Corners = ()
    function: Look | None = None

    @classmethod
    def of(cls, given: Where, size: tuple[int, int] | None) -> Roi:
        """What a user gave; a polygon holds for images of ``size``, a mask for those of its own."""
        if isinstance(given, Roi):
            return given
        if callable(given):
            return cls(function=given)
        if isinstance(given, (str, os.PathLike)):
            mask = read_mask(Path(given))
            if count_colours(Path(given), 0.1, 1) == 0:
                told = f"{as_text(given)} has many colours, like an image, and {100 * mask.mean():.0f} % of it is"
                warn(f"roi should be a mask; {told} taken as inside. Check that it is the right file.")
        elif isinstance(given, Image.Image):
            mask = interpret_opened(given)
        elif _is_mask(given):
            mask = np.asarray(given) > 0
        else:
            return cls(size or (1, 1), corners=check_corners(given))
        return cls((mask.shape[0], mask.shape[1]), pack_mask(mask))

    @property
    def kind(self) -> str:
        return "function" if self.size is None else "polygon" if self.corners else "mask"

    @property
    def code(self) -> str:
        """A hash of a function's code, what it refers to, and what it marks in a few images; else empty.

        It differs between versions of Python. The marks tell what the code does not, such as the weights of a network.
        """
        if self.function is None:
            return ""
        known = _read_code(self.function), *(_try(self.function, probe) for probe in _make_probes())
        return hashlib.sha256(repr(known).encode()).hexdigest()

    @cached_property
    def mask(self) -> Bool[np.ndarray, "H W"]:
        """Of a mask or polygon."""
        assert self.size is not None
        if not self.corners:
            return unpack_mask(self.packed, self.size)
        canvas = Image.new("1", self.size[::-1])
        ImageDraw.Draw(canvas).polygon([(round(col), round(row)) for row, col in self.corners], fill=1)
        return np.array(canvas)

    def find(self, photo: UInt8[np.ndarray, "H W 3"]) -> Bool[np.ndarray, "H W"]:
        """The mask that the function returns for an image."""
        if self.function is None:
            raise ValueError(
                "This SPADE was fitted with a function as roi, and functions are not saved. Pass it again: "
                "SPADE.load(folder, roi=function)."
            )
        mask = np.asarray(self.function(photo))
        if not _is_mask(mask) or mask.shape != photo.shape[:2]:
            raise ValueError(
                f"The function given as roi must return a bool or uint8 array of its image's size, {photo.shape[:2]}; "
                f"got shape {mask.shape} and type {mask.dtype}. Compare the image with a number, for example."
            )
        return mask > 0


def _make_probes() -> list[UInt8[np.ndarray, "H W 3"]]:
    """Blocks of random colours, of several sizes, and all levels of grey."""
    rng = np.random.default_rng(0)
    blocks = (rng.integers(0, 256, (256 // side, 256 // side, 3), np.uint8) for side in (1, 16, 64))
    ramp = np.tile(np.arange(256, dtype=np.uint8)[:, None], (256, 1, 3))
    return [ramp, *(block.repeat(256 // len(block), 0).repeat(256 // len(block), 1) for block in blocks)]


def _try(look: Look, photo: UInt8[np.ndarray, "H W 3"]) -> str:
    """A hash of what a function marks in an image that it was not made for, or the kind of its error."""
    try:
        mask = np.asarray(look(photo))
        return hashlib.sha256(mask.tobytes()).hexdigest() if _is_mask(mask) else str(mask.dtype)
    except Exception as problem:
        return type(problem).__name__


def _read_code(value: Any, entered: tuple[int, ...] = ()) -> Any:
    """What a function consists of, without where it was written; ``entered`` are the objects that hold it."""
    if isinstance(value, (str, bytes, int, float, type(None))):
        return value
    if isinstance(value, np.ndarray):
        return value.shape, str(value.dtype), hashlib.sha256(value.tobytes()).hexdigest()
    if id(value) in entered or isinstance(value, (ModuleType, type)):
        return getattr(value, "__name__", "")
    parts: Iterable[Any] = vars(value).values() if hasattr(value, "__dict__") else ()
    if isinstance(value, (tuple, list, frozenset, set)):
        parts = value if isinstance(value, (tuple, list)) else sorted(value, key=repr)
    elif isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, CodeType):
        parts = value.co_code, *value.co_names, *value.co_varnames, *value.co_consts
    elif isinstance(value, partial):
        parts = value.func, *value.args, *value.keywords.items()
    elif isinstance(value, FunctionType):
        held = (cell.cell_contents for cell in value.__closure__ or ())
        named = map(value.__globals__.get, value.__code__.co_names)
        parts = value.__code__, value.__defaults__, value.__kwdefaults__, *held, *named
    elif callable(value):  # an object
        parts = type(value).__call__, *parts
    return type(value).__qualname__, *(_read_code(part, (*entered, id(value))) for part in parts)


def _is_mask(given: Any) -> bool:
    return isinstance(given, np.ndarray) and given.ndim == 2 and given.dtype in (bool, np.uint8)


def check_corners(given: Any) -> Corners:
    """The corners of a polygon; at least three."""
    try:
        corners = np.asarray(given, float)
    except (TypeError, ValueError):  # such as rows of different lengths
        corners = np.empty(0)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3 or not (abs(corners) < _FARTHEST).all():
        got = f"an array of shape {np.shape(given)}" if isinstance(given, np.ndarray) else f"{given!r:.80}"
        raise ValueError(
            "roi must be a mask (a path, a PIL image, or a bool or uint8 array), a function of the image, or a polygon "
            f"of at least three corners (row, col), each a finite number of pixels; got {got}. Pass one of these."
        )
    return tuple((row, col) for row, col in corners.tolist())


def pack_mask(mask: Bool[np.ndarray, "H W"]) -> str:
    """A mask as text; see `unpack_mask`."""
    return b85encode(compress(np.packbits(mask).tobytes())).decode()


@lru_cache(256)  # images often share one
def unpack_mask(text: str, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """The mask that `pack_mask` made text of."""
    bits = decompressobj().decompress(b85decode(text), prod(size) // 8 + 1)
    mask = np.unpackbits(np.frombuffer(bits, np.uint8)).astype(bool)[: prod(size)].reshape(size)
    mask.setflags(write=False)
    return mask
