"""From one pixel to every pixel of the retrieved images: against loops in float64, and against the match."""

from itertools import product

import numpy as np
import pytest
import torch

from spade_kit import SPADE, Pyramid
from spade_kit.correspondence import Question, find_ratios, measure_from
from spade_kit.options import Options

GRIDS = {
    "nested": [(4, 8), (2, 4), (1, 2)],
    "one grid": [(3, 5), (3, 5)],
    "odd": [(7, 5), (3, 4)],
    "one level": [(5, 3)],
}


def make_case(rng, grids, combine, squared):
    """Four images, of which the first is the query, and what a distance depends on."""
    names = [f"layer{at}" for at in range(len(grids))]
    weights = np.array([0.5, 2, 0], np.float32)[: len(grids)]
    levels = [rng.normal(size=(4, 3 + at, *grid)).astype(np.float32) for at, grid in enumerate(grids)]
    query = Pyramid([torch.tensor(level[:1]) for level in levels], names, torch.zeros(1, 1))
    options = Options(None, weights=dict(zip(names, weights.tolist())), combine=combine, squared=squared)
    return levels, query, weights, options


def measure_pair(levels, grids, weights, options, here, image, there) -> float:
    """The distance of a cell of the first image to one of another, in float64."""
    parts, (h, w) = [], grids[0]
    for level, weight, (rows, cols) in zip(levels, weights, grids):
        own, other = (
            level[at, :, row * rows // h, col * cols // w].astype(float)
            for at, (row, col) in ((0, here), (image, there))
        )
        parts.append(weight * ((own - other) ** 2).sum())
    root = (lambda value: value) if options.squared else np.sqrt
    used = [root(part) for part, weight in zip(parts, weights) if weight]
    return root(sum(parts)) if options.combine == "concat" else np.mean(used)


@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("combine", ["concat", "ensemble"])
@pytest.mark.parametrize("squared", [False, True])
def test_distances_equal_the_definition_in_float64(rng, grids, combine, squared):
    levels, query, weights, options = make_case(rng, grids, combine, squared)
    h, w = grids[0]
    images, (row, col) = np.array([3, 1]), (h - 1, w // 2)
    asked = Question(query, [torch.tensor(level) for level in levels], images, weights, options)
    found = measure_from((row, col), asked)
    assert found.shape == (2, h, w)
    for rank, r, c in product(range(2), range(h), range(w)):
        expected = measure_pair(levels, grids, weights, options, (row, col), images[rank], (r, c))
        assert found[rank, r, c] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("combine", ["concat", "ensemble"])
@pytest.mark.parametrize("squared", [False, True])
def test_ratios_equal_the_definition_in_float64(rng, grids, combine, squared):
    levels, query, weights, options = make_case(rng, grids, combine, squared)
    cells, reach = list(product(*map(range, grids[0]))), max(grids[0]) / 10
    asked = Question(query, [torch.tensor(level) for level in levels], np.array([2]), weights, options)
    found = find_ratios(tuple(np.array(cells).T), asked)
    for here, ratio in zip(cells, found):
        distances = {there: measure_pair(levels, grids, weights, options, here, 2, there) for there in cells}
        best = min(distances, key=distances.get)
        distant = [value for at, value in distances.items() if max(abs(at[0] - best[0]), abs(at[1] - best[1])) > reach]
        assert ratio == pytest.approx(distances[best] / min(distant), rel=1e-5)


def test_a_ratio_of_nothing_to_nothing_is_1_and_without_a_distant_place_it_is_0():
    cells = (np.array([0]), np.array([0]))
    for grid, expected in (((3, 2), 1), ((1, 1), 0)):
        levels = [torch.ones(1, 2, *grid)]
        query = Pyramid(levels, ["layer1"], torch.zeros(1, 1))
        asked = Question(query, levels, np.array([0]), np.ones(1, np.float32), Options(None))
        assert find_ratios(cells, asked) == expected


@pytest.mark.parametrize("options", [{}, {"combine": "ensemble", "radius": 3, "kappa": 2}], ids=str)
def test_the_ratio_map_is_that_of_the_distances_to_the_image_that_explains_a_pixel(spade, scratched, options):
    result = spade.with_options(**options).predict(scratched)
    *parts, whole = (np.isnan(ratio).mean() for ratio in result.measure_ratios())
    assert len(parts) >= 4
    assert [*parts, whole] == [*sorted(parts, reverse=True), 0]
    assert result.ratio_map.shape == (56, 56)
    for row, col in [(0, 0), (25, 22), (55, 31)]:
        distances = result.distances_from(4 * row, 4 * col)[result.match(4 * row, 4 * col).neighbour]
        best = np.unravel_index(distances.argmin(), (56, 56))
        near = np.ix_(*(abs(np.arange(56) - at) <= 5 for at in best))
        least, distances[near] = distances.min(), np.inf
        assert result.ratio_map[row, col] == pytest.approx(least / distances.min(), rel=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"weights": {"layer1": 3, "layer3": 0}}, {"squared": True}, {"search": "brute_force"}], ids=str
)
def test_the_minimum_is_the_match(spade, scratched, options):
    result = spade.with_options(**options).predict(scratched)
    for place in [(0, 0), (103, 88), (223, 150)]:
        match, distances = result.match(*place), result.distances_from(*place)
        assert distances.shape == (5, 56, 56)
        neighbour, row, col = np.unravel_index(distances.argmin(), distances.shape)
        assert distances.min() == pytest.approx(match.distance, rel=1e-6)
        assert (neighbour, row, col) == (match.neighbour, match.row * 56 // 224, match.col * 56 // 224)


def test_the_radius_is_ignored_and_other_options_hold(spade, scratched):
    result = spade.predict(scratched)
    near = result.with_options(radius=1, k=3)
    np.testing.assert_array_equal(near.distances_from(103, 88), result.distances_from(103, 88)[:3])
    assert near.distances_from(103, 88).min() <= near.match(103, 88).distance
    some = np.array([7, int(result.neighbours.index[2])])
    np.testing.assert_array_equal(result.distances_from(103, 88, some)[1], result.distances_from(103, 88)[2])
    kappa = result.with_options(kappa=4).match(103, 88).distance
    assert np.sort(result.distances_from(103, 88), axis=None)[:4].mean() == pytest.approx(kappa, rel=1e-6)
    together = result.with_options(combine="ensemble")
    assert together.distances_from(103, 88).min() >= sum(
        found.distance[103 * h // 224, 88 * h // 224] for found, h in zip(together.match_alone.values(), (56, 28, 14))
    ) / 3 * (1 - 1e-6)


def test_a_place_outside_the_map_is_refused(spade, scratched):
    with pytest.raises(ValueError, match=r"0 <= row < 224 and 0 <= col < 224; got \(224, 0\)"):
        spade.predict(scratched).distances_from(224, 0)


def test_a_fit_of_one_normal_image_is_enough(demo):
    result = SPADE(k=1).fit(demo.train[:1]).predict(demo.test[0])
    assert result.distances_from(5, 9).min() == pytest.approx(result.match(5, 9).distance, rel=1e-6)
