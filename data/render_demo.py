"""Render the bundled demo set: a small machined housing, photographed from above, sound or with one of six defects.

A piece is a *height field* with materials (`Scene`): parts are added to it from the table upwards, a defect changes a
parameter of the piece or the finished surface, and lighting comes last (`light_scene`). Shadows, highlights and bevels
therefore follow from the shape, including damage. Rendering the same piece with and without its defect gives an exact
mask: the pixels that the defect visibly changes.

Coordinates are those of the part: (0, 0) is the centre, the image spans -1 to 1, x to the right and y down.
``python data/render_demo.py data/demo`` writes the set.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree

SIDE = 320  # side of the final square image in pixels
SUPER = 2  # supersampling factor
SEED = 2005_02357
KINDS = ("scratch", "stain", "chip", "wrong_colour", "thread", "misplaced")
COUNTS = {("train", "good"): 60, ("test", "good"): 12} | {("test", kind): 6 for kind in KINDS}
VISIBLE = 4 / 255  # a pixel belongs to the mask if the defect alone changes a channel by more than this
JPEG_QUALITY = 93

PLATE = (0.73, 0.66)  # half width, half height
PLATE_TOP, RECESS_FLOOR = 0.075, 0.050  # heights above the table
BORE = (-0.19, 0.0)
PITCH = 0.21  # distance between holes in the two rows of seven threaded holes
ROWS = {-0.565: "S.SS..S", 0.565: "SS..S.S"}  # S: hole with a screw, dot: empty hole
SLIPS = ((-0.565, 2, 1), (-0.565, 3, 4), (0.565, 1, 2), (0.565, 4, 3))  # row, from, to: see `misplaced`
PLACES = {(round((i - 3) * PITCH, 3), y): mark for y, row in ROWS.items() for i, mark in enumerate(row)}
SCREWS = tuple(place for place, mark in PLACES.items() if mark == "S")
HOLES = tuple(place for place, mark in PLACES.items() if mark == ".")
CONNECTOR, PRINT, CODE = (0.50, 0.0), (0.455, -0.345), (0.50, 0.365)
ORANGE, BLUE, RUBBER = (0.80, 0.20, 0.035), (0.035, 0.13, 0.30), (0.022, 0.022, 0.024)
STEEL, ALUMINIUM, GOLD = (0.62, 0.61, 0.60), (0.70, 0.715, 0.73), (0.85, 0.62, 0.25)
INK = (0.03, 0.03, 0.035)
SEGMENTS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")


@dataclass
class Scene:
    """Height and material at every pixel. All arrays are (h, w) unless noted."""

    x: np.ndarray  # part coordinates of the pixels
    y: np.ndarray
    height: np.ndarray  # above the table, in the units of x and y
    colour: np.ndarray  # (h, w, 3) linear reflectance
    metal: np.ndarray  # 0 plastic, rubber, cloth; 1 metal
    gloss: np.ndarray  # 0 matt, 1 mirror
    grain: np.ndarray  # (h, w, 2) direction of the machining marks; the length, 0 to 1, is their strength

    def around(self, cx: float, cy: float, reach: float) -> "Scene":
        """The part of the scene near a point, as array views: drawing on it changes the scene, at lower cost."""
        near = (np.abs(self.x - cx) < reach) & (np.abs(self.y - cy) < reach)
        rows, cols = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
        window = np.s_[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        return Scene(**{name: array[window] for name, array in vars(self).items()})

    def lay(self, outline: np.ndarray, **material: object) -> None:
        """Set material properties where ``outline`` (a signed distance, negative inside) covers the pixels."""
        cover = np.clip(0.5 - outline * SIDE * SUPER / 2, 0, 1)
        for name, value in material.items():
            array = getattr(self, name)
            array += (cover[..., None] if array.ndim == 3 else cover) * (np.asarray(value) - array)


@dataclass(frozen=True)
class Piece:
    """All parameters that vary between sound pieces, or that a defect can change."""

    angle: float
    shift: tuple[float, float]
    light: tuple[float, float]  # horizontal direction towards the lamp
    brightness: float
    white: np.ndarray  # (3,) white balance
    gradient: tuple[float, float]
    vignette: float
    table: np.ndarray  # (3,) colour
    screws: tuple[tuple[float, float], ...]
    holes: tuple[tuple[float, float], ...]
    screw_turns: np.ndarray
    cap_turn: float
    digits: np.ndarray
    code: np.ndarray
    cap_colour: np.ndarray
    connector_colour: np.ndarray
    gasket_colour: np.ndarray


def draw_piece(rng: np.random.Generator) -> Piece:
    """Draw the random parameters of one sound piece."""
    lamp = np.deg2rad(rng.normal(232, 7))
    tint = rng.normal(1, 0.04, (3, 1))
    return Piece(
        angle=np.deg2rad(rng.uniform(-2.5, 2.5)),
        shift=tuple(rng.uniform(-0.025, 0.025, 2)),
        light=(np.cos(lamp), np.sin(lamp)),
        brightness=rng.normal(1, 0.05),
        white=rng.normal(1, 0.012, 3),
        gradient=tuple(rng.normal(0, 0.06, 2)),
        vignette=rng.uniform(0.08, 0.2),
        table=np.array((0.155, 0.125, 0.105)) * rng.normal(1, 0.07) * rng.normal(1, 0.02, 3),
        screws=SCREWS,
        holes=HOLES,
        screw_turns=rng.uniform(0, np.pi, len(SCREWS)),
        cap_turn=rng.uniform(0, 2 * np.pi),
        digits=rng.integers(0, 10, 6),
        code=rng.integers(0, 2, (10, 10)),
        cap_colour=np.array(ORANGE) * tint[0],
        connector_colour=np.array(BLUE) * tint[1],
        gasket_colour=np.array(RUBBER) * tint[2],
    )


# ---- outlines: signed distances, negative inside ----


def disc(scene: Scene, cx: float, cy: float, radius: float) -> np.ndarray:
    """A circle."""
    return np.hypot(scene.x - cx, scene.y - cy) - radius


def box(scene: Scene, cx: float, cy: float, half_w: float, half_h: float, corner: float = 0.0) -> np.ndarray:
    """A rectangle, its corners rounded with the radius ``corner``."""
    dx, dy = np.abs(scene.x - cx) - half_w + corner, np.abs(scene.y - cy) - half_h + corner
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0) - corner


def bevel(outline: np.ndarray, width: float) -> np.ndarray:
    """Height lost at an edge: 0 inside, rising to ``width`` at the outline (a 45 degree chamfer)."""
    return np.clip(outline + width, 0, width)


def streaks(rng: np.random.Generator, shape: tuple[int, ...], along: float | int, across: float | int) -> np.ndarray:
    """Noise of standard deviation 1, stretched along the rows: brushed metal, fibres."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), (across, along), mode="wrap")
    return noise / noise.std()


