"""Lesson 06: which cells of each level a place of the image reaches."""

import numpy as np
import pytest
from torch import nn

from spade_kit import load_backbone
from spade_kit.lessons.pyramid_layers import check, check_shares, check_think, find_reach


def test_the_reach_of_pooling_is_the_part_of_the_grid_that_lies_on_the_changed_place(rng):
    pooling = load_backbone(nn.Sequential(nn.AvgPool2d(4), nn.AvgPool2d(7)), layers=("0", "1"), resize=224)
    photo = rng.integers(0, 100, (224, 224, 3), dtype=np.uint8)  # dark, so that what is inverted is bright
    table = find_reach([pooling], photo, slice(0, 112), slice(0, 30))
    assert table.values.tolist() == [
        ["Sequential", "layer1", "0", 3, "56 x 56", f"{28 * 8 / 56**2:.0%}"],
        ["Sequential", "layer2", "1", 3, "8 x 8", f"{4 * 2 / 8**2:.0%}"],
    ]


@pytest.mark.parametrize("block", ["blocks.0", "blocks.11"])
def test_every_block_of_a_transformer_is_reached_from_everywhere(demo, block):
    vit = load_backbone("vit_tiny_patch16_224", pretrained=False, layers=[block])
    (changed,) = find_reach([vit], demo.test[0].image, slice(0, 16), slice(0, 16))["changed"]
    assert changed == "100%"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([..., ..., ...], "Not answered yet"),
        ([9 / 169, 16 / 169, 144 / 169], "Right. "),
        ([0.053, 0.095, 0.852], "Right. "),
        ([9, 16, 144], "divide them by their sum"),
        ([3 / 19, 4 / 19, 12 / 19], "roots do not"),
        ([3 / 13, 4 / 13, 12 / 13], "more than 1"),
        ([0.05, 0.09, 0.85], "Right. "),
        ([0.06, 0.09, 0.85], "layer1 contributes 9 of 169: that is not 0.06"),
        ([3, 4, 12], "the distances of the layers, each alone"),
        ([9 / 13, 16 / 13, 144 / 13], "add up to 13"),
        ([81 / 21073, 256 / 21073, 20736 / 21073], "do not square them again"),
        ([160 / 169, 153 / 169, 25 / 169], "what the two other layers contribute"),
        ([1 / 3, 1 / 3, 1 / 3], "A third each"),
        ([0.1, 0.1, 0.9], "Rounded to one digit"),
        ([0.05, 0.1, 0.75], "these add up to 0.90"),
        ([0, 0, 1], "layer3 contributes 144 of 169: that is not 1"),
        ([5.33, 9.47, 85.2], "divide by 100"),
        ([5, 9, 85], "divide by 100"),
        ([0.85, 0.09, 0.05], "The order is layer1"),
        ([0.16, 0.21, 0.63], "roots do not"),
        ([0.3, 0.3, 0.4], "layer3 contributes 144 of 169: that is not 0.4"),
        ([1], "three numbers are needed; got [1]"),
    ],
)
def test_the_warm_up_names_the_mistake(capsys, answer, said):
    check_shares(answer)
    assert said in capsys.readouterr().out


def spreads(levels, *axes):
    return np.array([level.var(axes).sum() for level in levels])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda levels: ..., "Not answered yet"),
        (lambda levels: 1 / spreads(levels, 0, 2, 3), "Right. "),
        (lambda levels: list(spreads(levels, 0, 2, 3) ** -1.0), "Right. "),
        (lambda levels: spreads(levels, 0, 2, 3), "Those are the variances"),
        (lambda levels: [1 / level.var((0, 2, 3)).mean() for level in levels], "the mean over the channels"),
        (lambda levels: spreads(levels, 0, 2, 3) ** -0.5, "drop the root"),
        (lambda levels: [1 / level.std((0, 2, 3)).sum() for level in levels], "standard deviations, summed"),
        (lambda levels: [1 / level.var() for level in levels], "over everything at once"),
        (lambda levels: [1 / (level**2).mean((0, 2, 3)).sum() for level in levels], "Those are mean squares"),
        (lambda levels: [1 / level.var((0, 2, 3), ddof=1).sum() for level in levels], "as for a sample"),
        (lambda levels: 1 / spreads(levels, 1), "the variance over the channels of each place"),
        (lambda levels: 1 / spreads(levels, 0), "over images only"),
        (lambda levels: 1 / spreads(levels, 2, 3), "of one image at a time"),
        (lambda levels: [1 / level.shape[1] for level in levels], "That counts channels"),
        (lambda levels: [1, 1, 1], "The same weight for all"),
        (lambda levels: [1 / 3, 1 / 3, 1 / 3], "The same weight for all"),
        (lambda levels: spreads(levels, 0, 2, 3)[0] / spreads(levels, 0, 2, 3), "The proportions are right"),
        (lambda levels: [1 / level.var((0, 2, 3)) for level in levels], "Those are weights of channels"),
        (lambda levels: sum(1 / spreads(levels, 0, 2, 3)), "three weights are needed; got an array of shape ()"),
        (lambda levels: [3, 2, 1], "The weights must be 0."),
    ],
)
def test_the_exercise_names_the_mistake(capsys, answer, said):
    check(answer)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([..., ..., ...], "Not answered yet"),
        ([1 / 5, 1 / 9, 1 / 35], "Right. "),
        ([0.2, 0.11, 0.03], "Right. "),
        ([1 / 25, 1 / 81, 1 / 35**2], "from side to side"),
        ([1 / 10, 1 / 18, 1 / 70], "a line of 1 px"),
        ([5, 9, 35], "turn the fraction round"),
        ([1 / 2, 1 / 4, 1 / 8], "4, 8 and 16 px apart"),
        ([2 / 19, 2 / 67, 2 / 339], "hardly matter"),
        ([1 / 35, 1 / 9, 1 / 5], "The order is layer1"),
        ([20, 11.1, 2.86], "divide by 100"),
        ([1, 1, 1], "got [1, 1, 1]"),
    ],
)
def test_the_question_names_the_mistake(capsys, answer, said):
    check_think(answer)
    assert said in capsys.readouterr().out
