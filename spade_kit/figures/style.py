"""The pieces of figures: panels, pictures, outlines, colour bars, small print."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

COLOURS = "cividis"  # even in lightness, also for colour-blind readers
SIGNED = "PuOr_r"  # of differences: orange where the first is higher, even in lightness to both sides
BLUE, GREEN, GREY = "#0072B2", "#009E73", "#8A8A8A"  # of the Okabe-Ito colours, and a grey
RING = "#D55E00"  # vermilion of the Okabe-Ito colours, seen on cividis and on photographs
SCALE = 2.0  # the colour bar ends at this many times the normals' 99th percentile
WIDTH = 10.4  # inches: a notebook's width
_INCH = 2.6  # of one picture, where that many fit
_BAR = 0.7  # of a colour bar with its labels
_SMALL = 7.5  # pt, for provenance


def make_panels(
    axes: Sequence[Axes] | None, count: int, columns: int | None = None, bars: int = 0, side: float = _INCH
) -> tuple[Figure, list[Axes]]:
    """The axes given, or a new figure with one panel a picture, without pyplot showing it twice in a notebook."""
    if axes is not None:
        given = list(np.ravel(np.asarray(axes, dtype=object)))
        if len(given) != count:
            raise ValueError(f"This figure needs {count} axes, but {len(given)} came.")
        return given[0].figure, given
    columns = columns or count
    rows = -(-count // columns)
    side = min(side, (WIDTH - _BAR * bars) / columns)
    figure = plt.figure(figsize=(side * columns + _BAR * bars, (side + 0.2) * rows + 0.3), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in panels[count:]:
        unused.remove()
    plt.close(figure)
    return figure, panels[:count]


def show_picture(panel: Axes, picture: np.ndarray, title: str) -> None:
    panel.imshow(picture)
    name_panel(panel, title)


def name_panel(panel: Axes, title: str) -> None:
    panel.set_title(title, fontsize=9)
    panel.set(xticks=[], yticks=[])


def show_map(panel: Axes, values: np.ndarray, end: float, title: str, signed: bool = False) -> AxesImage:
    """A map in raw distances from 0 to ``end``, or of differences, to both sides."""
    image = panel.imshow(values, SIGNED if signed else COLOURS, vmin=-end if signed else 0, vmax=end)
    name_panel(panel, title)
    return image


def add_scale(panel: Axes, image: AxesImage, end: float, level: float | None = None) -> None:
    """The raw scale, with what is normal marked on it; an arrow where values go beyond."""
    bar = panel.figure.colorbar(image, ax=panel, fraction=0.046, pad=0.03, extend="max")
    ticks = [0, end / 4, end / 2, end]
    bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
    bar.ax.tick_params(labelsize=8)
    bar.set_label("distance" if level is None else "distance (line: normals' 99 %)", fontsize=8)
    if level is not None:
        bar.ax.axhline(level, color=RING, linewidth=2)


def open_up(panel: Axes) -> None:
    """Lines only where there are figures to read, and these small."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=8)


def draw_contour(panel: Axes, mask: np.ndarray, colour: str, style: str) -> None:
    if mask.any():
        panel.contour(mask, levels=[0.5], colors="#222222", linewidths=3)  # seen on any photo
        panel.contour(mask, levels=[0.5], colors=colour, linewidths=1.6, linestyles=style)


def small_print(figure: Figure, text: str) -> Figure:
    """Provenance below a figure."""
    figure.supxlabel(text, fontsize=_SMALL, color="#666666")
    return figure
