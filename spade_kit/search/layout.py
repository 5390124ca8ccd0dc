"""How a gallery lies in memory; for branch and bound, sixteen nested cells side by side, channels outermost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self

SIMD_WIDTH = 16
CHUNK = 32  # channels summed at a time
STEP = 64  # channels of `CellLayout` compared at a time: enough vectors to keep a processor busy


def grids_nest(shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether each grid (.., h, w) is half the previous one, with at least two levels, in blocks of 4 x 4 pixels."""
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


def slack(channels: int) -> float:
    """The most by which a bound in product form may exceed the distance, in units of |q|^2 + |g|^2.

    With n additions in a row, |q|^2 + |g|^2 - 2 q.g has an error of at most 2 n 2^-24 (|q|^2 + |g|^2): q.g is at most
    half of |q|^2 + |g|^2 and counts twice. Channels are summed `CHUNK` at a time, then the chunks. The extra 16 covers
    weights, the rounding of the lengths and the sum over levels. Underflow is not covered: squares below 1e-38 are
    lost.
    """
    return (2 * (min(channels, CHUNK) + channels / CHUNK) + 16) * 2.0**-24


def stretch_for(channels: int) -> np.float32:
    """The factor by which a bound may exceed the current best: measured distances have rounding errors, too.

    Two sums of ``channels`` squared differences are compared, each with an error of less than channels * 2^-24.
    """
    return np.float32(1 + 2 * (channels + 16) * 2.0**-24)


class Layout:
    """The features of n images in the arrays that a search reads in place, image by image.

    A subclass names its arrays, (n, ...) each, makes them in ``__init__(n, shapes)``, and has `write` and `level`.
    """

    names: tuple[str, ...]

    def __init__(self, n: int, shapes: Sequence[tuple[int, ...]]) -> None:
        """``shapes`` are (c, h, w) of each level, fine to coarse."""
        del n
        self._unread: set[int] = set()  # images in a file that have not been checked
        self._check: Callable[[int, Sequence[np.ndarray]], None] = lambda image, tiles: None
        self.shapes = [tuple(shape) for shape in shapes]

    def write(self, start: int, levels: Sequence[Tensor]) -> None:
        """Write the (n, c, h, w) levels of some images from index ``start`` on."""
        raise NotImplementedError

    def level(self, number: int, images: np.ndarray) -> Tensor:
        """Read one level (n, c, h, w) of some images back."""
        raise NotImplementedError

    @classmethod
    def of(cls, levels: Sequence[Tensor]) -> Self:
        """Lay out the levels (n, c, h, w) of a pyramid."""
        layout = cls(len(levels[0]), [tuple(level.shape[1:]) for level in levels])
        layout.write(0, levels)
        return layout

    @classmethod
    def held(
        cls,
        shapes: Sequence[tuple[int, ...]],
        arrays: Mapping[str, np.ndarray],
        check: Callable[[int, Sequence[np.ndarray]], None] | None = None,
    ) -> Self:
        """Wrap existing `arrays`, without a copy; ``check`` gets an image and its arrays before they are first read."""
        layout = cls(0, shapes)
        for name, room in layout.arrays.items():
            needed = (len(arrays[cls.names[0]]), *room.shape[1:])
            if arrays[name].shape != needed or arrays[name].dtype != room.dtype:
                raise ValueError(f"{name} must have shape {needed} and be {room.dtype}; got {arrays[name].shape}.")
            setattr(layout, name, arrays[name])
        if check is not None:
            layout._check, layout._unread = check, set(range(len(layout)))
        return layout

    def __len__(self) -> int:
        return len(self.arrays[self.names[0]])

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in self.names}

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    def verify(self, images: np.ndarray) -> Self:
        """Check those of the images that have not been read before."""
        for image in self._unread.intersection(images.tolist()) if self._unread else ():
            self._check(image, self.arrays_of(image))
            self._unread.discard(image)
        return self

    def arrays_of(self, image: int) -> list[np.ndarray]:
        """The arrays of one image, not checked."""
        return [array[image] for array in self.arrays.values()]

    def take(self, images: np.ndarray, more: Layout | None = None) -> Layout:
        """A copy of some images, followed by all images of another layout."""
        taken = self.make_room(len(images) + (len(more) if more else 0))
        self.copy_to(taken, images)
        if more:
            more.copy_to(taken, np.arange(len(more)), len(images))
        return taken

    def make_room(self, n: int) -> Layout:
        """A layout for n such images."""
        return type(self)(n, self.shapes)

    def copy_to(self, room: Layout, images: np.ndarray, start: int = 0) -> None:
        """Copy some images into another layout, from index ``start`` on."""
        self.verify(images)
        for name, array in room.arrays.items():
            here = array[start : start + len(images)]
            np.take(self.arrays[name], images, axis=0, out=here, mode="clip")  # other modes copy twice

    def first(self, n: int) -> Self:
        """The first n images, in the same memory."""
        fewer = copy(self)
        for name, array in self.arrays.items():
            setattr(fewer, name, array[:n])
        return fewer

    def read(self, images: np.ndarray) -> tuple[Tensor, ...]:
        """Read all levels of some images back."""
        return tuple(self.level(number, images) for number in range(len(self.shapes)))