# ---- the parts, from the table upwards ----


def start_scene(piece: Piece, rng: np.random.Generator) -> Scene:
    """The empty table: a woven mat, slightly out of focus below the part."""
    side = SIDE * SUPER
    axis = (np.arange(side) + 0.5) / side * 2 - 1
    x0, y0 = axis[None, :] - piece.shift[0], axis[:, None] - piece.shift[1]
    cos, sin = np.cos(piece.angle), np.sin(piece.angle)
    x, y = cos * x0 + sin * y0, cos * y0 - sin * x0
    shape = (side, side)
    fibre = streaks(rng, shape, 9, 1.5) + streaks(rng, shape, 1.5, 7) + 0.3 * streaks(rng, shape, 60, 50)
    tone = 1 + 0.03 * fibre
    zero = np.zeros(shape)
    return Scene(x, y, zero.copy(), tone[..., None] * piece.table, zero.copy(), zero + 0.15, np.zeros((*shape, 2)))


def lay_plate(scene: Scene, piece: Piece, rng: np.random.Generator) -> None:
    """The brushed plate: a chamfered edge, and grain along x that rotates with the piece."""
    outline = box(scene, 0.0, 0.0, *PLATE, corner=0.07)
    noise = streaks(rng, scene.x.shape, 60, 0.9) + 0.6 * streaks(rng, scene.x.shape, 14, 0.7)
    places = (np.stack([scene.y, scene.x]) + 1) * SIDE * SUPER / 2
    noise = ndimage.map_coordinates(noise, places, order=1, mode="grid-wrap")
    colour = np.array(ALUMINIUM) * (1 + 0.034 * noise)[..., None]
    height = PLATE_TOP - bevel(outline, 0.022)
    scene.lay(outline, height=height, colour=colour, metal=1.0, gloss=0.45, grain=(0.85, 0.0))
    scene.lay(np.maximum(outline, -outline - 0.022), grain=(0.0, 0.0), colour=ALUMINIUM, gloss=0.6)


