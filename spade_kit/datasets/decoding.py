"""Decode image files: their heads without the pixels, all bits per channel, and what a decoder complains about."""

from __future__ import annotations

import os
import re
import stat
import struct
import sys
from bisect import bisect_left
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import IO, Any
from zlib import decompressobj

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, ImageFile, UnidentifiedImageError

from spade_kit._arguments import HeldSetting, warn
from spade_kit._files import as_text

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HEAD_CHUNKS = {b"IHDR", b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"IEND"}  # what gives the size and orientation of a PNG
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG, by its type of colour
# (top, left, down, right): the first pixel of each pass of an interlaced PNG, and the steps to the next
_ADAM7 = (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)
_WIDTH, _HEIGHT, _BITS, _MEANING, _ORIENTATION, _PLANES, _KIND = 256, 257, 258, 262, 274, 284, 339  # tags of EXIF, TIFF
_WHITE_IS_0, _UNSIGNED, _SIGNED = 0, 1, 2  # values of _MEANING and _KIND
_TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
          8: "ROTATE_90"}  # fmt: skip
_METADATA = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # where Pillow looks for an orientation
_HARMLESS = re.compile("SOS parameters|JFIF revision|Adobe color transform")  # complaints of libjpeg
_STRAY = re.compile(r"(\d+) extraneous bytes before marker 0x(\w\w)")
_FEW_STRAY = 16  # a decoder that lost its place leaves more bytes


class UnreadablePhotoError(ValueError):
    """A file is not an image, or is damaged."""


class UnsupportedError(Exception):
    """The reason why an image cannot be read, and what to do."""


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
        raise explain_unreadable(path, start, problem) from problem


def _read_head_chunks(stream: IO[bytes]) -> bytes:
    """A PNG file without its pixels; OSError if it ends early."""
    size = stream.seek(0, 2)
    kept, place, start, kind = [_PNG], len(_PNG), b"", b""

    def read_start(place: int) -> bytes:
        stream.seek(place)
        return stream.read(8)

    while kind != b"IEND":
        start = read_start(place)
        if len(start) < 8:
            raise OSError("truncated PNG file")
        length, kind = struct.unpack(">I4s", start)
        if kind in _HEAD_CHUNKS:
            kept.append(start + stream.read(length + 4))
        places = range(place + length + 12, size + length + 12, length + 12)
        if kind == b"IDAT":  # often thousands of one length: find the first other one
            places = places[bisect_left(places, True, key=lambda place: read_start(place) != start) :]
        place = places[0] if places else size
    return b"".join(kept)


