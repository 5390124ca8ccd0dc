"""Save and load a fitted SPADE: features that are read on demand, and a manifest with the source of every image."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial, reduce
from importlib.metadata import version
from io import BytesIO
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from spade_kit._arguments import check_count, warn
from spade_kit._files import (
    LOCK,
    as_text,
    check_is_no_file,
    explain_failure,
    explain_reading,
    lock,
    remove_unfinished,
    write_whole,
)
from spade_kit.datasets.roi import Roi, check_corners, pack_mask, unpack_mask
from spade_kit.datasets.samples import Sample
from spade_kit.features.backbones import Backbone, Device, load_backbone
from spade_kit.features.crops import Crop, Cropping
from spade_kit.features.pyramid import check_size
from spade_kit.features.sources import must_download
from spade_kit.features.weights import hash_file
from spade_kit.gallery.gallery import Gallery, Normal
from spade_kit.gallery.recommendation import Row
from spade_kit.options import LARGEST, MOST_KAPPA, MOST_SIGMA, OPTIONS, Options
from spade_kit.search.dispatch import layout_for
from spade_kit.search.layout import Layout, Shards, SimdLayout, grids_nest
from spade_kit.search.runtime import usual_settings
from spade_kit.search.shared_grid import CellLayout

FORMAT = 2
WITH_ROI = 3  # for fits with a roi, which versions that know none must refuse
_READ = (1, FORMAT, WITH_ROI)  # version 0.1 stored the name of its only shard as "features", and a precision
MANIFEST = "spade.json"
_DATA = "gallery-*.safetensors"
# errors that a damaged manifest or picture may cause
_WRONG = (AttributeError, LookupError, TypeError, ValueError, RecursionError, zlib.error, Image.DecompressionBombError)
_KINDS = {"shards": list, "backbone": dict, "options": dict, "layers": list, "shapes": list}
_KEYS = {"format", "spade_kit", "features", "precision", "normals", "choices", "checksum", "roi", *_KINDS}
_NORMAL_KEYS = {"sha", "crop", "added", "why", "path", "label", "roi", "features", "checksum"}
_TEXTS = {"path": str, "added": str, "why": str, "label": str | None}  # of an image
_RECIPE = {
    **{"name": str, "pretrained": bool, "layers": list | None, "pooled": str | None},
    **{"resize": int, "crop": int | None, "average": int, "unit": bool, "weights": str, "weights_sha256": str},
}
_LATER = {"search", "score", "judged", "squared"}  # options that version 0.1 did not have
_ADDED = {"unit": False}  # what recipes that were saved before these entries meant
_SETTINGS = ("backbone", "options", "layers", "shapes", "choices", "roi")  # what the checksum of the manifest covers
_MOST = {"k": 2**31, "kappa": MOST_KAPPA, "radius": 2**31, "sigma": MOST_SIGMA}  # beyond, a prediction would never end
_READ_UP_TO = 2**30  # bytes: larger galleries stay in their files
_LARGEST_SIDE = 2**16  # of a level and of a photo
_LARGEST_ROI = 2**30  # pixels
_SAVES = 9  # that replace a file while it is read
_MOST_SHARDS = 9_999
_saving = Lock()  # threads may save to one folder
_LONGEST = 200  # characters of a reason


@dataclass(frozen=True)
class Shard:
    """A file of features, and what a manifest says of them."""

    file: Path
    layers: list[str]
    shapes: list[list[int]]
    normals: list[dict[str, Any]]
    roi: dict[str, Any] | None


@dataclass(frozen=True)
class Stored:
    """The contents of a folder."""

    gallery: Gallery
    backbone: Backbone
    options: Options
    choices: list[Row]


def save_gallery(folder: Path, gallery: Gallery, backbone: Backbone, options: Options, choices: Sequence[Row]) -> None:
    """Write new shards of features beside the old ones, then the manifest that lists them, then delete the old ones.

    At any moment, all files that the manifest lists are complete.
    """
    check_replaceable(folder)
    backbone.check_unchanged()
    if isinstance(gallery.pixels, Layout):
        gallery.pixels.verify(np.arange(len(gallery)))
    with _saving, unfinished(folder, ".unfinished") as place:
        publish(folder, [write_shard(place, part) for part in gallery.parts], backbone, options, choices)


def check_replaceable(folder: Path) -> None:
    """Refuse a folder with a spade.json of another kind; ours may be damaged."""
    check_is_no_file(folder, "A SPADE is saved")
    try:
        told = json.loads(_read_text(folder))
        ours = isinstance(told, dict) and {"format", "spade_kit", "backbone", "normals"} <= told.keys()
    except (ValueError, RecursionError):
        ours = any(folder.glob(_DATA))
    if os.path.lexists(folder / MANIFEST) and not ours:
        raise ValueError(
            f"{as_text(folder / MANIFEST)} must be that of a saved SPADE; got something else. Use another folder."
        )


def _read_text(folder: Path) -> str:
    """The manifest as it is."""
    file = folder / MANIFEST
    return file.read_text(encoding="utf-8", errors="replace") if os.path.isfile(file) else "null"


def _find_named(folder: Path, text: str) -> list[Path]:
    """The shards in a folder that a manifest names; the user may keep other files with such names."""
    return [file for file in folder.glob(_DATA) if f'"{file.name}"' in text]


@contextmanager
def unfinished(folder: Path, name: str) -> Iterator[Path]:
    """A folder in a folder, for shards that no manifest lists yet, while no other process writes there.

    Also those of a process that was killed are gone.
    """
    place = folder / name
    with lock(folder):
        remove_unfinished(folder)
        _clean(place)
        with explain_failure(place):
            place.mkdir()
        try:
            yield place
        finally:
            _clean(place)
            with suppress(OSError):  # where it cannot be removed before it is released
                (folder / LOCK).unlink()


def _clean(place: Path) -> None:
    """Remove a folder for shards, and those of its `publish`, new or old, that the manifest does not list now."""
    listed = _find_named(place.parent, _read_text(place.parent))
    for file in _find_named(place.parent, _read_text(place)):
        with suppress(OSError):  # in use, on systems that lock open files
            if file not in listed:
                file.unlink()
    shutil.rmtree(place, ignore_errors=True)


def write_shard(place: Path, gallery: Gallery) -> Shard:
    """Write the features of a gallery to a new file in a folder."""
    file = place / _DATA.replace("*", uuid.uuid4().hex[:8])
    normals, pooled = [_describe(normal) for normal in gallery.normals], gallery.pooled.cpu().numpy()
    for index, (told, normal) in enumerate(zip(normals, gallery.normals)):
        told["features"] = _sum(*_rows(gallery.pixels, index))
        told["checksum"] = _sum_normal(told, normal.jpeg, index, pooled, gallery.moments)
    with explain_failure(file):
        try:
            save_file(_pack(gallery), file)
            (place / "plain").touch()
            shutil.copymode(place / "plain", file)  # safetensors makes it private to its owner
        except SafetensorError as problem:  # wraps system errors, such as a full disk
            raise OSError(str(problem)) from problem
    roi = gallery.cropping.roi
    saved = None if roi is None else {"size": roi.size, "packed": roi.packed, "corners": roi.corners}
    return Shard(file, list(gallery.layers), [list(shape) for shape in gallery.shapes], normals, saved)


def publish(
    folder: Path, shards: Sequence[Shard], backbone: Backbone, options: Options, choices: Sequence[Row]
) -> None:
    """Move shards into a folder, and list them; `unfinished` then deletes those that are not listed any more."""
    moved = [folder / shard.file.name for shard in shards]
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "spade_kit": version("spade_kit"),
        "shards": [file.name for file in moved],
        "backbone": describe_backbone(backbone),
        "layers": shards[0].layers,
        "shapes": shards[0].shapes,
        "normals": [told for shard in shards for told in shard.normals],
    }
    if (roi := shards[0].roi) is not None:
        manifest |= {"format": WITH_ROI, "roi": roi}
    concerned = [file.name for file in moved + _find_named(folder, _read_text(folder))]
    write_whole(shards[0].file.with_name(MANIFEST), json.dumps(concerned).encode())
    for shard, file in zip(shards, moved):
        with explain_failure(file):
            shard.file.replace(file)
    _write_manifest(folder, manifest, options, choices)


def _write_manifest(folder: Path, manifest: dict[str, Any], options: Options, choices: Sequence[Row]) -> None:
    manifest["options"] = options.as_given() | {"k": options.k}  # a default stays a default
    manifest["choices"] = [list(row) for row in choices]
    manifest["checksum"] = _sum_settings(manifest)
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=1).encode())


def save_settings(folder: Path, gallery: Gallery, options: Options, choices: Sequence[Row]) -> None:
    """Save other options with the gallery that a folder holds, if it is still this one."""
    manifest = _read_manifest(folder)
    if [told["sha"] for told in manifest["normals"]] != [normal.digest.hex() for normal in gallery.normals]:
        raise ValueError(f"{as_text(folder)} was given another fit meanwhile. Save this one in another folder.")
    _write_manifest(folder, manifest, options, choices)


def describe_backbone(backbone: Backbone) -> dict[str, Any]:
    return {"recipe": backbone.recipe, "name": backbone.name, "sha256": backbone.sha256}


def load_gallery(folder: Path, backbone: str | Backbone | None, device: Device) -> Stored:
    """Read a folder written by `save_gallery`; features are checked when first needed.

    Those of a large gallery stay in the file: while it is in use, the file must not be cut or changed in place, which
    would end the process or change results. `save_gallery` never does: it writes a new file. If one is saved meanwhile,
    that is read instead.
    """
    manifest = _read_manifest(folder)
    for _ in range(_SAVES):
        try:
            return _load(folder, manifest, backbone, device)
        except ValueError:
            before, manifest = manifest, _read_manifest(folder)
            if manifest["shards"] == before["shards"]:
                raise
    return _load(folder, manifest, backbone, device)


def _load(folder: Path, manifest: dict[str, Any], backbone: str | Backbone | None, device: Device) -> Stored:
    options = _read_options(folder, manifest["options"])
    network = find_backbone(folder, manifest["backbone"], backbone, device)
    file = folder
    try:
        files = [folder / name for name in manifest["shards"]]
        for file in files:
            if not file.is_file():
                raise FileNotFoundError("there is no such file")
        shards, small = [], sum(file.stat().st_size for file in files) <= _READ_UP_TO
        for file in files:
            with explain_reading(file, "features"):
                open(file, "rb").close()  # safetensors calls a locked file missing
            with usual_settings(network.device), _open_shard(file) as arrays:
                read = {name: arrays.get_tensor(name) for name in arrays.keys()}  # noqa: SIM118
                shards.append({name: array.clone() for name, array in read.items()} if small else read)
        gallery = _unpack(folder, manifest, shards, network)
    except PermissionError:
        raise
    except (OSError, SafetensorError, *_WRONG) as problem:
        raise _damaged(file, problem) from problem
    return Stored(gallery, network, options, list(map(tuple, manifest.get("choices", []))))


def _read_roi(told: dict[str, Any] | None) -> Roi | None:
    if told is None or told["size"] is None:  # of a function nothing is saved
        return None if told is None else Roi()
    _check_sides("a roi", told["size"], 2)
    if prod(told["size"]) > _LARGEST_ROI or not isinstance(told["packed"], str):
        raise ValueError(f"a roi must have at most {_LARGEST_ROI} pixels, packed as text; got {told['size']}")
    corners = check_corners(told["corners"]) if told["corners"] else ()
    roi = Roi((told["size"][0], told["size"][1]), told["packed"], corners)
    roi.mask  # noqa: B018  raises if it is damaged
    return roi


@contextmanager
def _open_shard(file: Path) -> Iterator[Any]:
    """Open a file of features. safetensors refuses a path that is not UTF-8; only Unix has such paths."""
    with ExitStack() as opened:
        name = str(file)
        if name.encode(errors="ignore").decode() != name:
            name = f"/dev/fd/{opened.enter_context(open(file, 'rb')).fileno()}"
        yield opened.enter_context(safe_open(name, framework="pt"))


def _read_options(folder: Path, told: dict[str, Any]) -> Options:
    if not set(OPTIONS) - _LATER <= set(told) <= set(OPTIONS):
        raise ValueError(f"{as_text(folder)} must hold the options {sorted(OPTIONS)}; got {sorted(told)}. Fit again.")
    try:
        for name, most in _MOST.items():
            if told[name] is not None and told[name] > most:
                raise ValueError(f"{name} must be at most {most}; got {told[name]}.")
        return Options(**told)
    except _WRONG as problem:
        raise ValueError(f"{as_text(folder)} holds an option that is out of range ({problem}). Fit again.") from problem


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    if not os.path.isfile(file):  # False where that of Path raises, such as for a name that is too long
        raise FileNotFoundError(
            f"{as_text(folder)} holds no fitted SPADE: there is no {MANIFEST}. Create it with spade.save(folder)."
        )
    try:
        with explain_reading(file, "a saved SPADE"):
            manifest = json.loads(file.read_text(encoding="utf-8"))
        found = manifest["format"]
        if found == 1:
            manifest["shards"] = [manifest["features"]]
        if found in _READ:
            _check_parts(manifest)
    except _WRONG as problem:
        raise ValueError(f"{as_text(file)} is damaged ({problem}). Fit again, or restore a copy.") from problem
    if found not in _READ:
        raise ValueError(
            f"The format of {as_text(folder)} must be a number from {_READ[0]} to {_READ[-1]}; got {found!r}, written "
            f"by spade_kit {manifest.get('spade_kit')}. Load it with that version, or fit again."
        )
    if manifest.get("precision", "float32") != "float32":
        raise ValueError(
            f"{as_text(folder)} holds features as {manifest['precision']}, which disabled the fast search and is no "
            "longer supported. Fit again."
        )
    summed = found != 1 and "checksum" in manifest and manifest["options"]
    if summed and manifest["checksum"] != _sum_settings(manifest):
        raise _damaged(file, "its settings have another checksum")
    return manifest


def _damaged(file: Path, problem: object) -> ValueError:
    return ValueError(f"{as_text(file)} is damaged or incomplete ({problem}). Fit again, or restore a copy.")


def _check_parts(manifest: dict[str, Any]) -> None:
    sound, parts = all(isinstance(manifest[name], kind) for name, kind in _KINDS.items()), {"recipe", "name", "sha256"}
    if not (sound and parts <= manifest["backbone"].keys()):
        raise ValueError("parts of it are missing")
    backbone, recipe = manifest["backbone"], manifest["backbone"]["recipe"]
    _check_keys("it", manifest, _KEYS)
    _check_keys("its backbone", backbone, parts)
    _check_keys("its recipe", recipe or {}, set(_RECIPE))
    for name in manifest["shards"]:
        if not re.fullmatch(r"[\w-]+\.safetensors", name):
            raise ValueError(f"shards must be plain names of safetensors files; got {name!r}")
    if not len({*manifest["shards"]}) == len(manifest["shards"]) <= _MOST_SHARDS:
        raise ValueError(f"shards must be at most {_MOST_SHARDS} different files; got {len(manifest['shards'])}")
    wrong = [name for name, value in (recipe or {}).items() if not isinstance(value, _RECIPE[name])]
    if recipe is not None and ("name" not in recipe or not all(isinstance(x, str) for x in recipe.get("layers") or ())):
        wrong.append("layers")
    if recipe and ("weights" in recipe) != ("weights_sha256" in recipe):
        wrong.append("weights")
    if wrong or not all(isinstance(backbone[name], str) for name in ("name", "sha256")):
        raise ValueError(f"its backbone must be described by names and numbers; got {backbone}")
    _check_choices(manifest.get("choices", []), (recipe or {}) | manifest["options"])


def _check_choices(rows: list[list], settings: dict[str, Any]) -> None:
    """Each row is about another setting, with its value; the rest is text that can be printed."""
    if not isinstance(rows, list) or len({option for option, *_ in rows}) != len(rows):
        raise ValueError(f"its choices must be a list of different settings; got {rows!r:.{_LONGEST}}")
    for option, value, why, rests_on in rows:
        if value != settings[option]:
            raise ValueError(f"its choices must be those of its settings; got {option} {value!r:.{_LONGEST}}")
        if not all(isinstance(text, str) and text.isprintable() and len(text) <= _LONGEST for text in (why, rests_on)):
            raise ValueError(f"the reasons of its choices must be one line of at most {_LONGEST} characters each")


def _check_keys(what: str, told: dict[str, Any], known: set[str]) -> None:
    if unknown := set(told) - known:
        raise ValueError(f"{what} has the unknown entries {', '.join(map(repr, sorted(unknown)))}")


def find_backbone(folder: Path, wanted: dict[str, Any], given: str | Backbone | None, device: Device) -> Backbone:
    """The network that computed the features: loaded again, or the one given if it is the same."""
    wanted = wanted | {"recipe": wanted["recipe"] and _ADDED | wanted["recipe"]}
    if given is None and wanted["recipe"] is None:
        raise ValueError(
            f"{as_text(folder)} was fitted with a custom module, {wanted['name']}, which is not saved. Pass it: "
            "SPADE.load(folder, backbone=...)."
        )
    recipe = dict(wanted["recipe"] or {})
    digest = recipe.pop("weights_sha256", None)
    if given is None and digest:
        _check_weights(folder, recipe, digest)
    try:
        if given is None and not digest and recipe.get("pretrained", True) and must_download(recipe["name"]):
            warn(
                f"{as_text(folder)} was fitted with {wanted['name']}; its weights are not on this machine and will be "
                "downloaded."
            )
        backbone = load_backbone(**recipe) if given is None else load_backbone(given).renewed()
    except ValueError as problem:
        raise ValueError(f"The backbone of {as_text(folder)} cannot be loaded. {problem}") from problem
    backbone = backbone if device is None else backbone.to(device)
    same = _leave_file_out(backbone.recipe) == _leave_file_out(wanted["recipe"])
    if wanted["recipe"] is None:  # the name of a custom module says whether features are averaged, and of unit length
        same = backbone.name.split(", ")[1:] == wanted["name"].split(", ")[1:]
    if backbone.sha256 != wanted["sha256"] or not same:
        tell = "{name}, weights {sha256:.8}, loaded as {recipe}".format
        needed, got = tell(**wanted), tell(**describe_backbone(backbone))
        raise ValueError(f"{as_text(folder)} was fitted with {needed}; got {got}. Use the same backbone, or fit again.")
    return backbone


def tell_backbone(backbone: Backbone) -> tuple[str, str]:
    """What `open_backbone` needs on a worker, which is never sent the network itself."""
    backbone.check_named()
    return json.dumps(describe_backbone(backbone)), backbone.device.type


@lru_cache(maxsize=1)
def open_backbone(told: str, device: str) -> Backbone:
    return find_backbone(Path("this fit"), json.loads(told), None, device)


def _check_weights(folder: Path, recipe: dict[str, Any], digest: str) -> None:
    """Check the file of weights before it is loaded: a manifest from elsewhere may name any file of this machine."""
    file = Path(recipe["weights"])
    if not os.path.isfile(file) or hash_file(file) != digest:
        raise ValueError(
            f"{as_text(folder)} was fitted with weights of the file {as_text(file)}, SHA-256 {digest}; got "
            f"{'another file' if os.path.isfile(file) else 'none'} there. Find it, and load with SPADE.load(folder, "
            f"load_backbone({recipe['name']!r}, weights=...))."
        )


def _leave_file_out(recipe: dict[str, Any] | None) -> dict[str, Any]:
    """All of a recipe but the file of weights: the same tensors may lie in another place or format."""
    return {name: value for name, value in (recipe or {}).items() if name not in ("weights", "weights_sha256")}


def _describe(normal: Normal) -> dict[str, Any]:
    sample, crop = normal.sample, normal.crop
    position = [crop.photo, crop.scaled, crop.offset, crop.size]
    told: dict[str, Any] = {"sha": normal.digest.hex(), "crop": position, "added": normal.added, "why": normal.why}
    if sample is not None:
        told |= {"path": str(sample.path), "label": sample.label}
    if crop.roi is not None:
        told["roi"] = pack_mask(crop.roi)
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
    if isinstance(gallery.pixels, Layout):
        arrays |= {name: torch.from_numpy(tiles) for name, tiles in gallery.pixels.arrays.items()}
    else:
        arrays |= {f"level{number}": level.cpu().contiguous() for number, level in enumerate(gallery.pixels)}
    return arrays


def _unpack(folder: Path, manifest: dict[str, Any], shards: Sequence[dict[str, Tensor]], backbone: Backbone) -> Gallery:
    layers, shapes, told = manifest["layers"], _check_shapes(manifest, backbone), manifest["normals"]
    small = [name for name in shards[0] if name.startswith(("pooled", "means", "squares"))]
    arrays = {name: _join([shard[name] for shard in shards]) for name in small}
    cut = (np.split(shard["jpegs"].numpy(), shard["jpeg_ends"].tolist()[:-1]) for shard in shards)
    jpegs = [jpeg.tobytes() for part in cut for jpeg in part]
    cropping = replace(_find_cropping(told, backbone), roi=_read_roi(manifest.get("roi")))
    normals = tuple(_normals(told, jpegs, cropping))
    pooled, moments = arrays["pooled"], [(arrays[f"means{at}"], arrays[f"squares{at}"]) for at in range(len(shapes))]
    check_size([pooled], ["pooled"], np.ones(1))
    for (channels, _, _), pair in zip(shapes, moments):
        if any(x.shape != (len(normals), channels) or not torch.isfinite(x).all() for x in pair):
            raise ValueError(f"moments must be finite and have shape {(len(normals), channels)}")

    def check(start: int, index: int, rows: Sequence[np.ndarray]) -> None:
        index += start  # that of the shard's first image
        problem = "they have another checksum" if told[index].get("features", _sum(*rows)) != _sum(*rows) else None
        if not all(np.abs(row).max() < LARGEST for row in rows):  # also where one is NaN
            problem = "they are not finite, or too large for float32"
        if problem:
            raise ValueError(
                f"{as_text(folder)} is damaged: the features of image {index} cannot be used, {problem}. "
                "Fit again, or restore a copy."
            )

    pixels: Layout | list[Tensor]
    share = len({shape[1:] for shape in shapes}) == 1
    suits: dict[type[Layout], bool] = {SimdLayout: grids_nest(shapes), CellLayout: share}
    layout = next((kind for kind in suits if suits[kind] and {*kind.names} <= shards[0].keys()), None)
    if layout:
        pixels = _hold(layout, shapes, shards, check)
    else:
        pixels = [_join([shard[f"level{number}"] for shard in shards]) for number in range(len(shapes))]
        if [(tuple(x.shape[1:]), x.dtype) for x in pixels] != [(shape, torch.float32) for shape in shapes]:
            raise ValueError(f"levels must have the shapes {shapes} per image; got {[tuple(x.shape) for x in pixels]}")
        check_size(pixels, layers, np.ones(len(pixels)))
    lengths = {len(normals), len(pooled), *map(len, [pixels] if isinstance(pixels, Layout) else pixels)}
    if len(lengths) != 1:
        raise ValueError(f"its arrays hold {sorted(lengths)} images")
    gallery = Gallery(layers, normals, pooled, pixels, [(x.numpy(), y.numpy()) for x, y in moments], cropping)
    for index, (one, normal) in enumerate(zip(told, normals)):
        if isinstance(pixels, list):
            check(0, index, _rows(pixels, index))
        found = _sum_normal(one, normal.jpeg, index, pooled.numpy(), gallery.moments)
        if one.get("checksum", found) != found:
            raise ValueError(f"image {index} has another checksum")
    if isinstance(pixels, list):
        layout = layout_for(shapes) if backbone.device.type == "cpu" else None
        pixels = layout.of(pixels) if layout else [level.to(backbone.device) for level in pixels]
    return replace(gallery, pooled=pooled.to(backbone.device), pixels=pixels)


def _hold(layout: type[Layout], shapes: list, shards: Sequence[dict[str, Tensor]], check: Callable) -> Layout:
    """Layouts that stay where they are, in memory or in a file; several in memory become one."""
    held, start = list[Layout](), 0
    for shard in shards:
        arrays = {name: shard[name].numpy() for name in layout.names}
        held.append(layout.held(shapes, arrays, partial(check, start)))
        start += len(held[-1])
    if len(held) == 1:
        return held[0]
    joined = Shards(held)
    return joined.take(np.arange(start)) if joined.nbytes <= _READ_UP_TO else joined


def _check_shapes(manifest: dict[str, Any], backbone: Backbone) -> list[tuple[int, ...]]:
    layers, shapes = manifest["layers"], [tuple(shape) for shape in manifest["shapes"]]
    if len(shapes) != len(layers) or not 0 < len(set(layers) & set(backbone.layers)) == len(layers):
        raise ValueError(f"it must have a shape for each of its layers, among {backbone.layers}; got {layers}")
    for shape in shapes:
        _check_sides("a shape", shape, 3)
    return shapes


def _check_sides(what: str, sides: Sequence[int], count: int) -> None:
    if len(sides) != count or any(check_count(what, side, 0) > _LARGEST_SIDE for side in sides):
        raise ValueError(f"{what} must have {count} sides of at most {_LARGEST_SIDE}; got {sides}")


# ---- checksums -------------------------------------------------------------------------------------------------------


def _sum(*parts: Any) -> int:
    """One checksum (CRC-32) of several arrays or bytes."""
    return reduce(lambda total, part: zlib.crc32(part, total), parts, 0)


def _sum_settings(manifest: dict[str, Any]) -> int:
    return _sum(json.dumps({name: manifest[name] for name in _SETTINGS if name in manifest}, sort_keys=True).encode())


def _sum_normal(
    told: dict[str, Any], jpeg: bytes, index: int, pooled: np.ndarray, moments: Sequence[tuple[np.ndarray, np.ndarray]]
) -> int:
    """All of one image but its features, which stay in the file."""
    record = json.dumps({name: value for name, value in told.items() if name != "checksum"}, sort_keys=True)
    return _sum(record.encode(), jpeg, pooled[index], *(x[index] for pair in moments for x in pair))


def _rows(pixels: Layout | list[Tensor], index: int) -> list[np.ndarray]:
    """The features of one image, as they lie in the file."""
    if isinstance(pixels, Layout):
        return pixels.arrays_of(index)
    return [level[index].cpu().contiguous().numpy() for level in pixels]


def _join(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))  # a single one may stay in its file


def _normals(told: Sequence[dict[str, Any]], jpegs: Sequence[bytes], cropping: Cropping) -> Iterator[Normal]:
    if len(jpegs) != len(told):
        raise ValueError(f"it holds {len(jpegs)} pictures for {len(told)} images")
    for one, jpeg in zip(told, jpegs):
        _check_keys("an image", one, _NORMAL_KEYS)
        if not all(isinstance(one[name], kind) for name, kind in _TEXTS.items() if name in one):
            raise ValueError("path, label, added and why of an image must be text")
        crop = _read_crop(one["crop"], cropping)
        width, height = Image.open(BytesIO(jpeg), formats=["JPEG"]).size
        if crop.size != (height, width):
            raise ValueError(f"a crop must have the size of its picture, {(height, width)}; got {crop.size}")
        if "roi" in one:
            crop = replace(crop, roi=unpack_mask(one["roi"], crop.size))
        sample = Sample(Path(one["path"]), one["label"]) if "path" in one else None
        yield Normal(jpeg, bytes.fromhex(one["sha"]), crop, sample, one["added"], one["why"])


def _find_cropping(told: Sequence[dict[str, Any]], backbone: Backbone) -> Cropping:
    """The cropping of the backbone; whole images have the size of the first, which must suit the backbone."""
    if backbone.crop is not None or not told:
        return backbone.cropping
    height, width = size = told[0]["crop"][3]
    _check_sides("a crop", size, 2)
    multiple = backbone.cropping.multiple
    if height % multiple or width % multiple or abs(min(size) - backbone.resize) > multiple / 2:
        raise ValueError(
            f"a crop must have sides in multiples of {multiple}, the short one near {backbone.resize} px; got {size}"
        )
    return replace(backbone.cropping, size=(height, width))


def _read_crop(told: Sequence[Sequence[int]], cropping: Cropping) -> Crop:
    """A crop follows from the size of its photo; other numbers are refused."""
    for pair in told:
        _check_sides("a crop", pair, 2)
    crop = Crop(*[(rows, columns) for rows, columns in told])  # type: ignore[arg-type]
    if crop != cropping.find(crop.photo):
        raise ValueError(f"a crop must be that of the backbone; got {told}")
    return crop
