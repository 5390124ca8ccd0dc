"""What an evaluation keeps of each photograph, in memory or one file a photograph in a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from math import prod
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Bool, Float

from spade_kit._files import write_whole
from spade_kit.datasets.samples import Sample
from spade_kit.features.crops import Crop
from spade_kit.scores import make_map

_DAMAGED = (BadZipFile, EOFError, KeyError, OSError, TypeError, ValueError)  # what a file's reader may raise


@dataclass(frozen=True, eq=False)
class Judged:
    """What is known of one judged photograph, enough for its map: distances of the grid, and how they are smoothed.

    ``mask`` is the truth on the evaluated crop, if that is known.
    """

    distance: Float[np.ndarray, "h w"]
    sigma: float
    mask: Bool[np.ndarray, "H W"] | None
    crop: Crop

    @cached_property
    def anomaly_map(self) -> Float[np.ndarray, "H W"]:
        """As `Result` has it, bit for bit."""
        return make_map(self.distance, self.crop.size, self.sigma)


@dataclass(frozen=True, eq=False)
class MapStore(Sequence[Judged]):
    """Judged photographs in a folder, each read when it is asked for; ``paths`` are those of the photographs."""

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
                crop = Crop(*(tuple(pair) for pair in arrays["crop"].tolist()))
                mask = arrays["mask"] if arrays["mask"].size else None
                if "map" in arrays:  # as in 0.1, which kept the map itself
                    return Judged(arrays["map"], 0, mask, crop)
                return Judged(arrays["distance"], float(arrays["sigma"]), mask, crop)
        except _DAMAGED as problem:
            raise ValueError(
                f"{file} is damaged or gone ({problem}). Call evaluate(..., folder=...) again: it is judged anew."
            ) from problem

    def file(self, index: int) -> Path:
        return self.folder / "photos" / f"{index:05d}.npz"

    def put(self, index: int, judged: Judged) -> None:
        crop = judged.crop
        stream = BytesIO()
        np.savez(
            stream,
            row=np.array(json.dumps({"path": self.paths[index]})),  # so called since 0.1, where all of it lay here
            distance=judged.distance,
            sigma=np.array(judged.sigma),
            mask=np.empty(0, bool) if judged.mask is None else judged.mask,
            crop=np.array([crop.photo, crop.scaled, crop.offset, crop.size]),
        )
        write_whole(self.file(index), stream.getvalue())

    def drop_damaged(self, index: int, raw: Path) -> None:
        """Let go of a photograph that cannot be read, or whose raw map is not as large as the photograph."""
        with suppress(OSError, ValueError):
            if raw.stat().st_size >= 4 * prod(self[index].crop.photo):
                return
        self.file(index).unlink(missing_ok=True)


def name_maps(dataset: str, samples: Sequence[Sample]) -> list[Path]:
    """``<dataset>/test/<kind>/<stem>.tiff``, where the evaluation script of MVTec AD looks for a photograph's map.

    A second photograph of the same name has its place in the list added.
    """
    taken: set[Path] = set()
    names = []
    for index, sample in enumerate(samples):
        folder = Path(_plain(dataset), "test", _plain(sample.label or "unknown"))
        name = folder / f"{sample.path.stem}.tiff"
        name = folder / f"{sample.path.stem}_{index}.tiff" if name in taken else name
        taken.add(name)
        names.append(name)
    return names


def _plain(name: str) -> str:
    """A folder's name of letters, digits, spaces and what is harmless."""
    return re.sub(r"[^\w .+-]", "_", name).strip(" .") or "_"
