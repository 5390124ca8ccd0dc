"""Simulated defects: strokes on an image, from a scratch to a part in the wrong place. To undo, paint fewer strokes.

Positions are (row, col) in image pixels; integers are pixel centres: (2, 5) is the centre of ``photo[2, 5]``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageFilter

from spade_kit._arguments import check_number, choose

# Grey levels of 255. Blurring the demo's plain plate changes pixels by up to 9, because it removes noise; that is not
# visible. Larger changes are visible next to the original.
VISIBLE = 10
FARTHEST = 100_000  # px: limit of coordinates; strokes may extend beyond the image
PIECE = 64  # px: lines are split into pieces of about this length, because a long line's bounding box is mostly empty
LUMA = np.array((0.299, 0.587, 0.114), np.float32)  # weights of red, green and blue in lightness (ITU-R BT.601)
FEATHER = 0.3  # fraction of a stroke's radius over which a soft edge fades
WAVES = 6  # number of cosines that `_wave` adds up


@dataclass(frozen=True)
class Stroke:
    """One stroke with one tool.

    Parameters
    ----------
    tool
        One of ``TOOLS``.
    points
        The line, as points (row, col) in image pixels, possibly outside the image; a single point is a dab. For
        "move", the start and the end.
    size
        Diameter in image pixels.
    strength
        Opacity, above 0 and up to 1; for "blur", the amount of blur.
    colour
        (red, green, blue), 0 to 255, for "brush", "stain" and "colour".
    """

    tool: str
    points: tuple[tuple[float, float], ...]
    size: float
    strength: float = 1.0
    colour: tuple[int, int, int] = (200, 40, 40)

    def __post_init__(self) -> None:
        choose("tool", self.tool, TOOLS)
        needed = f"a diameter in image pixels, above 0, up to {FARTHEST}"
        check_number("size", self.size, needed, least=1e-6, most=FARTHEST)
        check_number("strength", self.strength, "a number above 0, up to 1", least=1e-6, most=1)
        if self.tool == "move" and len(self.points) != 2:
            raise ValueError(f"move needs two points, start and end; got {len(self.points)}.")
        if not len(self.points):
            raise ValueError(f"{self.tool} needs at least one point; got none.")
        needed = f"a number of image pixels from {-FARTHEST} to {FARTHEST}"
        for point in self.points:
            if np.shape(point) != (2,):
                raise ValueError(f"A point must be a pair (row, col); got {point!r}.")
            for name, value in zip(("row", "col"), point):
                check_number(name, value, needed, least=-FARTHEST, most=FARTHEST)
        if np.shape(self.colour) != (3,) or not all(value in range(256) for value in self.colour):
            raise ValueError(f"colour must be red, green and blue, whole numbers from 0 to 255; got {self.colour!r}.")

    @property
    def reach(self) -> float:
        """Maximum distance from the line to the centre of a changed pixel: the radius plus half a pixel."""
        return self.size / 2 + 0.5


def paint(photo: UInt8[np.ndarray, "H W 3"], strokes: Iterable[Stroke]) -> UInt8[np.ndarray, "H W 3"]:
    """Return a copy of the image with all strokes painted in order; deterministic to the byte.

    Examples
    --------
    >>> wall = np.full((40, 60, 3), 128, np.uint8)
    >>> painted = paint(wall, [Stroke("brush", ((20, 10), (20, 50)), size=5)])
    >>> painted[20, 30].tolist(), painted[30, 20].tolist()
    ([200, 40, 40], [128, 128, 128])
    """
    painted = photo.copy()
    for stroke in strokes:
        line = stroke.points[1:] if stroke.tool == "move" else stroke.points
        rows, cols, distance = _measure(np.array(line, float), stroke, photo.shape[:2])
        if rows.size:
            ground = painted[rows, cols].astype(np.float32)
            colour, cover = _PAINTS[stroke.tool](_Spot(stroke, rows, cols, distance, ground, painted, photo))
            painted[rows, cols] = np.rint(ground + cover[:, None] * (colour - ground))
    return painted


def changed(photo: UInt8[np.ndarray, "H W 3"], painted: UInt8[np.ndarray, "H W 3"]) -> Bool[np.ndarray, "H W"]:
    """Where any channel differs by more than ``VISIBLE`` grey levels: the mask of the painted defect."""
    red, green, blue = np.moveaxis(np.maximum(photo, painted) - np.minimum(photo, painted) > VISIBLE, -1, 0)
    return red | green | blue


@dataclass(frozen=True)
class _Spot:
    """The pixels that a stroke may change, as a list: a long thin stroke has few, however large its bounding box."""

    stroke: Stroke
    rows: Int[np.ndarray, "n"]
    cols: Int[np.ndarray, "n"]
    distance: Float[np.ndarray, "n"]  # px from the stroke's line
    ground: Float[np.ndarray, "n 3"]  # colours of these pixels after the earlier strokes
    painted: UInt8[np.ndarray, "H W 3"]  # the whole image after the earlier strokes
    photo: UInt8[np.ndarray, "H W 3"]  # the image before any stroke

    @property
    def half(self) -> float:
        return self.stroke.size / 2

    @property
    def ink(self) -> Float[np.ndarray, "3"]:
        return np.array(self.stroke.colour, np.float32)

    def cover(self, radius: float | Float[np.ndarray, "n"], feather: float = 0) -> Float[np.ndarray, "n"]:
        """Fraction of each pixel within ``radius`` of the line, 0 to 1.

        It fades over ``feather`` times the stroke's radius, at least 1 px. Over 1 px it is the coverage by a straight
        edge; for a line thinner than 1 px it is at most the line's width.
        """
        inside = (radius + 0.5 - self.distance) / max(feather * self.half, 1)
        return np.clip(inside, 0, min(1, self.stroke.size))


def _measure(
    line: Float[np.ndarray, "p 2"], stroke: Stroke, limits: tuple[int, ...]
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Rows, columns and distances of the pixels within a stroke's reach, computed in a box around each line piece."""
    ends = _split(line, max(PIECE, stroke.size))
    starts = np.vstack([ends[:1], ends[:-1]])  # the first piece has length 0, so that a dab needs no special case
    low = np.clip(np.ceil(np.minimum(starts, ends) - stroke.reach), 0, limits).astype(int)
    high = np.clip(np.floor(np.maximum(starts, ends) + stroke.reach) + 1, 0, limits).astype(int)
    corner = low.min(0)
    down, across = map(np.arange, high.max(0) - corner)
    squared = np.full((len(down), len(across)), np.inf, np.float32)
    pieces = (starts - corner, ends - starts, low - corner, high - corner)
    for start, step, (top, left), (bottom, right) in zip(*(part.tolist() for part in pieces)):
        box = squared[top:bottom, left:right]
        np.minimum(box, _squared_distance(start, step, down[top:bottom, None], across[left:right]), out=box)
    rows, cols = np.nonzero(squared < stroke.reach**2)
    return rows + corner[0], cols + corner[1], np.sqrt(squared[rows, cols])


