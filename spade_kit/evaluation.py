"""A whole dataset judged: a row a photograph, and how well normal and anomalous are told apart."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas
from jaxtyping import Bool, Float

from spade_kit import metrics
from spade_kit.arguments import choose, warn
from spade_kit.datasets import GOOD, Dataset, Sample
from spade_kit.intervals import BINNED, PixelCounts, bootstrap
from spade_kit.progress import track
from spade_kit.scores import share_out

if TYPE_CHECKING:
    from spade_kit.results import Result
    from spade_kit.spade import SPADE

OF_IMAGES = {
    "image_roc_auc": metrics.roc_auc,
    "image_average_precision": metrics.average_precision,
    "image_f1_max": metrics.f1_max,
}
OF_PIXELS = {
    "pixel_roc_auc": metrics.pixel_roc_auc,
    "pixel_average_precision": metrics.pixel_average_precision,
    "pixel_f1_max": metrics.pixel_f1_max,
    "aupro": metrics.aupro,
    "aupro_05": lambda maps, masks: metrics.aupro(maps, masks, fpr_limit=0.05),
}


def evaluate(spade: SPADE, dataset: Dataset | Sequence[Sample]) -> Report:
    """Judge all test photographs of a dataset, and hold the scores against what is known of them.

    A photograph that cannot be read is a row with its reason, and one warning counts them. Photographs that were
    fitted are judged against the others. The maps of photographs whose truth is known are kept, 0.2 MB each at 224 px:
    exact metrics need every value.
    """
    samples = list(dataset.test if isinstance(dataset, Dataset) else dataset)
    if not samples:
        raise ValueError(
            "evaluate needs photos to judge, but none came. A dataset of normals alone has no test photos."
        )
    name = dataset.name if isinstance(dataset, Dataset) else f"{len(samples)} photos"
    rows: list[dict[str, Any]] = []
    maps: list[np.ndarray | None] = []
    masks: list[np.ndarray | None] = []
    with track(total=len(samples), desc="photos") as progress:
        for sample in samples:
            start = time.perf_counter()
            row: dict[str, Any] = {"path": str(sample.path), "label": sample.label}
            values = mask = None
            try:
                result = spade._predict(sample, leave_out=True)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of masks that the crop empties: they are counted below
                    mask = result.mask
            except (ValueError, OSError) as problem:
                row["reason"] = str(problem)
            else:
                values = None if mask is None else result.anomaly_map
                row |= _describe(result)
            rows.append(row | {"seconds": time.perf_counter() - start})
            maps.append(values)
            masks.append(mask)
            progress.update()
    frame = pandas.DataFrame(rows, columns=[*_columns(spade)])
    lost = int(frame["image_score"].isna().sum())
    if lost == len(frame):
        raise ValueError(f"None of the {lost} photos of {name} could be judged. {frame['reason'][0]}")
    emptied = sum(
        mask is not None and s.label not in (GOOD, None) and not mask.any() for s, mask in zip(samples, masks)
    )
    if emptied:
        warn(
            f"Of {emptied} defects of {name} nothing is left on the evaluated crop: their pixels count as normal. "
            "Take load_backbone(..., crop=None), or a larger resize."
        )
    if lost:
        warn(f"{lost} of {len(frame)} photos of {name} were not judged: see the column reason of report.to_frame().")
    return Report(name, spade.describe_options(), frame, maps, masks)


def _columns(spade: SPADE) -> list[str]:
    shares = [f"share_{layer}" for layer in spade.backbone.layers]
    return ["path", "label", "image_score", "retrieval_score", *shares, "seconds", "reason"]


def _describe(result: Result) -> dict[str, float]:
    """Scores, and what part of all distances each layer has."""
    parts = share_out(result.correspondence).reshape(len(result.query.layers), -1).sum(1)
    shares = parts / max(parts.sum(), 1e-30)
    described = {"image_score": result.image_score, "retrieval_score": result.retrieval_score}
    return described | {f"share_{layer}": float(part) for layer, part in zip(result.query.layers, shares)}


@dataclass(frozen=True, eq=False)
class Report:
    """What `evaluate` found.

    Attributes
    ----------
    name, options
        Of the dataset, and of the SPADE that judged it.
    """

    name: str
    options: str
    _frame: pandas.DataFrame = field(repr=False)
    _maps: list[Float[np.ndarray, "H W"] | None] = field(repr=False)
    _masks: list[Bool[np.ndarray, "H W"] | None] = field(repr=False)

    def to_frame(self) -> pandas.DataFrame:
        """A row a photograph: path, label, scores, each layer's share of all distances, seconds, and why not judged."""
        return self._frame.copy()

    def metric(self, name: str, kinds: Sequence[str] | None = None) -> float:
        """One of ``image_roc_auc, image_average_precision, image_f1_max``, of the image scores; ``pixel_roc_auc,
        pixel_average_precision, pixel_f1_max, aupro, aupro_05`` (AUPRO up to a false-positive rate of 0.3 and 0.05), of
        the maps where the truth is known.

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
            return OF_IMAGES[name](*self._scores(kinds)[:2])
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
        self.metric(name, kinds)  # says what is missing
        if self._is_of_images(name):
            scores, bad, strata = self._scores(kinds)
            repeat = partial(_measure_again, OF_IMAGES[name], scores, bad)
        else:
            maps, masks, strata = self._pixels(name, kinds)
            repeat = partial(BINNED[name], PixelCounts.of(maps, masks))
        return bootstrap(repeat, strata, level, draws, seed)

    def _is_of_images(self, name: str) -> bool:
        return choose("A metric", name, [*OF_IMAGES, *OF_PIXELS]) in OF_IMAGES

    def _judged(self, kinds: Sequence[str] | None) -> pandas.DataFrame:
        """Rows with a score and a label, of some kinds and all good ones."""
        labels = self._frame["label"]
        wanted = self._frame["image_score"].notna() & labels.notna()
        if kinds is not None:
            for kind in kinds:
                choose("A kind", kind, self._kinds)
            wanted &= labels.isin([GOOD, *kinds])
        return self._frame[wanted]

    def _scores(self, kinds: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Image scores, which are of defects, and the labels."""
        judged = self._judged(kinds)
        labels = judged["label"]
        return judged["image_score"].to_numpy(float), (labels != GOOD).to_numpy(bool), labels.tolist()

    def _pixels(self, name: str, kinds: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Maps, masks and labels of photographs whose truth is known."""
        rows = self._judged(kinds)
        known = [
            (values, mask, label)
            for at, label in zip(rows.index, rows["label"])
            if (values := self._maps[at]) is not None and (mask := self._masks[at]) is not None
        ]
        if not known:
            raise ValueError(
                f"{name} needs photos with masks, but {self.name} has none. Take one of {list(OF_IMAGES)}."
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
            | {name: self._metric_or_nan(name, only) for name in [*OF_IMAGES, *OF_PIXELS]}
            for row, only in rows.items()
        }
        return pandas.DataFrame.from_dict(table, orient="index")

    @property
    def _kinds(self) -> list[str]:
        """Of defects."""
        return sorted(set(self._frame["label"].dropna()) - {GOOD})

    def _metric_or_nan(self, name: str, kinds: Sequence[str] | None) -> float:
        try:
            return self.metric(name, kinds)
        except ValueError:
            return float("nan")

    def _repr_html_(self) -> str:
        table = self.summary().dropna(axis="columns", how="all").round(3)
        return f"<p>{escape(self.name)}: {len(self._frame)} photos; {escape(self.options)}</p>{table.to_html()}"


def _measure_again(
    metric: Callable[[np.ndarray, np.ndarray], float], scores: np.ndarray, bad: np.ndarray, drawn: np.ndarray
) -> float:
    return metric(np.repeat(scores, drawn), np.repeat(bad, drawn))
