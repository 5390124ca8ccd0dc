"""Exact search of levels that share one grid, such as the blocks of a vision transformer.

No level is coarser than another, so none can bound the others, and cells have hundreds of channels. A pair of cells is
measured from differences, some hundred channels at a time, and dropped as soon as its partial sum exceeds the worst of
the query cell's best distances so far. These parts of an image's cells lie side by side, so that memory is read in
order although most pairs are dropped after the first. In a small window (radius 1 leaves 9 cells per image) this is
all. Elsewhere, a *view* of each cell bounds the distance first: its coordinates along the principal axes of the level
in the gallery, and the length of the rest. With orthonormal axes P,

    |q - g|^2 = |P q - P g|^2 + |rest(q) - rest(g)|^2 >= |P q - P g|^2 + (|rest(q)| - |rest(g)|)^2

which is the squared distance of two views: 64 numbers instead of 768 channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.linalg import eigh
from torch import Tensor

from spade_kit._arguments import spread_evenly
from spade_kit.search import runtime
from spade_kit.search.layout import SIMD_WIDTH, STEP, Layout, lay_out, prepare, stretch_for
from spade_kit.search.runtime import borrow, compare, compiled, in_threads, insert, make_room, sum_squares

_VIEW = 64  # numbers in the view of a level
_SAMPLED = 2048  # cells that determine the axes
_WORTH_ROWS = 2 * STEP  # channels; with fewer, `search_projection` is faster
_WORTH_VIEWING = 81  # cells in a window; fewer are measured directly
_PART = 2 * STEP  # channels that are summed before a pair may be dropped, at most
_BATCH = 8  # tiles of views that stay in cache
_VIEW_ERROR = 2.0**-20  # of a view, in units of the cell's length: rounding gives 2^-24, the root of a small rest more
_ROUNDED = 1 + 2.0**-14  # for sums of a few hundred float32 numbers


def supports_shared_grid(shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether all levels have one grid, and enough channels in all, and there is a compiler for the kernels."""
    grids, channels = {shape[-2:] for shape in shapes}, sum(shape[-3] for shape in shapes)
    return runtime.numba is not None and len(grids) == 1 and channels >= _WORTH_ROWS


