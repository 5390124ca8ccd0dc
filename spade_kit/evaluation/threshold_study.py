"""What speaks for a threshold: what normal photos reach, what test photos reach, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import nan

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from spade_kit._arguments import choose
from spade_kit.datasets.samples import GOOD
from spade_kit.evaluation.bootstrap import TAILS, clopper_pearson
from spade_kit.evaluation.operating_point import OperatingPoint
from spade_kit.scores import check_threshold

OF = ("image", "pixel")
BINS = 256
_DRAWS = 1000


@dataclass(frozen=True, eq=False)
class ThresholdStudy:
    """What is known of whole photos, or of pixels.

    Attributes
    ----------
    of
        ``"image"``: a photo's score is the maximum of its map. ``"pixel"``: each value of a map is a score.
    edges
        (b + 1,) thresholds from 0 to a hair above the highest score, so that none reaches the last. A score is in the
        bin that begins at or below it.
    normal, good, defect, unknown
        How many scores of each normal photo lie in each bin; the same of all test photos together, by what is known.
    """

    of: str
    edges: Float[np.ndarray, "e"]
    normal: Int[np.ndarray, "n b"]
    good: Int[np.ndarray, "b"]
    defect: Int[np.ndarray, "b"]
    unknown: Int[np.ndarray, "b"]
    _normals: Sequence[Real[np.ndarray, "_"]] = field(repr=False)  # scores of each normal photo, ascending
    _test: Sequence[Real[np.ndarray, "_"]] = field(repr=False)  # those that are good, defects, unknown, ascending

    def at(self, threshold: float) -> OperatingPoint:
        """What follows from a threshold: counts are exact, whatever the bins.

        Notes
        -----
        Whole photos: the interval is Clopper and Pearson's, exact for photos that do not depend on each other [1]_.
        Several photos of one part do, and the interval is then too narrow.

        Pixels of one photo are no independent witnesses: the interval is that of 1,000 draws of photos, with
        replacement. Such draws know nothing of what no photo has shown: they end at 0 where no photo reaches the
        threshold, and too low where few do. The upper end is therefore at least the exact upper end of the share of
        photos that have such pixels, times the part of its pixels that such a photo has: the mean over the stranger
        half of the photos, of the part at or above the lowest maximum among them. That photos yet to come are no
        stranger in kind is supposed, not known. In trials with 20 of the demo's photos, a true rate of 1 in 10,000
        lies above the plain upper end 29 times in 100, above this one never; one of 1 in 100 above both 10 times.
        Fewer than two photos tell nothing: 0 to 1.

        References
        ----------
        .. [1] C. J. Clopper, E. S. Pearson, "The Use of Confidence or Fiducial Limits Illustrated in the Case of the
           Binomial", Biometrika 26, 1934, doi:10.1093/biomet/26.4.404.
        """
        threshold = check_threshold(threshold)
        reached = np.array([_split_at(threshold, scores)[0] for scores in self._normals], int)
        normals = len(reached), int(self._sizes.sum()), int(reached.sum())
        low, high = (end.item() for end in self._bound(reached[:, None]))
        good, defect, unknown = (_split_at(threshold, scores) for scores in self._test)
        return OperatingPoint(self.of, threshold, *normals, low, high, *defect, *good, *unknown)

    def band(self) -> tuple[Float[np.ndarray, "e"], Float[np.ndarray, "e"], Float[np.ndarray, "e"]]:
        """The rate of normals at each edge, and the ends of its interval, as `at` has them."""
        reached = np.pad(self.normal, ((0, 0), (0, 1)))[:, ::-1].cumsum(1)[:, ::-1]
        return reached.sum(0) / (self._sizes.sum() or nan), *self._bound(reached)

    def _bound(self, reached: Int[np.ndarray, "n t"]) -> tuple[Float[np.ndarray, "t"], Float[np.ndarray, "t"]]:
        """Ends of the intervals of rates, from how many of each photo's scores reach each of t thresholds."""
        if self.of == "image":
            return clopper_pearson(reached.sum(0), len(reached))
        if len(reached) < 2:  # nobody knows how photos differ
            return np.zeros(reached.shape[1]), np.ones(reached.shape[1])
        drawn = (self._draws @ reached) / (self._draws @ self._sizes)[:, None]
        low, high = np.quantile(drawn, TAILS, axis=0)
        photos = clopper_pearson((reached > 0).sum(0), len(reached))[1]
        return low, np.maximum(high, photos * self._usual_part)

    @cached_property
    def _sizes(self) -> Int[np.ndarray, "n"]:
        return np.array([len(scores) for scores in self._normals], int)

    @cached_property
    def _draws(self) -> Float[np.ndarray, "draws n"]:
        """How often each normal photo is drawn; as float, since products of integers are slow."""
        count = len(self._normals)
        return np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), _DRAWS).astype(float)

    @cached_property
    def _usual_part(self) -> float:
        """The part of its pixels that a photo of the stranger half has at or above the least maximum of that half."""
        half = sorted(self._normals, key=lambda scores: scores[-1])[len(self._normals) // 2 :]
        least = float(half[0][-1])
        return float(np.mean([_split_at(least, scores)[0] / len(scores) for scores in half]))


def collect(
    of: str,
    normal_maps: Iterable[Real[np.ndarray, "_ _"]],
    test_maps: Iterable[Real[np.ndarray, "_ _"]],
    labels: Sequence[str | None],
    masks: Sequence[Bool[np.ndarray, "_ _"] | None],
) -> ThresholdStudy:
    """What speaks for thresholds of whole photos, or of pixels.

    Of pixels all scores are kept, 4 bytes each: 0.2 MB for a map of 224 x 224 pixels.

    Parameters
    ----------
    normal_maps
        Maps of normal photos, each judged against the others; maps may differ in size.
    test_maps
        Maps of other photos, and of each in ``labels`` ``"good"``, the kind of defect or None where nobody said, and
        in ``masks`` where the defect is, on the crop, or None. Labels speak for whole photos, masks for pixels.

    Examples
    --------
    >>> judgement = collect("image", [np.eye(2)] * 30, [5 * np.eye(2)], ["scratch"], [None]).at(2)
    >>> judgement.sentence[-65:]
    ' to 12 %). Of 1 defective test photo 1 reaches it (recall 100 %).'
    """
    choose("of", of, OF)
    normals = [np.sort(_take_scores(of, values)) for values in normal_maps]
    test = _sort_test(of, test_maps, labels, masks)
    highest = [float(scores[-1]) for scores in [*normals, *test] if len(scores)]
    if not highest:
        raise ValueError("Maps of normal or of test photos are needed, but none came. Judge some photos first.")
    edges = np.linspace(0, np.nextafter(max(highest) or 1.0, np.inf), BINS + 1)
    *binned, good, defect, unknown = (np.diff(np.searchsorted(scores, edges)) for scores in [*normals, *test])
    counts = np.array(binned, int).reshape(-1, BINS)  # (n, b), with n = 0, too
    return ThresholdStudy(of, edges, counts, good, defect, unknown, normals, test)


def _sort_test(
    of: str, maps: Iterable[np.ndarray], labels: Sequence[str | None], masks: Sequence[np.ndarray | None]
) -> list[Real[np.ndarray, "_"]]:
    """Ascending scores of test photos: those known to be good, those known to be defects, those of unknown truth."""
    kinds = [[np.empty(0, np.float32)] for _ in range(3)]
    rest = iter(maps)
    for label, mask, values in zip(labels, masks, rest):  # maps last, so that none is lost where labels end
        scores, truth = _take_scores(of, values), _take_truth(of, np.shape(values), label, mask)
        for kind, known in enumerate(kinds):
            known.append(scores[truth == kind])
    came = len(kinds[0]) - 1 + sum(1 for _ in rest)
    if not came == len(labels) == len(masks):
        raise ValueError(
            f"Each test photo needs a map, a label and a mask, the last two None where unknown, but {came} maps, "
            f"{len(labels)} labels and {len(masks)} masks came. Give one each."
        )
    return [np.sort(np.concatenate(known)) for known in kinds]


def _take_truth(of: str, shape: tuple[int, ...], label: str | None, mask: np.ndarray | None) -> Int[np.ndarray, "_"]:
    """Of each score of a photo: 0 if it is known to be good, 1 if it is known to be a defect's, 2 otherwise."""
    if of == "image":
        return np.array([2 if label is None else int(label != GOOD)])
    if mask is None:
        return np.full(shape, 2).ravel()
    if np.shape(mask) != shape:
        raise ValueError(f"A mask is as large as its map, but {np.shape(mask)} came for {shape}. Take result.mask.")
    return np.asarray(mask, bool).ravel().astype(int)


def _take_scores(of: str, values: np.ndarray) -> Real[np.ndarray, "_"]:
    """A map's maximum, or all of its values."""
    values = np.asarray(values)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"A map has shape (H, W), but {values.shape} came. Take result.anomaly_map.")
    least, most = values.min(), values.max()
    if not (least >= 0 and most < np.inf):  # NaN is neither
        raise ValueError(
            f"A map holds finite distances from 0 up, but values from {least:g} to {most:g} came. "
            "Take result.anomaly_map, not what on_photo() gives."
        )
    return np.array([most]) if of == "image" else values.ravel()


def _split_at(threshold: float, scores: Real[np.ndarray, "_"]) -> tuple[int, int]:
    """How many of ascending scores reach a threshold, and how many do not.

    They are compared in float64: as a float32 the threshold might be another.
    """
    below = int(np.searchsorted(scores, np.float64(threshold)))
    return len(scores) - below, below
