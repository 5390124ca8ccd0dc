"""Predict a whole folder of images and write a table and pictures; an interrupted run can be resumed."""

from __future__ import annotations

import os
import pickle
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from math import nan
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np
import pandas
from jaxtyping import UInt8

from spade_kit._arguments import check_switch, hold_warnings, warn
from spade_kit._files import (
    STATE,
    Item,
    Row,
    RunFolder,
    as_folder,
    as_text,
    check_is_no_file,
    check_shared,
    encode_png,
    encode_rows,
    encode_tiff,
    shorten,
    write_whole,
)
from spade_kit._work import crew, hand_out
from spade_kit.datasets import images
from spade_kit.datasets.layouts import check_folder, count, name_some
from spade_kit.datasets.pairing import pair
from spade_kit.datasets.samples import Photo, Sample, explain_memory
from spade_kit.evaluation.page import NOT_JUDGED, PAGE, write_page
from spade_kit.evaluation.regions import draw_regions
from spade_kit.features.crops import Crop
from spade_kit.features.pyramid import Pyramid, compute_each, in_batches, try_to_read
from spade_kit.gallery.gallery import QueryImage, digest
from spade_kit.options import Options
from spade_kit.result import Result

FPR = 0.05  # default rate, unless there are too few normal images to estimate it
PIXEL_FPR = 0.01  # of the outlines: the default of `SPADE.threshold`
COLUMNS: dict[str, Callable[[str], Any]] = {  # name -> parser of its cells
    **{"path": str, "verdict": str, "image_score": float, "retrieval_score": float, "threshold": float},
    **{"nearest_normal": str, "row": int, "col": int, "regions": int, "area": float},
    **{"judged": float, "squash": float, "reason": str},
    **STATE,
}
REGIONS: dict[str, Callable[[str], Any]] = {  # the columns of regions.csv
    **{"path": str, "region": int, "top": int, "left": int, "bottom": int, "right": int, "area": float, "peak": float},
    **{"row": int, "col": int, "mean": float, "normal": int, "normal_row": int, "normal_col": int},
    "at_edge": lambda cell: bool(("FALSE", "TRUE").index(cell.upper())),
}
_LOST = (MemoryError, images.UnreadablePhotoError, FileNotFoundError)  # an image that is gone has no overlay
Finish: TypeAlias = "Callable[[Item, Any, Result | Exception, float], Row]"  # the second is the photo


def predict_folder(
    spade: Any, folder: Any, out: Any, fpr: float | None, written: Mapping[str, bool], jobs: int, client: Any
) -> pandas.DataFrame:
    """See `SPADE.predict_folder`; ``spade`` is a SPADE, which imports this module.

    ``written`` says whether there are ``maps``, ``overlays`` and a ``report``.
    """
    folder, out = check_folder(as_folder("folder", folder)), as_folder("out", out)
    if jobs != 1 or client is not None:  # workers may have another working directory
        folder, out = folder.resolve(), out.resolve()
    check_is_no_file(out)
    wanted = {name: check_switch(name, asked) for name, asked in written.items()}
    photos = _list_photos(folder)
    normals = len(spade.gallery.distinct)
    smallest = 1 / (normals + 1)  # rate that this many normal images can estimate
    rate = choose_rate(normals) if fpr is None else fpr
    threshold, doubt = spade.calibration.examine_threshold(spade.options, rate, "image")
    outline, _ = spade.calibration.examine_threshold(spade.options, PIXEL_FPR, "pixel")
    endings = {"segmentations": ".png", "maps": ".tiff", "overlays": ".png"}

    def list_files(name: Path) -> list[Path]:
        """Those asked for, and those of an earlier run, which must not stay as they are if the image was replaced."""
        files = {kind: out / kind / f"{name}{ending}" for kind, ending in endings.items()}
        return [file for kind, file in files.items() if wanted.get(kind, True) or os.path.isfile(file)]

    items = [
        Item({"path": as_text(photo)}, [folder / photo], list_files(name))
        for photo, name in zip(photos, _name_outputs(photos))
    ]
    run = RunFolder(out, "results.csv", COLUMNS, (*images.RESULTS, PAGE), {"regions.csv": REGIONS})
    manifest = spade.describe_run() | {"input": as_text(folder.resolve()), "rate": rate, "threshold": threshold}
    manifest["pixel_threshold"] = outline
    with crew(jobs, client) as workers, run.claim(manifest):
        with suppress(OSError):
            (out / PAGE).unlink()  # of earlier results
        judge = judge_on(workers, spade, out, partial(_finish, threshold, outline))
        rows = run.resume(items, lambda some: judge([(item, item.sources[0]) for item in some]))
        unsaid = {"nearest_normal": "", "reason": "", "sha256": ""}
        frame = pandas.DataFrame([unsaid | row for row in rows], columns=list(COLUMNS))
        done = frame.dropna(subset="judged")
        cropping = spade.gallery.cropping
        covered = cropping.describe_coverage(done["path"].tolist(), done["judged"].tolist(), done["squash"].tolist())
        if wanted["report"]:
            found = [item.sources[0] for item in items]
            write_page(out, spade, frame, found, manifest | {"pixel_rate": PIXEL_FPR}, "results.csv", [covered, doubt])
    print(*filter(None, [_conclude(frame, max(rate, smallest), threshold, normals), covered, doubt]))
    return frame.astype(dict.fromkeys(("row", "col", "regions", "bytes", "modified"), "Int64"))  # may be missing


