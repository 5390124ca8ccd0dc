"""Finding a dataset's photographs: the folder layouts that are understood, and what is said of each."""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from spade_kit.arguments import choose, warn
from spade_kit.datasets import GOOD, Dataset, Sample
from spade_kit.images import UnreadablePhotoError, natural_order, pictures_in, read_size

GOOD_NAMES = {"good", "ok", "normal"}
TRAIN_NAMES = {"train", "training"}
TEST_NAMES = {"test", "testing"}
MASK_NAMES = {"ground_truth", "groundtruth", "masks", "mask"}
VISA_SPLIT = Path("split_csv", "1cls.csv")
_NAMED = 3  # of many, how many are named in a remark


def load_dataset(
    name_or_path: str | Path | None = None,
    *,
    train: str | Path | None = None,
    test: str | Path | None = None,
    layout: str | None = None,
) -> Dataset:
    """Find the photographs of a dataset. ``print(dataset)`` says what was understood.

    Parameters
    ----------
    name_or_path
        ``"demo"`` is the rendered part that comes with the package. ``"solar_cells"`` are 2,624 real
        electroluminescence photographs [1]_ from the package elpv-dataset. Otherwise a path, see *Notes*.
    train, test
        Instead of a path: a folder of normal photos, and one of photos to judge, directly in it or in a folder for
        each kind.
    layout
        One of ``LAYOUTS`` where the guess is wrong.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no normal photo in it.
    ImportError
        If ``"solar_cells"`` are asked for and elpv-dataset is not installed.

    Notes
    -----
    Understood are

    - ``"mvtec"``: ``train/good``, ``test/<kind>``, and masks ``ground_truth/<kind>/<stem>_mask.png``, with or without
      ``_mask``; ``good`` may be called ``ok`` or ``normal``, and ``ground_truth`` ``masks``. BTAD and MVTec LOCO are
      read so, too; several masks in a folder ``ground_truth/<kind>/<stem>/`` are joined.
    - ``"visa"``: one object's folder of VisA, by its official split in ``split_csv/1cls.csv``.
    - ``"csv"``: a table with the columns ``path``, ``label``, ``mask``, ``split``, of which all but ``path`` may be
      missing; paths start at its own folder.
    - ``"plain"``: a folder of photos, all of them normal. `explore` then judges each against the others.

    References
    ----------
    .. [1] S. Deitsch et al., "Segmentation of photovoltaic module cells in uncalibrated electroluminescence images",
       Machine Vision and Applications 32, 2021, doi:10.1007/s00138-021-01191-9. Licence CC BY-NC-SA 4.0.
    """
    if (name_or_path is None) == (train is None) or (test is not None and train is None):
        raise ValueError(
            "load_dataset takes either a name or path, or the folder of normal photos as train=..., with test=... "
            "if there are photos to judge."
        )
    if name_or_path == "demo":
        return _assemble(_read_splits(_demo_folder()), "demo")
    if name_or_path == "solar_cells":
        return _solar_cells()
    if train is not None:
        return _assemble(_read_two(_folder(train), None if test is None else _folder(test)), Path(train).name)
    path = Path(str(name_or_path)).expanduser()
    if layout is not None:
        choose("layout", layout, LAYOUTS)
    guessed = layout or _guess(path if path.is_file() else _folder(path))
    return _assemble(LAYOUTS[guessed](path), path.resolve().stem if path.is_file() else path.resolve().name)


@dataclass(frozen=True)
class Found:
    """What a layout gives: samples, whether there are masks at all, and what is to be said of it."""

    train: list[Sample]
    test: list[Sample]
    layout: str
    masked: bool = False
    remarks: tuple[str, ...] = ()


def _folder(path: str | Path) -> Path:
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    came = "that is a file" if folder.is_file() else "there is none"
    raise FileNotFoundError(
        f'A folder of photos was expected at {path}, but {came}. Check the path, or take load_dataset("demo").'
    )


def _guess(path: Path) -> str:
    if path.is_file():
        if path.suffix.lower() == ".csv":
            return "csv"
        raise FileNotFoundError(
            f"A folder of photos or a CSV table was expected, but {path} is another file. Take the folder it lies in."
        )
    if _child(path, TRAIN_NAMES) is not None:
        return "mvtec"
    if (path.resolve().parent / VISA_SPLIT).is_file() or (path / VISA_SPLIT).is_file():
        return "visa"
    if pictures_in(path):
        return "plain"
    raise FileNotFoundError(_say_what_is_there(path))


