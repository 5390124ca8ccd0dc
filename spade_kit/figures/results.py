"""Figures of results, drawn with Matplotlib.

Every map is drawn in raw distances on one scale, so that figures can be compared. The scale of a fitted SPADE runs from
0 to twice the reference level; a line on the colour bar marks this level, the 99th percentile of normal images, each
judged against the others. No map is scaled to its own minimum and maximum, which would make good parts look defective.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

import spade_kit.figures.style as style
from spade_kit._arguments import check_count, check_made
from spade_kit._files import printable
from spade_kit.result import Result
from spade_kit.scores import check_threshold

_NUMBERED = 20  # regions
_MOST_LAYERS = 6  # side by side


def draw_result(
    result: Result, threshold: float | None = None, *, regions: bool = False, axes: Sequence[Axes] | None = None
) -> Figure:
    """The image, its anomaly map, and the segmentation (solid) with ground truth (dashed) and roi (dotted), if any.

    Parameters
    ----------
    threshold
        The level of the contour; by default the 99th percentile of the judged maps of normal images (with a single
        normal image it is unknown, and no contour is drawn).
    regions
        Number the connected regions as `Result.regions` does, the most anomalous first; at most 20.
    axes
        Three axes to draw into.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> spade = spade_kit.SPADE(k=5).fit(parts.train[:12])
    >>> result = spade.predict(parts.test[5])  # a chipped part
    >>> figure = spade_kit.draw_result(result, spade.threshold())  # in a script: figure.savefig("result.png")
    """
    _check_result(result)
    figure, (photo, heat, outline) = style.make_panels(axes, 3, bars=1, shape=result.crop.size)
    if threshold is not None:
        check_threshold(threshold)
    level = result.judged_level if threshold is None and len(result.among) > 1 else threshold
    name = result.spade.options.judged
    style.show_picture(photo, result.image, _title(result))
    score = result.spade.options.score
    told = f"{'max' if score == 'max' else f'image score ({score})'} {result.image_score:.2f}"
    title = f"{'excess over normal' if name == 'excess' else 'anomaly map'}, {told}"
    _heat(heat, result.judged_map, result, title, bar=True, reference=result.judged_level)
    lines = []
    if level is None:
        few = "one normal image" if len(result.among) == 1 else "identical normal images"
        style.show_picture(outline, result.image, f"no threshold: {few}")
    else:
        style.show_picture(outline, result.image, f"{name} ≥ {level:.2f}")
        style.draw_contour(outline, result.segmentation(level), style.RING, "solid")
        lines.append(Line2D([], [], color=style.RING, label="detected"))
        for number, place in result.regions(level).head(_NUMBERED if regions else 0).iterrows():
            _number(outline, int(number), place["row"], place["col"])
    if result.roi is not None:
        style.draw_contour(outline, result.roi, "white", "dotted")
        lines.append(Line2D([], [], color="white", linestyle="dotted", label="roi"))
    if result.mask is not None and result.mask.any():
        style.draw_contour(outline, result.mask, "white", "dashed")
        lines.append(Line2D([], [], color="white", linestyle="dashed", label="ground truth"))
    if lines:
        below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "ncols": len(lines)}
        outline.legend(handles=lines, fontsize=8, facecolor="#333333", labelcolor="white", framealpha=1, **below)
    return _finish(figure, result)


def _number(panel: Axes, number: int, row: float, col: float) -> None:
    """The number of a region beside its peak, towards the middle of the panel."""
    left = col > sum(panel.get_xlim()) / 2
    panel.annotate(
        str(number), (col, row), (-8 if left else 8, 0), textcoords="offset points", fontsize=8, color="white",
        ha="right" if left else "left", va="center", bbox={"facecolor": "#333333", "edgecolor": style.RING, "pad": 1.5},
    )  # fmt: skip


def draw_views(
    result: Result, maps: Mapping[str, np.ndarray], place: tuple[int, int], scale: str, signed: Collection[str] = ()
) -> Figure:
    """An image and its maps under several views, with the same pixel marked in all.

    Parameters
    ----------
    maps
        Map of each view by its name, (H, W) each, scaled so that the colours end at 1.
    place
        (row, col) to mark.
    scale
        Description of the colours, printed below the figure.
    signed
        Names of the maps that are differences: their colours range from -1 to 1.
    """
    count = 1 + len(maps)
    figure, panels = style.make_panels(None, count, count if count <= 5 else -(-count // 2), shape=result.crop.size)
    style.show_picture(panels[0], result.image, _title(result))
    for panel, (name, values) in zip(panels[1:], maps.items()):
        style.show_map(panel, values, 1, name, signed=name in signed)
    for panel in panels:
        style.draw_contour(panel, result.mask, "white", "dashed")
        _ring(panel, *place)
    return style.small_print(figure, f"{scale}; {result.crop.describe()}")


def draw_neighbours(result: Result, count: int = 7, *, axes: Sequence[Axes] | None = None) -> Figure:
    """The query and its nearest neighbours among the normal images, with the distances of their pooled features.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> spade = spade_kit.SPADE(k=5).fit(parts.train[:12])
    >>> result = spade.predict(parts.test[5])  # a chipped part
    >>> figure = spade_kit.draw_neighbours(result, 3)
    """
    count = min(check_count("count", count), len(_check_result(result).neighbours))
    figure, panels = style.make_panels(axes, count + 1, min(count + 1, 4), shape=result.crop.size)
    style.show_picture(panels[0], result.image, "query")
    panels[0].spines[:].set(visible=True, color=style.RING, linewidth=2)
    for rank, panel in enumerate(panels[1:]):
        index, distance = result.neighbours.index[rank], result.neighbours.distance[rank]
        style.show_picture(panel, result.normal_image(index), f"{rank + 1}: normal {index}, distance {distance:.2f}")
    found = len(result.neighbours)
    return _finish(figure, result, f"mean distance of all {found} neighbours: {result.retrieval_score:.3f}")


def draw_layers(result: Result, *, axes: Sequence[Axes] | None = None) -> Figure:
    """Top row: each layer's contribution to the map. Below: the map of each layer searched alone. Rows hold six layers.

    All use the scale of the anomaly map; the top row adds up to that map. With ``combine="concat"`` and no weights,
    hardly any pixel of a single layer exceeds the map; an ensemble is a mean, which single layers do exceed.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> spade = spade_kit.SPADE(k=5).fit(parts.train[:12])
    >>> result = spade.predict(parts.test[5])  # a chipped part
    >>> figure = spade_kit.draw_layers(result)
    """
    names = list(_check_result(result).layer_maps)
    rows = 1 if axes is not None else -(-len(names) // _MOST_LAYERS)
    columns = -(-len(names) // rows)
    figure, panels = style.make_panels(axes, 2 * rows * columns, columns, bars=1, shape=result.crop.size)
    upper, lower = np.array(panels, object).reshape(rows, 2, columns).swapaxes(0, 1).reshape(2, -1)
    for unused in (*upper[len(names) :], *lower[len(names) :]):
        unused.remove()
    for at, (above, below, name) in enumerate(zip(upper, lower, names), 1):
        last = at == len(names) or at % columns == 0
        label = result.spade.backbone.labels[name]
        _heat(above, result.layer_maps[name], result, f"{label}: share of the map", bar=last)
        _heat(below, result.layer_alone[name], result, f"{label} alone", bar=last)
    return _finish(figure, result)


def draw_match(result: Result, row: int, col: int, *, axes: Sequence[Axes] | None = None) -> Figure:
    """A pixel of the query and the normal pixel that it matches, close-ups of both, and the distance by layer.

    With vectors of length 1, also the angle between the two vectors at each layer.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> spade = spade_kit.SPADE(k=5).fit(parts.train[:12])
    >>> result = spade.predict(parts.test[5])  # a chipped part
    >>> row, col = divmod(int(result.anomaly_map.argmax()), 224)
    >>> figure = spade_kit.draw_match(result, row, col)
    """
    match = _check_result(result).match(row, col)
    figure, (query, normal, here, there, bars) = style.make_panels(axes, 5, 5)
    explaining = result.normal_image(match.image)
    style.show_picture(query, result.image, f"query, pixel ({row}, {col})")
    style.show_picture(normal, explaining, f"normal {match.image}, pixel ({match.row}, {match.col})")
    _ring(query, row, col)
    _ring(normal, match.row, match.col)
    _show_patch(here, result, result.image, (row, col), "query, close-up")
    _show_patch(there, result, explaining, (match.row, match.col), "normal, close-up")
    labels, parts = result.spade.backbone.labels, list(match.layers.values())
    angles = {name: f" ({angle:.0f}°)" for name, angle in match.angles.items()}
    drawn = bars.barh([labels[name] for name in match.layers], parts, color=plt.get_cmap(style.COLOURS)(0.6))
    bars.bar_label(drawn, [f" {part:.2f}{angles.get(name, '')}" for name, part in match.layers.items()], fontsize=8)
    bars.invert_yaxis()
    bars.set_title(f"distance {match.distance:.2f}, by layer", fontsize=9)
    bars.set_xlabel("distance (raw)", fontsize=8)
    bars.set_xlim(0, max(*parts, 1e-9) * (1.7 if angles else 1.3))
    style.open_up(bars)
    return _finish(figure, result)


def draw_reconstruction(result: Result, *, axes: Sequence[Axes] | None = None) -> Figure:
    """The query, its reconstruction from the matched normal patches, and the anomaly map.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> spade = spade_kit.SPADE(k=5).fit(parts.train[:12])
    >>> result = spade.predict(parts.test[5])  # a chipped part
    >>> figure = spade_kit.draw_reconstruction(result)
    """
    _check_result(result)
    figure, (query, rebuilt, heat) = style.make_panels(axes, 3, bars=1, shape=result.crop.size)
    style.show_picture(query, result.image, _title(result))
    style.show_picture(rebuilt, result.reconstruction, "reconstruction from normal patches")
    _heat(heat, result.anomaly_map, result, "feature distance", bar=True)
    return _finish(figure, result)


def draw_explanation(result: Result, row: int, col: int, threshold: float | None = None) -> Figure:
    """The result, and below it the normal pixel that one pixel matches: `draw_result` above `draw_match`.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> spade = spade_kit.SPADE(k=5).fit(parts.train[:12])
    >>> result = spade.predict(parts.test[5])  # a chipped part
    >>> row, col = divmod(int(result.anomaly_map.argmax()), 224)
    >>> figure = spade_kit.draw_explanation(result, row, col)
    """
    return draw_explanations([(_check_result(result), row, col)], threshold)


def draw_explanations(seen: Sequence[tuple[Result, int, int]], threshold: float | None = None) -> Figure:
    """`draw_explanation` of several results, each with its (row, col), one below the other."""
    heights = [height for result, *_ in seen for height in (1.2 + 2.6 * style.panel_height(result.crop.size), 2.8)]
    figure = plt.figure(figsize=(style.WIDTH, sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    parts = [figure.add_subfigure(grid[at]) for at in range(len(heights))]
    for (result, row, col), above, below in zip(seen, parts[::2], parts[1::2]):
        draw_result(result, threshold, axes=above.subplots(1, 3))
        above.supxlabel("")  # `draw_match` prints the provenance once for both
        draw_match(result, row, col, axes=below.subplots(1, 5))
    plt.close(figure)
    return figure


def _check_result(result: Result) -> Result:
    check_made("spade.predict(image)", result, Result)
    return result


def _ring(panel: Axes, row: int, col: int) -> None:
    for colour, width in (("white", 4), (style.RING, 2)):
        panel.plot(col, row, "o", markersize=15, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=width)


def _title(result: Result) -> str:
    if result.sample is None:
        return "image"
    label = "" if result.label is None else f"{result.label}/"
    return f"{label}{printable(result.sample.path.stem)}"


def _heat(
    panel: Axes, values: np.ndarray, result: Result, title: str, bar: bool = False, reference: float | None = None
) -> None:
    """Draw a map up to twice the reference level, the same for every image, or up to its maximum without a level.

    The level of an excess may be below 0, which gives no scale.
    """
    level = result.normal_level if reference is None else reference
    level = level if level is not None and level > 0 else None
    highest = float(np.nanmax(result.anomaly_map if reference is None else values))
    end = style.SCALE * level if level else max(highest, 1e-9)
    image = style.show_map(panel, values, end, title)
    if bar:
        style.add_scale(panel, image, end, level)


def _show_patch(panel: Axes, result: Result, picture: np.ndarray, at: tuple[int, int], title: str) -> None:
    """The surroundings of a pixel, with a frame around its cell of the finest grid."""
    size, grid = np.array(result.anomaly_map.shape), np.array(result.query.grid)
    cell = size / grid
    top, left = at * grid // size * cell - 0.5
    style.show_picture(panel, picture, title)
    panel.add_patch(Rectangle((left, top), cell[1], cell[0], fill=False, edgecolor=style.RING, linewidth=2))
    reach = 4 * max(cell)
    panel.set(xlim=(at[1] - reach, at[1] + reach), ylim=(at[0] + reach, at[0] - reach))


def _finish(figure: Figure, result: Result, remark: str = "") -> Figure:
    """Print the provenance: weights, crop and options."""
    height, width = result.anomaly_map.shape
    crop = f"crop {height} x {width} px, {result.crop.describe()}"
    print_ = f"{result.spade.backbone.describe()}; {crop}; {result.describe_options()}"
    return style.small_print(figure, f"{remark}\n{print_}" if remark else print_)
