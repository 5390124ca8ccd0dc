"""Lesson 05: from the distances of the cells to a map of the pixels and a score of the image."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pandas
from jaxtyping import UInt8
from matplotlib.figure import Figure

from spade_kit.datasets.samples import Sample
from spade_kit.datasets.synthetic import Stroke, changed, paint
from spade_kit.evaluation.metrics import aupro
from spade_kit.features.backbones import Backbone
from spade_kit.figures.style import SCALE, add_scale, draw_contour, make_panels, show_map, show_picture
from spade_kit.result import Result
from spade_kit.spade import SPADE


def stack(photos: Sequence[Sample], height: int = 3) -> list[UInt8[np.ndarray, "H W 3"]]:
    """Tall images, each of ``height`` parts on top of each other."""
    return [np.concatenate([photo.image for photo in photos[at : at + height]]) for at in range(0, len(photos), height)]


def crack(photo: UInt8[np.ndarray, "H W 3"], seed: int) -> UInt8[np.ndarray, "H W 3"]:
    """The image with a fine dark crack somewhere, 2 px wide, across the image."""
    rng = np.random.default_rng(seed)
    steps = np.cumsum(np.c_[rng.normal(0, 4, 9), np.full(9, 12)], 0)
    start = rng.uniform((60, 20), (photo.shape[0] - 60, photo.shape[1] - 130))
    points = tuple((row, col) for row, col in (start + steps).tolist())
    return paint(photo, [Stroke("brush", points, size=2, strength=0.7, colour=(40, 40, 40))])


def compare_shapes(
    normals: Sequence[UInt8[np.ndarray, "H W 3"]],
    good: Sequence[UInt8[np.ndarray, "H W 3"]],
    backbones: Mapping[str, Backbone],
) -> tuple[pandas.DataFrame, list[Result]]:
    """AUPRO for cracks under several croppings, one row each, and the result of the first crack under each."""
    cracked = [crack(photo, at) for at, photo in enumerate(good)]
    masks = [changed(photo, other) for photo, other in zip(good, cracked)]
    rows, first = [], []
    for name, backbone in backbones.items():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* were squashed")  # that is the point
            spade = SPADE(backbone).fit(normals)
        results = [spade.judge(photo) for photo in [*good, *cracked]]
        truth = [results[0].crop.cut_mask(mask) for mask in [np.zeros_like(mask) for mask in masks] + masks]
        rows.append((name, aupro(np.stack([one.anomaly_map for one in results]), np.stack(truth))))
        first.append(results[len(good)])
    return pandas.DataFrame(rows, columns=["images are", "AUPRO"]).set_index("images are"), first


def draw_excess(results: Sequence[Result]) -> Figure:
    """Rows of images: the image, its map, what normal images reach at each place, and the excess, on one raw scale."""
    level = results[0].normal_level
    assert level is not None  # there is more than one normal image
    figure, panels = make_panels(None, 4 * len(results), 4, bars=1, shape=results[0].crop.size)
    for at, result in enumerate(results):
        photo, *maps = panels[4 * at : 4 * at + 4]
        show_picture(photo, result.image, result.label or "image")
        assert result.place_level is not None
        shown = {"map": result.anomaly_map, "normal here": result.place_level, "excess": result.excess_map}
        for panel, (name, values) in zip(maps, shown.items()):
            image = show_map(panel, values, SCALE * level, name)
        add_scale(maps[-1], image, SCALE * level, level)
        if result.mask is not None:
            draw_contour(photo, result.mask, "white", "dashed")
    return figure
