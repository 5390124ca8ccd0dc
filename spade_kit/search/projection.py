"""Exact search in a single level: all pairs are compared, most of them by a projection bound only.

A single level has no coarser level to bound it. But projected onto a few orthogonal axes, two cells are never farther
apart than they really are; and along the axes in which the query varies most, most pairs are too far apart already.
Where a pair may still win, all channels are compared, and then differences decide, as in branch and bound.
"""

from __future__ import annotations

import numpy as np
import torch

from spade_kit.search import runtime
from spade_kit.search.layout import CHUNK, SIMD_WIDTH, lay_out, prepare, put_on_grid, slack, stretch_for
from spade_kit.search.runtime import borrow, compare, compiled, in_threads, insert, make_room, may_enter, measure

_BATCH = 8  # gallery tiles that fit into the L1 cache


def search_projection(
    query: np.ndarray,
    gallery: np.ndarray,
    order: np.ndarray,
    images: np.ndarray,
    kappa: int,
    window: tuple[np.ndarray, np.ndarray],
    history: bool = False,
) -> np.ndarray:
    """Find the kappa nearest cells in the gallery's ``images``.

    Parameters
    ----------
    query, gallery
        One level as tiles, (tiles, c + 1, 16) and (n, tiles, c + 1, 16), as `SimdLayout` and `lay_out` make them.
    order
        (h * w,): the grid cell at each position of the tiles.
    window
        Which rows and columns may be compared: bool (h, h) and (w, w).
    history
        Whether to also return the result after each image.

    Returns
    -------
    numpy.ndarray
        As in `search_branch_and_bound`: (kappa, h, w), or (k, kappa, h, w) with ``history``.
    """
    tiles, channels, h, w = len(query), query.shape[1] - 1, len(window[0]), len(window[1])
    axes, error = _find_axes(query, h * w)
    views = np.empty((tiles, axes.shape[0] + 1, SIMD_WIDTH), np.float32)
    views[:, :-1] = torch.matmul(torch.from_numpy(axes), torch.from_numpy(query[:, :-1]).double()).numpy()
    views[:, -1] = (views[:, :-1].astype(np.float64) ** 2).sum(1) * (1 - slack(len(axes))) - error * query[:, -1]
    place = np.full(tiles * SIMD_WIDTH, -1, np.int64)
    place[: h * w] = order
    best = np.full((tiles, SIMD_WIDTH, kappa), runtime.FAR, np.float32)
    found = np.full((tiles, SIMD_WIDTH, kappa), runtime.NOWHERE, np.int64)
    log = np.empty((len(images) if history else 0, tiles, SIMD_WIDTH, kappa), np.int64)
    one = np.ones(1, np.float32)
    arguments = (
        runtime.check_images(images, len(gallery)),
        min(1 if history else runtime.SEEDS, len(images)),
        stretch_for(channels),
        (*_directions(axes), 1 - slack(len(axes)), error),
        prepare(views, [(0, len(axes))], one),
        (*prepare(query, [(0, channels)], one), gallery),
        place,
        window,
        _find_windows(place, window),
        (best, found, log),
    )
    in_threads(lambda worker, workers: _search_tiles(worker, workers, *arguments), tiles)
    return put_on_grid(log, order, h, w) if history else put_on_grid(found[None], order, h, w)[0]


