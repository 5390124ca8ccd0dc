"""Results as bytes: what a page needs to follow the pointer and the sliders by itself."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from math import ceil
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from spade_kit.correspondence import Breakpoints, Correspondence
from spade_kit.figures.style import COLOURS
from spade_kit.gallery.calibration import NormalScores
from spade_kit.result import Result
from spade_kit.scores import split

PIXEL_RATES = (0.05, 0.02, 0.01, 0.005, 0.001)
IMAGE_RATES = (0.2, 0.1, 0.05)
_CURVE = 256  # points of the false-alarm curve that a page is sent
LOOKS_BACK = 4  # up to this kappa the page is sent every k at once; beyond, a list of changes is no longer short


def jpeg(pixels: np.ndarray, side: int | None = None, quality: int = 82) -> bytes:
    """A JPEG of (H, W, 3) uint8, its long side ``side`` pixels."""
    image = Image.fromarray(pixels)
    if side is not None:
        image.thumbnail((side, side))
    stream = BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def colour_table() -> bytes:
    """256 colours of the maps, RGB."""
    return (matplotlib.colormaps[COLOURS](np.arange(256))[:, :3] * 255).round().astype(np.uint8).tobytes()


def find_highest(anomaly_map: np.ndarray) -> tuple[int, int]:
    """(row, col)."""
    row, col = divmod(int(anomaly_map.argmax()), anomaly_map.shape[1])
    return row, col


def rank_by_use(result: Result) -> list[int]:
    """The neighbours, that first which explains most cells."""
    explains = np.bincount(result.correspondence.image[0].ravel(), minlength=len(result.neighbours))
    return result.neighbours.index[explains.argsort()[::-1]].tolist()


def pack_photo(result: Result, mask: np.ndarray | None, quality: int = 90) -> dict[str, Any]:
    """The crop, how large it is, and where its defect is."""
    size = list(result.anomaly_map.shape)
    return {"size": size, "jpeg": jpeg(result.image, quality=quality), "mask": pack_mask(mask)}


def pack_mask(mask: np.ndarray | None) -> bytes | None:
    """Where a defect is known to be, if anywhere: one bit a pixel, rows first."""
    return None if mask is None or not mask.any() else np.packbits(mask).tobytes()


def pack_matches(result: Result) -> dict[str, Any]:
    """The match of every cell, for every k where that is a short list, otherwise for the result's own k.

    ``count`` (h w) uint16 says how many steps each cell has; a step has its ``k``, ``image`` and ``place``
    (row * w + col), ``distance`` and what part of it each layer has, ``parts`` (L s), as uint16 of 65535.
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
    }


def pack_cells(found: Correspondence, sigma: float, normals: Iterable[tuple[int, int]]) -> dict[str, Any]:
    """Distances and nearest pixels on a grid of their own.

    ``normals`` says of each neighbour as which normal image it is shown, and by what number a page asks for it.
    """
    return {"sigma": sigma, "normals": [list(pair) for pair in normals], **_pack_grid(found, found.distance)}


def _pack_grid(found: Correspondence, distance: np.ndarray) -> dict[str, Any]:
    """Of each cell a distance, and its nearest pixel: which neighbour it is in, and where (row * w + col)."""
    return pack_distance(distance) | {
        "image": found.image[0].astype("<u2").tobytes(),
        "place": (found.row[0] * distance.shape[1] + found.col[0]).astype("<u4").tobytes(),
    }


def pack_distance(distance: np.ndarray) -> dict[str, Any]:
    return {"grid": list(distance.shape), "distance": distance.astype("<f4").tobytes()}


def find_breakpoints(result: Result) -> Breakpoints | None:
    """The matches for every k, where they are a short list."""
    return result.breakpoints if result.spade.options.kappa <= LOOKS_BACK else None


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
    """Each layer searched by itself: its grid, distances and matches there, and where it agrees with all together.

    Distances are weighted as they are in all layers together, so that both can be seen on one scale; those of a layer
    of weight 0, which would all be 0, are left as they are.
    """
    return {
        name: _pack_grid(found, found.distance * np.sqrt(weight or 1))
        | {"agrees": result.layer_agrees[name].astype(np.uint8).tobytes()}
        for (name, found), weight in zip(result.match_alone.items(), weights)
    }


def pack_normals(normals: NormalScores, of: int) -> dict[str, Any]:
    """The level, scores, and what share of normal pixels each of evenly spaced thresholds marks."""
    thresholds = np.linspace(0, normals.pixels[-1], _CURVE)
    marked = 1 - np.searchsorted(normals.pixels, thresholds) / len(normals.pixels)
    enough = [rate for rate in IMAGE_RATES if ceil(1 / rate) - 1 <= len(normals.scores)]
    return {
        "level": normals.level,
        "scores": normals.scores.tolist(),
        "of": of,
        "curve": {"end": float(normals.pixels[-1]), "marked": marked.round(6).tolist()},
        "rates": [*(f"pixel {rate:g}" for rate in PIXEL_RATES), *(f"image {rate:g}" for rate in enough)],
    }
