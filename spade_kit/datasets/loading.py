"""Load a dataset; unreadable files are skipped, and anything unexpected is reported."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from spade_kit._arguments import choose, warn
from spade_kit._files import printable
from spade_kit._work import track
from spade_kit.datasets.drawn import are_drawn
from spade_kit.datasets.images import (
    UnreadablePhotoError,
    find_locked,
    fits,
    is_image,
    list_folder,
    list_masks,
    list_once,
    natural_order,
    read_head,
    read_size,
)
from spade_kit.datasets.layouts import LAYOUTS, Found, check_folder, find_root, guess, read_folders, read_splits, tell
from spade_kit.datasets.naming import NAMED, says_bad
from spade_kit.datasets.samples import GOOD, Dataset, Sample

_LOOKED_AT = 5  # so many groups of images, whether they are masks


def load_dataset(
    name_or_path: str | Path | None = None,
    *,
    train: str | Path | Sequence[str | Path] | None = None,
    test: str | Path | Sequence[str | Path] | None = None,
    layout: str | None = None,
) -> Dataset:
    """Find the images of a dataset. ``print(dataset)`` shows how the folder was interpreted.

    Parameters
    ----------
    name_or_path
        ``"demo"`` is the rendered part that comes with the package. ``"solar_cells"`` are 2,624 real
        electroluminescence images [1]_ from the package elpv-dataset. Otherwise a path, see *Notes*.
    train, test
        Instead of a path: a folder of normal images, and one of test images, directly in it or in one subfolder per
        kind; or lists of such folders. A test folder's name is the label if it is a word such as ``ok`` or ``defect``,
        or if the folder is beside one of good images; its masks may be in a folder such as ``masks`` beside it.
    layout
        One of ``LAYOUTS``, if the guess is wrong.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no normal image in it.
    ImportError
        If ``"solar_cells"`` is requested and elpv-dataset is not installed.

    Notes
    -----
    Supported layouts:

    - ``"mvtec"``: ``train/good``, ``test/<kind>``, and masks ``ground_truth/<kind>/<stem>_mask.png``, with or without
      ``_mask``; ``good`` may be called ``ok`` or ``normal``, and ``ground_truth`` may be called ``masks``. BTAD and
      MVTec LOCO also use this layout; several masks in a folder ``ground_truth/<kind>/<stem>/`` are joined. Folders
      inside ``good`` and a kind are read, too. Masks may also be beside their image, as ``<stem>_mask.png`` or in a
      folder ``masks``. The splits may be in a folder ``images`` beside ``masks``.
    - ``"good_bad"``: folders such as ``good`` and ``bad``, ``ok`` and ``nok``, ``normal`` and ``abnormal`` side by
      side. Normal images are for training, every other folder is a kind of defect.
    - ``"visa"``: the VisA folder of one object, with the official split in ``split_csv/1cls.csv``.
    - ``"csv"``: a table with the columns ``path``, ``label``, ``mask`` and ``split``; all but ``path`` are optional,
      and paths are relative to the table's folder. An image with several masks has a row for each.
    - ``"plain"``: a folder of normal images. `explore` then judges each against the others.

    References
    ----------
    .. [1] S. Deitsch et al., "Segmentation of photovoltaic module cells in uncalibrated electroluminescence images",
       Machine Vision and Applications 32, 2021, doi:10.1007/s00138-021-01191-9. Licence CC BY-NC-SA 4.0.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> parts.name, len(parts.train), len(parts.test)
    ('demo', 60, 48)
    >>> own = spade_kit.load_dataset(parts.train[0].path.parent)  # a plain folder of normal images
    >>> own.layout, len(own.train)
    ('plain folder: all images count as normal', 60)
    """
    folders = {"train": _as_folders(train), "test": _as_folders(test)}
    for given in [name_or_path, *folders["train"], *folders["test"]]:
        if given is not None and (not isinstance(given, (str, Path)) or str(given) == ""):
            raise ValueError(f"A dataset must be given by a name or one path; got {given!r}.")
    if (name_or_path is None) != bool(folders["train"]) or (folders["test"] and not folders["train"]):
        raise ValueError(
            "load_dataset takes either a name or path, or the folder of normal images as train=..., with test=... "
            "if there are test images."
        )
    if name_or_path == "demo":
        package = Path(__file__).parents[1]  # the demo is inside the package in a wheel, next to it in a checkout
        places = (package / "data" / "demo", package.parent / "data" / "demo", package)
        return _assemble(read_splits(next(filter(Path.is_dir, places))), "demo")
    if name_or_path == "solar_cells":
        return _solar_cells()
    if layout is not None:
        choose("layout", layout, LAYOUTS)
    with list_once() as listed:
        if folders["train"]:
            normal, judged = (list(map(check_folder, given)) for given in folders.values())
            found, name = read_folders(normal, judged), normal[0].resolve().name
            roots = {*normal, *judged}
        else:
            path = Path(str(name_or_path)).expanduser()
            root = find_root(path)
            found = LAYOUTS[layout or guess(root)](root)
            name = path.resolve().stem if os.path.isfile(path) else path.resolve().name
            roots = {path}
        below = [folder for folder in listed if roots & {folder, *folder.parents}]
        return _assemble(found, name, find_locked(listed.values()), below)


def _as_folders(given: Any) -> list:
    """One folder, several or none, as a list."""
    return [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]


def _assemble(found: Found, name: str, locked: Sequence[str] = (), below: Sequence[Path] = ()) -> Dataset:
    """Drop unreadable files, and collect remarks on anything unexpected."""
    name = printable(name)
    skipped: dict[Path, str] = {}
    sizes: dict[Path, tuple[int, int]] = {}
    photos = [sample.path for sample in found.train + found.test]
    for path in track(photos, desc="sizes"):
        try:
            sizes[path] = read_size(path)
        except (OSError, UnreadablePhotoError) as problem:
            skipped[path] = str(problem)
    parts = (found.train, found.test)
    train, test = ([replace(one, masked=found.masked) for one in part if one.path in sizes] for part in parts)
    if not train:
        raise FileNotFoundError(f"No normal image of {name} can be read. {next(iter(skipped.values()))}")
    remarks = [*found.remarks, *locked]
    if skipped:
        reasons = "; ".join(list(skipped.values())[:NAMED])
        remarks.append(f"{len(skipped)} of {len(photos)} images are skipped. {reasons}")
        warn(f"{name}: {remarks[-1]}")
    others = _find_others({path.parent for path in photos}, below)
    remarks += tell(others, "file", "with an unknown extension not used")
    test, odd = _check_masks(test, sizes)
    remarks += odd
    uses = Counter(part for sample in test for part in sample.mask_parts)
    remarks += tell([part for part, number in uses.items() if number > 1], "mask", "used for several images")
    names = Counter(path.with_suffix("") for path in {*photos})
    alike = [path for path in dict.fromkeys(photos) if names[path.with_suffix("")] > 1]
    cure = ". If some are masks, move them to a folder masks beside the images."
    remarks += tell(alike, "image", "differ only in the extension", cure)
    cure = ". If they are masks, name them after their images and move them to a folder masks beside these."
    remarks += tell(_find_drawn(train, test), "image", "of few colours, as masks have", cure)
    defects = [sample.path for sample in train if says_bad(sample.path.stem)]
    cure = ". If they are defects, move them to a folder of their own, and pass it as test."
    remarks += tell(defects, "normal image", "named like a defect", cure)
    remarks += tell(_in_both(train, test), "test image", "also among the training images")
    lost = len(skipped) + sum(map(is_image, others))
    return Dataset(name, train, test, found.layout, tuple(remarks), lost)


def _find_others(folders: set[Path], below: Sequence[Path]) -> list[Path]:
    """Files in the image folders that have an unsupported extension, such as HEIC, and other images in those below."""
    others = {file for folder in folders if os.path.isdir(folder) for file in list_folder(folder).others}
    apart = (file for folder in below if folder not in folders for file in list_folder(folder).others)
    others |= {file for file in apart if is_image(file)}
    return sorted((file for file in others if file.suffix.lower() != ".csv"), key=natural_order)


def _check_masks(test: list[Sample], sizes: dict[Path, tuple[int, int]]) -> tuple[list[Sample], list[str]]:
    """Drop masks that do not fit their image, whose truth is then unknown, and report what is odd about others."""
    told = defaultdict(list)
    checked, alone = [], []
    for sample in test:
        if sample.mask_path is not None:
            odd, file = _find_oddity(sample, sizes[sample.path])
            told[odd].append(file)
            if odd is not None and odd.endswith("not used"):
                alone += [sample.path] if len(list_masks(sample.mask_path)) > 1 else []
                sample = replace(sample, mask_path=None)
        checked.append(sample)
    remarks = [remark for odd in _ODDITIES for remark in tell(told[odd], "mask", odd)]
    return checked, remarks + tell(alone, "image", "whose other masks are not used, either")


_ODDITIES = _MISSING, _UNREADABLE, _MIXED, _TURNED, _UNFIT, _RESIZED, _UNSURE = (
    "missing on disk, not used",
    "unreadable, not used",
    "of a different size from the other masks of the image, not used",
    "of another orientation than the image, not used",
    "of the wrong aspect ratio, not used",
    "of a different size from the image, resized",
    "of another EXIF orientation than the image (check that the defects are in the right place)",
)


def _find_oddity(sample: Sample, size: tuple[int, int]) -> tuple[str | None, Path]:
    """Which of ``_ODDITIES`` a mask has, and which of its files has it; only file headers are read."""
    file, heads = sample.mask_parts[0], {}
    for file in list_masks(sample.mask_parts):
        try:
            heads[file] = read_head(file)
        except FileNotFoundError:
            return _MISSING, file
        except (OSError, UnreadablePhotoError):
            return _UNREADABLE, file
    if not heads:  # an empty folder
        return _UNREADABLE, file
    file = next((file for file, (own, _) in heads.items() if own != size), file)
    if len({own for own, _ in heads.values()}) > 1:
        return _MIXED, file
    return _compare(*heads[file], sample.path, size), file


def _compare(mask: tuple[int, int], orientation: int, photo: Path, size: tuple[int, int]) -> str | None:
    """Which of ``_ODDITIES`` a readable mask has, beside an image of this size."""
    if mask == size[::-1] != size:
        return _TURNED
    if mask != size:
        return _RESIZED if fits(mask, size) else _UNFIT
    of_photo = read_head(photo)[1]
    proven = mask[0] != mask[1] and (of_photo >= 5) != (orientation >= 5)  # by the shape
    return _UNSURE if of_photo != orientation and not proven else None


def _find_drawn(train: list[Sample], test: list[Sample]) -> list[Path]:
    """Images of few colours and no mask, where normal ones have many; of the names but for numbers that most have."""
    groups = defaultdict[str, list[Path]](list)
    for path in (sample.path for sample in train + test if sample.mask_path is None):
        groups[str(path.with_name(re.sub(r"\d+", "0", path.name)))].append(path)
    largest = [] if are_drawn([sample.path for sample in train]) else sorted(groups.values(), key=len, reverse=True)
    return [path for held in largest[:_LOOKED_AT] if are_drawn(held, 2) for path in held]


def _in_both(train: list[Sample], test: list[Sample]) -> list[Path]:
    """Test images with a byte-for-byte copy among the training images."""
    by_length = defaultdict(list)
    for sample in train:
        by_length[sample.path.stat().st_size].append(sample.path)

    @cache
    def digest(path: Path) -> bytes:
        with suppress(OSError):
            return hashlib.sha256(path.read_bytes()).digest()
        return bytes(path)  # unreadable: like no other

    alike = ((sample.path, by_length.get(sample.path.stat().st_size, [])) for sample in test)
    return [path for path, others in alike if any(digest(path) == digest(other) for other in others)]


def _solar_cells() -> Dataset:
    """Cells that the experts agreed are good count as normal: every second one is for training, the rest for testing.

    The label of a doubtful or broken cell is the probability of a defect that the experts assigned to it, which allows
    checking whether the score increases with it.
    """
    package = find_spec("elpv_dataset")
    if package is None or package.origin is None:
        raise ImportError('The solar cells need the package elpv-dataset. Run: pip install "spade_kit[data]".')
    folder = Path(package.origin).parent / "data"
    with open(folder / "labels.csv", encoding="utf-8") as lines:
        rows = [line.split() for line in lines if line.strip()]
    chances = [round(100 * float(row[1])) for row in rows]
    samples = [Sample(folder / row[0], f"defect {chance} %" if chance else GOOD) for row, chance in zip(rows, chances)]
    train = [sample for sample in samples if sample.label == GOOD][::2]
    taken = set(train)
    test = [sample for sample in samples if sample not in taken]
    return Dataset("solar_cells", train, test, "package elpv-dataset")
