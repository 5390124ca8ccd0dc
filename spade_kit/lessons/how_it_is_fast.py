"""Lesson 11: the search written out, the pairs that it compares, and the loss of an approximate search."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf
from textwrap import dedent
from typing import Any

import numpy as np
import pandas
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from sklearn.cluster import MiniBatchKMeans
from torch.nn.functional import interpolate

from spade_kit.datasets.samples import Photo
from spade_kit.evaluation.metrics import aupro
from spade_kit.features.backbones import load_backbone
from spade_kit.features.pyramid import Pyramid, extract_features
from spade_kit.figures.style import (
    BLUE,
    GREY,
    RING,
    SCALE,
    WIDTH,
    add_scale,
    draw_contour,
    make_panels,
    show_map,
    show_picture,
)
from spade_kit.lessons.checking import check_answer, explain, tell
from spade_kit.lessons.material import add_bar, make_pyramids, open_charts, show_grid
from spade_kit.result import Result
from spade_kit.scores import make_map
from spade_kit.search.layout import nest, nested_order, slack

_SAME = 1e-4  # relative: distances that differ by less count as equal

# One channel per level: a fine 4 x 4 grid and a coarse 2 x 2 one. The query's pixel at (0, 0) is a 4 in a block 5.
_FINE = {"query": [[4, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]], "normal": [
    [8, 9, 4, 7], [0, 4, 1, 6], [7, 1, 4, 4], [6, 2, 4, 4]]}  # fmt: skip
_COARSE = {"query": [[5, 1], [1, 1]], "normal": [[7, 3], [6, 1]]}


def make_small_pyramids() -> tuple[Pyramid, Pyramid]:
    """A query and a normal image of 4 x 4 cells, small enough to search with a pencil."""
    return make_pyramids(_FINE, _COARSE)


def extract_at(crop: int, photo: Photo, normals: Sequence[Photo]) -> tuple[Pyramid, Pyramid]:
    """The features of an image and of normal images, all at crop x crop pixels."""
    backbone = load_backbone("efficientnet_lite0", resize=crop * 8 // 7, crop=crop)
    return extract_features([photo], backbone=backbone), extract_features(normals, backbone=backbone)


# ---- the search ------------------------------------------------------------------------------------------------------


def nest_levels(pyramid: Pyramid, weights: Sequence[float] | None = None) -> list[np.ndarray]:
    """The levels as lists of cells, (n * h * w, c) float64; cell ``i`` contains the finer cells ``4 i`` to ``4 i + 3``.

    Features are multiplied by the roots of the weights, so that squared distances are multiplied by the weights.
    """
    times = range(len(pyramid.levels) - 1, -1, -1)
    levels = [nest(level.double().numpy(), halvings) for level, halvings in zip(pyramid.levels, times)]
    factors = np.sqrt(np.ones(len(levels)) if weights is None else np.asarray(weights, float))
    return [factor * level.swapaxes(1, 2).reshape(-1, level.shape[1]) for factor, level in zip(factors, levels)]


def squares(query: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """(q, c), (n, c) -> (q, n): all squared distances, summed over the channels."""
    difference = query[:, None] - normals
    return np.einsum("qnc,qnc->qn", difference, difference)


def search_pairs(
    query: Pyramid, normals: Pyramid, weights: Sequence[float] | None = None, order: str = "best first"
) -> Search:
    """Distance of every query pixel to its nearest: bound all pairs of blocks, open a few, and a few cells in those.

    The pyramids, of one and of n images, have three levels. Blocks are visited ``"best first"``, ``"as stored"`` or
    ``"worst first"``.
    """
    (q1, q2, q3), (n1, n2, n3) = nest_levels(query, weights), nest_levels(normals, weights)
    nearest = np.full((len(q3), 4, 4), inf)  # squared; for each block, its 4 cells with 4 pixels each
    blocks, cells = np.zeros(len(q3), int), np.zeros(len(q3), int)  # opened
    for P, mine in enumerate(nearest):
        bounds = squares(q3[[P]], n3)[0]
        for R in _ORDERS[order](bounds):
            if bounds[R] > mine.max():  # no pixel of block R is nearer to any pixel of block P
                if order == "best first":
                    break  # and no pixel of a later block is
                continue
            blocks[P] += 1
            sums = bounds[R] + squares(q2[4 * P : 4 * P + 4], n2[4 * R : 4 * R + 4])
            for a, b in np.argwhere(sums <= mine.max(1, keepdims=True)):
                if sums[a, b] <= mine[a].max():  # may have changed since
                    cells[P] += 1
                    here, there = 16 * P + 4 * a, 16 * R + 4 * b
                    distances = sums[a, b] + squares(q1[here : here + 4], n1[there : there + 4])
                    mine[a] = np.minimum(mine[a], distances.min(1))
    return Search(query, len(normals), nearest.ravel(), blocks, cells)


def tell_code(function: Callable) -> None:
    """Print the body of a function, without its signature and docstring."""
    print(dedent(inspect.getsource(function).split('"""')[-1]).strip("\n"))


