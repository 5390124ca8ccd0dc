"""Reports and sweeps in, figures out: curves as Plotly, pictures and comparisons as Matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spade_kit._arguments import check_count, choose
from spade_kit.datasets.images import read_image
from spade_kit.datasets.samples import GOOD
from spade_kit.evaluation.report import METRICS, Report
from spade_kit.evaluation.sweep import OPTIONS
from spade_kit.evaluation.threshold_study import Evidence
from spade_kit.figures.style import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    RING,
    SCALE,
    WIDTH,
    add_scale,
    draw_contour,
    make_panels,
    open_up,
    show_map,
    show_picture,
    small_print,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from spade_kit.evaluation.map_store import Judged

_COLOUR = {"image": BLUE, "pixel": RING}
_MOST = 8  # photos side by side, so that they can be seen
_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
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


def draw_evidence(evidence: Evidence, threshold: float) -> Figure:
    """Histograms of what normal and test photographs score, with a threshold in them and what follows from it."""
    kinds = {"normal": (evidence.normal.sum(0), BLUE), "test: good": (evidence.good, GREEN)}
    kinds |= {"test: defects": (evidence.defect, RING), "test: unknown": (evidence.unknown, GREY)}
    shown = {kind: (counts, colour) for kind, (counts, colour) in kinds.items() if counts.sum()}
    figure = Figure(figsize=(WIDTH, 0.5 + 1.1 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    seen = evidence.edges[np.flatnonzero(sum(counts for counts, _ in shown.values()))]
    room = 0.05 * (evidence.edges[-1] - seen[0])
    panels[0].set_xlim(max(0, min(seen[0], threshold) - room), max(evidence.edges[-1], threshold) + room)
    for panel, (kind, (counts, colour)) in zip(panels, shown.items()):
        panel.stairs(*_coarser(counts, evidence.edges), fill=True, color=colour)
        panel.axvline(threshold, color="#222222", linewidth=1.5)
        panel.set_yscale("symlog" if evidence.of == "pixel" else "linear")
        panel.set_ylabel(f"{kind}\n{counts.sum():,}", fontsize=8)
        panel.tick_params(labelsize=8)
    panels[-1].set_xlabel(f"distance; {'maximum of the map' if evidence.of == 'image' else 'pixels'}", fontsize=8)
    return small_print(figure, evidence.at(threshold).sentence.replace("%).", "%).\n"))


def _coarser(counts: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Histograms of few photographs in bins four times as wide, so that they can be seen."""
    return counts.reshape(-1, 4).sum(1), edges[::4]


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
    margin = {"l": 55, "r": 15, "t": 60, "b": 160}  # above, room for Plotly's own buttons
    figure.update_layout(template="plotly_white", height=475, margin=margin, **legends)
    return figure


def draw_sweep(frame: pandas.DataFrame, metrics: Sequence[str] | None = None) -> Figure:
    """What `sweep` found, a panel a metric.

    Over one option a line (dots where its values have no order), over two a heat map; with more, a line for each
    combination of all but the one with most values. Bars are intervals, where there are any, or reach from the lowest
    to the highest draw.
    """
    columns = list(frame.columns) if isinstance(frame, pandas.DataFrame) else []
    options = [name for name in OPTIONS if name in columns]
    if not options or not len(frame):
        came = f"a table of {len(frame)} rows with {columns}" if columns else f"a {type(frame).__name__}"
        raise ValueError(f"draw_sweep takes what sweep gave, but {came} came.")
    ordered = {name: not frame[name].map(_has_no_order).any() for name in options}
    told = frame.assign(**{name: frame[name].map(partial(_tell, name)) for name in options})
    counts = told[options].nunique()
    options = [name for name in options if counts[name] > 1] or options[:1]
    options.sort(key=lambda name: (ordered[name], counts[name]), reverse=True)
    known = [name for name in METRICS if name in frame.columns and frame[name].notna().any()]
    chosen = [choose("A metric", name, known) for name in metrics] if metrics is not None else known
    if not chosen:
        raise ValueError(
            "draw_sweep needs a metric, but all are NaN: photos to judge need labels, good ones and defects."
        )
    figure, panels = make_panels(None, len(chosen), min(len(chosen), 2), side=4.0)
    for panel, metric in zip(panels, chosen):
        panel.set_title(metric.replace("_", " "), fontsize=9)
        if len(options) == 2:
            _draw_heat_map(panel, told, options, metric)
        else:
            _draw_lines(panel, told, options, metric, ordered[options[0]])
    if len(options) > 2:
        lines, names = panels[0].get_legend_handles_labels()
        figure.legend(lines, names, loc="outside lower center", ncols=4, fontsize=8, title=", ".join(options[1:]))
    return figure


