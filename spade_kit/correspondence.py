"""Stage 3: find the normal pixel that explains each pixel of the query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from spade_kit._arguments import cut_count
from spade_kit.features.pyramid import Pyramid, check_pyramids, check_size
from spade_kit.options import Options, Weights
from spade_kit.search.dispatch import PixelSearch, least_candidates, levels_of
from spade_kit.search.layout import Layout
from spade_kit.search.runtime import NOWHERE

Places: TypeAlias = Int[np.ndarray, "f h w"]  # image * h * w + row * w + column
Factors: TypeAlias = Float[np.ndarray, "L"]  # the weight of each level's squared distance
DISTANT = 0.1  # of a grid's longer side, in rows or columns: a cell farther from another is distant


@dataclass(frozen=True, eq=False)
class Correspondence:
    """The nearest gallery pixels of every query pixel, on the finest grid (h, w).

    Attributes
    ----------
    distance
        (h, w) Euclidean distance, or its square under ``squared``, averaged over the kappa nearest.
    layer_distance
        (L, h, w) squared distance to the nearest pixel at each level, weights included.
    image, row, col
        (kappa, h, w): gallery image and cell of the finest grid, nearest first.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> spade = spade_kit.SPADE(k=5).fit(parts.train[:12])
    >>> result = spade.predict(parts.test[5])  # a chipped part
    >>> found = result.correspondence
    >>> found.distance.shape, found.row.shape  # a cell covers 4 x 4 pixels of the map
    ((56, 56), (1, 56, 56))
    """

    distance: Float[np.ndarray, "h w"]
    layer_distance: Float[np.ndarray, "L h w"]
    image: Int[np.ndarray, "kappa h w"]
    row: Int[np.ndarray, "kappa h w"]
    col: Int[np.ndarray, "kappa h w"]

    @property
    def place(self) -> Int[np.ndarray, "kappa h w"]:
        """image * h * w + row * w + col."""
        _, h, w = self.image.shape
        return (self.image * h + self.row) * w + self.col

    def cell_of(self, row: Any, col: Any, size: tuple[int, ...]) -> tuple[Any, Any]:
        """The (row, column) of the cell that holds a pixel of a map of ``size``; of many pixels, arrays."""
        (height, width), (h, w) = size, self.distance.shape
        return row * h // height, col * w // width

    def nearest_at(self, cell: tuple[Any, Any], size: tuple[int, ...]) -> tuple[Any, Any, Any]:
        """What a cell matches: the gallery image, and the centre of the matched cell as (row, column) of the map."""
        (height, width), (h, w) = size, self.distance.shape
        image, row, col = (places[0][cell] for places in (self.image, self.row, self.col))
        return image, ((row + 0.5) * height / h).astype(int), ((col + 0.5) * width / w).astype(int)

    def __repr__(self) -> str:
        kappa, h, w = self.image.shape
        return f"Correspondence({h} x {w} cells, kappa {kappa}, mean distance {self.distance.mean():.4g})"


def match_pixels(
    query: Pyramid,
    gallery: Pyramid,
    *,
    kappa: int = 1,
    radius: int | None = None,
    weights: Weights = None,
    combine: str = "concat",
    squared: bool = False,
    search: str = "auto",
) -> Correspondence:
    """Match every query pixel to its closest pixels anywhere in the gallery.

    The search ignores position: a screw shifted by 20 pixels still finds its match. This distinguishes SPADE from
    comparing two images pixel by pixel; ``radius`` limits it. The result is exact: the same as comparing all pairs.

    Parameters
    ----------
    query
        A pyramid of one image.
    gallery
        The normal images to search, usually those that `nearest_images` retrieved.
    kappa
        How many closest pixels to average over. The paper uses 1.
    radius
        Search only within this distance of the query pixel's own position, in cells of the finest grid (a square
        window). ``0`` compares the same position only, ``None`` (the paper) searches everywhere.
    weights
        The weight of each level's squared distance: a mapping by layer name (1 if missing), ``"equal"`` for the inverse
        of the level's summed channel variance in the gallery, ``None`` for 1.
    combine
        ``"concat"``: one match for all levels, the paper's pyramid. ``"ensemble"``: each level is matched on its own
        grid and the distances are averaged; positions are those of the finest level.
    squared
        Whether distances stay squared, as in the paper's formula.
    search
        ``"auto"``, or ``"brute_force"``: compare all pairs; the result is the same, about a hundred times slower.

    Notes
    -----
    The paper's formulas average squared distances; its code averages Euclidean distances, as is the default here. A
    window of radius r around a coarse cell contains every coarse cell with a fine pixel within r of one of its own.
    Exact means float32: differences below about 1e-19, where squares underflow, count as 0.

    References
    ----------
    .. [1] N. Cohen and Y. Hoshen, "Sub-Image Anomaly Detection with Deep Pyramid Correspondences",
       arXiv:2005.02357, 2020.

    Examples
    --------
    >>> import torch
    >>> from spade_kit import Pyramid, match_pixels
    >>> normal = Pyramid([torch.rand(2, 5, 8, 12), torch.rand(2, 7, 4, 6)], ["layer1", "layer2"], torch.rand(2, 3))
    >>> found = match_pixels(normal.select(1), normal)
    >>> found.distance.max().item(), found.image.min().item()
    (0.0, 1)
    """
    _check_pair(query, gallery)
    options = Options(None, kappa, radius, weights, combine, search=search, squared=squared)
    factors = options.factors(gallery.layers, lambda: channel_variance(gallery))
    check_size(gallery.levels, gallery.layers, factors)
    warn_about_clipping(options, [tuple(level.shape[1:]) for level in gallery.levels], len(gallery))
    return search_pixels(Question(query, gallery.levels, np.arange(len(gallery)), factors, options))


def _check_pair(query: Pyramid, gallery: Pyramid) -> None:
    check_pyramids(query=query, gallery=gallery)
    if len(query) != 1:
        raise ValueError(f"match_pixels takes one query image; got {len(query)}. Select one with query.select(i).")
    if len(gallery) == 0:
        raise ValueError("match_pixels needs at least one gallery image; got none.")
    if query.layers != gallery.layers:
        raise ValueError(
            f"Query and gallery must have the same layers; got {', '.join(query.layers)} and "
            f"{', '.join(gallery.layers)}. Compute both with the same backbone."
        )
    for name, here, there in zip(query.layers, query.levels, gallery.levels):
        if here.shape[1] != there.shape[1]:
            raise ValueError(
                f"Query and gallery must have the same number of channels at {name}; got {here.shape[1]} and "
                f"{there.shape[1]}. Compute both with the same backbone."
            )
        if here.shape[2:] != there.shape[2:]:
            raise ValueError(
                f"Query and gallery must have the same grid at {name}; got {tuple(here.shape[2:])} and "
                f"{tuple(there.shape[2:])}. Compute both with the same crop."
            )


def channel_variance(gallery: Pyramid) -> list[float]:
    """The variance of each level over all images and positions, summed over its channels."""
    return [float(level.cpu().double().var((0, 2, 3), correction=0).sum()) for level in gallery.levels]


@dataclass(frozen=True, eq=False)
class Question:
    """What a search is asked: to match the pixels of a query among some images of a gallery."""

    query: Pyramid
    gallery: Layout | Sequence[Tensor]  # a layout is read in place
    images: Int[np.ndarray, "k"]
    factors: Factors
    options: Options

    @cached_property
    def pixels(self) -> PixelSearch:
        return PixelSearch(self.query.levels, self.gallery, self.images, self.options.search)


def search_pixels(asked: Question, first: Places | None = None) -> Correspondence:
    """`match_pixels` among some images of a gallery.

    A kappa above the number of candidates is reduced silently. ``first`` holds places to try first, in the form of
    `Correspondence.place`: good ones save time, and the result does not depend on them.
    """
    check_size(asked.query.levels, asked.query.layers, asked.factors)
    return _describe_all(asked, _find_all(asked, _cut(asked, len(asked.images)), first))


@dataclass(frozen=True, eq=False)
class Breakpoints:
    """The match of every cell for every k, stored only where another image brings a nearer pixel.

    Breakpoints are sorted by cell, row by row, then by k; the first one of a cell has k = 1. The match for a given k is
    the last breakpoint of the cell at or below k.

    Attributes
    ----------
    count
        (h, w): the number of breakpoints of each cell.
    k
        (s,): the smallest k to which a breakpoint applies.
    distance, layer_distance, image, row, col
        (s,), (L, s), (s,) ...: as in `Correspondence`, for the nearest pixel.
    """

    count: Int[np.ndarray, "h w"]
    k: Int[np.ndarray, "s"]
    distance: Float[np.ndarray, "s"]
    layer_distance: Float[np.ndarray, "L s"]
    image: Int[np.ndarray, "s"]
    row: Int[np.ndarray, "s"]
    col: Int[np.ndarray, "s"]

    def __len__(self) -> int:
        return len(self.k)


class ResultsPerK:
    """`search_pixels` among the first k images, for any k.

    One pass, slightly slower than a search, keeps the nearest places after each image; a result for some k then only
    needs its distances measured. Without a fast search (no numba, a GPU, grids that do not nest), each k is searched
    separately.
    """

    def __init__(self, asked: Question) -> None:
        self._asked = asked
        self._kappas = [_cut(asked, k) for k in range(1, len(asked.images) + 1)]

    @cached_property
    def _kept(self) -> list[np.ndarray] | None:
        """The nearest places after each image, one (k, kappa, h, w) array per search."""
        if not self._asked.pixels.keeps_history(_by_level(self._asked)):
            return None
        return _find_all(self._asked, self._kappas[-1], history=True)

    def __call__(self, k: int) -> Correspondence:
        if self._kept is None:
            return search_pixels(replace(self._asked, images=self._asked.images[:k]))
        pairs = zip(self._kept, self._kappas[k - 1])
        places = [np.ascontiguousarray(history[k - 1][:kappa]) for history, kappa in pairs]
        return _describe_all(self._asked, places)

    def breakpoints(self) -> Breakpoints | None:
        """All results at once, or None where each level or each k is searched separately."""
        if _by_level(self._asked) or self._kept is None:
            return None
        asked, history = self._asked, self._kept[0]
        kappas = np.array([kappa for (kappa,) in self._kappas])
        changed = np.ones((len(history), *history.shape[2:]), bool)
        changed[1:] = (history[1:] != history[:-1]).any(1) | (kappas[1:] != kappas[:-1])[:, None, None]
        count = changed.sum(0)
        row, col, at = np.nonzero(changed.transpose(1, 2, 0))
        # slot s of a cell holds its s-th breakpoint, so that the longest list determines how many slots are measured
        slot = np.arange(len(at)) - np.repeat(count.ravel().cumsum() - count.ravel(), count.ravel())
        places = np.zeros((count.max(), *history.shape[1:]), np.int64)
        places[slot, :, row, col] = np.where(history[at, :, row, col] == NOWHERE, 0, history[at, :, row, col])
        squared = asked.pixels.measure(places.reshape(-1, *count.shape))
        squared = squared.reshape(len(squared), *places.shape)[:, slot, :, row, col]  # (s, L, kappa)
        weighted = asked.factors[:, None].astype(np.float64) * squared
        counts = np.arange(places.shape[1]) < kappas[at, None]
        distance = (asked.options.root(weighted.sum(1)) * counts).sum(1) / counts.sum(1)
        nearest, (h, w) = history[at, 0, row, col], count.shape
        return Breakpoints(
            count=count,
            k=at + 1,
            distance=distance.astype(np.float32),
            layer_distance=np.ascontiguousarray(weighted[:, :, 0].T, np.float32),
            image=nearest // (h * w),
            row=nearest // w % h,
            col=nearest % w,
        )


def _by_level(asked: Question) -> bool:
    """Whether each level is searched separately."""
    return asked.options.combine == "ensemble" or len(asked.factors) == 1


def _find_all(
    asked: Question, kappas: Sequence[int], first: Places | None = None, history: bool = False
) -> list[np.ndarray]:
    """The places found by each search: one search per level, or one for all levels."""
    pixels, radius = asked.pixels, asked.options.radius
    if _by_level(asked):
        return [pixels.find_in_level(level, kappa, radius, history) for level, kappa in enumerate(kappas)]
    return [pixels.find(asked.factors, kappas[0], radius, first, history)]


def _describe_all(asked: Question, places: Sequence[np.ndarray]) -> Correspondence:
    """Measure the places found by `_find_all`."""
    if asked.options.combine == "ensemble":
        return _average(asked, places)
    alone, pixels = len(asked.factors) == 1, asked.pixels
    measured = pixels.measure_in_level(0, places[0]) if alone else pixels.measure(places[0])
    return _describe(places[0], measured, asked.factors, asked.options)


def _cut(asked: Question, k: int) -> list[int]:
    """The kappa of each search (one per level, or one for all), limited to the number of candidates."""
    return [min(asked.options.kappa, k * least) for least in _least_of(asked.pixels.grids, asked.options)]


def _least_of(grids: Sequence[tuple[int, int]], options: Options) -> list[int]:
    """The smallest number of candidates that an image offers to any pixel, for each search."""
    searched = grids if options.combine == "ensemble" else grids[:1]
    return [least_candidates(grid, grids[0], options.radius) for grid in searched]


def warn_about_clipping(options: Options, shapes: Sequence[tuple[int, ...]], images: int) -> None:
    """Warn once if kappa exceeds the number of candidates of some pixel; shapes are (c, h, w)."""
    least = min(_least_of([(h, w) for _, h, w in shapes], options))
    cut_count("kappa", options.kappa, images * least, "candidates of a corner pixel")


def _describe(
    place: Int[np.ndarray, "kappa h w"], squared: Float[np.ndarray, "L kappa h w"], weights: Factors, options: Options
) -> Correspondence:
    _, h, w = place.shape
    weighted = weights[:, None, None, None].astype(np.float64) * squared
    distance = options.root(weighted.sum(0)).mean(0).astype(np.float32)
    return Correspondence(distance, weighted[:, 0].astype(np.float32), place // (h * w), place // w % h, place % w)


def _average(asked: Question, places: Sequence[np.ndarray]) -> Correspondence:
    """The ensemble: each level matched on its own grid, and the mean of the distances."""
    one, fine, weights = np.ones(1, np.float32), asked.pixels.grids[0], asked.factors
    measured = map(asked.pixels.measure_in_level, range(len(places)), places)
    alone = [_describe(place, squared, one, asked.options) for place, squared in zip(places, measured)]
    used = np.flatnonzero(weights > 0)
    scale = asked.options.root(weights)
    distance = np.mean([scale[level] * resize(alone[level].distance, fine) for level in used], axis=0)
    squared = [weight * spread(found.layer_distance[0], fine) for weight, found in zip(weights, alone)]
    finest = alone[0]
    return Correspondence(distance.astype(np.float32), np.stack(squared), finest.image, finest.row, finest.col)


def _sum_levels(weighted: Sequence[np.ndarray], options: Options) -> np.ndarray:
    """Distances from the weighted squared distances of levels on one grid."""
    apart = weighted if options.combine == "ensemble" else [np.sum(weighted, axis=0)]
    return np.mean([options.root(one) for one in apart], axis=0)


def measure_from(cell: tuple[int, int], asked: Question) -> Float[np.ndarray, "k h w"]:
    """The distance of one cell of the query's finest grid to every cell of the images."""
    (h, w), k, query = asked.query.grid, len(asked.images), asked.query
    here = [level[..., cell[0] * level.shape[2] // h, cell[1] * level.shape[3] // w] for level in query.levels]
    levels = [at[..., None, None].expand_as(level) for at, level in zip(here, query.levels)]  # the cell everywhere
    pixels = PixelSearch(levels, asked.gallery, asked.images, asked.options.search)
    weighted = []
    for level in np.flatnonzero(asked.factors > 0).tolist():
        rows, cols = pixels.grids[level]
        squared = pixels.measure_in_level(level, np.arange(k * rows * cols).reshape(k, rows, cols))[0]
        weighted.append(float(asked.factors[level]) * np.stack([spread(one, (h, w)) for one in squared]))
    return _sum_levels(weighted, asked.options).astype(np.float32)


def find_ratios(cells: tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]], asked: Question) -> Float[np.ndarray, "n"]:
    """The least distance of some cells to the one image over the least to a distant cell of it; 1 if both are 0.

    Distances are those of `measure_from`, from products in float64. 0 if no cell is distant.
    """
    (h, w), weighted = asked.query.grid, []
    held = levels_of(asked.gallery, asked.images)
    for here, there, factor in zip(asked.query.levels, held, asked.factors.tolist()):
        if factor > 0:
            rows, cols = np.arange(h)[:, None] * here.shape[2] // h, np.arange(w) * here.shape[3] // w
            own, every = (side[0].cpu().double().numpy()[:, rows, cols] for side in (here, there))  # (c, h, w)
            own, every = own[:, cells[0], cells[1]].T, every.reshape(-1, h * w)
            squared = (own**2).sum(1)[:, None] + (every**2).sum(0) - 2 * own @ every
            weighted.append(factor * squared.clip(0))
    distances = _sum_levels(weighted, asked.options)
    row, col = np.divmod(distances.argmin(1)[:, None], w)
    far = [abs(np.arange(side) - best) > DISTANT * max(h, w) for side, best in ((h, row), (w, col))]
    distant = far[0][:, :, None] | far[1][:, None]
    least, second = distances.min(1), distances.min(1, initial=np.inf, where=distant.reshape(-1, h * w))
    return np.divide(least, second, out=np.ones(len(least)), where=second > 0).astype(np.float32)


