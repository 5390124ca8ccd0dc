"""Read image and mask files of any supported format; a file that is damaged or no image raises a clear error."""

from __future__ import annotations

import os
import re
import struct
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import simplejpeg
from jaxtyping import Bool, UInt8
from PIL import Image, UnidentifiedImageError
from scipy.ndimage import maximum_filter, minimum_filter

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

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HEAD_CHUNKS = {b"IHDR", b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"IEND"}  # what gives the size and orientation of a PNG
_WIDTH, _HEIGHT, _BITS, _ORIENTATION, _PLANES = 256, 257, 258, 274, 284  # tags of EXIF and TIFF
_TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
          8: "ROTATE_90"}  # fmt: skip
_METADATA = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # where Pillow looks for an orientation
_HARMLESS = re.compile("SOS parameters|JFIF revision|Adobe color transform")  # complaints of libjpeg
_STRAY = re.compile(r"(\d+) extraneous bytes before marker 0x(\w\w)")
_FEW_STRAY = 16  # a decoder that lost its place leaves more bytes
_FEW, _NOISE = 4, 32  # so many grey levels are labels, unless they are that close to black and white


class UnreadablePhotoError(ValueError):
    """A file is not an image, or is damaged."""


class _UnsupportedError(Exception):
    """The reason why an image cannot be read, and what to do."""


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
    return as_rgb(decode(_read_bytes(path), path), path)


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
    content = _read_bytes(path)
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


def read_head(path: Path | str) -> tuple[tuple[int, int], int]:
    """(rows, columns) of an image after EXIF rotation, and its EXIF orientation, 1 to 8, without decoding pixels."""
    file = _existing(path)
    start = b""
    try:
        with open(file, "rb", buffering=0) as stream:
            start = stream.read(len(_PNG))
            head = BytesIO(_read_head_chunks(stream)) if start == _PNG else file
            with Image.open(head, formats=FORMATS) as picture:
                orientation, (width, height) = _find_orientation(picture), picture.size
                if picture.format == "TIFF":  # some versions of Pillow turn its size already
                    width, height = picture.tag_v2[_WIDTH], picture.tag_v2[_HEIGHT]  # type: ignore[attr-defined]
                return (width, height) if orientation >= 5 else (height, width), orientation
    except Exception as problem:
        raise _unreadable(path, start, problem) from problem


def _read_head_chunks(stream: IO[bytes]) -> bytes:
    """A PNG file without its pixels; OSError if it ends early."""
    size = stream.seek(0, 2)
    kept, place, start, kind = [_PNG], len(_PNG), b"", b""

    def read_start(place: int) -> bytes:
        stream.seek(place)
        return stream.read(8)

    def is_other(place: int) -> bool:
        return read_start(place) != start

    while kind != b"IEND":
        start = read_start(place)
        if len(start) < 8:
            raise OSError("truncated PNG file")
        length, kind = struct.unpack(">I4s", start)
        if kind in _HEAD_CHUNKS:
            kept.append(start + stream.read(length + 4))
        places = range(place + length + 12, size + length + 12, length + 12)
        if kind == b"IDAT":  # often thousands of one length: find the first other one
            places = places[bisect_left(places, True, key=is_other) :]
        place = places[0] if places else size
    return b"".join(kept)


