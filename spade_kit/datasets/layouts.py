"""Recognise and read the supported folder layouts."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from spade_kit._arguments import choose
from spade_kit._files import as_text, printable
from spade_kit.datasets.images import FORMATS, list_folder, pictures_below, pictures_in, walk
from spade_kit.datasets.samples import GOOD, Sample

GOOD_NAMES = {
    *("good", "ok", "okay", "io", "normal", "normals", "pass", "passed", "intact", "healthy", "undamaged"),
    *("defect_free", "no_defect", "no_defects", "non_defective", "not_defective"),
}
BAD_NAMES = {
    *("bad", "nok", "not_ok", "ng", "ko", "nio", "not_good", "abnormal", "abnormals", "anomaly", "anomalies"),
    *(
        "anomalous",
        "defect",
        "defects",
        "defective",
        "fault",
        "faults",
        "faulty",
        "damaged",
        "fail",
        "failed",
    ),
    *("reject", "rejects", "rejected", "scrap", "outlier", "outliers"),
}
UNSORTED_NAMES = {"test", "testing", "images", "all", "new", "unknown", "unsorted", "unlabelled", "unlabeled"}
TRAIN_NAMES = {"train", "training"}
TEST_NAMES = {"test", "testing"}
MASK_NAMES = {"ground_truth", "groundtruth", "masks", "mask"}
ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"}
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
    if os.path.isdir(folder):
        return folder
    got = "it is a file" if os.path.isfile(folder) else "there is none"
    cure = 'Check the path, or use load_dataset("demo").'
    if os.path.isfile(folder) and folder.suffix.lower() in ARCHIVES:
        got, cure = "it is an archive", "Unpack it, and pass the folder."
    raise FileNotFoundError(f"Expected a folder of images at {as_text(path)}, but {got}. {cure}")


def guess(path: Path) -> str:
    """Guess which of `LAYOUTS` a folder or file has."""
    if path.is_file():
        if path.suffix.lower() == ".csv":
            return "csv"
        if path.suffix.lower() in ARCHIVES:
            check_folder(path)
        raise FileNotFoundError(
            f"Expected a folder of images or a CSV table, but {as_text(path)} is another kind of file. Pass its folder."
        )
    if _child(path, TRAIN_NAMES) is not None:
        return "mvtec"
    if (path.resolve().parent / VISA_SPLIT).is_file() or (path / VISA_SPLIT).is_file():
        return "visa"
    if _child(path, GOOD_NAMES) is not None and _child(path, BAD_NAMES) is not None:
        return "good_bad"
    if pictures_in(path):
        return "plain"
    raise FileNotFoundError(_describe_contents(path))


def _describe_contents(folder: Path) -> str:
    """Error text for a folder without images in the expected place: its contents and a cure."""
    listing = list_folder(folder)
    folders = listing.folders
    inside = sorted(listing.images + folders + listing.others)
    holds = ", ".join(printable(entry.name) for entry in inside[:10]) or "nothing"
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
    elif below := pictures_below(folder):
        cure = f"Its images are deeper down, such as in {as_text(below[0].parent)}. Pass the folder of normal images."
    elif tables:
        cure = f"Load its table: load_dataset({str(tables[0])!r})."
    return f"Expected images in {as_text(folder)}, but it contains {holds}. {cure}"


def _child(folder: Path, names: Iterable[str]) -> Path | None:
    """The subfolder with one of these names, ignoring case."""
    names = {_plain(name) for name in names}
    return next((entry for entry in list_folder(folder).folders if _plain(entry.name) in names), None)


def _plain(name: str) -> str:
    return re.sub(r"[ -]", "_", name.lower())


def _label(name: str) -> str:
    return GOOD if _plain(name) in GOOD_NAMES else printable(name)


def read_splits(folder: Path) -> Found:
    """MVTec AD and similar layouts: one folder per split, and in it one folder per kind."""
    train_folder, test_folder, mask_folder = (_child(folder, names) for names in (TRAIN_NAMES, TEST_NAMES, MASK_NAMES))
    if train_folder is None:
        raise FileNotFoundError(_describe_contents(folder))
    good = _child(train_folder, GOOD_NAMES)
    train = [Sample(path, GOOD) for path in (pictures_below(good) if good else pictures_in(train_folder))]
    if not train:
        raise FileNotFoundError(
            f"Expected images of good parts in {as_text(good or train_folder / GOOD)}, but found none. "
            f"{_describe_contents(train_folder)}"
        )
    none_good = f"{train_folder.name} has no folder {GOOD}: all images in it count as normal."
    remarks = [none_good] if good is None else []
    told = {other: pictures_below(other) for other in list_folder(train_folder).folders if other != good}
    remarks += [f"{_name(other)}: {len(held)} images not used." for other, held in told.items() if held]
    unused = [other for other in list_folder(folder).folders if other not in (train_folder, test_folder, mask_folder)]
    hint = "test images belong in test, masks in ground_truth or masks"
    remarks += [f"{printable(other.name)}: not used; {hint}." for other in unused]
    test = [] if test_folder is None else _read_kinds(test_folder, mask_folder)
    if mask_folder is not None:
        remarks += _find_what_has_no_partner(mask_folder, test_folder or folder, test)
    remarks += _find_unused(folder, train + test, {*told, *unused, mask_folder})
    return Found(train, test, "MVTec AD layout", mask_folder is not None, tuple(remarks))


def _read_good_and_bad(folder: Path) -> Found:
    """Folders of normal and of defective images side by side."""
    good, masks = _child(folder, GOOD_NAMES), _child(folder, MASK_NAMES)
    if good is None or not (train := [Sample(path, GOOD) for path in pictures_below(good)]):
        raise FileNotFoundError(_describe_contents(good or folder))
    test = _read_kinds(folder, masks, {good, masks})
    remarks = [] if masks is None else _find_what_has_no_partner(masks, folder, test)
    remarks += _find_unused(folder, train + test, {masks})
    layout = f"normal images in {printable(good.name)}, each other folder is a kind of defect"
    return Found(train, test, layout, masks is not None, tuple(remarks))


def _read_kinds(folder: Path, masks: Path | None, without: Collection[Path | None] = ()) -> list[Sample]:
    """Images directly in a folder, without a label, and images in and below one subfolder per kind."""
    samples = [Sample(path) for path in pictures_in(folder)]
    for kind in list_folder(folder).folders:
        if kind not in without:
            label = None if _plain(kind.name) in UNSORTED_NAMES else _label(kind.name)
            photos = _images_below(kind)
            truth = _find_masks(masks, kind, photos) if masks is not None and label != GOOD else {}
            samples += [Sample(path, label, truth.get(_key(path, kind))) for path in photos]
    return samples


def _images_below(folder: Path) -> list[Path]:
    """Images in and below a folder, except masks in a folder of their own."""

    def is_mask(path: Path) -> bool:
        return any(_plain(part) in MASK_NAMES for part in path.relative_to(folder).parts[:-1])

    return [path for path in pictures_below(folder) if not is_mask(path)]


def _key(path: Path, folder: Path) -> str:
    """What an image and its mask have in common: the path below the folder of their kind, without the suffix."""
    below = path.relative_to(folder)
    return re.sub(r"[ _-]mask$", "", below.with_name(below.stem).as_posix().lower())


def _find_masks(masks: Path, kind: Path, photos: list[Path]) -> dict[str, Path]:
    """Map the key of each image to its mask: a file with or without ``_mask``, or a folder of masks."""
    folder = _child(masks, {kind.name})
    if folder is None:
        return {}
    keys = {_key(path, kind) for path in photos}
    found = list(walk(folder))
    several = {_key(below, folder): below for listing in found for below in listing.folders if pictures_in(below)}
    single = {_key(path, folder): path for listing in found for path in listing.images}
    return {key: mask for key, mask in (several | single).items() if key in keys}


def _find_what_has_no_partner(masks: Path, folder: Path, test: list[Sample]) -> list[str]:
    of_good = {kind for kind in list_folder(masks).folders if _label(kind.name) == GOOD}
    used = {sample.mask_path for sample in test} | of_good
    lost = [mask for mask in pictures_below(masks) if not used & {mask, *mask.parents}]
    remarks = [f"{count(lost, 'mask')} without an image: {name_some(lost)}."] if lost else []
    bare = [sample.path for sample in test if sample.label not in (GOOD, None) and sample.mask_path is None]
    if bare:
        wanted = as_text(Path(masks.name, bare[0].relative_to(folder).with_name(f"{bare[0].stem}_mask.png")))
        remarks.append(f"{count(bare, 'defect image')} without a mask: {name_some(bare)}; expected mask: {wanted}.")
    return remarks


def _find_unused(folder: Path, samples: list[Sample], told: Collection[Path | None]) -> list[str]:
    """A remark on images that no sample refers to, except those in folders that other remarks are about."""
    used = {sample.path for sample in samples}
    lost = [path for path in pictures_below(folder) if path not in used and not {*path.parents} & {*told}]
    return [f"{count(lost, 'image')} not used: {name_some(lost)}."] if lost else []


def read_folders(train: list[Path], test: list[Path]) -> Found:
    """Folders of normal images, and folders of test images, which may say what they hold."""
    normal, remarks = [], []
    for folder in train:
        good = folder if pictures_in(folder) else _child(folder, GOOD_NAMES)
        photos = [] if good is None else pictures_in(folder) or pictures_below(good)
        if not photos:
            raise FileNotFoundError(_describe_contents(folder))
        samples = [Sample(path, GOOD) for path in photos]
        normal += samples
        remarks += _find_unused(folder, samples, test)
    judged = []
    for folder in test:
        label = _label_of(folder)
        samples = (
            _read_kinds(folder, None) if label is None else [Sample(path, label) for path in _images_below(folder)]
        )
        if not samples:
            raise FileNotFoundError(_describe_contents(folder))
        judged += samples
        remarks += _find_unused(folder, samples, train)
    several = "two folders" if len(train) == len(test) == 1 else f"{len(train)} + {len(test)} folders"
    return Found(normal, judged, several if test else _PLAIN, remarks=tuple(remarks))


def _label_of(folder: Path) -> str | None:
    """The label that a folder's name gives its images: of a known kind, or of one beside a folder of good images."""
    place = folder.absolute()
    name = _plain(place.name)
    beside = name not in UNSORTED_NAMES and _child(place.parent, GOOD_NAMES) is not None
    return _label(place.name) if beside or name in GOOD_NAMES | BAD_NAMES else None


