"""The whole method, slow but readable: features in, then retrieval, correspondence, map and segmentation.

NumPy in float64, all pairs of pixels, no optimisations. Tests compare the package with it.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist


def judge(query, gallery, k=50, kappa=1, radius=None, sigma=4, size=(224, 224)):
    """Compute what `SPADE.predict` does, a thousand times slower: half a minute for 50 images of 56 x 56 cells.

    All levels have the same weight and are matched together (no weights, ``combine="concat"``), as in the paper.

    Parameters
    ----------
    query, gallery
        Pyramids of one image and of n images, from the same backbone.
    k, kappa, radius, sigma
        As in `SPADE`; kappa must not exceed the number of candidates.
    size
        (H, W) of the map in pixels.

    Returns
    -------
    anomaly_map
        (H, W) float64.
    match
        (kappa, h, w, 3): gallery image, row and column of the pixels that explain each cell, nearest first; ties go to
        the first image in the order of retrieval, then to the first row and column.

    Examples
    --------
    A grid of 2 x 2 cells. No normal image has a 4; the nearest value is the 3 of the second image:

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
    # 1. Features: a pyramid holds one vector per cell at each level, and one vector for the whole image.
    pooled, all_pooled = (np.asarray(pyramid.pooled, np.float64) for pyramid in (query, gallery))  # (1, d), (n, d)
    asked = [np.asarray(level, np.float64)[0] for level in query.levels]  # L x (c, h, w), fine to coarse

    # 2. Retrieval: the k images with the nearest pooled vectors.
    neighbours = cdist(pooled, all_pooled)[0].argsort(kind="stable")[:k]  # (k,)
    held = [np.asarray(level, np.float64)[neighbours] for level in gallery.levels]  # L x (k, c, h, w)

    # 3. Correspondence: the kappa nearest of all pixels of those images for each pixel, and their mean distance.
    _, h, w = asked[0].shape
    distance, match = np.empty((h, w)), np.empty((kappa, h, w, 3), int)
    for row in range(h):
        place, squared = nearest(distances_of_row(asked, held, row, np.ones(len(held)), radius), kappa)  # (kappa, w)
        distance[row] = np.sqrt(squared).mean(0)
        match[:, row] = np.stack([neighbours[place // (h * w)], place // w % h, place % w], axis=-1)

    # 4. Anomaly map: distances upsampled to the size of the image, then smoothed.
    anomaly_map = blend(size[0], h) @ distance @ blend(size[1], w).T  # (H, W)
    return gaussian_filter(anomaly_map, sigma, mode="reflect", truncate=4), match


def segment(anomaly_map, threshold):
    """5. Segmentation: the pixels that reach the threshold are anomalous."""
    return anomaly_map >= threshold


def distances_of_row(query, gallery, row, weights, radius=None):
    """(w, n * h * w) squared distances of a row's pixels to all pixels: weighted sums over levels; inf beyond radius.

    Levels are (c, h, w) and (n, c, h, w), fine to coarse. Every fine pixel uses the coarse cell that contains it.
    """
    n, _, h, w = gallery[0].shape
    total = np.zeros((w, n, h, w))
    for asked, held, weight in zip(query, gallery, weights):
        channels, rows, cols = asked.shape
        down, across = np.arange(h) * rows // h, np.arange(w) * cols // w  # the cell of each fine row and column
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
    """(h * w, n * h * w): `distances_of_row` of all rows, stacked."""
    return np.concatenate([distances_of_row(query, gallery, row, weights, radius) for row in range(query[0].shape[1])])


def nearest(table, kappa):
    """(kappa, pixels) places and squared distances, nearest first; ties go to the first place."""
    table, pixels = table.copy(), np.arange(len(table))
    places, squared = [], []
    for _ in range(kappa):
        places.append(table.argmin(1))
        squared.append(table[pixels, places[-1]])
        table[pixels, places[-1]] = np.inf  # do not pick it again
    return np.stack(places), np.stack(squared)


def blend(pixels, cells):
    """(pixels, cells): the weight of each cell in each map pixel, linear between the two nearest centres."""
    centre = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    return np.clip(1 - abs(centre[:, None] - np.arange(cells)), 0, 1)
