"""Lesson 09: the search written out, what it looks at, and what an approximate one loses."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf
from textwrap import dedent
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from sklearn.cluster import MiniBatchKMeans

from spade_kit.datasets.samples import Photo
from spade_kit.evaluation.metrics import aupro
from spade_kit.features.backbones import load_backbone
from spade_kit.features.pyramid import Pyramid, extract_features
from spade_kit.figures.style import (
    BLUE,
    COLOURS,
    GREY,
    RING,
    SCALE,
    WIDTH,
    add_scale,
    draw_contour,
    make_panels,
    name_panel,
    show_map,
    show_picture,
)
from spade_kit.lessons.checking import tell
from spade_kit.lessons.material import make_pyramids
from spade_kit.result import Result
from spade_kit.scores import make_map
from spade_kit.search.layout import nest, nested_order, slack

_SAME = 1e-4  # relative: distances that differ by less are the same

# One channel a level: a fine 4 x 4 grid and a coarse 2 x 2 one. The query's pixel at (0, 0) is a 4 in a 5.
_FINE = {"query": [[4, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]], "normal": [
    [8, 9, 4, 7], [0, 4, 1, 6], [7, 1, 4, 4], [6, 2, 4, 4]]}  # fmt: skip
_COARSE = {"query": [[5, 1], [1, 1]], "normal": [[7, 3], [6, 1]]}


def make_small_pyramids() -> tuple[Pyramid, Pyramid]:
    """A query and a normal image of 4 x 4 cells, to be searched with a pencil."""
    return make_pyramids(_FINE, _COARSE)


def extract_at(crop: int, photo: Photo, normals: Sequence[Photo]) -> tuple[Pyramid, Pyramid]:
    """The features of a photograph and of normal ones, all evaluated at crop x crop pixels."""
    backbone = load_backbone("efficientnet_lite0", resize=crop * 8 // 7, crop=crop)
    return extract_features([photo], backbone=backbone), extract_features(normals, backbone=backbone)


# ---- the search ------------------------------------------------------------------------------------------------------


def nest_levels(pyramid: Pyramid, weights: Sequence[float] | None = None) -> list[np.ndarray]:
    """The levels as lists of cells, (n * h * w, c) float64, in which cell ``i`` holds cells ``4 i`` to ``4 i + 3``.

    With weights features are multiplied by their roots, so that squared distances are multiplied by the weights.
    """
    top = len(pyramid.levels) - 1
    levels = [nest(level.double().numpy(), top - number) for number, level in enumerate(pyramid.levels)]
    factors = np.sqrt(np.ones(len(levels)) if weights is None else np.asarray(weights, float))
    return [factor * level.swapaxes(1, 2).reshape(-1, level.shape[1]) for factor, level in zip(factors, levels)]


def squares(query: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """(q, c), (n, c) -> (q, n): the squared distance of each to each, summed over the channels."""
    difference = query[:, None] - normals
    return np.einsum("qnc,qnc->qn", difference, difference)


def search_pairs(
    query: Pyramid, normals: Pyramid, weights: Sequence[float] | None = None, order: str = "best first"
) -> Search:
    """Every query pixel's distance to its nearest: bound all pairs of blocks, open few, and few cells in those.

    Parameters
    ----------
    query, normals
        Pyramids of one and of n images, with three levels.
    order
        In which blocks are visited: ``"best first"``, ``"as stored"`` or ``"worst first"``.
    """
    (q1, q2, q3), (n1, n2, n3) = nest_levels(query, weights), nest_levels(normals, weights)
    nearest = np.full((len(q3), 4, 4), inf)  # squared, of each block's four cells' four pixels
    blocks, cells = np.zeros(len(q3), int), np.zeros(len(q3), int)  # opened
    for P, mine in enumerate(nearest):
        bounds = squares(q3[[P]], n3)[0]
        for R in _ORDERS[order](bounds):
            if bounds[R] > mine.max():  # no pixel of block R can be nearer to any of block P
                if order == "best first":
                    break  # nor any of a block that comes later
                continue
            blocks[P] += 1
            sums = bounds[R] + squares(q2[4 * P : 4 * P + 4], n2[4 * R : 4 * R + 4])
            for a, b in np.argwhere(sums <= mine.max(1, keepdims=True)):
                if sums[a, b] <= mine[a].max():  # still
                    cells[P] += 1
                    here, there = 16 * P + 4 * a, 16 * R + 4 * b
                    distances = sums[a, b] + squares(q1[here : here + 4], n1[there : there + 4])
                    mine[a] = np.minimum(mine[a], distances.min(1))
    return Search(query, len(normals), nearest.ravel(), blocks, cells)


def tell_code(function: Callable) -> None:
    """Print what a function does, without its head and docstring."""
    print(dedent(inspect.getsource(function).split('"""')[-1]).strip("\n"))


