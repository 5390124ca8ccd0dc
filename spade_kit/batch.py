"""Predict a whole folder of images and write a table and pictures; an interrupted run can be resumed."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from spade_kit._arguments import warn
from spade_kit._files import (
    STATE,
    Item,
    Row,
    RunFolder,
    as_folder,
    as_text,
    check_is_no_file,
    encode_png,
    encode_tiff,
    shorten,
    write_whole,
)
from spade_kit._progress import track
from spade_kit.datasets.images import (
    FORMATS,
    RESULTS,
    UNSUPPORTED,
    find_locked,
    holds_picture,
    list_once,
    pictures_below,
)
from spade_kit.datasets.layouts import check_folder, count, name_some
from spade_kit.datasets.pairing import pair
from spade_kit.datasets.samples import explain_memory

FPR = 0.05  # default rate, unless there are too few normal images to estimate it
PIXEL_FPR = 0.01  # of the outlines: the default of `SPADE.threshold`
COLUMNS: dict[str, Callable[[str], Any]] = {  # name -> parser of its cells
    **{"path": str, "verdict": str, "image_score": float, "retrieval_score": float, "threshold": float},
    **{"nearest_normal": str, "row": int, "col": int},
    **{"judged": float, "squash": float, "reason": str},
    **STATE,
}
NOT_JUDGED = "not judged"


def predict_folder(
    spade: Any, folder: str | Path, out: str | Path, fpr: float | None = None, *, maps: bool = True
) -> pandas.DataFrame:
    """See `SPADE.predict_folder`; ``spade`` is a SPADE, which imports this module."""
    folder, out = check_folder(as_folder("folder", folder)), as_folder("out", out)
    check_is_no_file(out)
    photos = _list_photos(folder)
    normals = len(spade.gallery.distinct)
    smallest = 1 / (normals + 1)  # rate that this many normal images can estimate
    rate = max(FPR, smallest) if fpr is None else fpr
    threshold, doubt = spade.calibration.examine_threshold(spade.options, rate, "image")
    outline, _ = spade.calibration.examine_threshold(spade.options, PIXEL_FPR, "pixel")
    kinds = {"segmentations": ".png"} | ({"maps": ".tiff"} if maps else {})
    items = [
        Item(
            {"path": as_text(photo)},
            [folder / photo],
            [out / kind / f"{name}{suffix}" for kind, suffix in kinds.items()],
        )
        for photo, name in zip(photos, _name_outputs(photos))
    ]
    run = RunFolder(out, "results.csv", COLUMNS, RESULTS)
    manifest = spade.describe_run() | {"input": as_text(folder.resolve()), "rate": rate, "threshold": threshold}
    manifest["pixel_threshold"] = outline
    with run.claim(manifest):
        judged = run.resume(items, partial(_judge, spade, threshold, outline))
        rows = list(track(judged, total=len(items), desc="images"))
        run.write(rows)
    unsaid = {"nearest_normal": "", "reason": "", "sha256": ""}
    frame = pandas.DataFrame([unsaid | row for row in rows], columns=list(COLUMNS))
    done = frame.dropna(subset="judged")
    cropping = spade.gallery.cropping
    covered = cropping.describe_coverage(done["path"].tolist(), done["judged"].tolist(), done["squash"].tolist())
    print(*filter(None, [_conclude(frame, max(rate, smallest), threshold, normals), covered, doubt]))
    return frame.astype(dict.fromkeys(("row", "col", "bytes", "modified"), "Int64"))  # may be missing


def _judge(spade: Any, threshold: float, outline: float, item: Item) -> Row:
    """Judge an image and write its pictures; if it cannot be judged, return only the reason."""
    try:
        return _judge_and_write(spade, threshold, outline, item)
    except MemoryError as problem:
        return {"verdict": NOT_JUDGED, "reason": explain_memory(problem)}


def _judge_and_write(spade: Any, threshold: float, outline: float, item: Item) -> Row:
    """Images are judged by ``threshold``, their pixels by ``outline``."""
    (photo,), (segmentation, *raw) = item.sources, item.files
    try:
        result = spade.judge(photo)
    except (ValueError, OSError) as problem:
        return {"verdict": NOT_JUDGED, "reason": str(problem)}
    judged = result.crop.put_back(result.judged_map)
    write_whole(segmentation, encode_png(judged >= outline))
    for file in raw:
        write_whole(file, encode_tiff(judged if result.judged_map is result.anomaly_map else result.on_photo()))
    row, col = np.unravel_index(np.nanargmax(judged), judged.shape)
    nearest = int(result.neighbours.index[0])
    sample = spade.gallery.normals[nearest].sample
    return {
        "verdict": "anomalous" if result.image_score >= threshold else "normal",
        "image_score": _six_digits(result.image_score),
        "retrieval_score": _six_digits(result.retrieval_score),
        "threshold": _six_digits(threshold),
        "nearest_normal": str(nearest) if sample is None else as_text(sample.path.name),
        "row": int(row),
        "col": int(col),
        "judged": round(result.crop.judged, 4),
        "squash": round(result.crop.squash, 4),
    }


def _list_photos(folder: Path) -> list[Path]:
    """Relative paths of all images in a folder and below, except results; warns about unsupported formats."""
    with list_once() as listed:
        found = pictures_below(folder)
        photos = pair(found, folder)[0] or found
    find_locked(listed.values())
    if not photos:
        raise FileNotFoundError(
            f"No images found in {as_text(folder)}. Convert files to a supported format: {', '.join(FORMATS)}."
        )
    if masks := sorted({*found} - {*photos}):
        warn(f"{count(masks, 'mask')} not judged: {name_some(masks)}. If they are images, change their names.")
    rest = [path for listing in listed.values() for path in listing.others]
    others = [path for path in rest if path.suffix.lower() in UNSUPPORTED]
    if others:
        warn(f"{count(others, 'image')} of unsupported formats not judged: {name_some(others)}. Convert them to PNG.")
    if unnamed := [path for path in rest if path not in others and holds_picture(path)]:
        warn(f"{count(unnamed, 'image')} with an unknown extension not judged: {name_some(unnamed)}. Rename them.")
    return [photo.relative_to(folder) for photo in photos]


def _name_outputs(photos: list[Path]) -> list[Path]:
    """Names of outputs without their suffix: the image's name without its own suffix, with it, or with a hash.

    Each image gets the first that no other image and no folder can have, even where upper and lower case are the same.
    """
    choices = [[photo.with_name(shorten(name)) for name in (photo.stem, photo.name)] for photo in photos]
    wanted = Counter(name for both in choices for name in {_fold(name) for name in both})
    taken = {_fold(folder.with_suffix("")) for photo in photos for folder in photo.parents if folder.suffix}
    free = [[name for name in both if wanted[_fold(name)] == 1 and _fold(name) not in taken] for both in choices]
    return [first[0] if first else photo.with_name(shorten(photo.name, True)) for photo, first in zip(photos, free)]


def _fold(name: Path) -> str:
    return unicodedata.normalize("NFC", str(name)).casefold()


def _six_digits(value: float) -> float:
    return float(f"{value:.6g}")


def _conclude(frame: pandas.DataFrame, rate: float, threshold: float, normals: int) -> str:
    counts = frame["verdict"].value_counts()
    lost = counts.get(NOT_JUDGED, 0)
    return (
        f"{len(frame)} images: {counts.get('anomalous', 0)} reach the threshold of {threshold:.4g}, as about "
        f"{100 * rate:.2g} % of normal images do (estimated from {normals})"
        f"{f'; {lost} not judged, see the column reason' if lost else ''}. The table is results.csv."
    )
