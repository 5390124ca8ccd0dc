"""From distances to scores: maps, what each layer contributes, and thresholds from normal images."""

from __future__ import annotations

from math import ceil

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter

from spade_kit.arguments import check_number, warn
from spade_kit.correspondence import Correspondence, resize


def make_map(distance: Float[np.ndarray, "h w"], size: tuple[int, int], sigma: float) -> Float[np.ndarray, "H W"]:
    """Distances of the grid as a map of the crop: bilinear, then Gaussian smoothing with ``sigma`` in map pixels."""
    return gaussian_filter(resize(distance, size), sigma, mode="reflect", truncate=4)


def share_out(found: Correspondence) -> Float[np.ndarray, "L h w"]:
    """Each layer's part of the distance, in proportion to the nearest pixel's squared distances.

    The parts add up to the distance, unless kappa > 1 and the nearest pixel is at distance 0: it then has no parts.
    """
    return split(found.distance, found.layer_distance)


def split(distance: Float[np.ndarray, "..."], layer_distance: Float[np.ndarray, "L ..."]) -> Float[np.ndarray, "L ..."]:
    """Distances in proportion to squared distances of layers; 0 where these are all 0."""
    whole = layer_distance.sum(0)
    return distance * layer_distance / np.where(whole > 0, whole, 1)


def check_sigma(sigma: float) -> float:
    return check_number("sigma", sigma, "a finite number of map pixels from 0, no smoothing, up", least=0, most=1e6)


def check_fpr(fpr: float) -> float:
    return check_number("fpr", fpr, "a false-alarm rate between 0 and 1, like 0.01", least=1e-12, most=1 - 1e-12)


def find_threshold(scores: Float[np.ndarray, "n"], fpr: float) -> float:
    """The score that a new normal one reaches with probability of at most ``fpr``, or about that.

    It is the ceil((n + 1)(1 - fpr))-th smallest of n normal scores: the (n + 1)-th, the new one, is equally likely
    to fall into any of the gaps between them [1]_.

    References
    ----------
    .. [1] V. Vovk, A. Gammerman, G. Shafer, "Algorithmic Learning in a Random World", Springer, 2005,
       doi:10.1007/b106715 (conformal prediction).
    """
    count = len(scores)
    rank = ceil(round((count + 1) * (1 - fpr), 9))  # rounded, since 150 * (1 - 0.18) comes out a little over 123
    if rank > count:
        warn(
            f"A false-alarm rate of {fpr:g} needs at least {ceil(1 / fpr) - 1} normal scores, but there are {count}: "
            f"the largest is taken, and the rate may be up to {1 / (count + 1):.2g}."
        )
        rank = count
    return float(np.partition(scores, rank - 1)[rank - 1])
