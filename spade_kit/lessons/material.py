"""Material that several lessons share: pyramids small enough to search on paper, kinds of images, parts of figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from spade_kit.datasets.samples import GOOD, Sample
from spade_kit.evaluation.metrics import roc_auc
from spade_kit.features.pyramid import Pyramid
from spade_kit.figures.style import COLOURS, name_panel

Grids = Mapping[str, list[list[int]]]


def make_pyramids(fine: Grids, coarse: Grids) -> tuple[Pyramid, Pyramid]:
    """A query and a normal image with two one-channel layers, from the ``"query"`` and ``"normal"`` grids."""
    levels = [[torch.tensor([[grid[name]]]).float() for grid in (fine, coarse)] for name in ("query", "normal")]
    query, normal = (Pyramid(both, ("layer1", "layer2"), torch.zeros(1, 1)) for both in levels)
    return query, normal


def cell_types(samples: Iterable[Sample]) -> np.ndarray:
    """Type of each solar cell, ``"mono"`` or ``"poly"`` (crystalline), from the dataset's own table."""
    samples = list(samples)
    with open(samples[0].path.parents[1] / "labels.csv", encoding="utf-8") as lines:
        types = {name.rpartition("/")[2]: kind for name, _, kind in (line.split() for line in lines if line.strip())}
    return np.array([types[sample.path.name] for sample in samples])


def auc_of_kinds(scores: Float[np.ndarray, "n"], labels: Iterable[str | None]) -> dict[str, float]:
    """Image AUC of each kind of defect against all good images, and of all defects together."""
    labels = np.array(list(labels))
    chosen = {kind: np.isin(labels, (GOOD, kind)) for kind in dict.fromkeys(labels.tolist()) if kind != GOOD}
    chosen["all"] = np.ones(len(labels), bool)
    return {kind: roc_auc(scores[some], labels[some] != GOOD) for kind, some in chosen.items()}


def open_charts(
    width: float, height: float, x: str = "", y: str = "", count: int = 1, size: float = 8
) -> tuple[Figure, list[Axes]]:
    """A figure of ``width`` x ``height`` inches: charts side by side on one y scale, with text of ``size`` points."""
    figure = plt.figure(figsize=(width, height), layout="constrained")  # pyplot's: a notebook shows only those
    plt.close(figure)
    panels = list(figure.subplots(1, count, sharey=True, squeeze=False)[0])
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=size)
        panel.set_xlabel(x, fontsize=size)
    panels[0].set_ylabel(y, fontsize=size)
    return figure, panels


def show_grid(panel: Axes, values: np.ndarray, title: str, **options: Any) -> AxesImage:
    """Show a grid in the colours of anomaly maps; options are those of ``imshow``."""
    name_panel(panel, title)
    return panel.imshow(values, COLOURS, **options)


def add_bar(panels: Axes | list[Axes], image: AxesImage, label: str, **options: Any) -> Any:
    """Add a colour bar beside one panel or several."""
    bar = image.figure.colorbar(image, ax=panels, fraction=0.046, **{"pad": 0.03, **options})
    bar.ax.tick_params(labelsize=8)
    bar.set_label(label, fontsize=8)
    return bar
