"""A folder for one run, and files that are written completely or not at all."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO, StringIO
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import numpy as np
from filelock import FileLock, Timeout
from jaxtyping import Float
from PIL import Image

MANIFEST = "run.json"
_UNFINISHED = ".writing"  # the suffix of incomplete files
Row: TypeAlias = "dict[str, Any]"  # an empty cell is None, or missing


@dataclass(frozen=True)
class Item:
    """One image of a run: the cells that identify its row, its source files and its output files."""

    name: Row
    sources: Sequence[Path]
    files: Sequence[Path]

    def is_done(self) -> bool:
        """Whether its output files exist, and no source has changed since."""
        if not all(file.is_file() for file in self.files):
            return False
        states = [source.stat() for source in self.sources if source.exists()]
        changed = max((max(state.st_mtime, state.st_ctime) for state in states), default=0)  # copying keeps st_mtime
        return changed <= min(file.stat().st_mtime for file in self.files)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run: the run manifest ``run.json``, and a table that gets a row per image, after its files."""

    folder: Path
    table: str
    columns: Mapping[str, Callable[[str], Any]]  # name -> parser of its cells

    @contextmanager
    def claim(self, run: dict[str, Any]) -> Iterator[None]:
        """Lock the folder for a run; raise if it holds another run or is being written."""
        folder = self.folder
        check_is_no_file(folder)
        with explain_failure(folder, self._lock):  # an OS lock: released when the process ends, even if killed
            before = read_manifest(folder)
            if not before and (folder / self.table).exists():
                raise ValueError(
                    f"{folder} holds a {self.table} but no {MANIFEST}, so its run is unknown. Use another folder."
                )
            changed = [name for name in run if before and before.get(name) != run[name]]
            if changed:
                told = ", ".join(f"{name} was {before.get(name)!r} and is now {run[name]!r}" for name in changed)
                raise ValueError(f"{folder} holds results of another run: {told}. Use another folder.")
            write_whole(folder / MANIFEST, json.dumps(run, indent=1).encode())
            yield

    def _lock(self) -> AbstractContextManager:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            return FileLock(self.folder / ".lock").acquire(timeout=0)
        except Timeout as held:
            raise ValueError(
                f"{self.folder} is being written by another run. Wait until it ends, or use another folder."
            ) from held

    def resume(self, items: Sequence[Item], judge: Callable[[Item], Row]) -> Iterator[Row]:
        """Yield the rows of all items: existing rows of finished items, rows from ``judge`` for the others.

        Items that could not be judged are tried again. Incomplete files of a killed run are removed.
        """
        for place in {self.folder, *(file.parent for item in items for file in item.files)}:
            for left in place.glob(f".*{_UNFINISHED}"):
                left.unlink(missing_ok=True)
        known = {tuple(map(row.get, items[0].name)): row for row in self._read() if "reason" not in row}
        rows = [known.get(tuple(item.name.values())) if item.is_done() else None for item in items]
        self.write(filter(None, rows))  # an old row must not stay beside new files of its image
        for item, found in zip(items, rows):
            row = item.name | (judge(item) if found is None else found)
            if found is None:
                self._append(row)
            yield row

    def write(self, rows: Iterable[Row]) -> None:
        """Rewrite the table with these rows."""
        write_whole(self.folder / self.table, b"".join(map(self._line, [dict(zip(self.columns, self.columns)), *rows])))

    def _append(self, row: Row) -> None:
        table = self.folder / self.table

        def write() -> None:
            with table.open("ab") as lines:
                lines.write(self._line(row))

        explain_failure(table, write)

    def _line(self, row: Row) -> bytes:
        line = StringIO()
        csv.writer(line).writerow(map(row.get, self.columns))  # floats round-trip exactly
        return line.getvalue().removesuffix("\r\n").encode() + b"\n"

    def _read(self) -> Iterator[Row]:
        """Yield complete rows; the last one may be cut off anywhere."""
        table = self.folder / self.table
        content = table.read_bytes() if table.is_file() else b""
        with suppress(csv.Error, ValueError):
            lines = StringIO(content[: content.rfind(b"\n") + 1].decode())
            for cells in islice(csv.reader(lines, strict=True), 1, None):
                read = zip(self.columns.items(), cells, strict=True)
                yield {name: kind(cell) for (name, kind), cell in read if cell}


def read_manifest(folder: Path) -> dict[str, Any]:
    """The run manifest of a folder; empty if there is none."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return {}
    try:
        return dict(json.loads(manifest.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as problem:
        raise ValueError(f"{manifest} is damaged ({problem}). Use another folder.") from problem


def check_is_no_file(folder: Path, what: str = "Results are written") -> None:
    if folder.is_file():
        raise ValueError(f"{what} to a folder, but {folder} is a file. Use another name.")


def encode_tiff(values: Float[np.ndarray, "H W"]) -> bytes:
    """A map as float32 TIFF, 0 for NaN. Not compressed: that takes fifty times as long and saves only a fifth."""
    stream = BytesIO()
    Image.fromarray(np.nan_to_num(values, nan=0.0)).save(stream, "TIFF")
    return stream.getvalue()


def encode_png(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint8, or (H, W) bool, white where True."""
    stream = BytesIO()
    Image.fromarray(pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels).save(stream, "PNG")
    return stream.getvalue()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file completely or not at all; create its folder."""

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        passing = path.with_name(f".{uuid4().hex[:12]}{_UNFINISHED}")
        try:
            passing.write_bytes(content)
            os.replace(passing, path)
        finally:
            passing.unlink(missing_ok=True)

    explain_failure(path, write)


def explain_failure(path: Path, write: Callable[[], Any]) -> Any:
    """Call ``write``; if it fails, say what remains intact."""
    try:
        return write()
    except OSError as problem:
        raise OSError(
            f"{path} could not be written ({problem.strerror or problem}). Files written before are intact. "
            "Free some space or use another folder, then call again."
        ) from problem
