"""Stage 3: branch and bound, its plain NumPy version and brute force against the definition in float64."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain_branch_and_bound import plain_branch_and_bound

from spade_kit import Pyramid, correspondence, match_pixels, reference, scores
from spade_kit.search.branch_and_bound import search_branch_and_bound, supports_branch_and_bound
from spade_kit.search.brute_force import search_brute_force
from spade_kit.search.layout import SimdLayout, within

seeds = st.integers(0, 2**32 - 1)


def make_pyramid(rng, n, grids, channels, whole=False):
    """Random features; ``whole`` numbers cause ties and make every sum exact."""
    levels = [
        rng.integers(0, 3, (n, c, *grid)) if whole else rng.normal(size=(n, c, *grid))
        for c, grid in zip(channels, grids)
    ]
    names = [f"layer{number}" for number in range(1, len(grids) + 1)]
    return Pyramid([torch.tensor(level, dtype=torch.float32) for level in levels], names, torch.zeros(n, 1))


def halving(rows, cols, levels):
    return [(rows * 2**step, cols * 2**step) for step in reversed(range(levels))]


def places(found):
    _, h, w = found.image.shape
    return found.image * h * w + found.row * w + found.col


def arrays(pyramid):
    return [level.numpy() for level in pyramid.levels]


def oracle(query, gallery, weights, radius=None):
    return reference.all_distances([level[0] for level in arrays(query)], arrays(gallery), weights, radius)


@st.composite
def searches(draw, nesting=True):
    """Parameters of a search that is small enough for the reference, with odd and unequal sizes."""
    levels = draw(st.integers(2, 4) if nesting else st.integers(1, 3))
    if nesting:
        rows, cols = (draw(st.integers(1, 3)) for _ in "hw")
        grids = {2: halving(2 * rows, 2 * cols, 2), 3: halving(rows, cols, 3), 4: halving(1, 2, 4)}[levels]
    else:
        sides = [sorted((draw(st.integers(1, 9)) for _ in range(levels)), reverse=True) for _ in "hw"]
        grids = list(zip(*sides))
    channels = [draw(st.integers(1, 19)) for _ in grids]
    n = draw(st.integers(1, 4))
    kind = draw(st.sampled_from(["other", "member", "twins", "flat"]))
    radius = draw(st.sampled_from([None, 0, 1, 3]))
    h, w = grids[0]
    corner = n * (h * w if radius is None else min(radius + 1, h) * min(radius + 1, w))
    kappa = draw(st.integers(1, min(corner, 4)))
    weights = [draw(st.sampled_from([0.25, 1, 2])), *(draw(st.sampled_from([0, 0.25, 1, 2])) for _ in grids[1:])]
    weights = draw(st.permutations(weights))
    return draw(seeds), grids, channels, n, kind, draw(st.booleans()), weights, kappa, radius


def build(recipe):
    """A query, a gallery and options."""
    seed, grids, channels, n, kind, whole, *options = recipe
    rng = np.random.default_rng(seed)
    gallery, query = (make_pyramid(rng, count, grids, channels, whole) for count in (n, 1))
    if kind == "member":
        query = gallery.select(rng.integers(n))
    if kind == "twins":
        gallery = gallery.select(np.zeros(n, int))
    if kind == "flat":
        query, gallery = (Pyramid([x * 0 + 1 for x in p.levels], p.layers, p.pooled) for p in (query, gallery))
    return query, gallery, *options


def check_against_the_definition(found, query, gallery, weights, kappa, radius):
    """Squared distances to 1e-6 (|q|^2 + |g|^2); places are compared where the runner-up is farther than that."""
    table = oracle(query, gallery, weights, radius)
    place, squared = reference.nearest(table, kappa)
    norms = [sum(weight * (x**2).sum(1).max() for weight, x in zip(weights, arrays(p))) for p in (query, gallery)]
    slack = 1e-6 * sum(norms)
    got = places(found).reshape(kappa, -1)
    np.testing.assert_allclose(np.take_along_axis(table, got.T, 1).T, squared, rtol=0, atol=slack)
    np.testing.assert_allclose(found.distance.ravel(), np.sqrt(squared).mean(0), rtol=1e-5, atol=np.sqrt(slack))
    ranked = np.sort(table, axis=1)[:, : kappa + 1]
    ranked = np.pad(ranked, ((0, 0), (0, 1)), constant_values=np.inf)[:, : kappa + 1]
    clear = (np.diff(ranked, axis=1) > 2 * slack).all(1)
    np.testing.assert_array_equal(got[:, clear], place[:, clear])


@given(searches())
def test_branch_and_bound_finds_what_comparing_all_pairs_finds(search):
    query, gallery, weights, kappa, radius = build(search)
    assert supports_branch_and_bound([level.shape for level in gallery.levels])
    named = dict(zip(gallery.layers, weights))
    found = match_pixels(query, gallery, kappa=kappa, radius=radius, weights=named)
    check_against_the_definition(found, query, gallery, weights, kappa, radius)


@given(searches(nesting=False))
def test_brute_force_on_any_grids_finds_what_comparing_all_pairs_finds(search):
    query, gallery, weights, kappa, radius = build(search)
    named = dict(zip(gallery.layers, weights))
    found = match_pixels(query, gallery, kappa=kappa, radius=radius, weights=named)
    check_against_the_definition(found, query, gallery, weights, kappa, radius)


@given(searches())
def test_brute_force_and_plain_branch_and_bound_find_exactly_the_same_places(search):
    """With weights that are powers of two and integer features every sum is exact, so that all find the same ties."""
    query, gallery, weights, kappa, radius = build(search)
    query, gallery = (Pyramid([x.round() for x in p.levels], p.layers, p.pooled) for p in (query, gallery))
    named = dict(zip(gallery.layers, weights))
    fast = places(match_pixels(query, gallery, kappa=kappa, radius=radius, weights=named))
    h, w = gallery.grid
    window = None if radius is None else tuple(within(side, side, radius) for side in (h, w))
    brute = search_brute_force(query.levels, gallery.levels, np.float32(weights), kappa, window)
    _, plain, _ = plain_branch_and_bound([level[0] for level in arrays(query)], arrays(gallery), weights, kappa, radius)
    expected, _ = reference.nearest(oracle(query, gallery, weights, radius), kappa)
    for place in (fast, brute, plain):
        np.testing.assert_array_equal(place.reshape(kappa, -1), expected)


def test_a_hand_worked_case():
    """Two levels on a line of four pixels: the sum over levels decides, not the nearest pixel of one level."""
    fine = torch.tensor([[0.0, 1.0, 2.0, 9.0], [5.0, 5.0, 2.0, 2.0]]).view(2, 1, 1, 4)
    coarse = torch.tensor([[0.0, 10.0], [3.0, 10.0]]).view(2, 1, 1, 2)
    gallery = Pyramid([fine, coarse], ["layer1", "layer2"], torch.zeros(2, 1))
    query = Pyramid(
        [torch.tensor([0.0, 2.0, 2.0, 8.0]).view(1, 1, 1, 4), torch.tensor([0.0, 9.0]).view(1, 1, 1, 2)],
        ["layer1", "layer2"],
        torch.zeros(1, 1),
    )
    found = match_pixels(query, gallery)
    np.testing.assert_allclose(found.distance, np.sqrt([[0, 1, 1, 2]]))
    np.testing.assert_array_equal(found.image[0], [[0, 0, 0, 0]])
    np.testing.assert_array_equal(found.col[0], [[0, 1, 2, 3]])
    np.testing.assert_array_equal(found.layer_distance[:, 0], [[0, 1, 0, 1], [0, 0, 1, 1]])


def test_a_copy_shifted_by_whole_blocks_is_found_where_it_came_from(rng):
    gallery = make_pyramid(rng, 3, [(24, 16), (12, 8), (6, 4)], [5, 6, 7])
    blocks = (2, 1)
    shifted = [
        torch.roll(level[1:2], [blocks[0] * 2**step, blocks[1] * 2**step], (2, 3))
        for step, level in zip((2, 1, 0), gallery.levels)
    ]
    found = match_pixels(Pyramid(shifted, gallery.layers, torch.zeros(1, 1)), gallery)
    rows, cols = np.indices((24, 16))
    assert found.distance.max() == 0
    np.testing.assert_array_equal(found.image[0], 1)
    np.testing.assert_array_equal(found.row[0], (rows - 8) % 24)
    np.testing.assert_array_equal(found.col[0], (cols - 4) % 16)


@pytest.mark.parametrize("grids", [[(12, 8), (6, 4), (3, 2)], [(7, 5), (3, 2)], [(6, 5)]])
def test_equal_features_are_at_distance_0_whatever_their_size(rng, grids):
    gallery = make_pyramid(rng, 3, grids, [9] * len(grids))
    gallery = Pyramid([1e4 * level for level in gallery.levels], gallery.layers, gallery.pooled)
    for combine in ("concat", "ensemble"):
        assert match_pixels(gallery.select(2), gallery, combine=combine).distance.max() == 0


@pytest.mark.parametrize("grids", [[(12, 8), (6, 4), (3, 2)], [(7, 5), (3, 2)]])
def test_another_gallery_image_can_only_bring_pixels_closer(rng, grids):
    gallery, query = make_pyramid(rng, 6, grids, [4] * len(grids)), make_pyramid(rng, 1, grids, [4] * len(grids))
    distances = [match_pixels(query, gallery.select(range(n))).distance for n in range(1, 7)]
    assert all((more <= less).all() for less, more in pairwise(distances))
    assert (distances[-1] < distances[0]).any()


@pytest.mark.parametrize("grids", [[(12, 8), (6, 4), (3, 2)], [(7, 5), (3, 2)]])
def test_the_order_of_the_gallery_changes_nothing_but_the_indices(rng, grids):
    gallery, query = make_pyramid(rng, 5, grids, [4] * len(grids)), make_pyramid(rng, 1, grids, [4] * len(grids))
    order = rng.permutation(5)
    found, again = match_pixels(query, gallery), match_pixels(query, gallery.select(order))
    np.testing.assert_array_equal(found.distance, again.distance)
    np.testing.assert_array_equal(found.image, order[again.image])
    np.testing.assert_array_equal(found.row, again.row)


def test_any_number_of_threads_gives_the_same_result(rng):
    query, gallery = (make_pyramid(rng, n, halving(5, 3, 3), [3, 4, 5], whole=True) for n in (1, 4))
    before = torch.get_num_threads()
    answers = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            answers.append(places(match_pixels(query, gallery, kappa=3)))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])


def test_searches_from_several_threads_at_once_do_not_mix(rng):
    gallery = make_pyramid(rng, 3, halving(4, 5, 3), [3, 4, 5])
    queries = [make_pyramid(rng, 1, halving(4, 5, 3), [3, 4, 5]) for _ in range(8)]
    alone = [places(match_pixels(query, gallery)) for query in queries]
    with ThreadPoolExecutor(8) as pool:
        together = [places(found) for found in pool.map(lambda query: match_pixels(query, gallery), queries)]
    np.testing.assert_array_equal(alone, together)


def test_a_gallery_is_searched_in_place_by_image(rng):
    """Some images out of many, in retrieval order: as if only they had been laid out."""
    gallery, query = (make_pyramid(rng, n, halving(3, 5, 3), [3, 4, 5]) for n in (7, 1))
    lanes = SimdLayout(7, [tuple(level.shape[1:]) for level in gallery.levels])
    lanes.write(0, [level[:4] for level in gallery.levels])
    lanes.write(4, [level[4:] for level in gallery.levels])
    images = np.array([5, 0, 6])
    place = search_branch_and_bound(SimdLayout.of(query.levels), lanes, images, np.ones(3), 2, None)
    np.testing.assert_array_equal(place, places(match_pixels(query, gallery.select(images), kappa=2)))
    for held, level in zip(lanes.read(images), gallery.levels):
        torch.testing.assert_close(held, level[images], rtol=0, atol=0)


@given(seeds, st.integers(1, 3), st.integers(1, 3), st.integers(3, 4))
def test_a_layout_reads_back_unchanged(seed, rows, cols, levels):
    rng = np.random.default_rng(seed)
    pyramid = make_pyramid(rng, 2, halving(rows, cols, levels), range(3, 3 + levels))
    lanes = SimdLayout(2, [tuple(level.shape[1:]) for level in pyramid.levels])
    lanes.write(0, pyramid.levels)
    for held, level in zip(lanes.read(np.arange(2)), pyramid.levels):
        torch.testing.assert_close(held, level, rtol=0, atol=0)


def test_plain_branch_and_bound_measures_fewer_than_all_pairs(rng):
    """Smooth images, like real features: the coarse level alone excludes most blocks."""
    smooth = np.cumsum(rng.normal(size=(3, 4, 8, 8)), axis=3)
    coarse, middle, fine = (np.kron(smooth, np.ones((1, 1, step, step))) for step in (1, 2, 4))
    fine = fine + 0.1 * rng.normal(size=fine.shape)
    query = [level[0] + 0.05 for level in (fine, middle, coarse)]
    _, _, visits = plain_branch_and_bound(query, (fine, middle, coarse), [1, 1, 1])
    assert visits.measured[0] < 0.2 * visits.possible[0]
    assert visits.possible == [3 * 1024**2, 3 * 256**2, 3 * 64**2]


def test_matrix_products_are_computed_in_full_precision(rng):
    """With bfloat16 products, which a user may turn on in torch, the bounds would not hold."""
    gallery, query = (make_pyramid(rng, n, halving(4, 4, 3), [3, 3, 32]) for n in (4, 1))
    expected = places(match_pixels(query, gallery))
    torch.set_float32_matmul_precision("medium")
    try:
        np.testing.assert_array_equal(places(match_pixels(query, gallery)), expected)
        assert torch.get_float32_matmul_precision() == "medium"
        with torch.autocast("cpu", dtype=torch.bfloat16):
            np.testing.assert_array_equal(places(match_pixels(query, gallery)), expected)
            single = [Pyramid(p.levels[2:], p.layers[2:], p.pooled) for p in (query, gallery)]
            assert match_pixels(single[1].select(2), single[1]).distance.max() == 0
    finally:
        torch.set_float32_matmul_precision("highest")


def test_without_numba_the_result_is_the_same(tmp_path, rng):
    gallery, query = (make_pyramid(rng, n, halving(2, 3, 3), [3, 4, 5]) for n in (3, 1))
    torch.save([query.levels, gallery.levels], tmp_path / "levels.pt")
    script = (
        "import sys; sys.modules['numba'] = None\n"
        "import numpy, torch; from spade_kit import Pyramid, match_pixels\n"
        f"query, gallery = torch.load({str(tmp_path / 'levels.pt')!r}, weights_only=True)\n"
        "make = lambda x: Pyramid(x, ['layer1', 'layer2', 'layer3'], torch.zeros(len(x[0]), 1))\n"
        "found = match_pixels(make(query), make(gallery), kappa=2, radius=3)\n"
        f"numpy.savez({str(tmp_path / 'found.npz')!r}, **vars(found))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    without, found = np.load(tmp_path / "found.npz"), match_pixels(query, gallery, kappa=2, radius=3)
    for name, value in vars(found).items():
        np.testing.assert_array_equal(without[name], value)


# ---- options ---------------------------------------------------------------------------------------------------------


def test_radius_0_and_kappa_k_match_common_pseudocode(rng):
    """The mean distance to the pixel at the same position in each retrieved image, written out."""
    gallery, query = (make_pyramid(rng, n, [(8, 12), (4, 6), (2, 3)], [3, 4, 5]) for n in (6, 1))
    found = match_pixels(query, gallery, radius=0, kappa=6)
    by_hand = np.zeros((8, 12))
    for row in range(8):
        for col in range(12):
            for image in range(6):
                squared = 0.0
                for step, asked, held in zip((1, 2, 4), arrays(query), arrays(gallery)):
                    difference = asked[0, :, row // step, col // step] - held[image, :, row // step, col // step]
                    squared += float(difference.astype(np.float64) @ difference.astype(np.float64))
                by_hand[row, col] += np.sqrt(squared) / 6
    np.testing.assert_allclose(found.distance, by_hand, rtol=1e-5)


def test_equal_weights_are_one_over_the_summed_variance(rng):
    gallery, query = (make_pyramid(rng, n, [(8, 4), (4, 2)], [3, 5]) for n in (4, 1))
    by_hand = {
        name: float(1 / level.transpose(1, 0, 2, 3).reshape(level.shape[1], -1).astype(float).var(axis=1).sum())
        for name, level in zip(gallery.layers, arrays(gallery))
    }
    equal, named = (match_pixels(query, gallery, weights=weights) for weights in ("equal", by_hand))
    np.testing.assert_allclose(equal.distance, named.distance, rtol=1e-6)


def test_a_weight_multiplies_the_squared_distance(rng):
    gallery, query = (make_pyramid(rng, n, [(8, 4), (4, 2), (2, 1)], [3, 5, 2]) for n in (4, 1))
    plain, heavy = (
        match_pixels(query, gallery),
        match_pixels(query, gallery, weights=dict.fromkeys(gallery.layers, 4.0)),
    )
    np.testing.assert_allclose(heavy.distance, 2 * plain.distance, rtol=1e-6)
    np.testing.assert_allclose(heavy.layer_distance, 4 * plain.layer_distance, rtol=1e-6)


def test_the_ensemble_averages_levels_matched_each_on_its_own_grid(rng):
    gallery, query = (make_pyramid(rng, n, [(8, 12), (4, 6)], [3, 4]) for n in (3, 1))
    weights = {"layer2": 2.25}
    found = match_pixels(query, gallery, combine="ensemble", kappa=2, weights=weights)
    alone = []
    for level, factor in ((0, 1), (1, 1.5)):
        asked, held = arrays(query)[level], arrays(gallery)[level]
        _, squared = reference.nearest(reference.all_distances([asked[0]], [held], [1]), 2)
        grid = factor * np.sqrt(squared).mean(0).reshape(held.shape[2:])
        bilinear = torch.nn.functional.interpolate(torch.tensor(grid)[None, None], (8, 12), mode="bilinear")
        alone.append(bilinear[0, 0].numpy())
    np.testing.assert_allclose(found.distance, np.mean(alone, axis=0), rtol=1e-5)


@pytest.mark.parametrize("grids", [[(8, 4), (4, 2)], [(5, 3), (5, 3)]])
def test_squared_distances_are_averaged_without_a_root(rng, grids):
    query, gallery = (make_pyramid(rng, n, grids, [70, 65]) for n in (1, 3))
    weights = {"layer1": 0.5, "layer2": 2}
    euclidean, squared = (
        match_pixels(query, gallery, kappa=2, radius=1, weights=weights, squared=squared) for squared in (False, True)
    )
    np.testing.assert_array_equal(euclidean.place, squared.place)
    expected = np.sort(oracle(query, gallery, [0.5, 2], 1), 1)[:, :2].mean(1)
    np.testing.assert_allclose(squared.distance.ravel(), expected, rtol=1e-5)
    np.testing.assert_array_equal(euclidean.layer_distance, squared.layer_distance)
    alone = [match_pixels(query.only([name]), gallery.only([name]), squared=True) for name in ("layer1", "layer2")]
    together = match_pixels(query, gallery, weights=weights, squared=True, combine="ensemble")
    mean = (0.5 * alone[0].distance + 2 * correspondence.resize(alone[1].distance, grids[0])) / 2
    np.testing.assert_allclose(together.distance, mean, rtol=1e-5)


def test_under_squared_the_shares_of_the_layers_are_their_terms(rng):
    query, gallery = (make_pyramid(rng, n, [(8, 4), (4, 2)], [3, 5]) for n in (1, 3))
    found = match_pixels(query, gallery, squared=True)
    np.testing.assert_allclose(scores.share_out(found), found.layer_distance, rtol=1e-6)
    np.testing.assert_allclose(scores.share_out(found).sum(0), found.distance, rtol=1e-6)


def test_in_the_ensemble_a_level_of_weight_0_does_not_count(rng):
    gallery, query = (make_pyramid(rng, n, [(8, 4), (4, 2)], [3, 4]) for n in (3, 1))
    found = match_pixels(query, gallery, combine="ensemble", weights={"layer2": 0})
    only = match_pixels(
        *(Pyramid(p.levels[:1], p.layers[:1], p.pooled) for p in (query, gallery)),
    )
    np.testing.assert_allclose(found.distance, only.distance, rtol=1e-6)


@pytest.mark.parametrize("radius", [0, 1, 2, 5])
def test_in_the_ensemble_a_coarse_cell_counts_if_one_of_its_pixels_lies_in_the_window(radius):
    rows, fine = 3, 10  # grids that do not nest
    near = within(rows, fine, radius)
    cell = np.arange(fine) * rows // fine
    for a in range(rows):
        for b in range(rows):
            gaps = abs(np.flatnonzero(cell == a)[:, None] - np.flatnonzero(cell == b))
            assert near[a, b] == (gaps.min() <= radius)


def test_kappa_is_reduced_to_the_candidates_with_a_warning(rng):
    gallery, query = (make_pyramid(rng, n, [(4, 4), (2, 2)], [3, 4]) for n in (2, 1))
    with pytest.warns(UserWarning, match=r"kappa=9 exceeds the number of candidates of a corner pixel \(2\); using 2"):
        found = match_pixels(query, gallery, kappa=9, radius=0)
    assert found.image.shape == (2, 4, 4)
    with pytest.warns(
        UserWarning, match=r"kappa=9 exceeds the number of candidates of a corner pixel \(8\); using 8"
    ) as said:
        match_pixels(query, gallery, kappa=9, combine="ensemble")  # the coarse level has 2 x 2 cells
    assert len(said) == 1


def test_a_warning_points_at_the_users_line(tmp_path):
    """In a separate process: under the tests, frames of the type checker lie in between."""
    script = tmp_path / "user.py"
    script.write_text(
        "import torch, spade_kit\n"
        "pyramid = spade_kit.Pyramid([torch.rand(2, 3, 4, 4)], ['layer1'], torch.rand(2, 5))\n"
        "spade_kit.match_pixels(pyramid.select(0), pyramid, kappa=9, radius=0)\n"
        "spade_kit.nearest_images(pyramid, pyramid, k=7)\n"
    )
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert "user.py:3: UserWarning: kappa=9 exceeds the number of candidates of a corner pixel (2)" in run.stderr
    assert "user.py:4: UserWarning: k=7 exceeds the number of gallery images (2)" in run.stderr


# ---- errors ----------------------------------------------------------------------------------------------------------


def spoilt(pyramid, value):
    levels = [level.clone() for level in pyramid.levels]
    levels[1][0, 2, 1, 0] = value
    return Pyramid(levels, pyramid.layers, pyramid.pooled)


@pytest.mark.usefixtures("unchecked")
def test_each_mistake_raises_a_clear_error(rng):
    gallery, query = (make_pyramid(rng, n, [(4, 4), (2, 2)], [3, 4]) for n in (2, 1))
    wide = make_pyramid(rng, 1, [(4, 4), (2, 2)], [8, 4])
    large = make_pyramid(rng, 1, [(8, 8), (4, 4)], [3, 4])
    deep = make_pyramid(rng, 1, [(4, 4), (2, 2), (1, 1)], [3, 4, 5])
    mistakes = [
        ({"query": gallery}, "one query image; got 2."),
        ({"gallery": gallery.select([])}, "at least one gallery image"),
        ({"query": wide}, "the same number of channels at layer1; got 8 and 3"),
        ({"query": large}, r"the same grid at layer1; got \(8, 8\) and \(4, 4\)"),
        ({"query": deep}, "the same layers; got layer1, layer2, layer3 and layer1, layer2"),
        ({"kappa": 0}, "kappa must be a whole number from 1 to 300; got 0."),
        ({"kappa": 1.5}, "kappa must be a whole number"),
        ({"kappa": True}, "kappa must be a whole number"),
        ({"radius": -1}, "radius must be a whole number of at least 0; got -1."),
        ({"weights": {"layer9": 1}}, "got 'layer9'. Did you mean 'layer"),
        ({"weights": {"layer1": -1}}, r"The weight of layer1 must be a number from 0 to 1e\+37; got -1\."),
        ({"weights": {"layer1": float("nan")}}, "a number from 0 to .*; got nan."),
        ({"weights": {"layer1": 1e300}}, "a number from 0 to .*; got 1e.300."),
        ({"query": spoilt(query, np.nan)}, "Features must be finite, .* got up to nan at layer2"),
        ({"gallery": spoilt(gallery, np.inf)}, "Features must be finite"),
        ({"gallery": spoilt(gallery, 1e18)}, r"got up to 1e\+18 at layer2, with weight 1\."),
        (
            {"gallery": spoilt(gallery, 1e12), "weights": {"layer2": 1e13}},
            r"up to 1e\+12 at layer2, with weight 1e\+13",
        ),
        ({"weights": {"layer1": 0, "layer2": 0}}, "At least one layer must have a weight above 0"),
        (
            {"weights": "own.pth"},
            "\"equal\" or None; got 'own.pth'. For a file of weights, use load_backbone",
        ),
        ({"weights": [1, 2]}, "weights must be a mapping"),
        ({"combine": "both"}, "combine must be one of 'concat', 'ensemble'; got 'both'."),
    ]
    for wrong, sentence in mistakes:
        with pytest.raises(ValueError, match=sentence):
            match_pixels(**{"query": query, "gallery": gallery} | wrong)
