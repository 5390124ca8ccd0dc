"""Read image and mask files, and list those of a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image
from scipy.ndimage import label, maximum_filter, minimum_filter

from spade_kit._arguments import hold_warnings, warn
from spade_kit._files import MANIFEST, as_text
from spade_kit.datasets.decoding import FORMATS as FORMATS
from spade_kit.datasets.decoding import UnreadablePhotoError as UnreadablePhotoError
from spade_kit.datasets.decoding import (
    UnsupportedError,
    count_bits,
    decode,
    deep_values,
    explain_unreadable,
    read_bytes,
    read_head,
    scale,
    turn_upright,
)

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif"}
UNSUPPORTED = {
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".svg", ".psd", ".tga", ".pgm", ".ppm", ".pnm", ".exr"),
    *(".hdr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".raw", ".jfif", ".apng"),
}
RESULTS = ("maps", "segmentations", "overlays")  # folders of images that a run writes beside its manifest
_SYSTEM = {  # thumbnails, recycle bins and the like; hidden ones begin with a dot
    *("@eadir", "@recycle", "@recently-snapshot", "@sharebin", "#recycle", "#snapshot"),
    *("$recycle.bin", "recycler", "system volume information", "lost+found", "found.000"),
    *("__macosx", "network trash folder", "temporary items", "__pycache__", "thumbs.db", "desktop.ini"),
    *("~snapshot", "node_modules", "thumbs", "_thumbs", "thumbnails", "_thumbnails"),
}
MaskPath: TypeAlias = "Path | tuple[Path, ...]"  # a file, a folder of several, or several
_OPAQUE = 128  # alpha: an image without a pixel that is more opaque than not is no cut-out
_DRAWN, _SAMPLED = 32, 400  # colours of a mask, at most, and pixels along a side that tell
_SOFT, _BUMPS = 0.6, 0.12  # of its pixels are grey, and of these are brighter or darker than both next, at most
_EDGES = 0.25  # of its pixels differ from the next, at most: noise in a dark image does more often
_FEW, _NOISE = 4, 32  # so many grey levels are labels, unless they are that close to black and white
_SLOPES = 0.5  # of a soft brush rise or fall from pixel to pixel, at least; labels are even and end at once


def read_image(path: Path | str) -> UInt8[np.ndarray, "H W 3"]:
    """Read an image as RGB, rotated upright according to its EXIF orientation.

    Transparent pixels become white, unless all are equally, or mostly, transparent; an animation yields its first
    frame. More than 8 bits per channel are scaled from the image's own range to 0..255. A warning reports that, and
    what its decoder complains about.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    UnreadablePhotoError
        If it is not an image, is truncated, or is damaged in a way that its format can detect: PNG has checksums, and
        JPEG's entropy-coded data must not end early. BMP, TIFF and GIF do not detect a changed pixel byte.
    """
    return as_rgb(decode(read_bytes(path), path), path)


def read_mask(path: MaskPath | str) -> Bool[np.ndarray, "H W"]:
    """True where a mask marks a defect (see `interpret_mask`), rotated upright like an image."""
    return interpret_mask(path)[0]


def count_colours(path: Path, rest: float = 0.03, soft: float = _SOFT) -> int:
    """How many colours an image consists of, if they are few, as in a mask; else, or if it cannot be read, 0.

    Those of a JPEG are one or two, if all pixels but the ``rest`` are near one or the other. Those of a soft brush are
    two, if at most the fraction ``soft`` is neither black nor white, and their levels rise and fall without noise.
    """
    try:
        with hold_warnings():
            picture = decode(read_bytes(path), path, narrow=_keep_labels)
    except (OSError, UnreadablePhotoError):
        return 0
    whole = np.array(picture.convert("RGBA" if picture.has_transparency_data else "RGB"))
    step = max(1, max(picture.size) // _SAMPLED)
    pixels = whole[::step, ::step].reshape(-1, whole.shape[2]).astype(int)
    colours, counts = np.unique(pixels, axis=0, return_counts=True)
    if len(colours) <= _DRAWN:
        changes = (whole[:, 1:] != whole[:, :-1]).any(2)
        return len(colours) if changes.size == 0 or changes.mean() < _EDGES else 0
    levels = whole[..., :3].max(2)
    of_one_hue = all((one == levels).all() or one.min() == one.max() for one in np.moveaxis(whole[..., :3], 2, 0))
    if of_one_hue and _is_smooth(levels, soft):
        return 2
    for crowds in (1, 2):
        far = (abs(colours - colours[counts.argmax()]) > 8).any(1)
        colours, counts = colours[far], counts[far]
        if counts.sum() < rest * len(pixels):
            return crowds
    return 0


def _is_smooth(grey: UInt8[np.ndarray, "H W"], soft: float) -> bool:
    """Whether at most this fraction is neither black nor white, and few of it stand out from both next pixels."""
    between = (grey > 0) & (grey < 255)
    bumps = 0
    for lines, inside in ((grey, between), (grey.T, between.T)):
        before, here, after = lines[:-2], lines[1:-1], lines[2:]
        bump = ((here > before) & (here > after)) | ((here < before) & (here < after))
        bumps = max(bumps, int(np.count_nonzero(bump & inside[1:-1])))
    return bool(between.mean() <= soft and bumps <= _BUMPS * np.count_nonzero(between))


def list_masks(path: MaskPath | str) -> list[Path]:
    """The files that a mask consists of."""
    parts = [Path(part) for part in (path if isinstance(path, tuple) else [path])]
    return [file for part in parts for file in (pictures_in(part) if os.path.isdir(part) else [part])]


def interpret_mask(path: MaskPath | str) -> tuple[Bool[np.ndarray, "H W"], str]:
    """Where a mask marks a defect, and what decided it; of a folder or several files, the union of all masks.

    The alpha channel decides if it varies, else the index of a palette, else the grey level: see `_cut`.
    """
    files = list_masks(path)
    if not files:
        folder = path[0] if isinstance(path, tuple) else path
        raise FileNotFoundError(f"Expected masks in {as_text(folder)}, but there are none. Check the folder.")
    masks, reasons = zip(*map(_interpret_file, files))
    told = "{} with {} x {} px".format
    sizes = {mask.shape: told(as_text(file), *mask.shape) for file, mask in zip(files, masks)}
    if len(sizes) > 1:
        raise UnreadablePhotoError(
            f"Masks of one image must have one size; got {' and '.join(sizes.values())}. Replace the wrong one."
        )
    return np.logical_or.reduce(masks), max(reasons, key=reasons.count)


def interpret_opened(picture: Image.Image) -> Bool[np.ndarray, "H W"]:
    """Like `read_mask`, for a mask that was opened with Pillow."""
    return _interpret(turn_upright(picture))[0]


def _interpret_file(path: Path) -> tuple[Bool[np.ndarray, "H W"], str]:
    content = read_bytes(path)
    return _interpret(decode(content, path, narrow=_keep_labels), _is_lossy(content))


def _interpret(mask: Image.Image, lossy: bool = False) -> tuple[Bool[np.ndarray, "H W"], str]:
    if mask.has_transparency_data:
        alpha = np.array(mask.convert("RGBA").getchannel("A"))
        if np.ptp(alpha):
            return _cut(alpha)[0], "where opaque"
    if mask.mode == "P" and not _is_grey(mask):
        return np.array(mask) > 0, "where the palette index is not 0"
    bands = mask.convert("L" if len(mask.getbands()) == 1 else "RGB").split()
    grey = np.maximum.reduce([np.array(band) for band in bands])
    return _cut(grey, lossy=lossy or _is_noisy(grey))


def _is_lossy(content: bytes) -> bool:
    """Whether a file is a JPEG, or a WebP without a lossless chunk."""
    return content.startswith(b"\xff\xd8") or (content[8:12] == b"WEBP" and b"VP8L" not in content)


def _is_noisy(grey: UInt8[np.ndarray, "H W"]) -> bool:
    """Whether near-black levels go up and down by the pixel, as after lossy compression, also if saved again as PNG.

    Those of labels are even, and those of soft edges only rise.
    """
    peaks, faint = 0, np.count_nonzero((grey > 0) & (grey < _NOISE))
    if faint == 0:
        return False
    for lines in (grey, grey.T):
        before, here, after = lines[:-2], lines[1:-1], lines[2:]
        peak = (here < _NOISE) & (here > before) & (here > after) & ((before > 0) | (after > 0))
        peaks += int(np.count_nonzero(peak))
    return bool(peaks > max(2, 0.015 * faint) and faint < np.count_nonzero(grey == 0))


def _is_grey(mask: Image.Image) -> bool:
    """Whether a palette is only another way to store grey levels: 0 alone is black, and each index has its own."""
    used, first = np.unique(np.array(mask), return_index=True)
    levels = np.array(mask.convert("RGBA")).reshape(-1, 4)[first, :3].astype(int)
    grey = used[0] == 0 and not levels[0].any() and not np.ptp(levels, 1).any()
    return bool(grey and len(np.unique(levels[:, 0])) == len(levels))


def _cut(grey: UInt8[np.ndarray, "H W"], lossy: bool = False) -> tuple[Bool[np.ndarray, "H W"], str]:
    """Cut a mask at half if its grey levels crowd near black and white, with soft edges between; else where not 0.

    The half is that of the darkest even area: white, or the darkest of several labels; or else of the brightest level.
    A soft brush without white is known by its levels, which rise and fall without noise.
    Labels are the other reason for several grey levels. Most of their pixels equal their neighbours; on a soft edge,
    or in the noise of a JPEG or WebP, few do.
    """
    counts, top = np.bincount(grey.ravel(), minlength=256), int(grey.max())
    levels, white = np.count_nonzero(counts), counts[192:].any()
    soft = bool(counts[:64].any() and (white or (top >= _NOISE and _is_smooth(grey, 1) and _slopes(grey))))
    if soft and not lossy:
        dark, bright = counts[:64].argmax(), 192 + counts[192:].argmax() if white else top
        few = counts[0] and levels <= _FEW and counts[dark + _NOISE : bright - _NOISE].any()
        between = (grey != dark) & (grey != bright)
        cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
        even = maximum_filter(grey, footprint=cross) == minimum_filter(grey, footprint=cross)
        soft = not few and (even[between].mean() <= 0.5 if between.any() else not counts[0])
    if not soft and not lossy:
        return grey > 0, "where not 0"
    area = _find_darkest_area(grey)
    level = area or max(top, 2 * _NOISE * lossy)
    if level >= 192:  # white
        return grey > 127, "where brighter than half"
    return grey > level // 2, f"where brighter than half of the {'darkest area' if area else 'maximum'}"


def _slopes(grey: UInt8[np.ndarray, "H W"]) -> bool:
    """Whether most levels between black and the brightest are between those of the next pixels, along either axis."""
    between = (grey > 0) & (grey < grey.max())
    slope = np.zeros_like(between)
    for lines, found in ((grey, slope), (grey.T, slope.T)):
        before, here, after = lines[:-2], lines[1:-1], lines[2:]
        found[1:-1] |= ((before < here) & (here < after)) | ((before > here) & (here > after))
    return bool(between.any() and slope[between].mean() >= _SLOPES)


def _find_darkest_area(grey: UInt8[np.ndarray, "H W"]) -> int:
    """The grey level of the darkest even area above the background, such as that of a label; 0 if there is none.

    An area is a crowd of levels apart from others. A soft edge is not even, and its levels lead from black to white.
    """
    even = maximum_filter(grey, 5) - minimum_filter(grey, 5) <= 2
    counts = np.bincount(grey[even], minlength=256)
    crowds, _ = label(np.convolve(counts, np.ones(17), "same") > max(8, counts[_NOISE:].sum() / 50))
    levels = np.flatnonzero(crowds == 2)  # the first is the background
    return int(levels[counts[levels].argmax()]) if crowds[:_NOISE].any() and len(levels) else 0


def read_size(path: Path | str) -> tuple[int, int]:
    """(rows, columns) of an image after EXIF rotation, read from the file header only."""
    return read_head(path)[0]


def fits(mask: tuple[int, ...], image: tuple[int, int]) -> bool:
    """Whether a mask has the aspect ratio of its image, to 2 %; both are (rows, columns)."""
    across, along = mask[0] * image[1], mask[1] * image[0]
    return abs(across - along) <= max(across, along) / 50 and (mask == image or mask != image[::-1])


def as_rgb(picture: Image.Image, name: Path | str) -> UInt8[np.ndarray, "H W 3"]:
    """Convert a Pillow image to the array that `read_image` returns."""
    bits = count_bits(picture)
    upright = turn_upright(picture)
    if (values := deep_values(picture, upright)) is not None:  # Pillow would clip at 255
        upright = Image.fromarray(scale(values))
    elif bits > 8:
        raise UnsupportedError(
            f"it has {bits} bits per channel, and Pillow keeps 8 of them", "Pass the path of the file."
        )
    if upright.mode == "P":
        colours = len(upright.getpalette() or ()) // 3
        if np.asarray(upright).max() >= colours:  # Pillow would take black for the missing ones
            raise UnreadablePhotoError(
                f"{as_text(name)} is damaged: its palette has {colours} colours, and its pixels use more. Restore it."
            )
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        alpha = np.asarray(upright.getchannel("A"))
        if alpha.max() < _OPAQUE or alpha.min() == alpha.max() < 255:  # it cuts nothing out
            warn(f"{as_text(name)} is transparent everywhere. Its alpha channel is ignored.")
        else:
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    return np.array(upright.convert("RGB"))


def read_opened(picture: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """Like `read_image`, for an image that was opened with Pillow, at its current frame."""
    name = getattr(picture, "filename", "")
    try:
        return as_rgb(picture, name or "An opened image")
    except UnreadablePhotoError:
        raise
    except Exception as problem:  # Pillow raises many kinds of exception, also for a closed image
        raise explain_unreadable(name or "an opened image", None, problem) from problem


def _keep_labels(values: np.ndarray) -> UInt8[np.ndarray, "*shape"]:
    """Bring a mask's values to 0..255: labels stay as they are, and what is above 0 stays above 0."""
    values = np.nan_to_num(values.astype(np.float64)).clip(0)
    top = values.max()
    scaled = values if 1 < top <= 255 else values * (255 / max(top, 1e-300))
    return np.maximum(scaled.round(), values > 0).astype(np.uint8)


