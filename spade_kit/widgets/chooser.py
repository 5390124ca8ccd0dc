"""Choose a threshold: histograms of normal and test scores, and the error rates that a threshold implies."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Any

import numpy as np
import traitlets
from matplotlib.figure import Figure

from spade_kit import scores
from spade_kit._arguments import choose, hold_warnings, warn
from spade_kit.correspondence import resize
from spade_kit.datasets.samples import GOOD, Dataset, Photo
from spade_kit.evaluation.bootstrap import clopper_pearson
from spade_kit.evaluation.metrics import f1_threshold
from spade_kit.evaluation.operating_point import OperatingPoint
from spade_kit.evaluation.threshold_study import OF, ThresholdStudy, collect
from spade_kit.features.crops import Crop
from spade_kit.figures.reports import draw_threshold_study
from spade_kit.figures.style import small_print
from spade_kit.spade import SPADE
from spade_kit.widgets._shared.base import MISTAKES, Checked, Live, check_distance, check_rate, locked
from spade_kit.widgets._shared.caches import Recent, Score
from spade_kit.widgets._shared.encoding import jpeg, pack_distance, pack_mask, pack_place_level
from spade_kit.widgets._shared.images import ImageList
from spade_kit.widgets._shared.scheduler import Steps

_RATES = {"image": (0.2, 0.1, 0.05, 0.02, 0.01), "pixel": (0.05, 0.01, 0.001)}
_USUAL = {"image": 0.05, "pixel": 0.01}
_CONFIDENCES = (0.9, 0.95, 0.99)
_MANY = 10_000  # pixels per image, roughly: one image is enough to estimate any of these rates
_BATCH = 12  # images per message to the page
_THUMB = 144  # px
_SAVED = 24  # images nearest to the threshold stored in a saved page
_NEAR = 4  # images shown on each side of the threshold
_KINDS = ("normal", "good", "defect", "unknown")
_SCORES = {"max": "maximum of the map", "top": "highest 1 % of the map", "excess": "excess"}


def choose_threshold(spade: SPADE, dataset: Dataset | Iterable[Photo] | None = None, *, of: str = "image") -> Chooser:
    """A widget to choose a threshold: histograms, a line to drag, and the resulting error rates.

    Parameters
    ----------
    dataset
        A Dataset, to judge its ``test`` along with the normal images, or a list of images. If omitted, only normal
        images are judged.
    of
        ``"image"``: a threshold for whole images; ``"pixel"``: for the pixels of their maps.

    Returns
    -------
    Chooser
        ``float(chooser)`` is the threshold, ``chooser.sentence`` its justification.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> spade = spade_kit.SPADE(k=5).fit(parts.train[:12])
    >>> chooser = spade_kit.choose_threshold(spade, parts)
    >>> float(chooser) > 0
    True
    """
    return Chooser(spade, dataset, of=of)


@dataclass(frozen=True, eq=False)
class _Judged:
    """An image that was judged, or why it cannot be."""

    score: Score
    peak: float | None = None  # of its judged map
    crop: Crop | None = None
    thumb: bytes = b""
    lost: str = ""


class Chooser(Live, page="chooser.js"):
    """See `choose_threshold`.

    Attributes
    ----------
    of
        ``"image"`` or ``"pixel"``.
    threshold
        A raw distance. Setting it sets the rule to ``"hand"``.
    rule
        A false-alarm rate such as ``"0.05"``; ``"f1"``, the best F1 on the test images, which uses their labels; or
        ``"hand"``, set manually.
    confidence
        With a false-alarm rate for images as rule: None, or the confidence with which the true rate is at most that
        rate, such as 0.95; see `SPADE.threshold`. Any other rule, and pixels, set it to None.
    """

    MOVABLE = ("of", "threshold", "rule", "confidence")
    OWN = ("_judged",)
    TOLD = ("photos", "study", "told")
    MESSAGES = Live.MESSAGES | {"photos": "photos"}

    of = Checked("image", lambda _, value: choose("of", value, OF))
    threshold = Checked(0.0, lambda _, value: check_distance("threshold", value))
    rule = Checked("hand", lambda _, value: _check_rule(str(value)))
    confidence = Checked(None, lambda self, value: value if value is None else scores.check_confidence(value, self.of))

    study = traitlets.Dict().tag(sync=True)
    told = traitlets.Dict().tag(sync=True)
    pictures: traitlets.List = traitlets.List().tag(sync=True)  # what a notebook shows without a kernel

    def __init__(self, spade: SPADE, dataset: Dataset | Iterable[Photo] | None, *, of: str) -> None:
        self.spade = copy.copy(spade)
        self.images = ImageList(self.spade, dataset)
        self._tested = range(self.images.given)
        gallery = self.spade.gallery
        self._normals = gallery.distinct if gallery.comparable else []
        if not self._normals and not self._tested:
            gallery.others(0)  # raises: there is nothing to judge
        self._judged: dict[int, _Judged] = {}  # test images by index, normal images by -1 - index
        self._collected: Recent[ThresholdStudy] = Recent(len(OF))  # by ``of`` and the number of judged images
        self._said: tuple = ()  # the state of the study last sent to the page
        super().__init__(of=of, rule=f"{_USUAL[choose('of', of, OF)]:g}")
        self.about = {
            "normals": len(self._normals),
            "tested": len(self._tested),
            "source": f"{self.spade.backbone.describe()}; {self.spade.describe_options()}",
            "axis": {
                "image": f"image score ({_SCORES[self.spade.score]})",
                "pixel": f"{self._judges[1]} at each pixel",
            },
            "excess": dict(zip(OF, (name == "excess" for name in self._judges))),
        }
        for index in self._to_judge()[:_BATCH]:
            self._take(self._judge(index))
        if lost := self._name_lost():
            warn(lost)
        self._open()

    # ---- for Python --------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"Chooser({self.sentence})"

    def __float__(self) -> float:
        return float(self.threshold)

    @property
    @locked
    def judgement(self) -> OperatingPoint:
        """The exact counts, rates and confidence interval at the threshold."""
        certain, point = self._certify(), self._study.at(self.threshold)
        if certain is None or self.threshold < certain[0]:  # lower while images are pending
            return replace(point, doubt=self._doubt())
        return replace(point, doubt=certain[1], fpr=float(self.rule), confidence=self.confidence)

    def _doubt(self) -> str:
        """A remark if the rule's threshold rests on one normal image."""
        normals, contents, name = self._judged_normals()
        if not self._has_rate or not normals:
            return ""
        return scores.doubt_threshold(normals, contents, float(self.rule), name, self._scale)

    def _certify(self) -> tuple[float, str] | None:
        """The threshold with confidence, and a remark if it rests on one normal image; None if too few are judged."""
        if self.confidence is None:
            return None
        (normals, contents, name), fpr = self._judged_normals(), float(self.rule)
        if len(set(contents)) < scores.count_needed(fpr, self.confidence):
            return None
        return scores.examine_certain_threshold(normals, contents, fpr, self.confidence, name, self._scale)

    @property
    def _scale(self) -> float | None:
        return self.spade.calibration.scale(self.spade.options, self.of)

    def _judged_normals(self) -> tuple[list[np.ndarray], list[int], Callable[[int], str]]:
        """For each judged normal image its scores and its content, and the function that names it."""
        gallery, normals = self.spade.gallery, self._known(normal=True)
        images = [-1 - judged.index for judged in normals]
        maps = [self._make_map(judged).ravel() for judged in normals]
        return maps, gallery.contents[images].tolist(), lambda at: gallery.name(images[at])

    @property
    def sentence(self) -> str:
        """The justification of the threshold in one or two sentences."""
        return self.judgement.sentence

    @locked
    def draw(self) -> Figure:
        """The current view as a Matplotlib figure."""
        figure = draw_threshold_study(self._study, self.threshold, self.sentence)
        return small_print(figure, f"{figure.get_supxlabel()}\n{self._describe_coverage()}")

    def _reconcile(self, changed: set[str], by_page: bool) -> None:
        if "of" in changed:
            self.rule = f"{_USUAL[self.of]:g}"
        elif "threshold" in changed:
            self.rule = "hand"
        if self.of == "pixel" or not self._has_rate:
            if changed == {"confidence"} and self.confidence is not None:
                raise ValueError(
                    f"confidence needs a false-alarm rate as the rule; got rule={self.rule!r}. Set a rate, like '0.05'."
                )
            self.confidence = None

    @property
    def _has_rate(self) -> bool:
        return self.rule not in ("hand", "f1")

    # ---- judged images -----------------------------------------------------------------------------------------------

    def _to_judge(self) -> list[int]:
        """All pending images, normal and test interleaved, so that partial results cover both."""
        normals = [-1 - image for image in self._normals]
        shares = {at: place / len(some) for some in (normals, self._tested) for place, at in enumerate(some)}
        return [at for at in sorted(shares, key=lambda at: (shares[at], at)) if at not in self._judged]

    def _judge(self, at: int) -> _Judged:
        try:
            result = self.spade.predict_left_out(-1 - at) if at < 0 else self.images.judge(at, self.spade)
        except MISTAKES as problem:
            return _Judged(Score(at), lost=str(problem))
        score = Score.of(at, result)
        peak = float(np.nanmax(score.make_map(self.spade.sigma)))
        return _Judged(score, peak, result.crop, jpeg(result.image, _THUMB))

    @locked  # not while results are counted
    def _take(self, judged: _Judged) -> None:
        self._judged[judged.score.index] = judged

    def _known(self, normal: bool) -> list[Score]:
        """The scores of all judged images, normal or test."""
        scores = [one.score for one in list(self._judged.values())]  # the background may add more
        return [one for one in scores if one.score is not None and (one.index < 0) == normal]

    @property
    def _judges(self) -> tuple[str, str]:
        """The map that image scores are taken from, and the one that pixels are taken from: a map or an excess."""
        if not self.spade.gallery.comparable:
            return "map", "map"
        return "excess" if self.spade.score == "excess" else "map", self.spade.judged

    def _place(self, score: Score) -> float | None:
        """Where an image stands among the thresholds: its score or, for pixels, the maximum of its judged map."""
        return score.score if self.of == "image" else self._judged[score.index].peak

    def _make_map(self, score: Score) -> np.ndarray:
        """The judged pixels as one row, without those outside a roi; for whole images, only the score."""
        if self.of == "image":
            return np.array([[score.score]], np.float32)
        return scores.take_inside(score.make_map(self.spade.sigma))[None]

    def _find_truth(self, score: Score) -> np.ndarray | None:
        """The mask at the same pixels."""
        return None if score.mask is None else score.mask[... if score.roi is None else score.roi].reshape(1, -1)

    @property
    @locked
    def _study(self) -> ThresholdStudy:
        return self._collected.find((self.of, len(self._judged)), self._collect)

    def _collect(self) -> ThresholdStudy:
        normal, tested = self._known(normal=True), self._known(normal=False)
        truth = [self.images.label(one.index) for one in tested], [self._find_truth(one) for one in tested]
        return collect(self.of, map(self._make_map, normal), map(self._make_map, tested), *truth)

    def _refresh(self) -> None:
        with self._without_events(), self.hold_sync():
            self._send_study()
            self._set_threshold()
            judgement = self.judgement
            above = judgement.reached, judgement.alarms, judgement.found, judgement.unknown_above
            self.told = {
                **{"threshold": self.threshold, "of": self.of, "above": dict(zip(_KINDS, above))},
                **{"sentence": judgement.sentence, "remarks": list(judgement.remarks)},
                "images": list(filter(None, [self._name_lost(), self._describe_coverage()])),
                "confidences": self._confidences(),
            }

    def _name_lost(self) -> str:
        """A remark on images that could not be judged, if there are any."""
        lost = [one.lost for one in list(self._judged.values()) if one.lost]
        return f"Images that cannot be judged: {len(lost)}. First error: {lost[0]}" if lost else ""

    def _describe_coverage(self) -> str:
        """How much of each image was judged, and which were squashed."""
        crops = {at: one.crop for at, one in list(self._judged.items()) if one.crop}
        names = [self.spade.gallery.name(-1 - at) if at < 0 else self.images.name(at) for at in crops]
        judged, squash = ([getattr(crop, name) for crop in crops.values()] for name in ("judged", "squash"))
        return self.spade.gallery.cropping.describe_coverage(names, judged, squash)

    def _send_study(self) -> None:
        if self._said == (self.of, len(self._judged)):
            return
        self._said = self.of, len(self._judged)
        study = self._study
        count = len(study.normal)  # for images, one interval per count of them at or above the threshold
        low, high = clopper_pearson(np.arange(count + 1), count) if self.of == "image" else study.band()[1:]
        counts = study.normal.sum(0), study.good, study.defect, study.unknown
        self.study = {
            "of": self.of,
            "start": float(study.edges[0]),
            "end": float(study.edges[-1]),
            "counts": {kind: some.tolist() for kind, some in zip(_KINDS, counts)},
            "band": {"low": low.round(6).tolist(), "high": high.round(6).tolist()},
            "rules": self._rules(),
            "waiting": len(self._to_judge()),
        }
        listed = self.images.listed
        self.photos = [
            [at, *([f"normal {-1 - at}", None] if at < 0 else listed[at]), self._place(judged.score)]
            for at, judged in sorted(self._judged.items())
        ]

    def _rules(self) -> list[list[str]]:
        """Rates that the number of normal images can support, and the best F1 if both labels exist."""
        count = len(self._known(normal=True))
        told = [
            [f"{rate:g}", f"{100 * rate:g} % of normal {'photos' if self.of == 'image' else 'pixels'}"]
            for rate in _RATES[self.of]
            if ceil(1 / rate) - 1 <= count * (1 if self.of == "image" else _MANY)
        ]
        if self._study.defect.sum() and self._study.good.sum():
            told.append(["f1", "best F1 (uses test labels)"])
        return [*told, ["hand", "manual"]]

    def _confidences(self) -> list[tuple[float | str, str]]:
        """The confidences on offer with the rule, and what they lack; empty for pixels and for rules without a rate."""
        if self.of == "pixel" or not self._has_rate:
            return []
        told: list[tuple[float | str, str]] = [("", "none")]
        for confidence in sorted({*_CONFIDENCES, self.confidence or _CONFIDENCES[0]}):
            lack = max(0, scores.count_needed(float(self.rule), confidence) - len(self.spade.gallery.places))
            needs = f": needs {lack:,} more normal photo{'s' * (lack != 1)}" if lack else ""
            told.append((confidence, f"{100 * confidence:g} %{needs}"))
        return told

    def _set_threshold(self) -> None:
        """Apply the rule; a rate too low for the number of normal images becomes the lowest possible one."""
        if self.rule == "f1":
            self.threshold = self._best_f1()
        elif (certain := self._certify()) is not None:
            self.threshold = certain[0]
        elif self._has_rate and (normals := self._judged_normals()[0]):
            if self.confidence is not None:  # an error if all normal images together are too few
                scores.tighten_fpr(len(self.spade.gallery.places), float(self.rule), self.confidence)
            with hold_warnings():  # the remarks contain them
                self.threshold = scores.find_threshold(np.concatenate(normals), float(self.rule))
        elif self.rule != "hand":
            self.rule, self.threshold = "hand", self._study.edges[-1] / 2

    def _best_f1(self) -> float:
        """The best F1 over labelled test images, or pixels with masks; the old threshold while these are pending."""
        maps, truth = [], []
        for one in self._known(normal=False):
            known = self.images.label(one.index) if self.of == "image" else self._find_truth(one)
            if known is not None:
                maps.append(self._make_map(one).ravel())
                truth.append(np.array([known != GOOD]) if self.of == "image" else np.ravel(known))
        if not truth or not 0 < np.concatenate(truth).mean() < 1:
            if self._may_know_both():
                return self.threshold
            what = "labels" if self.of == "image" else "masks"
            raise ValueError(f"The rule 'f1' needs good and defective test images with {what}. Use another rule.")
        return float(f1_threshold(np.concatenate(maps), np.concatenate(truth)))

    def _may_know_both(self) -> bool:
        """Whether pending images may still provide both good and defective examples."""
        if not self._to_judge():
            return False
        labels = {self.images.label(at) for at in self._tested} - {None}
        if self.of == "pixel":
            return any(map(self.images.masked, self._tested))
        return GOOD in labels and len(labels) > 1

    # ---- background work ---------------------------------------------------------------------------------------------

    def _background_steps(self) -> Steps:
        for number, at in enumerate(self._to_judge(), 1):
            self._take((yield partial(self._judge, at)))
            if number % _BATCH == 0:
                self._publish()
        self._publish()

    def _publish(self) -> None:
        with self._without_events():
            try:
                self._refresh()
            except MISTAKES as mistake:  # such as the best F1 when no labelled image is readable
                self.problem, self.rule = str(mistake), "hand"
                self._refresh()
            if not self._to_judge():
                self.pictures = self._pack_nearest(2 * _NEAR)

    # ---- the page ----------------------------------------------------------------------------------------------------

    def _on_photos(self, photos: list[int]) -> None:
        for at in filter(self._judged.__contains__, photos):
            packed = self._pack_photo(at)
            names = [name for name, value in packed.items() if isinstance(value, bytes)]
            plain = {name: value for name, value in packed.items() if name not in names}
            self.send({"kind": "photo", "names": names, **plain}, [packed[name] for name in names])

    def _pack_photo(self, at: int) -> dict[str, Any]:
        score = self._judged[at].score
        distance = np.empty((0, 0), np.float32) if score.distance is None else score.distance
        packed = {
            **{"at": at, "size": list(score.size), "sigma": self.spade.sigma, "jpeg": self._judged[at].thumb},
            **pack_distance(distance),
        }
        if score.level is not None:  # it is smooth: half its resolution outlines a small picture
            level = resize(score.level, ((score.size[0] + 1) // 2, (score.size[1] + 1) // 2))
            packed |= {"level_size": list(level.shape), **pack_place_level(level)}
        masks = {"mask": pack_mask(score.mask), "roi": pack_mask(score.roi)}
        return packed | {name: mask for name, mask in masks.items() if mask is not None}

    def _title_and_stem(self) -> tuple[str, str]:
        return "Threshold", f"threshold-{self.of}"

    def _saved(self) -> dict[str, Any]:
        return super()._saved() | {"pictures": self._pack_nearest(_SAVED)}

    def _pack_nearest(self, count: int) -> list[dict[str, Any]]:
        """The images nearest to the threshold: at least those that the page shows on each side."""
        known = [*self._known(normal=True), *self._known(normal=False)]
        place = {one.index: (self._place(one) or 0) - self.threshold for one in known}
        nearest = sorted(place, key=lambda at: abs(place[at]))
        sides = ([at for at in nearest if (place[at] >= 0) == above] for above in (False, True))
        nearest = list(dict.fromkeys([*(at for side in sides for at in side[:_NEAR]), *nearest]))
        return list(map(self._pack_photo, nearest[:count]))


def _check_rule(rule: str) -> str:
    if rule not in ("hand", "f1"):
        check_rate(rule, "rule must be 'hand', 'f1' or a false-alarm rate between 0 and 1, like '0.05'", rule)
    return rule
