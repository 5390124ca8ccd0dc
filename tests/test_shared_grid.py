"""The search of levels on one grid, as a vision transformer has them, against all pairs in float64."""

import copy

import numba
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spade_kit import Pyramid, match_pixels
from spade_kit.options import SEARCH
from spade_kit.search import runtime, shared_grid
from spade_kit.search.dispatch import PixelSearch, layout_for
from spade_kit.search.layout import STEP, SimdLayout
from spade_kit.search.shared_grid import CellLayout, search_shared_grid, supports_shared_grid
from spade_kit.search.simd import sum_squares

WAYS = {"measured directly": 10**9, "through views": 0}  # how large a window must be to be bounded by views


@numba.njit
def sum_once(query, cell, gallery, index):
    return sum_squares(query, cell, gallery, index)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 5]), st.integers(0, 2), st.integers(0, 5))
def test_the_sum_of_squares_is_that_by_hand(seed, steps, cell, index):
    rng = np.random.default_rng(seed)
    query, gallery = (rng.normal(size=(*size, steps * STEP)).astype(np.float32) for size in ((3,), (2, 3)))
    by_hand = ((query[cell].astype(float) - gallery.reshape(6, -1)[index]) ** 2).sum()
    assert sum_once(query, cell, gallery, index) == pytest.approx(by_hand, rel=1e-5)
    assert sum_once(query, cell, query[None], cell) == 0