def lay_bore(scene: Scene, piece: Piece, rng: np.random.Generator) -> None:
    """The turned recess with its engraved scale, the rubber ring and the coloured cap."""
    scene = scene.around(*BORE, 0.39)
    dx, dy = scene.x - BORE[0], scene.y - BORE[1]
    radius, phi = np.hypot(dx, dy), np.arctan2(dy, dx)
    marks = ndimage.gaussian_filter1d(rng.standard_normal(600), 0.8)
    tone = 1 + 0.08 * np.interp(radius, np.linspace(0, 0.6, 600), marks)
    around = np.stack([-dy, dx], -1) / np.maximum(radius, 1e-6)[..., None]
    outline = radius - 0.37
    floor = np.maximum(RECESS_FLOOR, PLATE_TOP - np.clip(-outline, 0, 1))
    scene.lay(outline, height=floor, colour=tone[..., None] * ALUMINIUM, gloss=0.5, grain=around * 0.95)
    ring = np.abs(radius - 0.318)
    scene.lay(ring - 0.038, height=RECESS_FLOOR - 0.012, colour=np.array(ALUMINIUM) * 0.5)
    dome = 0.045 * np.sqrt(np.clip(1 - (ring / 0.031) ** 2, 0, 1))
    rubber = {"colour": piece.gasket_colour, "metal": 0.0, "gloss": 0.3, "grain": (0.0, 0.0)}
    scene.lay(ring - 0.031, height=RECESS_FLOOR - 0.01 + dome, **rubber)
    engrave_scale(scene, radius, phi)
    lay_cap(scene, piece, radius, phi)


def engrave_scale(scene: Scene, radius: np.ndarray, phi: np.ndarray) -> None:
    """An engraved ring and 48 tick marks, every fourth one longer."""
    step = 2 * np.pi / 48
    tick = np.round(phi / step)
    aside = np.abs(phi - tick * step) * radius - 0.0035
    length = np.where(tick % 4 == 0, 0.034, 0.018)
    lines = np.maximum(aside, np.abs(radius - 0.212 - length / 2) - length / 2)
    lines = np.minimum(lines, np.abs(radius - 0.208) - 0.004)
    scene.lay(lines, height=RECESS_FLOOR - 0.006, colour=np.array(ALUMINIUM) * 0.16, grain=(0.0, 0.0))


def lay_cap(scene: Scene, piece: Piece, radius: np.ndarray, phi: np.ndarray) -> None:
    """A moulded plastic cap with a hexagonal socket and a pointer."""
    outline = radius - 0.155
    height = RECESS_FLOOR + 0.05 - bevel(outline, 0.02) - 0.25 * radius**2
    plastic = {"colour": piece.cap_colour, "metal": 0.0, "gloss": 0.55, "grain": (0.0, 0.0)}
    scene.lay(outline, height=height, **plastic)
    turned = phi - piece.cap_turn
    scene.lay(np.abs(radius - 0.118) - 0.008, height=height - 0.008)
    hexagon = radius * np.cos((turned + np.pi / 6) % (np.pi / 3) - np.pi / 6) - 0.06
    scene.lay(hexagon, height=RECESS_FLOOR + 0.012)
    pointer = np.maximum(np.abs(radius * np.sin(turned)) - 0.009, np.abs(radius * np.cos(turned) - 0.09) - 0.017)
    scene.lay(pointer, colour=(0.75, 0.73, 0.70))


