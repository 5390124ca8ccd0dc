"""Lesson 09: what each metric measures, and what it hides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.figure import Figure
from scipy.ndimage import label
from sklearn.metrics import auc

from spade_kit.datasets.samples import GOOD
from spade_kit.evaluation.metrics import f1_threshold, weigh_regions
from spade_kit.figures.style import (
    BLUE,
    RING,
    SCALE,
    add_scale,
    draw_contour,
    make_panels,
    show_map,
    show_picture,
)
from spade_kit.lessons.checking import check_answer, explain, tell
from spade_kit.lessons.material import add_bar, open_charts
from spade_kit.result import Result

_LIMIT = 0.3  # the false-positive rate where AUPRO ends


def warm_up(photo: UInt8[np.ndarray, "H W 3"], by: float = 0.15) -> UInt8[np.ndarray, "H W 3"]:
    """The image under a warmer lamp: more red, less blue."""
    return np.clip(photo * np.array([1 + by, 1, 1 - by]), 0, 255).round().astype(np.uint8)


def make_small_map() -> tuple[Float[np.ndarray, "4 6"], Bool[np.ndarray, "4 6"]]:
    """A map and its mask with two defects: three pixels, one of them touching at a corner only, and a single pixel."""
    small_map = np.array([[1, 2, 1, 0, 2, 4], [2, 9, 8, 4, 1, 2], [1, 3, 5, 7, 3, 1], [0, 1, 6, 2, 1, 0]], float)
    mask = np.zeros((4, 6), bool)
    mask[[1, 1, 2, 0], [1, 2, 3, 5]] = True
    return small_map, mask


def number_regions(mask: Bool[np.ndarray, "H W"]) -> Int[np.ndarray, "H W"]:
    """1, 2, ... for the pixels of each connected region, corners included; 0 elsewhere."""
    return label(mask, structure=np.ones((3, 3)))[0]


def overlap_by_hand(anomaly_map: Float[np.ndarray, "H W"], mask: Bool[np.ndarray, "H W"]) -> pandas.DataFrame:
    """One row per threshold, highest first: false-positive rate, fraction found per region, mean (PRO), recall."""
    regions = number_regions(mask)
    rows = {}
    for threshold in sorted(set(anomaly_map.ravel().tolist()), reverse=True):
        found = anomaly_map >= threshold
        parts = {f"region {number}": found[regions == number].mean() for number in range(1, regions.max() + 1)}
        mean = sum(parts.values()) / len(parts)
        rows[f"{threshold:g}"] = {"fpr": found[~mask].mean(), **parts, "PRO": mean, "recall": found[mask].mean()}
    return pandas.DataFrame.from_dict(rows, orient="index").rename_axis("threshold")


def area_up_to(limit: float, x: Iterable[float], y: Iterable[float]) -> float:
    """The area below a curve from (0, 0) through points with rising x, up to a limit: trapezium by trapezium."""
    area = left = low = 0.0
    for right, high in zip(x, y):
        if right > limit:  # the last one ends at the limit, at an interpolated height
            high = low + (high - low) * (limit - left) / (right - left)
        area += (min(right, limit) - left) * (low + high) / 2
        left, low = min(right, limit), high
        if right >= limit:
            break
    return area


def aupro_at_even_thresholds(
    maps: Float[np.ndarray, "n H W"], masks: Bool[np.ndarray, "n H W"], steps: int = 100
) -> float:
    """AUPRO as it is often computed, too low: evenly spaced thresholds, up to the last one before the limit."""
    weights, regions = weigh_regions(masks)
    order = np.argsort(maps[masks])
    normal, defect = np.sort(maps[~masks]), maps[masks][order]
    missed = np.append(0, np.cumsum(weights[masks][order])) / regions.sum()  # by number of defect pixels below
    thresholds = np.linspace(maps.max(), maps.min(), steps)
    fpr = 1 - np.searchsorted(normal, thresholds) / len(normal)
    pro = 1 - missed[np.searchsorted(defect, thresholds)]
    return float(auc(fpr[fpr < _LIMIT], pro[fpr < _LIMIT]) / _LIMIT)


def f1_at(threshold: float, scores: Float[np.ndarray, "n"], bad: Bool[np.ndarray, "n"]) -> float:
    """The harmonic mean of precision and recall at a threshold."""
    found = scores >= threshold
    return float(2 * (found & bad).sum() / (found.sum() + bad.sum()))


def f1_on_halves(
    scores: Float[np.ndarray, "n"], kinds: Sequence[str], draws: int = 500, seed: int = 0
) -> tuple[float, float]:
    """Choose the best F1 threshold on half of each kind: mean F1 on that half and on the other, over the draws."""
    rng = np.random.default_rng(seed)
    places = [np.flatnonzero(np.array(kinds) == kind) for kind in dict.fromkeys(kinds)]
    bad = np.array([kind != GOOD for kind in kinds])
    values = []
    for _ in range(draws):
        half = np.zeros(len(kinds), bool)
        for some in places:
            half[rng.choice(some, len(some) // 2, replace=False)] = True
        threshold = f1_threshold(scores[half], bad[half])
        values.append([f1_at(threshold, scores[part], bad[part]) for part in (half, ~half)])
    chosen, other = np.mean(values, axis=0)
    return float(chosen), float(other)


def stretch(values: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """Scale a map from its own minimum and maximum to 0 and 1, which makes every image look anomalous."""
    return (values - values.min()) / (values.max() - values.min())


def draw_small_map(anomaly_map: Float[np.ndarray, "H W"], mask: Bool[np.ndarray, "H W"]) -> Figure:
    """A map with its values, and the regions of its mask outlined and numbered."""
    figure, (panel,) = make_panels(None, 1)
    figure.set_size_inches(5.4, 3.8)
    show_map(panel, anomaly_map, anomaly_map.max(), "")
    for (row, col), value in np.ndenumerate(anomaly_map):
        ink = "black" if value > anomaly_map.max() / 2 else "white"
        panel.text(col, row, f"{value:g}", ha="center", va="center", fontsize=14, color=ink)
    regions = number_regions(mask)
    around, along = np.pad(regions, 1), np.array([-0.5, 0.5])
    for row, col in np.argwhere(mask):
        for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            if around[row + 1 + down, col + 1 + right] != regions[row, col]:  # a side on the border of the region
                x, y = (col + along, row + [down / 2] * 2) if down else (col + [right / 2] * 2, row + along)
                panel.plot(x, y, color=RING, linewidth=3.5, solid_capstyle="round", clip_on=False)
    for number in range(1, regions.max() + 1):
        row, col = np.argwhere(regions == number)[0]
        box = {"facecolor": RING, "edgecolor": RING, "pad": 1.5}
        panel.text(col - 0.46, row - 0.44, f"region {number}", fontsize=8, color="white", va="top", bbox=box)
    panel.set_xlabel("column (px)", fontsize=9)
    panel.set_ylabel("row (px)", fontsize=9)
    panel.set(xticks=range(anomaly_map.shape[1]), yticks=range(len(anomaly_map)))
    panel.tick_params(labelsize=9)
    return figure


def draw_small_curve(table: pandas.DataFrame) -> Figure:
    """The PRO curve from a table of `overlap_by_hand`, with its thresholds and the area up to the limit."""
    figure, (panel,) = open_charts(6.4, 3.6, "false-positive rate", "overlap per region (mean)", size=9)
    x, y = np.append(0, table["fpr"]), np.append(0, table["PRO"])
    inside = np.linspace(0, _LIMIT, 301)
    panel.plot(x, y, "o-", color=BLUE, linewidth=2)
    panel.fill_between(inside, np.interp(inside, x, y), color=BLUE, alpha=0.2, linewidth=0)
    panel.axvline(_LIMIT, color="#222222", linestyle="dashed", linewidth=1)
    for threshold, fpr, pro in zip(table.index, table["fpr"], table["PRO"]):
        panel.annotate(threshold, (fpr, pro), (6, -13), textcoords="offset points", fontsize=9)
    panel.set_title("each point is labelled with its threshold; shaded: the area up to the limit", fontsize=9)
    panel.set(xlim=(-0.02, 1.02), ylim=(0, 1.08))
    return figure


def draw_stretched(results: Sequence[Result]) -> Figure:
    """Images, below each its map on one raw scale, and below that the map stretched to its own extremes."""
    count, level = len(results), results[0].normal_level
    assert level is not None  # there is more than one normal image
    figure, panels = make_panels(None, 3 * count, count, bars=1, side=2.0)
    for result, photo, raw, own in zip(results, panels, panels[count:], panels[2 * count :]):
        show_picture(photo, result.image, result.label or "")
        image = show_map(raw, result.anomaly_map, SCALE * level, f"raw, maximum {result.image_score:.0f}")
        stretched = show_map(own, stretch(result.anomaly_map), 1, "stretched, maximum 1")
        if result.mask is not None:
            draw_contour(photo, result.mask, "white", "dashed")
    add_scale(raw, image, SCALE * level, level)
    add_bar(own, stretched, "fraction of the map's own range")
    return figure


def check_regions(answer: Sequence[float]) -> None:
    """Check PRO and recall of two regions, 80 of 100 and 0 of 4 pixels found."""
    mistakes = {
        "The two are swapped: PRO is the mean over regions.": [80 / 104, 0.4],
        "PRO is right. Recall counts pixels: 80 of 104.": [0.4, 0.4],
        "Recall is right. PRO gives both regions the same weight: the mean of 0.8 and 0.": [80 / 104, 80 / 104],
        "PRO is right. Region B's pixels count in the recall, too: 80 of 104, not of 100.": [0.4, 0.8],
        "Those are percentages: divide by 100.": [40, 8000 / 104],
    }
    otherwise = f"PRO is a mean over the two regions, the recall one over the 104 pixels; got {answer}."
    told = "The small region costs half of PRO, and a twenty-fifth of the recall."
    check_answer(answer, [0.4, 80 / 104], mistakes, otherwise, told, rtol=5e-3)


def check_think(answer: Sequence[float]) -> None:
    """Check a precision, and the false-positive rate at which it is a half."""
    mistakes = {
        "Precision is not found / (found + rate): count pixels, 200 and 1,000.": [0.8 / 0.82, 0.004],
        "The rate is right. Precision is 200 of all 1,200 marked pixels, not 200 / 1,000.": [0.2, 0.004],
        "The precision is right. For 0.5, mark as many normal pixels as are found: 200 of 50,000.": [1 / 6, 0.02],
        "The precision is right. The rate is a fraction, 200 of 50,000, not a number of pixels.": [1 / 6, 200],
        "The precision is right. Only 80 % of the 250 pixels are found: 200 of 50,000.": [1 / 6, 0.005],
        "The two are swapped: the precision comes first.": [0.004, 1 / 6],
        "Those are percentages: divide by 100.": [100 / 6, 0.4],
    }
    otherwise = f"Count the pixels of the defect and the normal ones that are marked; got {answer}."
    told = "With so many normal pixels, a rate of 2 % is a lot: five of six marked pixels are false alarms."
    check_answer(answer, [1 / 6, 0.004], mistakes, otherwise, told, rtol=0.025)


def check(overlap: Callable[[np.ndarray, np.ndarray, float], float]) -> None:
    """Check PRO at a threshold, from a map (H, W) and its regions (H, W), numbered from 1, with 0 for normal pixels."""
    rng = np.random.default_rng(0)
    regions = np.zeros((8, 12), int)
    regions[1:4, 1:7], regions[6, 8:10], regions[1, 10] = 1, 2, 3
    anomaly_map = rng.integers(0, 6, regions.shape) + 4 * (regions == 1) + 2.0 * (regions == 2)
    threshold = 6.0
    anomaly_map[6, 8:10], anomaly_map[1, 10] = (6, 5), 5  # one pixel of the second region is exactly at the threshold
    anomaly_map[4, :5] = 7  # false alarms, so that the precision is not 1
    tell(
        lambda: overlap(anomaly_map.copy(), regions.copy(), threshold),
        lambda answer: _find_mistake(answer, anomaly_map, regions, threshold),
        "Take it at every threshold: AUPRO is the area below that curve up to a false-positive rate of 0.3.",
    )


def _find_mistake(answer: float, anomaly_map: np.ndarray, regions: np.ndarray, threshold: float) -> str | None:
    found = anomaly_map >= threshold
    numbers = range(1, regions.max() + 1)
    hits = np.array([found[regions == number].sum() for number in numbers])
    parts = np.array([found[regions == number].mean() for number in numbers])
    right = parts.mean()
    fractions = ", ".join(f"{part:.2f}" for part in parts)
    if np.size(answer) == len(parts) and np.allclose(answer, parts):
        return f"Those are the fractions of the regions, {fractions}: return their mean."
    if np.ndim(answer):
        return f"PRO at one threshold is one number; got an array of shape {np.shape(answer)}."
    mistakes = {
        "That is the recall: a mean over pixels, dominated by the largest region. Take the fraction found of each "
        "region first, then the mean of those.": found[regions > 0].mean(),
        "A pixel exactly at the threshold is found, too: use >=, not >.": (
            np.mean([(anomaly_map > threshold)[regions == number].mean() for number in numbers])
        ),
        "The normal pixels, numbered 0, are not a region: begin with number 1.": (
            np.mean([found[regions == 0].mean(), *parts])
        ),
        "That is the sum over the regions: divide by the number of regions.": parts.sum(),
        "The last region is missing: range(1, n) ends at n - 1.": parts[:-1].mean(),
        "The sum is right, but there are 3 regions: 0, the normal pixels, is a number among them, not a region.": (
            parts.sum() / (len(parts) + 1)
        ),
        "That is the mean number of pixels found: divide by the size of each region first.": hits.mean(),
        "Each region has a size of its own: divide by that, not by the number of all defect pixels.": (
            (hits / (regions > 0).sum()).mean()
        ),
        "That is the fraction missed: a pixel is found if its value is at or above the threshold.": 1 - right,
        "That is the false-positive rate: it is taken over normal pixels, PRO over those of defects.": (
            found[regions == 0].mean()
        ),
        "That is the fraction of all pixels that are marked: look at the regions only, one after the other.": (
            found.mean()
        ),
        "That is the region found best. PRO gives all regions the same weight: take the mean.": parts.max(),
        "That is the region found worst. PRO gives all regions the same weight: take the mean.": parts.min(),
        "That is in percent: PRO lies between 0 and 1.": 100 * right,
        "That counts a region as found as soon as one of its pixels is: take the fraction of its pixels.": (
            (parts > 0).mean()
        ),
        "That is the precision, the defective fraction of the marked pixels: divide by the sizes of the regions.": (
            (regions > 0)[found].mean()
        ),
        "That is the intersection over union (IoU). PRO leaves normal pixels out: divide by the sizes of regions.": (
            (found & (regions > 0)).sum() / (found | (regions > 0)).sum()
        ),
    }
    otherwise = f"The fractions found are {fractions}, so PRO must be {right:.3f}; got {answer:.3f}."
    return explain(answer, right, mistakes, otherwise)