def _read_plain(folder: Path) -> Found:
    photos = [Sample(path, GOOD) for path in pictures_in(check_folder(folder))]
    if not photos:
        raise FileNotFoundError(_describe_contents(folder))
    ignored = [entry for entry in list_folder(folder).folders if pictures_below(entry)]
    remarks = [f"{count(ignored, 'folder')} of images not used: {name_some(ignored)}."] if ignored else []
    return Found(photos, [], _PLAIN, remarks=tuple(remarks))


def _read_visa(folder: Path) -> Found:
    """VisA's official split for one object; paths in its table are relative to the folder of all objects."""
    root = folder if (folder / VISA_SPLIT).is_file() else folder.resolve().parent
    table = root / VISA_SPLIT
    if not table.is_file():
        raise FileNotFoundError(f"Expected VisA's split at {as_text(table)}, but there is none. Unpack all of VisA.")
    rows = list(_read_table(table, ("object", "split", "label", "image", "mask")))
    objects = sorted({row["object"] for row in rows})
    if folder.resolve().name not in objects:
        cure = f"Load one object, such as load_dataset({str(root / objects[0])!r})."
        raise FileNotFoundError(f"{as_text(folder)} contains all of VisA: {', '.join(objects)}. {cure}")
    parts: dict[str, list[Sample]] = {"train": [], "test": []}
    for row in rows:
        if row["object"] == folder.resolve().name:
            mask = root / row["mask"] if row["mask"] else None
            parts[row["split"]].append(Sample(root / row["image"], _label(row["label"]), mask))
    return Found(parts["train"], parts["test"], "VisA, official split of one class", True)


