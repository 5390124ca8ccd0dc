"""From distances to scores: maps, the contribution of each layer, and thresholds from normal images."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from math import ceil, floor, inf, log1p, log10, nan
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import gaussian_filter
from scipy.stats import binom

from spade_kit._arguments import check_number, choose, warn
from spade_kit.correspondence import Correspondence, resize
from spade_kit.evaluation.bootstrap import bootstrap

Map: TypeAlias = Float[np.ndarray, "H W"]
Mask: TypeAlias = Bool[np.ndarray, "H W"]
Scores: TypeAlias = Sequence[Float[np.ndarray, "_"]]  # an array per image: its score, or those of all its pixels
_TAIL_BINS = 1024
_RESTS = 0.2  # a threshold that falls by this fraction without one image rests on it


def make_map(distance: Float[np.ndarray, "h w"], size: tuple[int, int], sigma: float) -> Map:
    """The map of a crop from distances on the grid: bilinear, then a Gaussian filter with ``sigma`` in map pixels."""
    return gaussian_filter(resize(distance, size), sigma, mode="reflect", truncate=4)


def mean_of_top(values: Float[np.ndarray, "*p"], part: float = 0.01) -> float:
    """The mean of the highest values of a map (1 % by default): less sensitive to single pixels than the maximum."""
    count = max(1, int(part * values.size))
    return float(np.partition(values, -count, axis=None)[-count:].mean())


def take_level(anomaly_map: Map, level: Map | None) -> Map:
    """The excess: a map less what normal images reach at each place; the map itself if that is unknown."""
    return anomaly_map if level is None else anomaly_map - level


def score_image(anomaly_map: Map, level: Map | None, score: str, roi: Mask | None = None) -> float:
    """The image score: the maximum of the map, or the mean of the highest 1 % of the map or of its excess, in its roi.

    Without a level, ``"excess"`` is the same as ``"top"``.
    """
    values = take_level(anomaly_map, level if score == "excess" else None)
    values = values if roi is None else values[roi]
    return float(values.max()) if score == "max" else mean_of_top(values)


def choose_map(anomaly_map: Map, level: Map | None, judged: str, roi: Mask | None = None) -> Map:
    """The map from which pixel thresholds are taken: the anomaly map, or its excess; NaN outside its roi."""
    values = take_level(anomaly_map, level if judged == "excess" else None)
    return values if roi is None else np.where(roi, values, np.float32(nan))


def take_inside(judged: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "p"]:
    """The values of judged maps, without the NaN outside a roi."""
    return judged[~np.isnan(judged)]


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


def check_confidence(confidence: float, of: str) -> float:
    if choose("of", of, ("pixel", "image")) == "pixel":
        raise ValueError(
            f"confidence must be None for pixels, because those of one image are not independent; got {confidence!r}. "
            'Use of="image", or leave confidence out.'
        )
    return check_number("confidence", confidence, "a probability between 0 and 1, like 0.95", least=1e-6, most=1 - 1e-6)


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


def find_certain_threshold(scores: Float[np.ndarray, "n"], fpr: float, confidence: float) -> float:
    """The lowest threshold that new normal samples reach at a true rate of at most ``fpr``, with this confidence.

    `find_threshold` keeps the rate on average over all sets of n normal scores; for single sets the true rate is often
    higher, with 99 scores and 1 % for 37 % of the sets. This threshold keeps the rate for a fraction ``confidence`` of
    the sets, under any distribution of independent scores. It is the next float above the k-th smallest score, with the
    least k for which Binom.cdf(k - 1; n, 1 - fpr) >= ``confidence``: with that probability at most k - 1 of the n
    scores are below the (1 - fpr)-quantile, so the k-th smallest is not [1]_, [2]_.

    The threshold is above that score, not equal to it, because a score equal to the threshold raises an alarm. Any
    fraction of discrete scores may equal the k-th smallest, while at most ``fpr`` of them are above the quantile.
    Continuous scores are never equal, so the step does not change their rate.

    Raises
    ------
    ValueError
        If there are fewer scores than `count_needed`: then even the largest is not high enough.

    References
    ----------
    .. [1] S. S. Wilks, "Determination of Sample Sizes for Setting Tolerance Limits", Annals of Mathematical Statistics
       12, 1941, doi:10.1214/aoms/1177731788.
    .. [2] V. Vovk, "Conditional Validity of Inductive Conformal Predictors", ACML 2012, arXiv:1209.2673.

    Examples
    --------
    >>> scores = np.arange(473.0)
    >>> int((scores >= find_certain_threshold(scores, fpr=0.01, confidence=0.95)).sum())
    1
    """
    below = _take_ranked(scores, tighten_fpr(len(scores), fpr, confidence))
    return float(np.nextafter(below, inf, dtype=scores.dtype))


def count_needed(fpr: float, confidence: float) -> int:
    """The fewest scores whose largest bounds the rate: least n with (1 - fpr)^n <= 1 - confidence."""
    return ceil(round(log1p(-confidence) / log1p(-fpr), 9))


def tighten_fpr(count: int, fpr: float, confidence: float) -> float:
    """The rate for which `find_threshold` takes the score below `find_certain_threshold`."""
    needed = count_needed(fpr, confidence)
    if count < needed:
        least = 1 - (1 - confidence) ** (1 / count)
        scale = 10 ** (2 - floor(log10(least)))  # three digits, rounded up: this rate is possible
        raise ValueError(
            f"A false-alarm rate of {fpr:g} with {100 * confidence:g} % confidence needs at least {needed:,} different "
            f"normal images, or groups of them; got {count:,}. Fit more, allow a rate of "
            f"{ceil(least * scale - 1e-9) / scale:g} or more, or leave confidence out."
        )
    sure = binom.cdf(np.arange(count), count, 1 - fpr).round(12)
    rank = min(int(np.searchsorted(sure, confidence)) + 1, count)
    return 1 - rank / (count + 1)


def examine_certain_threshold(
    scores: Sequence[Float[np.ndarray, "1"]],
    groups: Sequence[Hashable],
    fpr: float,
    confidence: float,
    name: Callable[[int], str],
    scale: float | None = None,
) -> tuple[float, str]:
    """The result of `find_certain_threshold` for images in groups, and the remark of `doubt_threshold` on it.

    Images of one group are not independent: a group counts once, with its highest score. The rate is then the fraction
    of groups with an alarm.
    """
    ranked = sorted(range(len(scores)), key=lambda image: scores[image].item())
    highest = list({groups[image]: image for image in ranked}.values())
    kept = [scores[image] for image in highest]
    rate = tighten_fpr(len(kept), fpr, confidence)
    doubt = doubt_threshold(kept, range(len(kept)), rate, lambda at: name(highest[at]), scale)
    return find_certain_threshold(np.concatenate(kept), fpr, confidence), doubt


def _take_ranked(scores: Float[np.ndarray, "n"], fpr: float) -> float:
    place = min(_rank(len(scores), fpr), len(scores)) - 1
    return float(np.partition(scores, place)[place])


def doubt_threshold(
    scores: Scores, groups: Sequence[Hashable], fpr: float, name: Callable[[int], str], scale: float | None = None
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
    return max(1, ceil(round((count + 1) * (1 - fpr), 9)))  # rounded, since 150 * (1 - 0.18) is slightly above 123


def threshold_interval(
    scores: Scores, groups: Sequence[Hashable], fpr: float, level: float, draws: int, seed: int
) -> tuple[float, float]:
    """The bootstrap interval of `find_threshold` over images or, with groups, over groups of images.

    Parameters
    ----------
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
