"""Exact brute-force search: all pairs of pixels, on any grids and any device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from spade_kit.search.runtime import NOWHERE, check_places, usual_settings

_TABLE = {"cpu": 2**20, "cuda": 2**28, "mps": 2**26}  # bytes of distances at a time; on the CPU they stay in its cache
_PAIRS = 2**26  # bytes of features re-measured at a time
Window: TypeAlias = "tuple[np.ndarray, np.ndarray] | None"  # (h, h) and (w, w): which rows, which columns; None for all


def search_brute_force(
    query: Sequence[Tensor], gallery: Sequence[Tensor], weights: np.ndarray, kappa: int, window: Window
) -> np.ndarray:
    """Find the kappa nearest pixels.

    Products give every distance up to rounding; all pairs that could be among the nearest are then measured again from
    differences, so that the result is exact and equal pixels are at distance 0.

    Parameters
    ----------
    query, gallery
        Levels (1, c, h, w) and (n, c, h, w), fine to coarse. Fine pixel i uses the coarse cell
        ``floor(i * h_coarse / h_fine)``.
    weights
        (L,), the weight of each level's squared distance.
    window
        Which rows and columns may be compared.

    Returns
    -------
    numpy.ndarray
        (kappa, h, w) int64: image * h * w + row * w + column, nearest first; ties go to the first place.
    """
    with usual_settings(gallery[0].device):
        n, _, h, w = gallery[0].shape
        levels = [_Level(asked, held, weight, (h, w)) for asked, held, weight in zip(query, gallery, weights.tolist())]
        step = max(1, _TABLE.get(gallery[0].device.type, 2**26) // (4 * w * h * w))
        chunks = [slice(start, min(start + step, n)) for start in range(0, n, step)]
        found = np.empty((kappa, h, w), np.int64)
        for row in range(h):
            allowed = None if window is None else torch.from_numpy(window[0][row][:, None] & window[1][:, None, :])
            pixel, place = _find_candidates(levels, row, chunks, kappa, allowed)
            pixels, places = pixel.cpu().numpy(), place.cpu().numpy()
            check_places(np.where(np.bincount(pixels, minlength=w) < kappa, NOWHERE, 0), 1)
            distance = _measure(levels, row, pixel, place)
            order = np.lexsort((places, distance, pixels))
            first = np.searchsorted(pixels[order], np.arange(w))  # where each pixel's candidates begin
            found[:, row] = places[order][first + np.arange(kappa)[:, None]]
        return found


def measure_brute_force(query: Tensor, gallery: Tensor, place: np.ndarray) -> np.ndarray:
    """(kappa, h, w) float64: at one level, the squared distance to each place found, from differences.

    The grid of the places may be finer than the level: the cells that contain the pixels are then compared.
    """
    h, w = place.shape[1:]
    n, _, rows, cols = gallery.shape
    check_places(place, n * h * w)
    image, row, col = (torch.from_numpy(at).to(gallery.device) for at in (place // (h * w), place // w % h, place % w))
    there = gallery.permute(0, 2, 3, 1)[image, row * rows // h, col * cols // w]
    here_row, here_col = np.indices((h, w))
    here = query[0].permute(1, 2, 0).cpu().double().numpy()[here_row * rows // h, here_col * cols // w]
    return ((here - there.cpu().double().numpy()) ** 2).sum(-1)


@dataclass
class _Level:
    """One level of query and gallery, and the cell that contains each pixel of the finest grid."""

    asked: Tensor
    held: Tensor
    weight: float
    fine: tuple[int, int]

    def __post_init__(self) -> None:
        _, self.channels, self.rows, self.columns = self.held.shape
        device = self.held.device
        self.lines = self.asked[0].permute(1, 2, 0).contiguous()  # (h_l, w_l, c)
        self.cells = self.held.flatten(2).transpose(1, 2).contiguous()  # (n, h_l * w_l, c)
        self.norms = (self.cells * self.cells).sum(2)  # (n, h_l * w_l)
        self.largest = self.norms.max()
        h, w = self.fine
        down = torch.arange(h, device=device) * self.rows // h
        self.across = torch.arange(w, device=device) * self.columns // w
        self.holder = (down[:, None] * self.columns + self.across).flatten()  # (h * w,)
        self.is_finest = (self.rows, self.columns) == self.fine

    def line(self, row: int) -> Tensor:
        """(w_l, c): the query's cells that contain a row of the finest grid."""
        return self.lines[row * self.rows // self.fine[0]]

    def distances(self, row: int, images: slice) -> Tensor:
        """(w, n * h * w) weighted squared distances, in product form."""
        line, cells, norms = self.line(row), self.cells[images].flatten(0, 1), self.norms[images].flatten()
        product = torch.addmm((line * line).sum(1)[:, None] + norms, line, cells.T, alpha=-2)
        if not self.is_finest:
            product = product.view(len(line), -1, self.rows * self.columns)[self.across][:, :, self.holder].flatten(1)
        return product if self.weight == 1 else product * self.weight

    def error(self, row: int) -> Tensor:
        """(w,): the error bound of these distances; the margin of `_slack` covers the sum over levels."""
        line = self.line(row)
        return self.weight * _slack(self.channels) * ((line * line).sum(1) + self.largest)[self.across]


def _slack(channels: int) -> float:
    """The error bound of the product form against the sum of squared differences, in units of |q|^2 + |g|^2.

    A sum of ``channels`` products has an error of at most channels * 2^-24 times the sum of their magnitudes: one such
    unit for the norms, one for the product, two for the differences, as |q - g|^2 <= 2 (|q|^2 + |g|^2). The other 4
    cover weights and final additions. Underflow is not covered: squares below 1e-38 are lost.
    """
    return 4 * (channels + 4) * 2.0**-24


def _find_candidates(
    levels: list[_Level], row: int, chunks: list[slice], kappa: int, allowed: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Pairs (pixel of the row, place) that include the kappa nearest of every pixel, and few others."""
    h, w = levels[0].fine
    device = levels[0].held.device
    error = torch.stack([level.error(row) for level in levels]).sum(0)  # (w,)
    nearest = torch.full((w, kappa), inf, device=device)  # the smallest so far, in product form
    pixels, places = ([torch.empty(0, dtype=torch.int64, device=device)] for _ in range(2))
    for images in chunks:
        table = levels[0].distances(row, images)  # (w, n * h * w)
        for level in levels[1:]:
            table = table + level.distances(row, images)
        if allowed is not None:
            table = table.view(w, -1, h, w).masked_fill(~allowed.to(device)[:, None], inf).flatten(1)
        hopeful = (table.amin(1) <= nearest[:, -1] + 2 * error).nonzero().flatten()
        if len(hopeful) == 0:
            continue
        rest = table[hopeful]
        best = torch.cat([nearest[hopeful], rest.topk(min(kappa, rest.shape[1]), 1, largest=False).values], 1)
        nearest[hopeful] = best.topk(kappa, 1, largest=False).values
        reach = (nearest[hopeful, -1] + 2 * error[hopeful])[:, None]
        at, place = ((rest <= reach) & (rest < inf)).nonzero(as_tuple=True)
        pixels.append(hopeful[at])
        places.append(place + images.start * h * w)
    return torch.cat(pixels), torch.cat(places)


def _measure(levels: list[_Level], row: int, pixel: Tensor, place: Tensor) -> np.ndarray:
    """The squared distance of each pair, from differences."""
    h, w = levels[0].fine
    pairs = max(1, _PAIRS // (8 * sum(level.channels for level in levels)))
    distances = []
    for start in range(0, len(pixel), pairs):
        here, there = pixel[start : start + pairs], place[start : start + pairs]
        total = torch.zeros(len(here), device=pixel.device)
        for level in levels:
            cell = level.cells[there // (h * w), level.holder[there % (h * w)]]
            difference = level.line(row)[level.across[here]] - cell
            total += level.weight * (difference * difference).sum(1)
        distances.append(total.cpu().numpy())
    return np.concatenate(distances)