def lay_hole(scene: Scene, cx: float, cy: float) -> None:
    """A countersunk threaded hole without a screw."""
    scene = scene.around(cx, cy, 0.1)
    outline = disc(scene, cx, cy, 0.052)
    cone = PLATE_TOP - np.clip(-outline, 0, 0.016)
    bare = {"gloss": 0.6, "grain": (0.0, 0.0)}
    scene.lay(outline, height=cone, colour=ALUMINIUM, **bare)
    inner = outline + 0.016
    scene.lay(inner, height=0.0, colour=np.array(STEEL) * 0.12, **bare)
    thread = np.abs(disc(scene, cx + 0.004, cy + 0.004, 0.029)) - 0.003
    scene.lay(thread, colour=np.array(STEEL) * 0.45)


def lay_screw(scene: Scene, cx: float, cy: float, turn: float) -> None:
    """A pan-head screw with a cross recess at a random angle, on its washer."""
    scene = scene.around(cx, cy, 0.12)
    radius = np.hypot(scene.x - cx, scene.y - cy)
    bright = {"metal": 1.0, "gloss": 0.85, "grain": (0.0, 0.0)}
    scene.lay(radius - 0.078, height=PLATE_TOP + 0.010 - bevel(radius - 0.078, 0.006), colour=STEEL, **bright)
    head = PLATE_TOP + 0.045 - 5.5 * radius**2 - bevel(radius - 0.062, 0.012)
    scene.lay(radius - 0.062, height=head, colour=np.array(STEEL) * 0.9, **bright)
    u = np.cos(turn) * (scene.x - cx) + np.sin(turn) * (scene.y - cy)
    v = np.cos(turn) * (scene.y - cy) - np.sin(turn) * (scene.x - cx)
    arms = [np.maximum(np.abs(a) - 0.038, np.abs(b) - 0.010) for a, b in ((u, v), (v, u))]
    scene.lay(np.minimum(*arms), height=PLATE_TOP + 0.008, colour=np.array(STEEL) * 0.35)


def lay_connector(scene: Scene, piece: Piece) -> None:
    """A moulded socket with two rows of gilt pins."""
    cx, cy = CONNECTOR
    scene = scene.around(cx, cy, 0.3)
    outline = box(scene, cx, cy, 0.135, 0.225, 0.025)
    plastic = {"colour": piece.connector_colour, "metal": 0.0, "gloss": 0.45, "grain": (0.0, 0.0)}
    scene.lay(outline, height=PLATE_TOP + 0.075 - bevel(outline, 0.018), **plastic)
    key = box(scene, cx - 0.125, cy, 0.03, 0.05, 0.01)
    inside = np.minimum(box(scene, cx, cy, 0.095, 0.185, 0.012), key)
    scene.lay(inside, height=PLATE_TOP + 0.01, colour=piece.connector_colour * 0.55)
    for row in np.arange(5) * 0.072 - 0.144:
        for col in (-0.045, 0.045):
            pin = box(scene, cx + col, cy + row, 0.017, 0.017, 0.004)
            top = PLATE_TOP + 0.06 - bevel(pin, 0.008)
            scene.lay(pin, height=top, colour=GOLD, metal=1.0, gloss=0.8)


def print_digits(scene: Scene, piece: Piece) -> None:
    """The serial number in seven-segment digits."""
    x0, y0 = PRINT
    scene = scene.around(x0, y0, 0.3)
    bars: dict[str, tuple[float, ...]] = {"a": (0, -1, 1, 0), "g": (0, 0, 1, 0), "d": (0, 1, 1, 0)}
    bars |= {"f": (-1, -0.5, 0, 0.5), "b": (1, -0.5, 0, 0.5), "e": (-1, 0.5, 0, 0.5), "c": (1, 0.5, 0, 0.5)}
    for i, digit in enumerate(piece.digits):
        for dx, dy, half_w, half_h in (bars[name] for name in SEGMENTS[digit]):
            cx, cy = x0 + (i - 2.5) * 0.070 + 0.019 * dx, y0 + 0.041 * dy
            stroke = box(scene, cx, cy, 0.019 * half_w + 0.007, 0.041 * half_h + 0.007, 0.004)
            scene.lay(stroke, colour=INK, metal=0.0, gloss=0.3, grain=(0.0, 0.0))