def _split(line: Float[np.ndarray, "p 2"], longest: float) -> Float[np.ndarray, "q 2"]:
    """Add points to a line so that neighbouring points are at most ``longest`` apart."""
    along = np.append(0, np.cumsum(np.hypot(*np.diff(line, axis=0).T)))
    stops = np.union1d(along, np.arange(0, along[-1], longest))
    return np.column_stack([np.interp(stops, along, axis) for axis in line.T])


def _squared_distance(
    start: list[float], step: list[float], rows: Int[np.ndarray, "h 1"], cols: Int[np.ndarray, "w"]
) -> Float[np.ndarray, "h w"]:
    """From pixels to the segment from ``start`` to ``start + step``, in px squared."""
    down, across = rows - start[0], cols - start[1]
    length = max(step[0] ** 2 + step[1] ** 2, 1e-12)
    along = np.minimum(np.maximum(down * (step[0] / length) + across * (step[1] / length), 0), 1)
    return (down - along * step[0]) ** 2 + (across - along * step[1]) ** 2


# ---- tools: each returns the colour of a stroke's pixels, (n, 3) or (3,), and its opacity, (n,) ----------------------

_Paint = tuple[np.ndarray, np.ndarray]


def _brush(spot: _Spot) -> _Paint:
    """Opaque paint."""
    return spot.ink, spot.stroke.strength * spot.cover(spot.half)


