"""The compiled searches in detail: inner loops, bounds, history, and compilation."""

import os
import subprocess
import sys
import threading
import warnings
from functools import partial

import numba
import numba.core.caching
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spade_kit import SPADE, extract_features, reference
from spade_kit.options import SEARCH
from spade_kit.search import branch_and_bound, dispatch, projection, runtime
from spade_kit.search.branch_and_bound import search_branch_and_bound
from spade_kit.search.dispatch import PixelSearch, least_candidates
from spade_kit.search.layout import SIMD_WIDTH, SimdLayout, lay_out, nested_order, prepare, slack, stretch_for, within
from spade_kit.search.projection import _find_axes, search_projection
from spade_kit.search.runtime import compiled, in_threads, usual_settings
from spade_kit.search.simd import compare, measure

seeds = st.integers(0, 2**32 - 1)
channels = st.sampled_from([1, 2, 3, 5, 24, 31, 32, 33, 64, 65, 130])  # around multiples of four and of chunks


def make_levels(rng, n, shapes, whole=False):
    draw = (lambda shape: rng.integers(0, 3, shape)) if whole else (lambda shape: rng.normal(size=shape))
    return [torch.tensor(draw((n, *shape)), dtype=torch.float32) for shape in shapes]


# ---- the inner loops -------------------------------------------------------------------------------------------------


@numba.njit
def compare_once(terms, tile, lane, gallery, index, above, limits, sums, level):
    return compare(terms, tile, lane, gallery, index, above, limits, sums, level)


@numba.njit
def measure_once(query, tile, lane, gallery, index, first, last, sums, level):
    measure(query, tile, lane, gallery, index, first, last, sums, level)


@given(seeds, channels, st.integers(0, 2), st.sampled_from([0, 4, 8, 12]), st.integers(0, 5))
def test_four_cells_are_compared_with_sixteen_as_by_hand(seed, c, tile, lane, index):
    rng = np.random.default_rng(seed)
    terms, gallery = (rng.normal(size=(*size, c, 16)).astype(np.float32) for size in ((3,), (2, 3)))
    above, limits = rng.normal(size=(2, 16)).astype(np.float32), rng.normal(size=(3, 16)).astype(np.float32)
    sums = np.zeros((2, 4, 16), np.float32)
    bits = compare_once(terms, tile, lane, gallery, index, above, limits, sums, 1)
    held = gallery.reshape(6, c, 16)[index].astype(np.float64)
    by_hand = above[1] + terms[tile, :, lane : lane + 4].astype(np.float64).T @ held
    np.testing.assert_allclose(sums[1], by_hand, rtol=1e-5, atol=1e-5 * np.sqrt(c))
    assert not sums[0].any()
    set_bits = [[(bits >> (16 * e + j)) & 1 for j in range(16)] for e in range(4)]
    np.testing.assert_array_equal(set_bits, sums[1] <= limits[tile, lane : lane + 4, None])


