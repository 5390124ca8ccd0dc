"""Samples, datasets, and conversion of every supported type of image."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from spade_kit._arguments import spread_evenly, warn
from spade_kit._files import as_text
from spade_kit._work import track
from spade_kit.datasets.decoding import turn_upright
from spade_kit.datasets.images import (
    MaskPath,
    UnreadablePhotoError,
    count_colours,
    fits,
    interpret_mask,
    list_masks,
    read_image,
    read_mask,
    read_opened,
    read_size,
)
from spade_kit.datasets.naming import GOOD as GOOD
from spade_kit.datasets.naming import NAMED, as_label, name_some
from spade_kit.datasets.tables import ImageNames, clean_label, name_numbers, read_labels

SQUASHED = 1.2  # a larger change of the aspect ratio is remarked on: round parts become ovals
_MASKS, _PIXELS = 200, 150e6  # at most so many masks, and of large ones so many pixels, are read to describe all
_VARIED = 0.1  # of the pixels: more of other colours than two make a mask look like an image, unless they are smooth


@dataclass(frozen=True)
class Sample:
    """One image file with its label and mask; pixels are read on access and never cached.

    ``label`` is "good" or another word for good parts such as "OK", which becomes "good"; the type of defect; or None
    if unknown. ``mask_path`` points to the ground truth of a defect, an image, a folder of several, or a tuple of
    these. ``masked`` means that the dataset has such masks, so the mask of a good image is empty rather than unknown.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> sample = parts.test[5]
    >>> sample.label, sample.image.shape, bool(sample.mask.any())
    ('chip', (320, 320, 3), True)
    """

    path: Path
    label: str | None = None
    mask_path: MaskPath | None = None
    masked: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.label, str | None):
            raise ValueError(
                f'label must be "good", the name of a type of defect, or None if unknown; got {self.label!r}. '
                "Pass a name."
            )
        if not isinstance(self.path, (str, os.PathLike)):
            raise ValueError(f"path must be the path of an image; got {self.path!r}.")
        parts = self.mask_parts
        label = None if self.label is None or not self.label.strip() else as_label(self.label)
        object.__setattr__(self, "path", Path(self.path))
        object.__setattr__(self, "label", label)
        object.__setattr__(self, "mask_path", parts if len(parts) > 1 else next(iter(parts), None))

    @property
    def mask_parts(self) -> tuple[Path, ...]:
        """The files and folders of the mask."""
        given: Any = () if self.mask_path is None else self.mask_path
        given = given if not isinstance(given, str) or given else ()
        parts = tuple([given] if isinstance(given, str | Path) or not isinstance(given, Iterable) else given)
        if not all(isinstance(part, (str, os.PathLike)) for part in parts):
            raise ValueError(f"mask_path must be the path of a mask, or several paths; got {self.mask_path!r}.")
        return tuple(map(Path, parts))

    @property
    def image(self) -> UInt8[np.ndarray, "H W 3"]:
        return read_image(self.path)

    @property
    def mask(self) -> Bool[np.ndarray, "H W"] | None:
        """True where the defect is; all False for a good image of a dataset with masks; None if unknown."""
        if self.mask_path is not None:
            mask = read_mask(self.mask_path)
            if fits(mask.shape, size := read_size(self.path)):
                return mask
            warn(
                f"The mask of {as_text(self.path)} is not used: it must have the aspect ratio of its image; "
                f"got {mask.shape[0]} x {mask.shape[1]} px for {size[0]} x {size[1]} px. Replace it."
            )
            return None
        if self.masked and self.label == GOOD:
            return np.zeros(read_size(self.path), bool)
        return None


@dataclass(frozen=True)
class Dataset:
    """Normal images to compare with (``train``) and images to judge (``test``).

    ``layout`` is the recognised folder layout; ``remarks`` list what is unexpected, and ``skipped`` counts the images
    that cannot be read.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> few = spade_kit.Dataset("few", parts.train[:12], parts.test[:12])
    >>> sorted({sample.label for sample in few.test})
    ['chip', 'good']
    """

    name: str
    train: list[Sample] = field(repr=False)
    test: list[Sample] = field(repr=False)
    layout: str = ""
    remarks: tuple[str, ...] = field(default=(), repr=False)
    skipped: int = field(default=0, repr=False)

    def __str__(self) -> str:
        kinds = Counter(sample.label or "unknown" for sample in self.test)
        tested = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: item[0] != GOOD))
        told = f"{self.name}: {len(self.train)} normal images, {len(self.test)} test images"
        masks, strange = _describe_masks([sample for sample in self.test if sample.mask_path is not None])
        samples = self.train + self.test
        sizes = Counter(filter(None, map(shape_of, track(samples, desc="sizes"))))
        details = [self.layout, masks, _describe_sizes(sizes, len(samples) - sizes.total())]
        first = f"{told} ({tested})" if tested else told
        remarks = [*self.remarks, *strange, _describe_shape(sizes)]
        return "\n".join(filter(None, [first, "; ".join(filter(None, details)), *remarks]))

    def label(self, labels: Mapping[str, Any] | str | Path) -> Dataset:
        """The same images with these labels; images that are not named keep theirs.

        Normal images (``train``) that are labelled as defects become test images.

        Parameters
        ----------
        labels
            ``{"003.png": "good", "b/004.png": "scratch", "005": "unknown"}``: an image is named by its path or the end
            of it, with or without suffix. Or a CSV table with the columns ``path`` (or ``name``) and ``label``, such as
            `review_suspects` writes; its paths may be relative to its folder. ``unknown`` or nothing is no label; if
            all are numbers or truth values, 0 and false are good.

        Raises
        ------
        ValueError
            If a name is that of no image or of several, if one image gets two labels, or if there are none.
        """
        folder, given = Path(), list[tuple[Any, Any]]()
        if isinstance(labels, (str, Path)):
            folder, given = Path(labels).expanduser().parent, read_labels(Path(labels).expanduser())
        elif isinstance(labels, Mapping):
            given = list(labels.items())
        if not given:
            raise ValueError(
                f"labels must be a label by image, like {{'003.png': 'good'}}, or a CSV table of them; got {labels!r}. "
                "Name at least one image."
            )
        texts = [label if isinstance(label, Iterable | None) else str(label) for _, label in given]  # of numbers, too
        named = name_numbers([Sample(Path(), text).label for text in texts])  # type: ignore[arg-type]  # or it raises
        given = [*zip([name for name, _ in given], named)]
        names = ImageNames((sample.path for sample in self.train + self.test), self.name)
        chosen: dict[Path, str | None] = {}
        for name, wanted in given:
            path, label = names.find(name, folder), Sample(Path(), clean_label(wanted)).label
            if chosen.setdefault(path, label) != label:
                raise ValueError(f"{as_text(path)} must have one label; got {chosen[path]!r} and {label!r}. Drop one.")
        train, test = (
            [replace(one, label=chosen.get(one.path, one.label)) for one in part] for part in (self.train, self.test)
        )
        bad = [one for one in train if one.path in chosen and one.label not in (GOOD, None)]
        if bad and len(bad) == len(train):
            raise ValueError(f"A dataset needs normal images; these labels leave none in {self.name}. Label some good.")
        told = f"{len(bad)} of {len(train)} normal images have labels of defects, and are tested: "
        remarks = (*self.remarks, f"{told}{name_some([one.path for one in bad])}.") if bad else self.remarks
        moved, known = {*bad}, {one.path for one in test}
        normal = [one for one in train if one not in moved]
        test += [one for one in bad if one.path not in known]
        return replace(self, train=normal, test=test, remarks=remarks)


def _describe_shape(sizes: Counter[tuple[int, int]]) -> str:
    """How to keep the shape of images, if most would be squashed to a square."""
    long = [size for size in sizes if max(size) > SQUASHED * min(size)]
    count = sum(sizes[size] for size in long)
    if 2 * count <= sizes.total():
        return ""
    height, width = max(long, key=sizes.__getitem__)
    which = "The images are" if count == sizes.total() else f"{count} of {sizes.total()} images are"
    return f"{which} not square, such as {height} x {width} px: SPADE(load_backbone(crop=None)) keeps their shape."


def _describe_sizes(sizes: Counter[tuple[int, int]], lost: int) -> str:
    """Rows x columns."""
    if not sizes:
        return f"{lost} unreadable"
    (h, w), (H, W) = (end(sizes, key=lambda size: (np.prod(size), size)) for end in (min, max))  # also if turned
    told = f"{h} x {w} px" if len(sizes) == 1 else f"{len(sizes)} sizes from {h} x {w} to {H} x {W} px"
    return f"{told}, {lost} unreadable" if lost else told


def _describe_masks(masked: Sequence[Sample]) -> tuple[str, list[str]]:
    """How masks were understood, and remarks on those that are probably wrong; of many masks, some are read."""
    pixels = np.prod((masked and shape_of(masked[0])) or 1)
    read = [masked[at] for at in spread_evenly(len(masked), min(_MASKS, 1 + int(_PIXELS / pixels)))]
    reasons: Counter[str] = Counter()
    empty, inverted, contradicted, varied, unreadable = [], [], [], [], list[str]()
    for sample in track(read, desc="masks"):
        path = sample.mask_parts[0]
        try:
            mask, reason = interpret_mask(sample.mask_path)
        except (OSError, ValueError) as problem:
            unreadable.append(str(problem))
            continue
        reasons[reason] += 1
        varied += [file for file in list_masks(sample.mask_path)[:1] if count_colours(file, _VARIED, 1) == 0]
        if not mask.any():
            empty += [path] if sample.label != GOOD else []
        elif sample.label == GOOD:
            contradicted.append(path)
        elif mask.mean() > 0.5:
            inverted.append(path)
    how = [reason if number == len(read) else f"{number} {reason}" for reason, number in reasons.most_common()]
    told = f"{len(masked) or 'no'} masks"
    if how:
        some = f"; {len(read)} of them read" if len(read) < len(masked) else ""
        told += f" (defect {', '.join(how)}{some})"
    wrong = {
        "Empty masks ({}): {}. Check that their defects were saved.": empty,
        "Masks of more than half of the image ({}): {}. Check that they are not inverted.": inverted,
        "Masks of many colours ({}): {}. Check that they are masks.": varied,
        "Masks that mark a defect in a good image ({}): {}. Correct the label or the mask.": contradicted,
    }
    remarks = [remark.format(f"{len(at)} of {len(read)}", name_some(at)) for remark, at in wrong.items() if at]
    lost = f"Unreadable masks ({len(unreadable)} of {len(read)}): {' '.join(unreadable[:NAMED])}"
    return told, [*remarks, lost] if unreadable else remarks


_NO_ROOM = "does not fit into memory. Make it smaller."
Photo: TypeAlias = Sample | Path | str | Image.Image | np.ndarray


def as_array(photo: Photo) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of a Sample, a path, a PIL image, or an (H, W, 3) array, uint8 or float from 0 to 1."""
    try:
        return _as_array(photo)
    except MemoryError as problem:
        raise UnreadablePhotoError(f"{name_of(photo) or 'The image'} {_NO_ROOM}") from problem