def print_code(scene: Scene, piece: Piece) -> None:
    """A square code of dark and light cells with its L-shaped finder, on a light field."""
    cx, cy = CODE
    scene = scene.around(cx, cy, 0.15)
    cells = piece.code.copy()
    cells[:, 0] = cells[-1, :] = 1
    cells[0, :], cells[:, -1] = np.arange(10) % 2 == 0, np.arange(10) % 2 == 1
    cell = 0.0185
    i = np.floor((scene.y - cy) / cell + 5).astype(int)
    j = np.floor((scene.x - cx) / cell + 5).astype(int)
    inside = (i >= 0) & (i < 10) & (j >= 0) & (j < 10)
    dark = inside & (cells[np.clip(i, 0, 9), np.clip(j, 0, 9)] == 1)
    paint = {"metal": 0.0, "gloss": 0.2, "grain": (0.0, 0.0)}
    scene.lay(box(scene, cx, cy, 0.108, 0.108, 0.012), colour=(0.50, 0.50, 0.48), **paint)
    scene.lay(np.where(dark, -1.0, 1.0), colour=(0.14, 0.14, 0.145))


def build_scene(piece: Piece, rng: np.random.Generator) -> Scene:
    """Put all parts of one piece on the table."""
    scene = start_scene(piece, rng)
    lay_plate(scene, piece, rng)
    lay_bore(scene, piece, rng)
    print_digits(scene, piece)
    print_code(scene, piece)
    for cx, cy in piece.holes:
        lay_hole(scene, cx, cy)
    for (cx, cy), turn in zip(piece.screws, piece.screw_turns, strict=True):
        lay_screw(scene, cx, cy, turn)
    lay_connector(scene, piece)
    return scene


# ---- light and camera ----


def cast_shadows(height: np.ndarray, light: tuple[float, float]) -> np.ndarray:
    """Fraction of the lamp light that reaches each pixel: step towards the lamp and look for higher points."""
    unit = SIDE * SUPER / 2
    open_sky = np.ones_like(height)
    for step in (1, 2, 3, 4, 6, 8, 10, 13, 16, 20, 24, 29, 34):
        shift = (-round(light[1] * step), -round(light[0] * step))
        there = np.roll(height, shift, axis=(0, 1))
        clearance = (height - there) * unit / step + 1.1
        open_sky = np.minimum(open_sky, clearance / 0.55)
    return ndimage.gaussian_filter(np.clip(open_sky, 0, 1), 1.5)


def reflect_room(rx: np.ndarray, ry: np.ndarray, light: tuple[float, float], gloss: np.ndarray) -> np.ndarray:
    """Reflection in a mirror with this tilt: a grey room, a large soft lamp, and a window opposite."""
    lamp = (rx - 0.75 * light[0]) ** 2 + (ry - 0.75 * light[1]) ** 2
    window = (rx + 0.9 * light[0]) ** 2 + (ry + 0.9 * light[1]) ** 2
    width = 0.10 + 0.5 * (1 - gloss)
    room = 0.42 + 0.25 * (rx * light[0] + ry * light[1]) - 0.12 * (rx**2 + ry**2)
    return np.maximum(room, 0.05) + 1.7 * np.exp(-lamp / width) + 0.5 * np.exp(-window / width)