def match_level(
    query: Pyramid, gallery: Layout | Sequence[Tensor], images: Int[np.ndarray, "k"], level: int, options: Options
) -> Correspondence:
    """Search one level separately, on its own grid, unweighted."""
    pixels = PixelSearch(query.levels, gallery, images, options.search)
    kappa = min(options.kappa, len(images) * least_candidates(pixels.grids[level], pixels.grids[0], options.radius))
    place = pixels.find_in_level(level, kappa, options.radius)
    return _describe(place, pixels.measure_in_level(level, place), np.ones(1, np.float32), options)


def resize(grid: Float[np.ndarray, "h w"], size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """Bilinear interpolation, as for images: cell centres keep their position (``align_corners=False``)."""
    tensor = torch.from_numpy(np.ascontiguousarray(grid, np.float32))[None, None]
    return torch.nn.functional.interpolate(tensor, size, mode="bilinear", align_corners=False)[0, 0].numpy()


def spread(grid: Shaped[np.ndarray, "h w"], size: tuple[int, int]) -> Shaped[np.ndarray, "H W"]:
    """Every fine pixel takes the value of the coarse cell that contains it."""
    (h, w), (rows, columns) = size, grid.shape
    return grid[np.arange(h)[:, None] * rows // h, np.arange(w) * columns // w]
