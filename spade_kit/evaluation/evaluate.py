"""A whole dataset judged: a row a photograph, and how well normal and anomalous are told apart."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas

from spade_kit._arguments import warn
from spade_kit._files import claim, describe_run
from spade_kit._progress import track
from spade_kit.datasets.samples import GOOD, Dataset, Sample
from spade_kit.evaluation.map_store import Judged, Row, Shelf, name_maps
from spade_kit.evaluation.report import FORMAT, TABLE, Report, judged_paths
from spade_kit.scores import mean_of_top, share_out

if TYPE_CHECKING:
    from spade_kit.result import Result
    from spade_kit.spade import SPADE


def evaluate(spade: SPADE, dataset: Dataset | Sequence[Sample], folder: str | Path | None = None) -> Report:
    """Judge all test photographs of a dataset, and hold the scores against what is known of them.

    A photograph that cannot be read is a row with its reason, and one warning counts them. Photographs that were
    fitted are judged against the others. Nothing is left out in turn, and no interval is computed, before it is asked
    for.

    Parameters
    ----------
    folder
        Where to keep everything. Interrupted, a second call goes on where it was, and `Report.load` reads it later. In
        ``maps`` raw distances lie as float32 TIFF at the photo's own size, 0 where it was not judged, under the names
        that MVTec AD's evaluation script expects: ``<dataset>/test/<kind>/<photo>.tiff``. Maps then stay on disk; if
        left out, they are held in memory, 0.2 MB each at 224 px, since exact metrics need every value.

    Raises
    ------
    ValueError
        If there is nothing to judge, or the folder holds another fit, other options or another dataset.
    OSError
        If something cannot be written; what was written before is whole.
    """
    samples = list(dataset.test if isinstance(dataset, Dataset) else dataset)
    if not all(isinstance(sample, Sample) for sample in samples):
        raise ValueError(
            "evaluate takes a Dataset or a list of Samples, which say what is known of a photo, but others came. "
            "load_dataset gives a Dataset; Sample(path, label) makes one of a path."
        )
    if not samples:
        raise ValueError(
            "evaluate needs photos to judge, but none came. A dataset of normals alone has no test photos."
        )
    name = dataset.name if isinstance(dataset, Dataset) else f"{len(samples)} photos"
    run = describe_run(spade) | {"dataset": name, "report": FORMAT}
    shelf = None if folder is None else Shelf(Path(folder).expanduser(), [str(sample.path) for sample in samples])
    if shelf is not None:
        claim(shelf.folder, run)
        (shelf.folder / TABLE).unlink(missing_ok=True)  # of a run that was complete: now it is not
    rows: list[Row] = []
    kept: list[Judged | None] = []
    emptied = 0
    with track(total=len(samples), desc="photos") as progress:
        for index, (sample, place) in enumerate(zip(samples, name_maps(name, samples))):
            found = shelf and shelf.find(index, sample, place)
            row, judged = found or _judge(spade, sample)
            if shelf is not None and found is None:
                if judged is not None:
                    shelf.put_map(place, judged)  # first: what has its file on the shelf is done
                shelf.put(index, row, judged)
            emptied += _is_emptied(sample, judged)
            rows.append(row)
            kept.append(None if shelf is not None else judged)
            progress.update()
    frame = pandas.DataFrame(rows, columns=_columns(spade))
    _say_what_is_lost(name, frame, emptied)
    if shelf is None:
        return Report(name, run, frame, kept)
    report = Report(name, run, frame, Shelf(shelf.folder, judged_paths(frame)))
    report.save(shelf.folder)
    return report


def _judge(spade: SPADE, sample: Sample) -> tuple[Row, Judged | None]:
    start = time.perf_counter()
    row: Row = {"path": str(sample.path), "label": sample.label}
    try:
        result = spade._predict(sample, leave_out=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of masks that the crop empties: they are counted
            mask = result.mask
    except (ValueError, OSError) as problem:
        return row | {"seconds": time.perf_counter() - start, "reason": str(problem)}, None
    row |= describe_scores(result)
    return row | {"seconds": time.perf_counter() - start}, Judged(result.anomaly_map, mask, result.crop)


def _is_emptied(sample: Sample, judged: Judged | None) -> bool:
    """Whether the crop has lost a defect."""
    mask = None if judged is None else judged.mask
    return mask is not None and sample.label not in (GOOD, None) and not mask.any()


def _say_what_is_lost(name: str, frame: pandas.DataFrame, emptied: int) -> None:
    lost = int(frame["image_score"].isna().sum())
    if lost == len(frame):
        raise ValueError(f"None of the {lost} photos of {name} could be judged. {frame['reason'][0]}")
    if emptied:
        warn(
            f"Of {emptied} defects of {name} nothing is left on the evaluated crop: their pixels count as normal. "
            "Take load_backbone(..., crop=None), or a larger resize."
        )
    if lost:
        warn(f"{name}: {lost} of {len(frame)} were not judged, see the column reason of report.to_frame().")


def _columns(spade: SPADE) -> list[str]:
    shares = [f"share_{layer}" for layer in spade.backbone.layers]
    return ["path", "label", "image_score", "top_score", "retrieval_score", *shares, "seconds", "reason"]


def describe_scores(result: Result) -> dict[str, float]:
    """Scores, and what part of all distances each layer has."""
    parts = share_out(result.correspondence).reshape(len(result.query.layers), -1).sum(1)
    shares = parts / max(parts.sum(), 1e-30)
    return {
        "image_score": result.image_score,
        "top_score": mean_of_top(result.anomaly_map),
        "retrieval_score": result.retrieval_score,
        **{f"share_{layer}": float(part) for layer, part in zip(result.query.layers, shares)},
    }
