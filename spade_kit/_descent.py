"""The exact search through nested grids: branch and bound, with the pyramid itself as the tree.

Every fine pixel lies in a cell of the middle level, every cell in a block of the coarse level, and shares their
features. So the squared distance of two pixels is a sum down the tree,

    total(pixel, pixel') = coarse(block, block') + middle(cell, cell') + fine(pixel, pixel')

and each partial sum is a lower bound for all pixels below it. One matrix product bounds all pairs of blocks; a pair is
opened only if its bound does not exceed the worst of its pixels' best distances so far, and likewise each pair of
cells. What is never opened cannot win, so the answer is the brute-force answer.

Two precautions make that true in float32 as well. The product form |q|^2 + |g|^2 - 2 q.g errs by rounding, so its
bound is lowered by more than that error (`slack`); and every pair that survives is measured anew from differences, in
one order of summation wherever it stands. Of equal distances the first place (image, row, column) wins, whatever the
number of threads.

Notes
-----
For speed 16 gallery cells lie side by side, a *lane* each, with the channels in front: one load feeds 16 sums, and no
sum runs across lanes. `descend_plainly` says the same without any of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf

import numpy as np
import torch
from torch import Tensor

from spade_kit._lanes import LANES, Lanes, grids_nest, nest, within

try:
    import numba
except ImportError:  # the dense search gives the same answer, later
    numba = None  # type: ignore[assignment]

_SEEDS = 8  # images whose best block is tried first, to have tight bounds early
_SHAVE = np.float32(1 - 2**-20)  # the compiler may fuse a sum of partial distances in one place and not in another
_NOWHERE = np.iinfo(np.int64).max
_EVERYWHERE = 1 << 30  # a radius that excludes nothing


def can_descend(shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether the grids nest as `Lanes` wants them, and there is a compiler for the kernel."""
    return numba is not None and grids_nest(shapes)


# ---- the search ------------------------------------------------------------------------------------------------------


def descend(
    query: Sequence[Tensor],
    gallery: Lanes,
    images: np.ndarray,
    weights: np.ndarray,
    kappa: int,
    radius: int | None,
) -> np.ndarray:
    """Where the kappa nearest pixels lie, of all those of the gallery's ``images``.

    Parameters
    ----------
    query
        One image's levels, each (1, c, h, w).
    weights
        (L,), of each level's squared distance.

    Returns
    -------
    numpy.ndarray
        (kappa, h, w) int64: rank * h * w + row * w + column, rank counting along ``images``. Nearest first.
    """
    asked = Lanes(1, gallery.shapes)
    asked.write(0, query)
    images = np.ascontiguousarray(images, np.int64)
    weights = np.asarray(weights, np.float32)
    channel_weights = np.zeros(gallery.coarse.shape[2], np.float32)  # of the coarse level, padding included
    channel_weights[: sum(gallery.counts)] = np.repeat(weights[2:], gallery.counts)
    bounds = _bound_blocks(asked, gallery, images, weights[2:], channel_weights, radius)  # (blocks, k, blocks)
    found = np.full((gallery.blocks, LANES, kappa), _NOWHERE, np.int64)
    arguments = (
        bounds.numpy(),
        _choose_seeds(bounds),
        images,
        asked.coarse[0].numpy(),
        gallery.coarse.numpy(),
        channel_weights,
        _four_by_four(asked.middle[0])[: gallery.blocks],
        gallery.middle,
        weights[1],
        _four_by_four(asked.fine[0]).reshape(gallery.blocks, 4, -1, 4),
        gallery.fine,
        weights[0],
        gallery.columns,
        _EVERYWHERE if radius is None else radius,
        found,
    )
    _in_threads(lambda low, high: _descend(low, high, *arguments), gallery.blocks)
    _, h, w = gallery.shapes[0]
    return found.reshape(-1, kappa)[_unfold(h, w)].T.reshape(kappa, h, w)


def _in_threads(work: Callable[[int, int], None], count: int) -> None:
    """Share out ``work(low, high)`` over 0..count in runs, taken as threads come free.

    Plain threads, since the kernel lets go of the interpreter: numba's own would abort on concurrent calls, and both
    numba's and torch's would spin while the other's work.
    """
    threads = max(1, min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    run = -(-count // (4 * threads))
    starts = range(0, count, run)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda low: work(low, min(low + run, count)), starts))


