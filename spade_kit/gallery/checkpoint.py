"""Save and load a fitted SPADE: features that are read on demand, and a manifest with the source of every image."""

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

from spade_kit._files import check_is_no_file, explain_failure, write_whole
from spade_kit.datasets.samples import Sample
from spade_kit.features.backbones import Backbone, load_backbone
from spade_kit.features.crops import Crop
from spade_kit.gallery.gallery import Gallery, Normal
from spade_kit.options import OPTIONS, Options
from spade_kit.search.layout import SimdLayout

FORMAT = 2
_READ = (1, FORMAT)  # version 0.1 stored the name of its only shard as "features", and a precision
MANIFEST = "spade.json"
_DATA = "gallery-*.safetensors"
_WRONG = (AttributeError, IndexError, KeyError, TypeError, ValueError)  # errors that a damaged manifest may cause
_KINDS = {"shards": list, "backbone": dict, "options": dict, "layers": list, "shapes": list}


@dataclass(frozen=True)
class Stored:
    """The contents of a folder."""

    gallery: Gallery
    backbone: Backbone
    options: Options


def save_gallery(folder: Path, gallery: Gallery, backbone: Backbone, options: Options) -> None:
    """Write a new shard of features beside the old ones, then the manifest that lists it, then delete the old ones.

    At any moment, all files that the manifest lists are complete.
    """
    check_is_no_file(folder, "A SPADE is saved")
    before = set(folder.glob(_DATA))
    file = folder / _DATA.replace("*", uuid.uuid4().hex[:8])
    unfinished = folder / ".unfinished"  # for the partial files of safetensors, in case the process is killed
    manifest = {
        "format": FORMAT,
        "spade_kit": version("spade_kit"),
        "shards": [file.name],
        "backbone": {"recipe": backbone.recipe, "name": backbone.name, "sha256": backbone.sha256},
        "options": options.as_given() | {"k": options.k},  # a default stays a default
        "layers": list(gallery.layers),
        "shapes": [list(shape) for shape in gallery.shapes],
        "normals": [_describe(normal) for normal in gallery.normals],
    }

    def write() -> None:
        unfinished.mkdir(parents=True, exist_ok=True)
        try:
            save_file(_pack(gallery), unfinished / file.name)
            (unfinished / "plain").touch()
            shutil.copymode(unfinished / "plain", unfinished / file.name)  # safetensors makes it private to its owner
        except SafetensorError as problem:  # wraps system errors, such as a full disk
            raise OSError(str(problem)) from problem
        (unfinished / file.name).replace(file)

    try:
        explain_failure(file, write)
        write_whole(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
    except OSError:
        with suppress(OSError):
            file.unlink()
        raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    for old in before:
        with suppress(OSError):  # in use, on systems that lock open files
            old.unlink()


def load_gallery(folder: Path, backbone: str | Backbone | None, device: str | torch.device | None) -> Stored:
    """Read a folder written by `save_gallery`; features stay in the file until they are needed."""
    manifest = _read_manifest(folder)
    network = _find_backbone(folder, manifest["backbone"], backbone, device)
    files = [folder / name for name in manifest["shards"]]
    try:
        shards = []
        for file in files:
            with safe_open(file, framework="pt") as arrays:
                shards.append({name: arrays.get_tensor(name) for name in arrays.keys()})  # noqa: SIM118
        gallery = _unpack(manifest, shards, network.device)
    except (OSError, SafetensorError, *_WRONG) as problem:
        raise ValueError(f"{file} is damaged or incomplete ({problem}). Fit again, or restore a copy.") from problem
    return Stored(gallery, network, _read_options(folder, manifest["options"]))


def _read_options(folder: Path, options: dict[str, Any]) -> Options:
    if not set(OPTIONS) - {"search"} <= set(options) <= set(OPTIONS):  # version 0.1 had only one search
        raise ValueError(f"{folder} must hold the options {sorted(OPTIONS)}; got {sorted(options)}. Fit again.")
    return Options(**options)


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} holds no fitted SPADE: there is no {MANIFEST}. Create it with spade.save(folder)."
        )
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        found = manifest["format"]
        if found == 1:
            manifest["shards"] = [manifest["features"]]
        sound = found not in _READ or all(isinstance(manifest[name], kind) for name, kind in _KINDS.items())
        if not sound or (found in _READ and not {"recipe", "name", "sha256"} <= set(manifest["backbone"])):
            raise ValueError("parts of it are missing")
    except _WRONG as problem:
        raise ValueError(f"{file} is damaged ({problem}). Fit again, or restore a copy.") from problem
    if found not in _READ:
        raise ValueError(
            f"The format of {folder} must be {_READ[0]} or {_READ[1]}; got {found}, written by "
            f"spade_kit {manifest.get('spade_kit')}. Load it with that version, or fit again."
        )
    if manifest.get("precision", "float32") != "float32":
        raise ValueError(
            f"{folder} holds features as {manifest['precision']}, which disabled the fast search and is no longer "
            "supported. Fit again."
        )
    return manifest


