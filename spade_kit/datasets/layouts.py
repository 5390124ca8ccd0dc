"""Recognise and read the supported folder layouts."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from spade_kit._arguments import choose
from spade_kit._files import as_text, printable
from spade_kit.datasets.drawn import are_drawn
from spade_kit.datasets.images import FORMATS, UNSUPPORTED, list_folder, list_masks, pictures_below, pictures_in, walk
from spade_kit.datasets.naming import (
    BAD_NAMES,
    GOOD,
    GOOD_NAMES,
    IMAGE_NAMES,
    LABEL_NAMES,
    MASK_NAMES,
    MISSING,
    TEST_NAMES,
    TRAIN_NAMES,
    UNSORTED_NAMES,
    as_label,
    is_marked,
    name_file,
    plain,
    strip_mark,
)
from spade_kit.datasets.naming import name_some as name_some
from spade_kit.datasets.pairing import pair
from spade_kit.datasets.samples import Sample
from spade_kit.datasets.tables import (
    COLUMNS,
    are_numbers,
    clean_label,
    find_unclear,
    find_zeros,
    name_numbers,
    read_table,
)

ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"}
VISA_SPLIT = Path("split_csv", "1cls.csv")
_LISTED = 10  # at most this many folders


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
    try:
        os.scandir(folder).close()
        return folder
    except PermissionError as problem:
        raise PermissionError(
            f"Cannot list the folder {as_text(path)}: {problem.strerror}. Check that it can be read."
        ) from problem
    except (OSError, ValueError):  # it is no folder, or no path
        pass
    got = "it is a file" if os.path.isfile(folder) else "there is none"
    cure = 'Check the path, or use load_dataset("demo").'
    if os.path.isfile(folder) and folder.suffix.lower() in ARCHIVES:
        got, cure = "it is an archive", "Unpack it, and pass the folder."
    raise FileNotFoundError(f"Expected a folder of images at {as_text(path)}, but {got}. {cure}")


def guess(path: Path) -> str:
    """Guess which of `LAYOUTS` a folder or file has."""
    if os.path.isfile(path):
        if path.suffix.lower() == ".csv":
            return "csv"
        if path.suffix.lower() in ARCHIVES:
            check_folder(path)
        raise FileNotFoundError(
            f"Expected a folder of images or a CSV table, but {as_text(path)} is another kind of file. Pass its folder."
        )
    if layout := _recognise(check_folder(path)):
        return layout
    raise FileNotFoundError(_describe_contents(path))


def _recognise(folder: Path) -> str | None:
    if _child(folder, TRAIN_NAMES) is not None:
        return "mvtec"
    if any(os.path.isfile(one / VISA_SPLIT) for one in (folder.resolve().parent, folder)):
        return "visa"
    if _child(folder, GOOD_NAMES) is not None and _child(folder, BAD_NAMES) is not None:
        return "good_bad"
    return "plain" if pictures_in(folder) else None


def find_root(path: Path) -> Path:
    """The folder to read: ``images`` of one that holds nothing else but masks, else the folder itself."""
    images = _enter(path, IMAGE_NAMES) if os.path.isdir(path) else None
    return images if images and not _recognise(path) and _recognise(images) else path


def _enter(folder: Path, names: Collection[str]) -> Path | None:
    """The subfolder with one of these names, if it holds folders, and all images of the folder but masks."""
    images = _child(folder, names)
    if images is None or pictures_in(folder) or pictures_in(images):
        return None
    beside = {one: pictures_below(one) for one in list_folder(folder).folders if one != images}
    masks = {one for one in beside if plain(one.name) in MASK_NAMES}
    masks |= {one for one in beside if plain(one.name) in LABEL_NAMES and are_drawn(beside[one])}
    return None if any(beside[one] for one in beside if one not in masks) else images


def _find_mask_folder(folder: Path) -> Path | None:
    """The folder of masks in that of a dataset, or beside ``images``; of its splits, if it has some, the test split."""
    place = folder.absolute()
    masks = _child(folder, MASK_NAMES)
    if masks is None and plain(place.name) in IMAGE_NAMES:
        masks = _child(place.parent, MASK_NAMES | LABEL_NAMES)
        masks = masks if masks and are_drawn(pictures_below(masks)) else None
    kinds = {plain(one.name) for one in list_folder(masks).folders} - TRAIN_NAMES - TEST_NAMES if masks else set()
    return masks if masks is None or kinds else _child(masks, TEST_NAMES) or masks


def _describe_contents(folder: Path) -> str:
    """Error text for a folder without images in the expected place: its contents and a cure."""
    listing = list_folder(folder)
    folders = listing.folders
    inside = sorted(listing.images + folders + listing.others)
    holds = ", ".join(printable(entry.name) for entry in inside[:_LISTED]) or "nothing"
    datasets = [entry for entry in folders if _child(entry, TRAIN_NAMES) is not None]
    below = pair(pictures_below(folder), folder)[0]
    kinds = [entry for entry in folders if {*pictures_in(entry)} & {*below}]
    good = [entry for entry in kinds if _label(entry.name) == GOOD]
    tables = [entry for entry in inside if entry.suffix.lower() == ".csv"]
    all_below = [*walk(folder)]
    locked = next((one.problem for one in all_below if one.problem), "")
    cure = f"Pass the folder of images of good parts. Supported formats: {', '.join(FORMATS)}; convert others."
    foreign = {entry.suffix.lower() for one in all_below for entry in one.others} & UNSUPPORTED
    if foreign and not any(one.images for one in all_below):
        cure = f"{', '.join(sorted(foreign))} is not supported. Convert these images to PNG."
    cure = "Check that it can be read." if locked else cure
    if datasets and _child(folder, MASK_NAMES | LABEL_NAMES) not in (None, datasets[0]):
        parts = {"train": _child(datasets[0], TRAIN_NAMES), "test": _child(datasets[0], TEST_NAMES)}
        told = ", ".join(f"{part}={str(place)!r}" for part, place in parts.items() if place)
        cure = f"Specify the folders, and the masks beside them are found: load_dataset({told})."
    elif datasets:
        cure = f"It is a folder of datasets. Load one of them, such as load_dataset({str(datasets[0])!r})."
    elif good:
        judged = next((f", test={str(kind)!r}" for kind in kinds if kind != good[0]), "")
        cure = f"Specify the folder of normal images: load_dataset(train={str(good[0])!r}{judged})."
    elif kinds:
        cure = "Specify the folder of normal images: load_dataset(train=<that folder>, test=<another>)."
    elif below:
        place = max(below, key=lambda photo: _rank(photo.relative_to(folder))).parent
        cure = f"Its images are deeper down, such as in {as_text(place)}. Pass the folder of normal images."
    elif tables:
        cure = f"Load its table: load_dataset({str(tables[0])!r})."
    return " ".join(filter(None, [f"Expected images in {as_text(folder)}, but it contains {holds}.", locked, cure]))


def _rank(photo: Path) -> int:
    """How much the folders of an image say that it is normal."""
    places = {plain(part) for part in photo.parts[:-1]}
    return 2 * bool(places & GOOD_NAMES) - 4 * bool(places & BAD_NAMES) + bool(places & TRAIN_NAMES)


def _child(folder: Path, names: Collection[str]) -> Path | None:
    """The subfolder with one of these names, ignoring case."""
    return next((entry for entry in list_folder(folder).folders if plain(entry.name) in names), None)


def _label(name: str) -> str:
    return printable(as_label(name))


def read_splits(folder: Path) -> Found:
    """MVTec AD and similar layouts: one folder per split, and in it one folder per kind."""
    train_folder, test_folder = (_child(folder, names) for names in (TRAIN_NAMES, TEST_NAMES))
    mask_folder = _find_mask_folder(folder)
    if train_folder is None:
        raise FileNotFoundError(_describe_contents(folder))
    good = _child(train_folder, GOOD_NAMES) or _child(train_folder, {"0"})
    train = _read_good(good, pictures_below(good)) if good else _read_good(train_folder, pictures_in(train_folder))
    if not train:
        raise FileNotFoundError(
            f"Expected images of good parts in {as_text(good or train_folder / GOOD)}, but found none. "
            f"{_describe_contents(train_folder)}"
        )
    none_good = f"{train_folder.name} has no folder {GOOD}: all images in it count as normal."
    remarks = [none_good] if good is None else _find_deeper(good, train)
    remarks += [_tell_numbers(train_folder, "0")] if good and good.name == "0" else []
    told = {other: pictures_below(other) for other in list_folder(train_folder).folders if other != good}
    remarks += [f"{name_file(other)}: {len(held)} images not used." for other, held in told.items() if held]
    used = {train_folder, test_folder, mask_folder, mask_folder and mask_folder.parent}
    unused = [other for other in list_folder(folder).folders if other not in used]
    hint = "test images belong in test, masks in ground_truth or masks"
    remarks += [f"{printable(other.name)}: not used; {hint}." for other in unused]
    test, numbered = ([], []) if test_folder is None else _read_kinds(test_folder, mask_folder)
    remarks += numbered + _find_what_has_no_partner(mask_folder, test_folder or folder, test)
    remarks += _find_unused(folder, train + test, {*told, *unused, mask_folder})
    return Found(train, test, "MVTec AD layout", _has_masks(mask_folder, test), tuple(remarks))


def _read_good_bad(folder: Path) -> Found:
    """Folders of normal and of defective images side by side."""
    good, masks = _child(folder, GOOD_NAMES), _find_mask_folder(folder)
    if good is None or not (train := _read_good(good, pictures_below(good))):
        raise FileNotFoundError(_describe_contents(good or folder))
    test = [sample for sample in _read_kinds(folder, masks)[0] if good not in sample.path.parents]
    remarks = _find_deeper(good, train) + _find_what_has_no_partner(masks, folder, test) + _find_contrary(test, folder)
    remarks += _find_unused(folder, train + test, {masks})
    layout = f"normal images in {printable(good.name)}, each other folder is a kind of defect"
    return Found(train, test, layout, _has_masks(masks, test), tuple(remarks))


def _read_good(folder: Path, photos: list[Path]) -> list[Sample]:
    """Normal images, without files that are masks of them."""
    return [Sample(path, GOOD) for path in pair(photos, folder, least=1)[0]]  # blank masks, too


def _find_deeper(folder: Path, normal: list[Sample]) -> list[str]:
    """A remark on normal images from folders below, since a folder such as Trash may hold others."""
    below = [sample.path.parent.relative_to(folder) for sample in normal if sample.path.parent != folder]
    names = [as_text(place) for place in dict.fromkeys(below)]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    told = f"{count(below, 'image')} of {name_file(folder)} from folders below it: {', '.join(names[:_LISTED])}{more}."
    return [told] if below else []


def _read_kinds(
    folder: Path, masks: Path | None = None, trained: Collection[str] = ()
) -> tuple[list[Sample], list[str]]:
    """Images directly in a folder, without a label, and images in and below one subfolder per kind; and remarks.

    Kinds with the name of a folder of normal images, one of ``trained``, are good.
    """
    if images := _enter(folder, IMAGE_NAMES | TEST_NAMES):
        masks = masks and (_child(masks, {plain(images.name)}) or masks)
        folder, masks = images, masks or _find_mask_folder(images)
    photos, truth = pair([path for path in pictures_below(folder) if masks not in path.parents], folder, masks)
    of_kind = defaultdict(list)
    for path in photos:
        of_kind[folder.joinpath(*path.relative_to(folder).parts[:-1][:1])].append(path)
    samples, remarks = [], []
    for kind in (folder, *list_folder(folder).folders):
        label = None if kind == folder or plain(kind.name) in UNSORTED_NAMES else _label(kind.name)
        if label not in (GOOD, None) and plain(kind.name) in trained:
            remarks.append(f"{name_file(kind)} has the name of a folder of normal images: it counts as {GOOD}.")
            label = GOOD
        samples += [Sample(path, label, truth.get(path)) for path in of_kind[kind]]
    labels = {sample.label for sample in samples if sample.label}
    remarks += _find_contrary(samples, folder)
    if (zeros := find_zeros(labels)) and are_numbers(labels):
        samples = [replace(sample, label=GOOD) if sample.label in zeros else sample for sample in samples]
        return samples, [*remarks, _tell_numbers(folder, *sorted(zeros))]
    unclear = sorted(find_unclear(labels))
    what = "kinds of defects" if len(unclear) > 1 else "a kind of defect"
    told = f"{', '.join(unclear)} in {printable(folder.name)}: {what}. If images of one are good, rename it {GOOD}."
    return samples, [*remarks, told] if unclear else remarks


def _find_contrary(samples: list[Sample], folder: Path) -> list[str]:
    """A remark on images whose kind says one thing, and a folder below it another."""
    contrary = []
    for sample in samples:
        below = {plain(part) for part in sample.path.relative_to(folder).parts[1:-1]}
        beside = {one.name for one in list_folder(sample.path.parents[1]).folders} if below == {"0"} else set()
        good = {"0"} if beside == {"0", "1"} else GOOD_NAMES
        if sample.label is not None and below & (BAD_NAMES if sample.label == GOOD else good):
            contrary.append(sample.path)
    if not contrary:
        return []
    first = contrary[0].relative_to(folder)
    told = f"{count(contrary, 'image')} in folders that contradict the one above: {as_text(first)} counts as"
    return [f"{told} {_label(first.parts[0])}. Move them if that is wrong."]


def _tell_numbers(folder: Path, *zeros: str) -> str:
    return f"Folders in {printable(folder.name)} are numbers: {' and '.join(zeros)} counts as {GOOD}."


def _has_masks(folder: Path | None, samples: list[Sample]) -> bool:
    return folder is not None or any(sample.mask_path for sample in samples)


def _find_what_has_no_partner(masks: Path | None, folder: Path, test: list[Sample]) -> list[str]:
    """Remarks on masks without an image, and on defects without a mask if others have one."""
    used = _list_used(test)
    lost = [] if masks is None else [mask for mask in pictures_below(masks) if mask not in used]
    remarks = tell(lost, "mask", "without an image")
    drawn = [mask for mask in used - {sample.path for sample in test} if not {masks} & {*mask.parents}]
    drawn = sorted(mask for mask in drawn if folder in mask.parents and not is_marked(mask.relative_to(folder)))
    remarks += tell(drawn, "mask", "told by few colours, not by name")
    if pairs := [(sample, mask) for sample in test for mask in sample.mask_parts if _differ(sample.path, mask)]:
        sample, mask = pairs[0]
        told = f"{count(pairs, 'mask')} found by number, not by name"
        remarks.append(f"{told}: {name_file(mask)} is that of {as_text(sample.path.name)}.")
    if bare := _find_bare(test, masks):
        place = bare[0].relative_to(folder).with_name(f"{bare[0].stem}_mask.png")
        wanted = as_text(place.name if masks is None else Path(masks.name, place))
        remarks += tell(bare, "defect image", "without a mask", f"; expected mask: {wanted}.")
    return remarks


def _differ(image: Path, mask: Path) -> bool:
    """Whether an image and its mask in another folder have other names."""
    names = [{plain(name), plain(strip_mark(name))} for name in (image.stem, mask.stem)]
    return image.parent != mask.parent and names[0].isdisjoint({*names[1], plain(mask.name)})


def _find_bare(test: list[Sample], masks: Path | None = None) -> list[Path]:
    """Defects without a mask, if others have one."""
    bare = [sample.path for sample in test if sample.label not in (GOOD, None) and sample.mask_path is None]
    return bare if _has_masks(masks, test) else []


def _list_used(samples: list[Sample]) -> set[Path]:
    """The files of images and masks."""
    masks = [sample.mask_path for sample in samples if sample.mask_path is not None]
    return {sample.path for sample in samples}.union(*map(list_masks, masks))


def _find_unused(folder: Path, samples: list[Sample], told: Collection[Path | None]) -> list[str]:
    """Remarks on images and masks that no sample refers to, except those in folders that other remarks are about."""
    used = _list_used(samples)
    lost = [path for path in pictures_below(folder) if path not in used and not {*path.parents} & {*told}]
    images = {*pair(pictures_below(folder), folder, least=1)[0]} if lost else set()
    masks = [path for path in lost if path not in images]
    return tell([path for path in lost if path in images], "image", "not used") + tell(masks, "mask", "not used")


def read_folders(train: list[Path], test: list[Path]) -> Found:
    """Folders of normal images, and folders of test images, which may say what they hold."""
    normal, remarks = [], []
    for folder in train:
        good = folder if pictures_in(folder) else _child(folder, GOOD_NAMES)
        samples = [] if good is None else _read_good(good, pictures_in(folder) or pictures_below(good))
        if not samples:
            raise FileNotFoundError(_describe_contents(folder))
        normal += samples
        remarks += _find_deeper(good or folder, samples) + _find_unused(folder, samples, test)
    judged, bare = [], []
    names = [printable(folder.absolute().name) for folder in test]
    labels = [*map(_label_of, test)]
    zeros = find_zeros(names) if len(test) > 1 and are_numbers(names) else set()
    if zeros:
        labels = [GOOD if name in zeros else name for name in names]
        remarks.append(_tell_numbers(test[0].absolute().parent, *sorted(zeros)))
    trained = {plain(folder.absolute().name) for folder in train} - TRAIN_NAMES - IMAGE_NAMES - BAD_NAMES
    trained -= find_zeros(trained)  # which are told as numbers
    for folder, label, name in zip(test, labels, names):
        samples, numbered = _read_kinds(folder, _find_masks(folder), trained)
        if not samples:
            raise FileNotFoundError(_describe_contents(folder))
        if label:
            samples = [replace(sample, label=label) for sample in samples]
            numbered = _find_contrary(samples, folder.parent)
        judged += samples
        bare += [name] if plain(name) not in UNSORTED_NAMES and None in {sample.label for sample in samples} else []
        if label and plain(label) not in GOOD_NAMES | BAD_NAMES and not zeros:
            told = f"{name} is beside a folder of good images, so its {len(samples)} images are labelled"
            numbered += [f"{told} {label!r}. If they have no label, rename it test."]
        remarks += numbered + _find_what_has_no_partner(None, folder, samples) + _find_unused(folder, samples, train)
    if not _has_masks(None, judged):
        beside = {_child(parent, MASK_NAMES) for folder in test for parent in [*folder.absolute().parents][:2]} - {None}
        lost = {one: pictures_below(one) for one in beside if one}
        remarks += [f"{name_file(one)}: {count(held, 'mask')} not used." for one, held in lost.items() if held]
    if bare and len(test) > 1:
        told = f"{', '.join(bare)}: images without a label. If these names are labels, pass the folder"
        remarks.append(f"{told} that holds them as test.")
    several = "two folders" if len(train) == len(test) == 1 else f"{len(train)} + {len(test)} folders"
    return Found(normal, judged, several if test else _PLAIN, _has_masks(None, judged), tuple(remarks))


def _find_masks(folder: Path) -> Path | None:
    """The masks of test images: masks/bad, bad_masks or masks beside their folder; masks/bad or more one folder up."""
    place = folder.absolute()
    for parent in [*place.parents][:2]:
        if beside := _child(parent, MASK_NAMES | LABEL_NAMES):
            deeper = None if parent == place.parent else _child(beside, {plain(place.parent.name)})
            own = [_child(one, {plain(place.name)}) for one in (deeper, beside) if one]
            return next(filter(None, own), beside if parent == place.parent else None)
    others = (one for one in list_folder(place.parent).folders if one.name != place.name)
    return next((one for one in others if strip_mark(one.name) == place.name), None)


def _label_of(folder: Path) -> str | None:
    """The label that a folder's name gives its images: of a known kind, or of one beside a folder of good images."""
    place = folder.absolute()
    name = plain(place.name)
    if _child(folder, GOOD_NAMES) is not None:  # it holds kinds
        return None
    beside = name not in UNSORTED_NAMES and _child(place.parent, GOOD_NAMES) is not None
    return _label(place.name) if beside or name in GOOD_NAMES | BAD_NAMES else None