def measure_cells(
    query: np.ndarray, gallery: np.ndarray, order: np.ndarray, images: np.ndarray, place: np.ndarray
) -> np.ndarray:
    """(kappa, h, w) float64: the squared distances to the cells that `search_projection` found."""
    runtime.check_places(place, len(runtime.check_images(images, len(gallery))) * len(order))
    position = np.argsort(order)  # grid cell -> position in the tiles
    there, here = position[place % len(order)], position.reshape(place.shape[1:])
    cells = gallery[images[place // len(order)], there // SIMD_WIDTH, :-1, there % SIMD_WIDTH]  # (kappa, h, w, c)
    return ((query[here // SIMD_WIDTH, :-1, here % SIMD_WIDTH].astype(np.float64) - cells) ** 2).sum(-1)


def _find_axes(query: np.ndarray, cells: int) -> tuple[np.ndarray, float]:
    """(axes, c) float64: the first principal axes of a query's cells, and the error bound of a view along them.

    The bound is in units of a cell's squared length. Each coordinate is a float32 sum of n products, with an error of
    at most n 2^-24 times the length; a view of m coordinates has sqrt(m) times that error. The squared distance of two
    views is at most 2 (|q|^2 + |g|^2), so its error is at most 4 sqrt(m) n 2^-24 (|q|^2 + |g|^2); a factor of 5 instead
    of 4 also covers second-order terms.
    """
    channels = query.shape[1] - 1
    count = min(channels // 4, 2 + channels // 24) * 4
    rows = torch.from_numpy(query[:, :-1].swapaxes(0, 1).reshape(channels, -1)[:, :cells]).double()
    spread = torch.cov(rows, correction=0).view(channels, channels)
    axes = torch.linalg.eigh(spread).eigenvectors.T.flip(0)[:count].numpy()
    additions = min(channels, CHUNK) + channels / CHUNK + 3
    return axes, 5 * np.sqrt(count) * additions * 2.0**-24


def _directions(axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The axes as query cells for `compare`, which then computes coordinates of gallery cells; and dummy limits."""
    directions = lay_out(axes.T[None].astype(np.float32))[0]
    directions[:, -1] = 0
    return directions, directions[:, 0].copy()


def _find_windows(place: np.ndarray, window: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """(tiles, tiles): False where no cell of one tile may be compared with any cell of the other."""
    tiles, shared = len(place) // SIMD_WIDTH, []
    for at, near in zip((place // len(window[1]), place % len(window[1])), window):
        reached = near[at].reshape(tiles, SIMD_WIDTH, -1).any(1)  # (tiles, side)
        shared.append(reached[:, at].reshape(tiles, tiles, SIMD_WIDTH).any(2))
    return np.ascontiguousarray(shared[0] & shared[1])


@compiled(cache=True)
def _search_tiles(worker, workers, images, seeds, stretch, axes, view, level, place, window, near, nearest):
    """Search every ``workers``-th tile of query cells, with a few gallery tiles at a time in cache."""
    best, found, log = borrow(nearest)
    tiles = len(found)
    held = (
        np.empty((_BATCH, view[0].shape[1], SIMD_WIDTH), np.float32),
        (np.full(view[2].shape, runtime.FAR), np.full(level[2].shape, runtime.FAR)),
        make_room(1),
    )
    projected, limits, room = borrow(held)
    views = (*borrow(view[1:]), projected)
    levels = borrow(level)
    state = (best, found, *limits)  # limits for views and for all channels
    where = borrow((place, *window))
    for step in range(seeds + len(images)):
        rank = step if step < seeds else step - seeds
        for start in range(0, tiles, _BATCH):
            end = min(start + _BATCH, tiles)
            for tile in range(start, end):
                _view(images[rank], tile, axes, views[2], tile - start, levels[3], room)
            for cell in range(worker, tiles, workers):
                for lane in range(0, SIMD_WIDTH, 4):
                    for tile in range(start, end):
                        if not near[cell, tile] or (step < seeds and tile != cell):
                            continue
                        if compare(views[0], cell, lane, views[2], tile - start, room[0], state[2], room[1], 0):
                            there = images[rank] * tiles + tile
                            _compare_all(cell, lane, rank, there, tile, stretch, views, levels, where, state, room)
        if step >= seeds and len(log):
            for cell in range(worker, tiles, workers):
                log[rank, cell] = found[cell]
    return held  # borrowed above: keep alive until here


@compiled(forceinline=True)
def _view(image, tile, axes, views, at, gallery, room):
    """Project a gallery tile onto the axes, followed by the shortened squared length of the projection."""
    above, sums, _ = room
    directions, none, keep, error = axes
    count = views.shape[1] - 1
    for j in range(SIMD_WIDTH):
        views[at, count, j] = np.float32(0)
    for first in range(0, count, 4):
        index = image * gallery.shape[1] + tile
        compare(directions, first // SIMD_WIDTH, first % SIMD_WIDTH, gallery, index, above, none, sums, 0)
        for number in range(first, first + 4):
            for j in range(SIMD_WIDTH):
                views[at, number, j] = sums[0, number - first, j]
                views[at, count, j] += sums[0, number - first, j] * sums[0, number - first, j]
    for j in range(SIMD_WIDTH):
        length = views[at, count, j] * keep - error * gallery[image, tile, gallery.shape[2] - 1, j]
        views[at, count, j] = np.float32(length)


@compiled(forceinline=True)
def _compare_all(cell, lane, rank, there, tile, stretch, views, levels, where, state, room):
    """Compare four query cells with sixteen over all channels, and by differences where a pair may win."""
    query, terms, own, gallery = levels
    above, sums, exact = room
    best, found, view_limits, limits = state
    place, rows, columns = where
    w = len(columns)
    hits = compare(terms, cell, lane, gallery, there, above, limits, sums, 0)
    for e in range(lane, lane + 4):
        lanes = (hits >> (16 * (e - lane))) & 0xFFFF
        here = place[SIMD_WIDTH * cell + e]
        if lanes == 0 or here < 0:
            continue
        measure(query, cell, e, gallery, there, 0, query.shape[1] - 1, exact, 0)
        least = runtime.FAR
        for j in range(SIMD_WIDTH):
            least = exact[0, j] if exact[0, j] < least else least
        if not may_enter(cell, e, least, rank * len(rows) * w, best, found):
            continue
        for j in range(SIMD_WIDTH):
            other = place[SIMD_WIDTH * tile + j]
            if (lanes >> j) & 1 and other >= 0 and rows[here // w, other // w] and columns[here % w, other % w]:
                insert(cell, e, exact[0, j], rank * len(rows) * w + other, best, found)
        farthest = best[cell, e, best.shape[2] - 1] * stretch
        view_limits[cell, e] = farthest - views[1][cell, e]
        limits[cell, e] = farthest - own[cell, e]
