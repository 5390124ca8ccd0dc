"""Stage 3: which normal pixel explains each pixel of the query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from spade_kit._arguments import cut_count
from spade_kit.features.pyramid import Pyramid
from spade_kit.options import LARGEST, Options, Weights
from spade_kit.search.dispatch import PixelSearch, least_candidates
from spade_kit.search.layout import SimdLayout
from spade_kit.search.runtime import NOWHERE


@dataclass(frozen=True, eq=False)
class Correspondence:
    """Every query pixel's nearest gallery pixels, on the finest grid (h, w).

    Attributes
    ----------
    distance
        (h, w) Euclidean, the mean over the kappa nearest.
    layer_distance
        (L, h, w) the nearest one's squared distance in each level, weights included.
    image, row, col
        (kappa, h, w): which gallery image and which cell of the finest grid, nearest first.
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
    search: str = "auto",
) -> Correspondence:
    """Match every query pixel to its closest pixels anywhere in the gallery.

    The search ignores position: a screw that lies 20 pixels to the left still finds its twin. That freedom is what
    separates SPADE from comparing two images pixel by pixel; ``radius`` takes it back step by step. The answer is
    exact, that of comparing all pairs.

    Parameters
    ----------
    query
        A pyramid of one image.
    gallery
        The normal images to search, usually those that `nearest_images` retrieved.
    kappa
        How many closest pixels to average over. The paper uses 1.
    radius
        Search only this far from the query's own place, in cells of the finest grid, as a square window. ``0``
        compares the same place only, ``None`` (the paper) everywhere.
    weights
        What each level's squared distance counts: a mapping by layer name (missing ones 1), ``"equal"`` for one over
        the level's summed channel variance in the gallery, ``None`` for 1.
    combine
        ``"concat"``: one match for all levels, the paper's pyramid. ``"ensemble"``: each level is matched on its own
        grid and the distances are averaged; places are then the finest level's.
    search
        ``"auto"``, or ``"brute_force"``: compare all pairs, which gives the same answer, some hundred times later.

    Notes
    -----
    The paper's formulas average squared distances; its code, and we, Euclidean ones. A window of radius r around a
    coarse cell holds every coarse cell with a fine pixel within r of one of its own. Exact means float32: differences
    whose squares underflow, below about 1e-19, count as none.

    References
    ----------
    .. [1] N. Cohen and Y. Hoshen, "Sub-Image Anomaly Detection with Deep Pyramid Correspondences",
       arXiv:2005.02357, 2020.

    Examples
    --------
    >>> import torch
    >>> normal = Pyramid([torch.rand(2, 5, 8, 12), torch.rand(2, 7, 4, 6)], ["layer1", "layer2"], torch.rand(2, 3))
    >>> found = match_pixels(normal.select(1), normal)
    >>> found.distance.max().item(), found.image.min().item()
    (0.0, 1)
    """
    _check_pair(query, gallery)
    options = Options(None, kappa, radius, weights, combine, search=search)
    factors = options.factors(gallery.layers, lambda: channel_variance(gallery))
    _check_size(query, gallery, factors)
    warn_about_clipping(options, [tuple(level.shape[1:]) for level in gallery.levels], len(gallery))
    return search_pixels(query, gallery.levels, np.arange(len(gallery)), factors, options)


def _check_pair(query: Pyramid, gallery: Pyramid) -> None:
    if len(query) != 1:
        raise ValueError(f"match_pixels takes one query image, but {len(query)} came. Take query.select(i).")
    if len(gallery) == 0:
        raise ValueError("match_pixels needs at least one gallery image, but none came.")
    if query.layers != gallery.layers:
        raise ValueError(
            f"match_pixels compares layer by layer, but the query has {', '.join(query.layers)} and the gallery "
            f"{', '.join(gallery.layers)}. Take both from the same backbone."
        )
    for name, here, there in zip(query.layers, query.levels, gallery.levels):
        if here.shape[1] != there.shape[1]:
            raise ValueError(
                f"match_pixels compares channel by channel, but the query has {here.shape[1]} channels at {name} and "
                f"the gallery has {there.shape[1]} at {name}. Take both from the same backbone."
            )
        if here.shape[2:] != there.shape[2:]:
            raise ValueError(
                f"match_pixels compares grids of one size, but at {name} the query's is {tuple(here.shape[2:])} and "
                f"the gallery's {tuple(there.shape[2:])}. Take both with the same crop."
            )