def _say_what_is_there(folder: Path) -> str:
    """Of a folder that holds no photos where they were looked for: what it holds, and what to do."""
    inside = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    holds = ", ".join(entry.name for entry in inside[:10]) or "nothing"
    datasets = [entry for entry in inside if entry.is_dir() and _child(entry, TRAIN_NAMES) is not None]
    kinds = [entry for entry in inside if entry.is_dir() and pictures_in(entry)]
    good = [entry for entry in kinds if entry.name.lower() in GOOD_NAMES]
    cure = "Take the folder that the photos of good parts lie in."
    if datasets:
        cure = f"It is a folder of datasets: take one, such as load_dataset({str(datasets[0])!r})."
    elif kinds:
        train, test = (good or kinds)[0], next((kind for kind in kinds if kind not in (good or kinds)[:1]), None)
        judged = f", test={str(test)!r}" if test else ""
        cure = f"Say which of them are normal: load_dataset(train={str(train)!r}{judged})."
    return f"Photos were expected in {folder}, but it holds {holds}. {cure}"


def _child(folder: Path, names: Iterable[str]) -> Path | None:
    """The subfolder that has one of these names, in whatever case."""
    return next((entry for entry in _folders_in(folder) if entry.name.lower() in names), None)


def _folders_in(folder: Path) -> list[Path]:
    return sorted((entry for entry in folder.iterdir() if entry.is_dir()), key=natural_order)


def _label(name: str) -> str:
    return GOOD if name.lower() in GOOD_NAMES else name


# ---- layouts ---------------------------------------------------------------------------------------------------------


def _read_splits(folder: Path) -> Found:
    """MVTec AD and its relatives: a folder a split, and in it a folder a kind."""
    train_folder, test_folder = _child(folder, TRAIN_NAMES), _child(folder, TEST_NAMES)
    if train_folder is None:
        raise FileNotFoundError(_say_what_is_there(folder))
    mask_folder = _child(folder, MASK_NAMES)
    good = _child(train_folder, GOOD_NAMES)
    train = [Sample(path, GOOD) for path in pictures_in(good or train_folder)]
    if not train:
        raise FileNotFoundError(
            f"Photos of good parts were expected in {good or train_folder / GOOD}, but none came. "
            f"{_say_what_is_there(train_folder)}"
        )
    remarks = []
    if good is None:
        remarks.append(f"{train_folder.name} has no folder {GOOD}: all photos in it count as normal.")
    for other in _folders_in(train_folder):
        if other != good and pictures_in(other):
            remarks.append(f"{train_folder.name}/{other.name}: {len(pictures_in(other))} photos not used.")
    for other in _folders_in(folder):
        if other not in (train_folder, test_folder, mask_folder):
            remarks.append(f"{other.name}: not used.")
    test = [] if test_folder is None else _read_kinds(test_folder, mask_folder)
    if mask_folder is not None:
        remarks += _find_masks_without_photo(mask_folder, test)
    return Found(train, test, "MVTec AD layout", mask_folder is not None, tuple(remarks))


def _read_kinds(folder: Path, masks: Path | None) -> list[Sample]:
    """Photos directly in a folder, of which nobody said what they are, and those in a folder a kind."""
    samples = [Sample(path) for path in pictures_in(folder)]
    for kind in _folders_in(folder):
        label = _label(kind.name)
        truth = _find_masks(masks, kind.name) if masks is not None and label != GOOD else {}
        samples += [Sample(path, label, truth.get(path.stem)) for path in pictures_in(kind)]
    return samples


def _find_masks(masks: Path, kind: str) -> dict[str, Path]:
    """By a photo's stem: a picture called so, with or without ``_mask``, or a folder of pictures called so."""
    folder = _child(masks, {kind.lower()})
    if folder is None:
        return {}
    several = {entry.name: entry for entry in _folders_in(folder) if pictures_in(entry)}
    return several | {path.stem.removesuffix("_mask"): path for path in pictures_in(folder)}


def _find_masks_without_photo(masks: Path, test: list[Sample]) -> list[str]:
    used = {sample.mask_path for sample in test}
    kinds = [kind.name for kind in _folders_in(masks) if _label(kind.name) != GOOD]
    there = [mask for kind in kinds for mask in _find_masks(masks, kind).values()] + pictures_in(masks)
    lost = sorted((mask for mask in there if mask not in used), key=natural_order)
    return [f"{_count(lost, 'mask')} without a photo: {_name_some(lost)}."] if lost else []


