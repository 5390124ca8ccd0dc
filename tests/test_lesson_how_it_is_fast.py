"""Lesson 11: the search against all pairs, its counts, an approximate index, and the exercise."""

import numpy as np
import pytest
import torch
from plain_branch_and_bound import plain_branch_and_bound

import spade_kit
from spade_kit.features.pyramid import Pyramid
from spade_kit.lessons import how_it_is_fast as fast

LAYERS = ("layer1", "layer2", "layer3")
SHAPES = ((3, 8, 12), (4, 4, 6), (5, 2, 3))


def make_pyramid(rng, n, shapes=SHAPES, whole=False):
    draw = (lambda shape: rng.integers(0, 3, shape)) if whole else (lambda shape: rng.normal(size=shape))
    levels = [torch.tensor(draw((n, *shape)), dtype=torch.float32) for shape in shapes]
    return Pyramid(levels, LAYERS[: len(shapes)], torch.zeros(n, 1))


def by_hand(query, normals, weights=(1, 1, 1)):
    """(h, w, n, h, w) squared distances, by loops over layers only."""
    h, w = query.grid
    total = np.zeros((h, w, len(normals), h, w))
    for weight, here, there in zip(weights, query.levels, normals.levels):
        step = h // here.shape[2]
        wide = [level.double().numpy().repeat(step, 2).repeat(step, 3) for level in (here, there)]
        for asked, held in zip(wide[0][0], wide[1].swapaxes(0, 1)):
            total += weight * (asked[:, :, None, None, None] - held) ** 2
    return total


# ---- the search ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["best first", "as stored", "worst first"])
@pytest.mark.parametrize("weights", [None, (0.3, 1, 2), (1, 0, 0)])
@pytest.mark.parametrize("whole", [False, True])
def test_the_search_finds_what_all_pairs_find(rng, order, weights, whole):
    query, normals = make_pyramid(rng, 1, whole=whole), make_pyramid(rng, 3, whole=whole)
    found = fast.search_pairs(query, normals, weights, order)
    expected = by_hand(query, normals, weights or (1, 1, 1)).min((2, 3, 4))
    np.testing.assert_allclose(found.distance**2, expected, atol=1e-9)


def test_it_opens_as_many_pairs_as_branch_and_bound(rng):
    """The same pairs, except that each search visits the cells in a different order."""
    query, normals = make_pyramid(rng, 1), make_pyramid(rng, 4)
    _, _, visits = plain_branch_and_bound(
        [level[0].numpy() for level in query.levels], [level.numpy() for level in normals.levels], [1, 1, 1]
    )
    found = fast.search_pairs(query, normals)
    np.testing.assert_array_equal(found.possible, visits.possible)
    np.testing.assert_allclose(found.measured, visits.measured, rtol=0.1)
    assert found.measured[2] == visits.measured[2]


def test_counts_of_a_case_with_a_known_answer(rng):
    """The query is one of the normals and all differ widely, so each block opens only its twin. The first cell meets
    its twin at once, the second meets one other cell before, and so on: 1 + 2 + 3 + 4 = 10 per block."""
    normals = make_pyramid(rng, 2)
    normals.levels[2][:] += 100 * torch.arange(12.0).reshape(2, 1, 2, 3)
    normals.levels[1][:] += 100 * torch.arange(48.0).reshape(2, 1, 4, 6)
    found = fast.search_pairs(normals.select(1), normals)
    assert found.distance.max() == 0
    assert found.blocks.tolist() == [1] * 6
    assert found.cells.tolist() == [10] * 6
    assert found.possible.tolist() == [2 * 96**2, 2 * 24**2, 2 * 6**2]
    assert found.measured.tolist() == [960, 96, 72]
    assert found.work.tolist() == [2880, 384, 360]
    assert found.work_of_all == 12 * 2 * 96**2
    np.testing.assert_allclose(found.effort, np.full((2, 3), 1 / 12))
    assert found.table().to_dict("list") == {
        "pairs": ["72", "1,152", "18,432"],
        "measured": ["100 %", "8.3 %", "5.2 %"],
        "share of the work": ["10%", "11%", "79%"],
    }