def _four_by_four(lanes: np.ndarray) -> np.ndarray:
    """(g, c, 16) -> (g * 4, c, 4): the kernel takes four query cells at a time."""
    groups, channels, _ = lanes.shape
    return lanes.reshape(groups, channels, 4, 4).transpose(0, 2, 1, 3).reshape(groups * 4, channels, 4)


def _unfold(h: int, w: int) -> np.ndarray:
    """For each pixel in raster order, its place in nested order."""
    nested = nest(torch.arange(h * w).view(1, 1, h, w), 2).flatten().numpy()
    order = np.empty(h * w, np.int64)
    order[nested] = np.arange(h * w)
    return order


def slack(channels: int) -> float:
    """How far the product form may lie from the sum of squared differences, in units of |q|^2 + |g|^2.

    A sum of ``channels`` products errs by at most channels * 2^-24 of its absolute terms: one such unit for the norms,
    one for the product, two for the differences, as |q - g|^2 <= 2 (|q|^2 + |g|^2). The other 4 cover weights and
    final additions. Underflow is not covered: squares below 1e-38 are lost.
    """
    return 4 * (channels + 4) * 2.0**-24


def _bound_blocks(
    asked: Lanes,
    gallery: Lanes,
    images: np.ndarray,
    weights: np.ndarray,
    channel_weights: np.ndarray,
    radius: int | None,
) -> Tensor:
    """(query blocks, k, gallery blocks): never more than the coarse level's squared distance; inf out of the window."""
    keep = 1 - slack(gallery.coarse.shape[2])
    level_weights = torch.from_numpy(weights)
    query = asked.coarse[0] * torch.from_numpy(channel_weights)  # (blocks, c)
    rows = gallery.coarse[torch.from_numpy(images)].flatten(0, 1)  # one product for all is worth the copy
    with full_precision(rows.device):
        query_norms = (asked.norms[0] @ level_weights)[:, None] * keep
        gallery_norms = (gallery.norms[torch.from_numpy(images)] @ level_weights) * keep  # (k, blocks)
        bounds = torch.addmm(query_norms + gallery_norms.flatten(), query, rows.T, alpha=-2)
    bounds = bounds.view(gallery.blocks, len(images), gallery.blocks)
    bounds.clamp_(min=0)
    if radius is not None:
        _, h, w = gallery.shapes[0]
        near = within(gallery.rows, h, radius)[:, None, :, None] & within(gallery.columns, w, radius)[:, None]
        bounds.masked_fill_(~torch.from_numpy(near).view(gallery.blocks, 1, gallery.blocks), inf)
    return bounds


def _choose_seeds(bounds: Tensor) -> np.ndarray:
    """(query blocks, seeds, 2): rank and block of the best bound in each of the most promising images."""
    least, block = bounds.min(2)  # (blocks, k)
    rank = least.topk(min(_SEEDS, least.shape[1]), dim=1, largest=False).indices  # (blocks, seeds)
    return torch.stack([rank, block.gather(1, rank)], 2).numpy()


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Matrix products in real float32: bounds from bfloat16 or TF32 would not be bounds."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _compiled(function):
    """numba's compiler, where it is installed; "contract" allows fused multiply-add and no other liberty."""
    return numba.njit(fastmath={"contract"}, cache=True, nogil=True)(function) if numba else function