class Shards(Layout):
    """Layouts of the same levels that stay where they are, such as each in its own file, one behind the other.

    A search copies the images that it needs (`take`).
    """

    def __init__(self, parts: Sequence[Layout]) -> None:
        self.parts, self.shapes = list(parts), parts[0].shapes
        self.starts = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    def verify(self, images: np.ndarray) -> Self:
        for part, _, here in self._find(images):
            part.verify(here)
        return self

    def make_room(self, n: int) -> Layout:
        return self.parts[0].make_room(n)

    def copy_to(self, room: Layout, images: np.ndarray, start: int = 0) -> None:
        for part, places, here in self._find(images):
            part.verify(here)
            for name, array in room.arrays.items():
                array[start + places] = part.arrays[name][here]

    def read(self, images: np.ndarray) -> tuple[Tensor, ...]:
        return self.take(images).read(np.arange(len(images)))

    def _find(self, images: np.ndarray) -> Iterator[tuple[Layout, np.ndarray, np.ndarray]]:
        """Each part that holds some of the images, their positions in ``images``, and their indices in the part."""
        shard = np.searchsorted(self.starts, images, side="right") - 1
        for number in np.unique(shard):
            places = np.flatnonzero(shard == number)
            yield self.parts[number], places, images[places] - self.starts[number]


