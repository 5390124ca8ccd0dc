"""Lesson 07: where a threshold comes from, what each metric measures, and what it hides."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.figure import Figure
from scipy.ndimage import label
from sklearn.metrics import auc

from spade_kit.datasets.samples import GOOD, Photo, Sample
from spade_kit.datasets.synthetic import Stroke, changed, paint
from spade_kit.evaluation.metrics import aupro, f1_threshold, weigh_regions
from spade_kit.features.backbones import Backbone
from spade_kit.figures.style import (
    BLUE,
    GREEN,
    RING,
    SCALE,
    add_scale,
    draw_contour,
    make_panels,
    show_map,
    show_picture,
)
from spade_kit.lessons.checking import explain, tell
from spade_kit.lessons.material import add_bar, open_charts
from spade_kit.result import Result
from spade_kit.scores import find_threshold
from spade_kit.spade import SPADE


def try_rank(rank: int, count: int = 10, trials: int = 100_000, seed: int = 0) -> float:
    """How often a new normal score reaches the ``rank``-th smallest of ``count`` others of the same distribution."""
    scores = np.random.default_rng(seed).random((trials, count + 1))
    thresholds = np.sort(scores[:, :count], axis=1)[:, rank - 1]
    return float((scores[:, count] >= thresholds).mean())


def compare_thresholds(
    spade: SPADE, normals: Sequence[Photo], good: Sequence[Photo], kappas: Iterable[int], fpr: float
) -> pandas.DataFrame:
    """Image thresholds from normal images that are in the gallery, and from left-out ones, one row each.

    ``false alarms`` counts the good images, which were never fitted, that reach the threshold.
    """
    rows = []
    for kappa in kappas:
        seen = spade.with_options(kappa=kappa)
        scores = score(seen, good)
        cheated = find_threshold(score(seen, normals), fpr)
        for against, threshold in (("all, itself included", cheated), ("all others", seen.threshold(fpr, of="image"))):
            rows.append((kappa, against, round(threshold), int((scores >= threshold).sum())))
    return pandas.DataFrame(rows, columns=["kappa", "judged against", "threshold", "false alarms"])


def score(spade: SPADE, photos: Iterable[Photo]) -> Float[np.ndarray, "n"]:
    """Image scores. Fitted images stay in the gallery; the warning of ``predict`` about that is suppressed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This image is one of the fitted images")
        return np.array([spade.predict(photo).image_score for photo in photos])


def keep_promises(spade: SPADE, good: Sequence[Photo], rates: Iterable[float]) -> pandas.DataFrame:
    """How many good images that were not fitted reach the thresholds for the given false-alarm rates."""
    scores = score(spade, good)
    alarms = [int((scores >= spade.threshold(rate, of="image")).sum()) for rate in rates]
    seen = [f"{count} of {len(scores)}: {count / len(scores):.0%}" for count in alarms]
    return pandas.DataFrame({"promised": [f"{rate:.0%}" for rate in rates], "false alarms": seen})


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
    maps: Float[np.ndarray, "n H W"], masks: Bool[np.ndarray, "n H W"], steps: int = 100, limit: float = 0.3
) -> float:
    """AUPRO as it is often computed, too low: evenly spaced thresholds, up to the last one before the limit."""
    weights, regions = weigh_regions(masks)
    order = np.argsort(maps[masks])
    normal, defect = np.sort(maps[~masks]), maps[masks][order]
    missed = np.append(0, np.cumsum(weights[masks][order])) / regions.sum()  # by number of defect pixels below
    thresholds = np.linspace(maps.max(), maps.min(), steps)
    fpr = 1 - np.searchsorted(normal, thresholds) / len(normal)
    pro = 1 - missed[np.searchsorted(defect, thresholds)]
    return float(auc(fpr[fpr < limit], pro[fpr < limit]) / limit)


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


def draw_scores(rows: Mapping[str, Float[np.ndarray, "_"]], thresholds: Mapping[str, float]) -> Figure:
    """A row of dots for the image scores of each group (higher is more anomalous), and thresholds as lines."""
    figure, (panel,) = open_charts(8.6, 0.55 * len(rows) + 1.2, "image score: maximum distance (raw)", size=9)
    for place, (name, scores) in enumerate(rows.items()):
        colour = RING if "defect" in name else GREEN if "good" in name else BLUE
        panel.scatter(scores, np.full(len(scores), -place), s=36, color=colour, alpha=0.45, linewidths=0)
    for (name, threshold), style in zip(thresholds.items(), ("solid", "dashed")):
        panel.axvline(threshold, color="#222222", linewidth=1.5, linestyle=style)
        panel.annotate(name, (threshold, 1.02), xycoords=("data", "axes fraction"), ha="center", fontsize=9)
    panel.set_yticks(-np.arange(len(rows)), [f"{name} ({len(scores)})" for name, scores in rows.items()])
    panel.set_ylim(0.6 - len(rows), 0.6)
    panel.spines["left"].set_visible(False)
    return figure


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


