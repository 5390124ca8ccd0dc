"""Reports and sweeps in, figures out: curves as Plotly, pictures and comparisons as Matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas
from matplotlib.figure import Figure

from spade_kit.arguments import check_count
from spade_kit.datasets import GOOD
from spade_kit.drawing import RING, SCALE, add_scale, draw_contour, make_panels, show_map, show_picture, small_print
from spade_kit.images import read_image

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from spade_kit.reports import Report
    from spade_kit.shelf import Judged

_COLOUR = {"image": "#0072B2", "pixel": RING}  # of the Okabe-Ito colours
_CURVES = {  # title, name of x, name of y, and the metrics whose areas they are
    "roc": ("ROC", "false-positive rate", "recall", {"image": "image_roc_auc", "pixel": "pixel_roc_auc"}),
    "pr": ("precision and recall", "recall", "precision", {
        "image": "image_average_precision", "pixel": "pixel_average_precision"}),
    "pro": ("PRO, area up to 0.3", "false-positive rate", "overlap per region", {"pixel": "aupro"}),
}  # fmt: skip


def draw_curves(report: Report, threshold: float | None = None, image_threshold: float | None = None) -> go.Figure:
    """ROC, precision-recall and PRO curves with their areas, as a Plotly figure.

    Parameters
    ----------
    threshold, image_threshold
        Where to put a mark on curves of pixels and of images: what ``spade.threshold()`` and
        ``spade.threshold(of="image")`` give, from normal images alone.
    """
    from plotly.subplots import make_subplots

    curves = report.curves()
    figure: go.Figure = make_subplots(1, 3, subplot_titles=[title for title, *_ in _CURVES.values()])
    thresholds = {"pixel": threshold, "image": image_threshold}
    for column, (curve, (_, x, y, areas)) in enumerate(_CURVES.items(), start=1):
        for of, metric in areas.items():
            points = curves[(curves["curve"] == curve) & (curves["of"] == of)]
            if points.empty:
                continue
            figure.add_scatter(
                x=_rounded(points["x"]),
                y=_rounded(points["y"]),
                name=f"{of}s: {report.metric(metric):.3f}",
                line={"color": _COLOUR[of], "width": 2},
                legend=_legend(column),
                hovertemplate=f"{x} %{{x}}<br>{y} %{{y}}<extra></extra>",
                row=1,
                col=column,
            )
            if thresholds[of] is not None:
                _mark(figure, report, thresholds[of], of, (x, y), column)
        figure.update_xaxes(title_text=x, range=[-0.02, 1.02], row=1, col=column)
        figure.update_yaxes(title_text=y, range=[-0.02, 1.02], row=1, col=column)
    if (curves["curve"] == "pro").any():
        figure.add_vrect(x0=0, x1=0.3, fillcolor="#999999", opacity=0.15, line_width=0, row=1, col=3)
    return _dress(figure, report)


def _mark(figure: go.Figure, report: Report, threshold: Any, of: str, axes: tuple[str, str], column: int) -> None:
    rates = {name.replace("_", "-", 1).replace("_", " "): rate for name, rate in report.rates(threshold, of).items()}
    rates["overlap per region"] = rates.pop("overlap", float("nan"))
    figure.add_scatter(
        x=_rounded([rates[axes[0]]]),
        y=_rounded([rates[axes[1]]]),
        name=f"{of} threshold {threshold:.4g}",
        mode="markers",
        marker={"color": "white", "size": 11, "line": {"color": _COLOUR[of], "width": 3}},
        legend=_legend(column),
        hovertemplate=f"threshold {threshold:.4g}<br>{axes[0]} %{{x}}<br>{axes[1]} %{{y}}<extra></extra>",
        row=1,
        col=column,
    )


def _legend(column: int) -> str:
    return "legend" if column == 1 else f"legend{column}"


def _rounded(values: Sequence[float]) -> list[float]:
    return np.round(np.asarray(values, float), 3).tolist()


def _dress(figure: go.Figure, report: Report) -> go.Figure:
    """Legends below their curves, which leave no corner free on every dataset; small print below all."""
    legends = {}
    for column in (1, 2, 3):
        left, _ = figure.layout[f"xaxis{column if column > 1 else ''}"].domain
        legends[_legend(column)] = {"x": left, "xanchor": "left", "y": -0.2, "yanchor": "top", "font": {"size": 11}}
    said = f"{report.name}: {len(report.to_frame())} photos; {report.run['backbone']}, {report.options}"
    below = {"x": 0, "y": -0.62, "xref": "paper", "yref": "paper", "xanchor": "left", "showarrow": False}
    figure.update_annotations(font_size=13)
    figure.add_annotation(text=said, font={"size": 11, "color": "#666666"}, **below)
    margin = {"l": 55, "r": 15, "t": 35, "b": 160}
    figure.update_layout(template="plotly_white", height=450, margin=margin, **legends)
    return figure


def draw_hardest(report: Report, n: int = 4) -> Figure:
    """What is hardest: the defects with the lowest image scores, and the good photos with the highest.

    Each photo with the truth (dashed) where it is known, and its map below, all on one scale: it ends at twice the 99th
    percentile of the good photos' maps.
    """
    n = check_count("n", n)
    frame = report.to_frame().dropna(subset=["image_score", "label"])
    bad, good = frame[frame["label"] != GOOD], frame[frame["label"] == GOOD]
    halves = {
        "misses": bad.nsmallest(n, "image_score", keep="first"),
        "false alarms": good.nlargest(n, "image_score", keep="first"),
    }
    shown = {name: rows for name, rows in halves.items() if len(rows)}
    if not shown:
        raise ValueError(f"The hardest are found by labels, but no photo of {report.name} has one. Label them first.")
    columns = max(map(len, shown.values()))
    figure, panels = make_panels(None, 2 * columns * len(shown), columns, bars=1)
    end = _end_of_scale(report, frame if good.empty else good)
    for half, (name, rows) in enumerate(shown.items()):
        above = panels[2 * half * columns : (2 * half + 1) * columns]
        below = panels[(2 * half + 1) * columns : (2 * half + 2) * columns]
        for panel in [*above[len(rows) :], *below[len(rows) :]]:
            panel.axis("off")
        for photo, heat, row in zip(above, below, rows.itertuples()):
            judged = report.judged(row.Index)
            assert judged is not None  # it has a score
            picture = _read_picture(row.path, judged)
            show_picture(photo, picture, f"{row.label}/{_stem(row.path)}")
            image = show_map(heat, judged.anomaly_map, end, _rank(row, bad if name == "false alarms" else good))
            for panel in (photo, heat):
                if judged.mask is not None:
                    draw_contour(panel, judged.mask, "white", "dashed")
        above[0].set_ylabel(name, fontsize=10)
        add_scale(below[-1] if len(rows) == columns else below[len(rows) - 1], image, end)
    said = f"{report.name}; {report.run['backbone']}, weights: {report.run['weights']}; {report.options}"
    return small_print(figure, said)


def _read_picture(path: str, judged: Judged) -> np.ndarray:
    """The evaluated crop of a photograph; grey where the photograph is gone."""
    try:
        return judged.crop.cut(read_image(path))
    except (OSError, ValueError):
        return np.full((*judged.crop.size, 3), 128, np.uint8)


def _stem(path: str) -> str:
    return Path(path).stem


def _rank(row: Any, others: pandas.DataFrame) -> str:
    """An image score, and how it stands among those that should lie on its other side."""
    said = f"score {row.image_score:.2f}"
    if others.empty:
        return said
    if row.label == GOOD:
        return f"{said}: {(others['image_score'] <= row.image_score).sum()} of {len(others)} defects below"
    return f"{said}: {(others['image_score'] >= row.image_score).sum()} of {len(others)} good above"


def _end_of_scale(report: Report, rows: pandas.DataFrame) -> float:
    found = (report.judged(at) for at in rows.index)
    return SCALE * float(np.mean([np.percentile(judged.anomaly_map, 99) for judged in found if judged]))
