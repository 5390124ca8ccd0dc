"""The static preview of a widget, for places where it cannot run: web pages and untrusted notebooks."""

from __future__ import annotations

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

from spade_kit._files import encode_png
from spade_kit.figures.style import COLOURS, RING
from spade_kit.result import Result

_SIDE = 300  # px of the longer side of each picture
_GAP = 8


def draw_preview(
    result: Result, values: np.ndarray, probe: tuple[int, int], threshold: float | None, end: float
) -> bytes:
    """The image with its outlined detections, a map, and the normal image that explains the probe, as one PNG.

    Without a ``threshold`` nothing is outlined; ``end`` is the value at the end of the colour scale.
    """
    match = result.match(*probe)
    photo = result.image.copy()
    if threshold is not None:
        found = values >= threshold
        inside = np.roll(found, 1, 0) & np.roll(found, -1, 0) & np.roll(found, 1, 1) & np.roll(found, -1, 1)
        photo[found & ~inside] = [int(RING[at : at + 2], 16) for at in (1, 3, 5)]
    heat = matplotlib.colormaps[COLOURS](values / end, bytes=True)[..., :3]
    normal = result.normal_image(match.image)
    pictures = [_draw(pixels, at) for pixels, at in ((photo, probe), (heat, probe), (normal, (match.row, match.col)))]
    width, height = pictures[0].size
    sheet = Image.new("RGB", (3 * width + 2 * _GAP, height), "white")
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number * (width + _GAP), 0))
    return encode_png(np.asarray(sheet))


def _draw(pixels: np.ndarray, at: tuple[int, int]) -> Image.Image:
    scale = _SIDE / max(pixels.shape[:2])
    picture = Image.fromarray(pixels).resize(tuple(round(side * scale) for side in pixels.shape[1::-1]))
    y, x = ((place + 0.5) * scale for place in at)
    pen = ImageDraw.Draw(picture)
    for radius, width, colour in ((12, 6, "white"), (11, 3, RING)):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=width)
    return picture
