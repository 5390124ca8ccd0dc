"""What an evaluation found: metrics, how sure they are, curves, and a folder to keep it in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from io import BytesIO
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from spade_kit._arguments import check_count, check_index, choose
from spade_kit._files import RunFolder, read_manifest, write_whole
from spade_kit.datasets.samples import GOOD
from spade_kit.evaluation import metrics
from spade_kit.evaluation.bootstrap import BINNED, PixelCounts, bootstrap
from spade_kit.evaluation.map_store import Judged, MapStore
from spade_kit.scores import check_threshold

FORMAT = 1  # of what `Report.save` writes
TABLE = "photos.parquet"

_Curve = tuple[str, np.ndarray, np.ndarray, np.ndarray]  # its name, x, y, threshold
_Scored = tuple[Callable[[np.ndarray, np.ndarray], float], str]
OF_IMAGES: dict[str, _Scored] = {  # and the score that is held against the labels
    "image_roc_auc": (metrics.roc_auc, "image_score"),
    "image_average_precision": (metrics.average_precision, "image_score"),
    "image_f1_max": (metrics.f1_max, "image_score"),
    "top_roc_auc": (metrics.roc_auc, "top_score"),
    "retrieval_roc_auc": (metrics.roc_auc, "retrieval_score"),
}
OF_PIXELS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "pixel_roc_auc": metrics.pixel_roc_auc,
    "pixel_average_precision": metrics.pixel_average_precision,
    "pixel_f1_max": metrics.pixel_f1_max,
    "aupro": metrics.aupro,
    "aupro_05": partial(metrics.aupro, fpr_limit=0.05),
}


METRICS = (*OF_IMAGES, *OF_PIXELS)


@dataclass(frozen=True, eq=False)
class Report:
    """What `evaluate` found.

    Attributes
    ----------
    name
        Of the dataset.
    run
        What the figures depend on: backbone with a hash of its weights, crop, options, a hash of the normal
        photographs, versions.
    """

    name: str
    run: dict[str, Any] = field(repr=False)
    _frame: pandas.DataFrame = field(repr=False)
    _judged: Sequence[Judged | None] = field(repr=False)

    def to_frame(self) -> pandas.DataFrame:
        """A row a photograph: path, label, scores, each layer's share of all distances, seconds, and why not judged.

        ``image_score`` is the maximum of the map, ``top_score`` the mean of its highest hundredth, ``retrieval_score``
        the paper's, the mean distance of the retrieved normal images.
        """
        return self._frame.copy()

    def judged(self, index: int) -> Judged | None:
        """The map, the truth and the crop of the photograph in a row of the table; None if it was not judged."""
        at = check_index("index", index, len(self._frame), "row")
        return None if np.isnan(self._frame["image_score"][at]) else self._judged[at]

    @property
    def options(self) -> str:
        """Of the SPADE that judged, in small print."""
        return self.run["options"]

    def metric(self, name: str, kinds: Sequence[str] | None = None) -> float:
        """One of ``image_roc_auc, image_average_precision, image_f1_max``, of the image scores; ``top_roc_auc`` and
        ``retrieval_roc_auc``, of the other two scores; ``pixel_roc_auc, pixel_average_precision, pixel_f1_max, aupro,
        aupro_05`` (AUPRO up to a false-positive rate of 0.3 and 0.05), of the maps where the truth is known.

        Parameters
        ----------
        kinds
            Of which defects, beside all good photographs; if left out, of all.

        Raises
        ------
        ValueError
            If there is nothing to compare, such as no photograph with a known defect.
        """
        if self._is_of_images(name):
            return OF_IMAGES[name][0](*self._scores(name, kinds)[:2])
        return OF_PIXELS[name](*self._pixels(name, kinds)[:2])

    def interval(
        self, name: str, kinds: Sequence[str] | None = None, *, level: float = 0.95, draws: int = 200, seed: int = 0
    ) -> tuple[float, float]:
        """Between which values a metric lies: bootstrap over photographs, of each kind as many as there are.

        Metrics of pixels are taken on 1,024 quantile bins here, within a few thousandths of `metric`.

        Parameters
        ----------
        name, kinds
            As of `metric`.
        level
            The part of all draws that the interval holds.
        """
        if self._is_of_images(name):
            metric, (scores, bad, strata) = OF_IMAGES[name][0], self._scores(name, kinds)
            metric(scores, bad)  # says what is missing

            def repeat(drawn: np.ndarray) -> float:
                return metric(np.repeat(scores, drawn), np.repeat(bad, drawn))
        else:
            maps, masks, strata = self._pixels(name, kinds)
            if masks.all() or not masks.any():
                OF_PIXELS[name](maps, masks)  # says what is missing; else it would sort all pixels for nothing
            repeat = partial(BINNED[name], PixelCounts.of(maps, masks))
        return bootstrap(repeat, strata, level, draws, seed)

    def _is_of_images(self, name: str) -> bool:
        return choose("A metric", name, METRICS) in OF_IMAGES

    def _rows(self, kinds: Sequence[str] | None) -> pandas.DataFrame:
        """Rows with a score and a label, of some kinds and all good ones."""
        labels = self._frame["label"]
        wanted = self._frame["image_score"].notna() & labels.notna()
        if kinds is not None:
            if isinstance(kinds, str) or not len(kinds):
                raise ValueError(f"kinds is a list of kinds of defects among {self._kinds}, but {kinds!r} came.")
            for kind in kinds:
                choose("A kind", kind, self._kinds)
            wanted &= labels.isin([GOOD, *kinds])
        return self._frame[wanted]

    def _scores(self, name: str, kinds: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """The scores that a metric of images takes, which are of defects, and the labels."""
        rows = self._rows(kinds)
        labels = rows["label"]
        return rows[OF_IMAGES[name][1]].to_numpy(float), (labels != GOOD).to_numpy(bool), labels.tolist()

    def _pixels(self, name: str, kinds: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Maps, masks and labels of photographs whose truth is known."""
        rows = self._rows(kinds)
        known = [
            (judged.anomaly_map, judged.mask, label)
            for at, label in zip(rows.index, rows["label"])
            if (judged := self._judged[at]) is not None and judged.mask is not None
        ]
        if not known:
            raise ValueError(
                f"{name} needs photos with masks, but of {self.name} none has one. Take one of {list(OF_IMAGES)}."
            )
        maps, masks, labels = zip(*known)
        if len({values.shape for values in maps}) > 1:
            raise ValueError(f"{name} needs maps of one size. Take a backbone with crop=224, or photos of one aspect.")
        return np.stack(maps), np.stack(masks), list(labels)

    def summary(self) -> pandas.DataFrame:
        """All metrics of all defects, and of each kind against all good photographs; NaN where they mean nothing."""
        labels, kinds = self._frame["label"], self._kinds
        rows = {"all": None} | {kind: [kind] for kind in kinds if len(kinds) > 1}
        table = {
            row: {"photos": int(labels.isin(only).sum()) if only else len(labels)}
            | {name: self.metric_or_nan(name, only) for name in METRICS}
            for row, only in rows.items()
        }
        return pandas.DataFrame.from_dict(table, orient="index")

    @property
    def _kinds(self) -> list[str]:
        """Of defects."""
        return sorted(set(self._frame["label"].dropna()) - {GOOD})

    def metric_or_nan(self, name: str, kinds: Sequence[str] | None = None) -> float:
        """`metric`, NaN where there is nothing to compare."""
        try:
            return self.metric(name, kinds)
        except ValueError:
            return float("nan")

    def rates(self, threshold: float, of: str = "pixel") -> dict[str, float]:
        """What is found at a threshold, such as ``spade.threshold()``, and what is found wrongly.

        Parameters
        ----------
        of
            ``"pixel"``: of all pixels where the truth is known. ``"image"``: of the image scores.

        Returns
        -------
        dict
            ``false_positive_rate``, ``recall``, ``precision`` (NaN where nothing is found), and of pixels ``overlap``,
            the mean over all defect regions of the part that is found.
        """
        threshold = check_threshold(threshold)
        if choose("of", of, ("pixel", "image")) == "image":
            scores, bad, _ = self._scores("image_roc_auc", None)
            return _rate(scores >= threshold, bad)
        maps, masks, _ = self._pixels("A rate of pixels", None)
        weights, regions = metrics.weigh_regions(masks)
        found = maps >= threshold
        return _rate(found, masks) | {"overlap": float(weights[found].sum() / max(regions.sum(), 1))}

    def curves(self, points: int = 200) -> pandas.DataFrame:
        """ROC and precision-recall curves of images and of pixels, and the PRO curve: what lies behind the areas.

        Parameters
        ----------
        points
            The most that a curve may have, spread evenly along it.

        Returns
        -------
        pandas.DataFrame
            Tidy: ``curve`` (``"roc"``, ``"pr"``, ``"pro"``), ``of`` (``"image"``, ``"pixel"``), ``x``, ``y`` and the
            ``threshold`` of each point; each point is exact. x is the false-positive rate, or the recall for
            ``"pr"``.
        """
        check_count("points", points, least=2)
        parts = []
        for of, trace in (("image", self._trace_images), ("pixel", self._trace_pixels)):
            try:
                traced = trace()
            except ValueError:  # no labels, or no masks
                continue
            parts += [_thin(x, y, threshold, points).assign(curve=curve, of=of) for curve, x, y, threshold in traced]
        if not parts:
            raise ValueError(f"A curve needs good photos and defects, but of {self.name} there are not both.")
        return pandas.concat(parts, ignore_index=True)[["curve", "of", "x", "y", "threshold"]]

    def _trace_images(self) -> list[_Curve]:
        scores, bad, _ = self._scores("image_roc_auc", None)
        falling, last = np.unique(-scores, return_inverse=True)
        false, true = (np.cumsum(np.bincount(last, of, len(falling))) for of in (~bad, bad))
        return _trace(false, true, -falling)

    def _trace_pixels(self) -> list[_Curve]:
        maps, masks, _ = self._pixels("A curve of pixels", None)
        counts = PixelCounts.of(maps, masks)
        false, true, overlap, _ = counts.curve(np.ones(len(maps), int))
        return _trace(false[1:], true[1:], counts.thresholds, overlap[1:])

    def save(self, folder: str | Path) -> None:
        """Write the report to a folder: ``run.json``, the table as ``photos.parquet``, and maps and masks, a file each.

        Raises
        ------
        ValueError
            If the folder holds another run, or one is being written there.
        """
        run = RunFolder(Path(folder).expanduser(), TABLE, {})
        with run.claim(self.run):
            store = MapStore(run.folder, self._frame["path"].tolist())
            for index in range(len(store)):
                if (judged := self.judged(index)) is not None:
                    store.put(index, judged)
            write_table(run.folder, self._frame)

    @classmethod
    def load(cls, folder: str | Path) -> Report:
        """Read what `save`, or `evaluate` with a folder, has written."""
        folder = Path(folder).expanduser()
        run = read_manifest(folder)
        if "report" not in run:
            raise FileNotFoundError(f"A report was expected in {folder}, but there is none. Take what save wrote.")
        if run["report"] != FORMAT:
            raise ValueError(
                f"Reports of format {FORMAT} are read, but {folder} holds format {run['report']}, written by spade_kit "
                f"{run.get('spade_kit')}. Read it with that version, or evaluate again."
            )
        if not (folder / TABLE).is_file():
            raise FileNotFoundError(
                f"{folder} holds an evaluation that was interrupted. Call evaluate(..., folder=...) again: it goes on "
                "from there."
            )
        try:
            frame = pandas.read_parquet(folder / TABLE)
        except (OSError, ValueError) as problem:  # pyarrow's errors are ValueErrors
            raise ValueError(
                f"{folder / TABLE} is damaged ({problem}). Call evaluate(..., folder=...) again: it is written anew."
            ) from problem
        return cls(run["dataset"], run, frame, MapStore(folder, frame["path"].tolist()))

    def _show(self) -> tuple[str, pandas.DataFrame]:
        """A heading, and the summary in three decimals."""
        heading = f"{self.name}: {len(self._frame)} photos; {self.options}"
        return heading, self.summary().dropna(axis="columns", how="all").round(3)

    def __str__(self) -> str:
        heading, table = self._show()
        return f"{heading}\n{table.to_string()}"

    def _repr_html_(self) -> str:
        heading, table = self._show()
        return f"<p>{escape(heading)}</p>{table.to_html()}"


