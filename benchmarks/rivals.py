"""The alternatives: brute-force search over the concatenated pyramid with optimised libraries."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import faiss
import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

Search = Callable[[np.ndarray], np.ndarray]  # (q, d) pixels to (q,) indices of the nearest gallery pixels


def concatenate(levels: Sequence[Tensor], weights: np.ndarray) -> np.ndarray:
    """(n * h * w, d): each pixel's features of all levels, scaled so that Euclidean distances are the weighted ones."""
    h, w = levels[0].shape[2:]
    rows, cols = torch.arange(h), torch.arange(w)
    scaled = [
        float(weight) ** 0.5 * level[:, :, rows * level.shape[2] // h][:, :, :, cols * level.shape[3] // w]
        for level, weight in zip(levels, weights)
    ]
    return torch.cat(scaled, 1).permute(0, 2, 3, 1).flatten(0, 2).contiguous().numpy()


def faiss_flat(gallery: np.ndarray) -> Search:
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatL2(gallery.shape[1])
    index.add(gallery)
    return lambda query: index.search(query, 1)[1][:, 0]


def torch_brute(gallery: np.ndarray) -> Search:
    """A matrix product in chunks that stay in cache, and a running minimum."""
    held = torch.from_numpy(gallery)
    norms, step = (held * held).sum(1), 8192

    def search(query: np.ndarray) -> np.ndarray:
        asked = torch.from_numpy(query)
        best = torch.full((len(asked),), torch.inf)
        place = torch.zeros(len(asked), dtype=torch.int64)
        for start in range(0, len(held), step):
            table = torch.addmm(norms[start : start + step], asked, held[start : start + step].T, alpha=-2)
            least, at = table.min(1)
            nearer = least < best
            best, place = torch.where(nearer, least, best), torch.where(nearer, at + start, place)
        return place.numpy()

    return search


def window_loop(gallery: Sequence[Tensor], radius: int) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """RAD as its authors run it: per level, each cell's greatest cosine within a window of the retrieved images.

    As there, the images are taken from the gallery and their vectors made unit length for each query, cells are
    visited in a loop, and the places of a window are listed for each.
    """
    _, _, h, w = gallery[0].shape
    cells = [level.flatten(2).transpose(1, 2).contiguous() for level in gallery]  # (n, h * w, c)
    images = torch.arange(len(gallery[0]))

    def search(query: Sequence[Tensor]) -> list[Tensor]:
        maps = []
        for asked, held in zip(query, cells):
            here = torch.nn.functional.normalize(asked[0].flatten(1).T, dim=1)  # (h * w, c)
            there = torch.nn.functional.normalize(held[images], dim=2)
            found = []
            for cell in range(h * w):
                rows, cols = (range(max(at - radius, 0), min(at + radius + 1, side))
                              for at, side in ((cell // w, h), (cell % w, w)))  # fmt: skip
                near = torch.tensor([row * w + col for row in rows for col in cols])
                found.append(1 - (here[cell, None] @ there[:, near].flatten(0, 1).T).max())
            maps.append(torch.stack(found).reshape(h, w))
        return maps

    return search


def sklearn_brute(gallery: np.ndarray) -> Search:
    index = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(gallery)
    return lambda query: index.kneighbors(query, return_distance=False)[:, 0]


def check_the_same(ours: np.ndarray, place: np.ndarray, query: np.ndarray, gallery: np.ndarray) -> None:
    """Compare our squared distances with those of the library's pairs, in float64, to 1e-6 (|q|^2 + |g|^2)."""
    asked, held = query.astype(np.float64), gallery[place].astype(np.float64)
    theirs = ((asked - held) ** 2).sum(1)
    slack = 1e-6 * ((asked**2).sum(1) + (held**2).sum(1))
    if not (ours.astype(np.float64).ravel() ** 2 <= theirs + slack).all():
        raise AssertionError("The library found a nearer pixel: our search is not exact.")
    if not (theirs <= ours.astype(np.float64).ravel() ** 2 + 20 * slack).all():
        raise AssertionError("The library's pixel is farther than rounding explains: it solves a different task.")