@st.composite
def searches(draw):
    """(query, gallery, images, weights, kappa, radius): whole numbers often tie, others do not."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    h, w, n = draw(st.integers(1, 7)), draw(st.integers(1, 9)), draw(st.integers(1, 4))
    channels = draw(st.lists(st.sampled_from([1, 3, 63, 64, 65, 300]), min_size=1, max_size=3))
    whole = draw(st.booleans())
    query, gallery = (
        [
            torch.tensor(rng.integers(0, 2, size) if whole else rng.normal(size=size), dtype=torch.float32)
            for size in ((number, c, h, w) for c in channels)
        ]
        for number in (1, n)
    )
    if draw(st.booleans()):
        for asked, held in zip(query, gallery):
            asked[:] = held[-1:].flip(2)
    weights = np.float32([draw(st.sampled_from([0, 0.5, 1, 3])) for _ in channels])
    weights[0] = weights[0] if weights.any() else 1
    images = rng.permutation(n)[: draw(st.integers(1, n))]
    radius = draw(st.sampled_from([None, 0, 1, 2, 10**30]))
    least = min(h, 1 + (radius or 0) if radius is not None else h) * min(
        w, 1 + (radius or 0) if radius is not None else w
    )
    return query, gallery, images, weights, min(draw(st.integers(1, 3)), least * len(images)), radius


def all_pairs(query, gallery, images, weights, radius):
    """(h * w, k * h * w) float64 squared distances; inf beyond the radius."""
    h, w = query[0].shape[2:]
    total = 0
    for asked, held, weight in zip(query, gallery, weights.tolist()):
        one = asked[0].flatten(1).T.double().numpy()
        others = held[images].flatten(2).transpose(1, 2).flatten(0, 1).double().numpy()
        total = total + weight * ((one[:, None] - others[None]) ** 2).sum(2)
    row, col = np.divmod(np.arange(h * w), w)
    far = np.maximum(abs(row[:, None] - row), abs(col[:, None] - col)) > (np.inf if radius is None else radius)
    total[np.tile(far, len(images))] = np.inf
    return total


@pytest.mark.parametrize("way", WAYS)
@given(search=searches())
def test_the_nearest_cells_are_those_of_all_pairs(way, search):
    query, gallery, images, weights, kappa, radius = search
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_grid, "_WORTH_VIEWING", WAYS[way])
        held, asked = CellLayout.of(gallery), CellLayout.of(query)
        place = search_shared_grid(asked, held, images, weights, kappa, radius)
        log = search_shared_grid(asked, held, images, weights, kappa, radius, history=True)
    squared = all_pairs(query, gallery, images, weights, radius)
    h, w = query[0].shape[2:]
    assert place.shape == (kappa, h, w)
    expected = np.argsort(squared, 1, kind="stable")[:, :kappa]
    found = place.reshape(kappa, -1).T
    if all((level == level.round()).all() for level in (*query, *gallery)):
        np.testing.assert_array_equal(found, expected)  # sums of whole numbers are exact, so ties are, too
    np.testing.assert_allclose(
        np.take_along_axis(squared, found, 1), np.take_along_axis(squared, expected, 1), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(log[-1], place)
    if kappa == 1:
        for k in range(1, len(images)):
            few = all_pairs(query, gallery, images[:k], weights, radius)
            there = log[k - 1].reshape(-1, 1)
            np.testing.assert_allclose(np.take_along_axis(few, there, 1)[:, 0], few.min(1), rtol=1e-5, atol=1e-5)


@given(searches())
def test_a_view_is_never_farther_than_the_cells(search):
    query, gallery, images, *_ = search
    held, asked = CellLayout.of(gallery), CellLayout.of(query)
    ours, theirs, errors = held.views(asked.cells[0], np.sort(images), np.arange(len(query)))
    h, w = query[0].shape[2:]
    for level, (one, others, error) in enumerate(zip(ours, theirs, errors)):
        a, *b = (tiles[:, :-1].swapaxes(1, 2).reshape(-1, 64)[: h * w] for tiles in (one, *others[np.sort(images)]))
        between = np.linalg.norm(a[:, None].astype(float) - np.concatenate(b)[None], axis=2)
        real = np.sqrt(all_pairs([query[level]], [gallery[level]], np.sort(images), np.ones(1), None))
        assert (between <= real + error[:, None]).all()
        assert (error <= 1e-5 * (1 + np.linalg.norm(query[level].numpy(), axis=1).max()) * 10).all()


def test_images_without_computed_views_are_not_read(rng):
    """A search through views first computes those that it needs."""
    levels = [torch.tensor(rng.normal(size=(6, 70, 12, 12)), dtype=torch.float32)]
    held, asked = CellLayout.of(levels), CellLayout.of([level[:1] for level in levels])
    one = np.ones(1, np.float32)
    for images in ([3, 4], [4, 1], [0, 1, 2, 3, 4, 5]):
        place = search_shared_grid(asked, held, np.array(images), one, 1, None)
        expected = all_pairs([x[:1] for x in levels], levels, np.array(images), one, None).argmin(1)
        np.testing.assert_array_equal(place.ravel(), expected)


def make_pair(rng, n=3, channels=(70, 64), grid=(4, 6)):
    return [
        [torch.tensor(rng.normal(size=(m, c, *grid)), dtype=torch.float32) for c in channels] for m in (1, n)
    ]  # query, gallery


def test_levels_come_back_as_they_were_written(rng):
    _, gallery = make_pair(rng, 5)
    held = CellLayout.of(gallery)
    images = np.array([4, 0, 2])
    for level, back in zip(gallery, held.read(images)):
        torch.testing.assert_close(back, level[images], rtol=0, atol=0)
    taken = held.take(images, held.first(1))
    assert len(taken) == 4
    for level, back in zip(gallery, taken.read(np.arange(4))):
        torch.testing.assert_close(back, level[[4, 0, 2, 0]], rtol=0, atol=0)
    again = CellLayout.held(held.shapes, copy.deepcopy(held).arrays)
    np.testing.assert_array_equal(again.cells, held.cells)


def test_every_way_to_search_gives_one_answer(rng):
    query, gallery = make_pair(rng)
    weights, images = np.float32([2, 0.5]), np.array([2, 0])
    answers = [
        PixelSearch(query, held, images, search) for held in (gallery, CellLayout.of(gallery)) for search in SEARCH
    ]
    for pixels in answers:
        for radius in (None, 1):
            place = pixels.find(weights, 2, radius)
            np.testing.assert_array_equal(place, answers[-1].find(weights, 2, radius))
            np.testing.assert_allclose(pixels.measure(place), answers[-1].measure(place), rtol=1e-12)
            for level in range(2):
                alone = pixels.find_in_level(level, 2, radius)
                np.testing.assert_array_equal(alone, answers[-1].find_in_level(level, 2, radius))
                np.testing.assert_allclose(
                    pixels.measure_in_level(level, alone), answers[-1].measure_in_level(level, alone), rtol=1e-12
                )


def test_the_layout_follows_from_the_grids():
    assert layout_for([(64, 4, 6), (64, 4, 6)]) is CellLayout
    assert layout_for([(128, 5, 3)]) is CellLayout
    assert layout_for([(3, 8, 8), (200, 4, 4)]) is SimdLayout
    assert layout_for([(100, 5, 3), (100, 4, 3)]) is None
    assert layout_for([(24, 56, 56)]) is None  # few channels


def test_without_a_compiler_there_is_no_such_layout(monkeypatch):
    assert supports_shared_grid([(128, 5, 3)])
    monkeypatch.setattr(runtime, "numba", None)
    assert not supports_shared_grid([(128, 5, 3)])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("first", [-1, -(10**15), 10**15, runtime.NOWHERE, 5])
def test_places_to_try_first_may_be_anything(rng, monkeypatch, way, first):
    monkeypatch.setattr(shared_grid, "_WORTH_VIEWING", WAYS[way])
    query, gallery = (CellLayout.of(levels) for levels in make_pair(rng))
    for radius in (None, 1):
        arguments = query, gallery, np.arange(3), np.ones(2, np.float32), 1, radius
        np.testing.assert_array_equal(
            search_shared_grid(*arguments, first=np.full((1, 4, 6), first)), search_shared_grid(*arguments)
        )


@pytest.mark.filterwarnings("ignore:.* encountered in")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_features_without_a_finite_distance_end_no_process(rng, monkeypatch, way, value):
    monkeypatch.setattr(shared_grid, "_WORTH_VIEWING", WAYS[way])
    query, gallery = make_pair(rng)
    pixels = PixelSearch(query, [torch.full_like(level, value) for level in gallery], np.arange(3))
    with pytest.raises(ValueError, match="Every pixel must have a match at a distance that fits into float32"):
        pixels.measure(pixels.find(np.ones(2, np.float32), 1, None))


def test_images_outside_the_gallery_are_refused(rng):
    query, gallery = make_pair(rng)
    for images in ([0, 3], [-1]):
        pixels = PixelSearch(query, CellLayout.of(gallery), np.array(images))
        with pytest.raises(ValueError, match="images must be indices into a gallery of 3 images"):
            pixels.find(np.ones(2, np.float32), 1, None)


def test_a_shifted_copy_is_found_where_it_came_from(rng):
    """On a grid that is large enough for views, with the public function."""
    _, levels = make_pair(rng, 3, (70, 80), (12, 11))
    normal = Pyramid(levels, ["layer1", "layer2"], torch.zeros(3, 2))
    shifted = Pyramid([level[2:].roll((3, -2), (2, 3)) for level in levels], normal.layers, torch.zeros(1, 2))
    for combine in ("concat", "ensemble"):
        found = match_pixels(shifted, normal, combine=combine)
        assert (found.image == 2).all()
        np.testing.assert_array_equal(found.row[0], np.broadcast_to((np.arange(12)[:, None] - 3) % 12, (12, 11)))
        np.testing.assert_array_equal(found.col[0], np.broadcast_to((np.arange(11) + 2) % 11, (12, 11)))
        assert not found.distance.any()
    assert match_pixels(shifted, normal, radius=2).distance.min() > 0
