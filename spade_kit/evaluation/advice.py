"""What to change next: what a report shows, in at most five remarks, each with the figure that it rests on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas
from scipy.ndimage import distance_transform_edt

from spade_kit.batch import FPR, choose_rate
from spade_kit.datasets.samples import GOOD
from spade_kit.evaluation.map_store import Judged
from spade_kit.features.backbones import SIDES
from spade_kit.features.crops import GRID, Cropping
from spade_kit.scores import count_needed
from spade_kit.spade import SPADE

_CONFIDENCE = 0.95


def examine(spade: SPADE) -> dict[str, Any]:
    """What `advise` needs to know of a fit: the number of different normal images and, if there are two, the threshold
    for images that `SPADE.predict_folder` takes, with the remark of `doubt_threshold`."""
    normals = len(spade.gallery.distinct)
    if not spade.gallery.comparable:
        return {"normals": normals}
    threshold, doubt = spade.calibration.examine_threshold(spade.options, choose_rate(normals), "image")
    return {"normals": normals, "threshold": threshold, "doubt": doubt}


def advise(rows: pandas.DataFrame, judged: Callable[[int], Judged | None], facts: Mapping[str, Any]) -> list[str]:
    """See `Report.advice`; ``facts`` are those of `examine`, and ``outside``, the number of defects not on the crop."""
    done = rows[rows["image_score"].notna()]
    defects = done[done["label"].notna() & (done["label"] != GOOD)]
    remarks = [
        facts.get("doubt"),
        _describe_outside(facts.get("outside", 0), len(defects)),
        _describe_squash(done, judged),
        _describe_missed(defects[defects["image_score"] < facts.get("threshold", -np.inf)], judged),
        _describe_normals(facts.get("normals")),
    ]
    return [remark for remark in remarks if remark]


def _describe_outside(outside: int, defects: int) -> str:
    told = f"{outside} of {defects} defects lie outside the evaluated crop or roi, where nothing is judged."
    return f"{told} Use load_backbone(..., crop=None), a larger resize, or a larger roi." if outside else ""


def _describe_squash(done: pandas.DataFrame, judged: Callable[[int], Judged | None]) -> str:
    first = judged(done.index[0])
    if first is None or "squash" not in done:  # not in reports of version 0.1
        return ""
    scaled, size = first.crop.scaled, first.crop.size
    cropping = Cropping(min(scaled), None, size) if size == scaled else Cropping(scaled[0], size[0])
    return cropping.describe_squash([PurePosixPath(path).name for path in done["path"]], done["squash"].tolist())


def _describe_missed(missed: pandas.DataFrame, judged: Callable[[int], Judged | None]) -> str:
    """A remark on missed defects that are narrower than a cell of the grid, and at which size they are not."""
    known = [one for at in missed.index if (one := judged(at)) is not None and one.mask is not None and one.mask.any()]
    widths = [_measure_width(one) for one in known]
    thin = [at for at, (cells, _) in enumerate(widths) if cells < 1]
    if not thin:
        return ""
    narrowest = min(thin, key=lambda at: widths[at][0])
    (cells, px), crop = widths[narrowest], known[narrowest].crop
    size = GRID * ceil(round(min(crop.scaled) / cells / GRID, 6))
    told = f"{len(thin)} of {len(known)} missed defects are narrower than a cell of the grid: the narrowest is "
    told += f"{px:.3g} px wide in the image, a cell {px / cells:.3g} px. "
    if size > min(*crop.photo, SIDES[1]):
        return f"{told}The image has no more pixels to show it: take images at a higher resolution."
    return f"{told}Use SPADE.recommended(size={size})."


def _measure_width(judged: Judged) -> tuple[float, float]:
    """The width of an image's widest defect where it is widest, in cells of the grid and in pixels of the image."""
    assert judged.mask is not None
    inside = np.pad(np.kron(judged.mask, np.ones((2, 2))), 1)  # of two pixels for each, so that a middle is one
    width = float(distance_transform_edt(inside).max())
    crop = judged.crop
    cells = width * np.sqrt(np.prod(judged.distance.shape) / np.prod(crop.size))
    return cells, width * np.sqrt(np.prod(crop.photo) / np.prod(crop.scaled))


def _describe_normals(normals: int | None) -> str:
    """How many normal images a false-alarm rate needs, if there are fewer."""
    needed, certain = ceil(1 / FPR) - 1, count_needed(FPR, _CONFIDENCE)
    if normals is None or normals >= certain:
        return ""
    told = f"{normals} different normal {'image was' if normals == 1 else 'images were'} fitted: "
    sure = f"{certain} to hold with {100 * _CONFIDENCE:g} % confidence"
    if normals >= needed:
        return f"{told}a false-alarm rate of {100 * FPR:g} % holds on average. Fit {sure}."
    lowest = f"the lowest false-alarm rate is {100 / (normals + 1):.2g} %"
    return f"{told}{lowest}. For {100 * FPR:g} % fit {needed}, and {sure}."