def _read_plain(folder: Path) -> Found:
    photos = _read_good(folder, pictures_in(check_folder(folder)))
    if not photos:
        raise FileNotFoundError(_describe_contents(folder))
    ignored = [entry for entry in list_folder(folder).folders if pictures_below(entry)]
    remarks = tell(ignored, "folder", "of images not used") + _find_unused(folder, photos, ignored)
    return Found(photos, [], _PLAIN, remarks=tuple(remarks))


def _read_visa(folder: Path) -> Found:
    """VisA's official split for one object; paths in its table are relative to the folder of all objects."""
    root = folder if os.path.isfile(folder / VISA_SPLIT) else folder.resolve().parent
    table = root / VISA_SPLIT
    if not os.path.isfile(table):
        raise FileNotFoundError(f"Expected VisA's split at {as_text(table)}, but there is none. Unpack all of VisA.")
    rows = list(read_table(table, ("object", "split", "label", "image", "mask")))
    objects = sorted({row["object"] for row in rows})
    if folder.resolve().name not in objects:
        cure = f"Load one of them, such as load_dataset({str(root / objects[0])!r})." if objects else "Unpack it again."
        listed = ", ".join(objects) or "nothing"
        raise FileNotFoundError(f"{as_text(table)} must list images of {as_text(folder)}; it lists {listed}. {cure}")
    own = [row | {"path": row["image"]} for row in rows if row["object"] == folder.resolve().name]
    train, test, remarks = _read_rows(own, root, printable(table.name))
    remarks += _find_unused(folder, train + test, ())
    return Found(train, test, "VisA, official split of one class", True, tuple(remarks))