_ORDERS: dict[str, Callable[[np.ndarray], Sequence[int] | np.ndarray]] = {
    "best first": lambda bounds: np.argsort(bounds, kind="stable"),
    "as stored": lambda bounds: range(len(bounds)),
    "worst first": lambda bounds: np.argsort(-bounds, kind="stable"),
}


@dataclass(frozen=True, eq=False)
class Search:
    """The result of `search_pairs`, and the pairs that it compared."""

    query: Pyramid
    n: int  # normal images
    nearest: np.ndarray  # (h * w,) squared distances, in nested order
    blocks: np.ndarray  # number of pairs of blocks opened, for each query block
    cells: np.ndarray  # number of pairs of cells opened, for each query block

    @property
    def distance(self) -> np.ndarray:
        """(h, w) Euclidean."""
        return self._on_grid(np.sqrt(self.nearest), 0)

    @property
    def effort(self) -> np.ndarray:
        """For every query block the fraction of all normal blocks that was opened, on the coarse grid."""
        return self._on_grid(self.blocks, 2) / (self.n * len(self.blocks))

    @property
    def possible(self) -> np.ndarray:
        """(3,) pairs of pixels, cells and blocks."""
        return self.n * len(self.blocks) ** 2 * np.array([256, 16, 1])

    @property
    def measured(self) -> np.ndarray:
        """(3,) number of these that were measured: 16 for each pair of cells or blocks that was opened."""
        return np.array([16 * self.cells.sum(), 16 * self.blocks.sum(), self.possible[2]])

    @property
    def work(self) -> np.ndarray:
        """(3,) multiplications: one per channel of each measured pair."""
        return self.measured * [level.shape[1] for level in self.query.levels]

    @property
    def work_of_all(self) -> int:
        """Multiplications needed to measure every pair of pixels in all channels."""
        return int(self.possible[0] * sum(level.shape[1] for level in self.query.levels))

    def table(self) -> pandas.DataFrame:
        """One row per level, coarse to fine, in the order of the search."""
        columns = {
            "pairs": [f"{pairs:,}" for pairs in self.possible],
            "measured": [f"{_two_digits(percent)} %" for percent in 100 * self.measured / self.possible],
            "share of the work": [f"{part:.0%}" for part in self.work / self.work.sum()],
        }
        return pandas.DataFrame(columns, index=self.query.layers).iloc[::-1]

    def _on_grid(self, values: np.ndarray, level: int) -> np.ndarray:
        h, w = self.query.levels[level].shape[2:]
        return values[nested_order(h, w, 2 - level).argsort()].reshape(h, w)


def draw_effort(picture: np.ndarray, searches: Mapping[str, Search]) -> Figure:
    """An image, and beside it the fraction of normal blocks opened for each query block, on one logarithmic scale."""
    figure, (photo, *panels) = make_panels(None, len(searches) + 1, bars=1)
    show_picture(photo, picture, "image")
    scale = LogNorm(1e-3, 1)
    for panel, (name, search) in zip(panels, searches.items()):
        image = show_grid(panel, search.effort, name, norm=scale)
    bar = add_bar(panels[-1], image, "fraction of normal blocks opened")
    bar.set_ticks([1e-3, 1e-2, 1e-1, 1], labels=["0.1 %", "1 %", "10 %", "100 %"])
    return figure


