"""Lesson 03: which images are compared, and the effect of their number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from scipy.spatial.distance import cdist

from spade_kit.datasets.samples import Sample
from spade_kit.datasets.synthetic import Stroke, paint
from spade_kit.features.pyramid import Pyramid
from spade_kit.figures.style import BLUE, GREEN, RING, WIDTH
from spade_kit.lessons.checking import check_answer, explain, tell
from spade_kit.lessons.material import auc_of_kinds, open_charts
from spade_kit.result import Result
from spade_kit.scores import find_threshold
from spade_kit.spade import SPADE

_LINES = {  # metrics of a sweep: label, colour and marker
    "retrieval_roc_auc": ("image AUC, the paper's score", BLUE, "o"),
    "image_roc_auc": ("image AUC, maximum of the map", RING, "s"),
    "aupro": ("AUPRO of the map", GREEN, "^"),
}

_PUBLISHED = {  # K: image AUC of the paper's score, pixel AUC; means over the 15 classes of MVTec AD
    5: (0.854, 0.964),  # byungjae89/SPADE-pytorch
    50: (0.855, 0.965),  # arXiv:2005.02357
}


def share_of_own_type(pooled: Float[np.ndarray, "n d"], types: np.ndarray, k: int) -> dict[str, float]:
    """Mean fraction of the k nearest other cells that are of the same type, by type."""
    distance = cdist(pooled, pooled)
    np.fill_diagonal(distance, np.inf)
    near = distance.argsort(axis=1, kind="stable")[:, :k]  # (n, k)
    same = types[near] == types[:, None]
    return {str(kind): float(same[types == kind].mean()) for kind in np.unique(types)}


def auc_by_kind(results: Sequence[Result]) -> pandas.DataFrame:
    """Image AUC of the paper's score and of the map's maximum: each kind of defect against good parts, and all."""
    scores = {
        "paper's score": np.array([result.retrieval_score for result in results]),
        "map's maximum": np.array([result.image_score for result in results]),
    }
    labels = [result.label for result in results]
    return pandas.DataFrame({name: auc_of_kinds(values, labels) for name, values in scores.items()})


def left_out_scores(pooled: Float[np.ndarray, "n d"], k: int) -> Float[np.ndarray, "n"]:
    """The paper's score of each normal image, judged against the others."""
    distance = np.sort(cdist(pooled, pooled), axis=1)
    return distance[:, 1 : k + 1].mean(1)


def grow_stain(
    spade: SPADE, gallery: Pyramid, photos: Sequence[Sample], sizes: Sequence[float], place: tuple[float, float]
) -> pandas.DataFrame:
    """Scores of good parts with a stain of growing diameter (px), divided by the level that 1 in 20 normals reaches.

    Returns means over the images, one row per diameter, with the fraction of the image that the stain covers.
    """
    normals = left_out_scores(gallery.pooled.numpy(), min(int(spade.k), len(gallery) - 1))
    usual, usual_map = find_threshold(normals, 0.05), spade.threshold(0.05, of="image")
    rows = []
    for size in sizes:
        for photo in photos:
            painted = paint(photo.image, [Stroke("stain", (place,), size, 0.8, (110, 70, 30))])
            result = spade.predict(painted)
            share = float((painted != photo.image).any(axis=2).mean())
            rows.append((share, result.retrieval_score / usual, result.image_score / usual_map))
    table = pandas.DataFrame(rows, columns=["share", "retrieval", "map"])
    return table.groupby(np.repeat(sizes, len(photos))).mean()


def draw_growth(table: pandas.DataFrame) -> Figure:
    """Draw the table of `grow_stain`, with a line at the level that 1 in 20 good parts reaches."""
    figure, (panel,) = open_charts(7.2, 3.4, "area covered by the stain", "score / threshold")
    panel.semilogx(table["share"], table["map"], "s-", color=RING, label="maximum of the map")
    panel.semilogx(table["share"], table["retrieval"], "o-", color=BLUE, label="the paper's score")
    panel.axhline(1, color="#222222", linestyle="dashed", linewidth=1)
    panel.text(table["share"].iloc[-1], 0.98, "1 good part in 20 reaches this", fontsize=8, ha="right", va="top")
    ticks = (0.0001, 0.001, 0.01, 0.1)
    panel.set_xticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
    panel.set_ylim(0, 2)
    panel.legend(fontsize=8, frameon=False)
    return figure


