"""A whole folder of photographs in, a table and pictures out; interrupted, it goes on where it was."""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas

from spade_kit._files import (
    RECORD,
    changed_at,
    check_is_no_file,
    claim,
    describe_run,
    encode_png,
    encode_tiff,
    tell_of_failure,
    write_whole,
)
from spade_kit._progress import track
from spade_kit.datasets.images import FORMATS, is_picture, natural_order
from spade_kit.datasets.layouts import check_folder

if TYPE_CHECKING:
    from spade_kit.result import Result
    from spade_kit.spade import SPADE

FPR = 0.05  # of normal photographs, unless there are too few of them to say
_LONGEST_NAME = 255  # bytes, on nearly every file system


@dataclass(frozen=True)
class Row:
    """What is said of one photograph; where it could not be judged, only why."""

    path: str
    verdict: str
    image_score: float | None = None
    retrieval_score: float | None = None
    threshold: float | None = None
    nearest_normal: str = ""
    row: int | None = None
    col: int | None = None
    reason: str = ""


COLUMNS = [column.name for column in fields(Row)]
NOT_JUDGED = "not judged"


def predict_folder(spade: SPADE, folder: str | Path, out: str | Path, fpr: float | None = None) -> pandas.DataFrame:
    """See `SPADE.predict_folder`."""
    for name, given in (("folder", folder), ("out", out)):
        if not isinstance(given, (str, Path)):
            raise ValueError(f"predict_folder takes the path of a folder as {name}, but {given!r} came.")
    folder, out = check_folder(folder), Path(out).expanduser()
    check_is_no_file(out)
    photos = _list_photos(folder)
    smallest = 1 / (len(spade) + 1)  # rate that so many normal photographs can say something about
    rate = max(FPR, smallest) if fpr is None else fpr
    threshold = spade.threshold(rate, of="image")
    names = _name_outputs(photos)
    run = Run(spade, folder, out, threshold)
    rows = run.start({"rate": rate, "threshold": threshold}, names)
    with track(total=len(photos), desc="photos") as progress:
        for photo in photos:
            if photo.as_posix() not in rows:
                rows[photo.as_posix()] = run.judge(photo, names[photo])
            progress.update()
    frame = _make_frame(rows[photo.as_posix()] for photo in photos)
    run.write_table(frame)
    print(_conclude(frame, max(rate, smallest), threshold, len(spade)))
    return frame


class Run:
    """One folder under one fitted SPADE, its rows written as they come."""

    def __init__(self, spade: SPADE, folder: Path, out: Path, threshold: float) -> None:
        self.spade, self.folder, self.out, self.threshold = spade, folder, out, threshold
        self.table = out / "results.csv"

    def start(self, decided: dict[str, float], names: dict[Path, Path]) -> dict[str, Row]:
        """The rows that are there already, of photographs as they are now; another run's folder is refused."""
        if self.table.exists() and not (self.out / RECORD).is_file():
            raise ValueError(f"{self.out} holds a results.csv, but no {RECORD} that says of what. Take another folder.")
        claim(self.out, describe_run(self.spade) | decided)
        rows = self._read_rows()
        rows = {path.as_posix(): rows[path.as_posix()] for path in names if self._is_done(path, names[path], rows)}
        self.write_table(_make_frame(rows.values()))
        return rows

    def _is_done(self, photo: Path, name: Path, rows: dict[str, Row]) -> bool:
        """Whether a photograph has its row and both pictures, and was not replaced since."""
        pictures = [self._segmentation(name), self._map(name)]
        if photo.as_posix() not in rows or not all(path.is_file() for path in pictures):
            return False
        return changed_at(self.folder / photo) <= min(path.stat().st_mtime for path in pictures)

    def _segmentation(self, name: Path) -> Path:
        return self.out / "segmentations" / f"{name}.png"

    def _map(self, name: Path) -> Path:
        return self.out / "maps" / f"{name}.tiff"

    def _read_rows(self) -> dict[str, Row]:
        """Whole lines with whole pictures only; what could not be read is tried again."""
        if not self.table.is_file():
            return {}
        lines = self.table.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        rows = {}
        for cells in csv.DictReader(whole):
            if None not in cells.values() and cells["verdict"] != NOT_JUDGED:
                rows[cells["path"]] = _parse(cells)
        return rows

    def judge(self, photo: Path, name: Path) -> Row:
        """Judge a photograph; its pictures are written before its row."""
        path = photo.as_posix()
        try:
            result = self.spade._predict(self.folder / photo, leave_out=True)
        except (ValueError, OSError) as problem:
            row = Row(path, NOT_JUDGED, reason=str(problem))
        else:
            on_photo = np.nan_to_num(result.on_photo(), nan=0.0)  # a distance is at least 0
            row = self._make_row(path, result, on_photo)
            write_whole(self._segmentation(name), encode_png(on_photo >= self.threshold))
            write_whole(self._map(name), encode_tiff(on_photo))
        tell_of_failure(self.table, lambda: self._append(row))
        return row

    def _make_row(self, path: str, result: Result, on_photo: np.ndarray) -> Row:
        row, col = np.unravel_index(on_photo.argmax(), on_photo.shape)
        nearest = int(result.neighbours.index[0])
        sample = self.spade._fitted.normals[nearest].sample
        verdict = "anomalous" if result.image_score >= self.threshold else "normal"
        named = str(nearest) if sample is None else sample.path.name
        return Row(
            path=path,
            verdict=verdict,
            image_score=_six_digits(result.image_score),
            retrieval_score=_six_digits(result.retrieval_score),
            threshold=_six_digits(self.threshold),
            nearest_normal=named,
            row=int(row),
            col=int(col),
        )

    def write_table(self, frame: pandas.DataFrame) -> None:
        write_whole(self.table, frame.to_csv(index=False, lineterminator="\n").encode())

    def _append(self, row: Row) -> None:
        with open(self.table, "a", encoding="utf-8", newline="") as lines:
            csv.writer(lines, lineterminator="\n").writerow(["" if v is None else v for v in asdict(row).values()])


