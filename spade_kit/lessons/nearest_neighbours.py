"""Lesson 01: normal means near, but near in which space?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from scipy.spatial.distance import cdist

from spade_kit.datasets.samples import GOOD, Photo, Sample, as_array
from spade_kit.evaluation.metrics import roc_auc
from spade_kit.features.backbones import EMBEDDED, Backbone, load_backbone
from spade_kit.features.pyramid import extract_features
from spade_kit.figures.style import BLUE, COLOURS, GREY, RING, WIDTH, make_panels, open_up, show_picture
from spade_kit.lessons.checking import check_answer, explain, tell
from spade_kit.lessons.material import add_bar, open_charts
from spade_kit.spade import SPADE

_VIEW = ((14, 56), (3, 25))  # range of lengths (mm) and weights (g) in a landscape
_END = 12.0  # the distance at which its colours end
_LABELLED_RIGHT = ("too long", "mean of all")  # the other labels stand left of their markers


def make_bolts(seed: int = 0) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "m 2"], dict[str, np.ndarray]]:
    """Length (mm) and weight (g) of 60 normal bolts of two sizes, 4 of a rare size, and four to judge."""
    rng = np.random.default_rng(seed)

    def turn(length: float, count: int) -> Float[np.ndarray, "n 2"]:
        lengths = rng.normal(length, 0.5, count)
        return np.column_stack([lengths, 0.4 * lengths + rng.normal(0, 0.25, count)])  # 0.4 g per mm

    normals, rare = np.concatenate([turn(20, 30), turn(40, 30)]), turn(50, 4)
    judged = {"ordinary": (40.4, 16.1), "too long": (43.0, 17.2), "hollow": (40.0, 9.0), "mean of all": normals.mean(0)}
    return normals, rare, {name: np.array(bolt) for name, bolt in judged.items()}


def mean_distance(
    queries: Float[np.ndarray, "q d"], normals: Float[np.ndarray, "n d"], k: int = 1
) -> Float[np.ndarray, "q"]:
    """The score of the lesson: the mean Euclidean distance of each query to its k nearest normal points."""
    return np.sort(cdist(queries, normals), axis=1)[:, :k].mean(1)


def draw_landscape(
    panels: Mapping[str, tuple[Float[np.ndarray, "n 2"], int]], judged: Mapping[str, Float[np.ndarray, "2"]]
) -> Figure:
    """Draw the distance to the k nearest normal bolts for every length and weight, one panel per (normals, k)."""
    figure, axes = make_panels(None, len(panels), bars=1, side=6.2 if len(panels) == 1 else 3.2)
    figure.set_figheight(3.9 if len(panels) == 1 else 2.3)
    (left, right), (low, high) = _VIEW
    lengths, weights = np.meshgrid(np.linspace(left, right, 211), np.linspace(low, high, 111))
    box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none"}
    for panel, (title, (normals, k)) in zip(axes, panels.items()):
        distance = mean_distance(np.column_stack([lengths.ravel(), weights.ravel()]), normals, k).reshape(lengths.shape)
        image = panel.imshow(distance, COLOURS, vmin=0, vmax=_END, origin="lower", extent=(left, right, low, high))
        panel.plot(*normals.T, "o", color="white", markersize=4, markeredgecolor="#222222", markeredgewidth=0.5)
        for name, (x, y) in judged.items():
            panel.plot(x, y, "X", color=RING, markersize=10, markeredgecolor="white")
            label = f"{name}: {mean_distance(np.array([[x, y]]), normals, k)[0]:.1f}"
            beside, align = (9, "left") if name in _LABELLED_RIGHT else (-9, "right")
            panel.annotate(
                label, (x, y), (beside, 0), textcoords="offset points", ha=align, va="center", fontsize=8, bbox=box
            )
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("length (mm)", fontsize=8)
        panel.set_yticks(range(5, high + 1, 5))
        panel.tick_params(labelsize=8)
    axes[0].set_ylabel("weight (g)", fontsize=8)
    add_bar(axes, image, "distance (raw)", pad=0.02, extend="max", shrink=0.8)
    return figure


def contrast(points: Float[np.ndarray, "n d"]) -> float:
    """Ratio of the distances to the farthest and to the nearest other point, for the median point."""
    distance = np.sort(cdist(points, points), axis=1)
    return float(np.median(distance[:, -1] / distance[:, 1]))


def shuffle(points: Float[np.ndarray, "n d"], seed: int = 0) -> Float[np.ndarray, "n d"]:
    """Shuffle each column independently: the same numbers, but no longer correlated."""
    return np.random.default_rng(seed).permuted(points, axis=0)


def draw_contrast(random: Mapping[int, float], measured: Mapping[str, tuple[int, float, float]]) -> Figure:
    """Contrast against dimension: random points as a line, measured data as dots, joined to their shuffled versions."""
    figure, (panel,) = open_charts(7.2, 3.6, "dimensions (numbers per point)", "farthest / nearest distance")
    panel.loglog(list(random), list(random.values()), "o-", color=GREY, markersize=4, label="random points")
    for at, (name, (d, own, shuffled)) in enumerate(measured.items()):
        panel.plot([d, d], [own, shuffled], color=RING, linewidth=1)
        panel.plot(d, own, "o", color=RING, markersize=8, label="images" if at == 0 else None)
        panel.plot(d, shuffled, "s", color=BLUE, markersize=7, label="images, shuffled" if at == 0 else None)
        told = f"{name}: {own:.1f}, shuffled {shuffled:.1f}"
        panel.annotate(told, (d, own), xytext=(0, 8), textcoords="offset points", ha="center", fontsize=8)
    for axis, ticks in ((panel.xaxis, (1, 10, 100, 1_000, 10_000, 100_000)), (panel.yaxis, (1, 2, 5, 10, 20, 50, 100))):
        axis.set_ticks(ticks, [f"{tick:,}" for tick in ticks])
    panel.minorticks_off()
    panel.set(xlim=(0.8, 3e6), ylim=(0.88, 150))
    panel.legend(fontsize=8, frameon=False)
    return figure


def shift(photo: UInt8[np.ndarray, "H W 3"], columns: int) -> UInt8[np.ndarray, "H W 3"]:
    """Shift an image to the right; the columns that leave it re-enter on the left, outside the crop."""
    return np.roll(photo, columns, axis=1)


def as_pixels(photos: Iterable[Photo], backbone: str | Backbone = EMBEDDED) -> Float[np.ndarray, "n d"]:
    """The evaluated crop of each image as one long vector of pixel values, 0 to 255."""
    network = load_backbone(backbone)
    arrays = [as_array(photo) for photo in photos]
    shapes = [(array.shape[0], array.shape[1]) for array in arrays]
    crops = map(network.cropping.fit(shapes).find, shapes)
    return np.stack([crop.cut(array).ravel() for crop, array in zip(crops, arrays)]).astype(np.float32)


def as_pooled(photos: Iterable[Photo]) -> Float[np.ndarray, "n d"]:
    """The pooled vector of each image."""
    return extract_features(photos).pooled.numpy()


def separate(
    normals: Sequence[Sample], test: Sequence[Sample], describe: Callable[[Sequence[Sample]], np.ndarray]
) -> float:
    """ROC-AUC of the distance to the nearest normal image, where ``describe`` turns images into vectors (n, d)."""
    anomalous = np.array([sample.label != GOOD for sample in test])
    return roc_auc(mean_distance(describe(test), describe(normals)), anomalous)


def describe_thrice(
    spade: SPADE, normals: Iterable[Photo], photos: Mapping[str, UInt8[np.ndarray, "H W 3"]]
) -> pandas.DataFrame:
    """Distance of each image to the nearest normal one: in pixels, in pooled vectors, and patch by patch."""
    results = [spade.predict(photo) for photo in photos.values()]
    columns = {
        "pixels": mean_distance(as_pixels(photos.values(), spade.backbone), as_pixels(normals, spade.backbone)),
        "pooled vector": [float(result.neighbours.distance[0]) for result in results],
        "patches": [result.image_score for result in results],
    }
    return pandas.DataFrame(columns, index=list(photos))


def draw_thrice(photos: Mapping[str, UInt8[np.ndarray, "H W 3"]], table: pandas.DataFrame) -> Figure:
    """The images, and below them their distances from normal, one panel per description; a line marks the first."""
    figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(3, 2.4), squeeze=False)[:, 0]
    for panel, (name, photo) in zip(above.subplots(1, len(photos)), photos.items()):
        show_picture(panel, photo, name)
    for at, (panel, column) in enumerate(zip(below.subplots(1, len(table.columns)), table)):
        values = table[column].to_numpy()
        panel.barh(list(table.index), values, color=[GREY, BLUE, *[RING] * (len(values) - 2)])
        panel.axvline(values[0], color="#222222", linewidth=1, linestyle="dashed")
        for row, value in enumerate(values):
            panel.text(value, row, f" {value / values[0] - 1:+.0%}" if row else "", va="center", fontsize=8)
        panel.invert_yaxis()
        panel.set_xlim(0, values.max() * 1.25)
        panel.set_title(f"{column}: distance (raw)", fontsize=9)
        panel.tick_params(labelleft=at == 0)
        open_up(panel)
    return figure


def check(score: Callable[[np.ndarray, np.ndarray, int], float]) -> None:
    """Check that ``score`` gives the mean Euclidean distance of a query (d,) to the k nearest of n points (n, d)."""
    rng = np.random.default_rng(0)
    query, normals, ks = rng.normal(size=4), rng.normal(size=(25, 4)), (3, 5)
    right = "For pooled vectors of images this is the paper's image score; for features of pixels, its anomaly map."

    def find_mistake(answers: Sequence[float]) -> str | None:
        told = (_find_mistake(answer, query, normals, k) for answer, k in zip(answers, ks))
        return next(filter(None, told), None)

    tell(lambda: [score(query, normals.copy(), k) for k in ks], find_mistake, right)


def _find_mistake(answer: float, query: np.ndarray, normals: np.ndarray, k: int) -> str | None:
    if np.ndim(answer):
        return f"A score must be one number; got an array of shape {np.shape(answer)}. Average the k distances."
    stored = np.array([sum((a - b) ** 2 for a, b in zip(query, normal)) for normal in normals])
    squared = np.sort(stored)
    distance = np.sqrt(squared)
    by_absolutes = np.sort(abs(normals - query).sum(1))
    over_points = np.sort(np.sqrt(((normals - query) ** 2).sum(0)))
    right = distance[:k].mean()
    mistakes = {
        "Those are the first k as they are stored: sort the distances first.": np.sqrt(stored[:k]).mean(),
        "Those are the k farthest: sort the distances and take the first k.": distance[-k:].mean(),
        f"That is the mean over all {len(normals)}: sort the distances and take only the first {k}.": distance.mean(),
        "Those are squared distances: take the square root before the mean.": squared[:k].mean(),
        "Take the square root of each squared distance first, and then their mean.": np.sqrt(squared[:k].mean()),
        f"That is the sum of the {k} distances: divide by k, or k changes the scale.": distance[:k].sum(),
        f"That is the distance to neighbour {k} alone: take the mean of the first {k}.": distance[k - 1],
        f"That is the distance to the nearest alone, but k is {k}.": distance[0],
        f"That is the mean of the nearest 3, but k is {k}.": distance[:3].mean(),
        "Those are sums of absolute differences: take the root of the sum of their squares.": by_absolutes[:k].mean(),
        "The nearest point is missing: the query is not among the normal points here.": distance[1 : k + 1].mean(),
        "Your answer sums over the points: sum over the dimensions, axis 1 of (n, d).": over_points[:k].mean(),
    }
    return explain(answer, right, mistakes, f"With k = {k} the score must be {right:.3f}; got {float(answer):.3f}.")


def check_k(ks: list[int]) -> None:
    """Check the values of k from 1 to 6 that two hollow bolts among the normal ones and a rare size allow."""
    told: dict[tuple[int, ...], str] = {
        (1, 2): "With k = 1 or 2 the next hollow bolt finds only the two mistakes, so it looks normal.",
        (1, 2, 3, 4): "With k = 1 or 2 a hollow bolt finds only the mistakes: it must be called anomalous, too.",
        (2, 3, 4): "With k = 2 both neighbours of a hollow bolt are the two mistakes, so it looks normal.",
        (3,): "k = 4 works as well: the fifth bolt of the rare size finds four of its own.",
        (3, 4, 5): "With k = 5 the fifth bolt of the rare size must look among the others, 10 mm away.",
        (3, 4, 5, 6): "Beyond k = 4 the fifth bolt of the rare size must look among the others, 10 mm away.",
    }
    otherwise = "Count the bolts of its own kind that each of the two finds: k lies above one count, up to the other."
    right = "k is larger than the number of mistakes, and no larger than the smallest normal group."
    tell(lambda: ks, lambda _: None if sorted(ks) == [3, 4] else told.get(tuple(sorted(ks)), otherwise), right)


def check_think(levels: float) -> None:
    """Check by how much all of 224 x 224 pixels must change to be as far away as 64 pixels changed by 100."""
    scratch = 100 * 64**0.5
    mistakes = {
        "That makes the sums of the changes equal. A Euclidean distance adds squares: large changes count more.": (
            100 * 64 / 224**2
        ),
        "That is the distance of the scratch: find the change of all 224 x 224 pixels with that distance.": scratch,
        "That is 100 times the fraction of one side: an image has 224 x 224 pixels.": 100 * (64 / 224) ** 0.5,
        "That is the square: take the root at the end.": (scratch / 224) ** 2,
        "Rounded to whole levels, yes. Give two more digits.": 4,
    }
    otherwise = f"The scratch is {scratch:.0f} away, the root of 64 x 100^2: find the levels with that distance."
    right = "Fewer than 4 of 255 levels: in pixels a slightly brighter lamp hides a scratch."
    check_answer(levels, scratch / 224, mistakes, otherwise, right, rtol=0.02)