def _read_csv(path: Path) -> Found:
    table, remarks = printable(path.name), []
    rows = list(read_table(path, ("path",)))
    columns = set(rows[0] if rows else ()) - {""}
    if unknown := sorted(columns - {*COLUMNS}):
        told = f"{table} has unknown columns {', '.join(unknown)}; known columns are path, label, mask and split"
        if not columns & {"label", "split"}:
            raise ValueError(f"{told}. Rename them.")
        remarks.append(f"{told}. The others are not used.")
    train, test, more = _read_rows(rows, path.parent, table)
    return Found(train, test, f"table {table}", _has_masks(None, test), (*remarks, *more))


def _read_rows(rows: list[dict[str, str]], folder: Path, table: str) -> tuple[list[Sample], list[Sample], list[str]]:
    """Normal and test images of a table, with paths below a folder, and remarks."""
    parts: dict[str, list[Sample]] = {"train": [], "test": []}
    has_split = any("split" in row for row in rows)
    remarks = _drop_missing(rows, table) + _name_numbered_labels(rows, table)
    if rows and not any(row.get("label") or row.get("split") for row in rows):
        remarks.append(f"{table} has no labels: all images count as normal.")
    defects = [row["label"] for row in rows if row.get("label") and _label(row["label"]) != GOOD]
    if defects and not has_split:
        needed = "a column split with 'train' or 'test' in each row"
        raise ValueError(f"{table} lists defects, such as {defects[0]!r}, so it needs {needed}.")
    for row in rows:
        split = (row.get("split") or "train").lower()
        choose(f"split of {printable(row['path'])} in {table}", split, parts)
        label = _label(row["label"]) if row.get("label") else GOOD if split == "train" else None
        if split == "train" and label != GOOD:
            wrong = f"puts {printable(row['path'])}, a {label!r} image, among the normal ones"
            raise ValueError(f"{table} {wrong}. Set its split to 'test'.")
        mask = _find_file(folder, row["mask"]) if row.get("mask") else None
        parts[split].append(Sample(_find_file(folder, row["path"]), label, mask))
    if not parts["train"]:
        raise FileNotFoundError(f"{table} lists no normal image for training. Give some rows the split 'train'.")
    remarks += _join_rows(parts, table)
    masked = [sample.path for sample in parts["train"] if sample.mask_path is not None]
    remarks += tell(masked, "normal image", "with a mask, not used")
    remarks += tell(_find_bare(parts["test"]), "defect image", "without a mask")
    return parts["train"], parts["test"], remarks