def _find_backbone(
    folder: Path, wanted: dict[str, Any], given: str | Backbone | None, device: str | torch.device | None
) -> Backbone:
    """The network that computed the features: loaded again, or the one given if it is the same."""
    if given is None and wanted["recipe"] is None:
        raise ValueError(
            f"{folder} was fitted with a custom module, {wanted['name']}, which is not saved. Pass it: "
            "SPADE.load(folder, backbone=...)."
        )
    backbone = load_backbone(**wanted["recipe"]) if given is None else load_backbone(given)
    backbone = backbone if device is None else backbone.to(device)
    if backbone.sha256 != wanted["sha256"] or (wanted["recipe"] and backbone.recipe != wanted["recipe"]):
        got, needed = (
            f"{name}, weights {sha[:8]}, loaded as {recipe}"
            for name, sha, recipe in (
                (backbone.name, backbone.sha256, backbone.recipe),
                (wanted["name"], wanted["sha256"], wanted["recipe"]),
            )
        )
        raise ValueError(f"{folder} was fitted with {needed}; got {got}. Use the same backbone, or fit again.")
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


def _pack(gallery: Gallery) -> dict[str, Tensor]:
    jpegs = [np.frombuffer(normal.jpeg, np.uint8) for normal in gallery.normals]
    arrays = {
        "pooled": gallery.pooled.cpu().contiguous(),
        "jpegs": torch.from_numpy(np.concatenate(jpegs)),
        "jpeg_ends": torch.from_numpy(np.cumsum([len(jpeg) for jpeg in jpegs])),
    }
    for number, (means, squares) in enumerate(gallery.moments):
        arrays |= {f"means{number}": torch.from_numpy(means), f"squares{number}": torch.from_numpy(squares)}
    if isinstance(gallery.pixels, SimdLayout):
        arrays |= {name: torch.from_numpy(tiles) for name, tiles in gallery.pixels.tiles.items()}
    else:
        arrays |= {f"level{number}": level.cpu().contiguous() for number, level in enumerate(gallery.pixels)}
    return arrays


def _unpack(manifest: dict[str, Any], shards: Sequence[dict[str, Tensor]], device: torch.device) -> Gallery:
    shapes = [tuple(shape) for shape in manifest["shapes"]]
    arrays = {name: _join([shard[name] for shard in shards]) for name in shards[0] if "jpeg" not in name}
    pixels: SimdLayout | list[Tensor]
    if "fine" in arrays:
        pixels = SimdLayout.held(shapes, {name: arrays[name].numpy() for name in ("coarse", "middle", "fine")})
    else:
        pixels = [arrays[f"level{number}"].to(device) for number in range(len(shapes))]
    moments = [(arrays[f"means{at}"].numpy(), arrays[f"squares{at}"].numpy()) for at in range(len(shapes))]
    jpegs = [jpeg for shard in shards for jpeg in _cut_jpegs(shard["jpegs"].numpy(), shard["jpeg_ends"].tolist())]
    normals = tuple(_normals(manifest["normals"], jpegs))
    held = [pixels] if isinstance(pixels, SimdLayout) else pixels
    lengths = {len(normals), len(arrays["pooled"]), *map(len, held)}
    if len(lengths) != 1:
        raise ValueError(f"its arrays hold {sorted(lengths)} images")
    return Gallery(manifest["layers"], normals, arrays["pooled"].to(device), pixels, moments)


def _join(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))  # a single shard stays in its file


def _cut_jpegs(jpegs: np.ndarray, ends: Sequence[int]) -> Iterator[bytes]:
    for start, end in zip([0, *ends[:-1]], ends):
        yield jpegs[start:end].tobytes()


def _normals(told: Sequence[dict[str, Any]], jpegs: Sequence[bytes]) -> Iterator[Normal]:
    if len(jpegs) != len(told):
        raise ValueError(f"it holds {len(jpegs)} pictures for {len(told)} images")
    for one, jpeg in zip(told, jpegs):
        crop = Crop(*(tuple(pair) for pair in one["crop"]))
        sample = Sample(Path(one["path"]), one["label"]) if "path" in one else None
        yield Normal(jpeg, bytes.fromhex(one["sha"]), crop, sample, one["added"], one["why"])
