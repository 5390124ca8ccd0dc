"""Image files with more than 8 bits per channel, which Pillow cannot write, byte by byte."""

import struct
import zlib

import numpy as np


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def deep_png(values: np.ndarray, after: bytes = b"", pixels_in: int = 1 << 20) -> bytes:
    """A PNG of (H, W, 2 to 4) 16-bit values, its pixels in chunks of a length, with chunks after them."""
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in values.astype(">u2")))
    height, width, channels = values.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    pixels = b"".join(chunk(b"IDAT", rows[at : at + pixels_in]) for at in range(0, len(rows), pixels_in))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + pixels + after + chunk(b"IEND", b"")


def deep_tiff(
    values: np.ndarray,
    order: str = "<",
    *,
    packed: bool = False,
    orientation: int = 1,
    meaning: int = 2,
    extra: int = 2,
) -> bytes:
    """A TIFF of (H, W, C) integers or float32, in one strip, in a byte order.

    ``meaning`` is the photometric interpretation (0 and 1 are grey, 2 is RGB, 5 is CMYK), ``extra`` that of a fourth
    channel.
    """
    height, width, channels = values.shape
    pixels = values.astype(order + values.dtype.str[1:]).tobytes()
    pixels = zlib.compress(pixels) if packed else pixels
    arrays = 8 + len(pixels)  # two arrays that are too long for their entries
    bits, kinds = [8 * values.dtype.itemsize] * channels, ["_uif".index(values.dtype.kind)] * channels
    entries = [
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 3, channels, arrays if channels > 1 else bits[0]),
        (259, 3, 1, 8 if packed else 1),
        (262, 3, 1, meaning),
        (273, 4, 1, 8),
        (274, 3, 1, orientation),
        (277, 3, 1, channels),
        (278, 3, 1, height),
        (279, 4, 1, len(pixels)),
        (284, 3, 1, 1),
        *([(338, 3, 1, extra)] if channels == 4 and meaning == 2 else []),
        (339, 3, channels, arrays + 2 * channels if channels > 1 else kinds[0]),
    ]
    directory = struct.pack(order + "H", len(entries))
    for tag, kind, count, value in entries:
        one = struct.pack(order + ("H2x" if kind == 3 and count == 1 else "I"), value)
        directory += struct.pack(order + "HHI", tag, kind, count) + one
    tables = struct.pack(f"{order}{2 * channels}H", *bits, *kinds)
    start = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, arrays + len(tables))
    return start + pixels + tables + directory + struct.pack(order + "I", 0)