def draw_ablation(tables: Mapping[str, pandas.DataFrame]) -> Figure:
    """Draw tables of `sweep` over k, one panel per dataset, all metrics on one axis."""
    figure, panels = open_charts(WIDTH, 3.4, "K (retrieved images)", "ROC-AUC or AUPRO", count=len(tables))
    for panel, (name, table) in zip(panels, tables.items()):
        for metric, (label, colour, mark) in _LINES.items():
            if metric in table:
                panel.plot(range(len(table)), table[metric], f"{mark}-", color=colour, label=label)
        panel.set_xticks(range(len(table)), table["k"].tolist())
        panel.set_title(name, fontsize=9)
        panel.grid(axis="y", color="#dddddd")
    panels[0].set_ylim(0.5, 1)
    handles, labels = max((panel.get_legend_handles_labels() for panel in panels), key=lambda both: len(both[0]))
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def put_beside_paper(by_k: pandas.DataFrame) -> pandas.DataFrame:
    """Image AUC of the paper's score and pixel AUC by K: of a sweep on the demo, and as published for MVTec AD."""
    rows = {}
    for k, *ours in by_k[["k", "retrieval_roc_auc", "pixel_roc_auc"]].itertuples(index=False):
        published = [f"{value:.3f}" for value in _PUBLISHED.get(k, ())] or ["-", "-"]
        rows[f"K = {k}"] = [f"{value:.2f}" for value in ours] + published
    sources = ["measured, demo", "published, MVTec AD"]
    columns = pandas.MultiIndex.from_product([sources, ["image AUC", "pixel AUC"]])
    return pandas.DataFrame.from_dict(rows, orient="index", columns=columns)


def draw_choice(nearest: pandas.DataFrame, random: pandas.DataFrame) -> Figure:
    """AUPRO with the K nearest images (a sweep over k) and with K random ones (a sweep over normals)."""
    figure, (panel,) = open_charts(6.2, 3.2, "images searched", "AUPRO")
    ks = nearest["k"].astype(int).tolist()
    panel.plot(ks, nearest["aupro"], "o-", color=BLUE, label="the K nearest, chosen for each image")
    panel.plot(random.groupby("normals")["aupro"].mean(), "s--", color=RING, label="K at random, the same for all")
    panel.plot(random["normals"], random["aupro"], ".", color=RING, markersize=4)
    panel.set_xscale("log")
    panel.set_xticks(ks, [str(k) for k in ks])
    panel.minorticks_off()
    panel.grid(axis="y", color="#dddddd")
    panel.legend(fontsize=8, frameon=False)
    return figure


def follow_k(result: Result, ks: Iterable[int]) -> pandas.DataFrame:
    """Mean of the map over normal pixels and over the defect, by K."""
    mask = result.mask
    assert mask is not None
    maps = {k: result.with_k(k).anomaly_map for k in ks}
    rows = [(float(values[~mask].mean()), float(values[mask].mean())) for values in maps.values()]
    return pandas.DataFrame(rows, index=list(maps), columns=["normal", "defect"])


def shoot_burst(photo: UInt8[np.ndarray, "H W 3"], count: int, seed: int = 0) -> list[UInt8[np.ndarray, "H W 3"]]:
    """Simulate a burst of shots of one part: shifts of up to a pixel, 1 % of brightness, and sensor noise."""
    rng = np.random.default_rng(seed)
    burst = []
    for _ in range(count):
        moved = np.roll(photo, rng.integers(-1, 2, 2), axis=(0, 1))
        burst.append((moved * rng.normal(1, 0.01) + rng.normal(0, 2, photo.shape)).clip(0, 255).astype(np.uint8))
    return burst


