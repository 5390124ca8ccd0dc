"""Lesson 02: how far features see, the cost of wrong preprocessing, and an exercise that names the mistake."""

import numpy as np
import pytest
import torch
from torch import nn

import spade_kit
from spade_kit.features.pyramid import Pyramid, compute_features
from spade_kit.lessons import features as lesson


@pytest.fixture(scope="module")
def backbone():
    return spade_kit.load_backbone()


@pytest.fixture(scope="module")
def crop(backbone, demo):
    return lesson.take_crop(backbone, next(sample for sample in demo.test if sample.label == "good"))


# ---- receptive fields ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernels", "strides"), [((3,), (1,)), ((3, 3), (2, 1)), ((5, 3, 3), (1, 2, 2)), ((7, 5, 1, 3), (2, 3, 1, 1))]
)
def test_the_receptive_field_is_the_reach_of_the_gradient(kernels, strides):
    layers = [nn.Conv1d(1, 1, kernel, stride, bias=False) for kernel, stride in zip(kernels, strides)]
    for layer in layers:
        nn.init.ones_(layer.weight)
    x = torch.zeros(1, 1, 200, requires_grad=True)
    nn.Sequential(*layers)(x)[0, 0, 3].backward()
    assert lesson.receptive_field(kernels, strides) == int((x.grad != 0).sum())


@pytest.mark.parametrize(("layer", "side"), [("layer1", 19), ("layer2", 67), ("layer3", 339)])
def test_receptive_fields_of_the_network_follow_from_its_convolutions(demo, layer, side):
    larger = spade_kit.load_backbone(resize=512, crop=416)  # wider than any field
    trace = lesson.trace_back(larger, [lesson.take_crop(larger, demo.train[0])], layer)
    rows, cols = (np.flatnonzero(trace.sum(axis)) for axis in (1, 0))
    assert lesson.receptive_field(*zip(*lesson.list_convolutions(larger, layer))) == side
    assert (np.ptp(rows) + 1, np.ptp(cols) + 1) == (side, side)


def test_a_pixel_changes_only_the_cells_that_can_see_it(backbone, crop):
    moved = lesson.change_pixel(backbone, crop, 112, 56)
    for by, (rows, cols) in zip(moved, [((25, 30), (11, 16)), ((9, 18), (2, 11)), ((0, 14), (0, 14))]):
        expected = np.zeros(by.shape, bool)
        expected[slice(*rows), slice(*cols)] = True
        np.testing.assert_array_equal(by > 0, expected)


