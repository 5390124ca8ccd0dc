"""Read image and mask files, and list those of a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter

from spade_kit._arguments import warn
from spade_kit._files import MANIFEST, as_text
from spade_kit.datasets.decoding import FORMATS as FORMATS
from spade_kit.datasets.decoding import UnreadablePhotoError as UnreadablePhotoError
from spade_kit.datasets.decoding import count_bits, decode, read_bytes, read_head, scale, turn_upright

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif"}
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
_FEW, _NOISE = 4, 32  # so many grey levels are labels, unless they are that close to black and white


def read_image(path: Path | str) -> UInt8[np.ndarray, "H W 3"]:
    """Read an image as RGB, rotated upright according to its EXIF orientation.

    Transparent pixels become white, unless all are transparent; an animation yields its first frame. More than 8 bits
    per channel are scaled from the image's own range to 0..255. A warning reports that, and what its decoder complains
    about.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    UnreadablePhotoError
        If it is not an image, is truncated, or is damaged in a way that its format can detect: PNG has checksums, and
        JPEG's entropy-coded data must not end early. BMP, TIFF and GIF do not detect a changed pixel byte.
    """
    return as_rgb(decode(read_bytes(path), path), path)


def read_mask(path: Path | str) -> Bool[np.ndarray, "H W"]:
    """True where a mask marks a defect (see `interpret_mask`), rotated upright like an image."""
    return interpret_mask(path)[0]


def interpret_mask(path: Path | str) -> tuple[Bool[np.ndarray, "H W"], str]:
    """Where a mask marks a defect, and what decided it; if the path is a folder, the union of all masks in it.

    The alpha channel decides if it varies, else the index of a palette, else the grey level: see `_cut`.
    """
    if Path(path).is_dir():
        parts = pictures_in(Path(path))
        if not parts:
            raise FileNotFoundError(f"Expected masks in {as_text(path)}, but there are none. Check the folder.")
        masks, reasons = zip(*map(interpret_mask, parts))
        return np.logical_or.reduce(masks), max(reasons, key=reasons.count)
    content = read_bytes(path)
    mask = decode(content, path, narrow=_keep_labels)
    if mask.has_transparency_data:
        alpha = np.array(mask.convert("RGBA").getchannel("A"))
        if np.ptp(alpha):
            return _cut(alpha)[0], "where opaque"
    if mask.mode == "P" and not _is_grey(mask):
        return np.array(mask) > 0, "where the palette index is not 0"
    single = len(mask.getbands()) == 1 and mask.mode != "P"
    bands = [np.array(band) for band in mask.convert("L" if single else "RGB").split()]
    return _cut(np.maximum.reduce(bands), lossy=content.startswith(b"\xff\xd8"))


def _is_grey(mask: Image.Image) -> bool:
    """Whether a palette is only another way to store grey levels: 0 is black, and a higher index is brighter."""
    used, first = np.unique(np.array(mask), return_index=True)
    levels = np.array(mask.convert("RGBA")).reshape(-1, 4)[first, :3].astype(int)
    grey = used[0] == 0 and not levels[0].any() and not np.ptp(levels, 1).any()
    return bool(grey and (np.diff(levels[:, 0]) > 0).all())


def _cut(grey: UInt8[np.ndarray, "H W"], lossy: bool = False) -> tuple[Bool[np.ndarray, "H W"], str]:
    """Cut a mask at half if its grey levels crowd near black and white, with soft edges between; else where not 0.

    Labels are the other reason for several grey levels. Most of their pixels equal their neighbours; on a soft edge,
    or in the noise of a JPEG, few do.
    """
    counts = np.bincount(grey.ravel(), minlength=256)
    soft = bool(counts[:64].any() and counts[192:].any())
    if soft and not lossy:
        dark, bright = counts[:64].argmax(), 192 + counts[192:].argmax()
        few = counts[0] and np.count_nonzero(counts) <= _FEW and counts[dark + _NOISE : bright - _NOISE].any()
        between = (grey != dark) & (grey != bright)
        cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
        even = maximum_filter(grey, footprint=cross) == minimum_filter(grey, footprint=cross)
        soft = not few and (even[between].mean() <= 0.5 if between.any() else not counts[0])
    return (grey > 127, "where brighter than half") if soft or lossy else (grey > 0, "where not 0")


def read_size(path: Path | str) -> tuple[int, int]:
    """(rows, columns) of an image after EXIF rotation, read from the file header only."""
    return read_head(path)[0]


def as_rgb(picture: Image.Image, name: Path | str = "An opened image") -> UInt8[np.ndarray, "H W 3"]:
    """Convert a Pillow image to the array that `read_image` returns."""
    bits = count_bits(picture)
    upright = turn_upright(picture)
    if upright.mode[0] in "IF":  # Pillow would clip at 255
        upright = Image.fromarray(scale(np.array(upright)))
    elif bits > 8:
        raise ValueError(
            f"{as_text(name)} has {bits} bits per channel, and Pillow keeps 8 of them. Pass the path of the file."
        )
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        if upright.getchannel("A").getextrema()[1] == 0:
            warn(f"{as_text(name)} is transparent everywhere. Its alpha channel is ignored.")
        else:
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    return np.array(upright.convert("RGB"))


def _keep_labels(values: np.ndarray) -> UInt8[np.ndarray, "*shape"]:
    """Bring a mask's values to 0..255: labels stay as they are, and what is above 0 stays above 0."""
    values = np.nan_to_num(values.astype(np.float64)).clip(0)
    top = values.max()
    scaled = values if 1 < top <= 255 else values * (255 / max(top, 1e-300))
    return np.maximum(scaled.round(), values > 0).astype(np.uint8)


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