def _draw_lines(panel: Axes, frame: pandas.DataFrame, options: list[str], metric: str, joined: bool) -> None:
    first, others = options[0], options[1:]
    names = list(dict.fromkeys(frame[first]))
    lines = list(frame.groupby(others, sort=False)) if others else [((), frame)]
    for number, (key, rows) in enumerate(lines):
        drawn = rows.groupby(first, sort=False)
        middle = drawn[metric].mean().reindex(names).astype(float)
        low, high = (f"{metric}_low", f"{metric}_high") if f"{metric}_low" in frame else (metric, metric)
        ends = np.stack([middle - drawn[low].min().reindex(names), drawn[high].max().reindex(names) - middle])
        panel.errorbar(
            np.arange(len(names)) + 0.04 * (number - (len(lines) - 1) / 2),
            middle.to_numpy(),
            yerr=ends.clip(0) if ends.any() else None,
            fmt="o-" if joined else "o",
            color=_LINES[number % len(_LINES)],
            capsize=3,
            markersize=5,
            label=", ".join(map(str, np.atleast_1d(key))),
        )
    slanted: dict[str, Any] = (
        {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 8 else {}
    )
    panel.set_xticks(range(len(names)), names, fontsize=8, **slanted)
    panel.set_xlabel(first, fontsize=9)
    panel.set_ylim(top=min(panel.get_ylim()[1], 1.005))  # no metric goes beyond 1
    panel.margins(x=0.08)
    panel.grid(axis="y", color="#dddddd")
    panel.set_axisbelow(True)
    open_up(panel)


def _draw_heat_map(panel: Axes, frame: pandas.DataFrame, options: list[str], metric: str) -> None:
    table = frame.groupby(options, sort=False)[metric].mean().unstack()
    table = table[list(dict.fromkeys(frame[options[1]]))]
    panel.imshow(table, COLOURS, aspect="auto")
    middle = np.nanmean([table.to_numpy().min(), table.to_numpy().max()])
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        panel.text(column, row, f"{value:.3f}", ha="center", va="center", fontsize=8, color=_ink(value, middle))
    panel.set_xticks(range(table.shape[1]), table.columns, fontsize=8)
    panel.set_yticks(range(table.shape[0]), table.index, fontsize=8)
    panel.set_xlabel(options[1], fontsize=9)
    panel.set_ylabel(options[0], fontsize=9)


def _ink(value: float, middle: float) -> str:
    return "black" if value > middle else "white"


def _tell(option: str, value: Any) -> str:
    """A value of an option in few words."""
    if value is None:
        return {"radius": "everywhere", "weights": "none", "crop": "whole photo"}.get(option, "all")
    if isinstance(value, Mapping):
        return ", ".join(f"{name} x {factor:g}" for name, factor in value.items())
    if isinstance(value, (tuple, list)):
        return " + ".join(map(str, value))
    return str(value)


def _has_no_order(value: Any) -> bool:
    return not (value is None or isinstance(value, (int, float)))


def draw_hardest(report: Report, n: int = 4) -> Figure:
    """What is hardest: the defects with the lowest image scores, and the good photos with the highest.

    Each photo with the truth (dashed) where it is known, and its map below, all on one scale: it ends at twice the 99th
    percentile of the good photos' maps.
    """
    if check_count("n", n) > _MOST:
        raise ValueError(f"draw_hardest shows up to {_MOST} photos of a kind, but n={n} came. All stand in to_frame().")
    frame = report.to_frame().dropna(subset=["image_score", "label"])
    bad, good = frame[frame["label"] != GOOD], frame[frame["label"] == GOOD]
    halves = {
        "misses": bad.nsmallest(n, "image_score", keep="first"),
        "false alarms": good.nlargest(n, "image_score", keep="first"),
    }
    shown = {name: rows for name, rows in halves.items() if len(rows)}
    if not shown:
        raise ValueError(f"The hardest are found by labels, but of {report.name} none has one. Label them first.")
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
            show_picture(photo, picture, f"{row.label}/{Path(row.path).stem}")
            image = show_map(heat, judged.anomaly_map, end, _rank(row, bad if name == "false alarms" else good))
            for panel in (photo, heat):
                if judged.mask is not None:
                    draw_contour(panel, judged.mask, "white", "dashed")
        above[0].set_ylabel(name, fontsize=10)
        add_scale(below[-1], image, end)
    said = f"{report.name}; {report.run['backbone']}, weights: {report.run['weights']}; {report.options}"
    return small_print(figure, said)


def _read_picture(path: str, judged: Judged) -> np.ndarray:
    """The evaluated crop of a photograph; grey where the photograph is gone."""
    try:
        return judged.crop.cut(read_image(path))
    except (OSError, ValueError):
        return np.full((*judged.crop.size, 3), 128, np.uint8)


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