def explain_memory(problem: MemoryError) -> str:
    """What does not fit into memory: in the words of the package, or else the image."""
    return str(problem) if type(problem) is MemoryError and problem.args else f"The image {_NO_ROOM}"


def _as_array(photo: Photo) -> UInt8[np.ndarray, "H W 3"]:
    if isinstance(photo, Sample):
        return photo.image
    if isinstance(photo, (str, Path)):
        return read_image(photo)
    if isinstance(photo, Image.Image):
        return read_opened(photo)
    got, cure = _describe_value(photo)
    if isinstance(photo, np.ndarray):
        got, cure = f"an array of shape {photo.shape} and type {photo.dtype}", _conversion_hint(photo)
        if np.ma.is_masked(photo):
            got, cure = "an array with masked values", "Fill them: image.filled(0)."
        elif photo.ndim == 3 and photo.shape[2] == 3:
            if photo.dtype == np.uint8:
                return photo
            if photo.dtype.kind == "f" and photo.size:
                if photo.min() >= 0 and photo.max() <= 1:  # false where there is NaN
                    return (photo * 255).round().astype(np.uint8)
                got += f" with values from {photo.min():.4g} to {photo.max():.4g}"
    raise ValueError(
        "An image must be a Sample, a path, a PIL image or an (H, W, 3) array, uint8 or float from 0 to 1; "
        f"got {got}. {cure}"
    )