def _find_orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) if there is none or it cannot be read."""
    try:
        found = Image.Image.getexif(picture).get(_ORIENTATION)  # that of PngImageFile would decode the pixels
    except Exception:  # Pillow raises many kinds of exception for damaged metadata
        return 1
    return int(found) if found is not None and found in range(1, 9) else 1


def scale(values: np.ndarray) -> UInt8[np.ndarray, "*shape"]:
    if values.dtype == np.int8:  # -128..127
        return (values.astype(np.int16) + 128).astype(np.uint8)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise UnreadablePhotoError("Pixel values must be finite; got NaN or infinity. Replace them and save again.")
    warn(
        "An image has more than 8 bits per channel. Each such image is scaled from its own range, darkest to "
        "brightest, to 0..255. If brightness matters, scale all images alike first."
    )
    return ((values.astype(np.float64) - low) * (255 / max(high - low, 1e-300))).round().astype(np.uint8)


_refuse_cut_files = HeldSetting(  # Pillow's setting that fills them up
    lambda: ImageFile.LOAD_TRUNCATED_IMAGES, lambda value: setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", value), False
)


def decode(
    content: bytes, name: Path | str, narrow: Callable[[np.ndarray], UInt8[np.ndarray, "*shape"]] = scale
) -> Image.Image:
    """Decode a file's content to an upright Pillow image of 8 bits per channel, with its pixels read and checked.

    ``narrow`` brings more than 8 bits to 8. Raises like `read_image`.
    """
    try:
        with _refuse_cut_files:
            with Image.open(BytesIO(content), formats=FORMATS) as picture:
                frames = _count_frames(picture)
                if picture.format == "PNG":
                    picture.verify()  # checksums, which loading does not check
            picture = Image.open(BytesIO(content), formats=FORMATS)
            low = _open_low_bytes(content, picture)
            picture.load()
            if picture.mode in ("P", "PA") and picture.palette is None:
                raise OSError("its palette is missing")
            _check_rows(content, picture)
            complaints = [*_check_metadata(picture), *_check_jpeg(content, picture)]
            upright = turn_upright(picture)
            deep = deep_values(picture, upright)
            if low is not None:
                high, low = (part.convert("RGB") for part in (upright, turn_upright(low)))
                deep = np.array(high, np.uint16) << 8 | np.array(low, np.uint16)
    except Exception as problem:  # Pillow raises many kinds of exception for damaged files
        raise explain_unreadable(name, content, problem) from problem
    shown = as_text(name)
    if frames > 1:
        warn(f"{shown} holds {frames} pages or frames, and only the first is used. Save each as a file.")
    for complaint in complaints:
        warn(f"{shown} is read, but its decoder complains: {complaint}. If the image looks damaged, replace it.")
    if deep is None:
        return upright
    narrowed = Image.fromarray(narrow(deep))
    if upright.mode == "RGBA":
        narrowed.putalpha(upright.getchannel("A"))
    return narrowed


def _check_rows(content: bytes, picture: Image.Image) -> None:
    """Raise OSError if the compressed pixels of a PNG are whole, but too few; Pillow leaves the rest 0.

    Only then is the last row 0, unless the rows are interlaced; to decompress again takes half as long as to read.
    """
    if picture.format != "PNG":
        return
    width, height, bits, colour, interlaced = struct.unpack_from(">IIBBxxB", content, 16)
    if not interlaced and np.array(picture.crop((0, height - 1, width, height))).any():
        return
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = [(len(range(top, height, down)), len(range(left, width, right))) for top, left, down, right in passes]
    needed = sum(rows * (1 + -(-columns * bits * _CHANNELS[colour] // 8)) for rows, columns in sizes if columns)
    pixels, place = [], len(_PNG)
    while place + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        pixels += [content[place + 8 : place + 8 + length]] if kind == b"IDAT" else []
        place += length + 12
    if len(decompressobj().decompress(b"".join(pixels), needed)) < needed:
        raise OSError("image file is truncated: its last rows are missing")


def _count_frames(picture: Image.Image) -> int:
    """Pages or frames of an image that is not loaded; of a JPEG 1, whose others are thumbnails and depth maps."""
    try:
        return 1 if picture.format in ("JPEG", "MPO") else getattr(picture, "n_frames", 1)
    except Exception:  # damage behind the first
        return 1


def deep_values(picture: Image.Image, upright: Image.Image) -> np.ndarray | None:
    """Grey levels that do not fit into 0..255, as the file means them; None for other images.

    Of a TIFF, Pillow reads signed 8-bit levels as unsigned, unsigned 32-bit ones as signed, and 16-bit ones as they are
    stored, even if 0 is white.
    """
    tags = getattr(picture, "tag_v2", {})
    bits, kind = count_bits(picture), tags.get(_KIND, (_UNSIGNED,))[0]
    if upright.mode == "L" and kind == _SIGNED:
        return np.array(upright).view(np.int8)
    if upright.mode[0] not in "IF":
        return None
    values = np.array(upright)
    if bits == 32 and kind == _UNSIGNED and values.dtype == np.int32:
        values = values.view(np.uint32)
    if tags.get(_MEANING) != _WHITE_IS_0:
        return values
    if values.dtype != np.uint16:
        raise UnsupportedError("its 0 is white, and it has more than 16 bits", "Save it with 0 as black.")
    return np.iinfo(np.uint16).max - values


def turn_upright(picture: Image.Image) -> Image.Image:
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


def count_bits(picture: Image.Image) -> int:
    """Bits per channel in the file of an image that is not loaded; 8 if unknown."""
    if hasattr(picture, "tag_v2"):
        return max(picture.tag_v2.get(_BITS, (8,)))
    return 16 if any(";16" in str(tile) for tile in getattr(picture, "tile", ())) else 8


def _open_low_bytes(content: bytes, picture: Any) -> Image.Image | None:
    """For 16-bit colour, of which Pillow keeps the high bytes, an image of the low bytes; None for other images.

    Pillow unpacks the high bytes because it is told the order of the bytes; told the other order, it unpacks the low.
    """
    if picture.mode[0] in "IF" or count_bits(picture) <= 8:
        return None
    low: Any = Image.open(BytesIO(content), formats=FORMATS)
    swapped = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
    tiles = []
    for tile in low.tile:
        codec, box, offset, given = tile
        mode, *others = (given,) if isinstance(given, str) else given
        if mode[:-1] not in ("RGB;16", "RGBA;16", "RGBX;16") or getattr(low, "tag_v2", {}).get(_PLANES, 1) != 1:
            raise UnsupportedError(
                f"its {count_bits(picture)}-bit channels would be cut to 8 bits", "Save it as 16-bit grey or RGB."
            )
        mode = mode[:-1] + swapped[mode[-1]]
        parts = codec, box, offset, mode if isinstance(given, str) else (mode, *others)
        tiles.append(parts if type(tile) is tuple else type(tile)(*parts))  # a named tuple since Pillow 11
    low.tile = tiles
    low.load()
    return low


def read_bytes(path: Path | str) -> bytes:
    file = _existing(path)
    try:
        return file.read_bytes()
    except OSError as problem:
        raise explain_unreadable(path, b"", problem) from problem


def _existing(path: Path | str) -> Path:
    """The path of a file that exists; FileNotFoundError if there is none, or if it is a folder."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError) as problem:  # ValueError: no file can have this name
        raise FileNotFoundError(
            f"Expected an image at {as_text(path)}, but there is no such file. Check the path."
        ) from problem
    except OSError as problem:
        raise explain_unreadable(path, b"", problem) from problem
    if stat.S_ISDIR(mode):
        raise FileNotFoundError(
            f"Expected an image at {as_text(path)}, but it is a folder. List its images with "
            'sorted(Path(folder).glob("*.png")), or use load_dataset(folder).'
        )
    if not stat.S_ISREG(mode):  # reading a pipe would wait for ever
        why = UnsupportedError("it is a pipe, a socket or a device", "Save the image as a file.")
        raise explain_unreadable(path, b"", why)
    return Path(path)


