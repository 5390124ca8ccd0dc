"""Judge a whole dataset: one row per image, and how well the scores separate normal from anomalous."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from spade_kit._arguments import warn
from spade_kit._files import Item, Row, RunFolder, as_folder, as_text, encode_tiff, write_whole
from spade_kit._work import crew, track
from spade_kit.batch import PIXEL_FPR, choose_rate, explain, judge_all, judge_on
from spade_kit.datasets.samples import GOOD, Dataset, Sample, absolute, as_list
from spade_kit.evaluation.map_store import Judged, MapStore, name_maps, write_judged
from spade_kit.evaluation.page import NOT_JUDGED, PAGE, write_page
from spade_kit.evaluation.report import FORMAT, TABLE, Report, check_table, write_table
from spade_kit.result import Result
from spade_kit.scores import score_image, share_out
from spade_kit.spade import SPADE

_EXAMINED = 1000  # normal images that are judged against the others in seconds


def evaluate(
    spade: SPADE,
    dataset: Dataset | Sequence[Sample],
    folder: str | Path | None = None,
    *,
    jobs: int = 1,
    client: Any = None,
) -> Report:
    """Judge all test images of a dataset, and compare the scores with the labels and masks.

    An unreadable image becomes a row with the reason, and a single warning counts such images. Images that were fitted
    are judged against the others. Leave-one-out maps and confidence intervals are computed only on request; with a
    folder, those maps of up to 1,000 normal images are, too, for `Report.advice` and ``report.html``.

    Parameters
    ----------
    folder
        Where to save everything. After an interruption, a second call resumes; `Report.load` reads the folder later.
        ``maps`` holds raw distances as float32 TIFF at the image's original size, 0 outside the evaluated crop, under
        the names that MVTec AD's evaluation script expects: ``<dataset>/test/<kind>/<photo>.tiff``. ``report.html`` is
        a page for a browser: what was found, missed and called anomalous by mistake at a threshold from normal images,
        with pictures of the most anomalous; it needs 2 to 1,000 normal images. Maps then stay on disk;
        without a folder, they are kept in memory, 0.2 MB each at 224 px, because exact metrics need every value.
    jobs, client
        Processes, or a client whose workers share the work, as in `SPADE.predict_folder`; they need a ``folder``.

    Raises
    ------
    ValueError
        If there is nothing to judge, or the folder holds another fit, other options or another dataset, or is being
        written by another run.
    OSError
        If a file cannot be written; the files written before are complete.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> spade = spade_kit.SPADE(k=5).fit(parts.train[:12])
    >>> report = spade_kit.evaluate(spade, parts.test[:12])  # chipped and good parts
    >>> report.metric("image_roc_auc") > 0.8
    True
    """
    spade = spade.under(spade.options)  # a copy: other threads may change the gallery
    samples: list[Any] = list(dataset.test if isinstance(dataset, Dataset) else as_list(dataset))
    if not all(isinstance(sample, Sample) for sample in samples):
        raise ValueError(
            "evaluate takes a Dataset or a list of Samples, which hold an image's label; got other types. "
            "Call load_dataset for a Dataset, or make Samples with Sample(path, label)."
        )
    if not samples:
        raise ValueError(
            "evaluate needs images to judge; got none. Pass a dataset that has test images, not only normal ones."
        )
    name = dataset.name if isinstance(dataset, Dataset) else f"{len(samples)} photos"
    manifest = spade.describe_run() | {"dataset": name, "report": FORMAT}
    shares = [f"share_{label}" for label in spade.backbone.labels.values()]
    scores = ["image_score", "top_score", "retrieval_score", *shares, "judged", "squash", "seconds"]
    columns = {"path": str, "label": str, **dict.fromkeys(scores, float), "reason": str}
    if folder is None:
        if jobs != 1 or client is not None:
            raise ValueError("With jobs or a client, evaluate needs a folder for what the workers write. Pass folder=.")
        found = track(zip(samples, judge_all(spade, samples)), total=len(samples), desc="images")
        rows, kept = zip(*(_describe(sample, *judged) for sample, judged in found))
        frame = pandas.DataFrame(rows, columns=list(columns))
        return _conclude(Report(name, manifest, frame, kept, spade), samples, spade)
    places = ("maps", "photos", TABLE, PAGE)
    run = RunFolder(as_folder("folder", folder).absolute(), "photos.csv", {"photo": int, **columns}, places)
    with crew(jobs, client) as workers, run.claim(manifest):
        check_table(run.folder, columns)
        for complete in (TABLE, PAGE):  # left by a complete run, which is now incomplete
            with suppress(OSError):
                (run.folder / complete).unlink()
        store = MapStore(run.folder, [as_text(sample.path) for sample in samples])
        frame = pandas.DataFrame(_judge_into(run, store, spade, name, samples, workers), columns=list(columns))
        report = _conclude(Report(name, manifest, frame, store, spade), samples, spade)
        if len(spade) <= _EXAMINED:
            report.advice()  # so that its facts are saved
        write_table(run.folder, frame)
        if spade.gallery.comparable and len(spade) <= _EXAMINED:
            _write_page(run, spade, report, samples)
    return report


def _write_page(run: RunFolder, spade: SPADE, report: Report, samples: Sequence[Sample]) -> None:
    """Write ``report.html``, with the thresholds of `predict_folder`."""
    frame, rate, threshold = report.to_frame(), choose_rate(report.facts["normals"]), report.facts["threshold"]
    outline, _ = spade.calibration.examine_threshold(spade.options, PIXEL_FPR, "pixel")
    frame["path"] = [as_text(Path(*sample.path.parts[-2:])) for sample in samples]
    frame["kind"] = [_name_kind(sample) for sample in samples]
    frame["verdict"] = [_name_verdict(*pair, threshold) for pair in zip(frame["image_score"], frame["kind"])]
    done = frame.dropna(subset="judged")
    covered = spade.gallery.cropping.describe_coverage(*(done[name].tolist() for name in ("path", "judged", "squash")))
    told = report.run | {"rate": rate, "threshold": threshold, "pixel_rate": PIXEL_FPR, "pixel_threshold": outline}
    remarks = [_compare(frame, report.metric_or_nan("image_roc_auc")), covered, *report.advice()]
    write_page(run.folder, spade, frame, samples, told, run.table, remarks)


def _name_kind(sample: Sample) -> str:
    return "unlabelled" if sample.label is None else "good" if sample.label == GOOD else "defective"


def _name_verdict(score: float, kind: str, threshold: float) -> str:
    if np.isnan(score):
        return NOT_JUDGED
    if score >= threshold:
        return {"good": "false alarm", "defective": "found"}.get(kind, "anomalous")
    return "missed" if kind == "defective" else "normal"


def _compare(frame: pandas.DataFrame, auroc: float) -> str:
    """The verdicts on labelled images in a sentence, empty if there are none."""
    counts = frame[frame["verdict"] != NOT_JUDGED].groupby("kind")["verdict"].value_counts()
    told = [
        f"{counts.get((kind, verdict), 0)} of {counts[kind].sum()} {kind} images are {said}"
        for kind, verdict, said in (("defective", "found", "found"), ("good", "false alarm", "false alarms"))
        if kind in counts
    ]
    area = "" if np.isnan(auroc) else f" The area under the ROC curve of the image scores (AUROC) is {auroc:.3f}."
    return f"By their labels, {' and '.join(told)}.{area}" if told else ""


def _judge_into(
    run: RunFolder, store: MapStore, spade: SPADE, dataset: str, samples: Sequence[Sample], workers: Any
) -> list[Row]:
    """Rows of all images; for those not yet done, maps and rows are written one by one."""
    items, given = list[Item](), list[Any](map(absolute, samples))  # workers may have another working directory
    for at, (sample, place) in enumerate(zip(samples, name_maps(dataset, samples))):
        files = [store.file(at), run.folder / "maps" / place]
        store.drop_damaged(at, files[1])
        sources = [given[at].path, *given[at].mask_parts]
        items.append(Item({"photo": at, "path": as_text(sample.path), "label": sample.label or None}, sources, files))

    judge = judge_on(workers, spade, run.folder, _finish)
    return run.resume(items, lambda some: judge([(item, given[item.name["photo"]]) for item in some]))


def _finish(item: Item, sample: Sample, found: Result | Exception, seconds: float) -> Row:
    """Write the files of a result."""
    row, judged = _describe(sample, found, seconds)
    if judged is not None:
        stored, raw = item.files
        write_whole(raw, encode_tiff(judged.crop.put_back(judged.anomaly_map)))
        write_judged(stored, item.name["path"], judged)
    return row


def _describe(sample: Sample, found: Result | Exception, seconds: float) -> tuple[Row, Judged | None]:
    """The row of an image, and what is kept of its result."""
    row: Row = {"path": as_text(sample.path), "label": sample.label, "seconds": seconds}
    try:
        if isinstance(found, Exception):
            raise found
        judged = Judged.of(found)
    except (ValueError, OSError, MemoryError) as problem:
        return row | {"reason": explain(problem)}, None
    how = {"judged": round(found.crop.judged, 4), "squash": round(found.crop.squash, 4)}
    return row | describe_scores(found) | how, judged


def _has_no_defect(judged: Judged | None) -> bool:
    return judged is not None and judged.mask is not None and not judged.mask[judged.crop.looked_at].any()


def _conclude(report: Report, samples: Sequence[Sample], spade: SPADE) -> Report:
    """Warn about images that were not judged or were squashed and defects outside the crop; return the report."""
    scores = report.to_frame()["image_score"]
    lost = int(scores.isna().sum())
    if lost == len(scores):
        reason = report.to_frame()["reason"][0]
        raise ValueError(f"None of the {lost} images of {report.name} could be judged. {reason}")
    defects = [at for at, sample in enumerate(samples) if sample.label not in (GOOD, None)]
    emptied = [samples[at] for at in defects if _has_no_defect(report.judged(at))]
    blank = [sample.path.name for sample in emptied if sample.mask is not None and not sample.mask.any()]
    if blank:
        warn(
            f"{len(blank)} defects of {report.name} have an empty mask, such as that of {blank[0]}: all pixels of "
            "their maps count as normal. Check these masks, or remove them."
        )
    report.facts["outside"] = len(emptied) - len(blank)
    if len(emptied) > len(blank):
        warn(
            f"{len(emptied) - len(blank)} defects of {report.name} lie outside the evaluated crop or roi: no pixel of "
            "their maps counts as a defect. Use load_backbone(..., crop=None), a larger resize, or a larger roi."
        )
    names, squash = [as_text(sample.path.name) for sample in samples], report.to_frame()["squash"]
    judged = (report.judged(at) if change > 1 else None for at, change in enumerate(squash))
    if told := spade.gallery.describe_squash(names, [one.crop if one else None for one in judged]):
        warn(told)
    if lost:
        warn(f"{report.name}: {lost} of {len(scores)} were not judged. See the column reason of report.to_frame().")
    return report


def describe_scores(result: Result) -> dict[str, float]:
    """Scores, and each layer's fraction of the sum of all distances."""
    parts = share_out(result.correspondence).reshape(len(result.query.layers), -1).sum(1)
    shares, labels = parts / max(parts.sum(), 1e-30), result.spade.backbone.labels
    return {
        "image_score": result.image_score,
        "top_score": score_image(result.anomaly_map, None, "top", result.roi),
        "retrieval_score": result.retrieval_score,
        **{f"share_{labels[layer]}": float(part) for layer, part in zip(result.query.layers, shares)},
    }
