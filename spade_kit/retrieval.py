"""Stage 2: the normal images that look most like the query as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from spade_kit._arguments import check_count, cut_count
from spade_kit.features.pyramid import Pyramid
from spade_kit.options import DEFAULT_K


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The retrieved images, nearest first: their place in the gallery and their distance.

    Both ``(q, k)`` for q queries as `nearest_images` gives them, ``(k,)`` in a `Result`.
    """

    index: Int[np.ndarray, "*q k"]
    distance: Float[np.ndarray, "*q k"]

    def __len__(self) -> int:
        return self.index.shape[-1]


def nearest_images(query: Pyramid, gallery: Pyramid, k: int | None = None) -> Neighbours:
    """Find the K gallery images nearest to each query by their pooled vectors.

    Their mean distance is the paper's score of an image. It speaks of the image as a whole: a small defect hardly
    moves it.

    Parameters
    ----------
    query, gallery
        Pyramids of the same backbone.
    k
        How many images; 50 if left out. More than there are is cut, with a warning if it was asked for.

    Returns
    -------
    Neighbours
        ``index`` and Euclidean ``distance``, each (q, k), nearest first; of equal ones the first in the gallery.
    """
    if query.pooled.shape[1] != gallery.pooled.shape[1]:
        raise ValueError(
            f"nearest_images compares pooled vectors, but the query's have {query.pooled.shape[1]} numbers and the "
            f"gallery's {gallery.pooled.shape[1]}. Take both from the same backbone."
        )
    if len(gallery) == 0:
        raise ValueError("nearest_images needs at least one gallery image, but none came.")
    count = DEFAULT_K if k is None else cut_count("k", check_count("k", k), len(gallery), "gallery images")
    return find_nearest(query.pooled, gallery.pooled, count)


def find_nearest(query: Float[Tensor, "q d"], gallery: Float[Tensor, "n d"], k: int) -> Neighbours:
    """The K nearest rows. Differences are squared one by one: the product form does not give 0 for equal vectors."""
    distance = torch.cdist(query, gallery.to(query), compute_mode="donot_use_mm_for_euclid_dist")  # (q, n)
    nearest = distance.sort(dim=1, stable=True)
    return Neighbours(nearest.indices[:, :k].cpu().numpy(), nearest.values[:, :k].cpu().numpy())
