"""Exact search through nested grids: branch and bound, with the pyramid as the tree.

Every fine pixel lies in a cell of the middle level, and every cell in a block of the coarse level; the features of a
pixel include those of its cell and block. So the squared distance of two pixels is a sum down the tree,

    total(pixel, pixel') = coarse(block, block') + middle(cell, cell') + fine(pixel, pixel')

and each partial sum is a lower bound for all pixels below it. All pairs of blocks are bounded; a pair is opened only if
its bound does not exceed the worst of its pixels' best distances so far, and likewise each pair of cells. A pair that
is never opened cannot win, so the result is that of brute force.

Two precautions make this hold in float32 as well. Bounds come from products, |q|^2 + |g|^2 - 2 q.g, which have rounding
errors, so the lengths are shortened by more than that error (`slack`); and every pair that may still win is measured
again from differences, always in the same order of summation. Ties go to the first place (image, row, column), for any
number of threads.

Notes
-----
For speed, 16 gallery cells lie side by side, one per *lane*, with channels as the outer axis, and four query cells are
compared with them at a time (`simd`). `search_pairs` in lessons/how_it_is_fast.py is the same algorithm without these
optimisations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spade_kit.search import runtime
from spade_kit.search.layout import (
    SIMD_WIDTH,
    SimdLayout,
    grids_nest,
    nested_order,
    prepare,
    put_on_grid,
    stretch_for,
    within,
)
from spade_kit.search.runtime import borrow, compare, compiled, in_threads, insert, make_room, may_enter, measure


def supports_branch_and_bound(shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether the grids nest as `SimdLayout` needs, and there is a compiler for the kernel."""
    return runtime.numba is not None and grids_nest(shapes)


# ---- the search ------------------------------------------------------------------------------------------------------


