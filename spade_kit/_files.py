"""A folder for one run, and files that are written completely or not at all."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import re
import struct
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import numpy as np
from filelock import FileLock, Timeout
from jaxtyping import Float
from PIL import Image
from PIL.TiffImagePlugin import STRIPBYTECOUNTS, STRIPOFFSETS, ImageFileDirectory_v2

from spade_kit._arguments import warn
from spade_kit._work import track

MANIFEST = "run.json"
LOCK = ".lock"
_UNFINISHED = ".writing"  # the suffix of incomplete files
_LONGEST_NAME = 255 - len(".tiff")  # bytes, on nearly every file system
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20'")  # begins what a spreadsheet runs; it hides a leading quote
_CURES = {  # error of the system -> what to do
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Allow writing there, or use another folder"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free some space or use another folder"),
    errno.ENAMETOOLONG: "Use a folder with a shorter path",
}
Row: TypeAlias = "dict[str, Any]"  # an empty cell is None, or missing
Columns: TypeAlias = "Mapping[str, Callable[[str], Any]]"  # name -> parser of its cells


STATE: dict[str, Callable[[str], Any]] = {"bytes": int, "modified": int, "sha256": str}  # of an image: name -> parser


def describe_state(sources: Sequence[Path]) -> Row | None:
    """Size, time of the last change in seconds since 1970, and a hash of the content of files, or of those in folders.

    None if one of them cannot be read.
    """
    size, changed, content = 0, 0, hashlib.sha256()
    try:
        for file in (file for one in sources for file in (sorted(one.iterdir()) if one.is_dir() else [one])):
            if file.is_dir():  # below a folder of masks, such as for thumbnails
                continue
            if not file.is_file():  # reading a pipe would wait for ever
                return None
            content.update(hashlib.sha256(file.read_bytes()).digest())
            size, changed = size + file.stat().st_size, max(changed, int(file.stat().st_mtime))
    except OSError:
        return None
    return {"bytes": size, "modified": changed, "sha256": content.hexdigest()} if sources else {}


@dataclass(frozen=True)
class Item:
    """One image of a run: the cells that identify its row, its source files and its output files."""

    name: Row
    sources: Sequence[Path]
    files: Sequence[Path]

    @property
    def state(self) -> Row | None:
        return describe_state(self.sources)

    def is_done(self, row: Row) -> bool:
        """Whether all output files are whole, and the sources have the content that the row was made from."""
        state = self.state if all(map(_is_whole, self.files)) else None
        return state is not None and state.get("sha256") == row.get("sha256")

    def complete(self, row: Row, state: Row | None) -> Row:
        """The whole row; ``state`` is from before the image was read: one that is replaced meanwhile is judged again.

        Of an image that was not judged there are no files: those of an earlier content would seem to be its result.
        """
        if "reason" in row:
            for file in self.files:
                file.unlink(missing_ok=True)
        return row | self.name | (state or {})


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run: the run manifest ``run.json``, and a table that gets a row per image, after its files.

    Each row ends with the state of the image, so that a later run never takes it for another image. Tables of parts,
    such as regions.csv, get some rows per image before that one, which counts them in the column of this name; it
    carries them as a cell of the table's name, from `encode_rows`, that is not written.
    """

    folder: Path
    table: str
    columns: Columns  # none if the table is no CSV
    places: Sequence[str] = ()  # names of the other output files, and of the folders for them
    parts: Mapping[str, Columns] = field(default_factory=dict)  # tables of parts

    @contextmanager
    def claim(self, run: dict[str, Any]) -> Iterator[None]:
        """Lock the folder for a run; raise if it holds another run or is being written."""
        folder, name = self.folder, as_text(self.folder)
        check_is_no_file(folder)
        self._check_is_free()
        with lock(folder):
            before = read_manifest(folder)
            for file in () if before else (self.table, *self.parts, *self.places):
                if os.path.isfile(folder / file):
                    raise ValueError(
                        f"{name} holds a {file} but no {MANIFEST}, so its run is unknown. Use another folder."
                    )
            changed = [key for key in {**before, **run} if before.get(key) != run.get(key)] if before else []
            if changed:
                told = ", ".join(f"{key} was {before.get(key)!r} and is now {run.get(key)!r}" for key in changed)
                raise ValueError(f"{name} holds results of another run: {told}. Use another folder.")
            for table in self._tables if self.columns else ():
                self._read(table)  # raises if it was changed by hand
            manifest = json.dumps(run, indent=1).encode()
            write_whole(folder / MANIFEST, manifest)
            yield
            if not os.path.isfile(folder / MANIFEST):  # the folder was removed: a second call goes on with the rest
                write_whole(folder / MANIFEST, manifest)

    def _check_is_free(self) -> None:
        """Refuse a new run where its output files could replace other files."""
        for place in (self.folder / name for name in self.places):
            try:
                others = sorted(name for name in os.listdir(place) if not name.startswith("."))
            except OSError:  # there is none, or writing there will fail
                continue
            if others and not (self.folder / MANIFEST).is_file():  # in this order: another run may just have begun
                raise ValueError(
                    f"{as_text(place)} must be empty before a new run; it holds {printable(others[0])}, which could be "
                    "overwritten. Use another folder for the results."
                )

    def resume(
        self, items: Sequence[Item], judge: Callable[[Sequence[Item]], Iterable[tuple[int, Row]]], what: str = "images"
    ) -> list[Row]:
        """Rows of all items, in order: existing rows of finished items, and those that ``judge`` yields for the others.

        It yields the index of an item with its complete row, in any order, and each is written at once. Items that
        could not be judged are tried again. Incomplete files of a killed run are removed.
        """
        for place in {self.folder, *(file.parent for item in items for file in item.files)}:
            remove_unfinished(place)
        known = self._read_done(items)
        there = {item.name.get("path") for item in items}
        if gone := {row["path"] for row in known.values() if "path" in row} - there:
            warn(
                f"Images of an earlier run that are gone: {len(gone)}, such as {min(gone)}. "
                f"Their rows are removed; delete their other files in {as_text(self.folder)} if you do not need them."
            )
        found = [known.get(tuple(item.name.values())) for item in items]
        rows = [row if row is not None and item.is_done(row) else None for item, row in zip(items, found)]
        self.write(filter(None, rows))  # an old row must not stay beside new files of its image
        waiting = [at for at, row in enumerate(rows) if row is None]
        with track(total=len(items), initial=len(items) - len(waiting), desc=what) as progress:
            for at, row in judge([items[at] for at in waiting]) if waiting else ():
                self._append(row)
                rows[waiting[at]] = row
                progress.update()
        done = [item.name | row for item, row in zip(items, rows) if row is not None]
        self.write(done)  # in order
        self._warn_of_lost([item for item, row in zip(items, rows) if row is not None and "reason" not in row])
        return done

    def _warn_of_lost(self, items: Sequence[Item]) -> None:
        lost = [item for item in items if not all(file.is_file() for file in item.files)]
        if lost:
            first = next(file for file in lost[0].files if not file.is_file())
            warn(
                f"Files of {len(lost)} images in {as_text(self.folder)} were removed while it was written, such as "
                f"{as_text(first.relative_to(self.folder))}. Call again to write them."
            )

    def write(self, rows: Iterable[Row]) -> None:
        """Rewrite the tables with these rows."""
        rows = [*rows]
        for table, columns in self._tables.items():
            write_whole(self.folder / table, b"".join([_encode(columns), *(self._lines(table, row) for row in rows)]))

    def _append(self, row: Row) -> None:
        for name in self._tables:
            with explain_failure(self.folder / name), open(self.folder / name, "ab") as file:
                file.write(self._lines(name, row))

    def _lines(self, table: str, row: Row) -> bytes:
        """What an image has in a table."""
        return row.get(table, b"") if table in self.parts else encode_rows([row], self._tables[table])

    def _read_done(self, items: Sequence[Item]) -> dict[tuple, Row]:
        """The rows of judged images by the cells that identify them, with their parts, if all of those are there."""

        def identify(row: Row) -> tuple:
            return tuple(map(row.get, items[0].name))

        done = {identify(row): row for row in self._read(self.table) if "reason" not in row}
        for table, columns in self.parts.items():
            parts = defaultdict[tuple, list[Row]](list)
            for part in self._read(table):
                parts[identify(part)].append(part)
            column = table.removesuffix(".csv")
            done = {
                name: row | {table: encode_rows(parts[name], columns)}
                for name, row in done.items()
                if row.get(column) == len(parts[name])
            }
        return done

    def _read(self, table: str) -> list[Row]:
        """The complete rows; the last one may be cut off, and then has no line break.

        A table that was changed by hand is refused: writing it again would delete what was added.
        """
        file, parsers = self.folder / table, self._tables[table]
        content = file.read_bytes() if file.is_file() else b""
        cure = "Keep your notes in another file, or use another folder for the results."
        lines, rows = list[list[str]](), []
        with suppress(csv.Error):
            text = StringIO(content[: content.rfind(b"\n") + 1].decode("utf-8-sig", errors="replace"))
            lines.extend(filter(None, csv.reader(text, strict=True)))
        if lines and lines[0] != list(parsers):
            more = ", ".join(map(repr, [name for name in lines[0] if name not in parsers]))
            got = f"also {more}" if more else ", ".join(lines[0])
            raise ValueError(f"{as_text(file)} must have the columns {', '.join(parsers)}; got {got}. {cure}")
        for number, cells in enumerate(lines[1:], 2):
            try:
                read = zip(parsers.items(), map(_unguard, cells), strict=True)
                row = {name: kind(cell) for (name, kind), cell in read if cell}
                if next(iter(parsers)) not in row or {"reason", "image_score"} <= row.keys():
                    raise ValueError("an image has a name, and either a score or a reason why it has none")
                rows.append(row)
            except ValueError as problem:
                told = f"Row {number} of {as_text(file)} must be as it was written; got {cells!r:.200}"
                raise ValueError(f"{told}. {cure}") from problem
        return rows

    @property
    def _tables(self) -> dict[str, Columns]:
        """Those of parts first: an image is done once its row is written."""
        return {**self.parts, self.table: {**self.columns, **STATE}}


