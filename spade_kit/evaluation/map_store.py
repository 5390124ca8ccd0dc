"""Results that an evaluation stores per image, in memory or as one file per image in a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from itertools import chain, count
from math import prod
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Bool, Float

from spade_kit._files import as_text, shorten, write_whole
from spade_kit.datasets.samples import Sample
from spade_kit.features.crops import Crop
from spade_kit.result import Result
from spade_kit.scores import choose_map, make_map

_DAMAGED = (BadZipFile, EOFError, KeyError, OSError, TypeError, ValueError)  # raised when reading a damaged file


@dataclass(frozen=True, eq=False)
class Judged:
    """Result of judging one image, sufficient to compute its maps: distances on the grid, and the smoothing sigma.

    ``mask`` is the ground truth on the evaluated crop, if known; ``level`` is taken off to get the judged map, if that
    is the excess.
    """

    distance: Float[np.ndarray, "h w"]
    sigma: float
    mask: Bool[np.ndarray, "H W"] | None
    crop: Crop
    level: Float[np.ndarray, "H W"] | None = None

    @classmethod
    def of(cls, result: Result) -> Judged:
        options = result.spade.options
        level = result.place_level if options.judged == "excess" else None
        truth = None if result.sample is None else result.sample.mask
        # not `Result.mask`, which warns of a defect outside the crop: an evaluation counts them
        mask = None if truth is None else result.crop.cut_mask(truth)
        return cls(result.correspondence.distance, options.sigma, mask, result.crop, level)

    @cached_property
    def anomaly_map(self) -> Float[np.ndarray, "H W"]:
        """The same map as `Result.anomaly_map`, bit for bit."""
        return make_map(self.distance, self.crop.size, self.sigma)

    @property
    def judged_map(self) -> Float[np.ndarray, "H W"]:
        """The same map as `Result.judged_map`."""
        return choose_map(self.anomaly_map, self.level, "excess", self.crop.roi)


@dataclass(frozen=True, eq=False)
class MapStore(Sequence[Judged]):
    """Judged images in a folder, each read on access; ``paths`` are the paths of the original images."""

    folder: Path
    paths: Sequence[str]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index):
        path, file = self.paths[index], self.file(index)
        try:
            with np.load(BytesIO(file.read_bytes())) as arrays:
                found = json.loads(str(arrays["row"]))["path"]
                if found != path:
                    raise ValueError(f"it is of {found}, not of {path}")
                crop = Crop(*(tuple(pair) for pair in arrays["crop"].tolist()), roi=arrays.get("roi"))
                mask = arrays["mask"] if arrays["mask"].size else None
                if "map" in arrays:  # written by version 0.1, which stored the map itself
                    return Judged(arrays["map"], 0, mask, crop)
                return Judged(arrays["distance"], float(arrays["sigma"]), mask, crop, arrays.get("level"))
        except _DAMAGED as problem:
            raise ValueError(
                f"{as_text(file)} is damaged or missing ({problem}). Call evaluate(..., folder=...) again to recreate "
                "it."
            ) from problem

    def file(self, index: int) -> Path:
        return self.folder / "photos" / f"{index:05d}.npz"

    def drop_damaged(self, index: int, raw: Path) -> None:
        """Delete an image's file if it is unreadable, or if its raw map is smaller than the image."""
        with suppress(OSError, ValueError):
            if raw.stat().st_size >= 4 * prod(self[index].crop.photo):
                return
        self.file(index).unlink(missing_ok=True)


def write_judged(file: Path, path: str, judged: Judged) -> None:
    """Write what a `MapStore` reads of the image at a path."""
    crop, stream = judged.crop, BytesIO()
    arrays: dict[str, Any] = {
        "row": np.array(json.dumps({"path": path})),  # this name dates from 0.1, which stored a row
        "distance": judged.distance,
        "sigma": np.array(judged.sigma),
        "mask": np.empty(0, bool) if judged.mask is None else judged.mask,
        "crop": np.array([crop.photo, crop.scaled, crop.offset, crop.size]),
        **{"level": judged.level, "roi": crop.roi},  # left out if None
    }
    np.savez(stream, **{name: array for name, array in arrays.items() if array is not None})
    write_whole(file, stream.getvalue())


def name_maps(dataset: str, samples: Sequence[Sample]) -> list[Path]:
    """``<dataset>/test/<kind>/<stem>.tiff``, where MVTec AD's evaluation script expects an image's map.

    If two images share a name, the index of the second, or the next free number, is appended.
    """
    taken: set[str] = set()  # in one case: some file systems ignore it
    names = []
    for index, sample in enumerate(samples):
        folder = Path(_plain(dataset), "test", _plain(sample.label or "unknown"))
        stems = chain([sample.path.stem], (f"{sample.path.stem}_{at}" for at in count(index)))
        places = (folder / f"{shorten(stem)}.tiff" for stem in stems)
        name = next(place for place in places if str(place).casefold() not in taken)
        taken.add(str(name).casefold())
        names.append(name)
    return names


def _plain(name: str) -> str:
    """A folder name with only letters, digits, spaces and other safe characters."""
    return shorten(re.sub(r"[^\w .+-]", "_", name).strip(" .") or "_")