def search_branch_and_bound(
    query: SimdLayout,
    gallery: SimdLayout,
    images: np.ndarray,
    weights: np.ndarray,
    kappa: int,
    radius: int | None,
    first: np.ndarray | None = None,
    history: bool = False,
) -> np.ndarray:
    """Find the kappa nearest pixels in the gallery's ``images``.

    Parameters
    ----------
    query
        One image, laid out like the gallery.
    weights
        (L,), the weight of each level's squared distance.
    first
        (.., h, w) places to try first. Good ones, such as the result under slightly different options, save time; the
        result does not depend on them.
    history
        Whether to also return the result after each image, that is, for every smaller number of images.

    Returns
    -------
    numpy.ndarray
        (kappa, h, w) int64, nearest first: rank * h * w + row * w + column, where rank is an index into ``images``;
        with ``history`` (k, kappa, h, w), and runtime.NOWHERE where the first images hold fewer than kappa.
    """
    _, h, w = gallery.shapes[0]
    radius = runtime.EVERYWHERE if radius is None else min(radius, runtime.EVERYWHERE)
    order, blocks = nested_order(h, w, 2), gallery.blocks  # place in nested order -> place on the grid
    weights = np.asarray(weights, np.float32)
    tries = np.zeros((blocks, SIMD_WIDTH, 0), np.int64)
    if first is not None:
        tries = first.reshape(-1, h * w).T[order].reshape(blocks, SIMD_WIDTH, -1)
    best = np.full((blocks, SIMD_WIDTH, kappa), runtime.FAR, np.float32)
    found = np.full((blocks, SIMD_WIDTH, kappa), runtime.NOWHERE, np.int64)
    log = np.empty((len(images) if history else 0, blocks, SIMD_WIDTH, kappa), np.int64)
    arguments = (
        runtime.check_images(images, len(gallery)),
        min(1 if history else 0 if tries.shape[2] >= kappa else runtime.SEEDS, len(images)),
        np.ascontiguousarray(tries),
        weights,
        np.array(gallery.spans[2:], np.int64).reshape(-1, 2),
        (stretch_for(sum(c for c, _, _ in gallery.shapes)), gallery.columns, radius),
        (*prepare(query.coarse[0], gallery.spans[2:], weights[2:]), gallery.coarse),
        (*prepare(query.middle[0], gallery.spans[1:2], weights[1:2]), gallery.middle),
        (*prepare(query.fine[0], gallery.spans[:1], weights[:1]), gallery.fine),
        *_find_windows(gallery, radius),
        (best, found, log),
    )
    in_threads(lambda worker, workers: _search_blocks(worker, workers, *arguments), -(-blocks // 4))
    return put_on_grid(log, order, h, w) if history else put_on_grid(found[None], order, h, w)[0]


def _find_windows(gallery: SimdLayout, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Which pairs of blocks hold pixels within the radius: (blocks, blocks padded to whole tiles), bool.

    Also which tiles of sixteen blocks contain such a pair for any of four query blocks: (fours, tiles).
    """
    _, h, w = gallery.shapes[0]
    inside = np.zeros((gallery.blocks, gallery.coarse.shape[1] * SIMD_WIDTH), bool)
    near = within(gallery.rows, h, radius)[:, None, :, None] & within(gallery.columns, w, radius)[:, None]
    inside[:, : gallery.blocks] = near.reshape(gallery.blocks, gallery.blocks)
    fours = np.logical_or.reduceat(inside, range(0, gallery.blocks, 4))
    return inside, np.any(fours.reshape(len(fours), -1, SIMD_WIDTH), 2)


@compiled(cache=True)
def _search_blocks(
    worker, workers, images, seeds, tries, weights, spans, rules, coarse, middle, fine, inside, fours, nearest
):
    """Search every ``workers``-th group of four query blocks, image by image, so that one image stays in cache.

    Start with the places to try first, then the best block of a few images, to get tight limits early; then search
    everything that these limits do not exclude.
    """
    best, found, log = borrow(nearest)
    blocks = len(found)
    held = (
        (np.full(blocks, runtime.FAR), np.full(middle[2].shape, runtime.FAR), np.full(fine[2].shape, runtime.FAR)),
        make_room(3),
        np.empty((4, inside.shape[1]), np.float32),
    )
    limits, room, bounds = borrow(held)
    state = (best, found, *limits)  # limits of blocks, cells and pixels
    levels = borrow((coarse, middle, fine, (weights, spans)))
    groups = middle[3].shape[1]
    for quad in range(worker, (blocks + 3) // 4, workers):
        for P in range(4 * quad, min(4 * quad + 4, blocks)):
            if tries.shape[2]:
                _try(P, images, tries, levels, rules, state, room)
    for step in range(seeds + len(images)):
        rank = step if step < seeds else step - seeds
        image = images[rank]
        for quad in range(worker, (blocks + 3) // 4, workers):
            _bound_blocks(quad, image, levels, inside, fours, bounds, room)
            for P in range(4 * quad, min(4 * quad + 4, blocks)):
                first, end = 0, groups
                if step < seeds:
                    first = np.argmin(bounds[P % 4]) // 4
                    end = first + 1
                for group in range(first, end):
                    least = np.float32(np.inf)
                    for R in range(4 * group, 4 * group + 4):
                        least = min(least, bounds[P % 4, R])
                    if least <= state[2][P]:
                        _open_group(P, rank, image, group, bounds, levels, rules, state, room)
                if step >= seeds and len(log):
                    log[rank, P] = found[P]
    return held  # borrowed above: keep alive until here


@compiled(forceinline=True)
def _bound_blocks(quad, image, levels, inside, fours, bounds, room):
    """Bound four query blocks against all blocks of an image: never above the coarse distance; inf beyond radius."""
    _, terms, own, gallery = levels[0]
    above, sums, _ = room
    tile, lane = quad // 4, 4 * (quad % 4)
    for there in range(gallery.shape[1]):
        if not fours[quad, there]:
            for p in range(4):
                for R in range(SIMD_WIDTH * there, SIMD_WIDTH * there + SIMD_WIDTH):
                    bounds[p, R] = np.float32(np.inf)
            continue
        compare(terms, tile, lane, gallery, image * gallery.shape[1] + there, above, own, sums, 0)
        for p in range(4):
            P = min(4 * quad + p, len(inside) - 1)
            for j in range(SIMD_WIDTH):
                R = SIMD_WIDTH * there + j
                bounds[p, R] = own[tile, lane + p] + sums[0, p, j] if inside[P, R] else np.float32(np.inf)


@compiled(forceinline=True)
def _open_group(P, rank, image, group, bounds, levels, rules, state, room):
    """Compare a query block with four gallery blocks: their cells, then the pixels of cells that may win."""
    _, terms, _, gallery = levels[1]
    above, sums, _ = room
    tile, lane = P // 4, 4 * (P % 4)
    for j in range(SIMD_WIDTH):
        above[1, j] = bounds[P % 4, 4 * group + (j >> 2)]
    cells = compare(terms, tile, lane, gallery, image * gallery.shape[1] + group, above, state[3], sums, 1)
    if cells == 0:
        return
    measured = False
    for a in range(4):
        for b in range(4):
            if (cells >> (16 * a + 4 * b)) & 15 == 0:
                continue
            pixels = _bound_pixels(P, a, image, 4 * group + b, levels, state, room)
            if pixels == 0:
                continue
            if not measured:
                measured = True
                _measure_blocks(P, image, group, levels, room)
            _insert_pixels(P, a, rank, image, 4 * group + b, pixels, levels, rules, state, room)
            _tighten(P, a, levels, rules, state)


@compiled(forceinline=True)
def _bound_pixels(P, a, image, R, levels, state, room):
    """Which pixels of a block may beat the current best of a query cell's pixels: four times sixteen bits."""
    _, terms, _, gallery = levels[2]
    above, sums, _ = room
    length = levels[1][2][P // 4, 4 * (P % 4) + a]
    for j in range(SIMD_WIDTH):
        above[2, j] = sums[1, a, 4 * (R % 4) + (j >> 2)] + length
    return compare(terms, P, 4 * a, gallery, image * gallery.shape[1] + R, above, state[4], sums, 2)


@compiled(forceinline=True)
def _measure_blocks(P, image, group, levels, room):
    """Measure the weighted distances of a query block to the sixteen blocks of a tile."""
    query, _, _, gallery = levels[0]
    weights, spans = levels[3]
    exact = room[2]
    there = image * gallery.shape[1] + group // 4
    for j in range(SIMD_WIDTH):
        exact[0, j] = np.float32(0)
    for level in range(len(spans)):
        measure(query, P // SIMD_WIDTH, P % SIMD_WIDTH, gallery, there, spans[level, 0], spans[level, 1], exact, 1)
        for j in range(SIMD_WIDTH):
            exact[0, j] += weights[2 + level] * exact[1, j]


@compiled(forceinline=True)
def _insert_pixels(P, a, rank, image, R, pixels, levels, rules, state, room):
    """Measure the pairs of pixels that may win, and insert those that do into the lists of the nearest."""
    cells, _, _, held = levels[1]
    query, _, _, gallery = levels[2]
    weights, exact = levels[3][0], room[2]
    best, found = state[0], state[1]
    _, columns, radius = rules
    measure(cells, P // 4, 4 * (P % 4) + a, held, image * held.shape[1] + R // 4, 0, held.shape[2] - 1, exact, 1)
    for e in range(4):
        lanes = (pixels >> (16 * e)) & 0xFFFF
        if lanes == 0:
            continue
        measure(query, P, 4 * a + e, gallery, image * len(found) + R, 0, gallery.shape[2] - 1, exact, 2)
        least = runtime.FAR
        for j in range(SIMD_WIDTH):
            exact[2, j] = (
                exact[0, R % SIMD_WIDTH] + weights[1] * exact[1, 4 * (R % 4) + (j >> 2)] + weights[0] * exact[2, j]
            )
            least = exact[2, j] if exact[2, j] < least else least
        if not may_enter(P, 4 * a + e, least, rank * len(found) * SIMD_WIDTH, best, found):
            continue
        row = 4 * (P // columns) + 2 * (a >> 1) + (e >> 1)
        column = 4 * (P % columns) + 2 * (a & 1) + (e & 1)
        for j in range(SIMD_WIDTH):
            if (lanes >> j) & 1 == 0:
                continue
            there_row = 4 * (R // columns) + 2 * (j >> 3) + ((j >> 1) & 1)
            there_column = 4 * (R % columns) + 2 * ((j >> 2) & 1) + (j & 1)
            if abs(there_row - row) > radius or abs(there_column - column) > radius:
                continue
            place = (rank * len(found) * SIMD_WIDTH) + there_row * 4 * columns + there_column
            insert(P, 4 * a + e, exact[2, j], place, best, found)


@compiled(forceinline=True)
def _try(P, images, tries, levels, rules, state, room):
    """Measure the places to try first for a block's pixels, as if the search had found them."""
    columns, per_image = rules[1], len(state[1]) * SIMD_WIDTH
    for pixel in range(SIMD_WIDTH):
        for number in range(tries.shape[2]):
            rank, place = tries[P, pixel, number] // per_image, tries[P, pixel, number] % per_image
            if 0 <= rank < len(images):
                cell = _cell(place // (4 * columns), place % (4 * columns), columns, SIMD_WIDTH)
                one = np.int64(1) << (16 * (pixel % 4) + cell % SIMD_WIDTH)
                _measure_blocks(P, images[rank], cell // SIMD_WIDTH // 4, levels, room)
                _insert_pixels(P, pixel // 4, rank, images[rank], cell // SIMD_WIDTH, one, levels, rules, state, room)
    for a in range(4):
        _tighten(P, a, levels, rules, state)


@compiled(forceinline=True)
def _tighten(P, a, levels, rules, state):
    """Update the limits that a candidate must not exceed: for each pixel of a cell, for the cell, and for the block."""
    best, _, blocks, cells, pixels = state
    tile, lane, last, stretch = P // 4, 4 * (P % 4), best.shape[2] - 1, rules[0]
    farthest = np.float32(0)
    for pixel in range(4 * a, 4 * a + 4):
        farthest = max(farthest, best[P, pixel, last])
        pixels[P, pixel] = best[P, pixel, last] * stretch - levels[2][2][P, pixel]
    cells[tile, lane + a] = farthest * stretch - levels[1][2][tile, lane + a]
    for pixel in range(SIMD_WIDTH):
        farthest = max(farthest, best[P, pixel, last])
    blocks[P] = farthest * stretch


def measure_places(query: SimdLayout, gallery: SimdLayout, images: np.ndarray, place: np.ndarray) -> np.ndarray:
    """(L, kappa, h, w) float64: at each level, the unweighted squared distance to the pixels found."""
    squared = np.empty((len(gallery.spans), *place.shape))
    sides = zip((query.fine, query.middle, query.coarse), (gallery.fine, gallery.middle, gallery.coarse))
    tiles = [(*pair, width) for pair, width in zip(sides, (SIMD_WIDTH, 4, 1))]
    levels = [(*tiles[min(number, 2)], *span, squared[number]) for number, span in enumerate(gallery.spans)]
    images = runtime.check_images(images, len(gallery))
    place = runtime.check_places(place, len(images) * place[0].size)

    def work(worker: int, workers: int) -> None:
        for level in levels:
            _measure_level(worker, workers, images, place, gallery.columns, *level)

    in_threads(work, place.shape[1])
    return squared


@compiled(cache=True)
def _measure_level(worker, workers, images, place, columns, query, gallery, lanes, first, last, squared):
    """Every ``workers``-th row of `measure_places` at one level, with ``lanes`` lanes per block."""
    kappa, h, w = place.shape
    for row in range(worker, h, workers):
        for column in range(w):
            here = _cell(row, column, columns, lanes)
            for number in range(kappa):
                at = place[number, row, column]
                there = _cell(at // w % h, at % w, columns, lanes)
                image, tile, lane = images[at // (h * w)], there // SIMD_WIDTH, there % SIMD_WIDTH
                total = 0.0
                for k in range(first, last):
                    difference = (
                        np.float64(query[0, here // SIMD_WIDTH, k, here % SIMD_WIDTH]) - gallery[image, tile, k, lane]
                    )
                    total += difference * difference
                squared[number, row, column] = total


@compiled(forceinline=True)
def _cell(row, column, columns, lanes):
    """The index of a pixel's cell in nested order, at a level with ``lanes`` lanes per block."""
    pixel = 8 * (row // 2 % 2) + 4 * (column // 2 % 2) + 2 * (row % 2) + column % 2
    return (row // 4 * columns + column // 4) * lanes + pixel * lanes // SIMD_WIDTH
