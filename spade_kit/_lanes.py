"""How a gallery lies in memory for the descent: sixteen nested cells side by side, channels in front."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

LANES = 16


def grids_nest(shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether each grid (.., h, w) is exactly half the one before, two levels at least, in blocks of 4 x 4 pixels."""
    grids = [shape[-2:] for shape in shapes]
    halves = all(fine == (2 * coarse[0], 2 * coarse[1]) for fine, coarse in pairwise(grids))
    return len(grids) > 1 and halves and grids[0][0] % 4 == 0 and grids[0][1] % 4 == 0


def within(cells: int, fine: int, radius: int) -> np.ndarray:
    """(cells, cells): whether two cells of an axis hold fine pixels no farther apart than ``radius``."""
    cell = np.arange(fine) * cells // fine
    first = np.searchsorted(cell, np.arange(cells))
    last = np.searchsorted(cell, np.arange(cells), side="right") - 1
    gap = np.maximum(first[:, None] - last, first - last[:, None])
    return gap <= radius


class Lanes:
    """A gallery of n images laid out for the descent, once; searched in place, image by image.

    ``coarse`` (n, blocks, c) rows for the matrix product, c padded to a multiple of 16; ``middle``
    (n, groups, c, 16): the 16 cells of four blocks side by side; ``fine`` (n, blocks, c, 16): the 16 pixels of a block
    side by side. Levels beyond the third are joined to ``coarse``; where there are only two, ``coarse`` is empty and
    bounds nothing.
    """

    def __init__(self, n: int, shapes: Sequence[tuple[int, ...]]) -> None:
        """``shapes`` are (c, h, w) of each level, fine to coarse."""
        self.shapes = [tuple(shape) for shape in shapes]
        self.rows, self.columns = self.shapes[0][1] // 4, self.shapes[0][2] // 4  # of blocks
        self.blocks = self.rows * self.columns
        self.counts = [c for c, _, _ in self.shapes[2:]]  # channels of each level joined in `coarse`
        groups = -(-self.blocks // 4)
        self.coarse = torch.zeros(n, self.blocks, -(-sum(self.counts) // LANES) * LANES, dtype=torch.float32)
        self.norms = torch.zeros(n, self.blocks, len(self.counts), dtype=torch.float32)  # squared, level by level
        self.middle = np.zeros((n, groups, self.shapes[1][0], LANES), np.float32)
        self.fine = np.zeros((n, self.blocks, self.shapes[0][0], LANES), np.float32)

    def __len__(self) -> int:
        return len(self.fine)

    def write(self, start: int, levels: Sequence[Tensor]) -> None:
        """Lay out some images' (n, c, h, w) levels from place ``start`` on."""
        here = slice(start, start + len(levels[0]))
        self.fine[here] = _lanes(nest(levels[0], 2))
        self.middle[here] = _lanes(nest(levels[1], 1))
        first = 0
        for number, level in enumerate(levels[2:]):
            rows = _repeat(level, 2**number).flatten(2).transpose(1, 2)  # (n, blocks, c)
            self.coarse[here, :, first : first + rows.shape[2]] = rows
            self.norms[here, :, number] = (rows * rows).sum(2)
            first += rows.shape[2]

    def read(self, images: np.ndarray) -> tuple[Tensor, ...]:
        """The levels (n, c, h, w) of some images, as they were written."""
        (_, h, w), (_, h2, w2) = self.shapes[:2]
        fine = _unnest(_rows(self.fine[images]), h, w, 2)
        middle = _unnest(_rows(self.middle[images])[:, : h2 * w2], h2, w2, 1)
        joined = self.coarse[torch.as_tensor(images)].transpose(1, 2).unflatten(2, (self.rows, self.columns))
        first, coarse = 0, []
        for number, count in enumerate(self.counts):
            coarse.append(joined[:, first : first + count, :: 2**number, :: 2**number].contiguous())
            first += count
        return fine, middle, *coarse

    def gather(self, image: np.ndarray, row: np.ndarray, col: np.ndarray) -> list[np.ndarray]:
        """(.., c) features at every level of some pixels of the finest grid."""
        block = row // 4 * self.columns + col // 4
        cell = 2 * (row // 2 % 2) + col // 2 % 2  # in its block
        pixel = 4 * cell + 2 * (row % 2) + col % 2
        coarse = self.coarse.numpy()[image, block]
        ends = np.cumsum([0, *self.counts])
        return [
            self.fine[image, block, :, pixel],
            self.middle[image, block // 4, :, 4 * (block % 4) + cell],
            *(coarse[..., first:end] for first, end in pairwise(ends)),
        ]


def nest(level: Tensor, times: int) -> Tensor:
    """(n, c, h, w) -> (n, h * w, c), the pixels of a block side by side: block, then cell in it, then pixel in that."""
    n, c, h, w = level.shape
    halves = level.permute(0, 2, 3, 1).reshape(n, h >> times, *[2] * times, w >> times, *[2] * times, c)
    inner = [axis for step in range(times) for axis in (2 + step, 3 + times + step)]
    return halves.permute(0, 1, 2 + times, *inner, 3 + 2 * times).reshape(n, h * w, c)


def _unnest(rows: Tensor, h: int, w: int, times: int) -> Tensor:
    """The way back: (n, h * w, c) -> (n, c, h, w)."""
    n, _, c = rows.shape
    split = rows.reshape(n, h >> times, w >> times, *[2] * (2 * times), c)
    down = [1, *range(3, 3 + 2 * times, 2)]
    across = [2, *range(4, 3 + 2 * times, 2)]
    return split.permute(0, 3 + 2 * times, *down, *across).reshape(n, c, h, w)


def _lanes(rows: Tensor) -> np.ndarray:
    """(n, m, c) -> (n, ceil(m / 16), c, 16)"""
    rows = torch.nn.functional.pad(rows, (0, 0, 0, -rows.shape[1] % LANES))
    return rows.unflatten(1, (-1, LANES)).transpose(2, 3).contiguous().cpu().numpy()


def _rows(lanes: np.ndarray) -> Tensor:
    """(n, g, c, 16) -> (n, g * 16, c)"""
    return torch.from_numpy(lanes).transpose(2, 3).flatten(1, 2)


def _repeat(level: Tensor, times: int) -> Tensor:
    return level.repeat_interleave(times, 2).repeat_interleave(times, 3)