_ORDERS: dict[str, Callable[[np.ndarray], Sequence[int] | np.ndarray]] = {
    "best first": lambda bounds: np.argsort(bounds, kind="stable"),
    "as stored": lambda bounds: range(len(bounds)),
    "worst first": lambda bounds: np.argsort(-bounds, kind="stable"),
}


@dataclass(frozen=True, eq=False)
class Search:
    """What `search_pairs` found, and what it looked at.

    Attributes
    ----------
    nearest
        (h * w,) squared distances, in nested order.
    blocks, cells
        How many pairs of blocks and of cells were opened, for each query block.
    """

    query: Pyramid
    n: int
    nearest: np.ndarray
    blocks: np.ndarray
    cells: np.ndarray

    @property
    def distance(self) -> np.ndarray:
        """(h, w) Euclidean."""
        return self._on_grid(np.sqrt(self.nearest), 0)

    @property
    def effort(self) -> np.ndarray:
        """For every query block the part of all normal blocks that was opened, on the coarse grid."""
        return self._on_grid(self.blocks, 2) / (self.n * len(self.blocks))

    @property
    def possible(self) -> np.ndarray:
        """(3,) pairs of pixels, cells and blocks."""
        return self.n * len(self.blocks) ** 2 * np.array([256, 16, 1])

    @property
    def measured(self) -> np.ndarray:
        """(3,) of these, how many were measured: 16 for each pair of cells or blocks that was opened."""
        return np.array([16 * self.cells.sum(), 16 * self.blocks.sum(), self.possible[2]])

    @property
    def work(self) -> np.ndarray:
        """(3,) multiplications: one a channel of each measured pair."""
        return self.measured * [level.shape[1] for level in self.query.levels]

    @property
    def work_of_all(self) -> int:
        """Multiplications if every pair of pixels were measured, in all channels."""
        return int(self.possible[0] * sum(level.shape[1] for level in self.query.levels))

    def table(self) -> pandas.DataFrame:
        """A row a level, coarse to fine, as it is searched."""
        percent = 100 * self.measured / self.possible
        columns = {
            "pairs": [f"{pairs:,}" for pairs in self.possible],
            "measured": [f"{float(f'{part:.2g}'):g} %" for part in percent],
            "share of the work": [f"{part:.0%}" for part in self.work / self.work.sum()],
        }
        return pandas.DataFrame(columns, index=self.query.layers).iloc[::-1]

    def _on_grid(self, values: np.ndarray, level: int) -> np.ndarray:
        h, w = self.query.levels[level].shape[2:]
        grid = np.empty(h * w, values.dtype)
        grid[nested_order(h, w, len(self.query.levels) - 1 - level)] = values
        return grid.reshape(h, w)


def draw_effort(picture: np.ndarray, searches: Mapping[str, Search]) -> Figure:
    """Beside a photograph, for every block what part of all normal blocks was opened, on one logarithmic scale."""
    figure, (photo, *panels) = make_panels(None, len(searches) + 1, bars=1)
    show_picture(photo, picture, "photo")
    scale = LogNorm(1e-3, 1)
    for panel, (name, search) in zip(panels, searches.items()):
        image = panel.imshow(search.effort, COLOURS, norm=scale)
        name_panel(panel, name)
    bar = figure.colorbar(image, ax=panels[-1], fraction=0.046, pad=0.03)
    bar.set_ticks([1e-3, 1e-2, 1e-1, 1], labels=["0.1 %", "1 %", "10 %", "100 %"])
    bar.ax.tick_params(labelsize=8)
    bar.set_label("normal blocks opened", fontsize=8)
    return figure


