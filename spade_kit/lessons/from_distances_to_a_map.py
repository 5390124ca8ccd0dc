"""Lesson 05: from the distances of the cells to a map of the pixels and a score of the image."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure

from spade_kit.datasets.samples import GOOD, Sample
from spade_kit.datasets.synthetic import Stroke, changed, paint
from spade_kit.evaluation.metrics import aupro
from spade_kit.features.backbones import Backbone
from spade_kit.figures.style import BLUE, RING, SCALE, add_scale, draw_contour, make_panels, show_map, show_picture
from spade_kit.lessons.checking import check_answer, explain, tell
from spade_kit.lessons.material import open_charts
from spade_kit.result import Result
from spade_kit.scores import make_map
from spade_kit.spade import SPADE


def enlarge(
    cells: Float[np.ndarray, "w"], stride: int, aligned: bool = False
) -> tuple[Float[np.ndarray, "W"], Float[np.ndarray, "W"]]:
    """A row of cells as a row of pixels, ``stride`` per cell: the place of each pixel in cells, and its value.

    Place 0 is the centre of the first cell. With ``aligned`` the first and last pixel are put on the first and last
    cell centre instead, a frequent mistake, which moves everything towards the ends.
    """
    pixels = np.arange(len(cells) * stride)
    place = pixels * (len(cells) - 1) / (len(pixels) - 1) if aligned else (pixels + 0.5) / stride - 0.5
    return place, np.interp(place, np.arange(len(cells)), cells)  # beyond the outer centres the value stays


def measure_smoothing(sigmas: Sequence[float]) -> pandas.DataFrame:
    """What a Gaussian of each sigma (px) leaves of three grids of distances, as a fraction of what sigma 0 leaves.

    ``scratch`` and ``stain`` are lines and squares of distance 1, one cell and ten cells wide: the height of the peak.
    ``noise`` is independent from cell to cell: its standard deviation.
    """
    scratch, stain = np.zeros((2, 56, 56), np.float32)
    scratch[28], stain[23:33, 23:33] = 1, 1
    noise = np.random.default_rng(0).normal(size=(56, 56)).astype(np.float32)
    size = (224, 224)
    left = [
        [make_map(scratch, size, sigma).max(), make_map(stain, size, sigma).max(), make_map(noise, size, sigma).std()]
        for sigma in (0, *sigmas)
    ]
    index = pandas.Index(sigmas, name="sigma (px)")
    return pandas.DataFrame(np.array(left[1:]) / left[0], index, ["scratch", "stain", "noise"])


def compare_maps(results: Sequence[Result], wanted: Mapping[str, Mapping[str, Any]]) -> pandas.DataFrame:
    """AUPRO of the judged maps under some options, a column each: for each kind of defect with the good images."""
    labels = np.array([result.label for result in results])
    masks = np.stack([result.mask for result in results if result.mask is not None])  # all have one
    kinds = [kind for kind in dict.fromkeys(labels.tolist()) if kind != GOOD]
    chosen = {"all": np.ones(len(labels), bool)} | {kind: np.isin(labels, (GOOD, kind)) for kind in kinds}
    table = {}
    for name, options in wanted.items():
        maps = np.stack([result.with_options(**options).judged_map for result in results])
        table[name] = {kind: aupro(maps[some], masks[some]) for kind, some in chosen.items()}
    return pandas.DataFrame(table)


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


def draw_enlarged(cells: Float[np.ndarray, "w"], stride: int) -> Figure:
    """A row of cells as steps, and as pixels: with cell centres kept, and with the corners aligned."""
    figure, (panel,) = open_charts(7.2, 2.8, "column (px)", "distance", size=9)
    panel.stairs(cells, np.arange(len(cells) + 1) * stride - 0.5, color="#BBBBBB", fill=True, label="cells")
    for aligned, colour, mark, name in ((False, BLUE, "o", "centres kept"), (True, RING, "x", "corners aligned")):
        panel.plot(enlarge(cells, stride, aligned)[1], color=colour, marker=mark, label=name)
    panel.set_xticks(np.arange(0, len(cells) * stride, stride))
    panel.legend(fontsize=9, frameon=False)
    return figure


def check_shares(split: Callable[[Float[np.ndarray, "l"]], Float[np.ndarray, "l"]]) -> None:
    """Check the shares of three layers in a distance."""
    squares = np.array([9.0, 16.0, 144.0])  # of a distance of 13
    right = squares / 13
    mistakes = {
        "Those are the squared distances, which add up to the squared distance. Split the distance itself.": squares,
        "Roots of the squares add up to 19, and the distance is 13.": np.sqrt(squares),
        "Those are fractions, which add up to 1. Multiply them by the distance.": squares / 169,
        "That is in proportion to the roots. Layers contribute by their squares.": np.sqrt(squares) * 13 / 19,
    }
    told = "A layer counts by its square: the largest has 85 % of the distance here."
    check_answer(
        lambda: split(squares),
        right,
        mistakes,
        lambda got: f"For {squares} they are {right.round(2)}; got {got}.",
        told,
    )


def check_think(pixels: int) -> None:
    """Check from how many pixels on the mean of the highest 1 % of a map is its maximum."""
    mistakes = {
        "One pixel too many: 1 % is 501.76 pixels, and is rounded down.": 502,
        "That is 1 % of the pixels, but pixels are counted in whole numbers.": 501.76,
        "That is 1 % of the side. The highest 1 % are taken from the whole area.": 2,
        "The defect need not fill the map.": 224 * 224,
    }
    otherwise = f"{pixels} px are not 1 % of 224 x 224 px."
    told = "A square of 22 px a side. Smaller defects score less than their height, so top and max rank differently."
    check_answer(pixels, 501, mistakes, otherwise, told)


def check(place: Callable[[float, float], float]) -> None:
    """Check the place among the cells, whose centres are at 0, 1, 2, ..., of the centre of a pixel."""
    asked = [(0, 4), (13, 4), (100, 16)]
    right = "A match is drawn at its cell's centre by the same rule, the other way round."
    tell(lambda: [place(*one) for one in asked], lambda answer: _find_mistake(np.asarray(answer, float), asked), right)


def _find_mistake(answer: np.ndarray, asked: Sequence[tuple[int, int]]) -> str | None:
    pixel, stride = np.array(asked, float).T
    mistakes = {
        "Pixel 0 is not at place 0: with 4 px per cell its centre lies at -0.375, before the centre of the first cell. "
        "Both the pixel and the cell have their centre half a width from their edge.": pixel / stride,
        "That counts from the edge of the first cell. Its centre is half a cell later: subtract 0.5.": (
            (pixel + 0.5) / stride
        ),
        "That is the cell that contains the pixel, a whole number; the place is a fraction.": pixel // stride,
        "The pixel's centre is half a pixel after its edge: add 0.5 before you divide.": pixel / stride - 0.5,
    }
    needed, got = (", ".join(f"{one:.3f}" for one in values) for values in ((pixel + 0.5) / stride - 0.5, answer))
    asked_for = ", ".join(f"pixel {one} of stride {other}" for one, other in asked)
    otherwise = f"For {asked_for} the places are {needed}; got {got}."
    return explain(answer, (pixel + 0.5) / stride - 0.5, mistakes, otherwise)
