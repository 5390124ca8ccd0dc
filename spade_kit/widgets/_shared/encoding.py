"""Results as bytes: all that the page needs to follow the pointer and the sliders without the kernel, and a preview."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from io import BytesIO
from math import ceil
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

from spade_kit._files import encode_png
from spade_kit.correspondence import Breakpoints, Correspondence
from spade_kit.figures.style import COLOURS, RING
from spade_kit.gallery.calibration import NormalScores
from spade_kit.gallery.gallery import Normal
from spade_kit.result import Result, find_angles
from spade_kit.scores import split

PIXEL_RATES = (0.05, 0.02, 0.01, 0.005, 0.001)
IMAGE_RATES = (0.2, 0.1, 0.05)
_CURVE = 256  # points of the false-alarm curve sent to the page
_SIDE = 300  # px of the longer side of each picture of a preview
_GAP = 8
_NEIGHBOUR = 112  # px, long side of a neighbour's thumbnail, shown until the full crop is requested
LOOKS_BACK = 4  # up to this kappa the page gets the results for every K; beyond it, too many breakpoints


def jpeg(pixels: np.ndarray, side: int | None = None, quality: int = 82) -> bytes:
    """A JPEG of (H, W, 3) uint8, its long side ``side`` pixels."""
    image = Image.fromarray(pixels)
    if side is not None:
        image.thumbnail((side, side))
    stream = BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def colour_table(name: str = COLOURS) -> bytes:
    """The 256 RGB colours of the maps, or of another Matplotlib colour map."""
    return (matplotlib.colormaps[name](np.arange(256))[:, :3] * 255).round().astype(np.uint8).tobytes()


def find_highest(anomaly_map: np.ndarray) -> tuple[int, int]:
    """(row, col) of the maximum."""
    row, col = divmod(int(np.nanargmax(anomaly_map)), anomaly_map.shape[1])
    return row, col


def rank_by_use(result: Result) -> list[int]:
    """The neighbours by the number of cells they explain, most first."""
    explains = np.bincount(result.correspondence.image[0].ravel(), minlength=len(result.neighbours))
    return result.neighbours.index[explains.argsort()[::-1]].tolist()


def pack_photo(result: Result, mask: np.ndarray | None, quality: int = 90) -> dict[str, Any]:
    """The crop, its size, how much of the image it covers, where it lies in it, its roi, and its defect mask."""
    crop = {name: list(getattr(result.crop, name)) for name in ("photo", "scaled", "offset")}
    told = {"size": list(result.anomaly_map.shape), "judged": result.crop.describe(), "crop": crop}
    return told | {"jpeg": jpeg(result.image, quality=quality), "mask": pack_mask(mask), "roi": pack_mask(result.roi)}


def pack_mask(mask: np.ndarray | None) -> bytes | None:
    """A mask of a defect or a roi, one bit per pixel in row-major order; None if there is none."""
    return None if mask is None or not mask.any() else np.packbits(mask).tobytes()


def pack_neighbours(numbers: list[int], normals: Iterable[Normal]) -> dict[str, Any]:
    """Thumbnails of normal images, with the page's numbers for them."""
    return {"images": numbers, "jpegs": [_shrink(normal.jpeg) for normal in normals]}


@lru_cache(1024)
def _shrink(crop: bytes) -> bytes:
    return jpeg(np.array(Image.open(BytesIO(crop), formats=["JPEG"])), _NEIGHBOUR)


def pack_matches(result: Result) -> dict[str, Any]:
    """The match of every cell: for every k if kappa is small, otherwise for the result's own k.

    ``count`` (h w) uint16 is the number of breakpoints per cell; each has a ``k``, ``image``, ``place``
    (row * w + col) and ``distance``. ``parts`` (L s) is each layer's fraction of the distance, uint16 out of 65535;
    ``angles`` (L s) see `_pack_angles`.
    """
    k, first = len(result.neighbours), 1
    steps = find_breakpoints(result)
    if steps is None:
        steps, first = _as_breakpoints(result.correspondence, k), k
    h, w = result.query.grid
    parts = split(np.ones_like(steps.distance), steps.layer_distance)
    return {
        "grid": [h, w],
        "layers": list(result.query.layers),
        "k_range": [first, k],
        "neighbours": [[int(i), float(d)] for i, d in zip(result.neighbours.index, result.neighbours.distance)],
        "count": steps.count.astype("<u2").tobytes(),
        "k": steps.k.astype("<u2").tobytes(),
        "image": steps.image.astype("<u2").tobytes(),
        "place": (steps.row * w + steps.col).astype("<u4").tobytes(),
        "distance": steps.distance.astype("<f4").tobytes(),
        "parts": (parts * 65535).round().astype("<u2").tobytes(),
        "angles": _pack_angles(steps.layer_distance, result.unit_weights),
    }


def _pack_angles(layer_distance: np.ndarray, unit_weights: np.ndarray | None) -> bytes | None:
    """Angles between vectors of length 1 as uint16, in hundredths of a degree, 65535 if unknown; None for others."""
    if unit_weights is None:
        return None
    return np.nan_to_num(100 * find_angles(layer_distance, unit_weights), nan=65535).round().astype("<u2").tobytes()