def tell_growth(few: Search, many: Search) -> pandas.Series:
    """How many times as much the second search looks at, to two digits."""
    ratios = {
        "pairs of pixels": many.possible[0] / few.possible[0],
        "pairs of blocks bounded": many.measured[2] / few.measured[2],
        "pairs of blocks opened": many.measured[1] / few.measured[1],
        "pairs of cells opened": many.measured[0] / few.measured[0],
    }
    return pandas.Series({name: f"{float(f'{ratio:.2g}'):g}" for name, ratio in ratios.items()}, name="times as many")


def draw_growth(by_images: Sequence[Search], by_size: Sequence[Search]) -> Figure:
    """Pairs that there are and that are measured, against the number of photographs and against their size."""
    figure, panels = _make_charts(2, 3.6)
    panels[0].set_xlabel("normal photographs (K)")
    panels[1].set_xlabel("cells of the finest grid (h x w)")
    panels[0].set_ylabel("pairs")
    lines = [("all pairs of pixels", "black", "s-"), ("blocks bounded", GREY, "o-"), ("cells bounded", BLUE, "o-"),
             ("pixels measured", RING, "o-")]  # fmt: skip
    for panel, searches in zip(panels, (by_images, by_size)):
        x = [search.n if searches is by_images else len(search.nearest) for search in searches]
        rows = [[search.possible[0], *search.measured[::-1]] for search in searches]
        for (name, colour, style), row in zip(lines, np.array(rows).T):
            panel.loglog(x, row, style, color=colour, markersize=5, label=name)
        panel.set_xticks(x, labels=[f"{value:,}" for value in x])
        panel.minorticks_off()
        panel.grid(axis="y", alpha=0.3)
    panels[1].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)
    return figure