def _list_photos(folder: Path) -> list[Path]:
    """All pictures in a folder and below, as paths from it on, but for results; links to folders are not followed."""
    photos = []
    for place, folders, files in os.walk(folder):
        if RECORD in files:
            folders[:] = [name for name in folders if name not in ("maps", "segmentations")]
        photos += [(Path(place) / name).relative_to(folder) for name in files if is_picture(Path(name))]
    if not photos:
        raise FileNotFoundError(
            f"Photos were expected in {folder}, but there are none. {', '.join(FORMATS)} are read: convert others."
        )
    return sorted(photos, key=natural_order)


def _name_outputs(photos: list[Path]) -> dict[Path, Path]:
    """Without the ending where that leaves one photo a name, and short enough for .tiff behind it."""
    stems = Counter(photo.with_suffix("") for photo in photos)
    names = {photo: photo.with_suffix("") if stems[photo.with_suffix("")] == 1 else photo for photo in photos}
    return {photo: name.with_name(_shorten(name.name)) for photo, name in names.items()}


def _shorten(name: str) -> str:
    room = _LONGEST_NAME - len(".tiff")
    content = os.fsencode(name)
    if len(content) <= room:
        return name
    mark = hashlib.sha256(content).hexdigest()[:8]
    return content[: room - 9].decode("utf-8", "ignore") + f"-{mark}"


def _six_digits(value: float) -> float:
    return float(f"{value:.6g}")


def _parse(cells: dict[str, str]) -> Row:
    values: dict[str, Any] = dict(cells)
    values |= {name: float(cells[name]) for name in ("image_score", "retrieval_score", "threshold")}
    values |= {name: int(cells[name]) for name in ("row", "col")}
    return Row(**values)


def _make_frame(rows: Iterable[Row]) -> pandas.DataFrame:
    frame = pandas.DataFrame([asdict(row) for row in rows], columns=COLUMNS)
    return frame.astype({"row": "Int64", "col": "Int64"})  # which may be unknown


def _conclude(frame: pandas.DataFrame, rate: float, threshold: float, normals: int) -> str:
    counts = frame["verdict"].value_counts()
    lost = counts.get(NOT_JUDGED, 0)
    return (
        f"{len(frame)} photos: {counts.get('anomalous', 0)} reach the threshold of {threshold:.4g}, which about "
        f"{100 * rate:.2g} % of normal photos do, judged by {normals} of them"
        f"{f'; {lost} not judged, see the reasons' if lost else ''}. The table is results.csv."
    )