def tell_growth(few: Search, many: Search) -> pandas.Series:
    """How many times as many pairs the second search compares, to two digits."""
    ratios = [many.possible[0] / few.possible[0], *(many.measured / few.measured)[::-1]]
    names = ["pairs of pixels", "pairs of blocks bounded", "pairs of blocks opened", "pairs of cells opened"]
    return pandas.Series(list(map(_two_digits, ratios)), names, name="times as many")


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):g}"


# ---- one pixel's search, step by step --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A normal cell visited by the search for one pixel."""

    level: int  # 0 is the finest
    place: tuple[int, int, int]  # (image, row, col) on the level's grid
    bound: float  # the squared distance, summed from the coarsest level down to this one
    nearest: float  # the smallest squared distance of a pixel so far
    above: int | None  # the step that opened the cell containing this one

    @property
    def opened(self) -> bool:
        return self.bound <= self.nearest

    @property
    def depth(self) -> float:
        """The bound as a distance."""
        return self.bound**0.5


def trace_pixel(query: Pyramid, normals: Pyramid, row: int, col: int) -> list[Step]:
    """All steps of the search for the pixel at (row, col), best first at every level."""
    asked, held = nest_levels(query), nest_levels(normals)
    grids = [tuple(level.shape[2:]) for level in query.levels]
    orders = [nested_order(h, w, len(held) - 1 - level) for level, (h, w) in enumerate(grids)]
    pixel = int(np.flatnonzero(orders[0] == row * query.grid[1] + col)[0])
    steps: list[Step] = []
    nearest = inf

    def visit(level: int, cells: np.ndarray, bound: float, above: int | None) -> None:
        nonlocal nearest
        bounds = bound + squares(asked[level][[pixel >> 2 * level]], held[level][cells])[0]
        for at in np.argsort(bounds, kind="stable"):
            image, cell = divmod(int(cells[at]), len(orders[level]))
            place = (image, *divmod(int(orders[level][cell]), grids[level][1]))
            steps.append(Step(level, place, float(bounds[at]), nearest, above))
            if level > 0 and steps[-1].opened:
                visit(level - 1, 4 * cells[at] + np.arange(4), float(bounds[at]), len(steps) - 1)
            elif level == 0:
                nearest = min(nearest, float(bounds[at]))

    visit(len(held) - 1, np.arange(len(held[-1])), 0.0, None)
    return steps


def find_winner(steps: Sequence[Step]) -> Step:
    """The nearest pixel; among equally near ones the first in (image, row, col) order."""
    return min((step for step in steps if step.level == 0), key=lambda step: (step.bound, step.place))


def tell_steps(steps: Sequence[Step]) -> None:
    """Print the search of one image, one line per step, with pixels indented below their block."""
    for step in steps:
        _, row, col = step.place
        if step.level:
            print(f"block ({row}, {col}): bound {step.bound:g}, {'opened' if step.opened else 'not opened'}")
        else:
            print(f"    pixel ({row}, {col}): {step.bound:g}")


def draw_steps(steps: Sequence[Step], beyond: int = 4) -> Figure:
    """The search for one pixel as a hanging tree: the depth of a node is a lower bound for everything below it.

    ``beyond`` of the blocks that are not opened are shown. The larger a dot, the coarser its level.
    """
    closed = [number for number, step in enumerate(steps) if step.above is None and not step.opened]
    shown = {number: step for number, step in enumerate(steps) if number not in closed[beyond:]}
    place = _lay_out(shown)
    winner, right = steps.index(find_winner(steps)), max(place.values())
    end = 2 * steps[winner].depth
    figure, (panel,) = open_charts(WIDTH, 4.4, y="lower bound of the distance (raw)", size=10)
    for number, step in shown.items():
        x, top = (place[number], 0.0) if step.above is None else (place[step.above], steps[step.above].depth)
        colour = BLUE if step.opened and step.level else GREY
        panel.plot([x, place[number]], [top, step.depth], color=colour, lw=1, zorder=1)
    for level, opened, name, size in (
        (2, True, "block, opened", 90),
        (2, False, "block, not opened", 90),
        (1, True, "cell, opened", 40),
        (1, False, "cell, not opened", 40),
        (0, None, "pixel, measured", 16),
    ):
        own = [number for number, step in shown.items() if step.level == level and opened in (None, step.opened)]
        dots = [(place[number], steps[number].depth) for number in own if steps[number].depth < 0.97 * end]
        across, down = np.reshape(dots, (-1, 2)).T
        panel.scatter(across, down, s=size, color=BLUE if opened else GREY, label=name, zorder=3)
    panel.plot(place[winner], steps[winner].depth, "D", color=RING, markersize=7.5, label="nearest pixel", zorder=4)
    pixels = [number for number, step in shown.items() if step.level == 0]
    nearest = np.minimum.accumulate([steps[number].depth for number in pixels])
    where = [*(place[number] for number in pixels), right]
    panel.step(where, [*nearest, nearest[-1]], "black", lw=1.4, where="post", label="nearest so far", zorder=2)
    rest = f"and {max(0, len(closed) - beyond):,}\nmore blocks,\nnone opened"
    panel.text(right + 1, steps[winner].depth, rest, va="center", fontsize=8)
    panel.set(xlim=(-1, right + len(shown) / 8), ylim=(end, 0), xticks=[])
    panel.spines["bottom"].set_visible(False)
    panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=7, fontsize=8, frameon=False, columnspacing=1.2)
    return figure