# ---- one pixel's search, step by step --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A normal cell that the search for one pixel came upon.

    Attributes
    ----------
    level
        0 is the finest.
    place
        (image, row, col) on the level's grid.
    bound
        The squared distance, summed from the coarsest level down to this one.
    nearest
        The smallest squared distance of a pixel so far.
    above
        Which step opened the cell that holds this one.
    """

    level: int
    place: tuple[int, int, int]
    bound: float
    nearest: float
    above: int | None

    @property
    def opened(self) -> bool:
        return self.bound <= self.nearest

    @property
    def depth(self) -> float:
        """The bound as a distance."""
        return self.bound**0.5


def trace_pixel(query: Pyramid, normals: Pyramid, row: int, col: int) -> list[Step]:
    """All that the search for the pixel at (row, col) comes upon, best first at every level."""
    asked, held = nest_levels(query), nest_levels(normals)
    grids = [(level.shape[2], level.shape[3]) for level in query.levels]
    orders = [nested_order(h, w, len(held) - 1 - level) for level, (h, w) in enumerate(grids)]
    pixel = int(np.flatnonzero(orders[0] == row * query.grid[1] + col)[0])
    steps: list[Step] = []
    nearest = inf

    def visit(level: int, cells: np.ndarray, bound: float, above: int | None) -> None:
        nonlocal nearest
        bounds = bound + squares(asked[level][[pixel >> 2 * level]], held[level][cells])[0]
        for at in np.argsort(bounds, kind="stable"):
            image, cell = divmod(int(cells[at]), len(orders[level]))
            there_row, there_col = divmod(int(orders[level][cell]), grids[level][1])
            steps.append(Step(level, (image, there_row, there_col), float(bounds[at]), nearest, above))
            if level > 0 and steps[-1].opened:
                visit(level - 1, 4 * cells[at] + np.arange(4), float(bounds[at]), len(steps) - 1)
            elif level == 0:
                nearest = min(nearest, float(bounds[at]))

    visit(len(held) - 1, np.arange(len(held[-1])), 0.0, None)
    return steps


def find_winner(steps: Sequence[Step]) -> Step:
    """The nearest pixel; of equally near ones the first in (image, row, col)."""
    return min((step for step in steps if step.level == 0), key=lambda step: (step.bound, step.place))


def tell_steps(steps: Sequence[Step]) -> None:
    """Print a search of one image, a line a step, pixels indented under their block."""
    for step in steps:
        _, row, col = step.place
        if step.level:
            print(f"block ({row}, {col}): bound {step.bound:g}, {'opened' if step.opened else 'not opened'}")
        else:
            print(f"    pixel ({row}, {col}): {step.bound:g}")


def draw_steps(steps: Sequence[Step], beyond: int = 4) -> Figure:
    """The search for one pixel as a tree that hangs down: the deeper a node, the farther all that is below it.

    Parameters
    ----------
    beyond
        How many of the blocks that are not opened to show.
    """
    closed = [number for number, step in enumerate(steps) if step.above is None and not step.opened]
    shown = [number for number, step in enumerate(steps) if number not in closed[beyond:]]
    place = _lay_out(steps, shown)
    winner, right = steps.index(find_winner(steps)), max(place.values())
    end = 2 * steps[winner].depth
    figure, (panel,) = _make_charts(1, 4.4)
    for number in shown:
        step = steps[number]
        x, top = (place[number], 0.0) if step.above is None else (place[step.above], steps[step.above].depth)
        panel.plot([x, place[number]], [top, step.depth], color=_colour(step), lw=1, zorder=1)
    _draw_dots(panel, {place[number]: steps[number] for number in shown if steps[number].depth < 0.97 * end})
    panel.plot(place[winner], steps[winner].depth, "D", color=RING, markersize=7.5, label="nearest pixel", zorder=4)
    pixels = [number for number in shown if steps[number].level == 0]
    nearest = np.minimum.accumulate([steps[number].depth for number in pixels])
    where = [*(place[number] for number in pixels), right]
    panel.step(where, [*nearest, nearest[-1]], "black", lw=1.4, where="post", label="nearest so far", zorder=2)
    rest = f"and {max(0, len(closed) - beyond):,}\nmore blocks,\nnone opened"
    panel.text(right + 1, steps[winner].depth, rest, va="center", fontsize=8)
    panel.set(xlim=(-1, right + len(shown) / 8), ylim=(end, 0), xticks=[], ylabel="distance at least")
    panel.spines["bottom"].set_visible(False)
    panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=7, fontsize=8, frameon=False, columnspacing=1.2)
    return figure


def _draw_dots(panel: Axes, steps: Mapping[float, Step]) -> None:
    """The larger a dot, the coarser its level."""
    for level, opened, name, size in (
        (2, True, "block, opened", 90),
        (2, False, "block, not opened", 90),
        (1, True, "cell, opened", 40),
        (1, False, "cell, not opened", 40),
        (0, None, "pixel, measured", 16),
    ):
        own = {x: step for x, step in steps.items() if step.level == level and opened in (None, step.opened)}
        colour = BLUE if opened else GREY
        panel.scatter(list(own), [step.depth for step in own.values()], s=size, color=colour, label=name, zorder=3)


def _colour(step: Step) -> str:
    return BLUE if step.opened and step.level else GREY


def _make_charts(count: int, height: float) -> tuple[Figure, list[Axes]]:
    figure = plt.figure(figsize=(WIDTH, height), layout="constrained")
    panels = list(figure.subplots(1, count, squeeze=False, sharey=True).flat)
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
    plt.close(figure)
    return figure, panels


def _lay_out(steps: Sequence[Step], shown: Sequence[int]) -> dict[int, float]:
    """Where across the page each step stands: leaves side by side, the others over the middle of theirs."""
    below: dict[int, list[int]] = {number: [] for number in shown}
    for number in shown:
        if (above := steps[number].above) is not None:
            below[above].append(number)
    place: dict[int, float] = {}
    for number in shown:
        if not below[number]:
            place[number] = len(place)
    for number in reversed(shown):
        if below[number]:
            place[number] = float(np.mean([place[inner] for inner in below[number]]))
    return place


# ---- exact in floating point -----------------------------------------------------------------------------------------


def expand_squares(query: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """(q, c), (n, c) -> (q, n) float32: the squared distance as |q|^2 + |n|^2 - 2 q.n, which is one matrix product."""
    query, normals = np.asarray(query, np.float32), np.asarray(normals, np.float32)
    return (query**2).sum(1)[:, None] + (normals**2).sum(1) - 2 * query @ normals.T


def shorten(bounds: np.ndarray, query: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Bounds (q, n) less what `expand_squares` may err by, so that none lies above the distance."""
    lengths = (query**2).sum(1)[:, None] + (normals**2).sum(1)
    return bounds - slack(query.shape[1]) * lengths


# ---- approximate -----------------------------------------------------------------------------------------------------


