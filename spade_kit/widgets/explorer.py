"""The explorer: pick an image, point at a pixel, and see which normal pixel explains it, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import traitlets
from matplotlib.figure import Figure

from spade_kit._arguments import check_count, check_number, choose, hold_warnings, warn
from spade_kit.batch import FPR, PIXEL_FPR
from spade_kit.datasets.roi import Roi, check_corners
from spade_kit.datasets.samples import Dataset, Photo
from spade_kit.figures.results import draw_explanations
from spade_kit.figures.style import SCALE
from spade_kit.gallery.calibration import NormalScores, find_level
from spade_kit.gallery.placement import Placement
from spade_kit.gallery.recommendation import ADVICE
from spade_kit.options import COMBINE, JUDGED, SCORE, Options, check_kappa, check_sigma
from spade_kit.result import Result
from spade_kit.spade import SPADE
from spade_kit.widgets._shared import encoding
from spade_kit.widgets._shared.base import MISTAKES, Checked, Index, Live, Probe, check_distance, check_rate, locked
from spade_kit.widgets._shared.caches import Recent, Request, Results, Scores, look_within
from spade_kit.widgets._shared.edits import Corrections
from spade_kit.widgets._shared.export import compress, fit_crops
from spade_kit.widgets._shared.images import ImageList, find_name, read_upload
from spade_kit.widgets._shared.scheduler import Steps

_BATCH = 8  # images per message to the page
_PAGE_BYTES = 600_000  # budget of an image in a saved page, compressed; full normal crops fill the rest
_FINE: dict[str, Any] = {"k": None, "sigma": 0}  # options that hardly affect the reference level
_RULES = {
    "threshold": ("judged", f"pixel {PIXEL_FPR}"),
    "image_threshold": ("score", f"image {FPR}"),
}  # what each is of, and how it starts
_SEARCH = ("kappa", "radius", "weights", "combine")
_OPTIONS = (*_SEARCH, "without", "only")
_READ = ("sigma", "score", "judged")  # options that only read the distances


def explore(spade: SPADE, photos: Dataset | Iterable[Photo] | None = None) -> Explorer:
    """A widget to inspect how a fitted SPADE judges images.

    Parameters
    ----------
    photos
        A Dataset, to show its ``test``, or a list of images. If omitted, or for a dataset without test images, the
        fitted images are shown, each judged against the others.

    Returns
    -------
    Explorer
        Everything you can do with the mouse also works from Python: see its attributes.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> spade = spade_kit.SPADE(k=5).fit(parts.train[:12])
    >>> explorer = spade_kit.explore(spade, parts)
    >>> explorer.index, explorer.k = 5, 3  # as a click and the slider would
    """
    return Explorer(spade, photos)


class Explorer(Live, page="explorer.js"):
    """See `explore`. Changes from Python are computed at once; changes in the page are answered there.

    Attributes
    ----------
    index
        Index of the image.
    beside
        Index of a second image, shown on the scale of the first with the probe in the same place, or None.
    selection
        Indices of the images in the strip; empty for all. Link it to that of `map_images`.
    k, kappa, radius, weights, combine, sigma, score, judged
        As in `SPADE`. With another ``judged`` or ``score``, its threshold, if set manually, returns to its first rule.
    threshold
        A raw distance; pixels of the judged map at or above it are anomalous: outlines and regions. Setting it sets the
        rule to ``"hand"``.
    threshold_rule
        ``"pixel 0.01"``: 1 % of the pixels of normal images reach the threshold; ``"image 0.05"``: 5 % of the normal
        images do; ``"f1"``: best F1 over the pixels of all images with masks, which uses test labels; ``"hand"``:
        set manually. With more than 64 normal images, 64 of them are judged. If only the score or only the map is an
        excess, a threshold for images does not apply to pixels.
    image_threshold
        An image score; images at or above it are anomalous: the list, its filters and the verdict on an image. Setting
        it sets the rule to ``"hand"``.
    image_threshold_rule
        ``"image 0.05"``: 5 % of the normal images reach it or, if there are fewer than 19, none lies above it, as in
        `SPADE.predict_folder`; ``"hand"``: set manually.
    probe, pinned
        (row, col) of the map, and whether it stays there. Setting the probe pins it.
    without, only
        Excluded training images; the only training image to compare with, or None for all. Choosing another image
        resets ``only``.
    roi
        The corners of a polygon, a list of (row, col) in pixels of the original image, or None. All images of the size
        of the one that it is drawn on are judged within it, as by ``spade.predict(image, roi=roi)``; thresholds remain
        those of the fit. `SPADE.fit` takes it as it is.
    opacity
        Opacity of the map over the image.
    alone
        Whether to show each layer searched alone instead of its share of the distance.
    ratio
        Whether to show `Result.ratio_map`, how ambiguous each match is, in place of the map.
    compact
        Whether to fold all but the pictures and one row of controls, for low screens.
    """

    MOVABLE = ("index", "beside", "selection", "k", *_OPTIONS, "sigma", "score", "judged", "threshold",
               "threshold_rule", "image_threshold", "image_threshold_rule", "probe", "pinned", "roi", "roi_size",
               "opacity", "alone", "ratio", "compact")  # fmt: skip
    OWN = ("_corrections", "_rules_before")
    TOLD = ("gallery", "photos", "normals", "layer_levels", "placed", "scores", "as_python")
    MESSAGES = Live.MESSAGES | {"upload": "name part parts buffers",
                                "add": "", "remove": "image", "undo": "", "ask": "",
                                "distances": "row col image"}  # fmt: skip

    index = Index()
    beside = Checked(None, lambda self, value: None if value is None else self.images.check(value, "beside"))
    selection = Checked((), lambda self, images: self.images.check_all(images, "selection"))
    k = Checked(1, lambda self, value: min(check_count("k", value), len(self.spade)))
    kappa = Checked(1, lambda _, value: check_kappa(value))
    radius = Checked(None, lambda _, value: None if value is None else check_count("radius", value, least=0))
    weights = Checked(None, lambda self, value: self.spade.with_options(weights=value).weights)
    combine = Checked("concat", lambda _, value: choose("combine", value, COMBINE))
    sigma = Checked(4.0, lambda _, value: check_sigma(value))
    score = Checked("max", lambda _, value: choose("score", value, SCORE))
    judged = Checked("map", lambda _, value: choose("judged", value, JUDGED))
    threshold = Checked(0.0, lambda _, value: check_distance("threshold", value))
    threshold_rule = Checked(_RULES["threshold"][1], lambda self, value: self._check_rule(value))
    image_threshold = Checked(0.0, lambda _, value: check_distance("image_threshold", value))
    image_threshold_rule = Checked(
        _RULES["image_threshold"][1], lambda self, value: self._check_rule(value, ("hand", "image"))
    )
    probe = Probe()
    pinned = traitlets.Bool(False).tag(sync=True)
    without = Checked((), lambda self, images: self._check_without(images))
    only = Checked(None, lambda self, value: None if value is None else self.spade.gallery.check_index(value, "only"))
    roi = Checked(None, lambda _, value: _check_roi(value))
    roi_size = Checked(None, lambda _, value: value and tuple(value))  # of the images that it holds for, set with it
    opacity = Checked(0.35, lambda _, value: check_number("opacity", value, "a number from 0 to 1", least=0, most=1))
    alone = traitlets.Bool(False).tag(sync=True)
    ratio = traitlets.Bool(False).tag(sync=True)
    compact = traitlets.Bool(False).tag(sync=True)

    # set by Python for the page
    gallery = traitlets.Dict().tag(sync=True)
    matches = traitlets.Dict().tag(sync=True)
    other = traitlets.Dict().tag(sync=True)  # photo, neighbours and matches of the image beside
    layers_alone = traitlets.Dict().tag(sync=True)
    ratios = traitlets.Dict().tag(sync=True)
    place_level = traitlets.Dict().tag(sync=True)
    normals = traitlets.Dict().tag(sync=True)
    layer_levels = traitlets.Dict().tag(sync=True)
    placed = traitlets.Dict().tag(sync=True)
    scores: traitlets.List = traitlets.List().tag(sync=True)
    as_python = traitlets.Unicode().tag(sync=True)

    def __init__(self, spade: SPADE, photos: Dataset | Iterable[Photo] | None = None) -> None:
        self._named = find_name(spade)
        self._corrections = Corrections(spade)
        self.images = ImageList(self.spade, photos)
        self._results = Results(self.images)
        self._thumbs: dict[int, bytes] = {}
        self._scores = Scores(self.images)
        self._known: NormalScores | None = None  # scores of normal images
        self._known_of: Request | None = None
        self._statistics: Recent[NormalScores] = Recent(len(JUDGED))  # final scores of normal images, by request
        self._rules_before: dict[str, str] = {}  # to be restored: one normal image gives no threshold
        self._asked: Request | None = None  # for which the page asked what place explains
        self._narrowed: Recent[Result] = Recent(2)
        self._seen: tuple = (None, None)  # the image and options last sent to the page
        self._other_of: tuple = ()  # the image and options of ``other``
        self._to_do: tuple = ()  # the state for which the background was last started
        self._upload: list[bytes] = []
        super().__init__(
            k=min(spade.k, len(self.spade)),
            **{name: getattr(spade, name) for name in (*_SEARCH, *_READ)},
        )
        self.photos = self.images.listed
        self.about = self.about | {
            "layers": list(spade.backbone.layers),
            "labels": list(spade.backbone.labels.values()),
            "unit": spade.backbone.unit,
            "backbone": f"{spade.backbone.name}, weights: {spade.backbone.weights}",
            "masks": self.images.has_masks,
            "advice": ADVICE,
            "start": {
                name: getattr(self, name)
                for name in ("k", *_OPTIONS, *_READ, "threshold_rule", "image_threshold_rule", "opacity")
            },
        }
        self.index = self._find_first()
        self._open()

    def _find_first(self) -> int:
        """The first image that can be judged; a warning reports those skipped."""
        skipped: list[Exception] = []
        for index in range(len(self.images)):
            try:
                self._find(index)
            except MISTAKES as problem:
                skipped.append(problem)
            else:
                if skipped:
                    warn(f"Images skipped because they cannot be judged: {len(skipped)}. First error: {skipped[0]}")
                return index
        raise skipped[0]

    # ---- for Python --------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        options = self._request_of_all.judge.describe_options()
        return f"Explorer({self.images.name(self.index)}; {options}; probe {self.probe})"

    def _preview(self) -> bytes:
        shown = [(seen, self._judged_map(seen), (row, col)) for _, seen, row, col in self._look_at_both()]
        end = SCALE * self._known.level if self._known else 0
        verdict = self._verdict if self._level_known else None
        return encoding.draw_preview(shown, verdict, end if end > 0 else max(np.nanmax(shown[0][1]), 1e-9))

    @property
    def spade(self) -> SPADE:
        """The fitted SPADE with all corrections; the one passed in is never modified."""
        return self._corrections.spade

    @property
    def result(self) -> Result:
        """The result of the current view."""
        return self._look_at(self.index)

    @locked
    def _look_at(self, index: int) -> Result:
        wanted = index, self._request, self._request_of_all, self._drawn
        return self._narrowed.find(wanted, lambda: self._narrow(self._find(index)))

    @property
    def _verdict(self) -> float | None:
        """The threshold; None if it is not one for this map: it assumes a comparison with all normal images.

        A threshold for image scores applies to pixels only if both are of the same map.
        """
        apart = self.threshold_rule.startswith("image") and (self.score == "excess") != (self.judged == "excess")
        return None if apart or self.only is not None else self.threshold

    def _narrow(self, full: Result) -> Result:
        """Apply the current K, sigma, score, judged map and roi to the result of `_find`."""
        fewer = full.with_k(self.k) if self.k < len(full.neighbours) else full
        return look_within(self._request_of_all.judge.judge(fewer.source, fewer.among, fewer), self._drawn)

    @property
    def _drawn(self) -> Roi | None:
        """The roi that was set here, for images of its size."""
        return None if self.roi is None else Roi(self.roi_size, corners=tuple(self.roi))

    def _judged_map(self, result: Result) -> np.ndarray:
        """The judged map; the map itself until it is known what is taken off."""
        return result.judged_map if self._level_known else result.anomaly_map

    @property
    def _level_known(self) -> bool:
        """Whether the judged map is known without judging normal images."""
        return self.judged == "map" or not self.spade.gallery.comparable or self._find_statistics("excess") is not None

    def _find_statistics(self, judged: str) -> NormalScores | None:
        """The scores of normal images under the current options, if they are final."""
        wanted = self._request_of_all.replace(judged=judged)
        return self._statistics.last(lambda key: key == wanted)

    def readout(self) -> pandas.DataFrame:
        """The probe in numbers: the normal pixel that explains it, the distance, and each layer's share of it.

        ``normal`` is the training image and ``neighbour`` its rank from 1, nearest first. Rows and columns are map
        pixels. ``map`` is the smoothed anomaly map at the probe, and ``excess`` the excess map, if that is judged;
        distances are between the two pixels, unsmoothed. With vectors of length 1, ``angle`` is that between the two
        vectors at a layer, in degrees: the layer's own squared distance is 2 - 2 cos of it. With an image ``beside``, a
        second row is of the same place there.
        """
        rows = [self._read(result, row, col) for _, result, row, col in self._look_at_both()]
        return pandas.DataFrame(rows, index=["probe", "beside"][: len(rows)])

    @locked
    def _look_at_both(self) -> list[tuple[int, Result, int, int]]:
        """The index and the result of the current image and of the one beside, with the place of the probe in each."""
        seen = [(self.index, self.result, *self.probe)]
        if self.beside is not None:
            other = self._look_at(self.beside)
            sides = zip(self.probe, other.crop.size, self.result.crop.size)
            row, col = ((2 * at + 1) * there // (2 * here) for at, there, here in sides)
            seen.append((self.beside, other, row, col))
        return seen

    def _read(self, result: Result, row: int, col: int) -> dict[str, Any]:
        match = result.match(row, col)
        cells: dict[str, Any] = {"row": row, "col": col, "normal": match.image, "neighbour": match.neighbour + 1}
        cells |= {"normal row": match.row, "normal col": match.col}
        cells["map"] = round(float(result.anomaly_map[row, col]), 3)
        if self.judged == "excess" and self.spade.gallery.comparable:
            cells["excess"] = round(float(result.excess_map[row, col]), 3)
        cells["distance"] = round(match.distance, 3)
        labels = self.spade.backbone.labels
        cells |= {labels[name]: round(share, 3) for name, share in match.layers.items()}
        return cells | {f"angle at {labels[name]}": round(angle, 1) for name, angle in match.angles.items()}

    @property
    def placement(self) -> Placement | None:
        """How much place explains of the normal images under the current options: see `SPADE.placement`."""
        return self._request_of_all.judge.placement

    @locked
    def show(self, photo: Photo) -> None:
        """Append a custom image to the list and show it."""
        index = self.images.add(photo)
        try:
            self._find(index)
        except MISTAKES:
            self.images.drop_last()
            raise
        self.photos = self.images.listed
        self.index = index

    @locked
    def add(self) -> None:
        """Add the current image to the normal images, exactly as a refit would.

        It is then judged against the others, so its own map does not change; the maps of other images may. Statistics
        of the normal images are stale until they are computed again.
        """
        if self._normal_at(self.index) is not None:
            raise ValueError(f"{self.images.name(self.index)} is already a normal image.")
        photo, expression = self.images.photo(self.index)
        self._corrections.add(photo, self.images.name(self.index), expression)
        self._send_corrections()

    @locked
    def remove(self, image: int | None = None) -> None:
        """Remove a training image that is not normal, exactly as a refit would. Later ones move up.

        If omitted, the current image is removed; it must then be a normal image.
        """
        if image is None and (image := self._normal_at(self.index)) is None:
            raise ValueError(f"{self.images.name(self.index)} is not a normal image. Pass the index of one, from 0.")
        self._corrections.remove(image)
        self._send_corrections()

    @locked
    def undo(self) -> None:
        """Undo the last correction."""
        self._corrections.undo()
        self._send_corrections()

    def _normal_at(self, index: int) -> int | None:
        """The training index of an image, or None; a fitted image is judged against the others."""
        source = self._results.find(index, self._request.ahead.of_all).source
        return self.spade.gallery.places.get(source.digest)

    def _send_corrections(self) -> None:
        """The gallery changed: judge everything again, now or in the background."""
        with self._without_events():
            wanted, before = self.spade.k, self.gallery["normals"]
            self.without, self.only = (), None
            if self.k == min(wanted, before):
                self.k = wanted  # as after a refit
            elif self.k == before:
                self.k = len(self.spade)  # the maximum stays the maximum
            self._results.forget_all_but(self.index)
            self._seen = (None, None)
            with self.hold_sync():
                if not self.spade.gallery.comparable:  # there is no reference level
                    self._known, self._known_of, self.normals, self.place_level = None, None, {}, {}
                else:
                    for name in [*self._rules_before]:
                        setattr(self, f"{name}_rule", self._rules_before.pop(name))
                self._refresh()
                self._scores.start(self._request_of_scores)
                self.scores = self._scores.pack()

    @locked
    def code(self) -> str:
        """Lines of Python that reproduce the current view, with the variable names at the time of creation."""
        start = self.about["start"]
        changed = [name for name in ("k", *_SEARCH, *_READ) if getattr(self, name) != start[name]]
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in changed)
        lines = ["import spade_kit", "" if self._named else "# spade as in spade_kit.explore(spade, ...)"]
        name, corrections = self._corrections.code(self._named or "spade")
        judge = name + (f".with_options({options})" if options else "")
        threshold = "" if self._verdict is None else f", threshold={self._verdict:.6g}"
        drawings = []
        for result, (index, seen, row, col) in zip(("result", "beside"), self._look_at_both()):
            normal, drawn = self._normal_at(index), self.roi is not None and self.roi_size == seen.crop.photo
            names = self.images.origin(index, None if drawn else normal), f"roi = {self.roi}" if drawn else ""
            lines += [line for line in names if line not in lines] + corrections
            lines += [f"{result} = {self.images.describe(index, judge, normal, drawn)}"]
            if self.only is not None:
                lines += [f"{result} = {result}.with_normals([{self.only}])"]
            elif self.without:
                others = f"i for i in {result}.among if i not in {list(self.without)}"
                lines += [f"{result} = {result}.with_normals({others})"]
            drawings += [f"spade_kit.draw_explanation({result}, {row}, {col}{threshold})"]
            corrections = []
        return "\n".join(filter(None, lines + drawings))

    def draw(self) -> Figure:
        """The current view as a Matplotlib figure; the image beside is below."""
        return draw_explanations([(result, row, col) for _, result, row, col in self._look_at_both()], self._verdict)

    def _title_and_stem(self) -> tuple[str, str]:
        title, stem = super()._title_and_stem()
        return (title if self.beside is None else f"{title} beside {self.images.name(self.beside)}"), stem

    def save_html(self, path: str | Path, photos: Iterable[int] | None = None) -> None:
        """Write a self-contained page that works offline: hover, pins, K, sigma, threshold, opacity and layers.

        All images are judged first: the page ranks them by their scores.

        Parameters
        ----------
        photos
            Indexes of the images to include; the current image if omitted. Each takes up to 1 MB.
        """
        self._save_page(path, photos)

    # ---- settable traits ---------------------------------------------------------------------------------------------

    def _check_without(self, images: Any) -> tuple[int, ...]:
        given = images if isinstance(images, Iterable) else [images]
        without = tuple(sorted({self.spade.gallery.check_index(at, "without") for at in given}))
        if len(without) == len(self.spade):
            raise ValueError(f"without must leave at least one normal image; got all {len(without)}.")
        return without

    def _check_rule(self, value: str, known: Sequence[str] = ("hand", "pixel", "image", "f1")) -> str:
        of, _, rate = str(value).partition(" ")
        choose("A threshold rule", of, known)
        if of == "f1" and not self.about["masks"]:
            raise ValueError("The rule 'f1' needs images with masks; these have none. Use a rule like 'pixel 0.01'.")
        if of in ("pixel", "image"):
            check_rate(rate, f"A threshold rule needs a false-alarm rate between 0 and 1, as in '{of} 0.01'", value)
        return value

    def _reconcile(self, changed: set[str], by_page: bool) -> None:
        if "index" in changed:
            self.only = None
        if "roi" in changed:
            self.roi_size = None if self.roi is None else self._find(self.index).crop.photo
        if "probe" in changed and not by_page:
            self.pinned = True
        for name, (of, rule) in _RULES.items():
            if name in changed and not by_page:
                setattr(self, f"{name}_rule", "hand")
            elif of in changed and getattr(self, f"{name}_rule") == "hand" and self.spade.gallery.comparable:
                setattr(self, f"{name}_rule", rule)
            if changed & {name, f"{name}_rule"}:
                self._rules_before.pop(name, None)
        if changed & {"score", "judged"} and not by_page:
            self.spade.with_options(score=self.score, judged=self.judged)  # warns if there is no excess

    def _follow(self, change: dict) -> None:
        super()._follow(change)
        if self.threshold_rule == "f1" and not self._quiet:
            self.finish()

    @property
    def _request(self) -> Request:
        """The current options of the search."""
        changes = {name: getattr(self, name) for name in ("k", *_SEARCH)}
        return Request(self.spade, self.spade.options.of_map.replace(**changes), self.without, self.only)

    def _find(self, index: int) -> Result:
        """The result of an image with more neighbours than K."""
        return self._results.find(index, self._request.ahead)

    def _refresh(self) -> None:
        """Send the page everything derived from the current settings."""
        request, told, can_undo = self._request.ahead, self._corrections.tell(), self._corrections.can_undo
        with self._without_events(), self.hold_sync():
            self.gallery = {"normals": len(self.spade), "corrected": told, "undo": can_undo}
            new = self._seen[0] != self.index
            if new or self.photo["drawn"] != [self.roi, self.roi_size]:
                self.photo = self._pack_photo(self.index, self._find(self.index))
            if self._seen != (self.index, request):
                full = self._find(self.index)
                if new:
                    self.probe = self._place_probe(encoding.find_highest(self._judged_map(self.result)))
                self.neighbours = self._pack_neighbours(full)
                self.matches = self._pack_matches(self.index, full)
                self._seen = (self.index, request)
            about = self._describe_view(self.index)
            if self.alone and not about.items() <= self.layers_alone.items():
                self.layers_alone = self._pack_alone(self.index, self.result)
            self._send_other(request)
            self._refresh_normals()
            self._conclude()
        ratio = self.ratio and self._payload(self.index)
        to_do = (self.index, self._request_of_all, self._drawn, self.threshold_rule, len(self.images), ratio)
        if self._to_do != to_do:
            self._to_do = to_do
            self._background.restart()

    def _send_other(self, request: Request) -> None:
        """Send the image beside, if it or its options have changed."""
        wanted = self.beside, request, self._drawn
        if self._other_of != wanted:
            self.other = {} if self.beside is None else self._pack_view(self.beside, self._find(self.beside))
            self._other_of = wanted

    def _conclude(self) -> None:
        """Update the traits that depend on all others."""
        self._set_thresholds()
        if self._known is not None:
            self.normals = self.normals | {"other": self._pack_other()}
        self._send_place_level()
        self._send_placement()
        self.as_python = self.code()

    def _pack_other(self) -> dict[str, Any] | None:
        """The reference level and the threshold for the other map, so that the page can switch to it at once."""
        (other,) = {*JUDGED} - {self.judged}
        if (known := self._find_statistics(other)) is None:
            return None
        first = _RULES["threshold"][1]
        of, _, rate = (self.threshold_rule if self.threshold_rule != "hand" else first).partition(" ")
        threshold = known.level if of == "f1" else known.threshold(of, float(rate))
        rule = "hand" if of == "f1" else f"{of} {rate}"
        return encoding.pack_reference(known) | {"threshold": threshold, "threshold_rule": rule}

    def _send_place_level(self) -> None:
        """Send what normal images reach at each place of this image, once it is known."""
        about = self._describe_level(self.index) | {"beside": self.beside}
        if self._find_statistics("excess") is None or about.items() <= self.place_level.items():
            return
        if not self.pinned and self.probe == encoding.find_highest(self.result.anomaly_map):
            self.probe = encoding.find_highest(self.result.judged_map)
        other = {} if self.beside is None else self._pack_place_level(self.beside)
        self.place_level = self._pack_place_level(self.index) | {"beside": self.beside, "other": other}

    def _send_placement(self) -> None:
        """Send what place explains of the normal images, if it is known."""
        request = self._request_of_all
        known = self.spade.calibration.known_placement(request.options)
        self.placed = {"asked": self._asked == request, "text": "" if known is None else str(known)}

    def _describe_level(self, index: int) -> dict[str, Any]:
        return self._describe_view(index) | {"sigma": self.sigma}

    def _pack_place_level(self, index: int) -> dict[str, Any]:
        level = self._look_at(index).place_level
        return {} if level is None else self._describe_level(index) | encoding.pack_place_level(level)

    def _payload(self, index: int) -> dict[str, Any]:
        """What a reply refers to, so that the page can match it to its request."""
        return {"index": index, "options": {name: getattr(self, name) for name in _OPTIONS}}

    def _describe_view(self, index: int) -> dict[str, Any]:
        return self._payload(index) | {"k": self.k}

    def _pack_view(self, index: int, full: Result) -> dict[str, Any]:
        photo, neighbours = self._pack_photo(index, full), self._pack_neighbours(full)
        return {"photo": photo, "neighbours": neighbours, "matches": self._pack_matches(index, full)}

    def _pack_photo(self, index: int, full: Result) -> dict[str, Any]:
        photo = encoding.pack_photo(look_within(full, self._drawn), full.mask)
        return {"index": index, "normal": self._normal_at(index), "drawn": [self.roi, self.roi_size], **photo}

    def _pack_neighbours(self, full: Result) -> dict[str, Any]:
        numbers = full.neighbours.index.tolist()
        return encoding.pack_neighbours(numbers, [full.spade.gallery.normals[image] for image in numbers])

    def _pack_matches(self, index: int, full: Result) -> dict[str, Any]:
        asked = {"asked_k": self.k, "factors": self._factors(full).tolist()}
        excluded = {"excluded": self._find_excluded(index, full)}
        return self._payload(index) | asked | excluded | encoding.pack_matches(full)

    def _factors(self, result: Result) -> np.ndarray:
        """The weight of each layer's squared distance."""
        return self.spade.gallery.factors(Options(weights=self.weights), result.among)

    def _find_excluded(self, index: int, full: Result) -> list[list]:
        """The excluded neighbours with their distances: the page still shows them at their position in the strip."""
        if not self.without or self.only is not None:
            return []
        near = self._results.find(index, self._request.ahead.of_all).neighbours
        return [list(pair) for pair in zip(near.index.tolist(), near.distance.tolist()) if pair[0] in self.without]

    def _pack_alone(self, index: int, result: Result) -> dict[str, Any]:
        return self._describe_view(index) | {"layers": encoding.pack_alone(result, self._factors(result))}

    # ---- reference level and threshold -------------------------------------------------------------------------------

    def _refresh_normals(self) -> None:
        """Provide statistics of the normal images: an estimate at once, the rest in the background."""
        if not self.spade.gallery.comparable:
            return
        wanted = self._request_of_all
        if self._known_of == wanted:
            return
        calibration, options = self.spade.calibration, wanted.options
        before = None if self._known_of is None else self._known_of.options
        alike = before is not None and before.replace(**_FINE) == options.replace(**_FINE)
        ready = calibration.few == calibration.sample or not calibration.required(options, calibration.sample)
        if (known := self._find_statistics(self.judged)) is not None:
            self._send_normals(wanted, known, self.score)
        elif ready and not (alike and options.need_level):  # the levels of a slider's every step would take too long
            self._send_normals(wanted, calibration.scores(options, calibration.sample), self.score)
        elif alike:  # K and sigma hardly change the scale: the old statistics serve until the new ones are ready
            self.normals = self.normals | {"stale": True}
        elif self.judged == "excess":  # what is taken off takes all images
            self._known, self._known_of, self.normals = None, None, {"stale": True}
        else:
            options = options.of_map if options.need_level else options
            self._send_normals(wanted, calibration.scores(options, calibration.few), options.score, stale=True)

    @property
    def _request_of_all(self) -> Request:
        """All options that affect the maps, with all normal images."""
        return self._request.of_all.replace(**{name: getattr(self, name) for name in _READ})

    @property
    def _request_of_scores(self) -> Request:
        """The options that affect the scores of images; best F1 needs their judged maps, too."""
        request = replace(self._request_of_all, roi=self._drawn)
        return request if self.threshold_rule == "f1" else request.replace(judged="map")

    def _send_normals(self, request: Request, known: NormalScores, score: str, stale: bool = False) -> None:
        self._known, self._known_of = known, request
        if not stale:
            self._statistics.find(request, lambda: known)
        told = {"score": score, "judged": request.options.judged, "stale": stale, "other": None}
        self.normals = encoding.pack_normals(known, len(self.spade)) | told

    def _set_thresholds(self) -> None:
        """Apply the threshold rules; missing statistics are computed in the background."""
        for name in _RULES:
            rule = getattr(self, f"{name}_rule")
            of, _, rate = rule.partition(" ")
            if of == "f1" and self._scores.complete(self._request_of_scores):
                self.threshold = self._scores.best_f1_threshold()
            elif of not in ("pixel", "image"):
                continue
            elif not self.spade.gallery.comparable:  # there is no reference level
                self._rules_before[name] = rule
                setattr(self, f"{name}_rule", "hand")
                setattr(self, name, self.result.image_score / 2)
            elif self._known is not None and (of == "pixel" or self.normals["score"] == self.score):
                with hold_warnings():  # too few images for the rate: the page says so
                    setattr(self, name, self._known.threshold(of, float(rate)))

    # ---- background work ---------------------------------------------------------------------------------------------

    def _background_steps(self) -> Steps:
        """Background work, most urgent first."""
        self.waiting = ""
        yield from self._draw_thumbs()
        yield from self._measure_ratios()
        yield from self._prefetch()
        yield from self._judge_all_normals(self.judged)
        yield from self._score_all_photos()
        yield from self._judge_layers()
        for judged in JUDGED:  # let the page switch between the map and its excess without waiting
            yield from self._judge_all_normals(judged)
        if self._asked == self._request_of_all and not self.placed["text"]:
            asked = partial(self._asked.spade.calibration.placement, self._asked.options)
            yield from self._tell("where normal photos match", [asked])
            self._send_placement()

    def _measure_ratios(self) -> Steps:
        about, ratio = self._describe_view(self.index), np.empty(0)
        if not self.ratio or about.items() <= self.ratios.items():
            return
        parts = self.result.measure_ratios()
        while (part := (yield partial(next, parts, None))) is not None:
            ratio = part
            self.waiting = f"ratios of distances: {np.isfinite(ratio).sum():,} of {ratio.size:,} cells"
        self.ratios, self.waiting = about | encoding.pack_distance(ratio), ""

    def _draw_thumbs(self) -> Steps:
        missing = [index for index in range(len(self.images)) if index not in self._thumbs]
        for start in range(0, len(missing), _BATCH):
            thumbs = yield partial(self.images.thumbs, missing[start : start + _BATCH])
            self._thumbs |= thumbs
            self._send_thumbs(thumbs)

    def _prefetch(self) -> Steps:
        request = self._request.ahead
        for index in (self.index + 1, self.index - 1):
            if 0 <= index < len(self.images):
                yield partial(self._prepare, index, request)

    def _prepare(self, index: int, request: Request) -> None:
        try:
            result = self._results.find(index, request)
        except MISTAKES:
            return  # reported when the image is picked
        self._pack_neighbours(result)
        encoding.find_breakpoints(result)

    def _judge_all_normals(self, judged: str) -> Steps:
        if not self.spade.gallery.comparable or self._find_statistics(judged) is not None:
            return
        request, calibration = self._request_of_all.replace(judged=judged), self.spade.calibration
        missing = calibration.required(request.options, calibration.sample)
        left_out = [partial(list, calibration.maps(request.options, [image])) for image in missing]  # type: ignore[var-annotated]
        yield from self._tell("normal photos judged", left_out)
        known = yield partial(calibration.scores, request.options, calibration.sample)
        with self._without_events(), self.hold_sync():
            self._statistics.find(request, lambda: known)
            if request == self._request_of_all:
                self._send_normals(request, known, self.score)
            self._conclude()

    def _judge_layers(self) -> Steps:
        """Find each layer's own reference level, on a few normal images, each judged against the others."""
        judge = self._request_of_all.judge
        wanted = {name: getattr(self, name) for name in ("alone", *_SEARCH, "k", "sigma")}
        if not self.spade.gallery.comparable or wanted.items() <= self.layer_levels.items():
            return
        shown = "layer_alone" if self.alone else "layer_maps"
        few = judge.calibration.few
        left_out = [partial(lambda image: getattr(judge.predict_left_out(image), shown), image) for image in few]
        maps = yield from self._tell("reference levels of the layers, normal photo", left_out)
        levels = [find_level([one[name] for one in maps]) for name in judge.backbone.layers]
        if self.alone:  # weighted as in the page
            weights = judge.gallery.factors(judge.options, np.arange(len(judge)))
            levels = [
                level * float(judge.options.root(np.asarray(weight or 1))) for level, weight in zip(levels, weights)
            ]
        self.layer_levels = wanted | {"levels": levels, "images": len(maps)}

    def _score_all_photos(self) -> Steps:
        request = self._request_of_scores
        self._scores.start(request)
        judge, missing = request.judge, self._scores.missing()
        for at, index in enumerate(missing, len(self.images) - len(missing) + 1):
            self.waiting = f"photos judged: {at} of {len(self.images)}"
            self._scores.take((yield partial(self._scores.score, index, judge, request.roi)))
            if index % _BATCH == 0:
                self.scores = self._scores.pack()
        if missing:
            with self._without_events(), self.hold_sync():
                self.scores, self.waiting = self._scores.pack(), ""
                self._conclude()

    # ---- messages from the page --------------------------------------------------------------------------------------

    def _on_connected(self) -> None:
        if self._thumbs:
            self._send_thumbs(self._thumbs)

    def _on_ask(self) -> None:
        """The page asks what place explains: it takes all normal images, so it is computed last."""
        self._asked = self._request_of_all
        self._send_placement()
        self._background.restart()

    def _on_distances(self, row: int, col: int, image: int) -> None:
        """The page asks how far the places of a normal image are from a pixel."""
        number = self.spade.gallery.check_index(image)
        distances = self.result.distances_from(row, col, np.array([number]))
        told = {"kind": "distances", "row": row, "col": col, "image": image}
        self.send(told, [distances.astype("<f4").tobytes()])

    def _on_upload(self, name: str, part: int, parts: int, buffers: Sequence[Any]) -> None:
        """A file arrives in parts, since the size of a notebook message is limited."""
        if part == 0:
            self._upload = []
        self._upload.append(bytes(buffers[0]))
        if len(self._upload) == parts:
            self.show(read_upload(name, b"".join(self._upload)))

    def _act(self, kind: str, content: dict) -> None:
        """Show the warnings of a correction in the page."""
        if kind not in ("add", "remove", "undo"):
            return super()._act(kind, content)
        with hold_warnings() as said:
            super()._act(kind, content)
        self.problem = " ".join(said)

    # ---- saved pages -------------------------------------------------------------------------------------------------

    def _make_page(self, photos: Iterable[int] | None = None) -> str:
        chosen = [self.index] if photos is None else photos if isinstance(photos, Iterable) else [photos]
        indexes = [self.images.check(index, "photos") for index in chosen]
        indexes += [self.beside] if indexes and self.beside is not None else []
        if not indexes:
            raise ValueError("photos must hold the index of at least one image; got none.")
        saved: dict[int, dict[str, Any]] = {}
        normals: dict[int, bytes] = {}
        for index in indexes:
            full, result = self._find(index), self._look_at(index)
            saved[index] = self._pack_view(index, full) | {
                "layers_alone": self._pack_alone(index, result),
                "place_level": self._pack_place_level(index),
                "ratios": self._describe_view(index) | encoding.pack_distance(result.ratio_map) if self.ratio else {},
                "probe": self.probe if index == self.index else encoding.find_highest(self._judged_map(result)),
            }
            room = _PAGE_BYTES - len(compress(saved[index]))
            crops = ((image, self._normal(image).jpeg) for image in encoding.rank_by_use(full) if image not in normals)
            normals |= fit_crops(crops, room)
        state = self._saved() | {"index": self.index if self.index in indexes else indexes[0]}
        thumbs = self.images.thumbs(indexes)
        return self._frame(self.images.name(state["index"]), state=state, photos=saved, thumbs=thumbs, normals=normals)


def _check_roi(value: Any) -> list[tuple[float, float]] | None:
    """The corners of a polygon, or None."""
    if value is None:
        return None
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"roi must be the corners of a polygon, a list of (row, col), or None; got {value!r:.80}.")
    return [(round(row), round(col)) for row, col in check_corners(value)]
