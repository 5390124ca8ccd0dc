"""Selection of the search: for nested grids, for one grid, for one level, or brute force for any grids and devices."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spade_kit.search import runtime
from spade_kit.search.branch_and_bound import measure_places, search_branch_and_bound, supports_branch_and_bound
from spade_kit.search.brute_force import Window, measure_brute_force, search_brute_force
from spade_kit.search.layout import Layout, Shards, SimdLayout, lay_out, within
from spade_kit.search.projection import measure_cells, search_projection
from spade_kit.search.shared_grid import CellLayout, measure_shared_grid, search_shared_grid, supports_shared_grid


def layout_for(shapes: Sequence[tuple[int, ...]]) -> type[Layout] | None:
    """The layout in which levels (.., c, h, w) are searched in place; None if they are kept as they are."""
    if supports_branch_and_bound(shapes):
        return SimdLayout
    return CellLayout if supports_shared_grid(shapes) else None


class PixelSearch:
    """The search of one query among some images of a gallery: the nearest places of each pixel, and their distances.

    `find` and `measure` find places and measure pairs for all levels together, `find_in_level` and `measure_in_level`
    for one level on its own grid. To add a search, add a branch to these four methods, or a class that has them.
    Layouts are computed once.

    Parameters
    ----------
    query
        Levels (1, c, h, w), fine to coarse.
    gallery
        A layout, read in place, or levels (n, c, h, w).
    images
        (k,): indices into the gallery. Places refer to this selection.
    search
        ``"auto"``: the fastest available. ``"brute_force"``: all pairs, for any layout, without compiled code.

    Attributes
    ----------
    layout
        That of a compiled search for all levels together; None for brute force.
    """

    def __init__(
        self, query: Sequence[Tensor], gallery: Layout | Sequence[Tensor], images: np.ndarray, search: str = "auto"
    ) -> None:
        if isinstance(gallery, Shards):
            gallery, images = gallery.take(images), np.arange(len(images))
        self.query, self.gallery, self.images = query, gallery, images
        held = gallery.verify(images).shapes if isinstance(gallery, Layout) else [x.shape[1:] for x in gallery]
        if [tuple(level.shape[1:]) for level in query] != [tuple(shape) for shape in held]:
            raise ValueError(
                f"Query and gallery must have the same levels (c, h, w); got {[tuple(x.shape[1:]) for x in query]} and "
                f"{[tuple(shape) for shape in held]}. Compute both with the same backbone."
            )
        self.grids = [(level.shape[2], level.shape[3]) for level in query]
        wanted = search == "auto" and (isinstance(gallery, Layout) or gallery[0].device.type == "cpu")
        self.layout = layout_for([level.shape for level in query]) if wanted else None
        self._is_compiled = wanted and runtime.numba is not None
        if wanted and not self._is_compiled:
            runtime.warn_without_numba()

    def keeps_history(self, by_level: bool) -> bool:
        """Whether ``history`` can be had, of one level or of all together."""
        return self._is_compiled if by_level else self.layout is not None

    def find(
        self,
        weights: np.ndarray,
        kappa: int,
        radius: int | None,
        first: np.ndarray | None = None,
        history: bool = False,
    ) -> np.ndarray:
        """The nearest places of each pixel, (kappa, h, w), as `search_branch_and_bound` returns them."""
        if self.layout is SimdLayout:
            return search_branch_and_bound(*self._laid_out, weights, kappa, radius, first, history)
        if self.layout is CellLayout:
            return search_shared_grid(*self._laid_out, weights, kappa, radius, first, history)
        window = window_of(self.grids[0], self.grids[0], radius)
        return search_brute_force(self.query, self._levels, weights, kappa, window)

    def measure(self, place: np.ndarray) -> np.ndarray:
        """(L, kappa, h, w) float64: each pair's squared distance at each level, from differences."""
        if self.layout is SimdLayout:
            return measure_places(*self._laid_out, place)
        if self.layout is CellLayout:
            return measure_shared_grid(*self._laid_out, place, range(len(self.grids)))
        return np.stack([measure_brute_force(here, there, place) for here, there in zip(self.query, self._levels)])

    def find_in_level(self, level: int, kappa: int, radius: int | None, history: bool = False) -> np.ndarray:
        """As `find`, on the level's own grid."""
        if self.layout is CellLayout:
            alone = np.eye(len(self.grids), dtype=np.float32)[level]
            return search_shared_grid(*self._laid_out, alone, kappa, radius, history=history)
        window = window_of(self.grids[level], self.grids[0], radius)
        if self._is_compiled:
            rows, cols = window or (np.ones((side, side), bool) for side in self.grids[level])
            return search_projection(*self._tiles(level), kappa, (rows, cols), history)
        one = np.ones(1, np.float32)
        return search_brute_force([self.query[level]], [self._levels[level]], one, kappa, window)

    def measure_in_level(self, level: int, place: np.ndarray) -> np.ndarray:
        """(1, kappa, h, w) float64: each pair's squared distance."""
        if self.layout is CellLayout:
            return measure_shared_grid(*self._laid_out, place, [level])
        if self._is_compiled and isinstance(self.gallery, SimdLayout):
            return measure_cells(*self._tiles(level), place)[None]
        return measure_brute_force(self.query[level], self._levels[level], place)[None]

    @cached_property
    def _laid_out(self) -> tuple[Any, Any, np.ndarray]:
        """Query and gallery in the layout of the search, and the indices of the images in it."""
        assert self.layout is not None
        query = self.layout.of(self.query)
        if isinstance(self.gallery, Layout):
            return query, self.gallery, self.images
        return query, self.layout.of(self._levels), np.arange(len(self.images))

    @cached_property
    def _levels(self) -> Sequence[Tensor]:
        """(k, c, h, w) float32."""
        return levels_of(self.gallery, self.images)

    def _tiles(self, level: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """A level of query and gallery as tiles, the order of cells in the tiles, and the indices of the images."""
        if isinstance(self.gallery, SimdLayout) and (level < 2 or len(self.grids) == 3):  # further levels share a tile
            (query, order), (gallery, _) = (layout.tiles(level) for layout in self._laid_out[:2])
            return query[0], gallery, order, self.images
        query, gallery = (lay_out(levels[level].flatten(2).cpu().numpy()) for levels in (self.query, self._levels))
        return query[0], gallery, np.arange(prod(self.grids[level])), np.arange(len(self.images))


def levels_of(gallery: Layout | Sequence[Tensor], images: np.ndarray) -> Sequence[Tensor]:
    """The levels of some images, on the gallery's device: (k, c, h, w) float32."""
    if isinstance(gallery, Layout):
        return gallery.read(images)
    if len(images) == len(gallery[0]) and (images == np.arange(len(images))).all():
        return [level.float() for level in gallery]
    return [level[torch.from_numpy(images).to(level.device)].float() for level in gallery]


def window_of(cells: tuple[int, int], fine: tuple[int, int], radius: int | None) -> Window:
    """Which rows and which columns of a level may be compared; None for all."""
    return None if radius is None else (within(cells[0], fine[0], radius), within(cells[1], fine[1], radius))


def least_candidates(cells: tuple[int, int], fine: tuple[int, int], radius: int | None) -> int:
    """The number of a level's cells in the smallest window, that of a corner pixel."""
    window = window_of(cells, fine, radius)
    return cells[0] * cells[1] if window is None else int(window[0].sum(1).min() * window[1].sum(1).min())
