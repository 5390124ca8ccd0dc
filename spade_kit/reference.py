"""The whole method, slow and written to be read: features in, retrieval, correspondence, map, segmentation.

NumPy in float64, every pair of pixels, no trick. Tests hold the package to it.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist


def judge(query, gallery, k=50, kappa=1, radius=None, sigma=4, size=(224, 224)):
    """What `SPADE.predict` finds, a thousand times more slowly: with 50 images of 56 x 56 cells in half a minute.

    All levels count alike and are matched together (no weights, ``combine="concat"``), as in the paper.

    Parameters
    ----------
    query, gallery
        Pyramids of one image and of n, from one backbone.
    k, kappa, radius, sigma
        As in `SPADE`; kappa at most the number of candidates.
    size
        (H, W), of the map in pixels.

    Returns
    -------
    anomaly_map
        (H, W) float64.
    match
        (kappa, h, w, 3): the image in the gallery, the row and the column of the pixels that explain each cell, nearest
        first; of equal ones the first image in order of retrieval, then the first row and column.

    Examples
    --------
    A grid of 2 x 2 cells. The 4 has no 4 among the normal images; nearest is the 3 of the second:

    >>> import torch
    >>> from spade_kit import Pyramid
    >>> query = Pyramid([torch.tensor([[[[0.0, 4.0], [1.0, 2.0]]]])], ["layer1"], torch.zeros(1, 1))
    >>> cells = torch.tensor([[[[0.0, 1.0], [2.0, 9.0]]], [[[3.0, 3.0], [0.0, 0.0]]]])
    >>> gallery = Pyramid([cells], ["layer1"], torch.tensor([[5.0], [6.0]]))
    >>> anomaly_map, match = judge(query, gallery, sigma=0, size=(2, 2))
    >>> anomaly_map
    array([[0., 1.],
           [0., 0.]])
    >>> match[0, 0, 1]
    array([1, 0, 0])
    >>> segment(anomaly_map, 0.5).tolist()
    [[False, True], [False, False]]
    """
    # 1. Features: a pyramid holds one vector a cell, level by level, and one of the image as a whole.
    pooled, all_pooled = (np.asarray(pyramid.pooled, np.float64) for pyramid in (query, gallery))  # (1, d), (n, d)
    asked = [np.asarray(level, np.float64)[0] for level in query.levels]  # L x (c, h, w), fine to coarse

    # 2. Retrieval: the k images whose pooled vectors are nearest.
    neighbours = cdist(pooled, all_pooled)[0].argsort(kind="stable")[:k]  # (k,)
    held = [np.asarray(level, np.float64)[neighbours] for level in gallery.levels]  # L x (k, c, h, w)

    # 3. Correspondence: each pixel's kappa nearest among all positions of those images, and their mean distance.
    _, h, w = asked[0].shape
    distance, match = np.empty((h, w)), np.empty((kappa, h, w, 3), int)
    for row in range(h):
        place, squared = nearest(distances_of_row(asked, held, row, np.ones(len(held)), radius), kappa)  # (kappa, w)
        distance[row] = np.sqrt(squared).mean(0)
        match[:, row] = np.stack([neighbours[place // (h * w)], place // w % h, place % w], axis=-1)

    # 4. The map: distances at the size of the image, smoothed.
    anomaly_map = blend(size[0], h) @ distance @ blend(size[1], w).T  # (H, W)
    return gaussian_filter(anomaly_map, sigma, mode="reflect", truncate=4), match


def segment(anomaly_map, threshold):
    """5. Segmentation: the pixels that reach the threshold are anomalous."""
    return anomaly_map >= threshold


def distances_of_row(query, gallery, row, weights, radius=None):
    """(w, n * h * w) squared distances of a row's pixels to all pixels: weighted sums over levels; inf out of reach.

    Levels are (c, h, w) and (n, c, h, w), fine to coarse. A coarse cell counts for every fine pixel that it holds.
    """
    n, _, h, w = gallery[0].shape
    total = np.zeros((w, n, h, w))
    for asked, held, weight in zip(query, gallery, weights):
        channels, rows, cols = asked.shape
        down, across = np.arange(h) * rows // h, np.arange(w) * cols // w  # which cell holds each fine row and column
        here = asked[:, down[row]].T  # (cols, c)
        there = held.transpose(0, 2, 3, 1).reshape(-1, channels)  # (n * rows * cols, c)
        squared = cdist(here, there, "sqeuclidean").reshape(cols, n, rows, cols)
        total += weight * squared[across][:, :, down][..., across]
    if radius is not None:
        near_rows = abs(np.arange(h) - row) <= radius  # (h,)
        near_cols = abs(np.arange(w)[:, None] - np.arange(w)) <= radius  # (w, w)
        total = np.where((near_rows[:, None] & near_cols[:, None])[:, None], total, np.inf)
    return total.reshape(w, -1)


def all_distances(query, gallery, weights, radius=None):
    """(h * w, n * h * w): `distances_of_row` of every row, below each other."""
    return np.concatenate([distances_of_row(query, gallery, row, weights, radius) for row in range(query[0].shape[1])])


def nearest(table, kappa):
    """(kappa, pixels) places and squared distances, nearest first; of equal ones the first place."""
    table, pixels = table.copy(), np.arange(len(table))
    places, squared = [], []
    for _ in range(kappa):
        places.append(table.argmin(1))
        squared.append(table[pixels, places[-1]])
        table[pixels, places[-1]] = np.inf  # not again
    return np.stack(places), np.stack(squared)


def blend(pixels, cells):
    """(pixels, cells): what part of a map's pixel each cell has, linear between the two nearest centres."""
    centre = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    return np.clip(1 - abs(centre[:, None] - np.arange(cells)), 0, 1)
