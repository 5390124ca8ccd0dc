"""The reference implementation: by hand on a few cells, then against the package on images."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from spade_kit import Pyramid, extract_features, reference


def make_pyramid(*levels, pooled):
    """Levels (n, h, w) of one channel, or (n, c, h, w)."""
    levels = [torch.as_tensor(level, dtype=torch.float32) for level in levels]
    names = [f"layer{number}" for number in range(1, len(levels) + 1)]
    return Pyramid([x if x.ndim == 4 else x[:, None] for x in levels], names, torch.tensor(pooled).float())


def test_a_hand_worked_case_of_two_levels():
    """The coarse cell adds 9 to all of image 0 and 0 to all of image 1; image 2 is not retrieved."""
    query = make_pyramid([[[1, 2], [3, 9]]], [[[5]]], pooled=[[0, 0]])
    fine = [[[1, 2], [3, 9]], [[1, 4], [3, 3]], [[1, 2], [3, 9]]]
    gallery = make_pyramid(fine, [[[8]], [[5]], [[5]]], pooled=[[0, 2], [1, 0], [9, 9]])
    anomaly_map, match = reference.judge(query, gallery, k=2, sigma=0, size=(2, 2))
    np.testing.assert_allclose(anomaly_map, [[0, 1], [0, 3]])  # 9: 9 + 0 in image 0 against 0 + 25 in image 1
    np.testing.assert_array_equal(match[0], [[[1, 0, 0], [1, 0, 0]], [[1, 1, 0], [0, 1, 1]]])
    anomaly_map, match = reference.judge(query, gallery, k=2, kappa=2, sigma=0, size=(2, 2))
    np.testing.assert_allclose(anomaly_map, [[1, 1], [0, 4]])  # the means of 0, 2; 1, 1; 0, 0; 3, 5
    np.testing.assert_array_equal(match[1], [[[1, 1, 0], [1, 1, 0]], [[1, 1, 1], [1, 0, 1]]])


def test_the_radius_is_a_square_window_and_ties_go_to_the_first():
    """A line of five cells of 0 and 4: with a radius of two cells, the ends find a 4."""
    query = make_pyramid([[[4, 0, 0, 0, 4]]], pooled=[[0]])
    gallery = make_pyramid([[[0, 0, 4, 0, 0]], [[0, 0, 4, 0, 0]]], pooled=[[2], [1]])
    for radius, ends in ((0, 4), (1, 4), (2, 0), (None, 0)):
        anomaly_map, match = reference.judge(query, gallery, radius=radius, sigma=0, size=(1, 5))
        np.testing.assert_allclose(anomaly_map, [[ends, 0, 4 if radius == 0 else 0, 0, ends]])
        assert (match[..., 0] == 1).all()  # retrieved first
    np.testing.assert_array_equal(match[0, 0, :, 2], [2, 0, 0, 0, 2])


def test_a_shifted_copy_is_found_where_it_came_from(rng):
    levels = [rng.normal(size=(3, c, 6 * 2**step, 4 * 2**step)) for c, step in ((5, 2), (6, 1), (7, 0))]
    gallery = make_pyramid(*levels, pooled=[[1], [0], [2]])
    shifted = [np.roll(level[2:], (2 * step, step), (2, 3)) for level, step in zip(levels, (4, 2, 1))]
    anomaly_map, match = reference.judge(make_pyramid(*shifted, pooled=[[0]]), gallery, size=(48, 16))
    rows, cols = np.indices((24, 16))
    assert anomaly_map.max() == 0
    np.testing.assert_array_equal(match[0], np.stack([np.full_like(rows, 2), (rows - 8) % 24, (cols - 4) % 16], -1))


@pytest.mark.parametrize("radius", [None, 1])
def test_distances_are_sums_of_squares_on_any_grids(rng, radius):
    query, gallery = ([rng.normal(size=(n, c, h, w)) for c, h, w in ((2, 5, 4), (3, 3, 2))] for n in (1, 2))
    table = reference.all_distances([level[0] for level in query], gallery, [0.5, 2], radius).reshape(5, 4, 2, 5, 4)
    for row, col, image, there, across in np.ndindex(table.shape):
        if radius is not None and max(abs(row - there), abs(col - across)) > radius:
            assert table[row, col, image, there, across] == np.inf
            continue
        fine = query[0][0, :, row, col] - gallery[0][image, :, there, across]
        coarse = query[1][0, :, row * 3 // 5, col // 2] - gallery[1][image, :, there * 3 // 5, across // 2]
        by_hand = 0.5 * sum(fine**2) + 2 * sum(coarse**2)
        assert table[row, col, image, there, across] == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize(("h", "w", "size"), [(5, 7, (20, 21)), (5, 7, (5, 7)), (6, 3, (4, 11)), (1, 2, (3, 3))])
def test_maps_are_bilinear_like_those_of_torch(rng, h, w, size):
    grid = rng.normal(size=(h, w))
    wanted = torch.nn.functional.interpolate(torch.from_numpy(grid)[None, None], size, mode="bilinear")[0, 0]
    np.testing.assert_allclose(reference.blend(size[0], h) @ grid @ reference.blend(size[1], w).T, wanted, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"kappa": 2, "radius": 3, "sigma": 1}], ids=str)
@pytest.mark.parametrize("number", [20, 33])
def test_the_package_agrees_with_the_reference(spade, demo, number, options):
    photo, normal = demo.test[number], extract_features(demo.train[:12])
    query = extract_features(photo)
    anomaly_map, match = reference.judge(query, normal, k=5, **options)
    result = spade.with_options(**options).predict(photo)
    np.testing.assert_allclose(result.anomaly_map, anomaly_map, rtol=1e-4)
    found = result.correspondence
    places = np.stack([result.neighbours.index[found.image], found.row, found.col], -1)
    asked, held = ([level.numpy() for level in levels] for levels in (query.levels, normal.levels))
    largest = sum((level**2).sum(1).max() for level in (*asked, *held))
    for rank, row, col in np.argwhere((places != match).any(-1)):  # equally near, up to rounding
        table = reference.distances_of_row([level[0] for level in asked], held, row, [1, 1, 1])[col].reshape(12, 56, 56)
        assert abs(table[tuple(places[rank, row, col])] - table[tuple(match[rank, row, col])]) <= 1e-6 * largest
    assert (places == match).mean() > 0.99


def test_a_threshold_makes_a_segmentation():
    np.testing.assert_array_equal(reference.segment(np.array([[1, 2], [3, 4]]), 3), [[False, False], [True, True]])


def test_it_needs_no_torch():
    script = "import sys, spade_kit; spade_kit.reference.judge; print('torch' in sys.modules, 'numba' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]