def explain_unreadable(name: Path | str, content: bytes | None, problem: Exception) -> UnreadablePhotoError:
    """The error for a file with some content, or for an opened image, whose content is None."""
    cure = "Remove or replace it."
    if isinstance(problem, OSError) and problem.errno:
        why, cure = problem.strerror, "Check that it can be read, or leave it out."
    elif isinstance(problem, UnsupportedError):
        why, cure = problem.args
    elif content is None:
        why, cure = str(problem) or type(problem).__name__, "Open it again, or convert it to RGB."
    elif not content:
        why = "it is empty"
    elif isinstance(problem, UnidentifiedImageError) and content.startswith(_TIFF):
        why, cure = "this TIFF is cut, or of a kind that is not supported", "Save it as 8-bit RGB or 16-bit grey."
    elif isinstance(problem, UnidentifiedImageError):
        why = f"its format is none of {', '.join(FORMATS)}"
    elif isinstance(problem, Image.DecompressionBombError):
        why = f"it claims more than {2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} megapixels, the limit of Pillow"
        cure = "Make it smaller; or, if you trust the file, raise the limit: PIL.Image.MAX_IMAGE_PIXELS = 500_000_000."
    elif "MAX_TEXT" in str(problem):
        why = "it contains text or a colour profile of more than 1 MB (64 MB in all), the limit of Pillow"
        cure = "Save it without metadata; or, if you trust the file, raise PIL.PngImagePlugin.MAX_TEXT_CHUNK."
    else:
        why = str(problem) or type(problem).__name__
    return UnreadablePhotoError(f"Cannot read {as_text(name)} as an image: {why}. {cure}")
