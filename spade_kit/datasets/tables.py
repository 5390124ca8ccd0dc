"""Tables that people write about images, and the images that their names mean."""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from io import StringIO
from itertools import zip_longest
from pathlib import Path

from spade_kit._arguments import suggest
from spade_kit._files import as_text, explain_reading, printable, write_whole
from spade_kit.datasets.naming import GOOD, MISSING, name_some, plain

COLUMNS = ("path", "label", "mask", "split")
_LABELLED = ["path", "label"]
UNKNOWN = "unknown"  # what stands for no label
_NO_LABEL = {"", UNKNOWN, "unlabelled", "unlabeled", *MISSING}
_FOREIGN = (
    "ja nein oui non negative bon bonne bueno buono bom goed dobry conform conforme konform годен 正常 良品 合格 정상"
)
_ANSWERS = {"yes", "no", "y", "n", *_FOREIGN.split()}  # to a question, or good
_LETTERS = [{"t", "f"}, {"p", "f"}]  # true, pass, and what is not


def read_table(path: Path, columns: Iterable[str]) -> Iterator[dict[str, str]]:
    """Non-empty rows of a CSV file, separated by commas, semicolons or tabs, with at least these columns."""
    if not os.path.isfile(path):  # False where that of Path raises, such as for a name that is too long
        raise FileNotFoundError(f"Expected a CSV table at {as_text(path)}, but there is no such file. Check the path.")
    try:
        with explain_reading(path, "a table"):
            text = path.read_text(encoding="utf-8-sig")
        head, *rows = [*filter(None, _split(text))] or [[]]
    except UnicodeDecodeError as problem:
        raise ValueError(f"{as_text(path)} is not UTF-8 text. Save it as CSV in UTF-8.") from problem
    except csv.Error as problem:
        raise ValueError(f"{as_text(path)} is not a CSV table: {problem}. Check its quotes.") from problem
    names, first = [name.lower() for name in head], text.partition("\n")[0].strip()
    if twice := sorted(name for name in {*columns, *COLUMNS} if names.count(name) > 1):
        raise ValueError(
            f"{as_text(path)} must name each column once; got {', '.join(twice)} again. Rename one of them."
        )
    if not set(columns) <= set(names):
        raise ValueError(
            f"The first line of {as_text(path)} must name the columns {', '.join(columns)}, separated by commas, "
            f"semicolons or tabs; got {first!r}."
        )
    for number, cells in enumerate(rows, 2):
        if any(cells[len(names) :]):
            told = f"as many cells as the first line, {len(names)}; got {len(cells)}"
            raise ValueError(f"Row {number} of {as_text(path)} must have {told}. Put names with a comma into quotes.")
        if any(cells):
            yield dict(zip_longest(names, cells[: len(names)], fillvalue=""))


def _split(text: str) -> list[list[str]]:
    """The cells of a table, separated by commas, semicolons or tabs: whichever its first line has most of."""
    separator = max(",;\t", key=text.partition("\n")[0].count)
    return [[cell.strip() for cell in line] for line in csv.reader(StringIO(text, ""), delimiter=separator)]


def are_numbers(labels: Collection[str]) -> bool:
    """Whether all labels are numbers or truth values."""
    return bool(labels) and None not in map(_as_number, labels)


def find_zeros(labels: Iterable[str]) -> set[str]:
    """The labels that are 0 or false."""
    return {label for label in labels if _as_number(label) == 0}


def find_unclear(labels: Iterable[str]) -> set[str]:
    """Labels that may mean good or defective: 0 among names, no, -1 and 0.5."""
    told = {label: _normalize(label) for label in labels}
    letters = {*told.values()} in _LETTERS
    unclear = {label for label, text in told.items() if letters or text in _ANSWERS}
    numbers = {label: value for label in told if (value := _as_number(label)) is not None}
    return unclear | {label for label, value in numbers.items() if value <= 0 or value % 1}


def name_numbers(labels: Sequence[str | None], good: str | None = None) -> list[str | None]:
    """Labels, of which ``good``, or else 0 and false, become good, if all are numbers or truth values.

    Raises where 0 is among names, and for labels such as no, -1 or 0.5, which may mean either.
    """
    told = {label for label in labels if label is not None and clean_label(label) is not None}
    zeros = find_zeros(told)
    if are_numbers(told) and (zeros or good is not None):
        return [GOOD if label in (zeros if good is None else {good}) else label for label in labels]
    if unclear := find_unclear(told):
        names = sorted(label for label in told if label not in unclear and _as_number(label) is None)
        others = "".join(f" beside {name!r}" for name in names[:1])
        raise ValueError(
            "Labels must be good and the names of defects, or all numbers, of which 0 is good; got "
            f"{min(unclear)!r}{others}. Write good for images of good parts."
        )
    return [*labels]