def _join_rows(parts: dict[str, list[Sample]], table: str) -> list[str]:
    """Leave one sample per image and split, with the masks of all its rows; return a remark on images in several."""
    labels: dict[Path, str | None] = {}
    repeated = []
    for split, samples in parts.items():
        joined: dict[Path, Sample] = {}
        for sample in samples:
            known = labels.setdefault(sample.path, sample.label)
            if None not in (known, sample.label) and known != sample.label:
                raise ValueError(
                    f"{table} must give each image one label; got {known!r} and {sample.label!r} for "
                    f"{as_text(sample.path)}. Correct its rows."
                )
            if before := joined.get(sample.path):
                repeated.append(sample.path)
                masks = tuple(dict.fromkeys(before.mask_parts + sample.mask_parts))
                sample = replace(sample, label=before.label or sample.label, mask_path=masks)
            labels[sample.path] = known or sample.label
            joined[sample.path] = sample
        parts[split] = list(joined.values())
    return tell(repeated, "row", f"of {table} for an image again, joined")


def _drop_missing(rows: list[dict[str, str]], table: str) -> list[str]:
    """Empty the cells that programs write for a missing value; return remarks on rows without a label or a split.

    Where others have a label, an image without one may be defective: it is for testing, unless its split says else.
    """
    for row in rows:
        row |= {name: "" for name in ("mask", "split") if row.get(name, "").lower() in MISSING}
        row |= {"label": ""} if clean_label(row.get("label")) is None else {}
    labelled, split = (any(row.get(name) for row in rows) for name in ("label", "split"))
    without = [row for row in rows if labelled and not row.get("label")]
    bare = [row for row in without if row.get("split", "").lower() != "test"]
    normal = [row for row in bare if row.get("split")]
    remarks = []
    if bare:
        told = f"{len(normal)} in train, as {GOOD}, and " if normal else ""
        told += f"{len(without) - len(normal)} in test"
        remarks.append(f"{count(without, 'row')} of {table} without a label: {told}.")
    for row in bare:
        row["split"] = row.get("split") or "test"
    rest = [row for row in rows if not row.get("split")]
    return [*remarks, f"{count(rest, 'row')} of {table} without a split: in train."] if split and rest else remarks


