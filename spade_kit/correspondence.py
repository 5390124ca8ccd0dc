"""Stage 3: which normal pixel explains each pixel of the query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from spade_kit._dense import search_densely
from spade_kit._descent import can_descend, descend, measure_places
from spade_kit._lanes import Lanes, within
from spade_kit.arguments import DefaultInt, check_count, check_number, choose, cut_count
from spade_kit.features import Pyramid

DEFAULT_KAPPA = DefaultInt(1)
COMBINE = ("concat", "ensemble")
_LARGEST = 1e37  # of a sum of weighted squares, and of a weight: float32 ends soon after
Weights: TypeAlias = "Mapping[str, float] | str | None"


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

    def __repr__(self) -> str:
        kappa, h, w = self.image.shape
        return f"Correspondence({h} x {w} cells, kappa {kappa}, mean distance {self.distance.mean():.4g})"


def match_pixels(
    query: Pyramid,
    gallery: Pyramid,
    *,
    kappa: int = DEFAULT_KAPPA,
    radius: int | None = None,
    weights: Weights = None,
    combine: str = "concat",
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
    kappa, radius, combine = check_search(kappa, radius, combine)
    factors = resolve_weights(weights, gallery.layers, lambda: channel_variance(gallery))
    _check_size(query, gallery, factors)
    shapes = [tuple(level.shape[1:]) for level in gallery.levels]
    cut_kappa(kappa, shapes, radius, combine, len(gallery))
    return search(query, gallery.levels, np.arange(len(gallery)), factors, kappa, radius, combine)


def check_search(kappa: int, radius: int | None, combine: str) -> tuple[int, int | None, str]:
    """The options of the search, as they are used; a sentence where one is none."""
    radius = None if radius is None else check_count("radius", radius, least=0)
    return check_count("kappa", kappa), radius, choose("combine", combine, COMBINE)


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
        if not 4 * max(weight, 1) * here.shape[1] * largest**2 * len(weights) < _LARGEST:
            raise ValueError(
                f"match_pixels needs finite features whose weighted squares fit into float32, but at {name} features "
                f"reach {largest:g}, with weight {weight:g}. Check the images and the backbone, or scale the features."
            )


def resolve_weights(weights: Weights, layers: Sequence[str], variance) -> Float[np.ndarray, "L"]:
    """What each level's squared distance counts, as numbers; ``variance()`` gives each level's, if it is asked for."""
    if weights is None:
        return np.ones(len(layers), np.float32)
    if isinstance(weights, str):
        choose("weights", weights, ["equal"])
        spread = np.asarray(variance())
        return np.where(spread > 0, 1 / np.where(spread > 0, spread, 1), 1).astype(np.float32)
    if not isinstance(weights, Mapping):
        raise ValueError(f'weights is a mapping like {{"layer3": 0.5}}, "equal" or None, but {weights!r} came.')
    for name, value in weights.items():
        choose("A layer", name, layers)
        check_number(f"The weight of {name}", value, "a finite number of at least 0", least=0, most=_LARGEST)
    factors = np.array([weights.get(name, 1) for name in layers], np.float32)
    if not factors.any():
        raise ValueError("At least one layer needs a weight above 0, but all are 0: no distance would be left.")
    return factors


def channel_variance(gallery: Pyramid) -> list[float]:
    """Each level's variance over all images and places, summed over its channels."""
    return [float(level.cpu().double().var((0, 2, 3), correction=0).sum()) for level in gallery.levels]


def search(
    query: Pyramid,
    gallery: Lanes | Sequence[Tensor],
    images: Int[np.ndarray, "k"],
    weights: Float[np.ndarray, "L"],
    kappa: int,
    radius: int | None,
    combine: str,
) -> Correspondence:
    """`match_pixels` among some images of a gallery, which is read in place where it is laid out for that.

    Arguments are taken as checked; a kappa beyond the candidates is cut without a word.
    """
    if combine == "ensemble":
        return _search_each(query, levels_of(gallery, images), weights, kappa, radius)
    kappa = min(kappa, len(images) * _least_candidates(query.grid, query.grid, radius))
    if isinstance(gallery, Lanes):
        asked = Lanes.of(query.levels)
        place = descend(asked, gallery, images, weights, kappa, radius)
        return _describe(query.grid, weights, place, measure_places(asked, gallery, images, place))
    return _describe(query.grid, weights, *_find(query.levels, levels_of(gallery, images), weights, kappa, radius))


def levels_of(gallery: Lanes | Sequence[Tensor], images: np.ndarray) -> Sequence[Tensor]:
    """The levels of some images, on the spot: (k, c, h, w) float32."""
    if isinstance(gallery, Lanes):
        return gallery.read(images)
    if len(images) == len(gallery[0]) and (images == np.arange(len(images))).all():
        return [level.float() for level in gallery]
    return [level[torch.from_numpy(images).to(level.device)].float() for level in gallery]


