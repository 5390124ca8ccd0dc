"""The uncertainty of a metric: bootstrap over images, because pixels are not independent, and exact intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float, Int
from scipy.special import betaincinv
from sklearn.metrics import auc

from spade_kit._arguments import check_count, check_number
from spade_kit.evaluation.metrics import Maps, Masks, mean_up_to, weigh_regions

LEVEL = 0.95
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
_BINS = 1024  # quantiles, half of all values and half of those on defects, which may be few and high
_SAMPLED = 1_000_000  # number of values from which the quantiles are computed


def bootstrap(
    measure: Callable[[Int[np.ndarray, "n"]], float], strata: Sequence[str], level: float, draws: int, seed: int
) -> tuple[float, float]:
    """Percentile interval of a metric over bootstrap draws of images, with replacement.

    Parameters
    ----------
    measure
        Computes the metric from the number of times that each image was drawn.
    strata
        The kind of each image; each draw keeps the number of images per kind.
    level
        The fraction of draws inside the interval.

    References
    ----------
    .. [1] B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", Chapman & Hall, 1993 (percentile intervals).
    """
    check_count("draws", draws)
    check_count("seed", seed, least=0)
    check_number("level", level, "a fraction of all draws between 0 and 1, like 0.95", least=1e-6, most=1 - 1e-6)
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(np.asarray(strata) == kind) for kind in dict.fromkeys(strata)]
    drawn = (np.concatenate([rng.choice(group, len(group)) for group in groups]) for _ in range(draws))
    values = [measure(np.bincount(photos, minlength=len(strata))) for photos in drawn]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True, eq=False)
class PixelCounts:
    """Number of pixels of each image in each bin, highest values first: (n, bins) each.

    ``overlap`` weights each defect pixel by 1 / size of its region; ``regions`` (n,) is the number of regions per
    image. ``thresholds`` (b,) are the lowest values of the bins.
    """

    normal: Float[np.ndarray, "n b"]
    defect: Float[np.ndarray, "n b"]
    overlap: Float[np.ndarray, "n b"]
    regions: Int[np.ndarray, "n"]
    thresholds: Float[np.ndarray, "b"]

    @classmethod
    def of(cls, maps: Maps, masks: Masks, rois: Masks | None = None) -> PixelCounts:
        """Count the pixels, with ``rois`` those inside; masks must mark none outside."""
        at = np.linspace(0, 1, _BINS // 2 + 1)[1:]
        rois = np.ones(masks.shape, bool) if rois is None else rois
        samples = (some[:: max(1, some.size // _SAMPLED)] for some in (maps[rois], maps[masks]))
        edges = np.unique([maps[rois].min(), *np.ravel([np.quantile(some, at) for some in samples])])
        weights, regions = weigh_regions(masks)
        rows = []
        for values, *kinds in zip(maps, ~masks & rois, masks, weights):
            bins = len(edges) - np.searchsorted(edges, values.ravel(), side="right")
            rows.append([np.bincount(bins, kind.ravel(), len(edges)) for kind in kinds])
        normal, defect, overlap = np.moveaxis(np.array(rows), 1, 0)
        return cls(normal, defect, overlap, regions, edges[::-1])

    def curve(self, drawn: Int[np.ndarray, "n"]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """False and true positives and mean overlap at falling thresholds, and the number of defect pixels."""
        fp, tp, overlap = (np.append(0, np.cumsum(drawn @ each)) for each in (self.normal, self.defect, self.overlap))
        return fp, tp, overlap / (drawn @ self.regions), tp[-1]


_OF_CURVES: dict[str, Callable[..., float]] = {  # computed from the values of `PixelCounts.curve`
    "pixel_roc_auc": lambda fp, tp, *_: auc(fp / fp[-1], tp / tp[-1]),
    "pixel_average_precision": lambda fp, tp, _, bad: np.sum(np.diff(tp) / bad * tp[1:] / np.maximum(tp + fp, 1)[1:]),
    "pixel_f1_max": lambda fp, tp, _, bad: np.max(2 * tp / (tp + fp + bad)),
    "aupro": lambda fp, _, overlap, *__: mean_up_to(0.3, fp / fp[-1], overlap),
    "aupro_05": lambda fp, _, overlap, *__: mean_up_to(0.05, fp / fp[-1], overlap),
}


def _measure(name: str, counts: PixelCounts, drawn: Int[np.ndarray, "n"]) -> float:
    return float(_OF_CURVES[name](*counts.curve(drawn)))


BINNED: dict[str, Callable[[PixelCounts, np.ndarray], float]] = {name: partial(_measure, name) for name in _OF_CURVES}


def clopper_pearson(reached: Int[np.ndarray, "t"], count: int) -> tuple[Float[np.ndarray, "t"], Float[np.ndarray, "t"]]:
    """Exact 95 % confidence interval of a rate from ``reached`` of ``count`` cases; 0 to 1 if ``count`` is 0."""
    low = betaincinv(reached, count - reached + 1, TAILS[0])  # NaN: all rates down to 0 are possible
    high = betaincinv(reached + 1, count - reached, TAILS[1])
    return np.nan_to_num(low, nan=0), np.nan_to_num(high, nan=1)