def choose_rate(normals: int) -> float:
    """The default rate of false alarms, or the smallest that so many normal images can estimate."""
    return max(FPR, 1 / (normals + 1))


def judge_all(spade: Any, photos: Sequence[Photo]) -> Iterator[tuple[Result | Exception, float]]:
    """The results of images in order, or why one cannot be judged, and the seconds that a core spent on each."""
    return in_batches(partial(_judge_batch, spade), photos, spade.backbone, spade.gallery.cropping)


def _judge_batch(spade: Any, photos: Sequence[Photo]) -> list[tuple[Result | Exception, float]]:
    start = perf_counter()
    read = [try_to_read(photo, spade.gallery.cropping) for photo in photos]
    features = iter(compute_each([found[1] for found in read if not isinstance(found, Exception)], spade.backbone))
    spade.backbone.check_unchanged(quickly=True)
    judged = [
        found if isinstance(found, Exception) else _judge(spade, photo, *found, next(features))
        for photo, found in zip(photos, read)
    ]
    seconds = (perf_counter() - start) / len(photos)
    return [(found, seconds) for found in judged]


def _judge(
    spade: Any, photo: Photo, place: Crop, crop: UInt8[np.ndarray, "H W 3"], features: Pyramid | Exception
) -> Result | Exception:
    if isinstance(features, Exception):
        return features
    sample = photo if isinstance(photo, Sample) else None
    try:
        return spade.judge(QueryImage(features, crop, place, sample, digest(crop)))
    except (ValueError, OSError, MemoryError) as problem:
        return problem


def judge_items(spade: Any, given: Sequence[tuple[Item, Photo]], finish: Finish) -> Iterator[tuple[int, Row]]:
    """Judge the photo of each item, and yield their complete rows in order.

    ``finish(item, photo, found, seconds)`` writes the files of a result, and returns its row, or that of an image that
    could not be judged.
    """

    def work(some: Sequence[tuple[Item, Photo]]) -> Iterator[Row]:
        states = [item.state for item, _ in some]  # before the images are read
        judged = _judge_batch(spade, [photo for _, photo in some])
        for (item, photo), found, state in zip(some, judged, states):
            yield item.complete(finish(item, photo, *found), state)

    yield from enumerate(in_batches(work, given, spade.backbone, spade.gallery.cropping))


@dataclass(frozen=True)
class Fit:
    """A fit as workers find it: they load it once, and check that it is the one that was meant."""

    folder: Path
    load: Callable[..., Any]  # `SPADE.load`
    mark: tuple[str, ...]  # of the weights, the normal images and their roi
    device: str
    options: Options = field(compare=False)
    look: bytes | None  # the function given as roi, pickled with the code that it consists of

    @classmethod
    def of(cls, spade: Any, out: Path) -> Fit:
        """Where a SPADE was saved or loaded, or else a copy that is saved now, for this run."""
        spade.backbone.check_named()
        if spade.folder is None and not (out / "fit" / "spade.json").is_file():
            spade.save(out / "fit")
        folder = (out / "fit" if spade.folder is None else spade.folder).resolve()
        look = None
        if spade.roi is not None and spade.roi.function is not None:
            from cloudpickle import dumps  # which Dask needs

            look = dumps(spade.roi.function)
        return cls(folder, spade.load, _mark(spade), spade.backbone.device.type, spade.options, look)

    def open(self) -> Any:
        with _opening:
            spade = _open(self)
        return spade.under(self.options)


_opening = Lock()  # a worker with several threads loads once


@lru_cache(maxsize=1)
def _open(fit: Fit) -> Any:
    check_shared(fit.folder)
    spade = fit.load(fit.folder, device=fit.device, roi=fit.look and pickle.loads(fit.look))
    if _mark(spade) != fit.mark:
        raise ValueError(f"{as_text(fit.folder)} holds another fit now. Save this one again, or load that one.")
    return spade


def _mark(spade: Any) -> tuple[str, ...]:
    run = spade.describe_run()
    return run["weights_sha256"], run["normals_sha256"], spade.gallery.roi_mark