def _scratch(spot: _Spot) -> _Paint:
    """A groove with a bright floor and dark rims, so that one of them is visible on any background."""
    floor = spot.cover(spot.half / 2)[:, None]
    bright, dark = spot.ground + 0.9 * (255 - spot.ground), 0.35 * spot.ground
    pressure = 0.8 + 0.2 * _wave(spot, 10 * spot.stroke.size)
    return dark + floor * (bright - dark), spot.stroke.strength * pressure * spot.cover(spot.half)


def _stain(spot: _Spot) -> _Paint:
    """A dried drop: translucent, more so in the middle than at the ragged outline."""
    edge = spot.half * (0.78 + 0.22 * _wave(spot, spot.stroke.size))
    density = 0.7 + 0.3 * np.clip(spot.distance / edge, 0, 1) ** 2
    return spot.ground * (spot.ink / 255), spot.stroke.strength * density * spot.cover(edge, FEATHER)


def _wave(spot: _Spot, length: float) -> Float[np.ndarray, "n"]:
    """Smooth noise between -1 and 1, with peaks about ``length`` px apart.

    The random generator is seeded with the stroke's first point: the noise stays fixed while the stroke grows, and the
    next stroke gets different noise.
    """
    lot = np.random.default_rng([round(value) % 2**32 for value in spot.stroke.points[0]])
    down, across = lot.normal(0, 6 / length, (2, WAVES, 1)).astype(np.float32)
    phases = lot.uniform(0, 2 * np.pi, (WAVES, 1)).astype(np.float32)
    heights = np.cos(phases + down * spot.rows.astype(np.float32) + across * spot.cols.astype(np.float32))
    return np.clip(2 * heights.mean(0), -1, 1)


def _blur(spot: _Spot) -> _Paint:
    """Gaussian blur, with a sigma of up to a sixth of the size."""
    sigma = spot.stroke.strength * spot.stroke.size / 6
    margin = 3 * ceil(sigma)  # Pillow applies three box blurs, each reaching at most sigma to each side
    top, left = (max(places.min() - margin, 0) for places in (spot.rows, spot.cols))
    part = spot.painted[top : spot.rows.max() + margin + 1, left : spot.cols.max() + margin + 1]
    blurred = np.asarray(Image.fromarray(part).filter(ImageFilter.GaussianBlur(sigma)))
    return blurred[spot.rows - top, spot.cols - left], spot.cover(spot.half, FEATHER)


def _colour(spot: _Spot) -> _Paint:
    """Change the hue and keep the lightness, shading and grain. Colours brighter than white become paler instead."""
    lightness, own = spot.ground @ LUMA, float(spot.ink @ LUMA)
    tint = (spot.ink - own) / max(own, 1)
    room = (255 - lightness) / np.maximum(lightness * tint.max(), 1e-6)
    colour = lightness[:, None] * (1 + np.minimum(room, 1)[:, None] * tint)
    return colour, spot.stroke.strength * spot.cover(spot.half, FEATHER)


def _move(spot: _Spot) -> _Paint:
    """Copy the disc around the first point, by whole pixels, because interpolation would soften it."""
    start, end = np.array(spot.stroke.points)
    source = np.column_stack([spot.rows, spot.cols]) - np.rint(end - start).astype(int)
    nearest = np.clip(source, 0, np.array(spot.photo.shape[:2]) - 1)
    on_photo = (source == nearest).all(1)
    return spot.painted[tuple(nearest.T)], spot.stroke.strength * on_photo * spot.cover(spot.half, FEATHER)


def _erase(spot: _Spot) -> _Paint:
    """Restore the image before any stroke."""
    return spot.photo[spot.rows, spot.cols], spot.stroke.strength * spot.cover(spot.half)


TOOLS = ("brush", "scratch", "stain", "blur", "colour", "move", "erase")
_PAINTS = dict(zip(TOOLS, (_brush, _scratch, _stain, _blur, _colour, _move, _erase)))
