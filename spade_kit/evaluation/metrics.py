"""How well scores separate normal from anomalous: thin wrappers over scikit-learn, and the exact AUPRO.

All take raw scores, higher for more anomalous; scores are neither squashed nor rescaled.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import label
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

Maps: TypeAlias = Float[np.ndarray, "n H W"]
Masks: TypeAlias = Bool[np.ndarray, "n H W"]
_EIGHT_CONNECTED = np.ones((3, 3))


def roc_auc(scores: Float[np.ndarray, "n"], labels: Bool[np.ndarray, "n"]) -> float:
    """The probability that an anomalous sample scores higher than a normal one.

    >>> roc_auc(np.array([1.0, 2.0, 3.0]), np.array([False, True, True]))
    1.0
    """
    return float(roc_auc_score(*_checked(scores, labels)))


def pixel_roc_auc(maps: Maps, masks: Masks, rois: Masks | None = None) -> float:
    """ROC-AUC over all pixels of all images together; with ``rois``, over those in the roi of each.

    >>> maps, masks = np.array([[[1.0, 2.0], [3.0, 4.0]]]), np.array([[[False, True], [False, True]]])
    >>> pixel_roc_auc(maps, masks)
    0.75
    """
    return roc_auc(*_flatten(maps, masks, rois))


def average_precision(scores: Float[np.ndarray, "n"], labels: Bool[np.ndarray, "n"]) -> float:
    """Precision averaged over the steps of recall; suitable if anomalies are rare.

    >>> average_precision(np.array([1.0, 2.0, 3.0]), np.array([True, False, True]))
    0.8333333333333333
    """
    return float(average_precision_score(*_checked(scores, labels)))


def pixel_average_precision(maps: Maps, masks: Masks, rois: Masks | None = None) -> float:
    """Average precision over all pixels of all images together; ``rois`` as in `pixel_roc_auc`.

    >>> maps, masks = np.array([[[1.0, 2.0], [3.0, 4.0]]]), np.array([[[False, False], [False, True]]])
    >>> pixel_average_precision(maps, masks)
    1.0
    """
    return average_precision(*_flatten(maps, masks, rois))


def pixel_f1_max(maps: Maps, masks: Masks, rois: Masks | None = None) -> float:
    """The best harmonic mean of precision and recall over all pixels of all images together; ``rois`` likewise.

    >>> maps, masks = np.array([[[1.0, 2.0], [3.0, 4.0]]]), np.array([[[False, False], [False, True]]])
    >>> pixel_f1_max(maps, masks)
    1.0
    """
    return f1_max(*_flatten(maps, masks, rois))


def f1_max(scores: Float[np.ndarray, "n"], labels: Bool[np.ndarray, "n"]) -> float:
    """The best harmonic mean of precision and recall over all thresholds.

    >>> f1_max(np.array([1.0, 2.0, 3.0]), np.array([True, False, True]))
    0.8
    """
    return _best_f1(scores, labels)[0]


def f1_threshold(scores: Float[np.ndarray, "n"], labels: Bool[np.ndarray, "n"]) -> float:
    """The threshold at which F1 reaches `f1_max`; the lowest if there are several.

    It is chosen with the labels, so metrics at this threshold are optimistic for new images.

    >>> f1_threshold(np.array([1.0, 2.0, 3.0]), np.array([False, True, True]))
    2.0
    """
    return _best_f1(scores, labels)[1]


def _best_f1(scores: Float[np.ndarray, "n"], labels: Bool[np.ndarray, "n"]) -> tuple[float, float]:
    precision, recall, thresholds = precision_recall_curve(*_checked(scores, labels))
    f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-12))[:-1]  # the last has no threshold
    return float(f1.max()), float(thresholds[f1.argmax()])


def aupro(maps: Maps, masks: Masks, fpr_limit: float = 0.3, rois: Masks | None = None) -> float:
    """Area under the per-region overlap curve, normalised to 1; every defect has equal weight, however small.

    The curve shows, for each threshold, the found fraction of each 8-connected defect region, averaged over regions,
    against the false-positive rate of pixels. All thresholds are used, and the curve is interpolated at the limit.

    Parameters
    ----------
    fpr_limit
        The false-positive rate at which integration ends.
    rois
        Where each image is scored: pixels outside count neither as normal nor as parts of a defect.

    Notes
    -----
    Integrating over a hundred equidistant thresholds, or stopping at the last one before the limit, gives values up to
    20 points too low.

    References
    ----------
    .. [1] P. Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 129, 2021, doi:10.1007/s11263-020-01400-4.

    Examples
    --------
    Two defects, a large and a small one; the map finds the large one whole, the small one not at all:

    >>> masks = np.zeros((1, 6, 6), bool)
    >>> masks[0, :2, :2] = masks[0, 5, 5] = True
    >>> maps = masks.astype(float)
    >>> maps[0, 5, 5] = -1
    >>> aupro(maps, masks)
    0.5
    """
    masks = _as_bool(masks, "masks")
    scores, bad = _flatten(maps, masks, rois)
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"fpr_limit must be a rate above 0 and up to 1; got {fpr_limit!r}.")
    _check_both(bad, "masks")
    _check_finite(scores)
    weights, regions = weigh_regions(masks if rois is None else masks & np.asarray(rois, bool))
    weight = _flatten(weights, masks, rois)[0] / regions.sum()  # contribution of each pixel to the mean overlap
    order = np.argsort(scores, kind="stable")[::-1]
    fpr = np.cumsum(~bad[order]) / (~bad).sum()
    pro = np.cumsum(weight[order])
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # equal scores share a threshold
    fpr, pro = np.append(0, fpr[ends]), np.append(0, pro[ends])
    return mean_up_to(fpr_limit, fpr, pro)


def mean_up_to(limit: float, x: Float[np.ndarray, "m"], y: Float[np.ndarray, "m"]) -> float:
    """Mean height of a curve from 0 to a limit, interpolated at the limit; x must be ascending."""
    inside, edge = x <= limit, np.interp(limit, x, y)
    return float(auc(np.append(x[inside], limit), np.append(y[inside], edge)) / limit)


def weigh_regions(masks: Bool[np.ndarray, "n H W"]) -> tuple[Float[np.ndarray, "n H W"], Int[np.ndarray, "n"]]:
    """1 / size of each pixel's 8-connected defect region, 0 elsewhere; and the number of regions of each mask."""
    weights = np.zeros(masks.shape)
    regions = np.zeros(len(masks), np.int64)
    for image, (mask, weight) in enumerate(zip(masks, weights)):
        labels, regions[image] = label(mask, structure=_EIGHT_CONNECTED)
        sizes = np.bincount(labels.ravel())
        weight[mask] = 1 / sizes[labels[mask]]
    return weights, regions


