"""Photographs on disk: samples, datasets, and the folder layouts that are understood."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
GOOD = "good"


@dataclass(frozen=True)
class Sample:
    """One photograph with what is known of it; pixels are read on access, never kept.

    ``label`` is "good", the type of defect, or None where nobody said. ``mask_path`` points at the ground truth of a
    defect; ``masked`` says that the dataset has such masks at all, so that a good photo's mask is empty, not unknown.
    """

    path: Path
    label: str | None = None
    mask_path: Path | None = None
    masked: bool = False

    @property
    def image(self) -> UInt8[np.ndarray, "H W 3"]:
        return read_image(self.path)

    @property
    def mask(self) -> Bool[np.ndarray, "H W"] | None:
        """True where the defect is; all False for a good photo of a dataset with masks; None where unknown."""
        if self.mask_path is not None:
            with Image.open(self.mask_path) as mask:
                return np.asarray(mask.convert("L")) > 0
        if self.masked and self.label == GOOD:
            with Image.open(self.path) as photo:
                return np.zeros(ImageOps.exif_transpose(photo).size[::-1], bool)
        return None


@dataclass(frozen=True)
class Dataset:
    """Normal photographs to compare with (``train``) and photographs to judge (``test``)."""

    name: str
    train: list[Sample] = field(repr=False)
    test: list[Sample] = field(repr=False)

    def __str__(self) -> str:
        kinds = Counter(sample.label or "unknown" for sample in self.test)
        tested = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: item[0] != GOOD))
        return f"{self.name}: {len(self.train)} normal photos, {len(self.test)} to test ({tested})"


Photo: TypeAlias = "Sample | Path | str | Image.Image | np.ndarray"


def read_image(path: Path | str) -> UInt8[np.ndarray, "H W 3"]:
    """A photograph as RGB, turned upright as its EXIF data says."""
    if Path(path).is_dir():
        raise FileNotFoundError(
            f"A photo was expected at {path}, but that is a folder. List its photos: "
            'sorted(Path(folder).glob("*.png")); or take load_dataset(folder).'
        )
    if not Path(path).is_file():
        raise FileNotFoundError(f"A photo was expected at {path}, but there is no such file. Check the path.")
    try:
        with Image.open(path) as photo:
            return _upright_rgb(photo)
    except OSError as problem:
        raise ValueError(
            f"A photo was expected at {path}, but Pillow cannot read it ({problem}). Remove it."
        ) from problem


def as_array(photo: Photo) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of a Sample, a path, a PIL image or an array that is already (H, W, 3) uint8."""
    if isinstance(photo, Sample):
        return photo.image
    if isinstance(photo, (str, Path)):
        return read_image(photo)
    if isinstance(photo, Image.Image):
        return _upright_rgb(photo)
    if isinstance(photo, np.ndarray) and photo.dtype == np.uint8 and photo.ndim == 3 and photo.shape[2] == 3:
        return photo
    came = f"an array {photo.shape} of {photo.dtype}" if isinstance(photo, np.ndarray) else f"a {type(photo).__name__}"
    raise ValueError(
        f"A photo is a Sample, a path, a PIL image or an (H, W, 3) uint8 array, but {came} came. "
        "Take one photo at a time; from numbers make one with Image.fromarray(values.astype(np.uint8)).convert('RGB')."
    )


def _upright_rgb(photo: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    if photo.mode[0] in "IF":  # Pillow would clip at 255
        raise ValueError(
            f"A photo has 8 bits a channel, but this one is of Pillow's mode {photo.mode!r}. Scale it, and all the "
            "others alike, to 0..255 first."
        )
    upright = ImageOps.exif_transpose(photo)
    if upright.mode == "P":
        upright = upright.convert("RGBA")  # the way that Pillow wants for transparent palettes
    return np.array(upright.convert("RGB"))


def as_list(photos: Iterable[Photo] | Photo) -> list[Photo]:
    """One photo or many, as a list."""
    single = isinstance(photos, (Sample, str, Path, Image.Image)) or (
        isinstance(photos, np.ndarray) and photos.ndim in (2, 3)  # 2 is wrong, and `as_array` says so
    )
    if single:
        return [photos]  # type: ignore[list-item]
    if isinstance(photos, Dataset) or not isinstance(photos, Iterable):
        raise ValueError(
            f"Photos come as a list, but a {type(photos).__name__} came. Of a Dataset take its .train or .test."
        )
    return list(photos)


def load_dataset(name_or_path: str | Path) -> Dataset:
    """Find the photographs of a dataset: ``"demo"``, ``"solar_cells"``, or a folder in the MVTec AD layout.

    Parameters
    ----------
    name_or_path
        ``"demo"`` is the rendered part that comes with the package. ``"solar_cells"`` are 2,624 real
        electroluminescence photographs [1]_ from the package elpv-dataset. A path is a folder that holds
        ``train/good``, ``test/<kind>`` and, for masks, ``ground_truth/<kind>/<stem>_mask.png``.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or it has another layout.
    ImportError
        If ``"solar_cells"`` are asked for and elpv-dataset is not installed.

    References
    ----------
    .. [1] S. Deitsch et al., "Segmentation of photovoltaic module cells in uncalibrated electroluminescence images",
       Machine Vision and Applications 32, 2021, doi:10.1007/s00138-021-01191-9. Licence CC BY-NC-SA 4.0.
    """
    if name_or_path == "demo":
        return _read_mvtec(_demo_folder(), "demo")
    if name_or_path == "solar_cells":
        return _solar_cells()
    folder = Path(name_or_path).expanduser()
    return _read_mvtec(folder, folder.resolve().name)


def _demo_folder() -> Path:
    """Beside the package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).parent
    return next((at for at in (package.parent / "data" / "demo", package / "data" / "demo") if at.is_dir()), package)


def _read_mvtec(folder: Path, name: str) -> Dataset:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"A folder of photos was expected at {folder}, but there is none. Check the path, or take "
            'load_dataset("demo").'
        )
    masks = folder / "ground_truth"
    train = [Sample(path, GOOD, None, masks.is_dir()) for path in _photos_in(folder / "train" / GOOD)]
    test = [
        Sample(path, kind.name, _mask_of(path, masks), masks.is_dir())
        for kind in sorted(entry for entry in folder.glob("test/*") if entry.is_dir())
        for path in _photos_in(kind)
    ]
    missing = f"Photos of good parts in train/{GOOD}" if not train else "Photos to judge in folders test/<any name>"
    if not train or not test:
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:10]) or "nothing"
        raise FileNotFoundError(
            f"{missing} were expected in {folder} (the MVTec AD layout), but there are none. It holds: "
            f"{found}. Move them there, or fit a list of paths: "
            'SPADE().fit(sorted(Path(folder).glob("*.png"))).'
        )
    return Dataset(name, train, test)


def _photos_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)


def _mask_of(photo: Path, masks: Path) -> Path | None:
    mask = masks / photo.parent.name / f"{photo.stem}_mask.png"
    return mask if mask.is_file() else None


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
    return Dataset("solar_cells", train, [sample for sample in samples if sample.path not in kept])