@_compiled
def _descend(low, high, bounds, seeds, images, q3, g3, w3, q2, g2, w2, q1, g1, w1, columns, radius, found):
    """Query blocks ``low`` to ``high``; the gallery passes by image after image, so that one stays in cache."""
    blocks, kappa = found.shape[0], found.shape[2]
    per_image = blocks * LANES
    best = np.full((high - low, LANES, kappa), np.float32(np.inf))
    worst = np.full((high - low, 5), np.float32(np.inf))  # of each cell's pixels, and of all the block's
    last = np.full((high - low, 5), _NOWHERE)  # the place that goes with it
    middle, fine = np.empty((4, LANES), np.float32), np.empty((4, LANES), np.float32)
    for P in range(low, high):
        for s in range(seeds.shape[1]):
            rank, group = seeds[P, s, 0], seeds[P, s, 1] // 4
            _open(P, rank, images[rank], group, bounds[P, rank], q3, g3, w3, q2, g2, w2, q1, g1, w1, columns, radius,
                  best[P - low], found[P], worst[P - low], last[P - low], middle, fine)  # fmt: skip
    for rank in range(len(images)):
        for P in range(low, high):
            bound = bounds[P, rank]
            for group in range(g2.shape[1]):
                first = 4 * group
                least = bound[first]
                for R in range(first + 1, min(first + 4, blocks)):
                    least = min(least, bound[R])
                if least > worst[P - low, 4]:
                    continue
                place = rank * per_image + (first // columns) * LANES * columns
                if least == worst[P - low, 4] and place > last[P - low, 4]:
                    continue
                _open(P, rank, images[rank], group, bound, q3, g3, w3, q2, g2, w2, q1, g1, w1, columns, radius,
                      best[P - low], found[P], worst[P - low], last[P - low], middle, fine)  # fmt: skip


@_compiled
def _open(P, rank, image, group, bound, q3, g3, w3, q2, g2, w2, q1, g1, w1, columns, radius, best, found, worst, last,
          middle, fine):  # fmt: skip
    """One query block against a group of four gallery blocks: their cells, then the pixels of cells that may win."""
    _measure(q2[P], g2[image, group], middle)
    width = 4 * columns
    for R in range(4 * group, min(4 * group + 4, len(bound))):
        inside = 4 * (R - 4 * group)  # the block's first lane in the group
        first = (rank * len(bound) * LANES) + (R // columns) * 4 * width + (R % columns) * 4
        coarse = np.float32(-1)
        for a in range(4):
            least = min(
                min(middle[a, inside], middle[a, inside + 1]), min(middle[a, inside + 2], middle[a, inside + 3])
            )
            low = (bound[R] + w2 * least) * _SHAVE
            if low > worst[a] or (low == worst[a] and first > last[a]):
                continue
            _measure(q1[P, a], g1[image, R], fine)
            hit = False
            for e in range(4):
                pixel = 4 * a + e
                row = 4 * (P // columns) + 2 * (a >> 1) + (e >> 1)
                column = 4 * (P % columns) + 2 * (a & 1) + (e & 1)
                for j in range(LANES):
                    below = w2 * middle[a, inside + (j >> 2)]
                    if ((bound[R] + below) + w1 * fine[e, j]) * _SHAVE > best[pixel, -1]:
                        continue
                    if coarse < 0:  # few pairs come this far
                        coarse = _coarse_distance(q3[P], g3[image, R], w3)
                    total = (coarse + below) + w1 * fine[e, j]
                    there_row = 4 * (R // columns) + 2 * (j >> 3) + ((j >> 1) & 1)
                    there_column = 4 * (R % columns) + 2 * ((j >> 2) & 1) + (j & 1)
                    if abs(there_row - row) > radius or abs(there_column - column) > radius:
                        continue
                    place = rank * len(bound) * LANES + there_row * width + there_column
                    hit |= _insert(best[pixel], found[pixel], total, place)
            if hit:
                _tighten(a, best, found, worst, last)


@_compiled
def _measure(query, lanes, sums):
    """Squared distances of four query cells (c, 4) to sixteen gallery cells (c, 16), each summed channel by channel."""
    s0, s1, s2, s3 = sums[0], sums[1], sums[2], sums[3]
    sums[:] = np.float32(0)
    for k in range(lanes.shape[0]):
        x0, x1, x2, x3 = query[k, 0], query[k, 1], query[k, 2], query[k, 3]
        for j in range(LANES):
            g = lanes[k, j]
            s0[j] += (x0 - g) * (x0 - g)
            s1[j] += (x1 - g) * (x1 - g)
            s2[j] += (x2 - g) * (x2 - g)
            s3[j] += (x3 - g) * (x3 - g)


@_compiled
def _coarse_distance(query, cell, weights):
    """The weighted squared distance of two coarse cells, always summed in the same order."""
    total = np.float32(0)
    for k in range(len(query)):
        difference = query[k] - cell[k]
        total += weights[k] * difference * difference
    return total


@_compiled
def _insert(best, found, distance, place):
    """Put a candidate into a pixel's sorted list of the nearest; of equal ones the first place goes before."""
    at = len(best) - 1
    if distance > best[at] or (distance == best[at] and place >= found[at]):
        return False
    for earlier in range(at):
        if place == found[earlier]:  # a seed that comes by again
            return False
    while at > 0 and (distance < best[at - 1] or (distance == best[at - 1] and place < found[at - 1])):
        best[at], found[at] = best[at - 1], found[at - 1]
        at -= 1
    best[at], found[at] = distance, place
    return True


@_compiled
def _tighten(a, best, found, worst, last):
    """The worst of a cell's four pixels, then of the block's four cells: what a newcomer must not exceed."""
    worst[a], last[a] = best[4 * a, -1], found[4 * a, -1]
    for pixel in range(4 * a + 1, 4 * a + 4):
        if best[pixel, -1] > worst[a] or (best[pixel, -1] == worst[a] and found[pixel, -1] > last[a]):
            worst[a], last[a] = best[pixel, -1], found[pixel, -1]
    worst[4], last[4] = worst[0], last[0]
    for cell in range(1, 4):
        if worst[cell] > worst[4] or (worst[cell] == worst[4] and last[cell] > last[4]):
            worst[4], last[4] = worst[cell], last[cell]


# ---- the same in slow motion -----------------------------------------------------------------------------------------


@dataclass
class Visits:
    """How many pairs of cells were measured at each level, fine to coarse, and how many there are."""

    measured: list[int]
    possible: list[int]


def descend_plainly(
    query: Sequence[np.ndarray],
    gallery: Sequence[np.ndarray],
    weights: Sequence[float],
    kappa: int = 1,
    radius: int | None = None,
) -> tuple[np.ndarray, np.ndarray, Visits]:
    """The descent, written to be read: NumPy and recursion, any number of levels, any whole step between them.

    Parameters
    ----------
    query, gallery
        Levels (c, h, w) and (n, c, h, w), fine to coarse, grids nesting.

    Returns
    -------
    distance, place, visits
        (kappa, h, w) squared distances, nearest first; where they lie, as image * h * w + row * w + column; and what
        the search looked at.
    """
    n, _, h, w = gallery[0].shape
    best = np.full((kappa, h, w), inf)
    found = np.full((kappa, h, w), _NOWHERE)
    grids = [level.shape[-2:] for level in query]
    visits = Visits([0] * len(query), [n * (rows * columns) ** 2 for rows, columns in grids])

    def pixels(level: int, row: int, column: int) -> tuple[slice, slice]:
        down, across = h // grids[level][0], w // grids[level][1]
        return slice(row * down, (row + 1) * down), slice(column * across, (column + 1) * across)

    def near(level: int, here: tuple[int, int], there: tuple[int, int]) -> bool:
        spans = zip(pixels(level, *here), pixels(level, *there))
        return radius is None or all(max(b.start - a.stop, a.start - b.stop) + 1 <= radius for a, b in spans)

    def open_pair(level: int, here: tuple[int, int], image: int, there: tuple[int, int], total: float) -> None:
        if total > worst(level, here) or not near(level, here, there):  # nothing below can be nearer
            return
        if level == 0:
            insert(here, total, image * h * w + there[0] * w + there[1])
            return
        for inner in children(level, here):
            for other in children(level, there):
                visits.measured[level - 1] += 1
                difference = query[level - 1][:, inner[0], inner[1]] - gallery[level - 1][image, :, other[0], other[1]]
                distance = float(difference @ difference)
                open_pair(level - 1, inner, image, other, total + weights[level - 1] * distance)

    def worst(level: int, here: tuple[int, int]) -> float:
        return best[-1][pixels(level, *here)].max()

    def children(level: int, cell: tuple[int, int]) -> list[tuple[int, int]]:
        down, across = grids[level - 1][0] // grids[level][0], grids[level - 1][1] // grids[level][1]
        return [(cell[0] * down + i, cell[1] * across + j) for i in range(down) for j in range(across)]

    def insert(here: tuple[int, int], total: float, place: int) -> None:
        at = (slice(None), *here)
        nearest = sorted([*zip(best[at], found[at]), (total, place)])[:kappa]
        best[at], found[at] = zip(*nearest)

    top = len(query) - 1
    visits.measured[top] = visits.possible[top]
    for here in np.ndindex(*grids[top]):
        difference = gallery[top] - query[top][:, here[0], here[1], None, None]
        bound = weights[top] * (difference**2).sum(1)  # (n, rows, columns): how near each block can be at best
        for flat in np.argsort(bound, axis=None, kind="stable"):  # best first, so that the rest is soon out of reach
            image, row, column = (int(at) for at in np.unravel_index(flat, bound.shape))
            if bound[image, row, column] > worst(top, here):
                break
            open_pair(top, here, image, (row, column), float(bound[image, row, column]))
    return best, found, visits