def _find_orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) if there is none or it cannot be read."""
    try:
        found = Image.Image.getexif(picture).get(_ORIENTATION)  # that of PngImageFile would decode the pixels
    except Exception:  # Pillow raises many kinds of exception for damaged metadata
        return 1
    return int(found) if found is not None and found in range(1, 9) else 1


def as_rgb(picture: Image.Image, name: Path | str = "An opened image") -> UInt8[np.ndarray, "H W 3"]:
    """Convert a Pillow image to the array that `read_image` returns."""
    bits = _count_bits(picture)
    upright = _turn_upright(picture)
    if upright.mode[0] in "IF":  # Pillow would clip at 255
        upright = Image.fromarray(_scale(np.array(upright)))
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


def _turn_upright(picture: Image.Image) -> Image.Image:
    """Rotate or flip an image as its EXIF orientation says, and drop the metadata that says so.

    `PIL.ImageOps.exif_transpose` fails where other metadata are damaged.
    """
    picture.load()  # Pillow turns a TIFF itself
    orientation = _find_orientation(picture)
    if orientation == 1:
        return picture
    turned = picture.transpose(Image.Transpose[_TURNS[orientation]])
    for key in _METADATA:
        turned.info.pop(key, None)
    return turned


def _scale(values: np.ndarray) -> UInt8[np.ndarray, "*shape"]:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise UnreadablePhotoError("Pixel values must be finite; got NaN or infinity. Replace them and save again.")
    warn(
        "An image has more than 8 bits per channel. Each such image is scaled from its own range, darkest to "
        "brightest, to 0..255. If brightness matters, scale all images alike first."
    )
    return ((values.astype(np.float64) - low) * (255 / max(high - low, 1e-300))).round().astype(np.uint8)


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


def decode(
    content: bytes, name: Path | str, narrow: Callable[[np.ndarray], UInt8[np.ndarray, "*shape"]] = _scale
) -> Image.Image:
    """Decode a file's content to an upright Pillow image of 8 bits per channel, with its pixels read and checked.

    ``narrow`` brings more than 8 bits to 8. Raises like `read_image`.
    """
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as picture:
            if picture.format == "PNG":
                picture.verify()  # checksums, which loading does not check
        picture = Image.open(BytesIO(content), formats=FORMATS)
        low = _open_low_bytes(content, picture)
        picture.load()
        complaints = [*_check_metadata(picture), *_check_jpeg(content, picture)]
        upright = _turn_upright(picture)
        if low is not None:
            values = np.array(upright, np.uint16) << 8 | np.array(_turn_upright(low), np.uint16)
    except Exception as problem:  # Pillow raises many kinds of exception for damaged files
        raise _unreadable(name, content, problem) from problem
    for complaint in complaints:
        warn(
            f"{as_text(name)} is read, but its decoder complains: {complaint}. If the image looks damaged, replace it."
        )
    if upright.mode[0] in "IF":
        return Image.fromarray(narrow(np.array(upright)))
    if low is None:
        return upright
    narrowed = Image.fromarray(narrow(values[..., :3]))
    if upright.mode == "RGBA":
        narrowed.putalpha(upright.getchannel("A"))
    return narrowed


def _check_metadata(picture: Image.Image) -> list[str]:
    """What is wrong with the EXIF data, such as text where a number should be; the pixels do not depend on it."""
    try:
        if picture.info.get("exif") and not isinstance(picture.getexif().get(_ORIENTATION, 1), int | float):
            return ["the EXIF orientation is not a number"]
        if picture.info.get("exif"):
            picture.getexif().tobytes()
    except Exception as problem:
        return [f"invalid EXIF data ({problem})"]
    return []


def _check_jpeg(content: bytes, picture: Image.Image) -> list[str]:
    """What libjpeg complains about although all pixels are there; ValueError if some are not.

    libjpeg continues after damage, and Pillow does not report it; decoding at 1/8 size still reads all data.
    """
    if picture.format == "JPEG" and picture.mode in ("L", "RGB"):
        try:
            simplejpeg.decode_jpeg(content, "GRAY", min_height=1, min_width=1, min_factor=8, strict=True)
        except ValueError as complaint:
            if not _is_harmless(str(complaint), content):
                raise
            return [str(complaint)]
    return []


def _is_harmless(complaint: str, content: bytes) -> bool:
    """Whether all pixels are there; many bytes left before a restart or the end mean that the decoder lost its place.

    They do not in a header, or if they are padding: all of one value.
    """
    if found := _STRAY.search(complaint):
        stray, marker = int(found[1]), found[2]
        padding = content[: content.rfind(bytes.fromhex(f"ff{marker}"))][-stray:]
        return stray <= _FEW_STRAY or not "d0" <= marker <= "d9" or len(set(padding)) == 1
    return bool(_HARMLESS.search(complaint))


def _count_bits(picture: Image.Image) -> int:
    """Bits per channel in the file of an image that is not loaded; 8 if unknown."""
    if hasattr(picture, "tag_v2"):
        return max(picture.tag_v2.get(_BITS, (8,)))
    return 16 if any(";16" in str(tile) for tile in getattr(picture, "tile", ())) else 8


def _open_low_bytes(content: bytes, picture: Any) -> Image.Image | None:
    """For 16-bit colour, of which Pillow keeps the high bytes, an image of the low bytes; None for other images.

    Pillow unpacks the high bytes because it is told the order of the bytes; told the other order, it unpacks the low.
    """
    if picture.mode[0] in "IF" or _count_bits(picture) <= 8:
        return None
    low: Any = Image.open(BytesIO(content), formats=FORMATS)
    swapped = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
    tiles = []
    for tile in low.tile:
        codec, box, offset, given = tile
        mode, *others = (given,) if isinstance(given, str) else given
        if mode[:-1] not in ("RGB;16", "RGBA;16", "RGBX;16") or getattr(low, "tag_v2", {}).get(_PLANES, 1) != 1:
            raise _UnsupportedError(
                f"its {_count_bits(picture)}-bit channels would be cut to 8 bits", "Save it as 16-bit grey or RGB."
            )
        mode = mode[:-1] + swapped[mode[-1]]
        parts = codec, box, offset, mode if isinstance(given, str) else (mode, *others)
        tiles.append(parts if type(tile) is tuple else type(tile)(*parts))  # a named tuple since Pillow 11
    low.tile = tiles
    low.load()
    return low


def _read_bytes(path: Path | str) -> bytes:
    file = _existing(path)
    try:
        return file.read_bytes()
    except OSError as problem:
        raise _unreadable(path, b"", problem) from problem


def _existing(path: Path | str) -> Path:
    if Path(path).is_dir():
        raise FileNotFoundError(
            f"Expected an image at {as_text(path)}, but it is a folder. List its images with "
            'sorted(Path(folder).glob("*.png")), or use load_dataset(folder).'
        )
    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected an image at {as_text(path)}, but there is no such file. Check the path.")
    return Path(path)


def _unreadable(name: Path | str, content: bytes, problem: Exception) -> UnreadablePhotoError:
    cure = "Remove or replace it."
    if isinstance(problem, OSError) and problem.errno:
        why, cure = problem.strerror, "Check that it can be read, or leave it out."
    elif isinstance(problem, _UnsupportedError):
        why, cure = problem.args
    elif not content:
        why = "it is empty"
    elif isinstance(problem, UnidentifiedImageError) and content.startswith(_TIFF):
        why, cure = "this kind of TIFF is not supported", "Save it as 8-bit RGB or 16-bit grey."
    elif isinstance(problem, UnidentifiedImageError):
        why = f"its format is none of {', '.join(FORMATS)}"
    elif isinstance(problem, Image.DecompressionBombError):
        why = f"it claims more than {2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} megapixels, the limit of Pillow"
        cure = "Make it smaller; or, if you trust the file, raise the limit: PIL.Image.MAX_IMAGE_PIXELS = 500_000_000."
    elif "MAX_TEXT" in str(problem):
        why = "it contains text of more than 1 MB (64 MB in all), the limit of Pillow"
        cure = "Save it without metadata; or, if you trust the file, raise PIL.PngImagePlugin.MAX_TEXT_CHUNK."
    else:
        why = str(problem) or type(problem).__name__
    return UnreadablePhotoError(f"Cannot read {as_text(name)} as an image: {why}. {cure}")
