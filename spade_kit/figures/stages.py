"""The stages of the method as pictures of one image."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from sklearn.decomposition import PCA

import spade_kit.figures.style as style
from spade_kit.features.pyramid import Pyramid
from spade_kit.result import Result
from spade_kit.retrieval import Neighbours

_SPREAD = 2.5  # standard deviations of a principal component, from the middle of a colour to its end
_GAP = 8  # map pixels between two pictures


def paint_pyramid(pyramid: Pyramid) -> list[UInt8[np.ndarray, "_h _w 4"]]:
    """Pictures of the levels of one image, RGBA, and a strip of its pooled vector, (1, d, 4).

    Of a level, the first three principal components of its cells are red, green and blue.
    """
    pooled = pyramid.pooled.cpu().numpy()
    strip = plt.get_cmap(style.COLOURS)(plt.Normalize()(pooled), bytes=True)
    return [*(_paint(level[0].permute(1, 2, 0).cpu().double().numpy()) for level in pyramid.levels), strip]


def _paint(level: np.ndarray) -> np.ndarray:
    cells = level.reshape(-1, level.shape[2])  # (h * w, c)
    count = min(3, *cells.shape)
    parts = np.zeros((len(cells), 3))
    with np.errstate(invalid="ignore"):  # cells that are all alike have no variance
        parts[:, :count] = PCA(count, svd_solver="full").fit_transform(cells)
    scaled = 0.5 + parts / (2 * _SPREAD * parts.std(0).clip(1e-12))
    colours = (255 * scaled.clip(0, 1)).round().astype(np.uint8)
    return np.insert(colours, 3, 255, axis=1).reshape(*level.shape[:2], 4)


def draw_stages(
    result: Result, whole: UInt8[np.ndarray, "_ _ 3"], ranking: Neighbours, threshold: float, probe: tuple[int, int]
) -> Figure:
    """Six panels: crop, pyramid, retrieval, correspondence, the map before and after smoothing, segmentation.

    Parameters
    ----------
    whole
        The original image.
    ranking
        All normal images, nearest first.
    threshold
        The level of the segmentation.
    probe
        (row, col) of the map: the pixel whose match is shown.
    """
    height, width = result.anomaly_map.shape
    figure, panels = style.make_panels(None, 6, 3, side=4, shape=(height, 2 * width + _GAP))
    crop, pyramid, retrieval, pair, smoothing, found = panels
    titles = [
        _draw_crop(crop, result, whole),
        _draw_pyramid(pyramid, result),
        _draw_retrieval(retrieval, ranking, len(result.neighbours)),
        _draw_match(pair, result, probe),
        _draw_maps(smoothing, result),
        _draw_segmentation(found, result, threshold),
    ]
    for number, (panel, title) in enumerate(zip(panels, titles), 1):
        style.name_panel(panel, f"{number} {title}")
        panel.set_box_aspect(height / (2 * width + _GAP))
        if panel is not retrieval:
            panel.set(xlim=(-0.5, 2 * width + _GAP - 0.5), ylim=(height - 0.5, -0.5))
            panel.axis("off")
    said = f"{result.spade.backbone.name}; {result.crop.describe()}; {result.describe_options()}"
    return style.small_print(figure, said)


def _put(
    panel: Axes, picture: np.ndarray, size: tuple[float, float], left: float = 0, top: float = 0, **look: Any
) -> None:
    """Show a picture at some (height, width) in map pixels, from a column and a row on."""
    panel.imshow(picture, extent=(left - 0.5, left + size[1] - 0.5, top + size[0] - 0.5, top - 0.5), **look)


def _beside(result: Result) -> int:
    """The column where a second picture begins."""
    return result.crop.size[1] + _GAP


def _draw_crop(panel: Axes, result: Result, whole: np.ndarray) -> str:
    size, photo, (top, left, bottom, right) = result.crop.size, result.crop.photo, result.box
    scale = min(size[0] / photo[0], size[1] / photo[1])
    _put(panel, whole, (photo[0] * scale, photo[1] * scale))
    _put(panel, result.image, size, _beside(result))
    corner, frame = (left * scale - 0.5, top * scale - 0.5), ((right - left) * scale, (bottom - top) * scale)
    panel.add_patch(Rectangle(corner, *frame, fill=False, edgecolor=style.RING, linewidth=2))
    return f"image: the crop, {size[0]} x {size[1]} px"


def _draw_pyramid(panel: Axes, result: Result) -> str:
    (height, width), (h, w), left = result.crop.size, result.query.grid, 0.0
    *levels, pooled = paint_pyramid(result.query)
    for picture in levels:
        size = height * picture.shape[0] / h, width * picture.shape[1] / w
        _put(panel, picture, size, left)
        left += size[1] + _GAP
    _put(panel, pooled, (height / 4, width), _beside(result), 3 * height / 4, aspect="auto")
    return f"pyramid: {', '.join('x'.join(map(str, level.shape[1:])) for level in result.query.levels)}"


def _draw_retrieval(panel: Axes, ranking: Neighbours, k: int) -> str:
    ranks = np.arange(1, len(ranking) + 1)
    colours = [style.BLUE if rank <= k else "none" for rank in ranks]
    panel.bar(ranks, ranking.distance, 0.8, color=colours, edgecolor=style.GREY)
    panel.axvline(k + 0.5, color=style.RING)
    panel.set_xlabel("normal images, nearest first", fontsize=8)
    panel.set_ylabel("distance of pooled vectors", fontsize=8)
    style.open_up(panel)
    return f"retrieval: the {k} nearest of {len(ranking)}"


def _draw_match(panel: Axes, result: Result, probe: tuple[int, int]) -> str:
    match = result.match(*probe)
    _put(panel, result.image, result.crop.size)
    _put(panel, result.normal_image(match.image), result.crop.size, _beside(result))
    places = [probe[1], match.col + _beside(result)], [probe[0], match.row]
    panel.plot(*places, "o-", color=style.RING, markersize=10, markerfacecolor="none", markeredgewidth=2)
    return f"correspondence: normal {match.image}, distance {match.distance:.2f}"


def _draw_maps(panel: Axes, result: Result) -> str:
    highest = float(result.anomaly_map.max())
    end = style.SCALE * result.normal_level if result.normal_level else highest
    for values, left in ((result.correspondence.distance, 0), (result.anomaly_map, _beside(result))):
        _put(panel, values, result.crop.size, left, cmap=style.COLOURS, vmin=0, vmax=end)
    return f"map: sigma {result.spade.options.sigma:g}, maximum {highest:.2f}"


def _draw_segmentation(panel: Axes, result: Result, threshold: float) -> str:
    found = result.segmentation(threshold)
    _put(panel, result.image, result.crop.size)
    _put(panel, found, result.crop.size, _beside(result), cmap="gray", vmin=0, vmax=1)
    style.draw_contour(panel, found, style.RING, "solid")
    style.draw_contour(panel, result.mask, "white", "dashed")
    return f"segmentation at {threshold:.2f}: {'anomalous' if found.any() else 'normal'}"