def draw_small_curve(table: pandas.DataFrame, limit: float = 0.3) -> Figure:
    """The PRO curve from a table of `overlap_by_hand`, with its thresholds and the area up to the limit."""
    figure, (panel,) = open_charts(6.4, 3.6, "false-positive rate", "overlap per region (mean)", size=9)
    x, y = np.append(0, table["fpr"]), np.append(0, table["PRO"])
    inside = np.linspace(0, limit, 301)
    panel.plot(x, y, "o-", color=BLUE, linewidth=2)
    panel.fill_between(inside, np.interp(inside, x, y), color=BLUE, alpha=0.2, linewidth=0)
    panel.axvline(limit, color="#222222", linestyle="dashed", linewidth=1)
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


def check(overlap: Callable[[np.ndarray, np.ndarray, float], float]) -> None:
    """Check PRO at a threshold, from a map (H, W) and its regions (H, W), numbered from 1, with 0 for normal pixels."""
    rng = np.random.default_rng(0)
    regions = np.zeros((8, 12), int)
    regions[1:4, 1:7], regions[6, 8:10], regions[1, 10] = 1, 2, 3
    anomaly_map = rng.integers(0, 6, regions.shape) + 4 * (regions == 1) + 2.0 * (regions == 2)
    threshold = 6.0
    anomaly_map[6, 8:10], anomaly_map[1, 10] = (6, 5), 5  # one pixel of the second region is exactly at the threshold
    tell(
        lambda: overlap(anomaly_map.copy(), regions.copy(), threshold),
        lambda answer: _find_mistake(float(answer), anomaly_map, regions, threshold),
        "Take it at every threshold: AUPRO is the area below that curve up to a false-positive rate of 0.3.",
    )


def _find_mistake(answer: float, anomaly_map: np.ndarray, regions: np.ndarray, threshold: float) -> str | None:
    found = anomaly_map >= threshold
    numbers = range(1, regions.max() + 1)
    parts = np.array([found[regions == number].mean() for number in numbers])
    right = parts.mean()
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
        "That counts a region as found as soon as one of its pixels is: take the fraction of its pixels.": (
            (parts > 0).mean()
        ),
        "That is the precision, the defective fraction of the marked pixels: divide by the sizes of the regions.": (
            (regions > 0)[found].mean()
        ),
    }
    fractions = ", ".join(f"{part:.2f}" for part in parts)
    otherwise = f"The fractions found are {fractions}, so PRO must be {right:.3f}; got {answer:.3f}."
    return explain(answer, right, mistakes, otherwise)


# ---- shape, and what is normal where ---------------------------------------------------------------------------------


def stack(photos: Sequence[Sample], height: int = 3) -> list[UInt8[np.ndarray, "H W 3"]]:
    """Tall images, each of ``height`` parts on top of each other."""
    return [np.concatenate([photo.image for photo in photos[at : at + height]]) for at in range(0, len(photos), height)]


def crack(photo: UInt8[np.ndarray, "H W 3"], seed: int) -> UInt8[np.ndarray, "H W 3"]:
    """The image with a fine dark crack somewhere, 2 px wide, across the image."""
    rng = np.random.default_rng(seed)
    steps = np.cumsum(np.c_[rng.normal(0, 4, 9), np.full(9, 12)], 0)
    start = rng.uniform((60, 20), (photo.shape[0] - 60, photo.shape[1] - 130))
    points = tuple((row, col) for row, col in (start + steps).tolist())
    return paint(photo, [Stroke("brush", points, size=2, strength=0.7, colour=(40, 40, 40))])


def compare_shapes(
    normals: Sequence[UInt8[np.ndarray, "H W 3"]],
    good: Sequence[UInt8[np.ndarray, "H W 3"]],
    backbones: Mapping[str, Backbone],
) -> tuple[pandas.DataFrame, list[Result]]:
    """AUPRO for cracks under several croppings, one row each, and the result of the first crack under each."""
    cracked = [crack(photo, at) for at, photo in enumerate(good)]
    masks = [changed(photo, other) for photo, other in zip(good, cracked)]
    rows, first = [], []
    for name, backbone in backbones.items():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* were squashed")  # that is the point
            spade = SPADE(backbone).fit(normals)
        results = [spade.judge(photo) for photo in [*good, *cracked]]
        truth = [results[0].crop.cut_mask(mask) for mask in [np.zeros_like(mask) for mask in masks] + masks]
        rows.append((name, aupro(np.stack([one.anomaly_map for one in results]), np.stack(truth))))
        first.append(results[len(good)])
    return pandas.DataFrame(rows, columns=["images are", "AUPRO"]).set_index("images are"), first


def draw_excess(results: Sequence[Result]) -> Figure:
    """Rows of images: the image, its map, what normal images reach at each place, and the excess, on one raw scale."""
    level = results[0].normal_level
    assert level is not None  # there is more than one normal image
    figure, panels = make_panels(None, 4 * len(results), 4, bars=1, shape=results[0].crop.size)
    for at, result in enumerate(results):
        photo, *maps = panels[4 * at : 4 * at + 4]
        show_picture(photo, result.image, result.label or "image")
        assert result.place_level is not None
        shown = {"map": result.anomaly_map, "normal here": result.place_level, "excess": result.excess_map}
        for panel, (name, values) in zip(maps, shown.items()):
            image = show_map(panel, values, SCALE * level, name)
        add_scale(maps[-1], image, SCALE * level, level)
        if result.mask is not None:
            draw_contour(photo, result.mask, "white", "dashed")
    return figure
