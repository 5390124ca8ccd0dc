"""The pixels of one picture on disk, whatever its format, or a sentence on why it has none that can be trusted."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path

import numpy as np
import simplejpeg
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from spade_kit._arguments import warn

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif"}
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")


class UnreadablePhotoError(ValueError):
    """A file that was taken for a picture holds none that can be trusted."""


def read_image(path: Path | str) -> UInt8[np.ndarray, "H W 3"]:
    """A photograph as RGB, turned upright as its EXIF data says.

    Transparent parts become white, of an animation the first frame is taken, and more than 8 bits a channel are scaled
    from the photo's own range to 0..255, with a warning.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    UnreadablePhotoError
        If it is no picture, is cut off, or is damaged as far as its format can tell: PNG has check sums, and a JPEG's
        code must come out even. In BMP, TIFF and GIF a byte of a pixel may change without a trace.
    """
    return as_rgb(decode(_existing(path).read_bytes(), path))


def read_mask(path: Path | str) -> Bool[np.ndarray, "H W"]:
    """True where a mask is not 0; a folder holds several masks of one photograph, which are joined."""
    if Path(path).is_dir():
        return np.logical_or.reduce([read_mask(part) for part in pictures_in(Path(path))])
    mask = decode(_existing(path).read_bytes(), path)
    grey = mask if len(mask.getbands()) == 1 and mask.mode != "P" else mask.convert("L")
    return np.array(grey) > 0


def read_size(path: Path | str) -> tuple[int, int]:
    """(rows, columns) of a photograph turned upright, from the head of its file alone."""
    file = _existing(path)
    try:
        with Image.open(file, formats=FORMATS) as picture:
            turned = picture.getexif().get(0x0112, 1) >= 5
            return picture.size if turned else picture.size[::-1]
    except Exception as problem:
        raise _unreadable(path, file.stat().st_size, problem) from problem


def as_rgb(picture: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """Pillow's picture as `read_image` gives it."""
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
        raise UnreadablePhotoError("A photo has finite values, but NaN or infinity came. Write them anew.")
    warn(
        "A photo has more than 8 bits a channel. Each such photo is scaled from its own range, darkest to brightest, "
        "to 0..255; if brightness matters, scale all alike before."
    )
    return ((values - low) * (255 / max(high - low, 1e-300))).round().astype(np.uint8)


def pictures_in(folder: Path) -> list[Path]:
    """The pictures directly in a folder, in natural order: 9 before 10."""
    return sorted((path for path in folder.glob("*") if is_picture(path)), key=natural_order)


def is_picture(path: Path) -> bool:
    """Whether a file is called like a picture; names that begin with a dot are the system's own."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def natural_order(path: Path) -> list[tuple[int, int, str]]:
    """A key that sorts names as one counts."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def decode(content: bytes, name: Path | str) -> Image.Image:
    """Pillow's picture of what a file holds, its pixels read and checked; errors as of `read_image`."""
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as picture:
            if picture.format == "PNG":
                picture.verify()  # check sums, which reading leaves out
        picture = Image.open(BytesIO(content), formats=FORMATS)
        picture.load()
        if picture.format == "JPEG" and picture.mode in ("L", "RGB"):
            # libjpeg guesses on after damage, and Pillow does not tell; an eighth of the size has to read all the same
            simplejpeg.decode_jpeg(content, "GRAY", min_height=1, min_width=1, min_factor=8, strict=True)
    except Exception as problem:  # of damaged files Pillow raises about anything
        raise _unreadable(name, len(content), problem) from problem
    return picture


def _existing(path: Path | str) -> Path:
    if Path(path).is_dir():
        raise FileNotFoundError(
            f"A photo was expected at {path}, but that is a folder. List its photos: "
            'sorted(Path(folder).glob("*.png")); or take load_dataset(folder).'
        )
    if not Path(path).is_file():
        raise FileNotFoundError(f"A photo was expected at {path}, but there is no such file. Check the path.")
    return Path(path)


def _unreadable(name: Path | str, length: int, problem: Exception) -> UnreadablePhotoError:
    if length == 0:
        why = "it is empty"
    elif isinstance(problem, UnidentifiedImageError):
        why = f"it is none of {', '.join(FORMATS)}"
    elif isinstance(problem, Image.DecompressionBombError):
        why = f"it claims more than {2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} megapixels"
    else:
        why = str(problem) or type(problem).__name__
    return UnreadablePhotoError(f"A photo was expected in {name}, but it cannot be read: {why}. Remove or replace it.")