def _read_csv(path: Path) -> Found:
    parts: dict[str, list[Sample]] = {"train": [], "test": []}
    remarks, table = [], printable(path.name)
    rows = list(_read_table(path, ("path",)))
    columns = set(rows[0] if rows else ())
    if unknown := sorted(columns - {"path", "label", "mask", "split"}):
        told = f"{table} has unknown columns {', '.join(unknown)}; known columns are path, label, mask and split"
        if not columns & {"label", "split"}:
            raise ValueError(f"{told}. Rename them.")
        remarks.append(f"{told}. The others are not used.")
    if rows and not columns & {"label", "split"}:
        remarks.append(f"{table} has no labels: all images count as normal.")
    remarks += _name_numbered_labels(rows, table)
    defects = [row["label"] for row in rows if row.get("label") and _label(row["label"]) != GOOD]
    if defects and "split" not in columns:
        needed = "a column split with 'train' or 'test' in each row"
        raise ValueError(f"{as_text(path)} lists defects, such as {defects[0]!r}, so it needs {needed}.")
    for number, row in enumerate(rows, 2):
        split = (row.get("split") or "train").lower()
        choose(f"split in row {number} of {table}", split, parts)
        label = _label(row["label"]) if row.get("label") else GOOD if split == "train" else None
        if split == "train" and label != GOOD:
            wrong = f"puts a {label!r} image among the normal ones"
            raise ValueError(f"Row {number} of {table} {wrong}. Set its split to 'test'.")
        mask = _find_file(path.parent, row["mask"]) if row.get("mask") else None
        parts[split].append(Sample(_find_file(path.parent, row["path"]), label, mask))
    if not parts["train"]:
        raise FileNotFoundError(
            f"{as_text(path)} lists no normal image for training. Give some rows the split 'train'."
        )
    masked = any(sample.mask_path for sample in parts["test"])
    return Found(parts["train"], parts["test"], f"table {table}", masked, tuple(remarks))


