"""Read image files of any supported format, with a clear error for a file that is damaged or not an image."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import simplejpeg
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from spade_kit._arguments import warn
from spade_kit._files import MANIFEST, as_text

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif"}
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
UNSUPPORTED = {
    *(
        ".heic",
        ".heif",
        ".avif",
        ".jxl",
        ".jp2",
        ".j2k",
        ".svg",
        ".psd",
        ".tga",
        ".pgm",
        ".ppm",
        ".pnm",
        ".exr",
        ".hdr",
    ),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".raw", ".jfif", ".apng"),
}
RESULTS = ("maps", "segmentations")  # folders of images that a run writes beside its manifest
_SYSTEM = {  # thumbnails, recycle bins and the like; hidden ones begin with a dot
    *("@eadir", "@recycle", "@recently-snapshot", "@sharebin", "#recycle", "#snapshot"),
    *("$recycle.bin", "recycler", "system volume information", "lost+found", "found.000"),
    *("__macosx", "network trash folder", "temporary items", "__pycache__", "thumbs.db", "desktop.ini"),
}


class UnreadablePhotoError(ValueError):
    """A file is not an image, or is damaged."""


def read_image(path: Path | str) -> UInt8[np.ndarray, "H W 3"]:
    """Read an image as RGB, rotated upright according to its EXIF orientation.

    Transparent pixels become white, and an animation yields its first frame. More than 8 bits per channel are scaled
    from the image's own range to 0..255, with a warning.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    UnreadablePhotoError
        If it is not an image, is truncated, or is damaged in a way that its format can detect: PNG has checksums, and
        JPEG's entropy-coded data must decode cleanly. BMP, TIFF and GIF do not detect a changed pixel byte.
    """
    return as_rgb(decode(_read_bytes(path), path))


def read_mask(path: Path | str) -> Bool[np.ndarray, "H W"]:
    """True where a mask is not 0; if the path is a folder, the union of all masks in it."""
    if Path(path).is_dir():
        return np.logical_or.reduce([read_mask(part) for part in pictures_in(Path(path))])
    mask = decode(_read_bytes(path), path)
    grey = mask if len(mask.getbands()) == 1 and mask.mode != "P" else mask.convert("L")
    return np.array(grey) > 0


def read_size(path: Path | str) -> tuple[int, int]:
    """(rows, columns) of an image after EXIF rotation, read from the file header only."""
    file = _existing(path)
    try:
        with Image.open(file, formats=FORMATS) as picture:
            turned = picture.getexif().get(0x0112, 1) >= 5
            return picture.size if turned else picture.size[::-1]
    except Exception as problem:
        raise _unreadable(path, file.stat().st_size, problem) from problem


def as_rgb(picture: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """Convert a Pillow image to the array that `read_image` returns."""
    upright = ImageOps.exif_transpose(picture)
    if upright.mode[0] in "IF":  # Pillow would clip at 255
        return np.repeat(_scale(np.array(upright, np.float64))[..., None], 3, 2)
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    return np.array(upright.convert("RGB"))


def _scale(values: np.ndarray) -> UInt8[np.ndarray, "H W"]:
    low, high = values.min(), values.max()
    if not np.isfinite([low, high]).all():
        raise UnreadablePhotoError("Pixel values must be finite; got NaN or infinity. Replace them and save again.")
    warn(
        "An image has more than 8 bits per channel. Each such image is scaled from its own range, darkest to "
        "brightest, to 0..255. If brightness matters, scale all images alike first."
    )
    return ((values - low) * (255 / max(high - low, 1e-300))).round().astype(np.uint8)


@dataclass(frozen=True)
class Listing:
    """The contents of one folder in natural order: images, folders and other files, without those of the system."""

    images: list[Path]
    folders: list[Path]
    others: list[Path]


def list_folder(folder: Path) -> Listing:
    """List a folder; folders below are not entered. A folder is a folder, whatever its name ends in."""
    with os.scandir(folder) as found:
        entries = {Path(entry.path): _is_folder(entry) for entry in found if not _is_of_system(entry.name)}
    left_out = RESULTS if folder / MANIFEST in entries else ()
    listing = Listing([], [], [])
    for path in sorted(entries, key=natural_order):
        if not entries[path]:
            (listing.images if is_picture(path) else listing.others).append(path)
        elif path.name not in left_out:
            listing.folders.append(path)
    return listing


def walk(folder: Path) -> Iterator[Listing]:
    """List a folder and all folders below; each is entered once, and links that lead back are not followed.

    A folder that cannot be listed is named in a warning.
    """
    entered = {*folder.resolve().parents}

    def enter(place: Path) -> Iterator[Listing]:
        try:
            real, listing = place.resolve(), list_folder(place)
        except OSError as problem:
            warn(f"Folder {as_text(place)} cannot be read: {problem.strerror or problem}. Its images are not used.")
            return
        if real not in entered:
            entered.add(real)
            yield listing
            for below in listing.folders:
                yield from enter(below)

    return enter(folder)


def pictures_in(folder: Path) -> list[Path]:
    """Image files directly in a folder, in natural order: 9 before 10."""
    return list_folder(folder).images


def pictures_below(folder: Path) -> list[Path]:
    """Image files in a folder and all folders below."""
    return sorted((path for listing in walk(folder) for path in listing.images), key=natural_order)


def is_picture(path: Path) -> bool:
    """Whether a file has an image extension; names that begin with a dot are system files."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _is_folder(entry: os.DirEntry) -> bool:
    """Without a call to the system for each entry, which takes long over a network, except for links."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _is_of_system(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM


def natural_order(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """A sort key that compares numbers within names by value."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts], str(path)


def decode(content: bytes, name: Path | str) -> Image.Image:
    """Decode a file's content to a Pillow image, with its pixels read and checked; raises like `read_image`."""
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as picture:
            if picture.format == "PNG":
                picture.verify()  # checksums, which loading does not check
        picture = Image.open(BytesIO(content), formats=FORMATS)
        picture.load()
        if picture.format == "JPEG" and picture.mode in ("L", "RGB"):
            # libjpeg continues after damage, and Pillow does not report it; decoding at 1/8 size still reads all data
            simplejpeg.decode_jpeg(content, "GRAY", min_height=1, min_width=1, min_factor=8, strict=True)
    except Exception as problem:  # Pillow raises many kinds of exception for damaged files
        raise _unreadable(name, len(content), problem) from problem
    return picture


def _read_bytes(path: Path | str) -> bytes:
    file = _existing(path)
    try:
        return file.read_bytes()
    except OSError as problem:
        raise _unreadable(path, 1, problem) from problem


def _existing(path: Path | str) -> Path:
    if Path(path).is_dir():
        raise FileNotFoundError(
            f"Expected an image at {as_text(path)}, but it is a folder. List its images with "
            'sorted(Path(folder).glob("*.png")), or use load_dataset(folder).'
        )
    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected an image at {as_text(path)}, but there is no such file. Check the path.")
    return Path(path)


def _unreadable(name: Path | str, length: int, problem: Exception) -> UnreadablePhotoError:
    cure = "Remove or replace it."
    if isinstance(problem, OSError) and problem.errno:
        why, cure = problem.strerror, "Check that it can be read, or leave it out."
    elif length == 0:
        why = "it is empty"
    elif isinstance(problem, UnidentifiedImageError):
        why = f"its format is none of {', '.join(FORMATS)}"
    elif isinstance(problem, Image.DecompressionBombError):
        why = f"it claims more than {2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} megapixels"
    else:
        why = str(problem) or type(problem).__name__
    return UnreadablePhotoError(f"Cannot read {as_text(name)} as an image: {why}. {cure}")