@given(seeds, channels, st.integers(0, 2), st.integers(0, 15), st.integers(0, 5))
def test_differences_are_measured_as_by_hand_and_equal_cells_are_at_0(seed, c, tile, lane, index):
    rng = np.random.default_rng(seed)
    query, gallery = (rng.normal(size=(*size, c, 16)).astype(np.float32) for size in ((3,), (2, 3)))
    gallery[index // 3, index % 3, :, 5] = query[tile, :, lane]
    first = c // 3
    sums = np.zeros((2, 16), np.float32)
    measure_once(query, tile, lane, gallery, index, first, c, sums, 1)
    there = gallery[index // 3, index % 3, first:].astype(np.float64)
    np.testing.assert_allclose(sums[1], ((query[tile, first:, lane, None] - there) ** 2).sum(0), rtol=1e-5)
    assert sums[1, 5] == 0


def test_arrays_with_an_unsupported_layout_are_rejected_when_compiled(rng):
    tiles = rng.normal(size=(2, 16, 5)).astype(np.float32).swapaxes(1, 2)
    with pytest.raises(Exception, match="Tiles must be contiguous float32 arrays"):
        measure_once(tiles, 0, 0, tiles[None], 0, 0, 5, np.zeros((1, 16), np.float32), 0)


# ---- the bounds ------------------------------------------------------------------------------------------------------


@given(seeds, channels, st.sampled_from([0, 1, 1e2, 1e4]), st.sampled_from([1e-3, 1, 1e3]))
def test_a_bound_is_never_above_the_distance_however_large_the_features(seed, c, offset, weight):
    """Close cells far from the origin, where the product form is least accurate."""
    rng = np.random.default_rng(seed)
    cells = (offset + rng.normal(size=(2, c, 16)) * rng.choice([1e-3, 1])).astype(np.float32)
    query, gallery = (lay_out(some[None]) for some in cells)
    weights = np.array([weight], np.float32)
    _, terms, own = prepare(query[0], [(0, c)], weights)
    above, sums = np.zeros((1, 16), np.float32), np.zeros((1, 4, 16), np.float32)
    for lane in (0, 4, 8, 12):
        compare_once(terms, 0, lane, gallery, 0, above, own, sums, 0)
        difference = cells[0, :, lane : lane + 4, None].astype(np.float64) - cells[1][:, None]
        distance = weights[0].astype(np.float64) * (difference**2).sum(0)
        assert (sums[0] + own[0, lane : lane + 4, None] <= distance).all()
        length = weight * max((cells.astype(np.float64) ** 2).sum(1).max(), 1e-30)
        assert (distance - (sums[0] + own[0, lane : lane + 4, None]) <= 5 * slack(c) * length).all()


@given(seeds, channels)
def test_the_axes_are_orthonormal_so_that_projections_shorten_distances(seed, c):
    rng = np.random.default_rng(seed)
    query = lay_out(rng.normal(size=(1, c, 35)).astype(np.float32))[0]
    axes, error = _find_axes(query, 35)
    np.testing.assert_allclose(axes @ axes.T, np.eye(len(axes)), atol=1e-12)
    assert 0 <= error < 1e-3
    assert len(axes) <= c


def test_the_stretch_exceeds_the_rounding_of_measured_distances():
    assert 1 + 1e-5 > stretch_for(24) > 1
    assert stretch_for(1792) > 1 + 1792 * 2**-24


# ---- results ---------------------------------------------------------------------------------------------------------


@st.composite
def wide_searches(draw):
    rows, cols = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    shapes = [(draw(channels), rows * 2**step, cols * 2**step) for step in (2, 1, 0)]
    n = draw(st.integers(1, 6))
    return draw(seeds), shapes, n, draw(st.integers(1, 3)), draw(st.sampled_from([None, 0, 2])), draw(st.booleans())


def built(recipe):
    seed, shapes, n, kappa, radius, whole = recipe
    rng = np.random.default_rng(seed)
    query, gallery = make_levels(rng, 1, shapes, whole), make_levels(rng, n, shapes, whole)
    _, h, w = shapes[0]
    fewest = n * (h * w if radius is None else min(radius + 1, h) * min(radius + 1, w))
    return rng, query, gallery, min(kappa, fewest), radius


@given(wide_searches())
def test_the_history_holds_what_a_search_among_the_first_k_images_finds(recipe):
    _, query, gallery, kappa, radius = built(recipe)
    lanes, asked, one = SimdLayout.of(gallery), SimdLayout.of(query), np.ones(3, np.float32)
    n = len(lanes)
    kept = search_branch_and_bound(asked, lanes, np.arange(n), one, kappa, radius, history=True)
    for k in range(1, n + 1):
        few = min(kappa, fewest(query, radius) * k)
        np.testing.assert_array_equal(
            kept[k - 1][:few], search_branch_and_bound(asked, lanes, np.arange(k), one, few, radius)
        )


def fewest(query, radius):
    h, w = query[0].shape[2:]
    return h * w if radius is None else min(radius + 1, h) * min(radius + 1, w)


@given(wide_searches())
def test_places_to_try_first_do_not_change_the_result(recipe):
    rng, query, gallery, kappa, radius = built(recipe)
    lanes, asked, one = SimdLayout.of(gallery), SimdLayout.of(query), np.ones(3, np.float32)
    images = rng.permutation(len(lanes))
    expected = search_branch_and_bound(asked, lanes, images, one, kappa, radius)
    h, w = query[0].shape[2:]
    anywhere = rng.integers(0, 2 * len(lanes) * h * w, (2, h, w))  # also outside the window and the images
    for first in (anywhere, expected, np.concatenate([expected, expected])):
        np.testing.assert_array_equal(
            search_branch_and_bound(asked, lanes, images, one, kappa, radius, first=first), expected
        )


@given(wide_searches(), st.integers(0, 2))
def test_the_search_in_one_level_finds_what_comparing_all_pairs_finds(recipe, level):
    _, query, gallery, kappa, radius = built(recipe)
    h, w = query[level].shape[2:]
    fine = query[0].shape[2:]
    search = PixelSearch(query, SimdLayout.of(gallery), np.arange(len(gallery[0])))
    near = [
        within(side, whole, len(search.images) * 99 if radius is None else radius) for side, whole in zip((h, w), fine)
    ]
    kappa = min(kappa, len(search.images) * int(near[0].sum(1).min() * near[1].sum(1).min()))
    place = search.find_in_level(level, kappa, radius)
    table = reference.all_distances([query[level][0].numpy()], [gallery[level].numpy()], [1])
    allowed = (near[0][:, None, :, None] & near[1][:, None]).reshape(h * w, h * w)
    table[~np.tile(allowed, len(search.images))] = np.inf
    _, squared = reference.nearest(table, kappa)
    lengths = (query[level] ** 2).sum(1).max() + (gallery[level] ** 2).sum(1).max()
    got = np.take_along_axis(table, place.reshape(kappa, -1).T, 1).T
    np.testing.assert_allclose(got, squared, rtol=0, atol=1e-6 * float(lengths))
    np.testing.assert_allclose(search.measure_in_level(level, place)[0].reshape(kappa, -1), got, rtol=1e-9, atol=1e-12)
    if recipe[-1]:  # integer features: ties are exact
        np.testing.assert_array_equal(place.reshape(kappa, -1), reference.nearest(table, kappa)[0])
    kept = search.find_in_level(level, kappa, radius, history=True)
    np.testing.assert_array_equal(kept[-1], place)


@pytest.mark.parametrize("case", ["constant", "twins", "member", "noise", "one"])
def test_the_worst_cases_are_exact(rng, case):
    shapes = [(5, 16, 12), (6, 8, 6), (7, 4, 3)]
    query, gallery = make_levels(rng, 1, shapes), make_levels(rng, 5, shapes)
    if case == "constant":
        query, gallery = ([torch.full_like(level, 1.5) for level in levels] for levels in (query, gallery))
    if case == "twins":
        gallery = [level[:1].repeat(5, 1, 1, 1) for level in gallery]
    if case == "member":
        query = [level[3:4] for level in gallery]
    if case == "one":
        gallery = [level[:1] for level in gallery]
    search = PixelSearch(query, gallery, np.arange(len(gallery[0])))
    found = search.find(np.ones(3, np.float32), 1, None)
    arrays = [[level.numpy() for level in levels] for levels in (query, gallery)]
    table = reference.all_distances([level[0] for level in arrays[0]], arrays[1], [1, 1, 1])
    np.testing.assert_array_equal(found.reshape(1, -1), reference.nearest(table, 1)[0])


def test_a_subset_of_a_gallery_is_searched_in_place(rng):
    shapes = [(9, 8, 8), (5, 4, 4)]
    query, gallery = make_levels(rng, 1, shapes), make_levels(rng, 6, shapes)
    images = np.array([4, 0, 5])
    window = (np.ones((8, 8), bool),) * 2
    place = search_projection(
        SimdLayout.of(query).fine[0], SimdLayout.of(gallery).fine, nested_order(8, 8, 2), images, 2, window
    )
    chosen = lay_out(gallery[0][images].flatten(2).numpy())
    raster = search_projection(lay_out(query[0].flatten(2).numpy())[0], chosen, np.arange(64), np.arange(3), 2, window)
    np.testing.assert_array_equal(place, raster)


# ---- brute force -----------------------------------------------------------------------------------------------------


def check_both(query, gallery, images, weights, kappa, radius, equal):
    """Compare the default search with brute force: all levels together, then each alone; in `SimdLayout` and in levels.

    Distances are the same up to rounding, and so is at least a fraction ``equal`` of the places.
    """
    rounding = 1e-6 * sum(float((level**2).sum(1).max()) for level in (*query, *gallery)) * float(weights.max())
    for held in (gallery, SimdLayout.of(gallery)):
        auto, brute = (PixelSearch(query, held, images, search) for search in SEARCH)
        for level in (None, *range(len(query))):
            few = min(kappa, len(images) * least_candidates(auto.grids[level or 0], auto.grids[0], radius))
            answers = []
            for search in (auto, brute):
                if level is None:
                    place = search.find(weights, few, radius)
                    answers.append((place, np.tensordot(weights, search.measure(place), 1)))
                else:
                    place = search.find_in_level(level, few, radius)
                    answers.append((place, search.measure_in_level(level, place)[0]))
            (place, squared), (other, again) = answers
            np.testing.assert_allclose(squared, again, rtol=0, atol=rounding)
            np.testing.assert_allclose(squared[place == other], again[place == other], rtol=1e-12)
            assert (place == other).mean() >= equal


@given(wide_searches(), st.lists(st.sampled_from([0, 0.25, 1, 2]), min_size=3, max_size=3))
def test_brute_force_finds_the_same_pixels_at_the_same_distances(recipe, weights):
    rng, query, gallery, kappa, radius = built(recipe)
    images = rng.permutation(len(gallery[0]))[: rng.integers(1, 4)]
    weights = np.float32([*weights[:2], weights[2] or 1])
    check_both(query, gallery, images, weights, kappa, radius, equal=1 if recipe[-1] else 0)


@pytest.mark.parametrize(("kappa", "radius", "weights"), [(1, None, (1, 1, 1)), (3, 2, (0.5, 1, 0))])
def test_brute_force_finds_the_same_on_the_demo(demo, scratched, kappa, radius, weights):
    query, gallery = extract_features(scratched).levels, extract_features(demo.train[:4]).levels
    check_both(query, gallery, np.array([2, 0, 3]), np.float32(weights), kappa, radius, equal=0.999)


def test_brute_force_calls_nothing_compiled_and_gives_no_warning(rng, monkeypatch):
    def refuse(*_):
        raise AssertionError("a compiled kernel was called")

    for module in (branch_and_bound, projection):
        monkeypatch.setattr(module, "in_threads", refuse)
    shapes = [(3, 8, 4), (4, 4, 2), (5, 2, 1)]
    query, gallery = make_levels(rng, 1, shapes), make_levels(rng, 3, shapes)
    for held in (gallery, SimdLayout.of(gallery)):
        search = PixelSearch(query, held, np.arange(3), "brute_force")
        assert search.measure(search.find(np.ones(3, np.float32), 2, 1)).shape == (3, 2, 8, 4)
        for level, (_, h, w) in enumerate(shapes):
            assert search.measure_in_level(level, search.find_in_level(level, 2, None)).shape == (1, 2, h, w)
        with pytest.raises(AssertionError, match="a compiled kernel was called"):
            PixelSearch(query, held, np.arange(3)).find(np.ones(3, np.float32), 2, 1)
    monkeypatch.setattr(runtime, "numba", None)
    runtime.warn_without_numba.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PixelSearch(query, gallery, np.arange(3), "brute_force")


# ---- memory safety ---------------------------------------------------------------------------------------------------


def nested_pair(rng, n=3):
    shapes = [(3, 8, 4), (4, 4, 2), (5, 2, 1)]
    return make_levels(rng, 1, shapes), make_levels(rng, n, shapes)


@pytest.mark.parametrize("wrong", [runtime.NOWHERE, -1, 3 * 32, 10**15])
def test_the_last_step_refuses_places_that_do_not_exist(rng, wrong):
    query, gallery = nested_pair(rng)
    for held in (gallery, SimdLayout.of(gallery)):
        for search in SEARCH:
            pixels = PixelSearch(query, held, np.arange(3), search)
            place = pixels.find(np.ones(3, np.float32), 2, None)
            place[1, 5, 2] = wrong
            said = r"must have a match .*; got none for 1 of 64\. Check the features"
            with pytest.raises(ValueError, match=said):
                pixels.measure(place)
            with pytest.raises(ValueError, match=said):
                pixels.measure_in_level(0, place)


@pytest.mark.parametrize("images", [[0, 3], [-1, 1], [2**40]])
def test_images_outside_the_gallery_are_refused(rng, images):
    query, gallery = nested_pair(rng)
    pixels = PixelSearch(query, SimdLayout.of(gallery), np.array(images))
    for search in (lambda: pixels.find(np.ones(3, np.float32), 1, None), lambda: pixels.find_in_level(1, 1, None)):
        with pytest.raises(ValueError, match="images must be indices into a gallery of 3 images, from 0; got"):
            search()


def test_a_query_with_other_channels_is_refused(rng):
    query, gallery = nested_pair(rng)
    other = [*query[:2], query[2][:, :4]]
    for held in (gallery, SimdLayout.of(gallery)):
        with pytest.raises(
            ValueError, match=r"must have the same levels \(c, h, w\); got .*Compute both with the same"
        ):
            PixelSearch(other, held, np.arange(3))


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("search", SEARCH)
@pytest.mark.parametrize("level", [None, 0])
def test_features_without_a_finite_distance_end_no_process(rng, value, search, level):
    query, gallery = nested_pair(rng)
    pixels = PixelSearch(query, [torch.full_like(held, value) for held in gallery], np.arange(3), search)

    def find_and_measure():
        if level is None:
            return pixels.measure(pixels.find(np.ones(3, np.float32), 1, None))
        return pixels.measure_in_level(level, pixels.find_in_level(level, 1, None))

    with pytest.raises(ValueError, match=r"Every pixel must have a match at a distance that fits into float32"):
        find_and_measure()


@pytest.mark.parametrize("first", [-1, -(10**15), 10**15, runtime.NOWHERE])
def test_places_to_try_first_may_be_anything(rng, first):
    query, gallery = nested_pair(rng)
    asked, held, one = SimdLayout.of(query), SimdLayout.of(gallery), np.ones(3, np.float32)
    expected = search_branch_and_bound(asked, held, np.arange(3), one, 1, None)
    tried = search_branch_and_bound(asked, held, np.arange(3), one, 1, None, first=np.full((1, 8, 4), first))
    np.testing.assert_array_equal(tried, expected)


def test_a_radius_of_any_size_is_everywhere(rng):
    query, gallery = nested_pair(rng)
    for search in SEARCH:
        pixels = PixelSearch(query, gallery, np.arange(3), search)
        for find in (partial(pixels.find, np.ones(3, np.float32), 1), partial(pixels.find_in_level, 1, 1)):
            np.testing.assert_array_equal(find(10**30), find(None))


def test_weights_too_large_for_the_features_are_refused(spade, scratched):
    with pytest.raises(ValueError, match=r"squares must fit into float32; got up to .* at layer1, with weight"):
        spade.with_options(weights={"layer1": 1e37}).predict(scratched)


def test_settings_of_torch_are_restored_when_the_last_thread_leaves(torch_settings):
    entered, leave = threading.Event(), threading.Event()

    def stay():
        with usual_settings(torch.device("cpu")):
            entered.set()
            leave.wait(10)

    with torch_settings("float64"):
        thread = threading.Thread(target=stay)
        thread.start()
        entered.wait(10)
        with usual_settings(torch.device("cpu")):
            assert torch.get_default_dtype() == torch.float32
        assert torch.get_default_dtype() == torch.float32  # the other thread still needs it
        leave.set()
        thread.join()
        assert torch.get_default_dtype() == torch.float64


# ---- smaller k and other options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"kappa": 3, "radius": 1}, {"weights": "equal"}, {"combine": "ensemble"}], ids=str
)
def test_with_k_gives_what_predict_gives_with_that_k(spade, scratched, options):
    judge = spade.with_options(**options)
    result = judge.predict(scratched)
    for k in (1, 3, 5):
        back, refitted = result.with_k(k), judge.with_options(k=k).predict(scratched)
        np.testing.assert_array_equal(back.correspondence.place, refitted.correspondence.place)
        np.testing.assert_allclose(back.anomaly_map, refitted.anomaly_map, rtol=1e-6)
        np.testing.assert_array_equal(back.neighbours.index, refitted.neighbours.index)
        assert back.spade.k == k
    np.testing.assert_array_equal(result.with_k(4).with_k(2).anomaly_map, result.with_k(2).anomaly_map)


def test_without_a_compiled_search_with_k_searches_again(spade, scratched, monkeypatch):
    expected = spade.with_options(k=2).predict(scratched)
    result = spade.predict(scratched)
    monkeypatch.setattr(dispatch.PixelSearch, "keeps_history", lambda *_: False)
    np.testing.assert_array_equal(result.with_k(2).correspondence.place, expected.correspondence.place)


def test_with_k_goes_through_the_images_once(spade, scratched, monkeypatch):
    result = spade.predict(scratched)
    result.with_k(2)
    monkeypatch.setattr("spade_kit.search.dispatch.search_branch_and_bound", None)
    assert result.with_k(4).with_k(3).image_score >= result.image_score
    with pytest.raises(ValueError, match=r"at most 5, the number of retrieved images; got 6.*with_options\(k=6\)"):
        result.with_k(6)


@pytest.mark.parametrize(
    "options",
    [{"kappa": 3}, {"radius": 2}, {"weights": "equal"}, {"k": 9}, {"k": 2}, {"combine": "ensemble"}, {"sigma": 1}, {}],
    ids=str,
)
def test_a_result_under_other_options_is_what_predict_gives(spade, scratched, options):
    other, refitted = spade.predict(scratched).with_options(**options), spade.with_options(**options).predict(scratched)
    np.testing.assert_array_equal(other.correspondence.place, refitted.correspondence.place)
    np.testing.assert_array_equal(other.anomaly_map, refitted.anomaly_map)
    assert repr(other.spade) == repr(refitted.spade)


def test_sigma_and_threshold_never_search_again(spade, scratched, monkeypatch):
    result = spade.predict(scratched)
    expected = spade.with_options(sigma=1).predict(scratched).anomaly_map
    monkeypatch.setattr("spade_kit.gallery.gallery.search_pixels", None)
    np.testing.assert_array_equal(result.with_options(sigma=1).anomaly_map, expected)
    assert result.segmentation(result.image_score).any()


def test_a_left_out_image_stays_left_out_under_other_options(spade):
    result = spade.predict_left_out(3).with_options(radius=2, k=9)
    assert 3 not in result.neighbours.index
    np.testing.assert_array_equal(result.anomaly_map, spade.with_options(radius=2, k=9).predict_left_out(3).anomaly_map)


@pytest.mark.filterwarnings("ignore:kappa=5 exceeds the number of")
@pytest.mark.parametrize("options", [{}, {"kappa": 5, "radius": 1}, {"kappa": 2}, {"weights": "equal"}], ids=str)
def test_the_breakpoints_hold_the_match_of_every_cell_for_every_k(spade, scratched, options):
    result = spade.with_options(**options).predict(scratched)
    steps = result.steps
    ends = steps.count.cumsum()
    for k in range(1, 6):
        last = [at[steps.k[at] <= k][-1] for at in np.split(np.arange(len(steps)), ends[:-1])]
        found = result.with_k(k).correspondence
        np.testing.assert_allclose(steps.distance[last], found.distance.ravel(), rtol=1e-6)
        np.testing.assert_array_equal(steps.image[last], found.image[0].ravel())
        np.testing.assert_array_equal(steps.row[last] * 56 + steps.col[last], (found.row * 56 + found.col)[0].ravel())
        np.testing.assert_allclose(steps.layer_distance[:, last], found.layer_distance.reshape(3, -1), rtol=1e-6)


def test_an_ensemble_has_no_breakpoints(spade, scratched):
    assert spade.with_options(combine="ensemble").predict(scratched).steps is None


def test_with_normals_gives_what_a_fit_of_those_gives(spade, scratched, demo):
    chosen = [1, 4, 7]
    refitted = SPADE(k=3).fit([demo.train[index] for index in chosen]).predict(scratched)
    result = spade.predict(scratched).with_normals(chosen)
    np.testing.assert_array_equal(result.neighbours.index, np.array(chosen)[refitted.neighbours.index])
    np.testing.assert_allclose(result.anomaly_map, refitted.anomaly_map, rtol=1e-4)
    with pytest.raises(ValueError, match=r"12 training images that .*; got \[12\]"):
        spade.predict(scratched).with_normals([3, 12])


# ---- threads, compiler, cache ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("torchs", "numbas", "expected"), [(1, 4, 1), (3, 8, 3), (4, 2, 2)])
def test_the_number_of_threads_is_limited_by_torch_and_numba(monkeypatch, torchs, numbas, expected):
    monkeypatch.setattr(torch, "get_num_threads", lambda: torchs)
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", numbas)
    seen = []
    in_threads(lambda worker, workers: seen.append((worker, workers)), 99)
    assert sorted(seen) == [(worker, expected) for worker in range(expected)]


def test_a_thread_that_fails_is_not_lost(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def work(worker, workers):
        if worker == 1:
            raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        in_threads(work, 2)


def test_without_a_writable_cache_it_is_compiled_anyway(monkeypatch):
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="no locator"):
        numba.njit(cache=True)(lambda x: x + 1)
    assert compiled(cache=True)(lambda x: x + 1)(2) == 3


@pytest.mark.slow
def test_a_second_process_reuses_what_the_first_compiled(tmp_path):
    script = (
        "import time, numpy, torch\n"
        "from spade_kit import Pyramid, match_pixels\n"
        "from spade_kit.search import branch_and_bound, projection\n"
        "levels = [torch.rand(2, 3, 8, 8), torch.rand(2, 3, 4, 4), torch.rand(2, 3, 2, 2)]\n"
        "pyramid = Pyramid(levels, ['layer1', 'layer2', 'layer3'], torch.rand(2, 3))\n"
        "for combine in ('concat', 'ensemble'):\n"
        "    match_pixels(pyramid.select(0), pyramid, combine=combine)\n"
        "for kernel in (branch_and_bound._search_blocks, branch_and_bound._measure_level, projection._search_tiles):\n"
        "    print(sum(kernel.stats.cache_hits.values()), sum(kernel.stats.cache_misses.values()))\n"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    runs = [
        subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    hits, misses = ([line.split()[column] for line in runs[1].stdout.splitlines()] for column in (0, 1))
    assert "0" not in hits
    assert misses == ["0"] * 3
    assert [line.split()[0] for line in runs[0].stdout.splitlines()] == ["0"] * 3
    assert "Warning" not in runs[0].stderr + runs[1].stderr


def test_without_numba_one_warning_names_the_cost(monkeypatch, rng):
    monkeypatch.setattr(runtime, "numba", None)
    runtime.warn_without_numba.cache_clear()
    levels = make_levels(rng, 2, [(3, 4, 4), (3, 2, 2)])
    with pytest.warns(UserWarning, match="numba cannot be imported .* all pairs, .* pip install .* numba"):
        PixelSearch([level[:1] for level in levels], levels, np.arange(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PixelSearch([level[:1] for level in levels], levels, np.arange(2))


@pytest.mark.slow
@pytest.mark.parametrize(("module", "error"), [("llvmlite", "OSError"), ("spade_kit.search.simd", "AttributeError")])
def test_any_failure_to_import_numba_gives_the_same_result(demo, scratched, tmp_path, module, error):
    script = (
        "import sys, numpy, spade_kit\n"
        "class Broken:\n"
        "    def find_spec(name, path, target=None):\n"
        f"        if name == {module!r}: raise {error}('it is broken\\n  here')\n"
        "sys.meta_path.insert(0, Broken)\n"
        "parts = spade_kit.load_dataset('demo')\n"
        "spade = spade_kit.SPADE(k=2).fit(parts.train[:3])\n"
        f"results = [spade.predict(parts.test[{demo.test.index(scratched)}]) for _ in range(2)]\n"
        f"numpy.savez({str(tmp_path / 'found.npz')!r}, map=results[1].anomaly_map, **vars(results[1].correspondence))\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stderr.count("Warning") == 1
    assert f"numba cannot be imported ({error}: it is broken here): the search compares all pairs" in run.stderr
    found, result = np.load(tmp_path / "found.npz"), SPADE(k=2).fit(demo.train[:3]).predict(scratched)
    for name, value in vars(result.correspondence).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)
    np.testing.assert_allclose(found["map"], result.anomaly_map, rtol=1e-6)


def test_a_gallery_is_aligned_to_cache_lines(demo):
    pixels = SPADE(k=2).fit(demo.train[:3]).gallery.pixels
    assert {array.ctypes.data % (4 * SIMD_WIDTH) for array in (pixels.fine, pixels.middle, pixels.coarse)} == {0}