def _check_size(query: Pyramid, gallery: Pyramid, weights: Float[np.ndarray, "L"]) -> None:
    """Whether the largest squared distance that can occur, 4 w c max^2 summed over levels, fits into float32."""
    for name, weight, here, there in zip(query.layers, weights.tolist(), query.levels, gallery.levels):
        largest = max(float(level.abs().max()) for level in (here, there))  # NaN if one is
        if not 4 * max(weight, 1) * here.shape[1] * largest**2 * len(weights) < LARGEST:
            raise ValueError(
                f"match_pixels needs finite features whose weighted squares fit into float32, but at {name} features "
                f"reach {largest:g}, with weight {weight:g}. Check the images and the backbone, or scale the features."
            )


def channel_variance(gallery: Pyramid) -> list[float]:
    """Each level's variance over all images and places, summed over its channels."""
    return [float(level.cpu().double().var((0, 2, 3), correction=0).sum()) for level in gallery.levels]


def search_pixels(
    query: Pyramid,
    gallery: SimdLayout | Sequence[Tensor],
    images: Int[np.ndarray, "k"],
    factors: Float[np.ndarray, "L"],
    options: Options,
    first: Int[np.ndarray, "f h w"] | None = None,
) -> Correspondence:
    """`match_pixels` among some images of a gallery, which is read in place where it is laid out for that.

    A kappa beyond the candidates is cut without a word. ``first`` are places to try first, as `Correspondence.place`
    has them: good ones save time, and what is found does not depend on them.
    """
    pixels = PixelSearch(query.levels, gallery, images, options.search)
    places = _find_all(pixels, factors, _cut(pixels, options, len(images)), options, first)
    return _describe_all(pixels, places, factors, options)


@dataclass(frozen=True, eq=False)
class Breakpoints:
    """Every cell's match for every k at once, written down only where a further image brings a nearer pixel.

    Cell after cell, along rows, and in each cell by k; the first step of a cell has k = 1. At some k the last step of a
    cell that does not come later holds.

    Attributes
    ----------
    count
        (h, w): how many steps each cell has.
    k
        (s,): from how many images on a step holds.
    distance, layer_distance, image, row, col
        (s,), (L, s), (s,) ...: as in `Correspondence`, places of the nearest.
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
    """`search_pixels` among the first k of the images, for whatever k is asked for; arguments are the same.

    One pass, little slower than a search, keeps what was nearest after each image; an answer then has only to be
    measured. Without either fast
    search (no numba, a GPU, grids that do not nest), each k is searched again.
    """

    def __init__(
        self,
        query: Pyramid,
        gallery: SimdLayout | Sequence[Tensor],
        images: Int[np.ndarray, "k"],
        factors: Float[np.ndarray, "L"],
        options: Options,
    ) -> None:
        self._anew = lambda k: search_pixels(query, gallery, images[:k], factors, options)
        self._pixels = pixels = PixelSearch(query.levels, gallery, images, options.search)
        self._factors, self._options = factors, options
        self._kappas = [_cut(pixels, options, k) for k in range(1, len(images) + 1)]

    @cached_property
    def _kept(self) -> list[np.ndarray] | None:
        """What was nearest after each image, each (k, kappa, h, w)."""
        pixels = self._pixels
        if not (pixels.uses_projection if _by_level(self._factors, self._options) else pixels.uses_branch_and_bound):
            return None
        return _find_all(pixels, self._factors, self._kappas[-1], self._options, history=True)

    def __call__(self, k: int) -> Correspondence:
        if self._kept is None:
            return self._anew(k)
        pairs = zip(self._kept, self._kappas[k - 1])
        places = [np.ascontiguousarray(history[k - 1][:kappa]) for history, kappa in pairs]
        return _describe_all(self._pixels, places, self._factors, self._options)

    def breakpoints(self) -> Breakpoints | None:
        """All answers at once, or None where levels are searched each by itself or each k anew."""
        if _by_level(self._factors, self._options) or self._kept is None:
            return None
        history = self._kept[0]
        kappas = np.array([kappa for (kappa,) in self._kappas])
        changed = np.ones((len(history), *history.shape[2:]), bool)
        changed[1:] = (history[1:] != history[:-1]).any(1) | (kappas[1:] != kappas[:-1])[:, None, None]
        count = changed.sum(0)
        row, col, at = np.nonzero(changed.transpose(1, 2, 0))
        # slot s of a cell holds its s-th step, so that no more is measured than the longest list asks for
        slot = np.arange(len(at)) - np.repeat(count.ravel().cumsum() - count.ravel(), count.ravel())
        places = np.zeros((count.max(), *history.shape[1:]), np.int64)
        places[slot, :, row, col] = np.where(history[at, :, row, col] == NOWHERE, 0, history[at, :, row, col])
        squared = self._pixels.measure(places.reshape(-1, *count.shape))
        weighted = (
            self._factors[:, None].astype(np.float64)
            * squared.reshape(len(squared), *places.shape)[:, slot, :, row, col]
        )  # (s, L, kappa)
        counts = np.arange(places.shape[1]) < kappas[at, None]
        distance = (np.sqrt(weighted.sum(1)) * counts).sum(1) / counts.sum(1)
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


def _by_level(factors: Float[np.ndarray, "L"], options: Options) -> bool:
    """Whether levels are searched each by itself."""
    return options.combine == "ensemble" or len(factors) == 1


def _find_all(
    pixels: PixelSearch,
    factors: Float[np.ndarray, "L"],
    kappas: Sequence[int],
    options: Options,
    first: Int[np.ndarray, "f h w"] | None = None,
    history: bool = False,
) -> list[np.ndarray]:
    """The places that each search finds: one for every level by itself, or one for all."""
    if _by_level(factors, options):
        return [pixels.find_in_level(level, kappa, options.radius, history) for level, kappa in enumerate(kappas)]
    return [pixels.find(factors, kappas[0], options.radius, first, history)]


def _describe_all(
    pixels: PixelSearch, places: Sequence[np.ndarray], factors: Float[np.ndarray, "L"], options: Options
) -> Correspondence:
    """What `_find_all` found, measured."""
    if options.combine == "ensemble":
        return _average(pixels, places, factors)
    measured = pixels.measure_in_level(0, places[0]) if len(factors) == 1 else pixels.measure(places[0])
    return _describe(places[0], measured, factors)


def _cut(pixels: PixelSearch, options: Options, k: int) -> list[int]:
    """The kappa of each level's own search, or of the one for all: no more than there are candidates."""
    return [min(options.kappa, k * least) for least in _least_of(pixels.grids, options)]