def _rate(found: np.ndarray, bad: np.ndarray) -> dict[str, float]:
    true, false = int((found & bad).sum()), int((found & ~bad).sum())
    rates = {
        "false_positive_rate": (false, (~bad).sum()),
        "recall": (true, bad.sum()),
        "precision": (true, found.sum()),
    }
    return {name: float(part / whole) if whole else float("nan") for name, (part, whole) in rates.items()}


def _trace(
    false: np.ndarray, true: np.ndarray, threshold: np.ndarray, overlap: np.ndarray | None = None
) -> list[_Curve]:
    """Curves from counts of false and true positives at falling thresholds; the last holds everything."""
    if not len(false) or not false[-1] or not true[-1]:
        raise ValueError("A curve needs normal and anomalous ones.")
    x, top = np.append(0, false / false[-1]), np.append(inf, threshold)
    curves = [("roc", x, np.append(0, true / true[-1]), top), ("pr", true / true[-1], true / (true + false), threshold)]
    return curves if overlap is None else [*curves, ("pro", x, np.append(0, overlap), top)]


def _thin(x: np.ndarray, y: np.ndarray, threshold: np.ndarray, points: int) -> pandas.DataFrame:
    """At most so many points of a curve, evenly along its way, with both ends."""
    way = np.append(0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    kept = np.unique(np.searchsorted(way, np.linspace(0, way[-1], points)).clip(0, len(x) - 1))
    kept = np.arange(len(x)) if len(x) <= points else kept
    return pandas.DataFrame({"x": x[kept], "y": y[kept], "threshold": threshold[kept]})


def write_table(folder: Path, frame: pandas.DataFrame) -> None:
    """The last of a report's files: with it, the report is complete."""
    table = BytesIO()
    frame.to_parquet(table)
    write_whole(folder / TABLE, table.getvalue())
