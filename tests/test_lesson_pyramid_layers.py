"""Lesson 06: which cells of each level a place of the image reaches."""

import numpy as np
import pytest
from torch import nn

from spade_kit import load_backbone
from spade_kit.lessons.pyramid_layers import find_reach


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