def _name_numbered_labels(rows: list[dict[str, str]], table: str) -> list[str]:
    """Where all labels are numbers, call that of the training images good, or else 0, and return a remark."""
    trained = {row["label"] for row in rows if row.get("label") and (row.get("split") or "train").lower() == "train"}
    good = trained.pop() if len(trained) == 1 else None
    named = name_numbers([row.get("label") for row in rows], good)
    told = {row["label"] for row, label in zip(rows, named) if label == GOOD != row["label"]}
    for row, label in zip(rows, named):
        row["label"] = label or ""
    return [f"Labels of {table} are numbers: {' and '.join(sorted(told))} counts as {GOOD}."] if told else []


def _find_file(folder: Path, cell: str) -> Path:
    """A path in a table; backslashes separate folders, as on Windows, unless there is such a file."""
    return Path(os.path.normpath(folder / (cell if os.path.exists(folder / cell) else cell.replace("\\", "/"))))


def count(things: list, name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def tell(paths: list[Path], name: str, what: str, end: str = ".") -> list[str]:
    """A remark on some files or folders, if there are any."""
    return [f"{count(paths, name)} {what}: {name_some(paths)}{end}"] if paths else []


_PLAIN = "plain folder: all images count as normal"
LAYOUTS = {"mvtec": read_splits, "good_bad": _read_good_bad, "visa": _read_visa, "csv": _read_csv, "plain": _read_plain}
