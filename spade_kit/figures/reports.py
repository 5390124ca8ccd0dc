"""Figures of reports and sweeps: curves with Plotly, images and comparisons with Matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import spade_kit.figures.style as style
from spade_kit._arguments import check_count, check_made, choose
from spade_kit._files import as_path
from spade_kit.datasets.images import read_image
from spade_kit.datasets.samples import GOOD
from spade_kit.evaluation.report import METRICS, Report
from spade_kit.evaluation.sweep import OPTIONS
from spade_kit.evaluation.threshold_study import ThresholdStudy
from spade_kit.features.backbones import Backbone
from spade_kit.scores import take_inside

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from spade_kit.evaluation.map_store import Judged

_COLOUR = {"image": style.BLUE, "pixel": style.RING}
_MOST = 8  # images side by side; more would be too small
_LETTERS = 56  # of 8 pt below a panel of a sweep
_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_RATES = {"false_positive_rate": "false-positive rate", "overlap": "mean overlap per region"}
_CURVES = {  # title, x label, y label, and the metrics that measure the areas
    "roc": ("ROC", "false-positive rate", "recall", {"image": "image_roc_auc", "pixel": "pixel_roc_auc"}),
    "pr": ("precision and recall", "recall", "precision", {
        "image": "image_average_precision", "pixel": "pixel_average_precision"}),
    "pro": ("PRO, area up to rate 0.3", "false-positive rate", "mean overlap per region", {"pixel": "aupro"}),
}  # fmt: skip
_METRIC_TITLES = {
    "image_roc_auc": "image ROC AUC",
    "image_average_precision": "image average precision",
    "image_f1_max": "image F1, best threshold",
    "top_roc_auc": "image ROC AUC, top 1 % of the map",
    "retrieval_roc_auc": "image ROC AUC, retrieval score",
    "pixel_roc_auc": "pixel ROC AUC",
    "pixel_average_precision": "pixel average precision",
    "pixel_f1_max": "pixel F1, best threshold",
    "aupro": "AUPRO, false-positive rate up to 0.3",
    "aupro_05": "AUPRO, false-positive rate up to 0.05",
}
_OPTION_LABELS = {
    "layers": "layers used",
    "crop": "crop (px)",
    "normals": "normal images fitted",
    "weights": "layer weights",
    "combine": "combination of layers",
    "radius": "search radius (cells)",
    "kappa": "kappa (nearest pixels averaged)",
    "k": "K (retrieved images)",
    "sigma": "smoothing sigma (px)",
}


def draw_curves(report: Report, threshold: float | None = None, image_threshold: float | None = None) -> go.Figure:
    """ROC, precision-recall and PRO curves with their areas, as a Plotly figure.

    Parameters
    ----------
    threshold, image_threshold
        Thresholds to mark on the pixel curves and the image curves, such as ``spade.threshold()`` and
        ``spade.threshold(of="image")``, which need only normal images.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> spade = spade_kit.SPADE(k=5).fit(parts.train[:12])
    >>> report = spade_kit.evaluate(spade, parts)
    >>> figure = spade_kit.draw_curves(report, spade.threshold())  # figure.write_html in a script
    """
    from plotly.subplots import make_subplots

    from spade_kit.figures.curves import Curves

    check_made("spade_kit.evaluate", report, Report)
    curves, thresholds = report.curves(), {"pixel": threshold, "image": image_threshold}
    figure: Curves = make_subplots(1, 3, figure=Curves(), subplot_titles=[title for title, *_ in _CURVES.values()])
    legends: dict[str, Any] = {}  # below the curves, because on some datasets the curves fill every corner
    for column, (curve, (_, x, y, areas)) in enumerate(_CURVES.items(), start=1):
        place: dict[str, Any] = {"legend": f"legend{column}", "row": 1, "col": column}
        hover = f"{x} %{{x}}<br>{y} %{{y}}<extra></extra>"
        for of, metric in areas.items():
            points = curves[(curves["curve"] == curve) & (curves["of"] == of)].round(3)
            if points.empty:
                continue
            name, line = f"{of}s, area {report.metric(metric):.3f}", {"color": _COLOUR[of], "width": 2}
            xy = {"x": points["x"].tolist(), "y": points["y"].tolist()}
            figure.add_scatter(**xy, name=name, line=line, hovertemplate=hover, **place)
            if (level := thresholds[of]) is None:
                continue
            name, said = f"{of} threshold {level:.4g}", f"threshold {level:.4g}<br>{hover}"
            rates = {_RATES.get(rate, rate): [round(value, 3)] for rate, value in report.rates(level, of).items()}
            ring = {"color": "white", "size": 11, "line": {"color": _COLOUR[of], "width": 3}}
            xy = {"x": rates[x], "y": rates[y]}
            figure.add_scatter(**xy, name=name, mode="markers", marker=ring, hovertemplate=said, **place)
        figure.update_xaxes(title_text=x, range=[-0.02, 1.02], row=1, col=column)
        figure.update_yaxes(title_text=y, range=[-0.02, 1.02], row=1, col=column)
        left, _ = figure.layout[f"xaxis{column}"].domain
        legends[f"legend{column}"] = {"x": left, "xanchor": "left", "y": -0.2, "yanchor": "top", "font": {"size": 11}}
    if (curves["curve"] == "pro").any():
        figure.add_vrect(x0=0, x1=0.3, fillcolor="#999999", opacity=0.15, line_width=0, row=1, col=3)
    figure.update_annotations(font_size=13)
    said = f"{report.name}: {len(report.to_frame())} images; {report.run['backbone']}, {report.options}"
    below = {"x": 0, "y": -0.62, "xref": "paper", "yref": "paper", "xanchor": "left", "showarrow": False}
    figure.add_annotation(text=said, font={"size": 11, "color": "#666666"}, **below)
    margin = {"l": 55, "r": 15, "t": 60, "b": 160}  # the top leaves room for Plotly's buttons
    figure.update_layout(template="plotly_white", height=475, margin=margin, **legends)
    return figure


def draw_threshold_study(study: ThresholdStudy, threshold: float, sentence: str | None = None) -> Figure:
    """Histograms of the scores of normal and test images, with a threshold and its operating point in one sentence."""
    kinds = {"normal": (study.normal.sum(0), style.BLUE), "test: good": (study.good, style.GREEN)}
    kinds |= {"test: defects": (study.defect, style.RING), "test: unknown": (study.unknown, style.GREY)}
    shown = {kind: (counts, colour) for kind, (counts, colour) in kinds.items() if counts.sum()}
    figure = Figure(figsize=(style.WIDTH, 0.5 + 1.3 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    seen = study.edges[np.flatnonzero(sum(counts for counts, _ in shown.values()))]
    room = 0.05 * (study.edges[-1] - seen[0])
    least = min(seen[0], threshold) - room
    panels[0].set_xlim(max(0, least) if study.edges[0] == 0 else least, max(study.edges[-1], threshold) + room)
    for panel, (kind, (counts, colour)) in zip(panels, shown.items()):
        coarser = counts.reshape(-1, 4).sum(1)  # bins four times as wide, so that bins with few images are visible
        panel.stairs(coarser, study.edges[::4], fill=True, color=colour)
        panel.axvline(threshold, color="#222222", linewidth=1.5)
        if study.of == "pixel":
            panel.set_yscale("symlog", linthresh=10)
            panel.yaxis.get_major_locator().set_params(numticks=4)
        else:
            panel.locator_params("y", nbins=4, integer=True)
        panel.set_title(f"{kind}: {counts.sum():,} {study.of}s", fontsize=8, loc="left")
        panel.tick_params(labelsize=8)
    figure.supylabel("images" if study.of == "image" else "pixels, log scale", fontsize=8)
    scores = "score of each image" if study.of == "image" else "each pixel"
    panels[-1].set_xlabel(f"distance (raw), {scores}", fontsize=8)
    return style.small_print(figure, (sentence or study.at(threshold).sentence).replace(". ", ".\n "))


def draw_sweep(frame: pandas.DataFrame, metrics: Sequence[str] | None = None) -> Figure:
    """Draw the results of `sweep`, one panel per metric.

    One option gives a line (dots if its values have no order), two give a heat map; more give one line for each
    combination of all options except the one with the most values. Bars show confidence intervals if there are any,
    otherwise the range from the lowest to the highest draw.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> few = spade_kit.Dataset("few", parts.train[:12], parts.test[:12])
    >>> table = spade_kit.sweep(few, {"k": [1, 2, 4, 8, 12]}, metrics=["image_roc_auc", "aupro"])
    >>> figure = spade_kit.draw_sweep(table)
    """
    columns = list(frame.columns) if isinstance(frame, pandas.DataFrame) else []
    options = [name for name in OPTIONS if name in columns]
    if not options or not len(frame):
        got = f"a table of {len(frame)} rows with {columns}" if columns else f"a value of type {type(frame).__name__}"
        raise ValueError(f"draw_sweep takes a table from sweep; got {got}.")
    ordered = {name: all(value is None or isinstance(value, (int, float)) for value in frame[name]) for name in options}
    told = frame.assign(**{name: frame[name].map(partial(_format_option, name)) for name in options})
    if "backbone" in options:
        told["backbone"] = _name_backbones(list(frame["backbone"]))
    counts = told[options].nunique()
    options = [name for name in options if counts[name] > 1] or options[:1]
    options.sort(key=lambda name: (ordered[name], counts[name]), reverse=True)
    known = [name for name in METRICS if name in frame.columns and frame[name].notna().any()]
    chosen = [choose("A metric", name, known) for name in metrics] if metrics is not None else known
    if not chosen:
        raise ValueError(
            "draw_sweep needs a metric, but all are NaN. Judge images with labels, both good ones and defects."
        )
    figure, panels = style.make_panels(None, len(chosen), min(len(chosen), 2), side=4.0)
    for panel, metric in zip(panels, chosen):
        panel.set_title(_METRIC_TITLES[metric], fontsize=9)
        if len(options) == 2:
            _draw_heat_map(panel, told, options, metric)
        else:
            _draw_lines(panel, told, options, metric, "o-" if ordered[options[0]] else "o")
    if len(options) > 2:
        lines, names = panels[0].get_legend_handles_labels()
        title = ", ".join(_OPTION_LABELS.get(name, name) for name in options[1:])
        figure.legend(lines, names, loc="outside lower center", ncols=4, fontsize=8, title=title)
    return figure


def _draw_lines(panel: Axes, frame: pandas.DataFrame, options: list[str], metric: str, marks: str) -> None:
    first, others = options[0], options[1:]
    names = list(dict.fromkeys(frame[first]))
    lines = list(frame.groupby(others, sort=False)) if others else [((), frame)]
    for number, (key, rows) in enumerate(lines):
        drawn = rows.groupby(first, sort=False)
        middle = drawn[metric].mean().reindex(names).astype(float)
        low, high = (f"{metric}_low", f"{metric}_high") if f"{metric}_low" in frame else (metric, metric)
        ends = np.stack([middle - drawn[low].min().reindex(names), drawn[high].max().reindex(names) - middle])
        x = np.arange(len(names)) + 0.04 * (number - (len(lines) - 1) / 2)
        look: dict[str, Any] = {"color": _LINES[number % len(_LINES)], "capsize": 3, "markersize": 5}
        label, bars = ", ".join(map(str, np.atleast_1d(key))), ends.clip(0) if ends.any() else None
        panel.errorbar(x, middle.to_numpy(), bars, fmt=marks, label=label, **look)
    _name_values(panel, names)
    panel.set_xlabel(_OPTION_LABELS.get(first, first), fontsize=9)
    panel.set_ylabel(_METRIC_TITLES[metric].partition(",")[0], fontsize=9)
    panel.set_ylim(top=min(panel.get_ylim()[1], 1.005))  # no metric exceeds 1
    panel.margins(x=0.08)
    panel.grid(axis="y", color="#dddddd")
    panel.set_axisbelow(True)
    style.open_up(panel)


def _draw_heat_map(panel: Axes, frame: pandas.DataFrame, options: list[str], metric: str) -> None:
    table = frame.groupby(options, sort=False)[metric].mean().unstack()[list(dict.fromkeys(frame[options[1]]))]
    values = table.to_numpy()
    panel.imshow(values, style.COLOURS, aspect="auto")
    middle = np.nanmean([values.min(), values.max()])
    for (row, column), value in np.ndenumerate(values):
        ink = "black" if value > middle else "white"
        panel.text(column, row, f"{value:.3f}", ha="center", va="center", fontsize=8, color=ink)
    _name_values(panel, list(table.columns))
    panel.set_yticks(range(table.shape[0]), [_wrap(name, _LETTERS // 3) for name in table.index], fontsize=8)
    panel.set_xlabel(_OPTION_LABELS.get(options[1], options[1]), fontsize=9)
    panel.set_ylabel(_OPTION_LABELS.get(options[0], options[0]), fontsize=9)


def _name_backbones(values: list) -> list[str]:
    """Backbones by their names, with their crops or blocks where these tell them apart."""
    tell: Callable[[Backbone], str]
    for tell in (lambda one: one.name, str, lambda one: f"{one.name}, {' + '.join(one.sources)}"):
        names = {value: tell(value) if isinstance(value, Backbone) else str(value) for value in values}
        if len(set(names.values())) == len(names):
            break
    return [names[value] for value in values]


def _name_values(panel: Axes, names: list[str]) -> None:
    """Write the values of an option below a panel: wrapped, and slanted if they would still touch."""
    room = max(_LETTERS // len(names), 1)
    wrapped = [_wrap(name, room) for name in names]
    slanted: dict[str, Any] = {}
    if max(len(line) for name in wrapped for line in name.split("\n")) > room:
        wrapped = [_wrap(name, _LETTERS // 2) for name in names]
        slanted = {"rotation": 25, "ha": "right", "rotation_mode": "anchor"}
    panel.set_xticks(range(len(names)), wrapped, fontsize=8, **slanted)


def _wrap(name: str, letters: int) -> str:
    return fill(name, letters, break_long_words=False)


def _format_option(option: str, value: Any) -> str:
    """A short label for a value of an option."""
    if value is None:
        return {"radius": "everywhere", "weights": "none", "crop": "whole image"}.get(option, "all")
    if isinstance(value, Mapping):
        return ", ".join(f"{name} x {factor:g}" for name, factor in value.items())
    if isinstance(value, (tuple, list)):
        return " + ".join(map(str, value))
    return str(value)


def draw_hardest(report: Report, n: int = 4) -> Figure:
    """Show the hardest cases: the defects with the lowest image scores, and the good images with the highest.

    Each image is shown with its ground truth (dashed) if known, and with its judged map below. All maps share one
    scale, which ends at twice the mean of the 99th percentiles of the good images' maps (of all maps if none is good);
    that of an excess, which is mostly below 0, at their highest value.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> spade = spade_kit.SPADE(k=5).fit(parts.train[:12])
    >>> report = spade_kit.evaluate(spade, parts)
    >>> figure = spade_kit.draw_hardest(report, n=3)
    """
    check_made("spade_kit.evaluate", report, Report)
    if check_count("n", n) > _MOST:
        raise ValueError(f"n must be at most {_MOST} images of a kind; got {n}. See to_frame() for all images.")
    frame = report.to_frame().dropna(subset=["image_score", "label"])
    bad, good = frame[frame["label"] != GOOD], frame[frame["label"] == GOOD]
    halves = {"misses": bad.nsmallest(n, "image_score"), "false alarms": good.nlargest(n, "image_score")}
    shown = {name: rows for name, rows in halves.items() if len(rows)}
    if not shown:
        raise ValueError(
            f"draw_hardest needs labels; no image of {report.name} has one. Label them: dataset.label(...)."
        )
    columns = max(map(len, shown.values()))
    first = report.judged(frame.index[0])
    assert first is not None  # it has a score
    figure, panels = style.make_panels(None, 2 * columns * len(shown), columns, bars=1, shape=first.crop.size)
    end = _find_end(report, [good.index, frame.index], excess=first.level is not None)
    for (name, rows), (above, below) in zip(shown.items(), np.array(panels, object).reshape(-1, 2, columns)):
        for panel in [*above[len(rows) :], *below[len(rows) :]]:
            panel.axis("off")
        for photo, heat, row in zip(above, below, rows.itertuples()):
            judged = report.judged(row.Index)
            assert judged is not None  # it has a score
            style.show_picture(photo, _read_picture(row.path, judged), f"{row.label}/{Path(row.path).stem}")
            image = style.show_map(heat, judged.judged_map, end, _rank(row, bad if name == "false alarms" else good))
            for panel in (photo, heat):
                style.draw_contour(panel, judged.mask, "white", "dashed")
        above[0].set_ylabel(name, fontsize=10)
        style.add_scale(below[-1], image, end)
    said = f"{report.name}; {report.run['backbone']}, weights: {report.run['weights']}; {report.options}"
    return style.small_print(figure, said)


def _find_end(report: Report, choices: Sequence[pandas.Index], excess: bool) -> float:
    """The end of one scale for all maps, from the first choice of images that gives one above 0."""
    for images in choices:
        found = (take_inside(judged.judged_map) for at in images if (judged := report.judged(at)))
        values = [float(values.max() if excess else np.percentile(values, 99)) for values in found]
        if values and (end := max(values) if excess else style.SCALE * float(np.mean(values))) > 0:
            return end
    return 1.0


def _read_picture(path: str, judged: Judged) -> np.ndarray:
    """The evaluated crop of an image; plain grey if the file can no longer be read."""
    try:
        return judged.crop.cut(read_image(as_path(path)))
    except (OSError, ValueError):
        return np.full((*judged.crop.size, 3), 128, np.uint8)


def _rank(row: Any, others: pandas.DataFrame) -> str:
    """An image score, and the number of images of the other class on the wrong side of it."""
    score, scores = row.image_score, others["image_score"]
    beyond, kind = (scores <= score, "defects below") if row.label == GOOD else (scores >= score, "good above")
    return f"score {score:.2f}" + ("" if others.empty else f": {beyond.sum()} of {len(others)} {kind}")