def shape_of(photo: Photo) -> tuple[int, int] | None:
    """(rows, columns) of the array that `as_array` returns, without decoding a file; None if it cannot be read."""
    path = photo.path if isinstance(photo, Sample) else photo
    with suppress(OSError, ValueError):
        if isinstance(path, (str, Path)):
            return read_size(path)
        if isinstance(path, Image.Image):
            return turn_upright(path).size[::-1]
        if isinstance(path, np.ndarray) and path.ndim == 3:
            return path.shape[0], path.shape[1]
    return None


def name_of(photo: Photo) -> str:
    """The file name of an image as text, empty if it has none."""
    path = photo.path if isinstance(photo, Sample) else photo
    return as_text(Path(path).name) if isinstance(path, (str, Path)) else ""


def _describe_value(value: object) -> tuple[str, str]:
    """What a value is that is no image, and what to pass instead; torch is not imported for that."""
    shape = tuple(getattr(value, "shape", ()))
    if not shape or type(value).__module__.partition(".")[0] != "torch":
        cure = "Pass one image at a time." if isinstance(value, Iterable) else "Pass one of these."
        if _is_stream(value):
            opened = "io.BytesIO(image)" if isinstance(value, (bytes, bytearray, memoryview)) else "image"
            cure = f"Open it first: PIL.Image.open({opened})."
        return f"a value of type {type(value).__name__}", cure
    one = "images[0]" if len(shape) == 4 else "image"
    steps = ".permute(1, 2, 0)" if len(shape) >= 3 and shape[-1] != 3 else ""
    steps += ".detach()" if getattr(value, "requires_grad", False) else ""
    steps += ".float()" if "bfloat16" in str(getattr(value, "dtype", "")) else ""  # numpy has no such type
    cure = f"Pass {one}{steps}.cpu().numpy(), with values from 0 to 1 or uint8."
    return f"a torch tensor of shape {shape}", cure


