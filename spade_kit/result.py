"""What SPADE says about one photograph: the map, the layers' parts, and the normal pixel behind every pixel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, SupportsIndex, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from spade_kit._arguments import check_count, warn
from spade_kit.correspondence import Breakpoints, Correspondence, ResultsPerK, match_level, spread
from spade_kit.datasets.samples import Sample
from spade_kit.features.backbones import Backbone
from spade_kit.features.crops import Crop
from spade_kit.features.pyramid import Pyramid
from spade_kit.gallery.calibration import Calibration
from spade_kit.gallery.gallery import Gallery, QueryImage
from spade_kit.options import Options
from spade_kit.retrieval import Neighbours
from spade_kit.scores import check_threshold, make_map, share_out, split


@runtime_checkable
class Judge(Protocol):
    """What a result asks of the SPADE that made it."""

    backbone: Backbone
    options: Options

    @property
    def gallery(self) -> Gallery: ...

    @property
    def calibration(self) -> Calibration: ...

    def threshold(self, fpr: float = 0.01) -> float: ...

    def with_options(self, **options: Any) -> Judge: ...

    def judge(self, image: QueryImage, among: np.ndarray | None = None, before: Any = None) -> Result: ...


@dataclass(frozen=True)
class Match:
    """The normal pixel that explains one pixel of the map.

    Attributes
    ----------
    image, neighbour
        The normal image's place in ``train`` and among the retrieved, nearest first.
    row, col
        In map pixels: the centre of the matched cell.
    distance
        Unsmoothed: of the two pixels, or with kappa > 1 the mean over the kappa nearest.
    layers
        Each layer's part of the distance, as the nearest pixel has it; the parts add up to it.
    """

    image: int
    neighbour: int
    row: int
    col: int
    distance: float
    layers: dict[str, float]


@dataclass(frozen=True, eq=False)
class Result:
    """What SPADE says about one photograph; all maps are (H, W) on the evaluated crop, raw distances.

    Attributes
    ----------
    anomaly_map
        Smoothed Euclidean distance to what is normal.
    neighbours
        The retrieved normal images, nearest first: ``index`` (K,) in ``train``, ``distance`` (K,).
    correspondence
        The match of every cell; ``image`` counts along the neighbours.
    source
        What was judged: ``image``, the evaluated crop, (H, W, 3) uint8; ``crop``, where it lies in the photograph;
        ``sample``, the photograph as it was given, if it was a Sample; its features, here ``query``.
    among
        The training images it was judged against: all, or all that were not left out.
    spade
        The SPADE that judged it, with its gallery and options as they were.
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
    def sample(self) -> Sample | None:
        return self.source.sample

    def __repr__(self) -> str:
        name = self.sample.path.name if self.sample else "photo"
        return f"Result({name}: image score {self.image_score:.3f}, retrieval score {self.retrieval_score:.3f})"

    @property
    def image_score(self) -> float:
        """The maximum of the map."""
        return float(self.anomaly_map.max())

    @property
    def retrieval_score(self) -> float:
        """The paper's image score: the mean distance of the retrieved images' pooled vectors."""
        return float(self.neighbours.distance.mean())

    @property
    def normal_level(self) -> float | None:
        """The 99th percentile of the maps of normal images, as `SPADE.normal_level`."""
        return self.spade.calibration.level(self.spade.options)

    @property
    def label(self) -> str | None:
        return self.sample.label if self.sample else None

    @cached_property
    def mask(self) -> Bool[np.ndarray, "H W"] | None:
        """The truth on the evaluated crop, or None where it is unknown."""
        if self.sample is None or (mask := self.sample.mask) is None:
            return None
        cut = self.crop.cut_mask(mask)
        if mask.any() and not cut.any():
            warn(
                f"Nothing of the defect of {self.sample.path.name} is left on the evaluated crop: it lies outside, "
                "or is smaller than a pixel there. Take load_backbone(..., crop=None), or a larger resize."
            )
        return cut

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) of the evaluated crop in photo pixels."""
        return self.crop.box

    def describe_options(self) -> str:
        """The options, and with how many of the normal images it was compared, in small print."""
        options = self.spade.options.replace(k=len(self.neighbours)).describe()
        if len(self.among) == 1:
            return f"compared with normal {self.among[0]} only; {options}"
        if len(self.among) < len(self.spade.gallery):
            return f"judged against {len(self.among)} of {len(self.spade.gallery)} normals; {options}"
        return options

    def on_photo(self) -> Float[np.ndarray, "H W"]:
        """The anomaly map at the photograph's own size, NaN where it was not judged."""
        return self.crop.put_back(self.anomaly_map)

    def segmentation(self, threshold: float) -> Bool[np.ndarray, "H W"]:
        """Where the map reaches the threshold: what the method calls anomalous."""
        return self.anomaly_map >= check_threshold(threshold)

    # ---- the same photograph under other options ---------------------------------------------------------------------

    def with_options(self, **options: Any) -> Result:
        """The result under other options (k, kappa, radius, ...: see `SPADE`), without a look at the photo.

        What ``spade.with_options(...).predict(photo)`` gives, sooner: the features are here already, sigma alone needs
        no search, and a search tries first what was found before. For the k slider see `with_k`.
        """
        return self.spade.with_options(**options).judge(self.source, self.among, before=self)

    def is_matched_by(self, gallery: Gallery, options: Options, among: Int[np.ndarray, "m"]) -> bool:
        """Whether a search among these images of a gallery, under these options, would find the same."""
        count, own = len(among), self.spade.options
        same = self.spade.gallery is gallery and np.array_equal(self.among, among)
        return same and own.of_search(count) == options.of_search(count)

    def with_k(self, k: int) -> Result:
        """The result if only the ``k`` nearest normal images had been retrieved, ``k`` up to what was.

        The first call passes through the neighbours in their order, at most twice as long as a search, and keeps what
        was nearest after each; every other k is then looked up.
        """
        k, most = int(check_count("k", k)), len(self.neighbours)
        if k > most:
            raise ValueError(
                f"with_k looks back on the {most} images that were retrieved, but k={k} came. "
                f"Take k up to {most}, or result.with_options(k={k})."
            )
        found = self._results_per_k(k)
        again = replace(
            self,
            anomaly_map=make_map(found.distance, self.crop.size, self.spade.options.sigma),
            neighbours=Neighbours(self.neighbours.index[:k], self.neighbours.distance[:k]),
            correspondence=found,
            spade=self.spade.with_options(k=k),
        )
        again.__dict__["_results_per_k"] = self._results_per_k  # what was passed through serves smaller k, too
        return again

    @cached_property
    def _results_per_k(self) -> ResultsPerK:
        gallery, options = self.spade.gallery, self.spade.options
        factors = gallery.factors(options, self.among)
        return ResultsPerK(self.query, gallery.pixels, self.neighbours.index, factors, options)

    @cached_property
    def breakpoints(self) -> Breakpoints | None:
        """The matches for every k up to what was retrieved, as a list of changes; None where there is no such list.

        That is with ``combine="ensemble"``, a single layer, or where each k is searched anew.
        """
        return self._results_per_k.breakpoints()

    def with_normals(self, images: Iterable[SupportsIndex]) -> Result:
        """The result if of the training images it was judged against only these had been fitted."""
        chosen = np.unique([check_count("A training image", image, least=0) for image in images])
        if len(chosen) == 0 or not np.isin(chosen, self.among).all():
            unknown = [int(image) for image in chosen if image not in self.among]
            raise ValueError(
                f"with_normals needs at least one of the {len(self.among)} training images that this photo was judged "
                f"against, but {unknown or 'none'} came. Take some of result.among."
            )
        return self.spade.judge(self.source, chosen)

    # ---- layers and places -------------------------------------------------------------------------------------------

    @cached_property
    def layer_maps(self) -> dict[str, Float[np.ndarray, "H W"]]:
        """What each layer contributes, by its part of the squared distance; the maps add up to ``anomaly_map``."""
        shares = share_out(self.correspondence)
        return {name: self._map(share) for name, share in zip(self.query.layers, shares)}

    @cached_property
    def layer_alone(self) -> dict[str, Float[np.ndarray, "H W"]]:
        """The map if each layer were searched by itself, on its own grid and unweighted. Computed on first use."""
        return {name: self._map(found.distance) for name, found in self.match_alone.items()}

    @cached_property
    def match_alone(self) -> dict[str, Correspondence]:
        """What each layer finds if it is searched by itself: places on its own grid. Computed on first use."""
        pixels, options = self.spade.gallery.pixels, self.spade.options
        return {
            name: match_level(self.query, pixels, self.neighbours.index, level, options)
            for level, name in enumerate(self.query.layers)
        }

    @cached_property
    def layer_agrees(self) -> dict[str, Bool[np.ndarray, "h w"]]:
        """Where a layer by itself ends in the cell of its grid that holds the pixel found by all together."""
        together, fine = self.correspondence, self.query.grid
        agrees = {}
        for name, alone in self.match_alone.items():
            _, rows, cols = alone.image.shape
            there = (together.image[0], together.row[0] * rows // fine[0], together.col[0] * cols // fine[1])
            own = [spread(place[0], fine) for place in (alone.image, alone.row, alone.col)]
            agrees[name] = np.logical_and.reduce([mine == all_s for mine, all_s in zip(own, there)])
        return agrees

    def _map(self, distance: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "H W"]:
        height, width = self.anomaly_map.shape
        return make_map(distance, (height, width), self.spade.options.sigma)

    def match(self, row: SupportsIndex, col: SupportsIndex) -> Match:
        """The normal pixel that explains the pixel at (row, col) of the map."""
        size = self.anomaly_map.shape
        return match_at(row, col, size, self.correspondence, self.neighbours, self.query.layers)

    def normal_image(self, index: SupportsIndex) -> UInt8[np.ndarray, "H W 3"]:
        """The evaluated crop of a training image, as it was kept for showing."""
        gallery = self.spade.gallery
        return gallery.normals[gallery.check_index(index)].image

    @cached_property
    def reconstruction(self) -> UInt8[np.ndarray, "H W 3"]:
        """The crop put together, cell by cell, from the normal patches that explain it."""
        (height, width), (h, w) = self.anomaly_map.shape, self.query.grid
        found = self.correspondence
        normals = np.stack([self.normal_image(index) for index in self.neighbours.index])  # (k, H, W, 3)
        rows, cols = np.indices((height, width))
        cell = (rows * h // height, cols * w // width)
        # a pixel moves with its cell; sides that are no multiple of the grid leave a last pixel to clip
        there_rows = rows + (found.row[0][cell] - cell[0]) * height // h
        there_cols = cols + (found.col[0][cell] - cell[1]) * width // w
        there = (found.image[0][cell], there_rows.clip(0, height - 1), there_cols.clip(0, width - 1))
        return normals[there]


def match_at(
    row: SupportsIndex,
    col: SupportsIndex,
    size: tuple[int, ...],
    found: Correspondence,
    neighbours: Neighbours,
    layers: Sequence[str],
) -> Match:
    """What a search on some grid has found for a pixel of a map of ``size``."""
    (height, width), (h, w) = size, found.distance.shape
    row, col = check_count("row", row, least=0), check_count("col", col, least=0)
    if row >= height or col >= width:
        raise ValueError(f"A place on this map is 0 <= row < {height}, 0 <= col < {width}, but ({row}, {col}) came.")
    at = (row * h // height, col * w // width)
    shares = split(found.distance[at][None], found.layer_distance[:, at[0], at[1], None])[:, 0]
    neighbour, there_row, there_col = (int(places[0][at]) for places in (found.image, found.row, found.col))
    return Match(
        image=int(neighbours.index[neighbour]),
        neighbour=neighbour,
        row=int((there_row + 0.5) * height / h),
        col=int((there_col + 0.5) * width / w),
        distance=float(found.distance[at]),
        layers={name: float(share) for name, share in zip(layers, shares)},
    )