def join_levels(pyramid: Pyramid) -> np.ndarray:
    """(n * h * w, c) float32: every pixel described by all its channels, one long vector, grid row after grid row."""
    h = pyramid.grid[0]
    wide = []
    for level in pyramid.levels:
        step = h // level.shape[2]
        wide.append(level.repeat_interleave(step, 2).repeat_interleave(step, 3))
    return torch.cat(wide, 1).permute(0, 2, 3, 1).flatten(0, 2).contiguous().numpy()


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
    """An approximate index (IVF): normal pixels in lists of similar ones, of which a query looks into a few only.

    Parameters
    ----------
    pixels
        (n, c) float32.
    lists
        How many: as many clusters are found by k-means in every fourth pixel.
    """

    def __init__(self, pixels: np.ndarray, lists: int = 64) -> None:
        clusters = MiniBatchKMeans(lists, random_state=0, n_init=1, batch_size=4096, max_iter=20).fit(pixels[::4])
        self.centres = clusters.cluster_centers_
        label = clusters.predict(pixels)
        self.lists = [pixels[label == number] for number in range(lists)]
        self.size = len(pixels)

    def search(self, query: np.ndarray, probes: int) -> tuple[np.ndarray, float]:
        """The distance (q,) to the nearest in the ``probes`` lists with the nearest centres; the part of pairs seen."""
        order = np.argsort(-_likeness(query, self.centres), axis=1, kind="stable")[:, :probes]
        nearest, seen = np.full(len(query), inf), 0
        for number, held in enumerate(self.lists):
            asking = np.flatnonzero((order == number).any(1))
            if len(asking) and len(held):
                winner = held[_likeness(query[asking], held).argmax(1)]
                squared = ((query[asking].astype(float) - winner) ** 2).sum(1)
                nearest[asking] = np.minimum(nearest[asking], squared)
                seen += len(asking) * len(held)
        return np.sqrt(nearest), seen / (len(query) * self.size)