class SimdLayout(Layout):
    """The layout of branch and bound.

    Each level is a (n, tiles, c + 1, 16) array: ``coarse`` has 16 blocks of 4 x 4 pixels side by side, ``middle`` the
    16 cells of four blocks, ``fine`` the 16 pixels of a block. The channels of a level are followed by its squared
    length, minus the error bound of the product form (`slack`), so that one sum of products bounds a distance. Levels
    beyond the third are joined to ``coarse``, each with its own length; if there are only two, ``coarse`` holds zeros
    and excludes nothing.
    """

    names = ("coarse", "middle", "fine")

    def __init__(self, n: int, shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__(n, shapes)
        self.rows, self.columns = self.shapes[0][1] // 4, self.shapes[0][2] // 4  # of blocks
        self.blocks = self.rows * self.columns
        channels = [c for c, _, _ in self.shapes]
        ends = np.cumsum([0, *(c + 1 for c in channels[2:])]).tolist()
        joined = [(first, end - 1) for first, end in pairwise(ends)]
        self.spans = [(0, channels[0]), (0, channels[1]), *joined]  # the range of each level's channels in its tiles
        self.coarse = _room(n, -(-self.blocks // SIMD_WIDTH), max(1, ends[-1]))
        self.middle = _room(n, -(-self.blocks // 4), channels[1] + 1)
        self.fine = _room(n, self.blocks, channels[0] + 1)

    def write(self, start: int, levels: Sequence[Tensor]) -> None:
        fine, middle, *coarse = (level.cpu().numpy() for level in levels)
        here = slice(start, start + len(fine))
        _fill(self.fine[here], nest(fine, 2))
        _fill(self.middle[here], nest(middle, 1))
        for number, (level, (first, last)) in enumerate(zip(coarse, self.spans[2:])):
            blocks = level.repeat(2**number, 2).repeat(2**number, 3).reshape(*level.shape[:2], -1)
            _fill(self.coarse[here, :, first : last + 1], blocks)

    def level(self, number: int, images: np.ndarray) -> Tensor:
        self.verify(images)
        c, h, w = self.shapes[number]
        if number > 1:
            step, (first, last) = 2 ** (number - 2), self.spans[number]
            blocks = _cells(self.coarse[images, :, first:last])[:, :, : self.blocks]
            return torch.from_numpy(blocks.reshape(-1, c, self.rows, self.columns)[:, :, ::step, ::step].copy())
        tiles, order = self.tiles(number)
        on_grid = np.empty((len(images), c, h * w), np.float32)
        on_grid[:, :, order] = _cells(tiles[images, :, :-1])[:, :, : h * w]
        return torch.from_numpy(on_grid.reshape(-1, c, h, w))

    def tiles(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The tiles of one of the first three levels, and the grid cell at each position in them."""
        _, h, w = self.shapes[number]
        return (self.fine, self.middle, self.coarse)[number], nested_order(h, w, 2 - number)


def lay_out(cells: np.ndarray) -> np.ndarray:
    """Lay out (n, c, m) cells as tiles: (n, ceil(m / 16), c + 1, 16)."""
    n, c, m = cells.shape
    room = _room(n, -(-m // SIMD_WIDTH), c + 1)
    _fill(room, cells)
    return room


def prepare(
    tiles: np.ndarray, spans: Sequence[tuple[int, int]], weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The query's cells, the factors that give weighted bounds of gallery cells, and the constants added to these.

    A bound is own + sum(terms * gallery cell) = w |q|^2 - 2 w q.g + w |g|^2, with shortened lengths.
    """
    terms, own = np.zeros_like(tiles), np.zeros((len(tiles), SIMD_WIDTH), np.float32)
    for (first, last), weight in zip(spans, weights):
        np.multiply(tiles[:, first:last], -2 * weight, out=terms[:, first:last])
        terms[:, last] = weight
        own += weight * tiles[:, last]
    return tiles, terms, own


def nested_order(h: int, w: int, times: int) -> np.ndarray:
    """(h * w,): the grid cell at each position of the nested order."""
    return nest(np.arange(h * w).reshape(1, 1, h, w), times).ravel()


def put_on_grid(found: np.ndarray, order: np.ndarray, h: int, w: int) -> np.ndarray:
    """Move results from tiles (n, tiles, 16, kappa) back to the grid: (n, kappa, h, w)."""
    n, kappa = len(found), found.shape[-1]
    on_grid = np.empty((n, h * w, kappa), found.dtype)
    on_grid[:, order] = found.reshape(n, -1, kappa)[:, : h * w]
    return on_grid.swapaxes(1, 2).reshape(n, kappa, h, w)


def nest(level: np.ndarray, times: int) -> np.ndarray:
    """(n, c, h, w) -> (n, c, h * w), pixels of a block side by side: by block, then by cell, then by pixel."""
    n, c, h, w = level.shape
    halves = level.reshape(n, c, h >> times, *[2] * times, w >> times, *[2] * times)
    inner = [axis for step in range(times) for axis in (3 + step, 4 + times + step)]
    return halves.transpose(0, 1, 2, 3 + times, *inner).reshape(n, c, h * w)


def _room(n: int, tiles: int, channels: int) -> np.ndarray:
    """Zeros aligned to a cache line, as torch's arrays are and NumPy's need not be: a row of lanes is then one line."""
    room = torch.empty(n, tiles, channels, SIMD_WIDTH, dtype=torch.float32, device="cpu").numpy()
    room.fill(0)
    return room


def _fill(room: np.ndarray, cells: np.ndarray) -> None:
    """Write (n, c, m) into a level's tiles (n, ceil(m / 16), c + 1, 16), followed by the lengths."""
    n, c, m = cells.shape
    lengths = np.einsum("ncm,ncm->nm", cells, cells, dtype=np.float64) * (1 - slack(c))
    cells = np.concatenate([cells, lengths.astype(np.float32)[:, None]], 1)
    whole = m // SIMD_WIDTH
    room[:, :whole] = cells[:, :, : whole * SIMD_WIDTH].reshape(n, c + 1, whole, SIMD_WIDTH).swapaxes(1, 2)
    if whole < room.shape[1]:
        room[:, whole, :, : m % SIMD_WIDTH] = cells[:, :, whole * SIMD_WIDTH :]


def _cells(tiles: np.ndarray) -> np.ndarray:
    """The inverse: (n, t, c, 16) -> (n, c, t * 16)."""
    n, t, c, _ = tiles.shape
    return tiles.swapaxes(1, 2).reshape(n, c, t * SIMD_WIDTH)
