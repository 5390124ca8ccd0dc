"""Lesson 10: where SPADE fails, two other methods on the same features, and two relatives on newer ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from matplotlib.figure import Figure
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from spade_kit.datasets.samples import GOOD, Dataset, Sample
from spade_kit.evaluation.metrics import aupro, roc_auc
from spade_kit.features.pyramid import Pyramid
from spade_kit.figures.results import draw_views
from spade_kit.figures.style import SCALE
from spade_kit.lessons.checking import check_answer, explain, tell
from spade_kit.lessons.material import cell_types
from spade_kit.result import Result
from spade_kit.scores import make_map
from spade_kit.spade import SPADE
from spade_kit.widgets._shared.encoding import find_highest

DINO = "vit_small_patch14_dinov2.lvd142m"
_SIGMA = 4
_GRID = 28  # cells per side of the common grid of all layers for PaDiM and PatchCore


def turn(photo: UInt8[np.ndarray, "H W 3"], degrees: float) -> UInt8[np.ndarray, "H W 3"]:
    """The image rotated around its centre; uncovered areas are filled by mirroring."""
    height, width, _ = photo.shape
    top, left = height // 2, width // 2
    wide = np.pad(photo, ((top, top), (left, left), (0, 0)), mode="reflect")
    turned = np.asarray(Image.fromarray(wide).rotate(degrees, Image.Resampling.BILINEAR))
    return np.ascontiguousarray(turned[top : top + height, left : left + width])


def shift(photo: UInt8[np.ndarray, "H W 3"], pixels: int) -> UInt8[np.ndarray, "H W 3"]:
    """The image moved to the right; the uncovered strip is filled by mirroring."""
    wide = np.pad(photo, ((0, 0), (pixels, pixels), (0, 0)), mode="reflect")
    return np.ascontiguousarray(wide[:, : photo.shape[1]])


def darken(photo: UInt8[np.ndarray, "H W 3"], part: float) -> UInt8[np.ndarray, "H W 3"]:
    """The image with a fraction of its light removed; a negative fraction adds light."""
    return np.asarray(ImageEnhance.Brightness(Image.fromarray(photo)).enhance(1 - part))


def choose_mono(cells: Dataset) -> tuple[list[Sample], list[Sample], list[Sample]]:
    """The monocrystalline solar cells: normal ones, good ones to test, and ones that are certainly broken."""
    normals, tested = (
        [cell for cell, kind in zip(some, cell_types(some)) if kind == "mono"] for some in (cells.train, cells.test)
    )
    good, broken = ([cell for cell in tested if cell.label == label] for label in (GOOD, "defect 100 %"))
    return normals, good, broken


def stack(pyramid: Pyramid) -> Float[Tensor, "n c h w"]:
    """All layers on one grid of 28 x 28 cells, each cell averaged with its neighbours, as PatchCore does."""
    levels = [avg_pool2d(level, 3, 1, 1, count_include_pad=False) for level in pyramid.levels]
    return torch.cat([interpolate(level, (_GRID, _GRID), mode="area") for level in levels], dim=1)


def padim(normals: Float[Tensor, "n c h w"], queries: Float[Tensor, "q c h w"]) -> Float[np.ndarray, "q h w"]:
    """A Gaussian for every position: how many standard deviations is a query from the normal features *there*?"""
    chosen = torch.randperm(normals.shape[1], generator=torch.Generator().manual_seed(0))[:60]
    normals, queries = (some[:, chosen].permute(2, 3, 0, 1) for some in (normals, queries))  # (h, w, n, 60)
    mean = normals.mean(2, keepdim=True)
    spread = normals - mean
    covariance = spread.mT @ spread / (normals.shape[2] - 1) + 0.01 * torch.eye(len(chosen))
    away = queries - mean
    squared = (away @ torch.linalg.inv(covariance) * away).sum(-1)  # (h, w, q)
    return squared.clamp(min=0).sqrt().permute(2, 0, 1).numpy()


def patchcore(normals: Float[Tensor, "n c h w"], queries: Float[Tensor, "q c h w"]) -> Float[np.ndarray, "q h w"]:
    """One bank of the normal patches of all images, thinned out: how far is a query's patch from the nearest?"""
    bank = normals.permute(0, 2, 3, 1).flatten(0, 2)  # (n h w, c)
    thinned = bank[torch.randperm(len(bank), generator=torch.Generator().manual_seed(0))[: len(bank) // 20]]
    nearest = [torch.cdist(query.flatten(1).T, thinned).min(1).values for query in queries]  # (h w,) each
    return torch.stack(nearest).unflatten(1, queries.shape[2:]).numpy()


def image_auc(distances: Sequence[np.ndarray], samples: Sequence[Sample]) -> float:
    """How well a method separates damaged parts from good ones; misplaced parts are excluded."""
    labels = np.array([sample.label for sample in samples])
    scores = np.array([make_map(grid, (224, 224), _SIGMA).max() for grid in distances])
    some = labels != "misplaced"
    return roc_auc(scores[some], labels[some] != GOOD)


def draw_methods(result: Result, distances: Mapping[str, Sequence[np.ndarray]], samples: Sequence[Sample]) -> Figure:
    """An image of ``samples`` and its map under every method, with the highest maximum of the maps marked."""
    size = result.anomaly_map.shape
    here = next(at for at, sample in enumerate(samples) if sample == result.sample)
    maps = {}
    for name, grids in distances.items():
        good = [make_map(grid, size, _SIGMA) for grid, sample in zip(grids, samples) if sample.label == GOOD]
        maps[name] = make_map(grids[here], size, _SIGMA) / (SCALE * np.percentile(good, 99))
    highest = find_highest(max(maps.values(), key=np.max))
    scale = f"each scale ends at {SCALE:g} times the level that 99 % of pixels in good parts stay below"
    return draw_views(result, maps, highest, scale)


def judge_maps(
    distances: Sequence[np.ndarray], samples: Sequence[Sample], masks: Sequence[np.ndarray]
) -> dict[str, float]:
    """AUPRO and image ROC-AUC of a method, for misplaced parts and for all other defects."""
    maps = np.stack([make_map(grid, mask.shape, _SIGMA) for grid, mask in zip(distances, masks)])
    return _judge(maps, maps.max((1, 2)), samples, np.stack(masks))


def judge_results(results: Sequence[Result], samples: Sequence[Sample]) -> dict[str, float]:
    """The same as `judge_maps`, from the maps and the image scores of results, as their options determine them."""
    maps, masks = (np.stack([getattr(result, name) for result in results]) for name in ("anomaly_map", "mask"))
    return _judge(maps, np.array([result.image_score for result in results]), samples, masks)


def judge_dino(parts: Dataset, name: str = DINO, size: int = 224) -> dict[str, dict[str, float]]:
    """RAD and AnomalyDINO with a vision transformer, as `judge_maps`; a line, and nothing, if its weights are missing.

    AnomalyDINO is RAD's fit with other options: the last block alone, searched everywhere in all normal images.
    """
    try:
        rad = SPADE.recommended(name, size=size)
    except ConnectionError:
        print(f"The weights of {name} are not here and cannot be downloaded, so this cell does nothing.")
        return {}
    rad.fit(parts.train)
    *others, _ = rad.backbone.layers
    results = [rad.predict(sample) for sample in parts.test]
    options = {"k": len(parts.train), "radius": None, "weights": dict.fromkeys(others, 0)}
    anomaly_dino = [result.with_options(**options) for result in results]
    methods = {"RAD": results, "AnomalyDINO": anomaly_dino}
    return {method: judge_results(some, parts.test) for method, some in methods.items()}


def _judge(
    maps: Float[np.ndarray, "q H W"],
    scores: Float[np.ndarray, "q"],
    samples: Sequence[Sample],
    masks: Bool[np.ndarray, "q H W"],
) -> dict[str, float]:
    labels, told = np.array([sample.label for sample in samples]), {}
    for name, kind in (("misplaced", labels == "misplaced"), ("others", ~np.isin(labels, ["misplaced", GOOD]))):
        some = kind | (labels == GOOD)
        told[f"{name}: AUPRO"] = aupro(maps[some], masks[some])
        told[f"{name}: image AUC"] = roc_auc(scores[some], kind[some])
    return told


def check_rate(rate: float) -> None:
    """Check the lowest false-alarm rate that 10 parts with two images each can guarantee."""
    mistakes = {
        "Two images of one part say the same: leave them out together, and count the 10 parts.": 1 / 21,
        "Count the 10 parts, and the new part, too: it is one of N + 1.": 1 / 20,
        "Nearly: the new part counts, too. It is the largest of N + 1 in one case of N + 1.": 1 / 10,
        "A rate lies between 0 and 1.": 100 / 11,
    }
    otherwise = f"How likely is a new part above all 10? Got {rate}."
    told = "One in eleven: a second image of each part does not help."
    check_answer(rate, 1 / 11, mistakes, otherwise, told, rtol=0.02)


def check_think(distances: Sequence[float]) -> None:
    """Check the distances that SPADE, PatchCore, AnomalyDINO and RAD give one patch."""
    mistakes = {
        "SPADE looks only into the images that it retrieved: B is not among them.": [4, 4, 4, 10],
        "RAD looks only into the images that it retrieved: B is not among them.": [6, 4, 4, 7],
        "RAD may match only within one cell of the patch's own place.": [6, 4, 4, 6],
        "PatchCore retrieves no images: its bank holds the patches of all.": [6, 6, 4, 10],
        "AnomalyDINO retrieves no images: it searches all of them.": [6, 4, 6, 10],
        "Both look into A and C and take the nearest patch in either, not that of the first image.": [9, 4, 4, 12],
    }
    otherwise = f"Look up each row of the table; got {distances}."
    told = "Where a method may look decides what it can explain: the fewer places, the larger the distance."
    check_answer(distances, [6, 4, 4, 10], mistakes, otherwise, told)


def check(measure: Callable[[np.ndarray, np.ndarray], float]) -> None:
    """Check the Mahalanobis distance of a point (c,) from normal points (n, c)."""
    rng = np.random.default_rng(0)
    normals = rng.multivariate_normal([5, -3], [[4.0, 1.8], [1.8, 1.0]], size=200)
    point = np.array([7.0, -4.0])
    right = "A point across the main direction of the cloud is far, although it is near the mean."
    tell(lambda: measure(point, normals), lambda answer: _find_mistake(float(answer), point, normals), right)


def _find_mistake(answer: float, point: np.ndarray, normals: np.ndarray) -> str | None:
    away, covariance = point - normals.mean(0), np.cov(normals.T)
    squared = float(away @ np.linalg.solve(covariance, away))
    mistakes = {
        "That is the squared distance: take the root.": squared,
        "That is the Euclidean distance from the mean: it ignores how the normal points are spread.": (
            np.linalg.norm(away)
        ),
        "Directions in which points vary a lot must count less: take the inverse of the covariance.": (
            max(away @ covariance @ away, 0) ** 0.5
        ),
        "That takes each axis by itself; the two vary together: use the whole covariance, not only its diagonal.": (
            np.linalg.norm(away / normals.std(0))
        ),
    }
    otherwise = f"The distance must be {squared**0.5:.2f}; got {answer:.2f}."
    return explain(answer, squared**0.5, mistakes, otherwise, rtol=0.02)
