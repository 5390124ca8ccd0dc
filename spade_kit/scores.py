"""From distances to scores: maps, the contribution of each layer, and thresholds from normal images."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from math import ceil, inf

import numpy as np
from jaxtyping import Float, Int
from scipy.ndimage import gaussian_filter

from spade_kit._arguments import check_number, warn
from spade_kit.correspondence import Correspondence, resize
from spade_kit.evaluation.bootstrap import bootstrap

_TAIL_BINS = 1024
_RESTS = 0.2  # a threshold that falls by this fraction without one image rests on it


def make_map(distance: Float[np.ndarray, "h w"], size: tuple[int, int], sigma: float) -> Float[np.ndarray, "H W"]:
    """The map of a crop from distances on the grid: bilinear, then a Gaussian filter with ``sigma`` in map pixels."""
    return gaussian_filter(resize(distance, size), sigma, mode="reflect", truncate=4)


def mean_of_top(values: Float[np.ndarray, "H W"], part: float = 0.01) -> float:
    """The mean of the highest values of a map (1 % by default): less sensitive to single pixels than the maximum."""
    count = max(1, int(part * values.size))
    return float(np.partition(values, -count, axis=None)[-count:].mean())


def take_level(anomaly_map: Float[np.ndarray, "H W"], level: Float[np.ndarray, "H W"] | None) -> np.ndarray:
    """The excess: a map less what normal images reach at each place; the map itself if that is unknown."""
    return anomaly_map if level is None else anomaly_map - level


def score_image(anomaly_map: Float[np.ndarray, "H W"], level: Float[np.ndarray, "H W"] | None, score: str) -> float:
    """The image score: the maximum of the map, or the mean of the highest 1 % of the map or of its excess.

    Without a level, ``"excess"`` is the same as ``"top"``.
    """
    if score == "max":
        return float(anomaly_map.max())
    return mean_of_top(take_level(anomaly_map, level if score == "excess" else None))


def choose_map(
    anomaly_map: Float[np.ndarray, "H W"], level: Float[np.ndarray, "H W"] | None, judged: str
) -> Float[np.ndarray, "H W"]:
    """The map from which pixel thresholds are taken: the anomaly map, or its excess."""
    return take_level(anomaly_map, level if judged == "excess" else None)


def share_out(found: Correspondence) -> Float[np.ndarray, "L h w"]:
    """The contribution of each layer to the distance, in proportion to the squared distances of the nearest pixel.

    The contributions add up to the distance, unless kappa > 1 and the nearest pixel is at distance 0: then they are 0.
    """
    return split(found.distance, found.layer_distance)


def split(distance: Float[np.ndarray, "..."], layer_distance: Float[np.ndarray, "L ..."]) -> Float[np.ndarray, "L ..."]:
    """Split distances in proportion to the squared distances of layers; 0 where these are all 0."""
    whole = layer_distance.sum(0)
    return distance * layer_distance / np.where(whole > 0, whole, 1)


def check_threshold(threshold: float) -> float:
    needed = "a finite raw distance, such as spade.threshold() returns"
    return check_number("A threshold", threshold, needed, least=-inf, most=inf)


def check_fpr(fpr: float) -> float:
    return check_number("fpr", fpr, "a false-alarm rate between 0 and 1, like 0.01", least=1e-12, most=1 - 1e-12)


def find_threshold(scores: Float[np.ndarray, "n"], fpr: float) -> float:
    """The score that a new normal sample reaches with a probability of at most about ``fpr``.

    It is the ceil((n + 1)(1 - fpr))-th smallest of n normal scores: a new score is equally likely to fall into any of
    the n + 1 gaps between them [1]_.

    References
    ----------
    .. [1] V. Vovk, A. Gammerman, G. Shafer, "Algorithmic Learning in a Random World", Springer, 2005,
       doi:10.1007/b106715 (conformal prediction).
    """
    count = len(scores)
    if _rank(count, fpr) > count:
        warn(
            f"A false-alarm rate of {fpr:g} needs at least {ceil(1 / fpr) - 1} normal scores; got {count}. "
            f"Using the largest; the rate may be up to {1 / (count + 1):.2g}."
        )
    return _take_ranked(scores, fpr)


def _take_ranked(scores: Float[np.ndarray, "n"], fpr: float) -> float:
    place = min(_rank(len(scores), fpr), len(scores)) - 1
    return float(np.partition(scores, place)[place])


def doubt_threshold(
    scores: Sequence[Float[np.ndarray, "_"]],
    groups: Sequence[Hashable],
    fpr: float,
    name: Callable[[int], str],
    scale: float | None = None,
) -> str:
    """A remark if the result of `find_threshold` rests on one image: without it, it would be a fifth lower or more.

    Images of one group count as one. The scores of the others are taken as they are: they were judged with the image
    among the normal ones.

    Parameters
    ----------
    scores, groups
        As in `threshold_interval`.
    name
        Returns the name of an image, given its place in ``scores``.
    scale
        Of what a fifth counts: by default the threshold; for an excess, which may be about 0, the reference level.
    """
    threshold = _take_ranked(np.concatenate(scores), fpr)
    members: dict[Hashable, list[int]] = {}
    for image, group in enumerate(groups):
        members.setdefault(group, []).append(image)
    if len(members) < 3:  # without one, nothing is left to judge the other against
        return ""

    def weigh(group: Hashable) -> tuple[int, float]:
        """The number of scores that reach the threshold, and how little they exceed it."""
        own = np.concatenate([scores[image] for image in members[group]])
        return int((own >= threshold).sum()), -float(own.max())

    heaviest = max(members, key=weigh)
    first, *more = members[heaviest]
    without = _take_ranked(np.concatenate([own for own, group in zip(scores, groups) if group != heaviest]), fpr)
    if threshold - without < _RESTS * (scale or threshold) or threshold == 0:
        return ""
    also = f" (and {len(more)} left out with it)" if more else ""
    return (
        f"The threshold rests on one image: without {name(first)}{also} it would be {without:.3g} instead of "
        f"{threshold:.3g}. Check that this image is normal."
    )


def _rank(count: int, fpr: float) -> int:
    return ceil(round((count + 1) * (1 - fpr), 9))  # rounded, since 150 * (1 - 0.18) is slightly above 123


def threshold_interval(
    scores: Sequence[Float[np.ndarray, "_"]],
    groups: Sequence[Hashable],
    fpr: float,
    level: float,
    draws: int,
    seed: int,
) -> tuple[float, float]:
    """The bootstrap interval of `find_threshold` over images or, with groups, over groups of images.

    Parameters
    ----------
    scores
        One array per image: its score, or the scores of all its pixels.
    groups
        The group of each image.
    """
    every = np.concatenate(scores)
    # bins as narrow as one to two hundredths of the requested rate, for any rate
    tail = np.geomspace(fpr / 50, 1, _TAIL_BINS)
    edges = np.unique([every.min(), *np.quantile(every, 1 - tail), every.max()])
    if len(every) <= _TAIL_BINS:
        edges = np.unique(every)
    bins = [np.bincount(np.searchsorted(edges, values, "right") - 1, minlength=len(edges)) for values in scores]
    names = list(dict.fromkeys(groups))
    counts = np.array([np.sum([own for own, group in zip(bins, groups) if group == name], 0) for name in names])

    def measure(drawn: Int[np.ndarray, "g"]) -> float:
        below = np.cumsum(drawn @ counts)
        rank = min(_rank(int(below[-1]), fpr), below[-1])
        return float(edges[np.searchsorted(below, rank)])

    return bootstrap(measure, ["normal"] * len(names), level, draws, seed)
