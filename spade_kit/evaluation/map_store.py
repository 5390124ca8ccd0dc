"""What an evaluation keeps of each photograph, in memory or one file a photograph in a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Bool, Float

from spade_kit._files import changed_at, encode_tiff, write_whole
from spade_kit.datasets.samples import Sample
from spade_kit.features.crops import Crop

_DAMAGED = (BadZipFile, EOFError, KeyError, OSError, TypeError, ValueError)  # what a file's reader may raise
Row: TypeAlias = "dict[str, Any]"


@dataclass(frozen=True, eq=False)
class Judged:
    """The map of one photograph and the truth, if that is known, both on the evaluated crop; and where that lies."""

    anomaly_map: Float[np.ndarray, "H W"]
    mask: Bool[np.ndarray, "H W"] | None
    crop: Crop


class Shelf(Sequence["Judged | None"]):
    """Judged photographs in a folder, each read when it is asked for; None where one could not be judged.

    ``paths`` are those of the photographs, None where one was not judged.
    """

    def __init__(self, folder: Path, paths: Sequence[str | None]) -> None:
        self.folder, self._paths = folder, list(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        if self._paths[at] is None:
            return None
        file = self._file(at)
        try:
            row, judged = _unpack(file)
            if row["path"] != self._paths[at]:
                raise ValueError(f"it is of {row['path']}, not of {self._paths[at]}")
            return judged
        except _DAMAGED as problem:
            raise ValueError(
                f"{file} is damaged or gone ({problem}). Call evaluate(..., folder=...) again: it is judged anew."
            ) from problem

    def _file(self, index: int) -> Path:
        return self.folder / "photos" / f"{index:05d}.npz"

    def put(self, index: int, row: Row, judged: Judged | None) -> None:
        """Keep a photograph; of one that could not be judged, let go of what was kept."""
        if judged is None:
            self._file(index).unlink(missing_ok=True)
            return
        crop = judged.crop
        arrays: dict[str, Any] = {
            "row": np.array(json.dumps(row)),
            "map": judged.anomaly_map,
            "mask": np.empty(0, bool) if judged.mask is None else judged.mask,
            "crop": np.array([crop.photo, crop.scaled, crop.offset, crop.size]),
        }
        stream = BytesIO()
        np.savez(stream, **arrays)
        write_whole(self._file(index), stream.getvalue())

    def put_map(self, path: Path, judged: Judged) -> None:
        """A raw map at the photo's own size, 0 where it was not judged (a distance is at least 0)."""
        on_photo = np.nan_to_num(judged.crop.put_back(judged.anomaly_map), nan=0.0)
        write_whole(self.folder / "maps" / path, encode_tiff(on_photo))

    def find(self, index: int, sample: Sample, place: Path) -> tuple[Row, Judged] | None:
        """What is kept of a photograph, if that is this one as it is now, and its raw map is there, too."""
        file = self._file(index)
        if not file.is_file():
            return None
        try:
            row, judged = _unpack(file)
        except _DAMAGED:
            return None
        if (row["path"], row["label"]) != (str(sample.path), sample.label):
            return None
        sources = [path for path in (sample.path, sample.mask_path) if path is not None and path.exists()]
        height, width = judged.crop.photo
        raw = self.folder / "maps" / place
        if not raw.is_file() or raw.stat().st_size < 4 * height * width:
            return None
        changed = max(map(changed_at, sources), default=0)
        return (row, judged) if changed <= file.stat().st_mtime else None


def _unpack(file: Path) -> tuple[Row, Judged]:
    with np.load(BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
        crop = Crop(*(tuple(pair) for pair in arrays["crop"].tolist()))
        mask = arrays["mask"]
        return json.loads(str(arrays["row"])), Judged(arrays["map"], mask if mask.size else None, crop)


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