def _find(
    query: Sequence[Tensor], gallery: Sequence[Tensor], weights: np.ndarray, kappa: int, radius: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """The places (kappa, h, w) of the nearest and their squared distances (L, kappa, h, w): by descent where it can."""
    if can_descend([level.shape for level in gallery]) and gallery[0].device.type == "cpu":
        asked, lanes, images = Lanes.of(query), Lanes.of(gallery), np.arange(len(gallery[0]))
        place = descend(asked, lanes, images, weights, kappa, radius)
        return place, measure_places(asked, lanes, images, place)
    h, w = gallery[0].shape[2:]
    place = search_densely(query, gallery, weights, kappa, _window((h, w), (h, w), radius))
    return place, _measure(query, gallery, place)


def _window(cells: tuple[int, int], fine: tuple[int, int], radius: int | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Which rows and which columns of a level may be compared; None for all."""
    return None if radius is None else (within(cells[0], fine[0], radius), within(cells[1], fine[1], radius))


def _least_candidates(cells: tuple[int, int], fine: tuple[int, int], radius: int | None) -> int:
    """How many of a level's cells the window holds where it holds fewest: in a corner."""
    window = _window(cells, fine, radius)
    return cells[0] * cells[1] if window is None else int(window[0].sum(1).min() * window[1].sum(1).min())


def cut_kappa(kappa: int, shapes: Sequence[tuple[int, ...]], radius: int | None, combine: str, images: int) -> None:
    """Say, once, where more neighbours were asked for than some pixel has candidates."""
    grids = [(shape[1], shape[2]) for shape in shapes]
    levels = grids if combine == "ensemble" else grids[:1]
    least = min(_least_candidates(level, grids[0], radius) for level in levels)
    cut_count("kappa", kappa, images * least, "candidates for a pixel in the corner")


def _describe(
    grid: tuple[int, int],
    weights: Float[np.ndarray, "L"],
    place: Int[np.ndarray, "kappa h w"],
    squared: Float[np.ndarray, "L kappa h w"],
) -> Correspondence:
    h, w = grid
    weighted = weights[:, None, None, None].astype(np.float64) * squared
    distance = np.sqrt(weighted.sum(0)).mean(0).astype(np.float32)
    return Correspondence(distance, weighted[:, 0].astype(np.float32), place // (h * w), place // w % h, place % w)


def _measure(
    query: Sequence[Tensor], gallery: Sequence[Tensor], place: Int[np.ndarray, "kappa h w"]
) -> Float[np.ndarray, "L kappa h w"]:
    """The squared distance of each pair at each level, in float64 from differences."""
    h, w = gallery[0].shape[2:]
    pixels = np.indices((h, w))
    squared = []
    for asked, held in zip(query, gallery):
        image, row, col = (torch.from_numpy(at).to(held.device) for at in (place // (h * w), place // w % h, place % w))
        there = held.permute(0, 2, 3, 1)[image, row * held.shape[2] // h, col * held.shape[3] // w]
        rows, cols = (side * cells // fine for side, cells, fine in zip(pixels, held.shape[2:], (h, w)))
        difference = asked[0].permute(1, 2, 0).cpu().double().numpy()[rows, cols] - there.cpu().double().numpy()
        squared.append((difference**2).sum(-1))
    return np.stack(squared)


def _search_each(
    query: Pyramid, gallery: Sequence[Tensor], weights: np.ndarray, kappa: int, radius: int | None
) -> Correspondence:
    """Every level by itself, on its own grid; the mean of their distances."""
    alone = [match_level(query, gallery, level, kappa, radius) for level in range(len(weights))]
    used = np.flatnonzero(weights > 0)
    root = np.sqrt(weights)
    distance = np.mean([root[level] * resize(alone[level].distance, query.grid) for level in used], axis=0)
    squared = [weight * spread(found.layer_distance[0], query.grid) for weight, found in zip(weights, alone)]
    finest = alone[0]
    return Correspondence(distance.astype(np.float32), np.stack(squared), finest.image, finest.row, finest.col)


def match_level(
    query: Pyramid, gallery: Sequence[Tensor], level: int, kappa: int, radius: int | None
) -> Correspondence:
    """One level searched by itself, on its own grid, unweighted. It has no coarser bound, so the search is dense."""
    here, there = query.levels[level], gallery[level]
    rows, columns = here.shape[2:]
    kappa = min(kappa, len(there) * _least_candidates((rows, columns), query.grid, radius))
    one = np.ones(1, np.float32)
    place = search_densely([here], [there], one, kappa, _window((rows, columns), query.grid, radius))
    return _describe((rows, columns), one, place, _measure([here], [there], place))


def resize(grid: Float[np.ndarray, "h w"], size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """Bilinear, as images are resized: cell centres keep their place (``align_corners=False``)."""
    tensor = torch.from_numpy(np.ascontiguousarray(grid, np.float32))[None, None]
    return torch.nn.functional.interpolate(tensor, size, mode="bilinear", align_corners=False)[0, 0].numpy()


def spread(grid: Float[np.ndarray, "h w"], size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """Every fine pixel takes the value of the coarse cell that holds it."""
    (h, w), (rows, columns) = size, grid.shape
    return grid[np.arange(h)[:, None] * rows // h, np.arange(w) * columns // w]