def light_scene(scene: Scene, piece: Piece) -> np.ndarray:
    """Render a scene with its lighting, without noise: (H, W, 3) in 0 to 1."""
    unit = SIDE * SUPER / 2
    smooth = ndimage.gaussian_filter(scene.height, 0.8)
    slope_y, slope_x = (s * unit for s in np.gradient(smooth))
    nz = 1 / np.sqrt(1 + slope_x**2 + slope_y**2)
    nx, ny = -slope_x * nz, -slope_y * nz
    lit = cast_shadows(scene.height, piece.light)
    hollow = sum(np.clip(ndimage.gaussian_filter(smooth, s) - smooth, 0, None) for s in (3, 9, 24))
    ambient = 1 / (1 + 22 * hollow)
    lx, ly = piece.light
    diffuse = np.clip(0.62 * (nx * lx + ny * ly) + 0.78 * nz, 0, None) * lit
    rx, ry = 2 * nx * nz + 0.22 * scene.x, 2 * ny * nz + 0.22 * scene.y
    mirror = reflect_room(rx, ry, piece.light, scene.gloss) * (0.35 + 0.65 * lit)
    strength = np.hypot(scene.grain[..., 0], scene.grain[..., 1])
    across = (scene.grain[..., 0] * (rx - 0.3 * lx) + scene.grain[..., 1] * (ry - 0.3 * ly)) / (strength + 1e-6)
    sheen = (0.30 + 0.85 * np.exp(-((across / 0.19) ** 2))) * (0.30 + 0.70 * lit)
    metal = (1 - strength) * mirror + strength * sheen
    body = 0.30 * ambient + 1.0 * diffuse
    shine = 0.03 * scene.gloss * mirror + 0.25 * scene.gloss**2 * np.clip(mirror - 0.8, 0, None)
    m = scene.metal[..., None]
    light = m * scene.colour * (metal * ambient)[..., None] + (1 - m) * (scene.colour * body[..., None])
    light += ((1 - scene.metal) * shine * ambient)[..., None]
    return expose(light, piece)


def expose(light: np.ndarray, piece: Piece) -> np.ndarray:
    """The camera: light fall-off, lens blur, pixel grid and tone curve."""
    axis = np.linspace(-1, 1, SIDE * SUPER)
    x, y = axis[None, :], axis[:, None]
    field = 1 + piece.gradient[0] * x + piece.gradient[1] * y - piece.vignette * (x**2 + y**2) / 2
    seen = light * (field * piece.brightness)[..., None] * piece.white
    seen = ndimage.gaussian_filter(seen, (1.0, 1.0, 0))
    seen = seen.reshape(SIDE, SUPER, SIDE, SUPER, 3).mean(axis=(1, 3))
    tone = (1 - np.exp(-1.7 * np.clip(seen, 0, None))) ** (1 / 2.2)
    return tone - 0.06 * np.sin(2 * np.pi * tone)


# ---- defects ----


def wander(rng: np.random.Generator, length: float, bend: float, inside: tuple[float, float]) -> np.ndarray:
    """A smooth random curve of the given length that stays inside: (n, 2) points."""
    n = max(int(length * SIDE), 8)
    while True:
        turn = ndimage.gaussian_filter1d(rng.standard_normal(n), n / 8, mode="nearest")
        heading = rng.uniform(0, 2 * np.pi) + bend * np.cumsum(turn / max(turn.std(), 1e-9)) * 3 / n
        points = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1), axis=0) * length / n
        points += rng.uniform(-1, 1, 2) * inside - points.mean(axis=0)
        if (np.abs(points) < inside).all():
            return points


