"""Which search serves where: descent through nested grids, scan of one level, or all pairs on any grids and device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from spade_kit.search import runtime
from spade_kit.search.branch_and_bound import can_descend, descend, measure_places
from spade_kit.search.brute_force import search_densely
from spade_kit.search.layout import LANES, Lanes, lay_out, nested_order, within
from spade_kit.search.projection import scan


class PixelSearch:
    """One query among some images of a gallery; what has to be laid out for that is laid out once.

    Parameters
    ----------
    query
        Levels (1, c, h, w), fine to coarse.
    gallery
        `Lanes`, read in place, or levels (n, c, h, w).
    images
        (k,): which of the gallery's. Places count along them.
    """

    def __init__(self, query: Sequence[Tensor], gallery: Lanes | Sequence[Tensor], images: np.ndarray) -> None:
        self.query, self.gallery, self.images = query, gallery, images
        self.grids = [(level.shape[2], level.shape[3]) for level in query]
        on_cpu = isinstance(gallery, Lanes) or gallery[0].device.type == "cpu"
        self.scans = on_cpu and runtime.numba is not None
        self.descends = on_cpu and can_descend([level.shape for level in query])
        if on_cpu and not self.scans:
            runtime.say_what_is_lost()

    # ---- all levels at once ------------------------------------------------------------------------------------------

    def find(
        self,
        weights: np.ndarray,
        kappa: int,
        radius: int | None,
        first: np.ndarray | None = None,
        history: bool = False,
    ) -> np.ndarray:
        """The places (kappa, h, w) of each pixel's nearest, as `descend` gives them; ``history`` if it descends."""
        if self.descends:
            lanes, images = self._lanes
            return descend(self._asked, lanes, images, weights, kappa, radius, first, history)
        return search_densely(self.query, self._levels, weights, kappa, window_of(self.grids[0], self.grids[0], radius))

    def measure(self, place: np.ndarray) -> np.ndarray:
        """(L, kappa, h, w) float64: each pair's squared distance at each level, from differences."""
        if self.descends:
            return measure_places(self._asked, *self._lanes, place)
        return np.stack([_measure(here, there, place) for here, there in zip(self.query, self._levels)])

    @cached_property
    def _asked(self) -> Lanes:
        return Lanes.of(self.query)

    @cached_property
    def _lanes(self) -> tuple[Lanes, np.ndarray]:
        """The gallery laid out, and where in it the images are."""
        if isinstance(self.gallery, Lanes):
            return self.gallery, self.images
        return Lanes.of(self._levels), np.arange(len(self.images))

    @cached_property
    def _levels(self) -> Sequence[Tensor]:
        """(k, c, h, w) float32."""
        return levels_of(self.gallery, self.images)

    # ---- one level by itself -----------------------------------------------------------------------------------------

    def find_in_level(self, level: int, kappa: int, radius: int | None, history: bool = False) -> np.ndarray:
        """As `find`, on the level's own grid; ``history`` if it scans."""
        window = window_of(self.grids[level], self.grids[0], radius)
        if self.scans:
            asked, held, order, images = self._tiles(level)
            rows, cols = window or (np.ones((side, side), bool) for side in self.grids[level])
            return scan(asked, held, order, images, kappa, (rows, cols), history)
        one = np.ones(1, np.float32)
        return search_densely([self.query[level]], [self._levels[level]], one, kappa, window)

    def measure_in_level(self, level: int, place: np.ndarray) -> np.ndarray:
        """(1, kappa, h, w) float64: each pair's squared distance."""
        if not isinstance(self.gallery, Lanes):
            return _measure(self.query[level], self._levels[level], place)[None]
        asked, held, order, images = self._tiles(level)
        position = np.empty_like(order)
        position[order] = np.arange(len(order))
        there, here = position[place % len(order)], position.reshape(place.shape[1:])
        cells = held[images[place // len(order)], there // LANES, :-1, there % LANES]  # (kappa, h, w, c)
        return ((asked[here // LANES, :-1, here % LANES].astype(np.float64) - cells) ** 2).sum(-1)[None]

    def _tiles(self, level: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """A level of query and gallery as tiles, which cell stands where in them, and where the images are."""
        if isinstance(self.gallery, Lanes) and level < 2:
            asked, held = ((lanes.fine, lanes.middle)[level] for lanes in (self._asked, self.gallery))
            return asked[0], held, nested_order(*self.grids[level], 2 - level), self.images
        lanes = self.gallery if isinstance(self.gallery, Lanes) else None
        if lanes and level == 2 and len(self.grids) == 3:  # a tile of blocks is a tile of this level's cells
            return self._asked.coarse[0], lanes.coarse, np.arange(lanes.blocks), self.images
        there = lanes.level(level, self.images) if lanes else self._levels[level]
        asked, held = (lay_out(cells.flatten(2).cpu().numpy()) for cells in (self.query[level], there))
        h, w = self.grids[level]
        return asked[0], held, np.arange(h * w), np.arange(len(self.images))


def levels_of(gallery: Lanes | Sequence[Tensor], images: np.ndarray) -> Sequence[Tensor]:
    """The levels of some images, on the spot: (k, c, h, w) float32."""
    if isinstance(gallery, Lanes):
        return gallery.read(images)
    if len(images) == len(gallery[0]) and (images == np.arange(len(images))).all():
        return [level.float() for level in gallery]
    return [level[torch.from_numpy(images).to(level.device)].float() for level in gallery]


def window_of(
    cells: tuple[int, int], fine: tuple[int, int], radius: int | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Which rows and which columns of a level may be compared; None for all."""
    return None if radius is None else (within(cells[0], fine[0], radius), within(cells[1], fine[1], radius))


def least_candidates(cells: tuple[int, int], fine: tuple[int, int], radius: int | None) -> int:
    """How many of a level's cells the window holds where it holds fewest: in a corner."""
    window = window_of(cells, fine, radius)
    return cells[0] * cells[1] if window is None else int(window[0].sum(1).min() * window[1].sum(1).min())


def _measure(query: Tensor, gallery: Tensor, place: np.ndarray) -> np.ndarray:
    """(kappa, h, w) float64: the squared distances of cells that hold pixels of a grid at least as fine."""
    h, w = place.shape[1:]
    _, _, rows, cols = gallery.shape
    image, row, col = (torch.from_numpy(at).to(gallery.device) for at in (place // (h * w), place // w % h, place % w))
    there = gallery.permute(0, 2, 3, 1)[image, row * rows // h, col * cols // w]
    here_row, here_col = np.indices((h, w))
    here = query[0].permute(1, 2, 0).cpu().double().numpy()[here_row * rows // h, here_col * cols // w]
    return ((here - there.cpu().double().numpy()) ** 2).sum(-1)
