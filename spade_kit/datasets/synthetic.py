"""Simulated defects: strokes on a photograph, from a scratch to a part in the wrong place. Undo is to paint fewer.

A place is (row, col) in photo pixels, whole numbers in the middle of a pixel: (2, 5) is the centre of ``photo[2, 5]``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageFilter

from spade_kit._arguments import check_number, choose

# Grey levels of 255. A blur over plain ground changes its pixels by up to 9, on the demo's plate, since it takes their
# noise away; nobody sees that. What changes by more is seen next to what it was.
VISIBLE = 10
FARTHEST = 100_000  # px: a hand may leave the photo, but not the room
PIECE = 64  # px: lines are measured in pieces about so long, lest the box around a long one be mostly empty
LUMA = np.array((0.299, 0.587, 0.114), np.float32)  # of red, green and blue in lightness (ITU-R BT.601)
FEATHER = 0.3  # of a stroke's radius, over which a soft edge fades
WAVES = 6  # that add up to hills and valleys


@dataclass(frozen=True)
class Stroke:
    """One movement of the hand with one tool.

    Parameters
    ----------
    tool
        One of ``TOOLS``.
    points
        The line, as places (row, col) in photo pixels, also off the photo; a single one is a dab. For "move", from and
        to.
    size
        Diameter in photo pixels.
    strength
        How much of it is seen, from above 0 to 1; for "blur", how far it blurs.
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
        needed = f"a diameter in photo pixels, above 0, up to {FARTHEST}"
        check_number("size", self.size, needed, least=1e-6, most=FARTHEST)
        check_number("strength", self.strength, "a number above 0, up to 1", least=1e-6, most=1)
        if self.tool == "move" and len(self.points) != 2:
            raise ValueError(f"move needs two points, from and to, but {len(self.points)} came.")
        if not len(self.points):
            raise ValueError(f"{self.tool} needs at least one point, but none came.")
        needed = f"a number of photo pixels from {-FARTHEST} to {FARTHEST}"
        for point in self.points:
            if np.shape(point) != (2,):
                raise ValueError(f"A point is a pair (row, col), but {point!r} came.")
            for name, value in zip(("row", "col"), point):
                check_number(name, value, needed, least=-FARTHEST, most=FARTHEST)
        if np.shape(self.colour) != (3,) or not all(value in range(256) for value in self.colour):
            raise ValueError(f"colour is red, green and blue, whole numbers from 0 to 255, but {self.colour!r} came.")

    @property
    def reach(self) -> float:
        """How far from its line a stroke may change a pixel's centre: its edge and half a pixel."""
        return self.size / 2 + 0.5


def paint(photo: UInt8[np.ndarray, "H W 3"], strokes: Iterable[Stroke]) -> UInt8[np.ndarray, "H W 3"]:
    """A copy of the photo with all strokes on it, each on what those before it left; same strokes, same bytes.

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
    """Where some channel differs by more than ``VISIBLE`` grey levels: the mask of what was painted."""
    red, green, blue = np.moveaxis(np.maximum(photo, painted) - np.minimum(photo, painted) > VISIBLE, -1, 0)
    return red | green | blue


@dataclass(frozen=True)
class _Spot:
    """The pixels that a stroke may change, as a list: a long thin stroke has few, whatever the box around it."""

    stroke: Stroke
    rows: Int[np.ndarray, "n"]
    cols: Int[np.ndarray, "n"]
    distance: Float[np.ndarray, "n"]  # px from the stroke's line
    ground: Float[np.ndarray, "n 3"]  # what the strokes before left there
    painted: UInt8[np.ndarray, "H W 3"]  # what they left everywhere
    photo: UInt8[np.ndarray, "H W 3"]  # as it was before any stroke

    @property
    def half(self) -> float:
        return self.stroke.size / 2

    @property
    def ink(self) -> Float[np.ndarray, "3"]:
        return np.array(self.stroke.colour, np.float32)

    def cover(self, radius: float | Float[np.ndarray, "n"], feather: float = 0) -> Float[np.ndarray, "n"]:
        """How much of each pixel lies within ``radius`` of the line, 0 to 1.

        It fades over ``feather`` of the stroke's own radius. Over 1 px, the least, it is what a straight edge covers;
        of a line below 1 px it is the width.
        """
        inside = (radius + 0.5 - self.distance) / max(feather * self.half, 1)
        return np.clip(inside, 0, min(1, self.stroke.size))


def _measure(
    line: Float[np.ndarray, "p 2"], stroke: Stroke, limits: tuple[int, ...]
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Rows, columns and distances of the pixels within a stroke's reach, each piece of its line looked at in a box."""
    ends = _split(line, max(PIECE, stroke.size))
    starts = np.vstack([ends[:1], ends[:-1]])  # the first piece has no length, so that a dab is no special case
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
    """The same line with more places on it, no farther apart than ``longest``."""
    along = np.append(0, np.cumsum(np.hypot(*np.diff(line, axis=0).T)))
    stops = np.union1d(along, np.arange(0, along[-1], longest))
    return np.column_stack([np.interp(stops, along, axis) for axis in line.T])


