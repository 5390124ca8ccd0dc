"""Shared elements of figures: panels, images, outlines, colour bars, small print."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

COLOURS = "cividis"  # perceptually uniform, also for colour-blind readers
SIGNED = "PuOr_r"  # for differences: orange if the first is higher; lightness is symmetric around zero
BLUE, GREEN, GREY = "#0072B2", "#009E73", "#8A8A8A"  # two Okabe-Ito colours and a grey
RING = "#D55E00"  # vermilion of the Okabe-Ito colours, visible on cividis and on images
SCALE = 2.0  # the colour bar ends at this multiple of the reference level
WIDTH = 10.4  # inches, the width of a notebook
_INCH = 2.6  # inches, width of one image if there is enough room
_FLAT, _TALL = 0.65, 1.6  # limits of a panel's height, as a multiple of its width
_BAR = 0.7  # inches, width of a colour bar with its labels
_SMALL = 7.5  # pt, for provenance
_MARGIN = 0.2  # inches, around a picture that is saved
_LETTER = 0.068  # inches, mean width of a letter of 9 pt


def make_panels(
    axes: Sequence[Axes] | None,
    count: int,
    columns: int | None = None,
    bars: int = 0,
    side: float = _INCH,
    shape: tuple[int, int] = (1, 1),
) -> tuple[Figure, list[Axes]]:
    """The given axes, or a new figure with one panel per image, closed so that a notebook does not show it twice.

    ``shape`` is the (rows, columns) of the images: tall ones get taller panels, wide ones flatter panels.
    """
    if axes is not None:
        given = list(np.ravel(np.asarray(axes, dtype=object)))
        if len(given) != count:
            raise ValueError(f"This figure needs {count} axes; got {len(given)}.")
        return given[0].figure, given
    columns = columns or count
    rows = -(-count // columns)
    side = min(side, (WIDTH - _BAR * bars) / columns)
    height = side * panel_height(shape)
    figure = plt.figure(figsize=(side * columns + _BAR * bars, (height + 0.2) * rows + 0.5), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in panels[count:]:
        unused.remove()
    plt.close(figure)
    return figure, panels[:count]


def panel_height(shape: tuple[int, int]) -> float:
    """The height of a panel for images of (rows, columns), as a multiple of its width."""
    return min(max(shape[0] / shape[1], _FLAT), _TALL)


def show_picture(panel: Axes, picture: np.ndarray, title: str) -> None:
    panel.imshow(picture)
    name_panel(panel, title)


def name_panel(panel: Axes, title: str) -> None:
    panel.set_title(fill(title, _letters_beside(panel)), fontsize=9, parse_math=False)  # names may hold $
    panel.set(xticks=[], yticks=[])


def _letters_beside(panel: Axes) -> int:
    """How many letters of a title fit above a panel without touching the titles beside it."""
    place, figure = panel.get_subplotspec(), panel.figure
    columns = 1 if place is None else place.get_gridspec().ncols
    return max(8, int(figure.bbox.width / figure.dpi / columns / _LETTER))


def show_map(panel: Axes, values: np.ndarray, end: float, title: str, signed: bool = False) -> AxesImage:
    """Draw a map of raw distances from 0 to ``end``, or of differences from ``-end`` to ``end``."""
    image = panel.imshow(values, SIGNED if signed else COLOURS, vmin=-end if signed else 0, vmax=end)
    name_panel(panel, title)
    return image


def add_scale(panel: Axes, image: AxesImage, end: float, level: float | None = None) -> None:
    """Add a colour bar in raw distances with the reference level marked; its arrow stands for higher values."""
    bar = panel.figure.colorbar(image, ax=panel, fraction=0.046, pad=0.03, extend="max")
    ticks = [0, end / 4, end / 2, end]
    bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
    bar.ax.tick_params(labelsize=8)
    rows, columns = image.get_size()
    short = rows < columns or _letters_beside(panel) < 35
    line = "" if level is None else f"{chr(10) if short else '; '}line: reference level"
    bar.set_label(f"distance (raw){line}", fontsize=8)
    if level is not None:
        bar.ax.axhline(level, color=RING, linewidth=2)


def open_up(panel: Axes) -> None:
    """Hide the top and right spines, and use small tick labels."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=8)


def draw_contour(panel: Axes, mask: np.ndarray | None, colour: str, style: str) -> None:
    if mask is not None and mask.any():
        panel.contour(mask, levels=[0.5], colors="#222222", linewidths=3)  # dark border, visible on any image
        panel.contour(mask, levels=[0.5], colors=colour, linewidths=1.6, linestyles=style)


def as_png(figure: Figure, dpi: int = 80) -> bytes:
    stream = BytesIO()
    figure.savefig(stream, dpi=dpi, bbox_inches="tight", pad_inches=_MARGIN)
    return stream.getvalue()


def small_print(figure: Figure, text: str) -> Figure:
    """Print the provenance below a figure."""
    figure.supxlabel(text, fontsize=_SMALL, color="#666666")
    return figure