def test_worst_first_opens_most_and_best_first_least(rng):
    query, normals = make_pyramid(rng, 1), make_pyramid(rng, 2)
    opened = {order: fast.search_pairs(query, normals, order=order).blocks.sum() for order in fast._ORDERS}
    assert opened["worst first"] > opened["as stored"] > opened["best first"]


def test_a_coarse_weight_of_0_leaves_no_bound(rng):
    query, normals = make_pyramid(rng, 1), make_pyramid(rng, 2)
    assert (fast.search_pairs(query, normals, (1, 1, 0)).effort == 1).all()


def test_the_blocks_named_as_ends_of_the_scratch_hold_the_scratch(spade, demo):
    scratch = [sample for sample in demo.test if sample.label == "scratch"][3]
    touched = spade.predict(scratch).mask.reshape(14, 16, 14, 16).any((1, 3))
    assert touched[(5, 8), (5, 7)].all()
    assert not touched[20 // 4, 8 // 4]  # the pixel on bare metal


def test_growth_is_given_to_two_digits(rng):
    query, normals = make_pyramid(rng, 1), make_pyramid(rng, 4)
    few, many = (fast.search_pairs(query, normals.select(range(k))) for k in (1, 4))
    told = fast.tell_growth(few, many)
    assert told["pairs of pixels"] == told["pairs of blocks bounded"] == "4"
    assert float(told["pairs of cells opened"]) == pytest.approx(many.cells.sum() / few.cells.sum(), rel=0.05)


def test_code_is_printed_without_its_docstring(capsys):
    fast.tell_code(fast.search_pairs)
    told = capsys.readouterr().out
    assert told.startswith("(q1, q2, q3)")
    assert '"""' not in told
    assert "return Search" in told


# ---- one pixel -------------------------------------------------------------------------------------------------------


def test_a_small_case_by_hand(capsys):
    steps = fast.trace_pixel(*fast.make_small_pyramids(), 0, 0)
    assert [(step.place[1:], step.bound) for step in steps if step.level] == [
        ((1, 0), 1), ((0, 0), 4), ((0, 1), 4), ((1, 1), 16)]  # fmt: skip
    assert sum(step.level == 0 for step in steps) == 12
    assert fast.find_winner(steps).place == (0, 0, 2)
    fast.tell_steps(steps)
    assert capsys.readouterr().out.splitlines()[-1] == "block (1, 1): bound 16, not opened"


def test_the_package_agrees_with_the_small_case_including_ties():
    query, normal = fast.make_small_pyramids()
    found = spade_kit.match_pixels(query, normal)
    for row, col in np.ndindex(4, 4):
        winner = fast.find_winner(fast.trace_pixel(query, normal, row, col))
        assert winner.place == (0, found.row[0, row, col], found.col[0, row, col])


@pytest.mark.parametrize("place", [(0, 0), (7, 11), (3, 10), (6, 1)])
@pytest.mark.parametrize("whole", [False, True])
def test_a_traced_pixel_finds_the_first_of_its_nearest(rng, place, whole):
    query, normals = make_pyramid(rng, 1, whole=whole), make_pyramid(rng, 3, whole=whole)
    distances = by_hand(query, normals)[place]
    steps = fast.trace_pixel(query, normals, *place)
    winner = fast.find_winner(steps)
    assert winner.bound == pytest.approx(distances.min(), abs=1e-9)
    assert winner.place == np.unravel_index(distances.round(9).argmin(), distances.shape)
    for step in steps:
        if step.above is not None:
            assert steps[step.above].opened
            assert step.bound >= steps[step.above].bound
        if not step.opened and step.level:  # then nothing below it is nearer
            _, h, w = SHAPES[step.level]
            down, across = 8 // h, 12 // w
            image, row, col = step.place
            below = distances[image, row * down : (row + 1) * down, col * across : (col + 1) * across]
            assert below.min() >= step.bound - 1e-9
            assert below.min() > winner.bound


# ---- floating point --------------------------------------------------------------------------------------------------


def test_expanded_squares_lose_a_difference_of_1():
    assert fast.expand_squares([[4097]], [[4096]]).item() == 0
    assert fast.expand_squares([[3.0, 4.0]], [[0.0, 0.0], [3.0, 0.0]]).tolist() == [[25, 16]]


def test_shortened_bounds_never_exceed_the_distance(rng):
    cells = 100 + rng.normal(size=(40, 33)).astype(np.float32).astype(float)
    bounds, truth = fast.expand_squares(cells[:8], cells), fast.squares(cells[:8], cells)
    np.testing.assert_allclose(truth, ((cells[:8, None] - cells) ** 2).sum(2))
    assert (bounds > truth).any()
    assert (fast.shorten(bounds, cells[:8], cells) <= truth).all()


# ---- the approximate index -------------------------------------------------------------------------------------------


def test_pixels_are_all_their_layers_in_reading_order(rng):
    pyramid = make_pyramid(rng, 2)
    joined = fast.join_levels(pyramid)
    assert joined.shape == (2 * 96, 12)
    for image, row, col in ((0, 0, 0), (1, 5, 7)):
        expected = [level[image, :, row // step, col // step] for step, level in zip((1, 2, 4), pyramid.levels)]
        np.testing.assert_array_equal(joined[image * 96 + row * 12 + col], torch.cat(expected))


def test_comparing_all_gives_the_smallest_distance(rng):
    query, normals = rng.normal(size=(9, 5)).astype(np.float32), rng.normal(size=(50, 5)).astype(np.float32)
    expected = np.sqrt(((query[:, None].astype(float) - normals) ** 2).sum(2).min(1))
    np.testing.assert_allclose(fast.compare_all(query, normals, step=7), expected)


def test_an_index_that_searches_everything_is_exact_and_any_other_is_never_nearer(rng):
    query, normals = (rng.normal(size=(size, 4)).astype(np.float32) for size in (30, 400))
    index = fast.ListIndex(normals, lists=8)
    assert sum(map(len, index.lists)) == 400
    exact = fast.compare_all(query, normals)
    everywhere, seen = index.search(query, 8)
    np.testing.assert_allclose(everywhere, exact)
    assert seen == 1
    one, seen = index.search(query, 1)
    assert (one >= exact - 1e-9).all()
    nearest_list = ((query[:, None] - index.centres) ** 2).sum(2).argmin(1)
    assert seen == pytest.approx(sum(len(index.lists[number]) for number in nearest_list) / (30 * 400))
    by_list = [np.sqrt(((one - index.lists[number]) ** 2).sum(1).min()) for one, number in zip(query, nearest_list)]
    np.testing.assert_allclose(one, by_list, rtol=1e-5)


def test_loss_is_measured_against_the_exact_maps(spade, result, demo):
    normals = spade_kit.extract_features(demo.train[:12]).select(result.neighbours.index)
    index = fast.ListIndex(fast.join_levels(normals), lists=4)
    lost = {probes: [fast.search_lists(index, result, probes)] for probes in (1, 4)}
    np.testing.assert_allclose(lost[4][0].anomaly_map, result.anomaly_map, atol=1e-3)
    assert lost[4][0].found == lost[4][0].seen == 1
    assert lost[1][0].found < 1
    table = fast.measure_loss([result], lost)
    assert table.loc[4].tolist() == ["100%", "100.0%", "0.000", "0"]
    error = (lost[1][0].anomaly_map - result.anomaly_map).max()
    assert table.loc[1, "largest error of a map"] == f"{error:.0f}"


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_a_tree_hangs_from_0_and_counts_the_blocks_it_omits(rng):
    query, normals = make_pyramid(rng, 1), make_pyramid(rng, 3)
    steps = fast.trace_pixel(query, normals, 2, 2)
    closed = [step for step in steps if step.above is None and not step.opened]
    (panel,) = fast.draw_steps(steps, beyond=1).axes
    assert panel.get_ylim()[1] == 0
    assert panel.texts[0].get_text().startswith(f"and {len(closed) - 1}")
    nearest = panel.lines[-1].get_ydata()
    assert (np.diff(nearest) <= 0).all()
    assert nearest[-1] ** 2 == pytest.approx(fast.find_winner(steps).bound)
    dots = sum(len(dots.get_offsets()) for dots in panel.collections)
    assert dots == sum(step.depth < 0.97 * panel.get_ylim()[0] for step in steps if step not in closed[1:])


def test_efforts_are_drawn_on_one_scale(rng):
    search = fast.search_pairs(make_pyramid(rng, 1), make_pyramid(rng, 2))
    figure = fast.draw_effort(np.zeros((8, 12, 3), np.uint8), {"one": search, "other": search})
    shown = [panel.images[0] for panel in figure.axes[1:3]]
    assert {image.norm for image in shown} == {shown[0].norm}
    np.testing.assert_array_equal(shown[0].get_array(), search.effort)


def test_a_loss_is_drawn_beside_the_exact_map(result):
    lost = fast.Loss(result.anomaly_map + 1, 0.1, 0.9)
    panels = fast.draw_loss(result, lost).axes
    assert panels[1].images[0].get_clim() == panels[2].images[0].get_clim()
    np.testing.assert_allclose(panels[3].images[0].get_array(), 1, atol=1e-4)


# ---- the exercise ----------------------------------------------------------------------------------------------------


def square(query, normal):
    return ((query - normal) ** 2).sum()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda q, g, near: ..., "Not answered yet"),
        (lambda q, g, near: square(q, g) <= near.max(), "Right. "),
        (lambda q, g, near: not (square(q, g) > near).all(), "Right. "),
        (lambda q, g, near: square(q, g) < near.max(), "comes first and has to win"),
        (lambda q, g, near: square(q, g) > near.max(), "the other way round"),
        (lambda q, g, near: square(q, g) >= near.max(), "the other way round"),
        (lambda q, g, near: ((q - g) ** 2).mean() <= near.max(), "the mean over the channels"),
        (lambda q, g, near: np.linalg.norm(q - g) <= near.max(), "drop the root"),
        (lambda q, g, near: abs(q - g).sum() <= near.max(), "absolute differences"),
        (lambda q, g, near: square(q, g) <= near.min(), "the best pixel, nearest.min()"),
        (lambda q, g, near: square(q, g) <= near.mean(), "the mean of the pixels"),
        (lambda q, g, near: (np.linalg.norm(q) + np.linalg.norm(g)) ** 2 <= near.max(), "upper bound"),
        (lambda q, g, near: True, "nothing is saved"),
        (lambda q, g, near: False, "nothing will be found"),
        (lambda q, g, near: square(q, g) <= near, "got an array of shape (16,)"),
        (lambda q, g, near: square(q, g) <= near.max() + 1, "the answer must be False; got True."),
        (lambda q, g, near: 2 * square(q, g) <= near.max(), "the answer must be True; got False."),
        (lambda q, g, near: None, "The function returned nothing"),
        (lambda q, g: True, "Your code raises TypeError"),
        (lambda q, g, near: near.largest, "Your code raises AttributeError"),
    ],
)
def test_the_exercise_says_what_is_wrong(capsys, answer, said):
    fast.check(answer)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., "Not answered yet"),
        (np.square([3, 3, 2, 1, 2]).sum(), "Right. "),
        (3**2 + 3**2, "add the squares of layer2"),
        (2**2 + 1 + 2**2, "Add the squares of layer3"),
        (np.linalg.norm([3, 3, 2, 1, 2]), "needs no root"),
        (3 + 3 + 2 + 1 + 2, "Square each difference"),
        ((np.linalg.norm([3, 3]) + np.linalg.norm([2, 1, 2])) ** 2, "upper bound"),
        (0, "Got 0."),
    ],
)
def test_the_warm_up_says_what_is_wrong(capsys, answer, said):
    fast.check_bound(answer)
    assert said in capsys.readouterr().out


ALL_CHANNELS = 24 + 40 + 112 + 320


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., "Not answered yet"),
        ((56 // 7) ** 4 * ALL_CHANNELS / 320, "Right. "),
        (6350, "Right. "),
        (256 * ALL_CHANNELS / 320, "8 x 8 pixels"),
        (64 * ALL_CHANNELS / 320, "more than 64 pairs"),
        (4096 * (24 + 40 + 112) / 320, "more channels now"),
        (4096, "Count multiplications"),
        (4096 * ALL_CHANNELS / 112, "that of the new grid"),
        (7, "got 7."),
    ],
)
def test_the_question_says_what_is_wrong(capsys, answer, said):
    fast.check_think(answer)
    assert said in capsys.readouterr().out