def _lay_out(steps: dict[int, Step]) -> dict[int, float]:
    """Horizontal position of each step: leaves side by side, each parent above the middle of its children."""
    below = {number: [inner for inner, step in steps.items() if step.above == number] for number in steps}
    leaves = [number for number in steps if not below[number]]
    place = {number: float(at) for at, number in enumerate(leaves)}
    for number in reversed(steps):
        if below[number]:
            place[number] = float(np.mean([place[inner] for inner in below[number]]))
    return place


# ---- exact in floating point -----------------------------------------------------------------------------------------


def expand_squares(query: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """(q, c), (n, c) -> (q, n) float32: the squared distance as |q|^2 + |n|^2 - 2 q.n, which is one matrix product."""
    query, normals = np.asarray(query, np.float32), np.asarray(normals, np.float32)
    return (query**2).sum(1)[:, None] + (normals**2).sum(1) - 2 * query @ normals.T


def shorten(bounds: np.ndarray, query: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Bounds (q, n) minus the largest error of `expand_squares`, so that none lies above the distance."""
    lengths = (query**2).sum(1)[:, None] + (normals**2).sum(1)
    return bounds - slack(query.shape[1]) * lengths


# ---- approximate -----------------------------------------------------------------------------------------------------


def join_levels(pyramid: Pyramid) -> np.ndarray:
    """(n * h * w, c) float32: one vector per pixel with the channels of all layers, in reading order."""
    wide = torch.cat([interpolate(level, pyramid.grid) for level in pyramid.levels], 1)  # coarse cells are repeated
    return wide.permute(0, 2, 3, 1).flatten(0, 2).contiguous().numpy()


def compare_all(query: np.ndarray, normals: np.ndarray, step: int = 8192) -> np.ndarray:
    """(q, c), (n, c) float32 -> (q,): the distance to the nearest, by matrix products over all pairs.

    The winners are measured again from differences.
    """
    most, winner = np.full(len(query), -inf), np.zeros(len(query), int)
    for start in range(0, len(normals), step):
        table = _likeness(query, normals[start : start + step])
        at = table.argmax(1)
        likeness = table[np.arange(len(query)), at]
        nearer = likeness > most
        most[nearer], winner[nearer] = likeness[nearer], start + at[nearer]
    return np.sqrt(((query.astype(float) - normals[winner]) ** 2).sum(1))


class ListIndex:
    """An approximate index (IVF): normal pixels in lists of similar ones; a query searches only a few of the lists.

    K-means finds the centres of the lists from every fourth of the ``pixels`` (n, c) float32.
    """

    def __init__(self, pixels: np.ndarray, lists: int = 64) -> None:
        clusters = MiniBatchKMeans(lists, random_state=0, n_init=1, batch_size=4096, max_iter=20).fit(pixels[::4])
        self.centres = clusters.cluster_centers_
        label = clusters.predict(pixels)
        self.lists = [pixels[label == number] for number in range(lists)]
        self.size = len(pixels)

    def search(self, query: np.ndarray, probes: int) -> tuple[np.ndarray, float]:
        """Distance (q,) to the nearest in the ``probes`` lists with the nearest centres; the fraction of pairs seen."""
        order = np.argsort(-_likeness(query, self.centres), axis=1, kind="stable")[:, :probes]
        nearest, seen = np.full(len(query), inf), 0
        for number, held in enumerate(self.lists):
            asking = np.flatnonzero((order == number).any(1))
            if len(asking) and len(held):
                winner = held[_likeness(query[asking], held).argmax(1)]
                nearest[asking] = np.minimum(nearest[asking], ((query[asking].astype(float) - winner) ** 2).sum(1))
                seen += len(asking) * len(held)
        return np.sqrt(nearest), seen / (len(query) * self.size)


def _likeness(query: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """(q, n): q.n - |n|^2 / 2, which is largest where the distance is smallest."""
    table = query @ normals.T
    table -= (normals**2).sum(1) / 2
    return table


@dataclass(frozen=True, eq=False)
class Loss:
    """Approximate search of an image: its map, the fraction of pairs seen, the fraction of nearest pixels found."""

    anomaly_map: np.ndarray
    seen: float
    found: float


def search_lists(index: ListIndex, result: Result, probes: int) -> Loss:
    """Judge an image again, with an approximate index in place of the exact search."""
    exact = result.correspondence.distance
    distance, seen = index.search(join_levels(result.query), probes)
    distance = distance.reshape(exact.shape).astype(np.float32)
    found = distance <= exact * (1 + _SAME)
    return Loss(make_map(distance, result.anomaly_map.shape, result.spade.options.sigma), seen, float(found.mean()))


def measure_loss(results: Sequence[Result], losses: dict[int, list[Loss]]) -> pandas.DataFrame:
    """One row per number of probes: pairs seen, nearest pixels found and AUPRO lost over several images."""
    exact = np.stack([one.anomaly_map for one in results])
    masks = np.stack([one.mask for one in results if one.mask is not None])
    rows = {}
    for probes, lost in losses.items():
        maps = np.stack([one.anomaly_map for one in lost])
        rows[probes] = {
            "pairs seen": f"{np.mean([one.seen for one in lost]):.0%}",
            "nearest found": f"{np.mean([one.found for one in lost]):.1%}",
            "AUPRO lost": f"{aupro(exact, masks) - aupro(maps, masks):.3f}",
            "largest error of a map": f"{(maps - exact).max():.0f}",
        }
    return pandas.DataFrame(rows).T.rename_axis("probes")


def draw_loss(result: Result, lost: Loss) -> Figure:
    """The exact and the approximate map, outlined where they reach the threshold, and the error of the second."""
    figure, (photo, exact, approximate, error) = make_panels(None, 4, bars=2)
    level = result.spade.threshold()
    show_picture(photo, result.image, "image")
    for panel, values, name in ((exact, result.anomaly_map, "exact"), (approximate, lost.anomaly_map, "approximate")):
        image = show_map(panel, values, SCALE * level, name)
        draw_contour(panel, values >= level, RING, "solid")
    add_scale(approximate, image, SCALE * level, level)
    difference = lost.anomaly_map - result.anomaly_map
    end = 4 * ceil(max(difference.max(), 1) / 4)
    add_scale(error, show_map(error, difference, end, "error: approximate - exact"), end)
    return figure


# ---- the exercises ---------------------------------------------------------------------------------------------------


def check_bound(bound: float) -> None:
    """Check the lower bound of the squared distance below cells that differ by (3, 3) and (2, 1, 2)."""
    mistakes = {
        "That is a bound, but you know more: add the squares of layer2.": 18,
        "Add the squares of layer3, too: the distance is a sum over the layers.": 9,
        "That bounds the distance. Its square needs no root.": 27**0.5,
        "Square each difference before you add.": 11,
        "That is an upper bound for the two layers together. Add squares, not distances.": (18**0.5 + 3) ** 2,
    }
    otherwise = f"9 + 9 in layer3, and what in layer2? Got {bound}."
    told = "18 from the blocks and 9 from the cells: layer1 can only add to it."
    check_answer(bound, 27, mistakes, otherwise, told, rtol=0.01)


def check_think(gain: float) -> None:
    """Check the most that a tree with a fourth grid, 7 x 7 cells with 320 channels, can gain."""
    pairs, channels = 64 * 64, 24 + 40 + 112 + 320
    mistakes = {
        "A cell of the new grid contains 8 x 8 pixels, so each pair of them bounds 64 x 64 pairs.": 256 * 496 / 320,
        "64 pixels of the query against 64 normal ones are more than 64 pairs.": 64 * 496 / 320,
        "All pairs have more channels now, too: 320 more.": pairs * 176 / 320,
        "Those are the pairs. Count multiplications: one per channel.": pairs,
        "The first bound is that of the new grid, with 320 channels.": pairs * channels / 112,
    }
    otherwise = f"Multiplications of all pairs, divided by those of one pair of new cells; got {gain}."
    told = "About 6,300: the coarser the first grid, the fewer the bounds. But they are weaker, too."
    check_answer(gain, pairs * channels / 320, mistakes, otherwise, told, rtol=0.01)


def check(must_open: Callable[[np.ndarray, np.ndarray, np.ndarray], bool]) -> None:
    """Check that a pair of blocks with features (c,) and (c,) is opened exactly if one of the pixels may gain from it.

    ``nearest`` (16,) holds the squared distances of the query block's pixels to their nearest so far.
    """
    pairs = _make_pairs()
    tell(
        lambda: [must_open(*(values.copy() for values in pair)) for pair in zip(*pairs)],
        lambda answers: _find_mistake(answers, *pairs),
        "This line is the whole difference between all pairs and one in thousands.",
    )


def _make_pairs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of blocks with whole numbers, so that a bound can equal the worst pixel's distance or exceed it by 1."""
    rng = np.random.default_rng(0)
    queries, normals, nearest = np.empty((300, 5)), np.empty((300, 5)), np.empty((300, 16))
    for case, near in enumerate(nearest):
        queries[case], normals[case] = rng.integers(0, 4, (2, 5))
        bound = ((queries[case] - normals[case]) ** 2).sum()
        low, high = np.sort(rng.uniform(0, rng.choice([0.3, 3]), 2) * bound).astype(int)
        near[:] = rng.integers(low, high + 1, 16)
        if case % 3 < 2 and bound > 0:
            near[:] = near.clip(max=bound - case % 3)
            near[case % 16] = bound - case % 3
    return queries, normals, nearest


def _find_mistake(answers: Sequence[Any], q: np.ndarray, g: np.ndarray, nearest: np.ndarray) -> str | None:
    for answer in answers:
        if np.size(answer) != 1:
            return f"The answer must be one True or False per pair of blocks; got an array of shape {np.shape(answer)}."
    opened, squared, worst = np.array(list(map(bool, answers))), (q - g) ** 2, nearest.max(1)
    bounds = squared.sum(1)
    right = bounds <= worst
    if (opened == (bounds > worst)).all() or (opened == (bounds >= worst)).all():
        return "It is the other way round: those are the pairs that can be skipped."
    mistakes = {
        "Every pair is opened: the answer is exact, but nothing is saved.": True,
        "No pair is opened: nothing will be found.": False,
        "A bound equal to the distance of the worst pixel is skipped, but an equally near pixel may lie there, at a "
        "place that comes first and has to win: use <=.": bounds < worst,
        "That is the mean over the channels: also a bound, but so low that it excludes hardly anything. A squared "
        "distance is the sum.": squared.mean(1) <= worst,
        "Your bound is a distance, but nearest holds squared ones: drop the root.": bounds**0.5 <= worst,
        "Those are absolute differences: a squared distance adds up squared ones.": abs(q - g).sum(1) <= worst,
        "That compares with the best pixel, nearest.min(). Any of the sixteen may gain, so compare with the worst.": (
            bounds <= nearest.min(1)
        ),
        "That compares with the mean of the pixels. Pixels above the mean may still gain: compare with the worst.": (
            bounds <= nearest.mean(1)
        ),
        "(|q| + |g|)² is an upper bound: no pair of pixels is farther apart in this layer. To skip a pair, you need "
        "to know that none is nearer: a lower bound.": (
            (np.linalg.norm(q, axis=1) + np.linalg.norm(g, axis=1)) ** 2 <= worst
        ),
    }
    at = (opened != right).argmax()  # the first wrong one
    otherwise = (
        f"With a bound of {bounds[at]:g} and nearest squared distances between {nearest[at].min():g} and "
        f"{worst[at]:g}, the answer must be {right[at]}; got {opened[at]}."
    )
    return explain(opened, right, mistakes, otherwise)
