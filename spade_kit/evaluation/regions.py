"""Connected regions of a thresholded map: where a defect lies, how large it is, and which normal pixel explains it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas
from jaxtyping import Float
from scipy.ndimage import find_objects, label

from spade_kit.correspondence import Correspondence
from spade_kit.features.crops import Crop
from spade_kit.retrieval import Neighbours

_BOX = ("top", "left", "bottom", "right")


def find_regions(
    judged: Float[np.ndarray, "H W"], threshold: float, crop: Crop, found: Correspondence, neighbours: Neighbours
) -> pandas.DataFrame:
    """The 8-connected pixels of a map at or above a threshold, the most anomalous region first: `Result.regions`."""
    labels, count = label(judged >= threshold, np.ones((3, 3)))
    inside = np.flatnonzero(labels)
    values, own = judged.flat[inside], labels.flat[inside] - 1
    order = np.lexsort((inside, -values, own))  # by region, then by value; ties go to the first pixel
    peaks = order[np.searchsorted(own[order], np.arange(count))]
    pixels = np.bincount(own, minlength=count)
    row, col = np.unravel_index(inside[peaks], judged.shape)
    image, normal_row, normal_col = found.nearest_at(found.cell_of(row, col, judged.shape), judged.shape)
    slices = find_objects(labels)
    regions = pandas.DataFrame(
        {
            **dict(zip(_BOX, np.array([_place(crop, *ends) for ends in slices], int).reshape(-1, 4).T)),
            "area": pixels * np.prod(crop.photo) / np.prod(crop.scaled),
            "peak": values[peaks],
            "row": row,
            "col": col,
            "mean": np.bincount(own, values, minlength=count) / pixels,
            "normal": neighbours.index[image],
            "normal_row": normal_row,
            "normal_col": normal_col,
            "at_edge": [
                any(end.start == 0 or end.stop == side for end, side in zip(ends, judged.shape)) for ends in slices
            ],
        }
    ).astype({"at_edge": bool})
    regions = regions.sort_values("peak", ascending=False, kind="stable", ignore_index=True)
    regions.index = pandas.RangeIndex(1, count + 1, name="region")
    return regions


def _place(crop: Crop, rows: slice, columns: slice) -> tuple[int, int, int, int]:
    """A box of the map in pixels of the original image: those whose centre it contains, at least one."""
    (top, left), size = crop.offset, (rows.stop - rows.start, columns.stop - columns.start)
    offset = top + rows.start, left + columns.start
    first_row, first_col, last_row, last_col = replace(crop, offset=offset, size=size).box
    middle = [int((at + side / 2) * photo / scaled)
              for at, side, photo, scaled in zip(offset, size, crop.photo, crop.scaled)]  # fmt: skip
    return (
        min(first_row, middle[0]),
        min(first_col, middle[1]),
        max(last_row, middle[0] + 1),
        max(last_col, middle[1] + 1),
    )
