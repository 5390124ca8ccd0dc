"""Stage 2: the normal images most similar to the query as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from spade_kit._arguments import check_count, cut_count
from spade_kit.features.pyramid import Pyramid, check_pyramids
from spade_kit.options import DEFAULT_K


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The retrieved images, nearest first: their indices in the gallery and their distances.

    Both are ``(q, k)`` for q queries from `nearest_images`, and ``(k,)`` in a `Result`.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> spade = spade_kit.SPADE(k=5).fit(parts.train[:12])
    >>> result = spade.predict(parts.test[5])  # a chipped part
    >>> result.neighbours.index.shape, bool((result.neighbours.distance[:-1] <= result.neighbours.distance[1:]).all())
    ((5,), True)
    """

    index: Int[np.ndarray, "*q k"]
    distance: Float[np.ndarray, "*q k"]

    def __len__(self) -> int:
        return self.index.shape[-1]


def nearest_images(query: Pyramid, gallery: Pyramid, k: int | None = None) -> Neighbours:
    """Find the K gallery images nearest to each query by their pooled vectors.

    Their mean distance is the paper's image score. It describes the image as a whole: a small defect hardly changes it.

    Parameters
    ----------
    query, gallery
        Pyramids from the same backbone.
    k
        How many images, 50 by default. Limited to the size of the gallery, with a warning if ``k`` was given.

    Returns
    -------
    Neighbours
        ``index`` and Euclidean ``distance``, each (q, k), nearest first; ties go to the first image in the gallery.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> gallery = spade_kit.extract_features(parts.train[:4])
    >>> found = spade_kit.nearest_images(gallery.select([2]), gallery, k=1)
    >>> found.index.tolist()  # an image is its own nearest
    [[2]]
    """
    check_pyramids(query=query, gallery=gallery)
    if query.pooled.shape[1] != gallery.pooled.shape[1]:
        raise ValueError(
            f"The pooled vectors of query and gallery must have the same length; got {query.pooled.shape[1]} and "
            f"{gallery.pooled.shape[1]}. Compute both with the same backbone."
        )
    if len(gallery) == 0:
        raise ValueError("nearest_images needs at least one gallery image; got none.")
    for name, pyramid in {"query": query, "gallery": gallery}.items():
        if not torch.isfinite(pyramid.pooled).all():
            raise ValueError(f"The pooled vectors of the {name} must be finite; got NaN or infinity. Check its images.")
    count = DEFAULT_K if k is None else cut_count("k", check_count("k", k), len(gallery), "gallery images")
    return find_nearest(query.pooled, gallery.pooled, count)


def find_nearest(query: Float[Tensor, "q d"], gallery: Float[Tensor, "n d"], k: int) -> Neighbours:
    """The K nearest rows. Distances come from differences: the product form does not give 0 for equal vectors."""
    distance = torch.cdist(query, gallery.to(query), compute_mode="donot_use_mm_for_euclid_dist")  # (q, n)
    nearest = distance.sort(dim=1, stable=True)
    return Neighbours(nearest.indices[:, :k].cpu().numpy(), nearest.values[:, :k].cpu().numpy())


def find_nearest_of_many(
    query: Float[Tensor, "1 d"], gallery: Float[Tensor, "n d"], lengths: Float[np.ndarray, "n"], k: int
) -> Neighbours:
    """`find_nearest` in the time of one product: distances are measured only where its rounding leaves a doubt.

    ``lengths`` are the squared lengths of the rows. A sum of d products in float32 has an error of at most
    d 2^-24 (|q|^2 + |g|^2) / 2, in any order; it counts twice in |g|^2 - 2 q.g. A measured squared distance has one of
    at most 2 d 2^-24 (|q|^2 + |g|^2). Two rows are compared, hence the doubt of at most 6 d 2^-24 (|q|^2 + |g|^2).
    """
    (asked,) = query.numpy()
    bound = lengths - 2 * (gallery.numpy() @ asked)  # not by torch, whose product of a matrix and a vector is slower
    doubt = 8 * (len(asked) + 4) * 2.0**-24 * (asked @ asked + lengths.max())
    kth = torch.topk(torch.from_numpy(bound), min(k, len(bound)), largest=False).values[-1].item()
    near = np.flatnonzero(bound <= kth + doubt)
    found = find_nearest(query, gallery[torch.from_numpy(near)], k)
    return Neighbours(near[found.index], found.distance)
