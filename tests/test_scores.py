"""Maps, shares and thresholds against hand-worked cases."""

from fractions import Fraction
from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import convolve1d

from spade_kit.correspondence import Correspondence
from spade_kit.scores import find_threshold, make_map, share_out, threshold_interval


def bilinear_by_hand(grid, size):
    """Sample positions (i + 0.5) * h / H - 0.5, clamped at the border, in float64."""
    (h, w), (H, W) = grid.shape, size
    out = np.zeros(size)
    for row in range(H):
        for col in range(W):
            y, x = np.clip((row + 0.5) * h / H - 0.5, 0, h - 1), np.clip((col + 0.5) * w / W - 0.5, 0, w - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
            upper = grid[top, left] * (1 - x + left) + grid[top, right] * (x - left)
            lower = grid[bottom, left] * (1 - x + left) + grid[bottom, right] * (x - left)
            out[row, col] = upper * (1 - y + top) + lower * (y - top)
    return out


def test_a_map_is_bilinear_then_gaussian(rng):
    grid = rng.random((3, 5)).astype(np.float32)
    offsets = np.arange(-8, 9)  # four sigma
    kernel = np.exp(-(offsets**2) / (2 * 2.0**2))
    expected = bilinear_by_hand(grid, (24, 20))
    for axis in (0, 1):
        expected = convolve1d(expected, kernel / kernel.sum(), axis=axis, mode="reflect")
    np.testing.assert_allclose(make_map(grid, (24, 20), 2.0), expected, rtol=1e-5)


def test_sigma_0_does_not_smooth(rng):
    grid = rng.random((4, 2)).astype(np.float32)
    np.testing.assert_allclose(make_map(grid, (8, 6), 0), bilinear_by_hand(grid, (8, 6)), rtol=1e-5)


def test_shares_follow_the_squared_distances_and_add_up():
    nothing = np.zeros((1, 1, 2), int)
    found = Correspondence(
        np.array([[5.0, 0.0]], np.float32), np.array([[[9.0, 0.0]], [[16.0, 0.0]]]), nothing, nothing, nothing
    )
    np.testing.assert_allclose(share_out(found)[:, 0, 0], [5 * 9 / 25, 5 * 16 / 25])
    np.testing.assert_array_equal(share_out(found)[:, 0, 1], [0, 0])  # 0 / 0 = 0


@pytest.mark.parametrize(
    ("count", "fpr", "rank"),
    [
        (99, 0.01, 99),
        (100, 0.01, 100),
        (199, 0.01, 198),
        (9, 0.1, 9),
        (19, 0.1, 18),
        (3, 0.5, 2),
        (1000, 0.05, 951),
        (149, 0.18, 123),
    ],
)
def test_the_threshold_is_the_score_of_that_rank(rng, count, fpr, rank):
    scores = rng.permutation(np.arange(1, count + 1)).astype(np.float32)
    assert find_threshold(scores, fpr) == rank


@given(st.integers(1, 40), st.integers(1, 12))
def test_a_rate_near_1_takes_the_smallest_score(count, digits):
    """Ranks in exact fractions."""
    fpr = float(f"0.{'9' * digits}")
    rank = max(1, ceil((count + 1) * (1 - Fraction(f"0.{'9' * digits}"))))
    if rank <= count:
        assert find_threshold(np.arange(1.0, count + 1), fpr) == rank


def test_with_too_few_normals_the_largest_is_used_with_a_warning():
    with pytest.warns(UserWarning, match=r"0.01 needs at least 99 normal scores; got 48\. Using the largest"):
        assert find_threshold(np.arange(48.0), 0.01) == 47


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.05, 0.1, 0.25]))
def test_a_new_normal_is_marked_as_often_as_allowed(seed, fpr):
    """The guarantee, by counting: of n + 1 exchangeable scores, at most fpr exceed the threshold of the others."""
    scores = np.random.default_rng(seed).normal(size=60)
    marked = [scores[i] > find_threshold(np.delete(scores, i), fpr) for i in range(60)]
    assert np.mean(marked) <= fpr


def test_upsampling_is_that_of_torch(rng):
    grid = rng.random((5, 3)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(torch.tensor(grid)[None, None], (17, 12), mode="bilinear")[0, 0]
    np.testing.assert_allclose(make_map(grid, (17, 12), 0), theirs, rtol=1e-6)


@pytest.mark.parametrize("of", ["image", "pixel"])
@pytest.mark.parametrize("groups", [None, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]])
def test_a_threshold_interval_is_that_of_thresholds_over_draws(spade, of, groups):
    maps = list(spade.calibration.maps(spade.options, groups=groups))
    rng, names = np.random.default_rng(0), list(dict.fromkeys(groups or range(12)))
    drawn, fpr = [], 0.1
    for _ in range(60):
        chosen = np.bincount(rng.choice(len(names), len(names)), minlength=len(names))
        picked = [maps[at] for at in range(12) for _ in range(chosen[names.index(groups[at] if groups else at)])]
        scores = [values.max() for values in picked] if of == "image" else np.concatenate([m.ravel() for m in picked])
        drawn.append(np.sort(scores)[min(int(np.ceil((len(scores) + 1) * (1 - fpr))), len(scores)) - 1])
    low, high = spade.threshold_interval(fpr, of=of, groups=groups, level=0.8, draws=60)
    np.testing.assert_allclose((low, high), np.quantile(drawn, [0.1, 0.9]), rtol=1e-6 if of == "image" else 2e-3)
    assert low <= spade.threshold(fpr, of=of, groups=groups) <= high


def test_one_score_has_an_interval_without_width():
    assert threshold_interval([np.array([3.0])] * 5, range(5), 0.2, 0.95, 20, 0) == (3.0, 3.0)