def check(usual: Callable[[np.ndarray, int], np.ndarray]) -> None:
    """Check that ``usual`` gives the mean distance (n,) of each of n pooled vectors (n, d) to its k nearest others."""
    pooled = np.random.default_rng(0).normal(size=(12, 5))
    pooled[7] = pooled[4]  # two images with the same vector are neighbours
    right = "The level that 1 in 20 of these reaches is a threshold for the paper's score, from good images alone."

    def find_mistake(answers: Sequence[np.ndarray]) -> str | None:
        told = (_find_mistake(np.asarray(answer, float), pooled, k) for answer, k in zip(answers, (3, 5)))
        return next(filter(None, told), None)

    tell(lambda: [usual(pooled.copy(), k) for k in (3, 5)], find_mistake, right)


def _find_mistake(answer: np.ndarray, pooled: np.ndarray, k: int) -> str | None:
    n = len(pooled)
    if answer.shape != (n,):
        return f"The answer must hold {n} scores, one per image; got an array of shape {answer.shape}."
    squared = np.sort([[sum((a - b) ** 2 for a, b in zip(one, other)) for other in pooled] for one in pooled])
    with_itself = np.sqrt(squared)
    others = with_itself[:, 1:]
    right = others[:, :k].mean(1)
    mistakes = {
        "Two images may have the same vector: only an image itself is left out, not every distance of 0.": (
            np.array([row[row > 0][:k].mean() for row in with_itself])
        ),
        "Each image finds itself at distance 0: leave it out of its own neighbours.": with_itself[:, :k].mean(1),
        "Those are the k farthest: sort, and take the first k after the image itself.": others[:, -k:].mean(1),
        f"That is the mean over all {n - 1} others: take only the {k} nearest.": others.mean(1),
        "Those are squared distances: take the square root before the mean.": squared[:, 1 : k + 1].mean(1),
        f"That is the sum of the {k} distances: divide by k.": others[:, :k].sum(1),
        f"That is the distance to neighbour {k} alone: take the mean of the first {k}.": others[:, k - 1],
        f"That is the distance to the nearest other alone, but k is {k}.": others[:, 0],
        f"That is the mean of the nearest 3 others, but k is {k}.": others[:, :3].mean(1),
        f"That is a mean over {k - 1}: the image itself is the first of the sorted distances.": others[:, : k - 1].mean(
            1
        ),
        f"That is a mean over {k + 1}, including the image itself at distance 0.": with_itself[:, : k + 1].mean(1),
    }
    at = int(np.argmin(np.isclose(answer, right)))
    otherwise = f"With k = {k} image {at} must score {right[at]:.3f}; got {answer[at]:.3f}."
    return explain(answer, right, mistakes, otherwise)


def check_fraction(fraction: float) -> None:
    """Check the largest fraction of 50 other cells that can be of one's own kind, if there are 39 of it."""
    mistakes = {
        "The cell itself is not among its own neighbours: 38 others of its kind are left.": 39 / 50,
        "That is the fraction among all other cells: only 50 of them are asked for.": 38 / 94,
        "That is the fraction among all cells: only 50 of them are asked for.": 39 / 95,
        "That was measured. The question is what would be possible.": 0.60,
        "There are not 50 others of its kind.": 1.0,
        "That is the smallest fraction of the other kind.": 12 / 50,
        "That is in percent: write the fraction itself.": 76,
    }
    otherwise = "Count the others of its kind, and divide by the number of neighbours."
    right = "At least 12 of the 50 neighbours are of the other kind, whatever the features."
    check_answer(fraction, 38 / 50, mistakes, otherwise, right, rtol=1e-3)


def check_think(answer: list[float]) -> None:
    """Check how far two of 49 cells, moved by 10 in the same direction, move the pooled vector and the largest cell."""
    pooled = 2 * 10 / 49
    mistakes = {
        "A mean over 49 cells: divide by 49.": [20, 10],
        "A maximum is not divided: the largest change of a cell is 10.": [pooled, pooled],
        "Two cells change: add both before you divide.": [10 / 49, 10],
        "Both move in the same direction: their changes add up to 20, not to the root of 200.": [200**0.5 / 49, 10],
        "That is the mean over the two cells that change: divide by all 49.": [10, 10],
        "The largest change is that of one cell, not the sum of two.": [pooled, 20],
    }
    otherwise = "The pooled vector: the sum of the changes, divided by 49. The largest: that of one cell."
    right = "The mean keeps 4 % of the change, the maximum all of it."
    check_answer(answer, [pooled, 10], mistakes, otherwise, right, rtol=0.02)
