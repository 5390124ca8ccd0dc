"""Recognise and read the supported folder layouts."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from spade_kit._arguments import choose
from spade_kit.datasets.images import FORMATS, natural_order, pictures_in
from spade_kit.datasets.samples import GOOD, Sample

GOOD_NAMES = {"good", "ok", "normal"}
TRAIN_NAMES = {"train", "training"}
TEST_NAMES = {"test", "testing"}
MASK_NAMES = {"ground_truth", "groundtruth", "masks", "mask"}
VISA_SPLIT = Path("split_csv", "1cls.csv")
_NAMED = 3  # at most this many files are named in a remark


@dataclass(frozen=True)
class Found:
    """Result of reading a layout: samples, whether the dataset has masks, and remarks for the user."""

    train: list[Sample]
    test: list[Sample]
    layout: str
    masked: bool = False
    remarks: tuple[str, ...] = ()


def check_folder(path: str | Path) -> Path:
    """The folder at a path; FileNotFoundError if there is none."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    got = "it is a file" if folder.is_file() else "there is none"
    cure = 'Check the path, or use load_dataset("demo").'
    raise FileNotFoundError(f"Expected a folder of images at {path}, but {got}. {cure}")


def guess(path: Path) -> str:
    """Guess which of `LAYOUTS` a folder or file has."""
    if path.is_file():
        if path.suffix.lower() == ".csv":
            return "csv"
        raise FileNotFoundError(
            f"Expected a folder of images or a CSV table, but {path} is another kind of file. Pass its folder."
        )
    if _child(path, TRAIN_NAMES) is not None:
        return "mvtec"
    if (path.resolve().parent / VISA_SPLIT).is_file() or (path / VISA_SPLIT).is_file():
        return "visa"
    if pictures_in(path):
        return "plain"
    raise FileNotFoundError(_describe_contents(path))


def _describe_contents(folder: Path) -> str:
    """Error text for a folder without images in the expected place: its contents and a cure."""
    inside = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    holds = ", ".join(entry.name for entry in inside[:10]) or "nothing"
    folders = [entry for entry in inside if entry.is_dir()]
    datasets = [entry for entry in folders if _child(entry, TRAIN_NAMES) is not None]
    kinds = [entry for entry in folders if pictures_in(entry)]
    good = [entry for entry in kinds if _label(entry.name) == GOOD]
    tables = [entry for entry in inside if entry.suffix.lower() == ".csv"]
    cure = f"Pass the folder of images of good parts. Supported formats: {', '.join(FORMATS)}; convert others."
    if datasets:
        cure = f"It is a folder of datasets. Load one of them, such as load_dataset({str(datasets[0])!r})."
    elif good:
        judged = next((f", test={str(kind)!r}" for kind in kinds if kind != good[0]), "")
        cure = f"Specify the folder of normal images: load_dataset(train={str(good[0])!r}{judged})."
    elif kinds:
        cure = "Specify the folder of normal images: load_dataset(train=<that folder>, test=<another>)."
    elif tables:
        cure = f"Load its table: load_dataset({str(tables[0])!r})."
    return f"Expected images in {folder}, but it contains {holds}. {cure}"


def _child(folder: Path, names: Iterable[str]) -> Path | None:
    """The subfolder with one of these names, ignoring case."""
    names = {_plain(name) for name in names}
    return next((entry for entry in _folders_in(folder) if _plain(entry.name) in names), None)


def _plain(name: str) -> str:
    return re.sub(r"[ -]", "_", name.lower())