def test_the_trace_of_a_mean_colour_is_its_cell(crop):
    colours = lesson.load_colours()
    for layer, stride in zip(colours.layers, (4, 8, 16)):
        trace = lesson.trace_back(colours, [crop, crop[::-1].copy()], layer)
        expected = np.zeros((224, 224))
        start = 224 // stride // 2 * stride
        expected[start : start + stride, start : start + stride] = 1 / stride**2
        np.testing.assert_allclose(trace, expected, rtol=1e-5)
        assert lesson.side_that_holds(0.9, trace, 224 // stride) == stride
        assert lesson.side_that_holds(0.2, trace, 224 // stride) == max(2, stride // 2)


def test_the_square_is_around_the_middle_cell():
    trace = np.zeros((16, 16))
    trace[8:12, 8:12] = 0.5 / 16  # the middle one of 4 x 4 cells
    trace[3, 10] = 0.5
    assert [lesson.side_that_holds(part, trace, 4) for part in (0.1, 0.5, 0.51, 1)] == [2, 4, 14, 14]


# ---- similar cells ---------------------------------------------------------------------------------------------------


def test_similarity_is_the_distance_to_the_cell_of_the_pixel(backbone, crop):
    pyramid = compute_features([crop], backbone)
    for grid, level in zip(lesson.measure_similarity(pyramid, 33, 58), pyramid.levels):
        h, w = grid.shape
        here = level[0, :, 33 // (224 // h), 58 // (224 // w)].double().numpy()
        for at in ((0, 0), (h // 2, 1), (h - 1, w - 1)):
            there = level[0, :, at[0], at[1]].double().numpy()
            assert grid[at] == pytest.approx(sum((here - there) ** 2) ** 0.5, rel=1e-5)
        assert np.unravel_index(grid.argmin(), grid.shape) == (33 * h // 224, 58 * w // 224)


def test_the_most_similar_cells_are_found_but_not_adjacent_ones():
    grid = np.full((5, 7), 9.0)
    grid[2, 3], grid[2, 4], grid[1, 2], grid[0, 6], grid[4, 3] = 0, 1, 1, 3, 2
    assert lesson.find_alike(grid, 2) == [(4, 3), (0, 6)]
    assert lesson.find_alike(grid, 2, beyond=2) == [(0, 6), (0, 0)]


def test_distinct_features_are_counted_once():
    columns = torch.tensor([[1.0, 0], [1, 1e-9], [0, 1], [1, 0], [0, 1], [3, 3]]).T
    assert lesson.count_different(columns.reshape(1, 2, 2, 3)) == 3


def test_padding_makes_features_of_a_grey_image_differ(backbone):
    grey = compute_features([np.full((224, 224, 3), 200, np.uint8)], backbone)
    assert [lesson.count_different(level) for level in grey.levels] == [6**2, 10**2, 14**2]
    inside = grey.levels[0][0, :, 2:-3, 2:-3]  # six kinds of rows and of columns: two, the middle, three
    torch.testing.assert_close(inside, inside[:, :1, :1].expand_as(inside))


# ---- other features, and other preprocessing -------------------------------------------------------------------------


def test_colours_are_the_means_of_cells(crop):
    colours = lesson.load_colours()
    pyramid = compute_features([crop], colours)
    mean, std = np.array(colours.mean), np.array(colours.std)
    for level, stride in zip(pyramid.levels, (4, 8, 16)):
        side = 224 // stride
        cells = (crop.reshape(side, stride, side, stride, 3) / 255).mean((1, 3))
        np.testing.assert_allclose(level[0].permute(1, 2, 0), (cells - mean) / std, atol=1e-5)
    np.testing.assert_allclose(pyramid.pooled[0], ((crop / 255).mean((0, 1)) - mean) / std, atol=1e-5)


class Told:
    """Stand-in for a fitted SPADE with known scores."""

    def __init__(self, scores):
        self.scores = scores

    def predict(self, sample):
        return type("Result", (), {"image_score": self.scores[sample]})


def test_the_auc_of_a_kind_counts_pairs(tmp_path):
    labels = ["good", "good", "dent", "dent", "hole"]
    samples = [spade_kit.Sample(tmp_path / f"{number}.png", label) for number, label in enumerate(labels)]
    told = Told(dict(zip(samples, [1.0, 4.0, 3.0, 5.0, 0.0])))
    table = lesson.score_by_kind({"some": told}, samples)
    assert table.loc["some"].to_dict() == {"all": "0.50", "dent": "0.75", "hole": "0.00"}


def test_each_way_to_preprocess_does_what_its_name_says(backbone, demo):
    photo = demo.train[0].image
    ways = lesson.list_ways(backbone)
    taken = {}
    for name, (other, change) in ways.items():
        changed = change(photo)
        cut = other.find_crop(changed).cut(changed).astype(float)
        taken[name] = (cut / 255 - other.mean) / other.std
    first, *_ = ways
    right = lesson.take_crop(backbone, demo.train[0])
    np.testing.assert_allclose(taken[first], right / 127.5 - 1)
    np.testing.assert_allclose(taken["blue and red swapped"], taken[first][..., ::-1])
    np.testing.assert_allclose(taken["0 to 255, not scaled"], right)
    own = (right / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    np.testing.assert_allclose(taken["ImageNet's statistics"], own)
    assert 0 < abs(taken["JPEG of quality 15"] - taken[first]).mean() < 0.1
    np.testing.assert_allclose((taken["20 % darker"] + 1) / 2, 0.8 * right / 255, atol=2 / 255)
    height, width, _ = ways["5 % larger"][1](photo).shape
    assert (320 / height, 320 / width) == pytest.approx((1.05, 1.05), abs=0.005)


@pytest.mark.slow
def test_the_cost_of_mistakes_equals_the_one_computed_by_hand(backbone, demo, monkeypatch):
    ways = dict(list(lesson.list_ways(backbone).items())[:2])
    monkeypatch.setattr(lesson, "list_ways", lambda _: ways)
    kinds = ("good", "thread")
    tests = [sample for sample in demo.test if sample.label in kinds][:15]
    right = spade_kit.SPADE(backbone, k=5).fit(demo.train[:20])
    table = lesson.price_mistakes(right, demo.train[:20], tests)
    threshold, good = right.threshold(fpr=0.05, of="image"), np.array([one.label == "good" for one in tests])
    swapped = [np.ascontiguousarray(one.image[..., ::-1]) for one in tests]
    scores = np.array([right.predict(photo).image_score for photo in swapped])
    pairs = (scores[~good][:, None] > scores[good][None]).mean()
    row = table.loc["blue and red swapped"]
    assert row["AUC test only"] == f"{pairs:.2f}"
    other = spade_kit.SPADE(backbone, k=5).fit([one.image[..., ::-1].copy() for one in demo.train[:20]])
    scored = np.array([other.predict(photo).image_score for photo in swapped])
    assert row["AUC everywhere"] == f"{(scored[~good][:, None] > scored[good][None]).mean():.2f}"
    assert row["false alarms"] == f"{(scores[good] >= threshold).sum()} of {good.sum()}"
    assert table.iloc[0]["AUC everywhere"] == table.iloc[0]["AUC test only"]
    assert list(table.index) == ["no mistake", "blue and red swapped"]


# ---- places that the text names --------------------------------------------------------------------------------------


def test_the_probed_cell_is_a_hole_and_channel_10_marks_the_knob(backbone, crop):
    assert crop[32:36, 56:60].mean() < 90 < 150 < crop[24:28, 56:60].mean()  # the hole, and the plate above it
    orange = crop[..., 0].astype(int) - crop[..., 2] > 100
    row, col = np.argwhere(orange).mean(0)
    level = compute_features([crop], backbone).levels[2][0, 10].numpy()
    lowest = 16 * np.array(np.unravel_index(level.argmin(), level.shape)) + 8
    assert np.hypot(*(lowest - (row, col))) < 32  # two cells of 16 px


# ---- figures ---------------------------------------------------------------------------------------------------------


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_figures_say_what_they_show(backbone, crop, demo):
    pyramid = compute_features([crop], backbone)
    channels = lesson.draw_channels(backbone, crop, count=2)
    assert titles(channels)[::3] == [f"layer{n}: cells of {px} x {px} px" for n, px in ((1, 4), (2, 8), (3, 16))]
    traces = {layer: np.full((224, 224), 224.0**-2) for layer in backbone.layers}
    drawn = lesson.draw_traces(backbone, crop, traces)
    assert [title.split(",")[0] for title in titles(drawn)[1:]] == ["layer1: 19 px", "layer2: 67 px", "layer3: 339 px"]
    assert all(axes.get_xlim() == (-0.5, 223.5) for axes in drawn.axes[:4])
    alike = lesson.draw_similarity(backbone, crop, lesson.measure_similarity(pyramid, 33, 58))
    assert [len(axes.lines) for axes in alike.axes[:4]] == [2, 5, 5, 5]
    assert alike.axes[3].lines[0].get_xydata().tolist() == [[55.5, 39.5]]  # the centre of its cell of 16 px
    assert titles(lesson.draw_mistakes(backbone, demo.train[0].image)) == list(lesson.list_ways(backbone))


def test_the_figure_of_padding_counts_cells():
    level = torch.zeros(1, 2, 3, 3)
    level[0, 0], level[0, 1, 0] = 2, 2
    figure = lesson.draw_padding(Pyramid([level], ["layer1"], torch.zeros(1, 2)))
    assert titles(figure) == ["layer1: 2 different features"]
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), [[1, 1, 1], [0, 0, 0], [0, 0, 0]])


# ---- the exercise ----------------------------------------------------------------------------------------------------


def steps(strides):
    return [int(np.prod(strides[:at])) for at in range(len(strides))]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda kernels, strides: ..., "Not answered yet"),
        (lambda k, s: 1 + sum((a - 1) * b for a, b in zip(k, steps(s))), "Right. "),
        (lambda k, s: 1 + np.dot(np.array(k) - 1, steps(s)), "Right. "),
        (
            lambda k, s: 1 + sum(a - 1 for a in k),
            "Not yet. With kernels (7, 7, 3) and strides (2, 3, 1) the field is 31 px; got 15.",
        ),
        (lambda k, s: 1 + sum(a - 1 for a in k), "got 15. Strides matter"),
        (lambda k, s: sum(a - 1 for a in k), "2 pixels farther. And begin with 1"),
        (lambda k, s: 1 + sum((a - 1) * b * c for a, b, c in zip(k, steps(s), s)), "convolutions behind it: add first"),
        (lambda k, s: 1 + sum((a - 1) * b for a, b in zip(k, s)), "for all of them"),
        (lambda k, s: sum((a - 1) * b for a, b in zip(k, steps(s))), "begin with 1"),
        (lambda k, s: 1 + sum(a * b for a, b in zip(k, steps(s))), "take kernel - 1."),
        (lambda k, s: sum(a * b for a, b in zip(k, steps(s))), "take kernel - 1. And begin with 1"),
        (lambda k, s: 1 + sum(a // 2 * b for a, b in zip(k, steps(s))), "looks left and right"),
        (lambda k, s: 1 + sum((a - 1) * b for a, b in zip(k, [1, *s])), "Steps multiply"),
        (lambda k, s: 1 + sum(a - 1 for a in k) * np.prod(s), "The first kernel works in steps of 1"),
        (lambda k, s: lesson.receptive_field(k[::-1], s[::-1]), "got 27. That begins at the wrong end"),
        (lambda k, s: lesson.receptive_field(k[::-1], s), "Only the strides are in order"),
        (lambda k, s: lesson.receptive_field(k[:-1], s[:-1]), "The last convolution is missing"),
        (lambda k, s: lesson.receptive_field(k[1:], s[1:]), "The first convolution is missing"),
        (lambda k, s: sum(k), "Kernels overlap"),
        (lambda k, s: np.prod(k), "it does not multiply"),
        (lambda k, s: int(np.prod(s)), "the spacing between cells of the grid"),
        (lambda k, s: lesson.receptive_field(k, s) ** 2, "its side is asked for"),
        (lambda k, s: 31, "With kernels (7, 3) and strides (2, 2) the field is 11 px; got 31."),
        (lambda k, s: (31, 6), "The answer must be one number, the side in pixels; got a tuple."),
        (lambda k, s: k - 1, "Your code raises TypeError"),
    ],
)
def test_the_exercise_names_the_mistake(capsys, answer, said):
    lesson.check(answer)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., "Not answered yet"),
        ((40, 56, 56), "Right. "),
        ([40, 56, 56], "Right. "),
        ((40, 28, 28), "stride 8 is the same for every crop"),
        ((80, 56, 56), "does not depend on the size"),
        ((80, 28, 28), "stays the same"),
        ((56, 56, 40), "The channels come first"),
        ((24, 112, 112), "That is layer1"),
        ((112, 28, 28), "That is layer3"),
        ((40, 448, 448), "how many times does the stride fit"),
    ],
)
def test_the_warm_up_names_the_mistake(capsys, answer, said):
    lesson.check_shape(answer)
    assert said in capsys.readouterr().out


def test_the_shape_of_the_warm_up_is_that_of_the_network(demo):
    larger = spade_kit.load_backbone(resize=512, crop=448)
    assert compute_features([lesson.take_crop(larger, demo.train[0])], larger).levels[1].shape == (1, 40, 56, 56)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., "Not answered yet"),
        (25, "Right. "),
        (5, "two directions"),
        (16, "Take the most"),
        (4, "And the grid has two directions"),
        (36, "no pixel lies in all of them"),
        (1, "look farther than their own pixels"),
        (75**2, "how many cells see one pixel?"),
        (7, "Count the fields of 75 px"),
    ],
)
def test_the_question_at_the_end_names_the_mistake(capsys, answer, said):
    lesson.check_think(answer)
    assert said in capsys.readouterr().out


def test_one_pixel_lies_in_at_most_25_fields():
    starts = 16 * np.arange(40)
    held = [((starts <= pixel) & (pixel < starts + 75)).sum() for pixel in range(200, 400)]
    assert max(held) ** 2 == 25
    assert min(held) ** 2 == 16