def _least_of(grids: Sequence[tuple[int, int]], options: Options) -> list[int]:
    """How many candidates an image has for the pixel that has fewest, for each search that is made."""
    searched = grids if options.combine == "ensemble" else grids[:1]
    return [least_candidates(grid, grids[0], options.radius) for grid in searched]


def warn_about_clipping(options: Options, shapes: Sequence[tuple[int, ...]], images: int) -> None:
    """Say, once, where more neighbours were asked for than some pixel has candidates; shapes are (c, h, w)."""
    least = min(_least_of([(h, w) for _, h, w in shapes], options))
    cut_count("kappa", options.kappa, images * least, "candidates for a pixel in the corner")


def _describe(
    place: Int[np.ndarray, "kappa h w"], squared: Float[np.ndarray, "L kappa h w"], weights: Float[np.ndarray, "L"]
) -> Correspondence:
    _, h, w = place.shape
    weighted = weights[:, None, None, None].astype(np.float64) * squared
    distance = np.sqrt(weighted.sum(0)).mean(0).astype(np.float32)
    return Correspondence(distance, weighted[:, 0].astype(np.float32), place // (h * w), place // w % h, place % w)


def _average(pixels: PixelSearch, places: Sequence[np.ndarray], weights: Float[np.ndarray, "L"]) -> Correspondence:
    """The ensemble: levels matched each on its own grid, and the mean of their distances."""
    one, fine = np.ones(1, np.float32), pixels.grids[0]
    alone = [_describe(place, pixels.measure_in_level(level, place), one) for level, place in enumerate(places)]
    used = np.flatnonzero(weights > 0)
    distance = np.mean([np.sqrt(weights[level]) * resize(alone[level].distance, fine) for level in used], axis=0)
    squared = [weight * spread(found.layer_distance[0], fine) for weight, found in zip(weights, alone)]
    finest = alone[0]
    return Correspondence(distance.astype(np.float32), np.stack(squared), finest.image, finest.row, finest.col)


def match_level(
    query: Pyramid, gallery: SimdLayout | Sequence[Tensor], images: Int[np.ndarray, "k"], level: int, options: Options
) -> Correspondence:
    """One level searched by itself, on its own grid, unweighted."""
    pixels = PixelSearch(query.levels, gallery, images, options.search)
    kappa = min(options.kappa, len(images) * least_candidates(pixels.grids[level], pixels.grids[0], options.radius))
    place = pixels.find_in_level(level, kappa, options.radius)
    return _describe(place, pixels.measure_in_level(level, place), np.ones(1, np.float32))


def resize(grid: Float[np.ndarray, "h w"], size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """Bilinear, as images are resized: cell centres keep their place (``align_corners=False``)."""
    tensor = torch.from_numpy(np.ascontiguousarray(grid, np.float32))[None, None]
    return torch.nn.functional.interpolate(tensor, size, mode="bilinear", align_corners=False)[0, 0].numpy()


def spread(grid: Shaped[np.ndarray, "h w"], size: tuple[int, int]) -> Shaped[np.ndarray, "H W"]:
    """Every fine pixel takes the value of the coarse cell that holds it."""
    (h, w), (rows, columns) = size, grid.shape
    return grid[np.arange(h)[:, None] * rows // h, np.arange(w) * columns // w]