@dataclass(frozen=True)
class Listing:
    """The contents of one folder in natural order: images, folders and other files, without those of the system.

    ``problem`` says why a folder cannot be listed, which then seems empty.
    """

    images: list[Path]
    folders: list[Path]
    others: list[Path]
    problem: str = ""


_listed: ContextVar[dict[Path, Listing] | None] = ContextVar("_listed", default=None)


@contextmanager
def list_once() -> Iterator[dict[Path, Listing]]:
    """List each folder only once within this block, because that takes long over a network; yield what was listed."""
    known: dict[Path, Listing] = {}
    before = _listed.set(known)
    try:
        yield known
    finally:
        _listed.reset(before)


def list_folder(folder: Path) -> Listing:
    """List a folder; folders below are not entered. A folder is a folder, whatever its name ends in."""
    known = _listed.get()
    if known is None:
        return _list(folder)
    if folder not in known:
        known[folder] = _list(folder)
    return known[folder]


def _list(folder: Path) -> Listing:
    try:
        with os.scandir(folder) as found:
            entries = {Path(entry.path): _is_folder(entry) for entry in found if not _is_of_system(entry.name)}
    except OSError as problem:
        locked = f"Folder {as_text(folder)} cannot be read: {problem.strerror}. Its images are not used."
        return Listing([], [], [], locked)
    left_out = RESULTS if folder / MANIFEST in entries else ()
    listing = Listing([], [], [])
    for path in sorted(entries, key=natural_order):
        if not entries[path]:
            (listing.images if path.suffix.lower() in SUFFIXES else listing.others).append(path)
        elif path.name not in left_out:
            listing.folders.append(path)
    return listing