def _squared_distance(
    start: list[float], step: list[float], rows: Int[np.ndarray, "h 1"], cols: Int[np.ndarray, "w"]
) -> Float[np.ndarray, "h w"]:
    """From pixels to the straight line from ``start`` on by ``step``, in px squared."""
    down, across = rows - start[0], cols - start[1]
    length = max(step[0] ** 2 + step[1] ** 2, 1e-12)
    along = np.minimum(np.maximum(down * (step[0] / length) + across * (step[1] / length), 0), 1)
    return (down - along * step[0]) ** 2 + (across - along * step[1]) ** 2


# ---- the tools: the colour that a stroke's pixels should have, (n, 3) or (3,), and how much of it they take, (n,) ----

_Paint = tuple[np.ndarray, np.ndarray]


def _brush(spot: _Spot) -> _Paint:
    """Paint that hides what is below."""
    return spot.ink, spot.stroke.strength * spot.cover(spot.half)


def _scratch(spot: _Spot) -> _Paint:
    """A groove: its floor catches the light, its rims lie in shadow. One of both is seen on any ground."""
    floor = spot.cover(spot.half / 2)[:, None]
    bright, dark = spot.ground + 0.9 * (255 - spot.ground), 0.35 * spot.ground
    pressure = 0.8 + 0.2 * _wave(spot, 10 * spot.stroke.size)
    return dark + floor * (bright - dark), spot.stroke.strength * pressure * spot.cover(spot.half)


def _stain(spot: _Spot) -> _Paint:
    """A dried drop: what is below shines through, more in the middle than at the ragged outline."""
    edge = spot.half * (0.78 + 0.22 * _wave(spot, spot.stroke.size))
    density = 0.7 + 0.3 * np.clip(spot.distance / edge, 0, 1) ** 2
    return spot.ground * (spot.ink / 255), spot.stroke.strength * density * spot.cover(edge, FEATHER)


def _wave(spot: _Spot, length: float) -> Float[np.ndarray, "n"]:
    """Smooth hills and valleys between -1 and 1, about ``length`` px apart.

    They are drawn by lot from the stroke's first place: they hold still while the stroke grows, and the next stroke
    has others.
    """
    lot = np.random.default_rng([round(value) % 2**32 for value in spot.stroke.points[0]])
    down, across = lot.normal(0, 6 / length, (2, WAVES, 1)).astype(np.float32)
    phases = lot.uniform(0, 2 * np.pi, (WAVES, 1)).astype(np.float32)
    heights = np.cos(phases + down * spot.rows.astype(np.float32) + across * spot.cols.astype(np.float32))
    return np.clip(2 * heights.mean(0), -1, 1)


def _blur(spot: _Spot) -> _Paint:
    """Out of focus: Gaussian, with a sigma of up to a sixth of the size."""
    sigma = spot.stroke.strength * spot.stroke.size / 6
    margin = 3 * ceil(sigma)  # Pillow blurs three times with a box that reaches no farther than sigma to each side
    top, left = (max(places.min() - margin, 0) for places in (spot.rows, spot.cols))
    part = spot.painted[top : spot.rows.max() + margin + 1, left : spot.cols.max() + margin + 1]
    blurred = np.asarray(Image.fromarray(part).filter(ImageFilter.GaussianBlur(sigma)))
    return blurred[spot.rows - top, spot.cols - left], spot.cover(spot.half, FEATHER)


def _colour(spot: _Spot) -> _Paint:
    """Another hue of the same lightness: shading and grain stay. What would be brighter than white pales instead."""
    lightness, own = spot.ground @ LUMA, float(spot.ink @ LUMA)
    tint = (spot.ink - own) / max(own, 1)
    room = (255 - lightness) / np.maximum(lightness * tint.max(), 1e-6)
    colour = lightness[:, None] * (1 + np.minimum(room, 1)[:, None] * tint)
    return colour, spot.stroke.strength * spot.cover(spot.half, FEATHER)


def _move(spot: _Spot) -> _Paint:
    """A copy of the disc around the first point, by whole pixels, since others would soften it."""
    start, end = np.array(spot.stroke.points)
    source = np.column_stack([spot.rows, spot.cols]) - np.rint(end - start).astype(int)
    nearest = np.clip(source, 0, np.array(spot.photo.shape[:2]) - 1)
    on_photo = (source == nearest).all(1)
    return spot.painted[tuple(nearest.T)], spot.stroke.strength * on_photo * spot.cover(spot.half, FEATHER)


def _erase(spot: _Spot) -> _Paint:
    """The photo as it was before any stroke."""
    return spot.photo[spot.rows, spot.cols], spot.stroke.strength * spot.cover(spot.half)


TOOLS = ("brush", "scratch", "stain", "blur", "colour", "move", "erase")
_PAINTS = dict(zip(TOOLS, (_brush, _scratch, _stain, _blur, _colour, _move, _erase)))
