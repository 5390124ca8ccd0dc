"""What speaks for a threshold: what normal photos reach, what test photos reach, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import floor, log10, nan

import numpy as np
from jaxtyping import Bool, Float, Int, Real
from scipy.special import betaincinv

from spade_kit.arguments import choose
from spade_kit.datasets import GOOD
from spade_kit.scores import check_threshold

OF = ("image", "pixel")
BINS = 256
LEVEL = 0.95
_TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
_DRAWS = 1000
_FEW = 20  # normal photos, below which a rate is no more than a hint
_WIDE = 3  # times the rate: an upper end above is worth a word


@dataclass(frozen=True)
class Judgement:
    """What follows from a threshold, in numbers and in words.

    Attributes
    ----------
    of
        What is counted: ``"image"``, whole photos, or ``"pixel"``.
    photos
        How many normal ones were judged.
    normals, reached
        Normal photos or pixels, and those of them that reach the threshold: that are at or above it.
    low, high
        Ends of the 95 % interval of ``rate``; 0 and 1 where nothing is known.
    found, missed
        Defects that reach the threshold, and those that do not.
    alarms, passed
        Good ones of the test that reach it, and those that do not.
    unknown_above, unknown_below
        Those of the test whose truth is unknown.
    """

    of: str
    threshold: float
    photos: int
    normals: int
    reached: int
    low: float
    high: float
    found: int
    missed: int
    alarms: int
    passed: int
    unknown_above: int
    unknown_below: int

    @property
    def rate(self) -> float:
        """The part of the normals that reach the threshold; NaN where there are none."""
        return self.reached / self.normals if self.normals else nan

    @property
    def recall(self) -> float | None:
        """The part of the defects that is found; None where no defect is known."""
        return self.found / self._defects if self._defects else None

    @property
    def precision(self) -> float | None:
        """Of what reaches the threshold the part that is defective; None unless good and defective ones are known."""
        above = self.found + self.alarms
        return self.found / above if above and self._defects and self._goods else None

    @property
    def sentence(self) -> str:
        """What speaks for the threshold, in one or two sentences."""
        told = f"Threshold {self.threshold:.4g} for {'whole photos' if self.of == 'image' else 'pixels'}"
        return f"{told}{self._tell_normals()}.{self._tell_test()}"

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to bear in mind, a sentence or two each."""
        return tuple(filter(None, [self._doubt_rate(), self._doubt_truth(), self._doubt_unknown()]))

    @property
    def _defects(self) -> int:
        return self.found + self.missed

    @property
    def _goods(self) -> int:
        return self.alarms + self.passed

    @property
    def _unknown(self) -> int:
        return self.unknown_above + self.unknown_below

    @property
    def _noun(self) -> str:
        return "photo" if self.of == "image" else "pixel"

    def _tell_normals(self) -> str:
        if not self.photos:
            return ""
        pixels = f"{_many(self.normals, 'pixel')} of " if self.of == "pixel" else ""
        return (
            f": of {pixels}{_many(self.photos, 'normal photo')}, {'each ' * (self.photos > 1)}judged against the "
            f"others, {_reach(self.reached)} ({_percent(self.rate)} %; {_percent(LEVEL)} % interval "
            f"{_percent(self.low)} to {_percent(self.high)} %)"
        )

    def _tell_test(self) -> str:
        noun = f"test {self._noun}"
        told = [
            _tell(self._defects, f"defective {noun}", self.found, "recall", self.recall),
            _tell(self._goods, f"good {noun}", self.alarms, "precision", self.precision),
            _tell(self._unknown, f"unlabelled {noun}", self.unknown_above),
        ]
        told = [part for part in told if part]
        return f" Of {'; of '.join(told)}." if told else ""

    def _doubt_rate(self) -> str:
        if not self.photos:
            return "No normal photos were judged: how many of them reach the threshold is unknown."
        if not self.reached and self.photos > 1:
            return self._doubt_none()
        if self.photos < _FEW:
            return f"{_many(self.photos, 'normal photo')} can tell little: others may give quite another rate."
        if self.high > _WIDE * self.rate:
            return (
                f"The interval is wide: the rate may as well be {_percent(self.high)} %. More normal photos narrow it."
            )
        return ""

    def _doubt_none(self) -> str:
        """What n photos can say when nothing in them reaches the threshold."""
        if self.of == "image":
            rarer = 10 ** max(2, len(str(self.photos + 1)))  # 1 in 100, 1 in 1000 ...: the next that n cannot tell
            return (
                f"With {self.photos:,} normal photos no rate below {_percent(1 / (self.photos + 1))} % can be told; "
                f"for {_percent(1 / rarer)} % take at least {rarer - 1:,}."
            )
        most = _percent(clopper_pearson(np.zeros(1, int), self.photos)[1].item())
        return (
            f"No pixel of {self.photos:,} normal photos reaches it, yet up to {most} % of all photos may have pixels "
            "that do. The upper end allows for them, as many in each such photo as the stranger half of the normal "
            "photos have above the other half."
        )

    def _doubt_truth(self) -> str:
        truth = "label" if self.of == "image" else "mask"
        if not (self._defects or self._goods):
            lack = f"No test photo has a {truth}" if self._unknown else "There are no test photos"
            return f"{lack}: how many defects are found and missed is unknown."
        if not self._defects:
            return f"No test {self._noun} is known to be defective: recall and precision are unknown."
        if not self._goods:
            return f"No test {self._noun} is known to be good: precision is unknown."
        return (
            f"Recall and precision come from test {truth}s: a threshold moved to raise them does worse on new photos."
        )

    def _doubt_unknown(self) -> str:
        if not self._unknown or not (self._defects or self._goods):
            return ""
        return f"Recall and precision leave out {_many(self._unknown, f'unlabelled test {self._noun}')}."


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of whole photos, or of pixels.

    Attributes
    ----------
    of
        ``"image"``: a photo's score is the maximum of its map. ``"pixel"``: each value of a map is a score.
    edges
        (b + 1,) thresholds from 0 to a hair above the highest score, so that none reaches the last. A score is in the
        bin that begins at or below it.
    normal
        Of each normal photo, how many scores lie in each bin.
    good, defect, unknown
        The same of all test photos together, by what is known of them.
    """

    of: str
    edges: Float[np.ndarray, "e"]
    normal: Int[np.ndarray, "n b"]
    good: Int[np.ndarray, "b"]
    defect: Int[np.ndarray, "b"]
    unknown: Int[np.ndarray, "b"]
    _normals: Sequence[Real[np.ndarray, "_"]] = field(repr=False)  # scores of each normal photo, ascending
    _test: Sequence[Real[np.ndarray, "_"]] = field(repr=False)  # those that are good, defects, unknown, ascending

    def at(self, threshold: float) -> Judgement:
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
        low, high = self._bound(reached[:, None])
        good, defect, unknown = (_split_at(threshold, scores) for scores in self._test)
        return Judgement(self.of, threshold, *normals, float(low[0]), float(high[0]), *defect, *good, *unknown)

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
        low, high = np.quantile(drawn, _TAILS, axis=0)
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
) -> Evidence:
    """What speaks for thresholds of whole photos, or of pixels.

    Of pixels all scores are kept, 4 bytes each: 0.2 MB for a map of 224 x 224 pixels.

    Parameters
    ----------
    of
        ``"image"`` or ``"pixel"``.
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
    return Evidence(of, edges, counts, good, defect, unknown, normals, test)