def _likeness(query: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """(q, n): q.n - |n|^2 / 2, which is largest where the distance is smallest."""
    table = query @ normals.T
    table -= (normals**2).sum(1) / 2
    return table


@dataclass(frozen=True, eq=False)
class Loss:
    """What an approximate search did to a photograph: its map, the parts of pairs seen and of nearest pixels found."""

    anomaly_map: np.ndarray
    seen: float
    found: float


def search_lists(index: ListIndex, result: Result, probes: int) -> Loss:
    """A photograph judged again, with an approximate index in place of the exact search."""
    exact = result.correspondence.distance
    distance, seen = index.search(join_levels(result.query), probes)
    distance = distance.reshape(exact.shape).astype(np.float32)
    found = distance <= exact * (1 + _SAME)
    return Loss(make_map(distance, result.anomaly_map.shape, result.spade.options.sigma), seen, float(found.mean()))


def measure_loss(results: Sequence[Result], losses: dict[int, list[Loss]]) -> pandas.DataFrame:
    """A row a number of probes: what is seen, found and lost over some photographs."""
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
    """The exact map and the approximate one, with outlines where they say anomalous; and by how much it is too high."""
    figure, (photo, exact, approximate, error) = make_panels(None, 4, bars=2)
    level = result.spade.threshold()
    show_picture(photo, result.image, "photo")
    for panel, values, name in ((exact, result.anomaly_map, "exact"), (approximate, lost.anomaly_map, "approximate")):
        image = show_map(panel, values, SCALE * level, name)
        draw_contour(panel, values >= level, RING, "solid")
    add_scale(approximate, image, SCALE * level, level)
    difference = lost.anomaly_map - result.anomaly_map
    end = 4 * ceil(max(difference.max(), 1) / 4)
    add_scale(error, show_map(error, difference, end, "too high by"), end)
    return figure


# ---- the exercise ----------------------------------------------------------------------------------------------------


def check(must_open: Callable[[np.ndarray, np.ndarray, np.ndarray], bool]) -> None:
    """Does it open a pair of blocks, features (c,) and (c,), just if one of the pixels may gain by it?

    ``nearest`` (16,) holds the squared distances of the query block's pixels to the nearest that they have so far.
    """
    pairs = list(_make_pairs())
    tell(
        lambda: _ask(must_open, pairs),
        lambda answers: _find_mistake(answers, pairs),
        "That line is the whole difference between all pairs and one in thousands.",
    )


def _make_pairs() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs of blocks with whole numbers, so that a bound can be just what the worst pixel has, or one above it."""
    rng = np.random.default_rng(0)
    for case in range(300):
        query, normal = rng.integers(0, 4, (2, 5)).astype(float)
        bound = ((query - normal) ** 2).sum()
        low, high = np.sort(rng.uniform(0, rng.choice([0.3, 3]), 2) * bound).astype(int)
        nearest = rng.integers(low, high + 1, 16).astype(float)
        if case % 3 < 2 and bound > 0:
            nearest = nearest.clip(max=bound - case % 3)
            nearest[case % 16] = bound - case % 3
        yield query, normal, nearest


def _ask(must_open: Callable, pairs: Sequence[tuple[np.ndarray, ...]]) -> Any:
    """An answer a pair; what is no answer at all as it came."""
    answers = []
    for pair in pairs:
        answer = must_open(*(values.copy() for values in pair))
        if answer is ... or answer is None:
            return answer
        if np.size(answer) != 1:
            return np.asarray(answer)
        answers.append(bool(answer))
    return answers


def _find_mistake(answers: Any, pairs: Sequence[tuple[np.ndarray, ...]]) -> str | None:
    if answers is None:
        return "Nothing came back: the last line has to begin with return."
    if isinstance(answers, np.ndarray):
        return f"One True or False is needed for the pair of blocks, but an array of shape {answers.shape} came."
    if answers == [_opens(*pair) for pair in pairs]:
        return None
    for mistake, said in _MISTAKES:
        if answers == [bool(mistake(*pair)) for pair in pairs]:
            return said
    (query, normal, nearest), answer = next(
        (pair, answer) for pair, answer in zip(pairs, answers) if answer != _opens(*pair)
    )
    return (
        f"With a bound of {((query - normal) ** 2).sum():g} and pixels whose nearest lie between {nearest.min():g} and "
        f"{nearest.max():g} the answer is {answer}, but it has to be {not answer}."
    )


def _opens(query: np.ndarray, normal: np.ndarray, nearest: np.ndarray) -> bool:
    return bool(((query - normal) ** 2).sum() <= nearest.max())


_REVERSED = "It is the other way round: that tells the pairs that can be left out."
_MISTAKES: list[tuple[Callable[..., bool], str]] = [
    (lambda q, g, near: True, "Every pair is opened: the answer is exact, but nothing is saved."),
    (lambda q, g, near: False, "No pair is opened: nothing will be found."),
    (
        lambda q, g, near: ((q - g) ** 2).sum() < near.max(),
        "A bound equal to the worst of the pixels is left out, but a pixel just as near may lie there, at a place that "
        "comes first and so has to win: use <=.",
    ),
    (lambda q, g, near: ((q - g) ** 2).sum() > near.max(), _REVERSED),
    (lambda q, g, near: ((q - g) ** 2).sum() >= near.max(), _REVERSED),
    (
        lambda q, g, near: ((q - g) ** 2).mean() <= near.max(),
        "That is the mean over the channels: a bound, too, but so low that it hardly leaves anything out. A squared "
        "distance is the sum.",
    ),
    (
        lambda q, g, near: ((q - g) ** 2).sum() ** 0.5 <= near.max(),
        "The bound is a distance there, but nearest holds squared ones: leave out the root.",
    ),
    (
        lambda q, g, near: np.abs(q - g).sum() <= near.max(),
        "Those are absolute differences: a squared distance adds up squared ones.",
    ),
    (
        lambda q, g, near: ((q - g) ** 2).sum() <= near.min(),
        "That asks the pixel that is best off: nearest.min(). Any of the sixteen may gain, so ask the worst.",
    ),
    (
        lambda q, g, near: ((q - g) ** 2).sum() <= near.mean(),
        "That asks the mean of the pixels. Those that are farther than the mean may still gain, so ask the worst.",
    ),
    (
        lambda q, g, near: (np.linalg.norm(q) + np.linalg.norm(g)) ** 2 <= near.max(),
        "(|q| + |g|)² is an upper bound: no pair of pixels is farther apart in this layer. To leave something out one "
        "has to know that none is nearer: a lower bound.",
    ),
]