def distance_to_curve(scene: Scene, points: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Distance of every pixel to a curve (infinite beyond ``reach``), and position of its nearest point, 0 to 1."""
    distance, foot = cKDTree(points).query(np.stack([scene.x, scene.y], -1), distance_upper_bound=reach)
    return distance, foot / len(points)


def scratch(scene: Scene, piece: Piece, rng: np.random.Generator, severity: float) -> None:
    """A fine groove that tapers off at both ends: barely lighter than the grain, or bright bare metal."""
    points = wander(rng, rng.uniform(0.25, 0.35) + 0.5 * severity, 0.25, (0.64, 0.52))
    distance, along = distance_to_curve(scene, points, 0.03)
    width = (0.0032 + 0.0026 * severity) * np.sin(np.pi * np.clip(along, 0.03, 0.97)) ** 0.4
    bright = scene.colour * (1.25 + 0.5 * severity) + 0.02 + 0.10 * severity
    scene.lay(distance - width, colour=bright, height=scene.height - 0.005 - 0.004 * severity)


def thread(scene: Scene, piece: Piece, rng: np.random.Generator, severity: float) -> None:
    """A fibre that lies across the piece, dark or pale, with a thin shadow."""
    points = wander(rng, 0.4 + 0.5 * rng.uniform(), 1.3, (0.68, 0.60))
    distance, _ = distance_to_curve(scene, points, 0.05)
    radius = 0.0036 + 0.0030 * severity
    colour = ((0.05, 0.05, 0.06), (0.62, 0.58, 0.50), (0.35, 0.03, 0.03))[rng.integers(3)]
    top = ndimage.gaussian_filter(scene.height, 6) + 0.012 + np.sqrt(np.clip(radius**2 - distance**2, 0, None))
    fibre = {"metal": 0.0, "gloss": 0.2, "grain": (0.0, 0.0)}
    scene.lay(distance - radius, height=np.maximum(top, scene.height), colour=colour, **fibre)


def stain(scene: Scene, piece: Piece, rng: np.random.Generator, severity: float) -> None:
    """Dried oil: a large soft yellowish patch that dulls the sheen, with two faint dried rims."""
    cx, cy = rng.uniform(-1, 1, 2) * (0.50, 0.42)
    size = 0.10 + 0.08 * rng.uniform()
    phi = np.arctan2(scene.y - cy, scene.x - cx)
    waves = sum(rng.normal(0, 0.10 / k) * np.cos(k * phi + rng.uniform(0, 6.3)) for k in range(1, 7))
    depth = size * (1 + waves) - np.hypot(scene.x - cx, scene.y - cy)
    soft = 1 / (1 + np.exp(-depth / 0.013))
    rim = sum(np.exp(-(((depth - at) / 0.008) ** 2)) for at in (0.0, 0.035))
    strength = (0.28 + 0.36 * severity) * soft + (0.05 + 0.18 * severity) * rim
    scene.colour *= np.clip(1 - strength[..., None] * np.array((0.60, 0.90, 1.50)), 0.05, 1)
    scene.grain *= 1 - (0.3 + 0.5 * severity) * soft[..., None]


def chip(scene: Scene, piece: Piece, rng: np.random.Generator, severity: float) -> None:
    """A piece broken out of the plate's edge: a rough bright surface, and the table where the plate is gone."""
    side, place = rng.integers(4), rng.uniform(-0.6, 0.6)
    cx, cy = ((PLATE[0], place * PLATE[1]), (place * PLATE[0], PLATE[1]))[side % 2]
    cx, cy = (cx, cy) if side < 2 else (-cx, -cy)
    rough = streaks(rng, scene.x.shape, 5, 5) + 0.5 * streaks(rng, scene.x.shape, 2, 2)
    outline = disc(scene, cx, cy, 0.046 + 0.054 * severity) + 0.008 * rough
    floor = PLATE_TOP + 0.9 * np.minimum(outline, 0) + 0.004 * rough
    broken = np.maximum(outline, 0.004 - scene.height)
    raw = np.array(ALUMINIUM) * (0.75 + 0.12 * rough)[..., None]
    height = np.clip(np.minimum(floor, scene.height), 0, None)
    scene.lay(broken, height=height, colour=raw, gloss=0.35, grain=(0.0, 0.0))


def wrong_colour(piece: Piece, rng: np.random.Generator, severity: float) -> Piece:
    """A cap, socket or rubber ring in a slightly different shade, up to the full colour of another part.

    Colours are mixed like pigments (products, not sums), so that equal steps look about equally large.
    """
    name = ("cap_colour", "connector_colour", "gasket_colour")[rng.integers(3)]
    others = {"cap_colour": (BLUE, RUBBER), "connector_colour": (ORANGE, RUBBER), "gasket_colour": (ORANGE, BLUE)}
    other = np.array(others[name][rng.integers(2)])
    share = min(0.2 + severity, 1.0)
    return replace(piece, **{name: getattr(piece, name) ** (1 - share) * other**share})


def misplaced(piece: Piece, rng: np.random.Generator, severity: float) -> Piece:
    """A screw one hole too far along its row, so that its own hole is empty.

    The image contains no new local pattern: after each of the moves in ``SLIPS``, the neighbours of every screw and
    hole also occur elsewhere on a sound piece. Only the position is wrong. Severity has no effect.
    """
    y, start, end = SLIPS[rng.integers(len(SLIPS))]
    left, bare = ((round((i - 3) * PITCH, 3), y) for i in (start, end))
    swap = {left: bare, bare: left}
    screws, holes = (tuple(swap.get(place, place) for place in places) for places in (piece.screws, piece.holes))
    return replace(piece, screws=screws, holes=holes)


WRONG_PIECES: dict[str, Callable[..., Piece]] = {"wrong_colour": wrong_colour, "misplaced": misplaced}
DAMAGES: dict[str, Callable[..., None]] = {"scratch": scratch, "stain": stain, "chip": chip, "thread": thread}


# ---- images and the set ----


def render_part(
    seed: int | np.random.Generator, defect: str | None = None, severity: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Render one piece, sound or with a defect; the same seed gives the same piece in both cases.

    Parameters
    ----------
    seed
        An integer, or a generator (which it advances).
    defect
        None or one of ``KINDS``.
    severity
        0 (hardly visible) to 1 (clear).

    Returns
    -------
    image : (H, W, 3) uint8
    mask : (H, W) bool
        The pixels that the defect alone visibly changes, shadows included; all False for a sound piece.

    Examples
    --------
    >>> image, mask = render_part(7, "scratch")
    >>> image.shape, mask.any().item()
    ((320, 320, 3), True)
    """
    if defect is not None and defect not in KINDS:
        raise ValueError(f"defect must be None or one of {', '.join(KINDS)}; got {defect!r}. Choose one of these.")
    dice, harm, surface, sensor = np.random.default_rng(seed).spawn(4)
    piece, grain = draw_piece(dice), int(surface.integers(2**62))
    seen = light_scene(build_scene(piece, np.random.default_rng(grain)), piece)
    mask = np.zeros(seen.shape[:2], bool)
    if defect is not None:
        sound, seen = seen, photograph_damaged(piece, grain, harm, defect, severity)
        mask = find_change(sound, seen)
    noise = ndimage.gaussian_filter(sensor.standard_normal(seen.shape), (0.4, 0.4, 0))
    seen = seen + noise * (0.004 + 0.005 * np.sqrt(np.clip(seen, 0, 1)))
    return np.clip(np.rint(seen * 255), 0, 255).astype(np.uint8), mask


def photograph_damaged(piece: Piece, grain: int, rng: np.random.Generator, defect: str, severity: float) -> np.ndarray:
    """The same piece in the same light with its defect, without noise: (H, W, 3) in 0 to 1."""
    if defect in WRONG_PIECES:
        piece = WRONG_PIECES[defect](piece, rng, severity)
    scene = build_scene(piece, np.random.default_rng(grain))
    if defect in DAMAGES:
        DAMAGES[defect](scene, piece, rng, severity)
    return light_scene(scene, piece)


def find_change(sound: np.ndarray, damaged: np.ndarray) -> np.ndarray:
    """Where two images of one piece differ visibly: (H, W) bool, with small gaps closed and specks removed."""
    changed = np.abs(sound - damaged).max(axis=-1) > VISIBLE
    closed = ndimage.binary_fill_holes(ndimage.binary_closing(changed, iterations=2))
    regions, _ = ndimage.label(closed, np.ones((3, 3)))
    large = np.bincount(regions.ravel()) >= 16
    large[0] = False
    return large[regions]


def render_sample(split: str, kind: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """One image of the bundled set by split, kind and index; the severity of a defect increases with the index."""
    seed = np.random.SeedSequence((SEED, ("train", "test").index(split), ("good", *KINDS).index(kind), index))
    severity = (index + 0.5) / COUNTS[split, kind]
    return render_part(np.random.default_rng(seed), None if kind == "good" else kind, severity)


def write_demo(folder: str | Path) -> None:
    """Write the whole set in the MVTec AD layout."""
    folder = Path(folder)
    for (split, kind), count in COUNTS.items():
        for index in range(count):
            image, mask = render_sample(split, kind, index)
            photo = folder / split / kind / f"{index:03d}.jpg"
            photo.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(photo, quality=JPEG_QUALITY)
            if mask.any():
                truth = folder / "ground_truth" / kind / f"{index:03d}_mask.png"
                truth.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask.astype(np.uint8) * 255).save(truth, optimize=True)


def main() -> None:
    """Write the bundled demo set into a folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    write_demo(parser.parse_args().folder)


if __name__ == "__main__":
    main()