def pack_cells(found: Correspondence, sigma: float, normals: Iterable[tuple[int, int]]) -> dict[str, Any]:
    """Distances and nearest pixels on the search's own grid.

    ``normals`` holds, for each neighbour, the displayed index of the normal image and the page's number for it.
    """
    return {"sigma": sigma, "normals": [list(pair) for pair in normals], **_pack_grid(found, found.distance)}


def _pack_grid(found: Correspondence, distance: np.ndarray) -> dict[str, Any]:
    """For each cell the distance and the nearest pixel: its neighbour and its place (row * w + col)."""
    return pack_distance(distance) | {
        "image": found.image[0].astype("<u2").tobytes(),
        "place": (found.row[0] * distance.shape[1] + found.col[0]).astype("<u4").tobytes(),
    }


def pack_distance(distance: np.ndarray) -> dict[str, Any]:
    return {"grid": list(distance.shape), "distance": distance.astype("<f4").tobytes()}


def find_breakpoints(result: Result) -> Breakpoints | None:
    """The matches for every k, or None if kappa is too large."""
    return result.steps if result.spade.options.kappa <= LOOKS_BACK else None


def _as_breakpoints(found: Correspondence, k: int) -> Breakpoints:
    h, w = found.distance.shape
    return Breakpoints(
        count=np.ones((h, w), np.int64),
        k=np.full(h * w, k),
        distance=found.distance.ravel(),
        layer_distance=found.layer_distance.reshape(len(found.layer_distance), -1),
        image=found.image[0].ravel(),
        row=found.row[0].ravel(),
        col=found.col[0].ravel(),
    )


def pack_alone(result: Result, weights: np.ndarray) -> dict[str, Any]:
    """Each layer searched alone: its grid, distances and matches, and where it agrees with the joint search.

    Distances are weighted as in the joint search, so that both fit one scale; those of a layer with weight 0, which
    would all be 0, stay unweighted.
    """
    one = None if result.unit_weights is None else np.ones(1)
    return {
        name: _pack_grid(found, found.distance * result.spade.options.root(np.asarray(weight or 1)))
        | {"agrees": result.layer_agrees[name].astype(np.uint8).tobytes()}
        | {"angles": _pack_angles(found.layer_distance, one)}
        for (name, found), weight in zip(result.match_alone.items(), weights)
    }


def pack_place_level(level: np.ndarray) -> dict[str, Any]:
    """What normal images reach at each place, as uint16 between its ends."""
    low, high = float(level.min()), float(level.max())
    values = (level - low) / ((high - low) or 1) * 65535
    return {"low": low, "high": high, "values": values.round().astype("<u2").tobytes()}


def pack_normals(normals: NormalScores, of: int) -> dict[str, Any]:
    """The scores, with the rates that they can support, and their `pack_reference`."""
    enough = [rate for rate in IMAGE_RATES if ceil(1 / rate) - 1 <= len(normals.scores)]
    return {
        "scores": normals.scores.tolist(),
        "of": of,
        "rates": [*(f"pixel {rate:g}" for rate in PIXEL_RATES), *(f"image {rate:g}" for rate in enough)],
        **pack_reference(normals),
    }


def pack_reference(normals: NormalScores) -> dict[str, Any]:
    """The reference level, and the fraction of normal pixels marked at evenly spaced thresholds."""
    start, end = min(0.0, float(normals.pixels[0])), float(normals.pixels[-1])
    marked = 1 - np.searchsorted(normals.pixels, np.linspace(start, end, _CURVE)) / len(normals.pixels)
    return {"level": normals.level, "curve": {"start": start, "end": end, "marked": marked.round(6).tolist()}}


def draw_preview(
    shown: Sequence[tuple[Result, np.ndarray, tuple[int, int]]], threshold: float | None, end: float
) -> bytes:
    """For each result, map and probe a row: the image with its outlined detections, the map, and the normal image that
    explains the probe; as one PNG.

    For places where no widget can run: web pages and untrusted notebooks. Without a ``threshold`` nothing is outlined;
    ``end`` is the value at the end of the colour scale.
    """
    rows = []
    for result, values, probe in shown:
        match = result.match(*probe)
        photo = result.image.copy()
        if threshold is not None:
            found = values >= threshold
            inside = np.roll(found, 1, 0) & np.roll(found, -1, 0) & np.roll(found, 1, 1) & np.roll(found, -1, 1)
            photo[found & ~inside] = [int(RING[at : at + 2], 16) for at in (1, 3, 5)]
        heat = matplotlib.colormaps[COLOURS](values / end, bytes=True)[..., :3]
        normal = result.normal_image(match.image)
        rows.append([_draw(*one) for one in ((photo, probe), (heat, probe), (normal, (match.row, match.col)))])
    width, height = (max(sides) + _GAP for sides in zip(*(row[0].size for row in rows)))
    sheet = Image.new("RGB", (3 * width - _GAP, len(rows) * height - _GAP), "white")
    for down, row in enumerate(rows):
        for across, picture in enumerate(row):
            sheet.paste(picture, (across * width, down * height))
    return encode_png(np.asarray(sheet))


def _draw(pixels: np.ndarray, at: tuple[int, int]) -> Image.Image:
    scale = _SIDE / max(pixels.shape[:2])
    picture = Image.fromarray(pixels).resize(tuple(round(side * scale) for side in pixels.shape[1::-1]))
    y, x = ((place + 0.5) * scale for place in at)
    pen = ImageDraw.Draw(picture)
    for radius, width, colour in ((12, 6, "white"), (11, 3, RING)):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=width)
    return picture