def walk(folder: Path) -> Iterator[Listing]:
    """List a folder and all folders below; each is entered once, and links that lead back are not followed."""
    entered, waiting = {*folder.resolve().parents}, [folder]
    while waiting:
        place = waiting.pop()
        real = place.resolve()
        if real not in entered:
            entered.add(real)
            listing = list_folder(place)
            yield listing
            waiting += reversed(listing.folders)


def find_locked(listings: Iterable[Listing]) -> list[str]:
    """Sentences about folders that cannot be listed; also as a warning."""
    locked = list(dict.fromkeys(listing.problem for listing in listings if listing.problem))
    for problem in locked:
        warn(problem)
    return locked


def pictures_in(folder: Path) -> list[Path]:
    """Image files directly in a folder, in natural order: 9 before 10."""
    return list_folder(folder).images


def pictures_below(folder: Path) -> list[Path]:
    """Image files in a folder and all folders below."""
    return sorted((path for listing in walk(folder) for path in listing.images), key=natural_order)


def holds_picture(path: Path) -> bool:
    """Whether a file has the head of an image, whatever its name."""
    try:
        return bool(read_head(path))
    except (OSError, UnreadablePhotoError):
        return False


def is_image(path: Path) -> bool:
    """Whether a file is one, or has the extension of an unsupported format."""
    return path.suffix.lower() in UNSUPPORTED or holds_picture(path)


def _is_folder(entry: os.DirEntry) -> bool:
    """Without a call to the system for each entry, which takes long over a network, except for links."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _is_of_system(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM


def natural_order(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """A sort key that compares numbers within names by value."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts], str(path)
