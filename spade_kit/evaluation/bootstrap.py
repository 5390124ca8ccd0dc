"""How sure a figure is: bootstrap over photographs, whose pixels are no independent witnesses, and exact intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import betaincinv
from sklearn.metrics import auc

from spade_kit._arguments import check_count, check_number
from spade_kit.evaluation.metrics import mean_up_to, weigh_regions

LEVEL = 0.95
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
_BINS = 1024  # quantiles, half of all values and half of those on defects, which may be few and high
_SAMPLED = 1_000_000  # values from which the quantiles are taken


def bootstrap(
    measure: Callable[[Int[np.ndarray, "n"]], float], strata: Sequence[str], level: float, draws: int, seed: int
) -> tuple[float, float]:
    """The interval that holds the middle ``level`` of a measure over draws of photographs, with replacement.

    Parameters
    ----------
    measure
        Takes how often each photograph was drawn.
    strata
        Each photograph's kind: of each kind as many are drawn as there are.

    References
    ----------
    .. [1] B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", Chapman & Hall, 1993 (percentile intervals).
    """
    check_count("draws", draws)
    check_number("level", level, "a part of all draws between 0 and 1, like 0.95", least=1e-6, most=1 - 1e-6)
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(np.asarray(strata) == kind) for kind in dict.fromkeys(strata)]
    values = []
    for _ in range(draws):
        drawn = np.concatenate([rng.choice(group, len(group)) for group in groups])
        values.append(measure(np.bincount(drawn, minlength=len(strata))))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True, eq=False)
class PixelCounts:
    """Of each photograph, how many pixels lie in each bin, highest values first: (n, bins) each.

    ``overlap`` counts a defect's pixels by one over the size of their region; ``regions`` (n,) says how many there are.
    ``thresholds`` (b,) are the lowest values of the bins.
    """

    normal: Float[np.ndarray, "n b"]
    defect: Float[np.ndarray, "n b"]
    overlap: Float[np.ndarray, "n b"]
    regions: Int[np.ndarray, "n"]
    thresholds: Float[np.ndarray, "b"]

    @classmethod
    def of(cls, maps: Float[np.ndarray, "n H W"], masks: Bool[np.ndarray, "n H W"]) -> PixelCounts:
        at = np.linspace(0, 1, _BINS // 2 + 1)[1:]
        samples = (some[:: max(1, some.size // _SAMPLED)] for some in (maps.ravel(), maps[masks]))
        edges = np.unique([maps.min(), *np.ravel([np.quantile(some, at) for some in samples])])
        weights, regions = weigh_regions(masks)
        rows = []
        for values, mask, weight in zip(maps, masks, weights):
            bins = len(edges) - np.searchsorted(edges, values.ravel(), side="right")
            kinds = (~mask.ravel(), mask.ravel(), weight.ravel())
            rows.append([np.bincount(bins, kind, len(edges)) for kind in kinds])
        normal, defect, overlap = np.moveaxis(np.array(rows), 1, 0)
        return cls(normal, defect, overlap, regions, edges[::-1])

    def curve(self, drawn: Int[np.ndarray, "n"]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """False and true positives, and the mean overlap, at falling thresholds; and the count of defect pixels."""
        fp, tp, overlap = (
            np.append(0, np.cumsum(drawn @ counts)) for counts in (self.normal, self.defect, self.overlap)
        )
        return fp, tp, overlap / (drawn @ self.regions), tp[-1]


def binned_roc_auc(counts: PixelCounts, drawn: Int[np.ndarray, "n"]) -> float:
    fp, tp, _, _ = counts.curve(drawn)
    return float(auc(fp / fp[-1], tp / tp[-1]))


def binned_average_precision(counts: PixelCounts, drawn: Int[np.ndarray, "n"]) -> float:
    fp, tp, _, positives = counts.curve(drawn)
    return float(np.sum(np.diff(tp) / positives * tp[1:] / np.maximum(tp + fp, 1)[1:]))


def binned_f1_max(counts: PixelCounts, drawn: Int[np.ndarray, "n"]) -> float:
    fp, tp, _, positives = counts.curve(drawn)
    return float(np.max(2 * tp / (tp + fp + positives)))


def binned_aupro(counts: PixelCounts, drawn: Int[np.ndarray, "n"], fpr_limit: float = 0.3) -> float:
    fp, _, overlap, _ = counts.curve(drawn)
    return mean_up_to(fpr_limit, fp / fp[-1], overlap)


BINNED: dict[str, Callable[[PixelCounts, np.ndarray], float]] = {
    "pixel_roc_auc": binned_roc_auc,
    "pixel_average_precision": binned_average_precision,
    "pixel_f1_max": binned_f1_max,
    "aupro": binned_aupro,
    "aupro_05": partial(binned_aupro, fpr_limit=0.05),
}


def clopper_pearson(reached: Int[np.ndarray, "t"], count: int) -> tuple[Float[np.ndarray, "t"], Float[np.ndarray, "t"]]:
    """The exact 95 % interval of a rate, of which ``reached`` of ``count`` were seen; 0 to 1 where none was."""
    low, high = TAILS
    return (
        np.nan_to_num(betaincinv(reached, count - reached + 1, low), nan=0),  # NaN: all rates down to 0 will do
        np.nan_to_num(betaincinv(reached + 1, count - reached, high), nan=1),
    )