def _sort_test(
    of: str, maps: Iterable[np.ndarray], labels: Sequence[str | None], masks: Sequence[np.ndarray | None]
) -> list[Real[np.ndarray, "_"]]:
    """Ascending scores of test photos: those known to be good, those known to be defects, those of unknown truth."""
    kinds: tuple[list[np.ndarray], ...] = ([], [], [])
    rest = iter(maps)
    for label, mask, values in zip(labels, masks, rest):  # maps last, so that none is lost where labels end
        scores, truth = _take_scores(of, values), _take_truth(of, np.shape(values), label, mask)
        for kind, known in enumerate(kinds):
            known.append(scores[truth == kind])
    came = len(kinds[0]) + sum(1 for _ in rest)
    if not came == len(labels) == len(masks):
        raise ValueError(
            f"Each test photo needs a map, a label and a mask, the last two None where unknown, but {came} maps, "
            f"{len(labels)} labels and {len(masks)} masks came. Give one each."
        )
    return [np.sort(np.concatenate([np.empty(0, np.float32), *known])) for known in kinds]


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


def clopper_pearson(reached: Int[np.ndarray, "t"], count: int) -> tuple[Float[np.ndarray, "t"], Float[np.ndarray, "t"]]:
    """The exact 95 % interval of a rate, of which ``reached`` of ``count`` were seen; 0 to 1 where none was."""
    low, high = _TAILS
    return (
        np.nan_to_num(betaincinv(reached, count - reached + 1, low), nan=0),  # NaN: all rates down to 0 will do
        np.nan_to_num(betaincinv(reached + 1, count - reached, high), nan=1),
    )


def _split_at(threshold: float, scores: Real[np.ndarray, "_"]) -> tuple[int, int]:
    """How many of ascending scores reach a threshold, and how many do not.

    They are compared in float64: as a float32 the threshold might be another.
    """
    below = int(np.searchsorted(scores, np.float64(threshold)))
    return len(scores) - below, below


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _reach(count: int) -> str:
    return "none reaches it" if not count else "1 reaches it" if count == 1 else f"{count:,} reach it"


def _tell(count: int, noun: str, above: int, name: str = "", value: float | None = None) -> str:
    """Of how many how many reach the threshold, and what that makes; nothing where there are none."""
    made = "" if value is None else f" ({name} {_percent(value)} %)"
    return f"{_many(count, noun)} {_reach(above)}{made}" if count else ""


def _percent(part: float) -> str:
    """Two digits, or as many as tell it from 100: 0.17, 1.7, 17, 97, 99.6."""
    if not 0 < part < 1:
        return f"{100 * part:g}"
    places = max(0, -floor(log10(100 * min(part / 10, 1 - part))))
    return np.format_float_positional(round(100 * part, places), trim="-")
