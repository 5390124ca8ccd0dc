"""The result for one image: the map, the contribution of each layer, and the normal pixel matched to every pixel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, SupportsIndex, runtime_checkable

import numpy as np
import pandas
from jaxtyping import Bool, Float, Int, UInt8

from spade_kit._arguments import check_count, warn
from spade_kit._files import as_text
from spade_kit.correspondence import (
    Breakpoints,
    Correspondence,
    Question,
    ResultsPerK,
    find_ratios,
    match_level,
    measure_from,
    spread,
)
from spade_kit.datasets.samples import Sample
from spade_kit.evaluation.regions import find_regions
from spade_kit.features.backbones import Backbone
from spade_kit.features.crops import Crop
from spade_kit.features.pyramid import Pyramid
from spade_kit.gallery.calibration import Calibration
from spade_kit.gallery.gallery import Gallery, QueryImage
from spade_kit.options import Options
from spade_kit.retrieval import Neighbours
from spade_kit.scores import check_threshold, choose_map, make_map, score_image, share_out, split, take_level

_CELLS = 512  # compared with all cells of an image at once


@runtime_checkable
class Judge(Protocol):
    """The interface of SPADE that a result needs."""

    backbone: Backbone
    options: Options

    @property
    def gallery(self) -> Gallery: ...

    @property
    def calibration(self) -> Calibration: ...

    def threshold(self, fpr: float = 0.01) -> float: ...

    def with_options(self, **options: Any) -> Judge: ...

    def judge(self, image: QueryImage, among: Any = None, before: Any = None) -> Result: ...


@dataclass(frozen=True)
class Match:
    """The normal pixel that explains one pixel of the map.

    Attributes
    ----------
    image, neighbour
        The index of the normal image in ``train`` and among the retrieved images, nearest first.
    row, col
        In map pixels: the centre of the matched cell.
    distance
        Unsmoothed distance of the two pixels; with kappa > 1, the mean over the kappa nearest.
    layers
        The contribution of each layer to the distance, from the nearest pixel; they add up to the distance.
    angles
        With vectors of length 1 (``unit=True``), the angle in degrees between those of the two pixels at each layer of
        weight above 0, from the nearest pixel.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> spade = spade_kit.SPADE(k=5).fit(parts.train[:12])
    >>> result = spade.predict(parts.test[5])  # a chipped part
    >>> match = result.match(112, 60)
    >>> match.image < 12, abs(sum(match.layers.values()) - match.distance) < 0.01
    (True, True)
    """

    image: int
    neighbour: int
    row: int
    col: int
    distance: float
    layers: dict[str, float]
    angles: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Result:
    """The result of SPADE for one image; all maps are (H, W) on the evaluated crop, raw distances.

    Attributes
    ----------
    anomaly_map
        Smoothed distance to the nearest normal pixels: Euclidean, or squared under ``squared``.
    neighbours
        The retrieved normal images, nearest first: ``index`` (K,) in ``train``, ``distance`` (K,).
    correspondence
        The match of every cell; ``image`` is an index into the neighbours.
    source
        The judged image: ``image``, the evaluated crop, (H, W, 3) uint8; ``crop``, its position in the original image;
        ``sample``, the original, if it was given as a Sample; and its features, ``query`` for short.
    among
        The training images it was judged against: all, or all except those left out.
    spade
        The SPADE that judged it, with the gallery and options of that time.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> spade = spade_kit.SPADE(k=5).fit(parts.train[:12])
    >>> result = spade.predict(parts.test[5])  # a chipped part
    >>> result.anomaly_map.shape, list(result.layer_maps)
    ((224, 224), ['layer1', 'layer2', 'layer3'])
    >>> row, col = divmod(result.anomaly_map.argmax(), 224)
    >>> bool(result.mask[row, col])  # the map peaks on the defect
    True
    """

    anomaly_map: Float[np.ndarray, "H W"]
    neighbours: Neighbours
    correspondence: Correspondence
    source: QueryImage
    among: Int[np.ndarray, "m"]
    spade: Judge

    @property
    def query(self) -> Pyramid:
        return self.source.pyramid

    @property
    def image(self) -> UInt8[np.ndarray, "H W 3"]:
        return self.source.image

    @property
    def crop(self) -> Crop:
        return self.source.crop

    @property
    def roi(self) -> Bool[np.ndarray, "H W"] | None:
        """The region of interest on the evaluated crop, outside of which nothing is scored; None for all of it."""
        return self.crop.roi

    @property
    def sample(self) -> Sample | None:
        return self.source.sample

    def __repr__(self) -> str:
        name = as_text(self.sample.path.name) if self.sample else "image"
        return f"Result({name}: image score {self.image_score:.3f}, retrieval score {self.retrieval_score:.3f})"

    @property
    def image_score(self) -> float:
        """The maximum of the map or, under ``score="top"`` or ``"excess"``, the mean of the highest 1 % of a map."""
        score = self.spade.options.score
        return score_image(self.anomaly_map, self.place_level if score == "excess" else None, score, self.roi)

    @cached_property
    def place_level(self) -> Float[np.ndarray, "H W"] | None:
        """What normal images reach at each place of the map, under the same options; None if there is only one.

        The 95th percentile over the maps of at most 200 of the normal images in ``among``, each judged against all
        others, smoothed with 2 % of the width. Computed for the first result, then kept.
        """
        return self.spade.calibration.place_level(self.spade.options, self.among)

    @property
    def excess_map(self) -> Float[np.ndarray, "H W"]:
        """How far the map exceeds what normal images reach at each place: the map less `place_level`.

        Raises
        ------
        ValueError
            If there are no two different normal images.
        """
        if self.place_level is None:
            raise ValueError("The excess needs at least two different normal images; got one. Fit more normal images.")
        return take_level(self.anomaly_map, self.place_level)

    @property
    def judged_map(self) -> Float[np.ndarray, "H W"]:
        """The map from which pixel thresholds are taken: `excess_map` under ``judged="excess"``, else `anomaly_map`.

        NaN outside `roi`.
        """
        judged = self.spade.options.judged
        return choose_map(self.anomaly_map, self.place_level if judged == "excess" else None, judged, self.roi)

    @property
    def retrieval_score(self) -> float:
        """The paper's image score: the mean distance to the pooled vectors of the retrieved images."""
        return float(self.neighbours.distance.mean())

    @property
    def normal_level(self) -> float | None:
        """The reference level, the 99th percentile of the maps of normal images: `SPADE.normal_level`."""
        return self.spade.calibration.level(self.spade.options.of_map)

    @property
    def judged_level(self) -> float | None:
        """The 99th percentile of the judged maps of normal images."""
        return self.spade.calibration.level(self.spade.options)

    @property
    def label(self) -> str | None:
        return self.sample.label if self.sample else None

    @cached_property
    def mask(self) -> Bool[np.ndarray, "H W"] | None:
        """The ground truth on the evaluated crop, or None if unknown."""
        if self.sample is None or (mask := self.sample.mask) is None:
            return None
        cut = self.crop.cut_mask(mask)
        if mask.any() and not cut.any():
            warn(
                f"The defect of {as_text(self.sample.path.name)} is not visible on the evaluated crop: it lies "
                "outside, or is smaller than a pixel there. Use load_backbone(..., crop=None), or a larger resize."
            )
        return cut

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) of the evaluated crop in pixels of the original image."""
        return self.crop.box

    def describe_options(self) -> str:
        """The options in one line, and how many normal images were used if not all."""
        used = self.spade.options.replace(k=len(self.neighbours))
        options = used.rename(self.spade.backbone.find_label).describe()
        if len(self.among) == 1:
            return f"compared with normal image {self.among[0]} only; {options}"
        if len(self.among) < len(self.spade.gallery):
            return f"judged against {len(self.among)} of {len(self.spade.gallery)} normal images; {options}"
        return options

    def on_photo(self) -> Float[np.ndarray, "H W"]:
        """The anomaly map at the size of the original image, NaN where it was not judged, also outside the roi."""
        return self.crop.put_back(self.anomaly_map)

    def segmentation(self, threshold: float) -> Bool[np.ndarray, "H W"]:
        """The anomalous pixels: those where `judged_map` reaches the threshold."""
        return self.judged_map >= check_threshold(threshold)

    def regions(self, threshold: float) -> pandas.DataFrame:
        """The connected regions of `segmentation`, the most anomalous first.

        Pixels that touch at a side or a corner belong together.

        Returns
        -------
        pandas.DataFrame
            A row per region, numbered from 1; empty if no pixel reaches the threshold. ``top``, ``left``, ``bottom``,
            ``right``, its box in pixels of the original image (``photo[top:bottom, left:right]``); ``area``, in the
            same pixels; ``peak``, the highest value of `judged_map`, at ``row`` and ``col`` of the map; ``mean``;
            ``normal``, ``normal_row``, ``normal_col``, the training image and the pixel that explain the peak (see
            `match`); ``at_edge``, whether it touches the edge of the evaluated crop, beyond which it may go on.
        """
        threshold = check_threshold(threshold)
        return find_regions(self.judged_map, threshold, self.crop, self.correspondence, self.neighbours)

    # ---- the same image under other options --------------------------------------------------------------------------

    def with_options(self, **options: Any) -> Result:
        """The result under other options (k, kappa, radius, ...: see `SPADE`), without reading the image again.

        The same as ``spade.with_options(...).predict(image)``, but faster: features are reused, another sigma needs no
        search, and a search tries the previous matches first. For a slider over k see `with_k`.
        """
        return self.spade.with_options(**options).judge(self.source, self.among, before=self)

    def is_matched_by(self, gallery: Gallery, options: Options, among: Int[np.ndarray, "m"]) -> bool:
        """Whether a search among these images of a gallery, under these options, would find the same matches."""
        count, own = len(among), self.spade.options
        same = self.spade.gallery is gallery and np.array_equal(self.among, among)
        return same and own.of_search(count) == options.of_search(count)

    def with_k(self, k: int) -> Result:
        """The result if only the ``k`` nearest normal images had been retrieved; ``k`` must not exceed their number.

        The first call goes through the neighbours in order, takes at most twice as long as a search, and keeps the
        nearest places after each; any other k is then a lookup.
        """
        k, most = int(check_count("k", k)), len(self.neighbours)
        if k > most:
            raise ValueError(
                f"k must be at most {most}, the number of retrieved images; got {k}. "
                f"Use a smaller k, or result.with_options(k={k})."
            )
        found = self._results_per_k(k)
        again = replace(
            self,
            anomaly_map=make_map(found.distance, self.crop.size, self.spade.options.sigma),
            neighbours=Neighbours(self.neighbours.index[:k], self.neighbours.distance[:k]),
            correspondence=found,
            spade=self.spade.with_options(k=k),
        )
        again.__dict__["_results_per_k"] = self._results_per_k  # also valid for smaller k
        return again

    @cached_property
    def _asked(self) -> Question:
        gallery, options = self.spade.gallery, self.spade.options
        factors = gallery.factors(options, self.among)
        return Question(self.query, gallery.pixels, self.neighbours.index, factors, options)

    @cached_property
    def _results_per_k(self) -> ResultsPerK:
        return ResultsPerK(self._asked)

    @cached_property
    def steps(self) -> Breakpoints | None:
        """The matches for every k up to the number retrieved, as a list of changes; None if there is no such list.

        There is none with ``combine="ensemble"``, a single layer, or where each k is searched separately.
        """
        return self._results_per_k.breakpoints()

    def with_normals(self, images: Iterable[SupportsIndex]) -> Result:
        """The result if only these of its training images, ``among``, had been fitted."""
        given = images if isinstance(images, Iterable) else [images]
        chosen = np.unique([check_count("A training image", image, least=0) for image in given])
        if len(chosen) == 0 or not np.isin(chosen, self.among).all():
            unknown = [int(image) for image in chosen if image not in self.among]
            raise ValueError(
                f"An image needs at least one of the {len(self.among)} training images that it was judged against, "
                f"and no others; got {unknown or 'none'}. Choose from result.among."
            )
        return self.spade.judge(self.source, chosen)

    # ---- layers and places -------------------------------------------------------------------------------------------

    @cached_property
    def layer_maps(self) -> dict[str, Float[np.ndarray, "H W"]]:
        """The contribution of each layer, in proportion to its squared distance; the maps add up to ``anomaly_map``.

        With squared distances, ``concat`` and kappa 1 it is the layer's own term of the sum.
        """
        shares = share_out(self.correspondence)
        return {name: self._map(share) for name, share in zip(self.query.layers, shares)}

    @cached_property
    def layer_alone(self) -> dict[str, Float[np.ndarray, "H W"]]:
        """The map of each layer searched separately, on its own grid and unweighted. Computed on first use."""
        return {name: self._map(found.distance) for name, found in self.match_alone.items()}

    @cached_property
    def match_alone(self) -> dict[str, Correspondence]:
        """The matches of each layer searched separately: places on its own grid. Computed on first use."""
        pixels, options = self.spade.gallery.pixels, self.spade.options
        return {
            name: match_level(self.query, pixels, self.neighbours.index, level, options)
            for level, name in enumerate(self.query.layers)
        }

    @cached_property
    def layer_agrees(self) -> dict[str, Bool[np.ndarray, "h w"]]:
        """Where a layer searched separately finds the cell of its grid that contains the joint match."""
        together, fine = self.correspondence, self.query.grid
        agrees = {}
        for name, alone in self.match_alone.items():
            _, rows, cols = alone.image.shape
            there = (together.image[0], together.row[0] * rows // fine[0], together.col[0] * cols // fine[1])
            own = [spread(place[0], fine) for place in (alone.image, alone.row, alone.col)]
            agrees[name] = np.logical_and.reduce([mine == all_s for mine, all_s in zip(own, there)])
        return agrees

    def _map(self, distance: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "H W"]:
        return make_map(distance, self.crop.size, self.spade.options.sigma)

    def match(self, row: SupportsIndex, col: SupportsIndex) -> Match:
        """The normal pixel that explains the pixel at (row, col) of the map."""
        size, layers = self.anomaly_map.shape, self.query.layers
        return match_at(row, col, size, self.correspondence, self.neighbours, layers, self.unit_weights)

    def distances_from(
        self, row: SupportsIndex, col: SupportsIndex, images: Int[np.ndarray, "k"] | None = None
    ) -> Float[np.ndarray, "k h w"]:
        """The distance from the pixel at (row, col) of the map to every pixel of each retrieved image.

        Says how unique a match is. Without a ``radius``, which is ignored here, and with kappa 1 the minimum is the
        distance of `match`. With ``combine="ensemble"`` distances are means over the levels of weight above 0, from
        places that all levels share, so the minimum is at least that.

        Returns
        -------
        numpy.ndarray
            (K, h, w), in the order of ``neighbours`` or of the training ``images`` given, on the finest grid:
            Euclidean, or squared under ``squared``, and weighted.
        """
        size = self.anomaly_map.shape
        cell = self.correspondence.cell_of(*check_on_map(row, col, size), size)
        return measure_from(cell, self._asked if images is None else replace(self._asked, images=images))

    @cached_property
    def ratio_map(self) -> Float[np.ndarray, "h w"]:
        """How ambiguous each match is: the least distance to a normal image over that to its best distant place.

        Near 0, no other place is like the pixel; at 1, another explains it as well, as on an even surface. Both are of
        the normal image that `match` names, and otherwise as in `distances_from`. Distant places are more than 10 % of
        the grid's longer side away from the best one, in rows or columns.

        Computed on first use, in some seconds: it takes all pairs of cells. (h, w) on the finest grid, unsmoothed.
        """
        *_, ratio = self.measure_ratios()
        return ratio

    def measure_ratios(self) -> Iterator[Float[np.ndarray, "h w"]]:
        """Yield `ratio_map` again and again while it is computed, NaN where it is not known yet."""
        explained = self.correspondence.image[0]
        ratio = np.full(explained.shape, np.nan, np.float32)
        for neighbour in np.unique(explained):
            cells = np.argwhere(explained == neighbour)
            asked = replace(self._asked, images=self._asked.images[[neighbour]])
            for start in range(0, len(cells), _CELLS):
                some = tuple(cells[start : start + _CELLS].T)
                ratio[some] = find_ratios(some, asked)
                yield ratio

    @property
    def unit_weights(self) -> Float[np.ndarray, "L"] | None:
        """The weight of each layer's squared distance, if vectors have length 1, otherwise None: see `find_angles`."""
        return self._asked.factors if self.spade.backbone.unit else None

    def normal_image(self, index: SupportsIndex) -> UInt8[np.ndarray, "H W 3"]:
        """The evaluated crop of a training image, as stored for display."""
        gallery = self.spade.gallery
        return gallery.normals[gallery.check_index(index)].image

    @cached_property
    def reconstruction(self) -> UInt8[np.ndarray, "H W 3"]:
        """The crop assembled, cell by cell, from the normal patches that explain it."""
        (height, width), (h, w) = self.anomaly_map.shape, self.query.grid
        found = self.correspondence
        normals = np.stack([self.normal_image(index) for index in self.neighbours.index])  # (k, H, W, 3)
        rows, cols = np.indices((height, width))
        cell = (rows * h // height, cols * w // width)
        # a pixel moves with its cell; where a side is not a multiple of the grid, the last pixel is clipped
        there_rows = rows + (found.row[0][cell] - cell[0]) * height // h
        there_cols = cols + (found.col[0][cell] - cell[1]) * width // w
        there = (found.image[0][cell], there_rows.clip(0, height - 1), there_cols.clip(0, width - 1))
        return normals[there]


def check_on_map(row: SupportsIndex, col: SupportsIndex, size: Sequence[float]) -> tuple[int, int]:
    """A pixel of a map of ``size``."""
    height, width = size
    row, col = check_count("row", row, least=0), check_count("col", col, least=0)
    if row >= height or col >= width:
        raise ValueError(f"A map position must have 0 <= row < {height} and 0 <= col < {width}; got ({row}, {col}).")
    return row, col


def match_at(
    row: SupportsIndex,
    col: SupportsIndex,
    size: tuple[int, ...],
    found: Correspondence,
    neighbours: Neighbours,
    layers: Sequence[str],
    unit_weights: Float[np.ndarray, "L"] | None = None,
) -> Match:
    """The match that a search on some grid found for a pixel of a map of ``size``."""
    at = found.cell_of(*check_on_map(row, col, size), size)
    squared = found.layer_distance[:, at[0], at[1]]
    shares = split(found.distance[at][None], squared[:, None])[:, 0]
    angles = find_angles(squared, unit_weights) if unit_weights is not None else np.full(len(squared), np.nan)
    neighbour, there_row, there_col = map(int, found.nearest_at(at, size))
    return Match(
        image=int(neighbours.index[neighbour]),
        neighbour=neighbour,
        row=there_row,
        col=there_col,
        distance=float(found.distance[at]),
        layers={name: float(share) for name, share in zip(layers, shares)},
        angles={name: float(angle) for name, angle in zip(layers, angles) if not np.isnan(angle)},
    )


def find_angles(
    layer_distance: Float[np.ndarray, "L ..."], weights: Float[np.ndarray, "L"]
) -> Float[np.ndarray, "L ..."]:
    """The angles in degrees between vectors of length 1, from their weighted squared distances, NaN at weight 0.

    Without its weight, the squared distance is 2 - 2 cos of the angle, that is the square of 2 sin of half of it.
    """
    scale = np.where(weights > 0, weights, np.nan).reshape(-1, *[1] * (layer_distance.ndim - 1))
    half_chord = np.sqrt(layer_distance / scale) / 2
    return 2 * np.degrees(np.arcsin(np.minimum(half_chord, 1)))
