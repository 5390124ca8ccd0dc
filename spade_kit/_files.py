"""What is kept of a run in its folder: from which fit and options it comes, and every file whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from PIL import Image

if TYPE_CHECKING:
    from spade_kit.spade import SPADE

RECORD = "run.json"
_DEPENDS_ON = ("spade_kit", "torch", "numpy")


def describe_run(spade: SPADE) -> dict[str, Any]:
    """What results depend on."""
    normals = spade._fitted.normals
    height, width, _ = normals[0].image.shape
    return {
        **{package: version(package) for package in _DEPENDS_ON},
        "backbone": spade.backbone.name,
        "weights": spade.backbone.weights,
        "weights_sha256": spade.backbone.sha256,
        "crop": f"{height} x {width}",
        "options": spade.describe_options(),
        "normals": len(spade),
        "normals_sha256": hashlib.sha256(b"".join(normal.digest for normal in normals)).hexdigest(),
    }


def read_record(folder: Path) -> dict[str, Any]:
    """What `claim` wrote; nothing where there is no record."""
    record = folder / RECORD
    if not record.is_file():
        return {}
    try:
        return dict(json.loads(record.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as problem:
        raise ValueError(f"{record} is damaged ({problem}). Take another folder.") from problem


def check_is_no_file(folder: Path, what: str = "Results are written") -> None:
    if folder.is_file():
        raise ValueError(f"{what} to a folder, but {folder} is a file. Take another name.")


def changed_at(path: Path) -> float:
    """When a file was last written or put in its place: a copy keeps the time of writing."""
    state = path.stat()
    return max(state.st_mtime, state.st_ctime)


def claim(folder: Path, run: dict[str, Any]) -> None:
    """Make a folder that of a run; one that holds another run is refused."""
    check_is_no_file(folder)
    if (folder / RECORD).is_file():
        before = read_record(folder)
        changed = [name for name in run if before.get(name) != run[name]]
        if changed:
            told = ", ".join(f"{name} was {before.get(name)!r} and is {run[name]!r}" for name in changed)
            raise ValueError(f"{folder} holds results of another run: {told}. Take another folder.")
    write_whole(folder / RECORD, json.dumps(run, indent=1).encode())


def encode_tiff(values: Float[np.ndarray, "H W"]) -> bytes:
    """A map as float32 TIFF. Not compressed: that takes fifty times as long, for a fifth of the size."""
    stream = BytesIO()
    Image.fromarray(values).save(stream, "TIFF")
    return stream.getvalue()


def encode_png(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint8, or (H, W) bool, white where True."""
    stream = BytesIO()
    Image.fromarray(pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels).save(stream, "PNG")
    return stream.getvalue()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, making its folder."""

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        passing = path.parent / ".writing"
        passing.write_bytes(content)
        os.replace(passing, path)

    tell_of_failure(path, write)


def tell_of_failure(path: Path, write: Callable[[], None]) -> None:
    """Write; where that fails, say what is left."""
    try:
        write()
    except OSError as problem:
        raise OSError(
            f"{path} could not be written ({problem.strerror or problem}). What was written before is whole: make "
            "room, or take another folder, and call again."
        ) from problem
