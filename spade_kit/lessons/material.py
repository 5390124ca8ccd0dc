"""What several lessons work on: small pyramids to be searched with a pencil, and which solar cell is of which kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch

from spade_kit.datasets.samples import Sample
from spade_kit.features.pyramid import Pyramid

Grids = Mapping[str, list[list[int]]]


def make_pyramids(fine: Grids, coarse: Grids) -> tuple[Pyramid, Pyramid]:
    """A query and a normal image of two layers with one channel each, from their ``"query"`` and ``"normal"`` grids."""
    pyramids = []
    for name in ("query", "normal"):
        levels = [torch.tensor(grid[name], dtype=torch.float32)[None, None] for grid in (fine, coarse)]
        pyramids.append(Pyramid(levels, ("layer1", "layer2"), torch.zeros(1, 1)))
    return pyramids[0], pyramids[1]


def cell_types(samples: Iterable[Sample]) -> np.ndarray:
    """Of each solar cell whether it is mono- or polycrystalline, ``"mono"`` or ``"poly"``, as its makers say."""
    samples = list(samples)
    with open(samples[0].path.parents[1] / "labels.csv", encoding="utf-8") as lines:
        types = {name.rpartition("/")[2]: kind for name, _, kind in (line.split() for line in lines if line.strip())}
    return np.array([types[sample.path.name] for sample in samples])