def lock(folder: Path) -> AbstractContextManager:
    """Make a folder, and keep other runs out of it: by a lock of the system, which a killed process does not keep."""
    with explain_failure(folder):
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / LOCK)
        with suppress(Timeout):
            return held.acquire(timeout=0)
    raise ValueError(
        f"{as_text(folder)} is in use: another run is writing to it. Wait until it ends, or use another folder."
    )


def encode_rows(rows: Iterable[Row], columns: Iterable[str]) -> bytes:
    """Lines of a table."""
    return b"".join(_encode([row.get(name) for name in columns]) for row in rows)


def _encode(cells: Iterable[Any]) -> bytes:
    line = StringIO()
    csv.writer(line).writerow(map(_guard, cells))  # floats round-trip exactly
    return line.getvalue().removesuffix("\r\n").encode(errors="backslashreplace") + b"\n"


def _guard(cell: Any) -> Any:
    """Text that a spreadsheet shows instead of running it; `_unguard` is the inverse."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def _unguard(cell: str) -> str:
    return cell.removeprefix("'")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The run manifest of a folder; empty if there is none."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return {}
    try:
        found = dict(json.loads(manifest.read_text(encoding="utf-8")))
        if not found:
            raise ValueError("it is empty")
        return found
    except (ValueError, TypeError, RecursionError) as problem:
        raise ValueError(f"{as_text(manifest)} is damaged ({problem}). Use another folder.") from problem


def as_text(path: Path | str) -> str:
    """A path as text that can be printed, sent and stored anywhere; `as_path` is its inverse.

    It is `printable`, and a name that a spreadsheet would run as a formula gets a leading ``./``.
    """
    text = printable(Path(path).as_posix())
    return f"./{text}" if text.startswith(_FORMULA) else text


def printable(name: str) -> str:
    """A name without undecodable bytes, line breaks and the like: they become escapes as in Python, a backslash two."""
    return "".join(c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in name)


def as_path(text: str) -> Path:
    """The path that `as_text` turned into text."""
    escape = r"\\(?:[\\nrt]|x..|u.{4}|U.{8})"
    return Path(re.sub(escape, lambda found: found[0].encode().decode("unicode_escape"), text))


def shorten(name: str, marked: bool = False) -> str:
    """A name for a file with room for ``.tiff``; if it is too long or to be marked, a hash of it becomes its end."""
    content = os.fsencode(name)
    if len(content) <= _LONGEST_NAME and not marked:
        return name
    return content[: _LONGEST_NAME - 9].decode("utf-8", "ignore") + f"-{hashlib.sha256(content).hexdigest()[:8]}"


def check_is_no_file(folder: Path, what: str = "Results are written") -> None:
    if os.path.isfile(folder):  # False where Path.is_file may raise, such as for a name that is too long
        raise ValueError(f"{what} to a folder, but {as_text(folder)} is a file. Use another name.")


def check_shared(folder: Path) -> None:
    """On a worker: whether it sees a folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {as_text(folder)}: workers need storage that all machines share.")