def _read_two(train: Path, test: Path | None) -> Found:
    good = train if pictures_in(train) else _child(train, GOOD_NAMES)
    if good is None or not pictures_in(good):
        raise FileNotFoundError(_say_what_is_there(train))
    judged = [] if test is None else _read_kinds(test, None)
    if test is not None and not judged:
        raise FileNotFoundError(_say_what_is_there(test))
    return Found([Sample(path, GOOD) for path in pictures_in(good)], judged, "two folders" if test else _PLAIN)


def _read_plain(folder: Path) -> Found:
    photos = [Sample(path, GOOD) for path in pictures_in(_folder(folder))]
    if not photos:
        raise FileNotFoundError(_say_what_is_there(folder))
    ignored = [entry for entry in _folders_in(folder) if pictures_in(entry)]
    remarks = [f"{_count(ignored, 'folder')} of photos not used: {_name_some(ignored)}."] if ignored else []
    return Found(photos, [], _PLAIN, remarks=tuple(remarks))


def _read_visa(folder: Path) -> Found:
    """VisA's official split for one object; its table names paths from the folder of all objects on."""
    root = folder if (folder / VISA_SPLIT).is_file() else folder.resolve().parent
    table = root / VISA_SPLIT
    if not table.is_file():
        raise FileNotFoundError(f"VisA's split was expected at {table}, but there is none. Unpack VisA as a whole.")
    rows = list(_read_table(table, ("object", "split", "label", "image", "mask")))
    objects = sorted({row["object"] for row in rows})
    if folder.resolve().name not in objects:
        raise FileNotFoundError(
            f"{folder} holds all of VisA: {', '.join(objects)}. Take one, such as "
            f"load_dataset({str(root / objects[0])!r})."
        )
    parts: dict[str, list[Sample]] = {"train": [], "test": []}
    for row in rows:
        if row["object"] == folder.resolve().name:
            mask = root / row["mask"] if row["mask"] else None
            parts[row["split"]].append(Sample(root / row["image"], _label(row["label"]), mask))
    return Found(parts["train"], parts["test"], "VisA, official split of one class", True)


def _read_csv(path: Path) -> Found:
    parts: dict[str, list[Sample]] = {"train": [], "test": []}
    rows = list(_read_table(path, ("path",)))
    if rows and "split" not in rows[0] and any(_label(row.get("label") or GOOD) != GOOD for row in rows):
        raise ValueError(f"{path} has defects, so it needs a column split with 'train' or 'test' in each row.")
    for number, row in enumerate(rows, 2):
        split = (row.get("split") or "train").strip().lower()
        choose(f"split in row {number} of {path.name}", split, parts)
        label = _label(row["label"].strip()) if row.get("label") else GOOD if split == "train" else None
        if split == "train" and label != GOOD:
            raise ValueError(
                f"Row {number} of {path.name} puts a {label!r} photo among the normal ones. Make it 'test'."
            )
        mask = path.parent / row["mask"].strip() if (row.get("mask") or "").strip() else None
        parts[split].append(Sample(path.parent / row["path"].strip(), label, mask))
    if not parts["train"]:
        raise FileNotFoundError(f"{path} names no normal photo for training. Give some rows split 'train'.")
    masked = any(sample.mask_path for sample in parts["test"])
    return Found(parts["train"], parts["test"], f"table {path.name}", masked)


def _read_table(path: Path, columns: Iterable[str]) -> Iterator[dict[str, str]]:
    """Rows of a CSV file, separated by commas or semicolons, with these columns at least."""
    with open(path, encoding="utf-8-sig", newline="") as lines:
        head = lines.readline()
        lines.seek(0)
        rows = csv.DictReader(lines, delimiter=";" if head.count(";") > head.count(",") else ",")
        missing = set(columns) - set(rows.fieldnames or ())
        if missing:
            raise ValueError(
                f"{path} needs a first line with the columns {', '.join(columns)}, but it begins with {head.strip()!r}."
            )
        yield from rows