def _checked(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Checked labels and scores, in scikit-learn's order."""
    scores, labels = np.asarray(scores), _as_bool(labels, "labels")
    if scores.shape != labels.shape:
        raise ValueError(
            f"Scores and labels must have the same shape; got {scores.shape} and {labels.shape}. Label each score."
        )
    _check_both(labels, "labels")
    _check_finite(scores)
    return labels, scores


def _flatten(maps: np.ndarray, masks: np.ndarray, rois: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Maps and masks as flat arrays, of the pixels inside."""
    shapes = [np.shape(each) for each in (maps, masks, rois) if each is not None]
    if len({*shapes}) > 1 or len(shapes[0]) != 3:
        raise ValueError(
            f"Maps, masks and rois must have the same shape (n, H, W); got {' and '.join(map(str, shapes))}. "
            "Use each image's mask on the evaluated crop, result.mask."
        )
    if rois is None:
        return np.ravel(maps), np.ravel(masks)
    inside = np.asarray(rois, bool)
    return np.asarray(maps)[inside], np.asarray(masks)[inside]


def _as_bool(labels: np.ndarray, name: str) -> Bool[np.ndarray, "..."]:
    """Convert to bool, True for anomalous; strings like "good" are rejected, because they would all be True."""
    labels = np.asarray(labels)
    if labels.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} must be True for anomalous and False for normal; got values of type {labels.dtype}. "
            'Compare first: np.array([sample.label != "good" for sample in dataset.test]).'
        )
    return np.asarray(labels, bool)


def _check_both(labels: Bool[np.ndarray, ...], name: str) -> None:
    if labels.all() or not labels.any():
        only = "anomalous" if labels.any() else "normal"
        raise ValueError(
            f"This metric needs both normal and anomalous values, but {name} hold only {only} ones. Add the others."
        )


def _check_finite(scores: np.ndarray) -> None:
    if not np.isfinite(scores).all():
        raise ValueError(
            "Scores must be finite numbers, but some are NaN or infinite. Use the map on the crop, not on_photo()."
        )