def _as_number(label: str) -> float | None:
    text = _normalize(label)
    with suppress(ValueError):
        return float(text == "true") if text in ("true", "false") else float(text.replace(",", "."))
    return None


def _normalize(label: str) -> str:
    return re.sub(r"""^b?(['"])(.*)\1$""", r"\2", unicodedata.normalize("NFKC", label).strip().lower())


def read_labels(table: Path) -> list[tuple[str, str]]:
    """The name or path of each image in a table, and its label."""
    rows = list(read_table(table, ("label",)))
    named = "name" if rows and "name" in rows[0] and "path" not in rows[0] else "path"
    return [(row[named], row["label"]) for row in read_table(table, (named, "label"))]  # raises if neither is there


def clean_label(label: str | None) -> str | None:
    """None for what stands for no label."""
    return None if isinstance(label, str) and plain(label) in _NO_LABEL else label


class LabelTable:
    """``labels.csv`` in a folder, written whole; rows of other images stay, and a table that holds more is refused."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "labels.csv"
        self.name = as_text(self.file)
        self._content = self._read()
        text = self._content.decode("utf-8-sig", errors="surrogateescape")
        lines = [[text]]
        with suppress(csv.Error):  # such as a cell of 200 kB: no table of ours
            lines = _split(text)
        self.labels: dict[str, str] = {line[0]: line[1] for line in lines[1:] if len(line) == 2}  # by path
        expected = [_LABELLED, *map(list, self.labels.items())] if lines else []
        if lines != expected:
            got = next((line for line, one in zip_longest(lines, expected) if line != one), lines[0])
            raise ValueError(
                f"{self.name} must have the columns path and label and one row an image; got {got!r:.200}. "
                "Keep your notes in another file, or use another folder for the labels."
            )

    def _read(self) -> bytes:
        with explain_reading(self.file, "a table"):
            return self.file.read_bytes() if self.file.exists() else b""

    def write(self, labels: Mapping[str, str]) -> None:
        """Replace the table, unless somebody else changed it since it was read."""
        if self._read() != self._content:
            raise ValueError(f"{self.name} was changed by another program. Open the review again to read it.")
        stream = StringIO()
        csv.writer(stream, lineterminator="\n").writerows([_LABELLED, *labels.items()])
        content = stream.getvalue().encode(errors="surrogateescape")
        write_whole(self.file, content)
        self._content = content


class ImageNames:
    """Finds images by their paths as text, see `as_text`, or by the end of these, with or without suffix."""

    def __init__(self, paths: Iterable[Path], of: str) -> None:
        self.of = of
        self._named: defaultdict[str, dict[Path, Path]] = defaultdict(dict)  # name -> path as it is written -> path
        for path in paths:
            written = Path(printable(path.as_posix()))
            for form in {written, written.with_suffix("")}:
                self._named[form.name][written] = path

    def find(self, name: object, folder: Path) -> Path:
        """The image of a name, first of one in this folder; raises if there is none, or more than one."""
        text = printable(name.as_posix()) if isinstance(name, Path) else str(name)
        ranked: defaultdict[tuple[bool, bool], list[Path]] = defaultdict(list)
        for place in (Path(text), Path(text.replace("\\", "/"))):
            for written, path in self._named.get(place.name, {}).items() if not ranked else ():
                for form in (written, written.with_suffix("")):
                    whole = os.path.abspath(form) == os.path.abspath(folder / place)
                    if whole or form.parts[-len(place.parts) :] == place.parts:
                        ranked[whole, form is written].append(path)
        if not ranked:
            hint = suggest(Path(text).name, list(self._named))
            raise ValueError(f"A label must be of an image in {self.of}; got {text!r}, which is none.{hint}")
        found = ranked[max(ranked)]
        if len(found) > 1:
            raise ValueError(
                f"A label must name one image; got {text!r}, the name of {len(found)} in {self.of}: "
                f"{name_some(found)}. Add the folder, as in {as_text(found[0])!r}."
            )
        return found[0]