def _is_stream(value: object) -> bool:
    """Whether a value is the content of a file, or an open file."""
    return isinstance(value, (bytes, bytearray, memoryview)) or hasattr(value, "read")


def _conversion_hint(values: np.ndarray) -> str:
    if values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 1):
        return "Convert a grey image with np.dstack([image] * 3)."
    if values.ndim == 3 and values.shape[2] == 4:
        return "Drop the alpha channel: image[..., :3]."
    if values.ndim == 3 and values.shape[0] == 3 and values.shape[2] != 3:
        return "Put the channels last: image.transpose(1, 2, 0)."
    if values.ndim == 4:
        return "Pass one image at a time."
    if values.ndim != 3 or values.shape[2] != 3:
        return "Give it the shape (rows, columns, 3), with red, green and blue."
    return "Scale the values of all images alike to 0..255, and pass image.astype(np.uint8)."


def absolute(photo: Photo) -> Photo:
    """The same photo for workers, which may have another working directory."""
    if isinstance(photo, Sample):
        masks = tuple(part.absolute() for part in photo.mask_parts)
        return replace(photo, path=photo.path.absolute(), mask_path=masks or None)
    return Path(photo).absolute() if isinstance(photo, (str, Path)) else photo


def as_list(photos: Iterable[Photo] | Photo) -> list[Photo]:
    """One image or many, as a list."""
    if getattr(photos, "ndim", None) in (2, 3):  # 2 is wrong, as is a tensor, and `as_array` raises
        return [photos]  # type: ignore[list-item]
    if isinstance(photos, (Sample, str, Path, Image.Image)) or _is_stream(photos):
        return [photos]  # type: ignore[list-item]  # `as_array` refuses a stream
    if isinstance(photos, Dataset) or not isinstance(photos, Iterable):
        raise ValueError(
            f"Images must be given as a list; got a value of type {type(photos).__name__}. "
            "For a Dataset, pass its .train or .test."
        )
    return list(photos)