def _name_numbered_labels(rows: list[dict[str, str]], table: str) -> list[str]:
    """Where all labels are numbers, call that of the training images good, and return a remark; else do nothing."""
    labels = {row["label"] for row in rows if row.get("label")}
    trained = {row["label"] for row in rows if row.get("label") and (row.get("split") or "train").lower() == "train"}
    good = trained.pop() if len(trained) == 1 else "0"
    if good not in labels or not all(re.fullmatch(r"-?\d+(\.0*)?|true|false", label, re.I) for label in labels):
        return []
    for row in rows:
        row["label"] = GOOD if row["label"] == good else row["label"]
    return [f"Labels of {table} are numbers: {good} counts as {GOOD}."]


def _find_file(folder: Path, cell: str) -> Path:
    """A path in a table; backslashes separate folders, as on Windows, unless there is such a file."""
    return folder / (cell if os.path.exists(folder / cell) else cell.replace("\\", "/"))


def _read_table(path: Path, columns: Iterable[str]) -> Iterator[dict[str, str]]:
    """Non-empty rows of a CSV file, separated by commas, semicolons or tabs, with at least these columns."""
    if not path.is_file():
        raise FileNotFoundError(f"Expected a CSV table at {as_text(path)}, but there is no such file. Check the path.")
    try:
        lines = StringIO(path.read_text(encoding="utf-8-sig"), newline="")
    except UnicodeDecodeError as problem:
        raise ValueError(f"{as_text(path)} is not UTF-8 text. Save it as CSV in UTF-8.") from problem
    head = lines.readline()
    separator = max(",;\t", key=head.count)
    names = [name.strip().lower() for name in next(csv.reader([head], delimiter=separator), [])]
    if not set(columns) <= set(names):
        raise ValueError(
            f"The first line of {as_text(path)} must name the columns {', '.join(columns)}, separated by commas, "
            f"semicolons or tabs; got {head.strip()!r}."
        )
    for row in csv.DictReader(lines, names, delimiter=separator, restval=""):
        cells = {name: cell.strip() for name, cell in row.items() if name is not None}
        if any(cells.values()):
            yield cells


def count(things: list, name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def name_some(paths: list[Path]) -> str:
    named = ", ".join(map(_name, paths[:_NAMED]))
    return f"{named} and {len(paths) - _NAMED} more" if len(paths) > _NAMED else named


def _name(path: Path) -> str:
    """The last two parts of a path."""
    return as_text(Path(path.parent.name, path.name))


_PLAIN = "plain folder: all images count as normal"
LAYOUTS = {
    **{"mvtec": read_splits, "good_bad": _read_good_and_bad, "visa": _read_visa},
    **{"csv": _read_csv, "plain": _read_plain},
}