class CellLayout(Layout):
    """A gallery of n images as ``cells`` (n, L, p, h * w, c / p): the channels of a level in p equal parts.

    All levels have the channels of the largest, and parts are multiples of `STEP`; the rest are zeros.
    """

    names = ("cells",)

    def __init__(self, n: int, shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__(n, shapes)
        _, self.h, self.w = self.shapes[0]
        most = max(c for c, _, _ in self.shapes)
        parts = -(-most // _PART)
        width = -(-most // (parts * STEP)) * STEP
        self.channels = parts * width
        size = n, len(shapes), parts, self.h * self.w, width
        self.cells = torch.empty(size, dtype=torch.float32, device="cpu").numpy()
        self._viewed: tuple[list[np.ndarray], np.ndarray, np.ndarray] | None = None  # axes, views, greatest lengths

    def write(self, start: int, levels: Sequence[Tensor]) -> None:
        for number, level in enumerate(levels):
            room = self.cells[start : start + len(level), number]  # (n, p, h * w, c / p)
            for part, first in zip(room.swapaxes(0, 1), range(0, self.channels, room.shape[3])):
                some = level[:, first : first + room.shape[3]].flatten(2).transpose(1, 2)
                torch.from_numpy(part)[:, :, : some.shape[2]] = some  # faster than NumPy
                part[:, :, some.shape[2] :] = 0

    def level(self, number: int, images: np.ndarray) -> Tensor:
        self.verify(images)
        c, h, w = self.shapes[number]
        channels = self.cells[images, number].swapaxes(2, 3).reshape(-1, self.channels, h, w)
        return torch.from_numpy(np.ascontiguousarray(channels[:, :c]))

    def views(
        self, query: np.ndarray, images: np.ndarray, levels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The views of a query's cells (L, p, h * w, c / p) and of some images as tiles, and the bound on their errors.

        Returns (l, tiles, v + 1, 16) of the l ``levels``; (L, n, tiles, v + 1, 16) of all, in which those of ``images``
        are filled; (l, h * w).
        Threads may compute the same views at the same time, with the same result.
        """
        if self._viewed is None:
            axes = [self._find_axes(level) for level in range(len(self.shapes))]
            tiles = -(-self.h * self.w // SIMD_WIDTH)
            views = torch.empty(len(axes), len(self), tiles, _VIEW + 1, SIMD_WIDTH, device="cpu").numpy()
            self._viewed = axes, views, np.full((len(self), len(axes)), np.nan)
        axes, views, longest = self._viewed
        for image in images[np.isnan(longest[images]).any(1)].tolist():
            views[:, image], lengths = self._view(self.cells[image], axes)
            longest[image] = lengths.max(1)
        ours, lengths = self._view(query[levels], [axes[level] for level in levels])
        return ours, views, _VIEW_ERROR * (lengths + longest[images].max(0)[levels, None])

    def _view(self, cells: np.ndarray, axes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The views of some cells (L, p, m, c / p), and the lengths of their vectors, (L, m)."""
        views, squares = np.zeros((len(axes), _VIEW, cells.shape[2]), np.float32), []
        for view, along, level in zip(views, axes, cells):
            x = level.swapaxes(0, 1).reshape(-1, self.channels).astype(np.float64)
            coordinates = x @ along
            squares.append(np.einsum("mc,mc->m", x, x))
            view[: along.shape[1]] = coordinates.T
            view[-1] = np.sqrt((squares[-1] - np.einsum("mv,mv->m", coordinates, coordinates)).clip(min=0))
        return lay_out(views), np.sqrt(squares)

    def _find_axes(self, level: int) -> np.ndarray:
        """(c, v - 1) float64, orthonormal: the first principal axes of a level in a sample of the gallery's cells."""
        images = spread_evenly(len(self), 16)
        step = -(-len(images) * self.h * self.w // _SAMPLED)
        sample = self.cells[images, level, :, ::step].swapaxes(1, 2).reshape(-1, self.channels).astype(np.float64)
        sample = np.nan_to_num(sample, posinf=0, neginf=0)
        sample -= sample.mean(0)
        return eigh(sample.T @ sample, subset_by_index=(self.channels - _VIEW + 1, self.channels - 1))[1]


def search_shared_grid(
    query: CellLayout,
    gallery: CellLayout,
    images: np.ndarray,
    weights: np.ndarray,
    kappa: int,
    radius: int | None,
    first: np.ndarray | None = None,
    history: bool = False,
) -> np.ndarray:
    """Find the kappa nearest cells in the gallery's ``images``; see `search_branch_and_bound`.

    Levels of weight 0 are not compared.
    """
    h, w = gallery.h, gallery.w
    images, levels = runtime.check_images(images, len(gallery)), np.flatnonzero(weights)
    factors = weights[levels].astype(np.float32)
    reach = runtime.EVERYWHERE if radius is None else min(radius, runtime.EVERYWHERE)
    if first is None:
        first = np.arange(min(runtime.SEEDS, len(images)))[:, None] * h * w + np.arange(h * w)
    best = np.full((1, h * w, kappa), runtime.FAR, np.float32)
    found = np.full((1, h * w, kappa), runtime.NOWHERE, np.int64)
    log = np.empty((len(images) if history else 0, h * w, kappa), np.int64)
    arguments = (
        images,
        np.ascontiguousarray(first.reshape(-1, h * w))[: 0 if history else None],
        (h, w, reach),
        (query.cells[0], gallery.cells, levels, factors),
        (best, found, log),
    )
    if min(2 * reach + 1, h) * min(2 * reach + 1, w) < _WORTH_VIEWING:
        in_threads(lambda worker, workers: _search_windows(worker, workers, *arguments), h)
    else:
        views = _prepare_views(query, gallery, images, levels, factors)
        in_threads(lambda worker, workers: _search_views(worker, workers, *arguments, *views), -(-h * w // SIMD_WIDTH))
    nearest = np.ascontiguousarray((log if history else found).swapaxes(1, 2)).reshape(-1, kappa, h, w)
    return nearest if history else nearest[0]


def measure_shared_grid(
    query: CellLayout, gallery: CellLayout, images: np.ndarray, place: np.ndarray, levels: Sequence[int]
) -> np.ndarray:
    """(L, kappa, h, w) float64: at some levels, the unweighted squared distance to the cells found."""
    _, h, w = place.shape
    images = runtime.check_images(images, len(gallery))
    runtime.check_places(place, len(images) * h * w)
    squared = np.empty((len(levels), len(place), h * w))
    cells, there = (query.cells, gallery.cells, images, np.array(levels)), place.reshape(-1, h * w)
    in_threads(lambda worker, workers: _measure(worker, workers, *cells, there, squared), h * w)
    return squared.reshape(len(levels), *place.shape)


def _prepare_views(
    query: CellLayout, gallery: CellLayout, images: np.ndarray, levels: np.ndarray, factors: np.ndarray
) -> tuple:
    """The views of some levels, ready for `compare`, and what turns the worst distance into limits."""
    ours, theirs, errors = gallery.views(query.cells[0], images, levels)
    parts = [prepare(view, [(0, _VIEW)], factor[None]) for view, factor in zip(ours, factors)]
    terms, own = np.stack([terms for _, terms, _ in parts]), np.stack([own for *_, own in parts])
    error = np.zeros(own[0].size)
    error[: errors.shape[1]] = np.sqrt(factors @ errors**2)
    limits = np.full((own.size // SIMD_WIDTH, SIMD_WIDTH), runtime.FAR, np.float32)  # over a level and those before it
    owns = own.cumsum(0).reshape(limits.shape)
    return terms, theirs, levels, (owns, error, stretch_for(len(levels) * gallery.channels), limits)


@compiled(cache=True)
def _search_windows(worker, workers, images, tries, grid, cells, nearest):
    """Measure all pairs within the radius, for a part of the query's rows."""
    h, w, reach = grid
    start, stop = worker * h // workers, (worker + 1) * h // workers
    (best, found, log), levels = borrow(nearest), borrow(cells)
    for cell in range(start * w, stop * w):
        _try_first(cell, images, tries, grid, levels, best, found)
    for rank in range(len(images)):
        for row in range(max(start - reach, 0), min(stop + reach, h)):
            for asked in range(max(row - reach, start), min(row + reach + 1, stop)):
                for middle in range(w):
                    for col in range(max(middle - reach, 0), min(middle + reach + 1, w)):
                        place = (rank * h + row) * w + col
                        _try(asked * w + middle, images[rank], place, h * w, levels, best, found)
        if len(log):
            log[rank, start * w : stop * w] = found[0, start * w : stop * w]


@compiled(cache=True)
def _search_views(worker, workers, images, tries, grid, cells, nearest, terms, views, numbers, rules):
    """Search for every ``workers``-th tile of query cells, with the views of a few gallery tiles at a time in cache."""
    h, w, reach = grid
    (best, found, log), levels = borrow(nearest), borrow(cells)
    seen, limits = borrow((terms, views, numbers)), borrow(rules[3])
    held = make_room(2)
    room = borrow(held)
    tiles = terms.shape[1]
    for own in range(worker, tiles, workers):
        for cell in range(own * SIMD_WIDTH, min((own + 1) * SIMD_WIDTH, h * w)):
            _try_first(cell, images, tries, grid, levels, best, found)
            _tighten(cell, best, rules, limits)
    for rank in range(len(images)):
        for start in range(0, tiles, _BATCH):
            for own in range(worker, tiles, workers):
                for lane in range(0, SIMD_WIDTH, 4):
                    for tile in range(start, min(start + _BATCH, tiles)):
                        if not _are_near(own * SIMD_WIDTH, tile * SIMD_WIDTH, h, w, reach):
                            continue
                        hits = _bound(own, lane, images[rank], tile, seen, limits, room)
                        for e in range(4 if hits else 0):
                            cell, lanes = own * SIMD_WIDTH + lane + e, (hits >> (16 * e)) & 0xFFFF
                            if lanes == 0 or cell >= h * w:
                                continue
                            for j in range(SIMD_WIDTH):
                                there = tile * SIMD_WIDTH + j
                                if (lanes >> j) & 1 and there < h * w and _is_inside(cell, there, w, reach):
                                    _try(cell, images[rank], rank * h * w + there, h * w, levels, best, found)
                            _tighten(cell, best, rules, limits)
        if len(log):
            for own in range(worker, tiles, workers):
                first, end = own * SIMD_WIDTH, (own + 1) * SIMD_WIDTH
                log[rank, first:end] = found[0, first:end]
    return held  # borrowed above: keep alive until here


@compiled(cache=True)
def _measure(worker, workers, query, gallery, images, levels, places, squared):
    """Add up the squared differences at each place, in float64, for a part of the query's cells."""
    size, parts, width = query.shape[3], query.shape[2], query.shape[4]
    for at in range(len(levels)):
        for near in range(len(places)):
            for cell in range(worker * size // workers, (worker + 1) * size // workers):
                image, there = images[places[near, cell] // size], places[near, cell] % size
                total = 0.0
                for part in range(parts):
                    here, other = query[0, levels[at], part, cell], gallery[image, levels[at], part, there]
                    for channel in range(width):
                        difference = np.float64(here[channel]) - np.float64(other[channel])
                        total += difference * difference
                squared[at, near, cell] = total


@compiled(forceinline=True)
def _is_inside(cell, there, w, reach):
    return abs(cell // w - there // w) <= reach and abs(cell % w - there % w) <= reach


@compiled(forceinline=True)
def _are_near(cell, there, h, w, reach):
    """Whether the rows of two tiles lie within the radius; they begin at these cells."""
    last, end = (cell + SIMD_WIDTH - 1) // w, (there + SIMD_WIDTH - 1) // w
    return there // w - last <= reach and cell // w - end <= reach


@compiled(forceinline=True)
def _bound(own, lane, image, tile, seen, limits, room):
    """Which of four query cells and sixteen gallery cells may still win; level by level, while any may."""
    terms, views, numbers = seen
    above, sums, _ = room
    tiles, n = terms.shape[1], views.shape[1]
    hits = np.int64(0)
    for number in range(len(numbers)):
        index = (numbers[number] * n + image) * tiles + tile
        hits = compare(terms, number * tiles + own, lane, views, index, above, limits, sums, min(number, 1))
        if number:  # the limits are those of the sum of the levels so far
            hits = np.int64(0)
            for e in range(4):
                for j in range(SIMD_WIDTH):
                    sums[0, e, j] += sums[1, e, j]
                    hits |= np.int64(sums[0, e, j] <= limits[number * tiles + own, lane + e]) << (16 * e + j)
        if hits == 0:
            break
    return hits


@compiled(forceinline=True)
def _tighten(cell, best, rules, limits):
    """Update the limits of a query cell from its worst distance: a view may be wrong by the error."""
    owns, errors, stretch, _ = rules
    tile, lane, tiles = cell // SIMD_WIDTH, cell % SIMD_WIDTH, len(errors) // SIMD_WIDTH
    farthest = (np.sqrt(best[0, cell, best.shape[2] - 1] * np.float64(stretch)) + errors[cell]) ** 2 * _ROUNDED
    for at in range(tile, len(limits), tiles):
        limits[at, lane] = np.float32(farthest) - owns[at, lane]


@compiled(forceinline=True)
def _try_first(cell, images, tries, grid, levels, best, found):
    """Measure the places to try first, as if the search had found them."""
    h, w, reach = grid
    for number in range(len(tries)):
        place = tries[number, cell]
        rank = place // (h * w)
        if 0 <= rank < len(images) and _is_inside(cell, place % (h * w), w, reach):
            _try(cell, images[rank], place, h * w, levels, best, found)


@compiled(forceinline=True)
def _try(cell, image, place, size, levels, best, found):
    """Measure two cells, unless a part of the sum shows that they are too far apart, and insert the place."""
    query, gallery, numbers, weights = levels
    count, parts = query.shape[0], query.shape[1]
    total = np.float32(0)
    for at in range(len(numbers)):
        for part in range(parts):
            here, there = numbers[at] * parts + part, (image * count + numbers[at]) * parts + part
            total += weights[at] * sum_squares(query, here * size + cell, gallery, there * size + place % size)
            if not total <= best[0, cell, best.shape[2] - 1]:  # also where it is not a number
                return
    insert(0, cell, total, place, best, found)
