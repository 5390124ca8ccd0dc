"""The report of an evaluation: metrics with confidence intervals, curves, and saving to a folder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from html import escape
from io import BytesIO
from math import inf
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas

from spade_kit._arguments import check_count, check_index, choose
from spade_kit._files import RunFolder, as_folder, as_text, read_manifest, write_whole
from spade_kit.datasets.samples import GOOD
from spade_kit.evaluation import metrics
from spade_kit.evaluation.advice import advise, examine
from spade_kit.evaluation.bootstrap import BINNED, PixelCounts, bootstrap
from spade_kit.evaluation.map_store import Judged, MapStore, write_judged
from spade_kit.scores import check_threshold
from spade_kit.spade import SPADE

FORMAT = 1  # version of the files that `Report.save` writes
TABLE = "photos.parquet"

Kinds: TypeAlias = Sequence[str] | None  # of defects
_Curve = tuple[str, np.ndarray, np.ndarray, np.ndarray]  # name, x, y, threshold
_Scored = tuple[Callable[[np.ndarray, np.ndarray], float], str]
OF_IMAGES: dict[str, _Scored] = {  # the metric, and the score that is compared with the labels
    "image_roc_auc": (metrics.roc_auc, "image_score"),
    "image_average_precision": (metrics.average_precision, "image_score"),
    "image_f1_max": (metrics.f1_max, "image_score"),
    "top_roc_auc": (metrics.roc_auc, "top_score"),
    "retrieval_roc_auc": (metrics.roc_auc, "retrieval_score"),
}
OF_PIXELS: dict[str, Callable[..., float]] = {
    "pixel_roc_auc": metrics.pixel_roc_auc,
    "pixel_average_precision": metrics.pixel_average_precision,
    "pixel_f1_max": metrics.pixel_f1_max,
    "aupro": metrics.aupro,
    "aupro_05": partial(metrics.aupro, fpr_limit=0.05),
}


METRICS = (*OF_IMAGES, *OF_PIXELS)


@dataclass(frozen=True, eq=False)
class Report:
    """The result of `evaluate`.

    Attributes
    ----------
    name
        Name of the dataset.
    run
        The run manifest: backbone with a hash of its weights, crop, options, a hash of the normal images, versions.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> spade = spade_kit.SPADE(k=5).fit(parts.train[:12])
    >>> report = spade_kit.evaluate(spade, parts.test[:12])
    >>> low, high = report.interval("aupro")
    >>> 0 < low < report.metric("aupro") < high < 1
    True
    """

    name: str
    run: dict[str, Any] = field(repr=False)
    _frame: pandas.DataFrame = field(repr=False)
    _judged: Sequence[Judged | None] = field(repr=False)
    _spade: SPADE | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_spade": None}  # a fit cannot be pickled

    def to_frame(self) -> pandas.DataFrame:
        """One row per image: path, label, scores, each layer's share of all distances, seconds of a core, reason.

        ``image_score`` is `Result.image_score`, ``top_score`` the mean of the highest 1 % of the map, and
        ``retrieval_score`` the paper's score, the mean distance to the retrieved normal images.
        """
        return self._frame.copy()

    def judged(self, index: int) -> Judged | None:
        """The map, mask and crop of the image in a row of the table; None if it was not judged."""
        at = check_index("index", index, len(self._frame), "row")
        return None if np.isnan(self._frame["image_score"][at]) else self._judged[at]

    @property
    def facts(self) -> dict[str, Any]:
        """What `advice` needs to know of the fit, once it is known; kept with the table."""
        return self._frame.attrs

    def advice(self) -> list[str]:
        """What to change next: at most five remarks, the most important first, each with the figure it rests on.

        The threshold for images, as `SPADE.predict_folder` takes it, rests on one normal image; defects lie outside the
        evaluated crop; images were squashed; missed defects are narrower than a cell of the grid (the width is that of
        the mask where it is widest); there are too few normal images for that false-alarm rate. Empty if there is none
        of it. The first call judges each normal image against the others, as `SPADE.threshold` does.
        """
        if self._spade is not None and "normals" not in self.facts:
            self.facts.update(examine(self._spade))
        return advise(self._frame, self.judged, self.facts)

    @property
    def options(self) -> str:
        """The options of the SPADE that judged the images, as one line of text."""
        return self.run["options"]

    def metric(self, name: str, kinds: Kinds = None) -> float:
        """Compute a metric: ``image_roc_auc, image_average_precision, image_f1_max`` from the image scores;
        ``top_roc_auc`` and ``retrieval_roc_auc`` from the other two scores; ``pixel_roc_auc,
        pixel_average_precision, pixel_f1_max, aupro, aupro_05`` (AUPRO up to a false-positive rate of 0.3 and 0.05)
        from the judged maps of images with known ground truth.

        Parameters
        ----------
        kinds
            The kinds of defects to include, together with all good images; by default all kinds.

        Raises
        ------
        ValueError
            If there is nothing to compare, such as no image with a known defect.
        """
        if self._is_of_images(name):
            return OF_IMAGES[name][0](*self._scores(name, kinds)[:2])
        maps, masks, rois, _ = self._pixels(name, kinds)
        return OF_PIXELS[name](maps, masks, rois=rois)

    def interval(
        self, name: str, kinds: Kinds = None, *, level: float = 0.95, draws: int = 200, seed: int = 0
    ) -> tuple[float, float]:
        """Confidence interval of a metric: bootstrap over images, with the same number of images per kind in each draw.

        Pixel metrics are computed here on 1,024 quantile bins and differ from `metric` by at most a few thousandths.

        Parameters
        ----------
        name, kinds
            As in `metric`.
        level
            The fraction of draws inside the interval.
        """
        repeat, labels, _ = self._resample(name, kinds)
        return bootstrap(repeat, labels, level, draws, seed)

    def compare(
        self, other: Report, name: str, kinds: Kinds = None, *, level: float = 0.95, draws: int = 200, seed: int = 0
    ) -> tuple[float, float, float]:
        """How much higher a metric is than in another report of the same images, and the confidence interval of that.

        Each draw takes the same images for both reports, so what is hard for both does not widen the interval. If it
        includes 0, these images do not show which one is better. Parameters are those of `interval`.

        Raises
        ------
        ValueError
            If the reports are not of the same images with the same labels.
        """
        (after, *images), (before, *others) = (report._resample(name, kinds) for report in (self, other))
        if images != others:
            raise ValueError(
                "compare needs two reports of the same images with the same labels, in one order; got others. Evaluate "
                "both on one dataset."
            )
        interval = bootstrap(lambda drawn: after(drawn) - before(drawn), images[0], level, draws, seed)
        return self.metric(name, kinds) - other.metric(name, kinds), *interval

    def _resample(self, name: str, kinds: Kinds) -> tuple[Callable[[np.ndarray], float], list[str], list[str]]:
        """A metric, given the number of times that each image was drawn, and the labels and paths of the images."""
        paths = self._rows(kinds)["path"].tolist()
        if self._is_of_images(name):
            metric, (scores, bad, labels) = OF_IMAGES[name][0], self._scores(name, kinds)
            metric(scores, bad)  # raises if labels are missing
            return lambda drawn: metric(np.repeat(scores, drawn), np.repeat(bad, drawn)), labels, paths
        maps, masks, rois, labels = self._pixels(name, kinds)
        if masks[slice(None) if rois is None else rois].all() or not masks.any():
            OF_PIXELS[name](maps, masks, rois=rois)  # raises; not called otherwise, because it sorts all pixels
        return partial(BINNED[name], PixelCounts.of(maps, masks, rois)), labels, paths

    def _is_of_images(self, name: str) -> bool:
        return choose("A metric", name, METRICS) in OF_IMAGES

    def _rows(self, kinds: Kinds) -> pandas.DataFrame:
        """Rows with a score and a label, of the given kinds and all good images."""
        labels = self._frame["label"]
        wanted = self._frame["image_score"].notna() & labels.notna()
        if kinds is not None:
            if isinstance(kinds, str) or not isinstance(kinds, Collection) or not len(kinds):
                raise ValueError(f"kinds must be a list of kinds of defects among {self._kinds}; got {kinds!r}.")
            for kind in kinds:
                choose("A kind", kind, self._kinds)
            wanted &= labels.isin([GOOD, *kinds])
        return self._frame[wanted]

    def _scores(self, name: str, kinds: Kinds) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """The scores for an image metric, True for each defect, and the labels."""
        rows = self._rows(kinds)
        labels = rows["label"]
        return rows[OF_IMAGES[name][1]].to_numpy(float), (labels != GOOD).to_numpy(bool), labels.tolist()

    def _pixels(self, name: str, kinds: Kinds) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, list[str]]:
        """Maps, masks of what is scored, rois (None for all) and labels of images with known ground truth."""
        rows = self._rows(kinds)
        known = [
            (judged.judged_map, judged.mask, label)
            for at, label in zip(rows.index, rows["label"])
            if (judged := self._judged[at]) is not None and judged.mask is not None
        ]
        if not known:
            raise ValueError(
                f"{name} needs images with masks, but there are none in {self.name}. Use one of {list(OF_IMAGES)}."
            )
        maps, masks, labels = zip(*known)
        if len({values.shape for values in maps}) > 1:
            raise ValueError(
                f"{name} needs maps of the same size. Use a backbone with crop=224, or images of the same aspect ratio."
            )
        every, truth = np.stack(maps), np.stack(masks)
        outside = np.isnan(every)
        return every, truth & ~outside, ~outside if outside.any() else None, list(labels)

    def summary(self) -> pandas.DataFrame:
        """All metrics for all defects, and for each kind against all good images; NaN where a metric is undefined."""
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
        """The kinds of defects."""
        return sorted(set(self._frame["label"].dropna()) - {GOOD})

    def metric_or_nan(self, name: str, kinds: Kinds = None) -> float:
        """Like `metric`, but NaN if there is nothing to compare."""
        try:
            return self.metric(name, kinds)
        except ValueError:
            return float("nan")

    def rates(self, threshold: float, of: str = "pixel") -> dict[str, float]:
        """Recall, precision and false-positive rate at a threshold, such as ``spade.threshold()``.

        Parameters
        ----------
        of
            ``"pixel"``: all pixels with known ground truth. ``"image"``: the image scores.

        Returns
        -------
        dict
            ``false_positive_rate``, ``recall``, ``precision`` (NaN if nothing is found), and for pixels ``overlap``,
            the found fraction of each defect region, averaged over regions.
        """
        threshold = check_threshold(threshold)
        if choose("of", of, ("pixel", "image")) == "image":
            scores, bad, _ = self._scores("image_roc_auc", None)
            return _rate(scores >= threshold, bad)
        maps, masks, rois, _ = self._pixels("A pixel rate", None)
        weights, regions = metrics.weigh_regions(masks)
        found, inside = maps >= threshold, slice(None) if rois is None else rois
        return _rate(found[inside], masks[inside]) | {"overlap": float(weights[found].sum() / max(regions.sum(), 1))}

    def curves(self, points: int = 200) -> pandas.DataFrame:
        """ROC and precision-recall curves for images and pixels, and the PRO curve.

        Parameters
        ----------
        points
            Maximum number of points per curve, spread evenly along it.

        Returns
        -------
        pandas.DataFrame
            Tidy: ``curve`` (``"roc"``, ``"pr"``, ``"pro"``), ``of`` (``"image"``, ``"pixel"``), ``x``, ``y`` and the
            ``threshold`` of each point; each point is exact. x is the false-positive rate, or recall for ``"pr"``.
        """
        check_count("points", points, least=2)
        parts = []
        for of, trace in (("image", self._trace_images), ("pixel", self._trace_pixels)):
            with suppress(ValueError):  # no labels, or no masks
                parts += [_thin(x, y, top, points).assign(curve=curve, of=of) for curve, x, y, top in trace()]
        if not parts:
            raise ValueError(f"A curve needs good images and defects, but one of them is missing in {self.name}.")
        return pandas.concat(parts, ignore_index=True)[["curve", "of", "x", "y", "threshold"]]

    def _trace_images(self) -> list[_Curve]:
        scores, bad, _ = self._scores("image_roc_auc", None)
        falling, last = np.unique(-scores, return_inverse=True)
        false, true = (np.cumsum(np.bincount(last, of, len(falling))) for of in (~bad, bad))
        return _trace(false, true, -falling)

    def _trace_pixels(self) -> list[_Curve]:
        maps, masks, rois, _ = self._pixels("A pixel curve", None)
        if not any(mask.any() for mask in masks):
            raise ValueError(f"A pixel curve needs defects, but all masks of {self.name} are empty.")
        counts = PixelCounts.of(maps, masks, rois)
        false, true, overlap, _ = counts.curve(np.ones(len(maps), int))
        return _trace(false[1:], true[1:], counts.thresholds, overlap[1:])

    def save(self, folder: str | Path) -> None:
        """Write the report to a folder: ``run.json``, the table ``photos.parquet``, and one file per image.

        Raises
        ------
        ValueError
            If the folder holds another run, or another run is writing to it.
        """
        self.advice()  # so that its facts are saved
        run = RunFolder(as_folder("folder", folder), TABLE, {}, ("photos",))
        with run.claim(self.run):
            check_table(run.folder, self._frame.columns)
            store = MapStore(run.folder, self._frame["path"].tolist())
            for index in range(len(store)):
                if (judged := self.judged(index)) is not None:
                    write_judged(store.file(index), store.paths[index], judged)
            write_table(run.folder, self._frame)

    @classmethod
    def load(cls, folder: str | Path) -> Report:
        """Read a report written by `save` or by `evaluate` with a folder."""
        folder = as_folder("folder", folder)
        run, name = read_manifest(folder), as_text(folder)
        if "report" not in run:
            raise FileNotFoundError(f"Expected a report in {name}, but there is none. Pass a folder written by save.")
        if run["report"] != FORMAT:
            raise ValueError(
                f"Expected a report of format {FORMAT}, but {name} holds format {run['report']}, written by "
                f"spade_kit {run.get('spade_kit')}. Read it with that version, or evaluate again."
            )
        if gone := [key for key in ("dataset", "options", "backbone", "weights") if key not in run]:
            raise ValueError(f"{name}/run.json must say {', '.join(gone)}; it does not. Restore it, or evaluate again.")
        if not (folder / TABLE).is_file():
            raise FileNotFoundError(
                f"{name} holds an evaluation that was interrupted. Call evaluate(..., folder=...) again to resume it."
            )
        try:
            frame = pandas.read_parquet(BytesIO((folder / TABLE).read_bytes()))  # any path
            frame[["path", "label", *(score for _, score in OF_IMAGES.values())]]  # KeyError if one is missing
        except (KeyError, OSError, ValueError) as problem:  # pyarrow's errors are ValueErrors
            raise ValueError(
                f"{name}/{TABLE} is damaged ({problem}). Call evaluate(..., folder=...) again to rewrite it."
            ) from problem
        return cls(run["dataset"], run, frame, MapStore(folder, frame["path"].tolist()))

    def _show(self) -> tuple[str, pandas.DataFrame]:
        """A heading, and the summary rounded to three decimals."""
        heading = f"{self.name}: {len(self._frame)} images; {self.options}"
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
    """Curves from counts of false and true positives at falling thresholds; the last counts are the totals."""
    if not len(false) or not false[-1] or not true[-1]:
        raise ValueError("A curve needs both normal and anomalous samples.")
    x, top = np.append(0, false / false[-1]), np.append(inf, threshold)
    curves = [("roc", x, np.append(0, true / true[-1]), top), ("pr", true / true[-1], true / (true + false), threshold)]
    return curves if overlap is None else [*curves, ("pro", x, np.append(0, overlap), top)]


def _thin(x: np.ndarray, y: np.ndarray, threshold: np.ndarray, points: int) -> pandas.DataFrame:
    """At most ``points`` points of a curve, evenly spaced along it, with both ends."""
    way = np.append(0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    kept = np.unique(np.searchsorted(way, np.linspace(0, way[-1], points)).clip(0, len(x) - 1))
    kept = np.arange(len(x)) if len(x) <= points else kept
    return pandas.DataFrame({"x": x[kept], "y": y[kept], "threshold": threshold[kept]})


def check_table(folder: Path, columns: Collection[str]) -> None:
    """Refuse to write a table again that somebody added a column to."""
    known: Collection[str] = ()
    with suppress(OSError, ValueError):  # there is none, or it is damaged
        known = pandas.read_parquet(folder / TABLE).columns
    if more := ", ".join(repr(name) for name in known if name not in columns):
        told = f"{as_text(folder)}/{TABLE} must have the columns of a report; got also {more}"
        raise ValueError(f"{told}. Keep your notes in another file, or use another folder for the report.")


def write_table(folder: Path, frame: pandas.DataFrame) -> None:
    """Write the table; it is written last, so its presence marks a complete report."""
    write_whole(folder / TABLE, frame.to_parquet())