def encode_picture(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    """A file of this kind, with options of Pillow."""
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def encode_tiff(values: Float[np.ndarray, "H W"]) -> bytes:
    """A map as float32 TIFF, 0 for NaN. Not compressed: that takes fifty times as long and saves only a fifth."""
    return encode_picture(np.nan_to_num(values, nan=0.0), "TIFF")


def encode_png(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint8, or (H, W) bool, white where True."""
    return encode_picture(pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels, "PNG")


def _is_whole(file: Path) -> bool:
    """Whether a file exists and, if it came from the two functions above, has its end; its pixels are not read."""
    try:
        with open(file, "rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about a head that is cut off
            if file.suffix == ".png":
                stream.seek(-len(_PNG_END), os.SEEK_END)
                return stream.read() == _PNG_END
            if file.suffix == ".tiff":  # the pixels come last
                head = ImageFileDirectory_v2(stream.read(8))
                stream.seek(head.next)
                head.load(stream)
                return os.fstat(stream.fileno()).st_size == head[STRIPOFFSETS][-1] + head[STRIPBYTECOUNTS][-1]
            return True
    except (OSError, SyntaxError, LookupError, ValueError, struct.error):
        return False


def remove_unfinished(folder: Path) -> None:
    """Remove incomplete files of a process that was killed."""
    for left in folder.glob(f".*{_UNFINISHED}"):
        left.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file completely or not at all; create its folder."""
    with explain_failure(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        passing = path.with_name(f".{uuid4().hex[:12]}{_UNFINISHED}")
        try:
            passing.write_bytes(content)
            os.replace(passing, path)
        finally:
            passing.unlink(missing_ok=True)


def as_folder(name: str, given: str | os.PathLike[str]) -> Path:
    """The path of a folder, which need not exist."""
    if not isinstance(given, (str, os.PathLike)):
        raise ValueError(f"{name} must be the path of a folder; got {given!r}.")
    if not os.fspath(given) or "\0" in os.fsdecode(given):
        raise ValueError(f"{name} must name a folder, '.' for the current one; got {given!r}.")
    return Path(given).expanduser()


@contextmanager
def explain_reading(path: Path, what: str) -> Iterator[None]:
    """Say in a sentence what the system does not let us read; the error keeps its type, such as PermissionError."""
    try:
        yield
    except OSError as problem:
        reason = f"{as_text(path)} as {what}: {problem.strerror or problem}"
        raise type(problem)(f"Cannot read {reason}. Check that it can be read.") from problem


@contextmanager
def explain_failure(path: Path) -> Iterator[None]:
    """Say in a sentence why the system did not let us write, what to do, and what remains intact."""
    try:
        yield
    except OSError as problem:
        cure = _CURES.get(problem.errno or 0, "Use another folder")
        raise OSError(
            f"{as_text(path)} could not be written ({problem.strerror or problem}). Files written before are intact. "
            f"{cure}, then call again."
        ) from problem