def _demo_folder() -> Path:
    """Beside the package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).parent
    return next((at for at in (package.parent / "data" / "demo", package / "data" / "demo") if at.is_dir()), package)


def _solar_cells() -> Dataset:
    """Cells that no expert doubted are normal: every second one of them for training, all the rest to test.

    The label of a doubtful or broken cell is the probability that experts gave it, so that one can ask whether the
    score grows with it.
    """
    package = find_spec("elpv_dataset")
    if package is None or package.origin is None:
        raise ImportError('The solar cells come with the package elpv-dataset: pip install "spade_kit[data]".')
    folder = Path(package.origin).parent / "data"
    with open(folder / "labels.csv", encoding="utf-8") as lines:
        rows = [line.split() for line in lines if line.strip()]
    labels = {0.0: GOOD, 1 / 3: "defect 33 %", 2 / 3: "defect 67 %", 1.0: "defect 100 %"}
    closest = {row[1]: labels[min(labels, key=lambda known: abs(known - float(row[1])))] for row in rows}
    samples = [Sample(folder / row[0], closest[row[1]]) for row in rows]
    good = [sample for sample in samples if sample.label == GOOD]
    train = good[::2]
    kept = {sample.path for sample in train}
    test = [sample for sample in samples if sample.path not in kept]
    return Dataset("solar_cells", train, test, "package elpv-dataset")


_PLAIN = "plain folder: all photos count as normal"
LAYOUTS: dict[str, Callable[[Path], Found]] = {
    "mvtec": _read_splits,
    "visa": _read_visa,
    "csv": _read_csv,
    "plain": _read_plain,
}


# ---- what is to be said of it ----------------------------------------------------------------------------------------


def _assemble(found: Found, name: str) -> Dataset:
    """Drop what is no photo, and say what may surprise."""
    skipped: dict[Path, str] = {}
    sizes: dict[Path, tuple[int, int]] = {}
    for sample in found.train + found.test:
        try:
            sizes[sample.path] = read_size(sample.path)
        except (OSError, UnreadablePhotoError) as problem:
            skipped[sample.path] = str(problem)
    train, test = (
        [replace(s, masked=found.masked) for s in part if s.path in sizes] for part in (found.train, found.test)
    )
    if not train:
        raise FileNotFoundError(f"No normal photo of {name} can be read. {next(iter(skipped.values()))}")
    remarks = list(found.remarks)
    if skipped:
        reasons = "; ".join(list(skipped.values())[:_NAMED])
        remarks.append(f"{len(skipped)} of {len(found.train) + len(found.test)} photos are skipped. {reasons}")
    test, lost = _check_masks(test, sizes)
    remarks += lost
    if twice := _in_both(train, test):
        remarks.append(f"{_count(twice, 'photo')} to test also among the normal ones: {_name_some(twice)}.")
    dataset = Dataset(name, train, test, found.layout, tuple(remarks))
    if skipped:
        warn(f"{name}: {remarks[len(found.remarks)]}")
    return dataset


def _check_masks(test: list[Sample], sizes: dict[Path, tuple[int, int]]) -> tuple[list[Sample], list[str]]:
    """Masks that cannot be read or have another shape are dropped: their photo's truth is unknown then."""
    wrong, resized, checked = [], [], []
    for sample in test:
        mask = sample.mask_path
        if mask is not None:
            size = _size_of_mask(mask)
            height, width = sizes[sample.path]
            if size is None or abs(size[0] * width - size[1] * height) > max(size[0] * width, size[1] * height) / 50:
                wrong.append(mask)
                sample = replace(sample, mask_path=None)
            elif size != (height, width):
                resized.append(mask)
        checked.append(sample)
    remarks = []
    if wrong:
        remarks.append(
            f"{_count(wrong, 'mask')} unreadable or of another shape than the photo, not used: {_name_some(wrong)}."
        )
    if resized:
        remarks.append(f"{_count(resized, 'mask')} of another size than the photo, resized: {_name_some(resized)}.")
    return checked, remarks


def _size_of_mask(path: Path) -> tuple[int, int] | None:
    try:
        parts = pictures_in(path) if path.is_dir() else [path]
        sizes = {read_size(part) for part in parts}
    except (OSError, UnreadablePhotoError):
        return None
    return sizes.pop() if len(sizes) == 1 else None


def _in_both(train: list[Sample], test: list[Sample]) -> list[Path]:
    """Photos to test whose file is, byte for byte, one of the normal ones."""
    by_length = defaultdict(list)
    for sample in train:
        by_length[sample.path.stat().st_size].append(sample.path)
    digests: dict[Path, bytes] = {}

    def digest(path: Path) -> bytes:
        if path not in digests:
            digests[path] = hashlib.sha256(path.read_bytes()).digest()
        return digests[path]

    alike = ((sample.path, by_length.get(sample.path.stat().st_size, [])) for sample in test)
    return [path for path, others in alike if any(digest(path) == digest(other) for other in others)]


def _count(things: list, name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _name_some(paths: list[Path]) -> str:
    named = ", ".join(f"{path.parent.name}/{path.name}" for path in paths[:_NAMED])
    return f"{named} and {len(paths) - _NAMED} more" if len(paths) > _NAMED else named