def judge_on(
    workers: Any, spade: Any, out: Path, finish: Finish
) -> Callable[[Sequence[tuple[Item, Photo]]], Iterator[tuple[int, Row]]]:
    """`judge_items`, by the workers of a client, if there is one."""
    if workers is None:
        return lambda given: judge_items(spade, given, finish)
    work = partial(_judge_chunk, Fit.of(spade, out), out, finish)

    def judge(given: Sequence[tuple[Item, Photo]]) -> Iterator[tuple[int, Row]]:
        for at, row in hand_out(workers, work, given):
            item, photo = given[at]
            yield at, item.complete(finish(item, photo, row, nan), item.state) if isinstance(row, Exception) else row

    return judge


def _judge_chunk(fit: Fit, out: Path, finish: Finish, given: Sequence[tuple[Item, Photo]]) -> list[Row]:
    """On a worker."""
    for folder in (out, given[0][0].sources[0].parent):
        check_shared(folder)
    return [row for _, row in judge_items(fit.open(), given, finish)]


def explain(problem: Exception) -> str:
    return explain_memory(problem) if isinstance(problem, MemoryError) else str(problem)


def _finish(
    threshold: float, outline: float, item: Item, photo: Photo, found: Result | Exception, seconds: float
) -> Row:
    """Write the pictures of a result; images are judged by ``threshold``, their pixels by ``outline``."""
    del photo, seconds
    try:
        if isinstance(found, Exception):
            return {"verdict": NOT_JUDGED, "reason": explain(found)}
        return _write(found, item, threshold, outline)
    except _LOST as problem:
        return {"verdict": NOT_JUDGED, "reason": explain(problem)}


def _write(result: Result, item: Item, threshold: float, outline: float) -> Row:
    segmentation, *others = item.files
    by_excess = result.spade.options.judged == "excess" and result.place_level is not None
    complete = result.excess_map if by_excess else result.anomaly_map
    judged = result.crop.put_back(complete)
    write_whole(segmentation, encode_png(judged >= outline))
    found = result.regions(outline)
    for file in others:
        if file.suffix == ".tiff":
            write_whole(file, encode_tiff(result.on_photo() if by_excess else judged))
        else:
            with hold_warnings():  # which were given when it was judged
                image = images.read_image(item.sources[0])
            write_whole(file, encode_png(draw_regions(image, complete, outline, result.crop, found)))
    row, col = np.unravel_index(np.nanargmax(judged), judged.shape)
    regions = [item.name | region for region in _list_regions(found)]
    nearest = int(result.neighbours.index[0])
    sample = result.spade.gallery.normals[nearest].sample
    return {
        "verdict": "anomalous" if result.image_score >= threshold else "normal",
        "image_score": _six_digits(result.image_score),
        "retrieval_score": _six_digits(result.retrieval_score),
        "threshold": _six_digits(threshold),
        "nearest_normal": str(nearest) if sample is None else as_text(sample.path.name),
        "row": int(row),
        "col": int(col),
        "regions": len(regions),
        "area": round(sum((row["area"] for row in regions), 0.0), 1),
        "regions.csv": encode_rows(regions, REGIONS),
        "judged": round(result.crop.judged, 4),
        "squash": round(result.crop.squash, 4),
    }


def _list_regions(regions: pandas.DataFrame) -> Iterator[Row]:
    for cells in regions.itertuples(name=None):
        row = dict(zip(["region", *regions], cells))
        shortened = {name: _six_digits(row[name]) for name in ("peak", "mean")}
        yield row | shortened | {"area": round(row["area"], 1)}


def _list_photos(folder: Path) -> list[Path]:
    """Relative paths of all images in a folder and below, except results, also of those that cannot be read."""
    with images.list_once() as listed:
        found = images.pictures_below(folder)
        photos = pair(found, folder)[0] or found
    images.find_locked(listed.values())
    if not photos:
        raise FileNotFoundError(
            f"No images found in {as_text(folder)}. Convert files to a supported format: {', '.join(images.FORMATS)}."
        )
    if masks := sorted({*found} - {*photos}):
        warn(f"{count(masks, 'mask')} not judged: {name_some(masks)}. If they are images, change their names.")
    rest = [path for listing in listed.values() for path in listing.others]
    unnamed = [path for path in rest if images.holds_picture(path)]
    others = [path for path in rest if path.suffix.lower() in images.UNSUPPORTED and path not in unnamed]
    if others:
        warn(f"{count(others, 'image')} of unsupported formats not judged: {name_some(others)}. Convert them to PNG.")
    if unnamed:
        warn(f"{count(unnamed, 'image')} with an unknown extension, known by their content: {name_some(unnamed)}.")
    return [photo.relative_to(folder) for photo in sorted([*photos, *others, *unnamed], key=images.natural_order)]


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