def _folders_in(folder: Path) -> list[Path]:
    shown = (entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return sorted(shown, key=natural_order)


def _label(name: str) -> str:
    return GOOD if name.lower() in GOOD_NAMES else name


def read_splits(folder: Path) -> Found:
    """MVTec AD and similar layouts: one folder per split, and in it one folder per kind."""
    train_folder, test_folder, mask_folder = (_child(folder, names) for names in (TRAIN_NAMES, TEST_NAMES, MASK_NAMES))
    if train_folder is None:
        raise FileNotFoundError(_describe_contents(folder))
    good = _child(train_folder, GOOD_NAMES)
    train = [Sample(path, GOOD) for path in pictures_in(good or train_folder)]
    if not train:
        raise FileNotFoundError(
            f"Expected images of good parts in {good or train_folder / GOOD}, but found none. "
            f"{_describe_contents(train_folder)}"
        )
    none_good = f"{train_folder.name} has no folder {GOOD}: all images in it count as normal."
    remarks = [none_good] if good is None else []
    others = {other: len(pictures_in(other)) for other in _folders_in(train_folder) if other != good}
    remarks += [f"{train_folder.name}/{other.name}: {held} images not used." for other, held in others.items() if held]
    unused = [other for other in _folders_in(folder) if other not in (train_folder, test_folder, mask_folder)]
    hint = "test images belong in test, masks in ground_truth or masks"
    remarks += [f"{other.name}: not used; {hint}." for other in unused]
    test = [] if test_folder is None else _read_kinds(test_folder, mask_folder)
    if mask_folder is not None:
        remarks += _find_what_has_no_partner(mask_folder, test)
    return Found(train, test, "MVTec AD layout", mask_folder is not None, tuple(remarks))


def _read_kinds(folder: Path, masks: Path | None) -> list[Sample]:
    """Images directly in a folder, without a label, and images in one subfolder per kind."""
    samples = [Sample(path) for path in pictures_in(folder)]
    for kind in _folders_in(folder):
        label = _label(kind.name)
        truth = _find_masks(masks, kind.name) if masks is not None and label != GOOD else {}
        samples += [Sample(path, label, truth.get(path.stem.lower())) for path in pictures_in(kind)]
    return samples


def _find_masks(masks: Path, kind: str) -> dict[str, Path]:
    """Map each image's stem in lower case to its mask: a file with or without ``_mask``, or a folder of masks."""
    folder = _child(masks, {kind.lower()})
    if folder is None:
        return {}
    several = {entry.name.lower(): entry for entry in _folders_in(folder) if pictures_in(entry)}
    return several | {re.sub(r"[ _-]mask$", "", path.stem.lower()): path for path in pictures_in(folder)}


def _find_what_has_no_partner(masks: Path, test: list[Sample]) -> list[str]:
    kinds = [kind.name for kind in _folders_in(masks) if _label(kind.name) != GOOD]
    there = {mask for kind in kinds for mask in _find_masks(masks, kind).values()}.union(pictures_in(masks))
    lost = sorted(there - {sample.mask_path for sample in test}, key=natural_order)
    remarks = [f"{count(lost, 'mask')} without an image: {name_some(lost)}."] if lost else []
    bare = [sample.path for sample in test if sample.label not in (GOOD, None) and sample.mask_path is None]
    if bare:
        wanted = f"{masks.name}/{bare[0].parent.name}/{bare[0].stem}_mask.png"
        remarks.append(f"{count(bare, 'defect image')} without a mask: {name_some(bare)}; expected mask: {wanted}.")
    return remarks


def read_two(train: Path, test: Path | None) -> Found:
    """A folder of normal images, and one of test images, directly in it or in one subfolder per kind."""
    good = train if pictures_in(train) else _child(train, GOOD_NAMES)
    if good is None or not pictures_in(good):
        raise FileNotFoundError(_describe_contents(train))
    judged = [] if test is None else _read_kinds(test, None)
    if test is not None and not judged:
        raise FileNotFoundError(_describe_contents(test))
    return Found([Sample(path, GOOD) for path in pictures_in(good)], judged, "two folders" if test else _PLAIN)


def _read_plain(folder: Path) -> Found:
    photos = [Sample(path, GOOD) for path in pictures_in(check_folder(folder))]
    if not photos:
        raise FileNotFoundError(_describe_contents(folder))
    ignored = [entry for entry in _folders_in(folder) if pictures_in(entry)]
    remarks = [f"{count(ignored, 'folder')} of images not used: {name_some(ignored)}."] if ignored else []
    return Found(photos, [], _PLAIN, remarks=tuple(remarks))


def _read_visa(folder: Path) -> Found:
    """VisA's official split for one object; paths in its table are relative to the folder of all objects."""
    root = folder if (folder / VISA_SPLIT).is_file() else folder.resolve().parent
    table = root / VISA_SPLIT
    if not table.is_file():
        raise FileNotFoundError(f"Expected VisA's split at {table}, but there is none. Unpack all of VisA.")
    rows = list(_read_table(table, ("object", "split", "label", "image", "mask")))
    objects = sorted({row["object"] for row in rows})
    if folder.resolve().name not in objects:
        cure = f"Load one object, such as load_dataset({str(root / objects[0])!r})."
        raise FileNotFoundError(f"{folder} contains all of VisA: {', '.join(objects)}. {cure}")
    parts: dict[str, list[Sample]] = {"train": [], "test": []}
    for row in rows:
        if row["object"] == folder.resolve().name:
            mask = root / row["mask"] if row["mask"] else None
            parts[row["split"]].append(Sample(root / row["image"], _label(row["label"]), mask))
    return Found(parts["train"], parts["test"], "VisA, official split of one class", True)


def _read_csv(path: Path) -> Found:
    parts: dict[str, list[Sample]] = {"train": [], "test": []}
    remarks = []
    rows = list(_read_table(path, ("path",)))
    columns = set(rows[0] if rows else ())
    if unknown := sorted(columns - {"path", "label", "mask", "split"}):
        told = f"{path.name} has unknown columns {', '.join(unknown)}; known columns are path, label, mask and split"
        if not columns & {"label", "split"}:
            raise ValueError(f"{told}. Rename them.")
        remarks.append(f"{told}. The others are not used.")
    if rows and not columns & {"label", "split"}:
        remarks.append(f"{path.name} has no labels: all images count as normal.")
    defects = [row["label"] for row in rows if row.get("label") and _label(row["label"]) != GOOD]
    if defects and "split" not in columns:
        needed = "a column split with 'train' or 'test' in each row"
        raise ValueError(f"{path} lists defects, such as {defects[0]!r}, so it needs {needed}.")
    for number, row in enumerate(rows, 2):
        split = (row.get("split") or "train").lower()
        choose(f"split in row {number} of {path.name}", split, parts)
        label = _label(row["label"]) if row.get("label") else GOOD if split == "train" else None
        if split == "train" and label != GOOD:
            wrong = f"puts a {label!r} image among the normal ones"
            raise ValueError(f"Row {number} of {path.name} {wrong}. Set its split to 'test'.")
        mask = path.parent / row["mask"] if row.get("mask") else None
        parts[split].append(Sample(path.parent / row["path"], label, mask))
    if not parts["train"]:
        raise FileNotFoundError(f"{path} lists no normal image for training. Give some rows the split 'train'.")
    masked = any(sample.mask_path for sample in parts["test"])
    return Found(parts["train"], parts["test"], f"table {path.name}", masked, tuple(remarks))


def _read_table(path: Path, columns: Iterable[str]) -> Iterator[dict[str, str]]:
    """Non-empty rows of a CSV file, separated by commas, semicolons or tabs, with at least these columns."""
    if not path.is_file():
        raise FileNotFoundError(f"Expected a CSV table at {path}, but there is no such file. Check the path.")
    try:
        head, *lines = path.read_text(encoding="utf-8-sig").splitlines() or [""]
    except UnicodeDecodeError as problem:
        raise ValueError(f"{path} is not UTF-8 text. Save it as CSV in UTF-8.") from problem
    separator = max(",;\t", key=head.count)
    names = [name.strip().lower() for name in next(csv.reader([head], delimiter=separator), [])]
    if not set(columns) <= set(names):
        raise ValueError(
            f"The first line of {path} must name the columns {', '.join(columns)}, separated by commas, semicolons or "
            f"tabs; got {head.strip()!r}."
        )
    for row in csv.DictReader(lines, names, delimiter=separator, restval=""):
        cells = {name: cell.strip() for name, cell in row.items() if name is not None}
        if any(cells.values()):
            yield cells


def count(things: list, name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def name_some(paths: list[Path]) -> str:
    named = ", ".join(f"{path.parent.name}/{path.name}" for path in paths[:_NAMED])
    return f"{named} and {len(paths) - _NAMED} more" if len(paths) > _NAMED else named


_PLAIN = "plain folder: all images count as normal"
LAYOUTS = {"mvtec": read_splits, "visa": _read_visa, "csv": _read_csv, "plain": _read_plain}
