"""Connected regions of a thresholded map: where a defect lies, how large it is, and which normal pixel explains it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_dilation, binary_erosion, find_objects, label

from spade_kit.correspondence import Correspondence
from spade_kit.features.crops import Crop
from spade_kit.retrieval import Neighbours

_BOX = ("top", "left", "bottom", "right")
_SMALL, _LARGE = 512, 1024  # px: the long side of a picture with outlines
_RING, _DARK = (213, 94, 0), (34, 34, 34)  # as in figures, and around it
_LETTER = 18  # px


def find_regions(
    judged: Float[np.ndarray, "H W"], threshold: float, crop: Crop, found: Correspondence, neighbours: Neighbours
) -> pandas.DataFrame:
    """The 8-connected pixels of a map at or above a threshold, the most anomalous region first: `Result.regions`."""
    reached = judged >= threshold
    labels, count = label(reached, np.ones((3, 3)))
    inside = np.flatnonzero(reached)
    regions = pandas.Series(judged.ravel()[inside].astype(float), inside).groupby(labels.ravel()[inside])
    row, col = np.unravel_index(regions.idxmax().to_numpy(), judged.shape)  # ties go to the first pixel
    image, normal_row, normal_col = found.nearest_at(found.cell_of(row, col, judged.shape), judged.shape)
    boxes = find_objects(labels)
    ends = np.array([[(side.start, side.stop) for side in box] for box in boxes], int).reshape(-1, 2, 2)
    columns: dict[str, np.ndarray] = {
        **dict(zip(_BOX, np.array([_place(crop, *box) for box in boxes], int).reshape(-1, 4).T)),
        "area": regions.size().to_numpy() * np.prod(crop.photo) / np.prod(crop.scaled),
        "peak": judged[row, col],
        "row": row,
        "col": col,
        "mean": regions.mean().to_numpy(),
        "normal": neighbours.index[image],
        "normal_row": normal_row,
        "normal_col": normal_col,
        "at_edge": ((ends == 0) | (ends == np.array(judged.shape)[:, None])).any((1, 2)),
    }
    frame = pandas.DataFrame(columns).sort_values("peak", ascending=False, kind="stable")
    return frame.set_axis(pandas.RangeIndex(1, count + 1, name="region"))


def draw_regions(
    image: UInt8[np.ndarray, "H W 3"],
    judged: Float[np.ndarray, "h w"],
    threshold: float,
    crop: Crop,
    regions: pandas.DataFrame,
) -> UInt8[np.ndarray, "y x 3"]:
    """An original image, its long side 512 to 1,024 px, with its regions outlined and numbered beside their peaks."""
    scale = min(max(*image.shape[:2], _SMALL), _LARGE) / max(image.shape[:2])
    height, width = (max(round(side * scale), 1) for side in image.shape[:2])
    pixels = np.array(Image.fromarray(image).resize((width, height)))
    smaller = replace(crop, photo=(height, width))
    reached = smaller.put_back(judged) >= threshold  # nowhere outside the crop
    line = reached & ~binary_erosion(reached, iterations=2)
    pixels[binary_dilation(line)] = _DARK
    pixels[line] = _RING
    picture = Image.fromarray(pixels)
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(_LETTER)
    for number, (y, x) in zip(regions.index, smaller.on_photo(regions[["row", "col"]].to_numpy(float))):
        left = x > width / 2  # towards the middle
        at = x - _LETTER / 2 if left else x + _LETTER / 2, min(max(y, _LETTER), height - _LETTER)
        pen.text(at, str(number), "white", font, "rm" if left else "lm", stroke_width=3, stroke_fill=_DARK)
    return np.asarray(picture)


def _place(crop: Crop, rows: slice, columns: slice) -> Int[np.ndarray, "4"]:
    """A box of the map in pixels of the original image: those whose centre it contains, at least one."""
    (top, left), size = crop.offset, (rows.stop - rows.start, columns.stop - columns.start)
    offset = top + rows.start, left + columns.start
    box = replace(crop, offset=offset, size=size).box
    middle = ((np.array(offset) + np.array(size) / 2) * crop.photo / crop.scaled).astype(int)
    return np.append(np.minimum(box[:2], middle), np.maximum(box[2:], middle + 1))
