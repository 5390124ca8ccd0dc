"""Metrics compared with direct implementations: all pairs, all thresholds, regions by flood fill."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from spade_kit.evaluation.metrics import (
    aupro,
    average_precision,
    f1_max,
    f1_threshold,
    pixel_average_precision,
    pixel_f1_max,
    pixel_roc_auc,
    roc_auc,
)

seeds = st.integers(0, 2**32 - 1)
steps = st.sampled_from([2, 4, 12, 10**6])  # number of different scores: few of them cause ties


def draw_scores(seed, shape, steps):
    """Scores with ties, and labels with at least one of each class."""
    rng = np.random.default_rng(seed)
    labels = rng.random(shape) < rng.uniform(0.1, 0.7)
    labels.flat[0], labels.flat[-1] = True, False
    shift = rng.choice([0, steps // 2]) * labels  # informative scores, or random ones
    return (rng.integers(0, steps, shape) + shift) / 7 - 0.5, labels


def fill_regions(mask):
    """The 8-connected regions of one mask, as lists of (row, col), by flood fill."""
    left, regions = {(int(row), int(col)) for row, col in np.argwhere(mask)}, []
    while left:
        front, region = [left.pop()], []
        while front:
            row, col = front.pop()
            region.append((row, col))
            around = {(row + down, col + across) for down in (-1, 0, 1) for across in (-1, 0, 1)} & left
            left -= around
            front += around
        regions.append(region)
    return regions


def aupro_by_definition(maps, masks, limit):
    """All thresholds; the found fraction of each region; trapezoids, the last one cut at the limit."""
    regions = [(image, *zip(*region)) for image, mask in enumerate(masks) for region in fill_regions(mask)]
    curve = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        marked = maps >= threshold
        found = [marked[image][rows, cols].mean() for image, rows, cols in regions]
        curve.append((marked[~masks].mean(), np.mean(found)))
    area = 0.0
    for (x, y), (next_x, next_y) in pairwise(curve):
        if next_x > limit and next_x > x:
            next_x, next_y = limit, y + (next_y - y) * (limit - x) / (next_x - x)
        area += (next_x - x) * (y + next_y) / 2
        if next_x >= limit:
            break
    return area / limit


# ---- images ----------------------------------------------------------------------------------------------------------


@given(seeds, st.integers(2, 40), steps)
def test_roc_auc_counts_the_pairs_in_the_right_order(seed, n, steps):
    scores, labels = draw_scores(seed, n, steps)
    pairs = [(bad > normal) + (bad == normal) / 2 for bad in scores[labels] for normal in scores[~labels]]
    assert roc_auc(scores, labels) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert roc_auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert roc_auc(-scores, labels) == pytest.approx(1 - np.mean(pairs), abs=1e-12)


def test_roc_auc_by_hand():
    """Anomalous 2 and 5, normal 1, 2, 3: (1 + 1/2 + 0) + 3 of 6 pairs."""
    assert roc_auc(np.array([1.0, 2, 2, 3, 5]), np.array([False, True, False, False, True])) == pytest.approx(4.5 / 6)


def test_large_raw_distances_are_ranked_and_not_squashed():
    """A sigmoid would make them all 1, and the AUC 0.5."""
    assert roc_auc(np.array([1000.0, 1001.0, 1002.0, 1003.0]), np.array([False, False, True, True])) == 1
    assert f1_max(np.array([1000.0, 1001.0, 1002.0, 1003.0]), np.array([False, False, True, True])) == 1


@given(seeds, st.integers(2, 40), steps)
def test_f1_max_is_the_best_of_a_loop_over_all_thresholds(seed, n, steps):
    scores, labels = draw_scores(seed, n, steps)
    best = 0.0
    for threshold in scores:
        marked = scores >= threshold
        best = max(best, 2 * (marked & labels).sum() / (marked.sum() + labels.sum()))
    assert f1_max(scores, labels) == pytest.approx(best, abs=1e-9)


def test_f1_max_by_hand():
    """Falling: anomalous, normal, anomalous, normal, normal. At the third: precision 2/3, recall 1, so 4/5."""
    assert f1_max(np.array([5.0, 4, 3, 2, 1]), np.array([True, False, True, False, False])) == pytest.approx(0.8)


@given(seeds, st.integers(2, 40), steps)
def test_average_precision_adds_up_precision_by_steps_of_recall(seed, n, steps):
    scores, labels = draw_scores(seed, n, steps)
    area, recall = 0.0, 0.0
    for threshold in np.unique(scores)[::-1]:
        marked = scores >= threshold
        found = (marked & labels).sum() / labels.sum()
        area += (found - recall) * (marked & labels).sum() / marked.sum()
        recall = found
    assert average_precision(scores, labels) == pytest.approx(area, abs=1e-12)


# ---- pixels ----------------------------------------------------------------------------------------------------------


def test_pixel_roc_auc_takes_all_pixels_of_all_images_together(rng):
    """Not the mean over images: all scores of the second image are higher, which changes the ranking."""
    maps, masks = rng.random((2, 5, 3)).astype(np.float32), rng.random((2, 5, 3)) < 0.3
    maps[1] += 0.5
    bad = [float(maps[place]) for place in np.ndindex(2, 5, 3) if masks[place]]
    normal = [float(maps[place]) for place in np.ndindex(2, 5, 3) if not masks[place]]
    pairs = np.mean([a > b for a in bad for b in normal])
    assert pixel_roc_auc(maps, masks) == pytest.approx(pairs)
    assert abs(np.mean([roc_auc_score(mask.ravel(), one.ravel()) for one, mask in zip(maps, masks)]) - pairs) > 0.01


def test_pixels_of_all_images_are_ranked_together_for_precision_too(rng):
    maps, masks = rng.random((2, 5, 3)).astype(np.float32), rng.random((2, 5, 3)) < 0.3
    assert pixel_average_precision(maps, masks) == average_precision(maps.ravel(), masks.ravel())
    assert pixel_f1_max(maps, masks) == f1_max(maps.ravel(), masks.ravel())


def test_aupro_by_hand():
    """Two regions: A, two pixels of the top row; B, two pixels that touch at a corner. Twelve normal pixels.

    ======  ============  ======  ======================
    score   passes        FPR     mean overlap of A, B
    ======  ============  ======  ======================
    9       one of A      0       (1/2 + 0) / 2 = 1/4
    8       a normal one  1/12    1/4
    7       one of B      1/12    (1/2 + 1/2) / 2 = 1/2
    6       B, a normal   2/12    (1/2 + 1) / 2 = 3/4
    5       one of A      2/12    1
    0       all others    1       1
    ======  ============  ======  ======================

    Up to FPR 3/12, in twelfths: 1/4 + (1/2 + 3/4) / 2 + 1 = 15/8; by the width, 3: 5/8.
    Up to FPR 1/8, one twelfth and a half: 1/4, and half a twelfth from 1/2 to 5/8: 9/32. Together 17/32; by 3/2: 17/48.
    """
    masks = np.array([[[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]], bool)
    maps = np.array([[[9, 5, 0, 8], [0, 0, 0, 0], [0, 6, 7, 0], [0, 0, 0, 6]]], np.float32)
    assert aupro(maps, masks, fpr_limit=0.25) == pytest.approx(5 / 8)
    assert aupro(maps, masks, fpr_limit=0.125) == pytest.approx(17 / 48)
    assert aupro_by_definition(maps, masks, 0.25) == pytest.approx(5 / 8)


@given(seeds, st.integers(1, 3), st.integers(2, 9), st.integers(2, 7), steps, st.sampled_from([0.05, 0.3, 0.5, 1.0]))
def test_aupro_is_the_definition_over_all_thresholds(seed, n, height, width, steps, limit):
    maps, masks = draw_scores(seed, (n, height, width), steps)
    assert aupro(maps, masks, limit) == pytest.approx(aupro_by_definition(maps, masks, limit), abs=1e-6)


def test_every_defect_counts_alike_however_small():
    """One region of a single pixel is missed, one of thirty is found at once: one half, not 30/31."""
    masks = np.zeros((1, 7, 11), bool)
    masks[0, 1:6, 1:7] = True
    masks[0, 3, 9] = True
    maps = masks.astype(np.float32)
    maps[0, 3, 9] = -1
    assert aupro(maps, masks) == pytest.approx(0.5)
    assert pixel_roc_auc(maps, masks) == pytest.approx(30 / 31)


def test_diagonal_neighbours_are_one_region():
    """A diagonal pair with one pixel found, and a single pixel missed: 1/4. As three regions it would be 1/3."""
    masks = np.zeros((1, 20, 30), bool)
    masks[0, [3, 4, 9], [3, 4, 9]] = True
    maps = np.zeros((1, 20, 30), np.float32)
    maps[0, 3, 3] = 2
    maps[~masks] = 1
    assert aupro(maps, masks) == pytest.approx(1 / 4)
    masks[0, 3, 4] = False
    turned = masks[:, :, ::-1]
    assert aupro(maps[:, :, ::-1], turned) == pytest.approx(1 / 4)  # the other diagonal, too


def test_regions_do_not_reach_across_images():
    """The same pixel in two images, found in one and missed in the other."""
    masks = np.zeros((2, 6, 5), bool)
    masks[:, 2, 3] = True
    maps = np.where(masks, 0, 1.0)
    maps[0, 2, 3] = 2
    assert aupro(maps, masks) == pytest.approx(1 / 2)


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_constant_maps_give_half_the_limit(limit):
    """With one threshold the curve is the diagonal; its mean height up to the limit is half the limit."""
    masks = np.zeros((2, 9, 7), bool)
    masks[0, 2:5, 1:4] = True
    assert aupro(np.full((2, 9, 7), 3.0), masks, limit) == pytest.approx(limit / 2)


@given(seeds, steps)
def test_monotonic_transforms_of_scores_change_nothing(seed, steps):
    maps, masks = draw_scores(seed, (2, 7, 5), steps)
    scores, labels = maps.ravel(), masks.ravel()
    for stretched in (100 * maps + 1000, (maps - maps.min()) ** 3, np.arctan(maps)):
        assert len(np.unique(stretched)) == len(np.unique(maps))
        assert aupro(stretched, masks) == pytest.approx(aupro(maps, masks), abs=1e-12)
        assert pixel_roc_auc(stretched, masks) == pytest.approx(pixel_roc_auc(maps, masks), abs=1e-12)
        assert f1_max(stretched.ravel(), labels) == pytest.approx(f1_max(scores, labels), abs=1e-12)


def test_the_best_and_the_worst_map(rng):
    masks = rng.random((3, 11, 8)) < 0.2
    assert aupro(masks.astype(np.float32), masks) == pytest.approx(1)
    assert pixel_roc_auc(masks.astype(np.float32), masks) == 1
    inverse = rng.random(masks.shape) - 2.0 * masks  # every normal pixel ranks above every defect
    assert aupro(inverse, masks) == 0
    assert pixel_roc_auc(inverse, masks) == 0


@pytest.mark.usefixtures("unchecked")
def test_maps_and_labels_of_whole_numbers_are_ranked_the_same(rng):
    """Maps read from a grey image are unsigned and must not wrap around."""
    maps, masks = rng.integers(0, 256, (2, 9, 7)), rng.random((2, 9, 7)) < 0.3
    maps[masks] = np.minimum(maps[masks] + 90, 255)
    wanted = aupro(maps.astype(float), masks)
    assert aupro(maps.astype(np.uint8), masks.astype(np.uint8) * 255) == pytest.approx(wanted, abs=1e-12)
    assert roc_auc([1, 2, 3], [0, 1, 1]) == 1


# ---- errors ----------------------------------------------------------------------------------------------------------

OF_IMAGES = (roc_auc, average_precision, f1_max)
OF_PIXELS = (pixel_roc_auc, pixel_average_precision, pixel_f1_max, aupro)
FLAT = {"scores": np.arange(4.0), "labels": np.array([False, True, False, True])}
DEEP = {"maps": np.arange(24.0).reshape(2, 3, 4), "masks": np.arange(24).reshape(2, 3, 4) % 2 == 0}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("metric", [*OF_IMAGES, *OF_PIXELS])
def test_each_mistake_raises_a_clear_error(metric):
    scores, truth = (FLAT if metric in OF_IMAGES else DEEP).values()
    assert 0 <= metric(scores, truth) <= 1
    for wrong in (np.nan, np.inf, -np.inf):
        spoilt = scores.copy()
        spoilt.flat[2] = wrong
        with pytest.raises(ValueError, match=r"finite numbers, but some are NaN or infinite. Use the map on the crop"):
            metric(spoilt, truth)
    with pytest.raises(ValueError, match=r"(labels|masks) hold only normal ones. Add the others"):
        metric(scores, truth & False)
    with pytest.raises(ValueError, match=r"(labels|masks) hold only anomalous ones"):
        metric(scores, truth | True)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("metric", OF_PIXELS)
def test_mismatched_shapes_raise_an_error(metric):
    """Transposed masks have the same number of pixels, and would give a wrong number silently."""
    maps, masks = DEEP.values()
    for wrong, shape in ((masks.transpose(0, 2, 1), r"\(2, 4, 3\)"), (masks[:1], r"\(1, 3, 4\)")):
        with pytest.raises(ValueError, match=r"the same shape \(n, H, W\); got \(2, 3, 4\) and " + shape):
            metric(maps, wrong)
    with pytest.raises(ValueError, match=r"got \(3, 4\) and \(3, 4\)\."):
        metric(maps[0], masks[0])
    with pytest.raises(ValueError, match=r"got \(2, 3, 4\) and \(2, 3, 4\) and \(1, 3, 4\)\."):
        metric(maps, masks, rois=masks[:1])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("metric", OF_PIXELS)
def test_rois_may_be_masks_as_files_hold_them(metric):
    """Taken as indices, 0 and 1 would pick whole images."""
    maps, masks = DEEP.values()
    rois = np.arange(24).reshape(2, 3, 4) % 3 > 0
    for given_rois in (rois.astype(np.uint8), 255 * rois.astype(np.uint8), rois.tolist()):
        assert metric(maps, masks, rois=given_rois) == metric(maps, masks, rois=rois)


@pytest.mark.parametrize("limit", [0, -0.1, 1.1])
def test_an_invalid_limit_raises_an_error(limit):
    with pytest.raises(ValueError, match=f"a rate above 0 and up to 1; got {limit}"):
        aupro(*DEEP.values(), fpr_limit=limit)


@pytest.mark.usefixtures("unchecked")
def test_strings_are_not_labels():
    with pytest.raises(
        ValueError, match="labels must be True for anomalous and False for normal; got values of type <U4"
    ):
        roc_auc(np.array([1.0, 2.0]), ["good", "bent"])
    with pytest.raises(ValueError, match=r"Scores and labels must have the same shape; got \(3,\) and \(2,\)"):
        roc_auc(np.array([1.0, 2.0, 3.0]), [True, False])


def test_the_f1_threshold_is_where_f1_is_best():
    scores, labels = np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])
    assert f1_threshold(scores, labels) == 0.35  # 0.8: F1 2/3; 0.4: 1/2; 0.35: 4/5; 0.1: 2/3
    assert f1_max(scores, labels) == pytest.approx(0.8)
