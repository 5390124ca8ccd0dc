"""A fitted SPADE in a folder: features that are read where they are needed, and in words where everything came from."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from spade_kit._files import check_is_no_file, tell_of_failure, write_whole
from spade_kit.datasets.samples import Sample
from spade_kit.features.backbones import Backbone, load_backbone
from spade_kit.features.crops import Crop
from spade_kit.gallery.gallery import PRECISIONS, Gallery, Normal
from spade_kit.search.layout import Lanes

FORMAT = 1
RECORD = "spade.json"
_DATA = "gallery-*.safetensors"
_WRONG = (AttributeError, IndexError, KeyError, TypeError, ValueError)  # what a damaged record may lead to
_KINDS = {"features": str, "backbone": dict, "precision": str, "options": dict, "layers": list, "shapes": list}


@dataclass(frozen=True)
class Stored:
    """What a folder holds."""

    gallery: Gallery
    backbone: Backbone
    precision: str
    options: dict[str, Any]


def save_gallery(folder: Path, gallery: Gallery, backbone: Backbone, precision: str, options: dict[str, Any]) -> None:
    """Write a new file of features beside the old one, then the record that points at it, then let go of the old one.

    So at any moment the record points at a whole file.
    """
    check_is_no_file(folder, "A SPADE is saved")
    before = set(folder.glob(_DATA))
    file = folder / _DATA.replace("*", uuid.uuid4().hex[:8])
    unfinished = folder / ".unfinished"  # with whatever safetensors begins there, should we be killed
    record = {
        "format": FORMAT,
        "spade_kit": version("spade_kit"),
        "features": file.name,
        "backbone": {"recipe": backbone.recipe, "name": backbone.name, "sha256": backbone.sha256},
        "precision": precision,
        "options": options,
        "layers": list(gallery.layers),
        "shapes": [list(shape) for shape in gallery.shapes],
        "normals": [_describe(normal) for normal in gallery.normals],
    }

    def write() -> None:
        unfinished.mkdir(parents=True, exist_ok=True)
        try:
            save_file(_pack(gallery), unfinished / file.name)
            (unfinished / "plain").touch()
            shutil.copymode(unfinished / "plain", unfinished / file.name)  # safetensors lets nobody else read it
        except SafetensorError as problem:  # which wraps what the system said, such as a full disk
            raise OSError(str(problem)) from problem
        (unfinished / file.name).replace(file)

    try:
        tell_of_failure(file, write)
        write_whole(folder / RECORD, json.dumps(record, indent=1).encode())
    except OSError:
        with suppress(OSError):
            file.unlink()
        raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    for old in before:
        with suppress(OSError):  # in use, on systems that hold on to open files
            old.unlink()


def load_gallery(folder: Path, backbone: str | Backbone | None, device: str | torch.device | None) -> Stored:
    """Read what `save_gallery` has written; features stay in the file until somebody looks at them."""
    record = _read_record(folder)
    network = _find_backbone(folder, record["backbone"], backbone, device)
    file = folder / record["features"]
    try:
        with safe_open(file, framework="pt") as arrays:
            tensors = {name: arrays.get_tensor(name) for name in arrays.keys()}  # noqa: SIM118
        gallery = _unpack(record, tensors, network.device)
    except (OSError, SafetensorError, *_WRONG) as problem:
        raise ValueError(
            f"{file} is damaged or not all there ({problem}). Fit again, or take a copy of it."
        ) from problem
    return Stored(gallery, network, record["precision"], record["options"])


# ---- the record ------------------------------------------------------------------------------------------------------


def _read_record(folder: Path) -> dict[str, Any]:
    file = folder / RECORD
    if not file.is_file():
        raise FileNotFoundError(
            f"A fitted SPADE was expected in {folder}, but there is no {RECORD}. spade.save makes one."
        )
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        found = record["format"]
        sound = found != FORMAT or all(isinstance(record[name], kind) for name, kind in _KINDS.items())
        if not sound or (found == FORMAT and not {"recipe", "name", "sha256"} <= set(record["backbone"])):
            raise ValueError("parts of it are missing")
    except _WRONG as problem:
        raise ValueError(f"{file} is damaged ({problem}). Fit again, or take a copy of it.") from problem
    if found != FORMAT:
        raise ValueError(
            f"Folders of format {FORMAT} are read, but {folder} has format {found}, written by spade_kit "
            f"{record.get('spade_kit')}. Load it with that version, or fit again."
        )
    return record


def _find_backbone(
    folder: Path, wanted: dict[str, Any], given: str | Backbone | None, device: str | torch.device | None
) -> Backbone:
    """The network that made the features, or the one given, if it is the same."""
    if given is None and wanted["recipe"] is None:
        raise ValueError(
            f"{folder} was fitted with a module of your own, {wanted['name']}, which is not saved. Give it: "
            "SPADE.load(folder, backbone=...)."
        )
    backbone = load_backbone(**wanted["recipe"]) if given is None else load_backbone(given)
    backbone = backbone if device is None else backbone.to(device)
    if backbone.sha256 != wanted["sha256"] or (wanted["recipe"] and backbone.recipe != wanted["recipe"]):
        came, needed = (
            f"{name}, weights {sha[:8]}, loaded as {recipe}"
            for name, sha, recipe in (
                (backbone.name, backbone.sha256, backbone.recipe),
                (wanted["name"], wanted["sha256"], wanted["recipe"]),
            )
        )
        raise ValueError(f"{folder} was fitted with {needed}, but {came}, came. Take the same, or fit again.")
    return backbone


def _describe(normal: Normal) -> dict[str, Any]:
    sample, crop = normal.sample, normal.crop
    told: dict[str, Any] = {
        "sha": normal.digest.hex(),
        "crop": [crop.photo, crop.scaled, crop.offset, crop.size],
        "added": normal.added,
        "why": normal.why,
    }
    if sample is not None:
        told |= {"path": str(sample.path), "label": sample.label}
    return told


# ---- features --------------------------------------------------------------------------------------------------------


def _pack(gallery: Gallery) -> dict[str, Tensor]:
    jpegs = [np.frombuffer(normal.jpeg, np.uint8) for normal in gallery.normals]
    arrays = {
        "pooled": gallery.pooled.cpu().contiguous(),
        "jpegs": torch.from_numpy(np.concatenate(jpegs)),
        "jpeg_ends": torch.from_numpy(np.cumsum([len(jpeg) for jpeg in jpegs])),
    }
    for number, (means, squares) in enumerate(gallery.moments):
        arrays |= {f"means{number}": torch.from_numpy(means), f"squares{number}": torch.from_numpy(squares)}
    if isinstance(gallery.pixels, Lanes):
        arrays |= {name: torch.from_numpy(tiles) for name, tiles in gallery.pixels.tiles.items()}
    else:
        arrays |= {f"level{number}": level.cpu().contiguous() for number, level in enumerate(gallery.pixels)}
    return arrays


def _unpack(record: dict[str, Any], arrays: dict[str, Tensor], device: torch.device) -> Gallery:
    shapes = [tuple(shape) for shape in record["shapes"]]
    numbers = range(len(shapes))
    pixels: Lanes | list[Tensor]
    if "fine" in arrays:
        pixels = Lanes.held(shapes, {name: arrays[name].numpy() for name in ("coarse", "middle", "fine")})
    else:
        pixels = [arrays[f"level{number}"].to(device) for number in numbers]
    moments = [(arrays[f"means{number}"].numpy(), arrays[f"squares{number}"].numpy()) for number in numbers]
    normals = tuple(_normals(record["normals"], arrays["jpegs"].numpy(), arrays["jpeg_ends"].tolist()))
    held = [pixels] if isinstance(pixels, Lanes) else pixels
    lengths = {len(normals), len(arrays["pooled"]), *map(len, held)}
    if len(lengths) != 1:
        raise ValueError(f"it holds {sorted(lengths)} images in its parts")
    return Gallery(
        record["layers"], normals, arrays["pooled"].to(device), pixels, moments, PRECISIONS[record["precision"]]
    )


def _normals(told: Sequence[dict[str, Any]], jpegs: np.ndarray, ends: Sequence[int]) -> Iterator[Normal]:
    starts = [0, *ends[:-1]]
    if len(ends) != len(told):
        raise ValueError(f"it holds {len(ends)} pictures of {len(told)} images")
    for one, start, end in zip(told, starts, ends):
        crop = Crop(*(tuple(pair) for pair in one["crop"]))
        sample = Sample(Path(one["path"]), one["label"]) if "path" in one else None
        yield Normal(jpegs[start:end].tobytes(), bytes.fromhex(one["sha"]), crop, sample, one["added"], one["why"])
