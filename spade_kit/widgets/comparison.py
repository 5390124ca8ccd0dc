"""Compare layers, backbones and settings side by side with a linked probe: which layer sees this scratch?"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import nan
from typing import Any

import numpy as np
import pandas
import traitlets
from matplotlib.figure import Figure

from spade_kit._arguments import check_count, check_index, choose
from spade_kit.datasets.samples import Dataset, as_list
from spade_kit.evaluation.views import ALL, Seen, View, Wanted, check_crops, look, make_view, rank, read_view
from spade_kit.figures.results import draw_views
from spade_kit.figures.style import SCALE, SIGNED
from spade_kit.gallery.calibration import find_level
from spade_kit.gallery.gallery import Normal
from spade_kit.result import Result
from spade_kit.scores import choose_map
from spade_kit.spade import SPADE
from spade_kit.widgets._shared.base import MISTAKES, Checked, Index, Live, Probe, locked
from spade_kit.widgets._shared.caches import Recent, Results, request_for
from spade_kit.widgets._shared.encoding import colour_table, find_highest, pack_cells, pack_neighbours, pack_photo
from spade_kit.widgets._shared.images import ImageList, Images
from spade_kit.widgets._shared.scheduler import Steps

FEWEST, MOST = 2, 8  # views
_KEPT = 3  # images with cached results
_KIND = 40  # maximum number of images of a defect type used to rank views
_BASE = 1 << 20  # page-side numbers of normal images: base * _BASE + index


def compare_layers(spade: SPADE, image: Images, views: Sequence[Wanted] | None = None) -> Comparison:
    """A widget that shows an image under several views, side by side.

    Parameters
    ----------
    image
        An image, a list of images, or a Dataset, to show its ``test``.
    views
        2 to 8 views. A view is the name of a layer or block, searched alone; several names, searched together; a
        mapping of options, such as ``{"k": 5}`` or ``{"layers": ["layer1", "layer2"], "radius": 4}``, with an optional
        ``name``; another fitted SPADE, e.g. with another backbone (``base`` in a mapping); or ``None`` for all layers
        as fitted. If omitted, each layer alone (of more than seven, seven evenly spread) and all layers together.

    Returns
    -------
    Comparison
        Everything you can do with the mouse also works from Python: see its attributes.

    Raises
    ------
    ValueError
        If the views do not use the same crop of an image.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> spade = spade_kit.SPADE(k=5).fit(parts.train[:12])
    >>> comparison = spade_kit.compare_layers(spade, parts.test[5], ["layer1", "layer3", {"radius": 0}])
    """
    return Comparison(spade, image, views)


class Comparison(Live, page="comparison.js"):
    """See `compare_layers`.

    Attributes
    ----------
    index
        Index of the image.
    views
        Accepts what `compare_layers` accepts; returns a list of mappings.
    scale
        ``"own"``: the colours of each view end at twice its reference level; ``"one"``: all end at the largest of
        these, in raw distances, which is meaningful only for views with comparable distances.
    difference
        The two views to subtract, or None. In multiples of each view's reference level, or raw with scale ``"one"``.
    probe, pinned
        (row, col) of the map, and whether it stays there.
    """

    MOVABLE = ("index", "views", "scale", "difference", "probe", "pinned")
    OWN = ("_given", "_bases", "_views", "_known", "_kinds")
    TOLD = ("photo", "neighbours", "seen", "levels", "ranking")
    CROPS = 900_000
    DONE = ("compared",)

    index = Index()
    views = Checked((), lambda _, value: value)  # like difference, checked once the whole message has arrived
    scale = Checked("own", lambda _, value: choose("scale", value, ("own", "one")))
    difference = Checked(None, lambda _, value: value)
    probe = Probe()
    pinned = traitlets.Bool(False).tag(sync=True)

    seen: traitlets.List = traitlets.List().tag(sync=True)
    levels: traitlets.List = traitlets.List().tag(sync=True)
    ranking = traitlets.Dict().tag(sync=True)

    def __init__(self, spade: SPADE, image: Images, views: Sequence[Wanted] | None = None) -> None:
        self._given, self._bases = [spade], [copy.copy(spade)]  # the user's objects, and copies of their current state
        self.images = ImageList(self._bases[0], image if isinstance(image, Dataset) else as_list(image))
        layers = spade.backbone.layers
        spread = np.unique(np.linspace(0, len(layers) - 1, MOST - 1).round().astype(int))
        wanted = [*(layers[at] for at in spread), ALL] if views is None else views
        self._results = Results(self.images, _KEPT * MOST)
        self._views: dict[str, View] = {}  # each is made once, since the object caches its results
        self._looked: Recent[Seen] = Recent(_KEPT * MOST)
        self._known: dict[View, tuple[float, bool]] = {}  # reference level of a view, and whether it is final
        self._kinds: dict[tuple[View, str], float] = {}  # AUPRO over a defect type
        self._told: tuple = ()  # the image and views last sent to the page
        self._agreed: list[float] | None = None  # AUPRO of each view on the image
        super().__init__()
        self.about = self.about | {
            "signed": colour_table(SIGNED),
            "photos": self.images.listed,
            "most": MOST,
            "fewest": FEWEST,
            "start": {name: getattr(self._bases[0], name) for name in ("k", "kappa", "radius", "combine")},
        }
        self.views = wanted
        self._open()

    # ---- for Python --------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"Comparison({self.images.name(self.index)}: {'; '.join(view.name for view in self._shown)})"

    @property
    def maps(self) -> dict[str, np.ndarray]:
        """The anomaly map of the image under each view, by view name."""
        return {view.name: self._view(self.index, view).anomaly_map for view in self._shown}

    @locked
    def readout(self) -> pandas.DataFrame:
        """The match of each view at the probe: the normal pixel that explains it, and its distance.

        ``map`` is the anomaly map at the probe, and ``of normal`` its multiple of the view's reference level, the
        99th percentile of normal pixels. ``aupro`` measures how well the whole map agrees with the mask.
        """
        (row, col), rows = self.probe, []
        for view, level, score in zip(self._shown, self._levels, self._scores):
            seen = self._view(self.index, view)
            match, value = seen.match(row, col), float(seen.anomaly_map[row, col])
            cells = {"view": view.name, "normal": match.image, "row": match.row, "col": match.col}
            cells |= {"distance": round(match.distance, 3), "map": round(value, 3)}
            rows.append(cells | {"of normal": round(value / level, 2), "aupro": score})
        return pandas.DataFrame(rows).set_index("view")

    @locked
    def draw(self) -> Figure:
        """The current view as a Matplotlib figure; as on the page, a difference is in place of its first view."""
        levels = [max(self._levels)] * len(self._levels) if self.scale == "one" else self._levels
        maps, scores = self.maps, self._scores
        titles = [name if score is None else f"{name}: AUPRO {score:.3f}" for name, score in zip(maps, scores)]
        multiples = [anomaly_map / level for anomaly_map, level in zip(maps.values(), levels)]
        drawn, signed = [values / SCALE for values in multiples], []
        scale = f"colour scale of each view: 0 to {SCALE:g} x its 99th percentile of normal pixels"
        if self.scale == "one":
            scale = f"one colour scale: 0 to {SCALE * levels[0]:.1f} (raw distance)"
        if self.difference is not None:
            first, second = self.difference
            one, other = (self._shown[at].name for at in self.difference)
            titles[first], drawn[first] = f"{one} (orange) - {other} (violet)", multiples[first] - multiples[second]
            signed.append(titles[first])
            scale += f"; of the difference: ±{'1 x these percentiles' if self.scale == 'own' else f'{levels[0]:.1f}'}"
        return draw_views(self._judge(self.index)[0], dict(zip(titles, drawn)), self.probe, scale, signed)

    @property
    def _levels(self) -> list[float]:
        return [known["level"] for known in self.levels]

    @property
    def _scores(self) -> list[float | None]:
        """AUPRO of each view on this image, None without a mask."""
        return self.ranking["photo"] or [None] * len(self.views)

    # ---- settable traits ---------------------------------------------------------------------------------------------

    @traitlets.validate("views")
    def _check_views(self, proposal: dict) -> list[dict[str, Any]]:
        value = proposal["value"]
        if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
            raise ValueError(f"views must be a list, such as ['layer1', 'layer2']; got {value!r}.")
        wanted = list(value)
        if not FEWEST <= len(wanted) <= MOST:
            raise ValueError(f"views must contain {FEWEST} to {MOST} views; got {len(wanted)}.")
        given = list(self._given)
        specs = [read_view(one, given) for one in wanted]
        bases = [*self._bases, *map(copy.copy, given[len(self._bases) :])]
        names = [make_view(spec, bases).name for spec in specs]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"Views must have distinct names; got {twice!r} twice. Change one, or set name=.")
        if len(bases) > len(self._bases):
            self._judge(self.index, bases)  # raises on different crops before anything is changed
        self._given, self._bases = given, bases
        return [spec | {"name": name} for spec, name in zip(specs, names)]

    @traitlets.validate("difference")
    def _check_difference(self, proposal: dict) -> list[int] | None:
        value = proposal["value"]
        if value is None:
            return None
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            raise ValueError(f"difference must be two views, such as (0, 1), or None; got {value!r}.")
        first, second = (check_index("difference", at, len(self.views), "view") for at in value)
        if first == second:
            raise ValueError(f"difference must be two different views; got {first} twice.")
        return [first, second]

    def _reconcile(self, changed: set[str], by_page: bool) -> None:
        if "probe" in changed and not by_page:
            self.pinned = True
        if "views" in changed and self.difference is not None and max(self.difference) >= len(self.views):
            self.difference = None

    # ---- the current view --------------------------------------------------------------------------------------------

    @property
    @locked  # while a message of the page is applied, views are unchecked
    def _shown(self) -> list[View]:
        keys = [repr(sorted(spec.items())) for spec in self.views]
        for key, spec in zip(keys, self.views):
            if key not in self._views:
                self._views[key] = make_view(spec, self._bases)
        return [self._views[key] for key in keys]

    def _judge(self, index: int, bases: Sequence[SPADE] | None = None) -> list[Result]:
        """The results of an image from every fitted SPADE."""
        return self._judge_by(bases or self._bases, lambda base: self._results.find(index, request_for(base)))

    def _judge_by(self, bases: Sequence[SPADE], judge: Callable[[SPADE], Result]) -> list[Result]:
        """Judge with every fitted SPADE and check that all use the same crop."""
        results = [judge(base) for base in bases]
        for base, result in zip(bases[1:], results[1:]):
            check_crops(bases[0], results[0], base, result)
        return results

    def _view(self, index: int, view: View) -> Seen:
        return self._looked.find((index, view), lambda: look(self._judge(index), view))

    def _refresh(self) -> None:
        """Update the page after a change of image or views; it handles everything else without the kernel."""
        shown = self._shown
        if self._told == (self.index, *shown):
            return
        results, seen = self._judge(self.index), [self._view(self.index, view) for view in shown]
        mask = results[0].mask
        with self._without_events(), self.hold_sync():
            bases = [f"{base.backbone.name}, {len(base)} normal photos" for base in self._bases]
            layers = [list(base.backbone.labels.values()) for base in self._bases]
            excess = any(base.judged == "excess" for base in self._bases)
            source = "; ".join(dict.fromkeys(base.backbone.describe() for base in self._bases))
            self.about = self.about | {"bases": bases, "layers": layers, "excess": excess, "source": source}
            if self.photo.get("index") != self.index:
                self.photo = {"index": self.index, **pack_photo(results[0], mask)}
                # by default, the last view uses all layers
                self.probe = self._place_probe(find_highest(seen[-1].anomaly_map))
            self.seen = [
                {"index": self.index, "name": view.name, **self._pack(view, one)} for view, one in zip(shown, seen)
            ]
            # thumbnails of all retrieved images; full crops follow on request
            numbers = list(dict.fromkeys(number for one in self.seen for _, number in one["normals"]))
            self.neighbours = pack_neighbours(numbers, map(self._normal, numbers))
            for view, one in zip(shown, seen):
                if view not in self._known:
                    self._known[view] = self._guess_level(view, one), not view.spade.gallery.comparable
            self._agreed = None if mask is None else _rounded(rank([[_take(results, one)] for one in seen], [mask]))
            self._told = (self.index, *shown)
            self._publish()
        self._background.restart()

    def _pack(self, view: View, seen: Seen) -> dict[str, Any]:
        images = seen.neighbours.index.tolist()
        return pack_cells(seen.found, view.spade.sigma, ((image, self._number(view.base, image)) for image in images))

    def _number(self, base: int, image: int) -> int:
        """The page-side number of a normal image; an image fitted by several SPADEs is sent once."""
        normal = self._bases[base].gallery.normals[image]
        for at, other in enumerate(self._bases[:base]):
            if (place := other.gallery.places.get(normal.digest)) is not None:
                return at * _BASE + place
        return base * _BASE + image

    # ---- reference levels and ranking --------------------------------------------------------------------------------

    def _guess_level(self, view: View, seen: Seen) -> float:
        """Estimate the reference level from a few normal images, or from the map itself if none differ."""
        if not view.spade.gallery.comparable:
            return float(seen.anomaly_map.max()) / SCALE
        return find_level([view.judge_left_out(image) for image in view.spade.calibration.few])

    def _publish(self) -> None:
        """Send the current reference levels and rankings."""
        with self._without_events(), self.hold_sync():
            kind, shown = self.images.label(self.index), self._shown
            known = [self._known[view] for view in shown]
            self.levels = [{"level": level or 1.0, "stale": not complete} for level, complete in known]
            over = [self._kinds.get((view, kind or "")) for view in shown]
            self.ranking = {
                "photo": self._agreed,
                "kind": kind,
                "photos": len(self._of_kind(kind)),
                "over": None if None in over else _rounded(over),  # type: ignore[arg-type]
            }

    def _of_kind(self, kind: str | None) -> list[int]:
        """Images of a defect type with masks, evenly sampled if there are many."""
        photos = [at for at in range(len(self.images)) if self.images.label(at) == kind and self.images.masked(at)]
        return photos[:: -(-len(photos) // _KIND) or 1] if kind is not None else []

    def _background_steps(self) -> Steps:
        kind, self.waiting = self.images.label(self.index), ""
        for view in self._shown:
            if not self._known[view][1] and view.spade.gallery.comparable:
                yield from self._judge_normals(view)
        if len(self._of_kind(kind)) > 1 and any((view, kind) not in self._kinds for view in self._shown):
            yield from self._rank_kind(str(kind))

    def _judge_normals(self, view: View) -> Steps:
        left_out = [partial(view.judge_left_out, image) for image in view.spade.calibration.sample]
        maps = yield from self._tell(f"normal photos judged under {view.name}", left_out)
        self._known[view] = find_level(maps), True
        self._publish()

    def _rank_kind(self, kind: str) -> Steps:
        """AUPRO of each view over all images of a defect type, skipping those that cannot be judged."""
        shown = self._shown
        work = [partial(self._judge_for_ranking, index, shown) for index in self._of_kind(kind)]
        judged = yield from self._tell(f"photos with {kind} ranked", work)
        known = [(mask, maps) for mask, maps in judged if mask is not None]
        scores = rank(list(zip(*(maps for _, maps in known))), [mask for mask, _ in known])
        for view, score in zip(shown, scores or [nan] * len(shown)):
            self._kinds[view, kind] = score
        self._publish()

    def _judge_for_ranking(self, index: int, views: Sequence[View]) -> tuple[np.ndarray | None, list[np.ndarray]]:
        try:
            results = self._judge_by(self._bases, partial(self.images.judge, index))
        except MISTAKES:
            return None, []
        return results[0].mask, [_take(results, look(results, view)) for view in views]

    # ---- the page ----------------------------------------------------------------------------------------------------

    def _normal(self, number: int) -> Normal:
        base, image = divmod(check_count("The number of a normal image", number, least=0), _BASE)
        gallery = self._bases[check_index("base", base, len(self._bases), "fitted SPADE")].gallery
        return gallery.normals[gallery.check_index(image)]

    def _most_used(self) -> list[int]:
        counts: Counter[int] = Counter()
        for view in self._shown:
            seen = self._view(self.index, view)
            for image, count in zip(seen.neighbours.index.tolist(), np.bincount(seen.found.image[0].ravel()).tolist()):
                counts[self._number(view.base, image)] += count
        return [number for number, count in counts.most_common() if count]


def _take(results: Sequence[Result], seen: Seen) -> np.ndarray:
    """The map of a view, NaN outside the roi of its image."""
    return choose_map(seen.anomaly_map, None, "map", results[0].roi)


def _rounded(scores: Sequence[float] | None) -> list[float] | None:
    return None if scores is None else [round(float(score), 4) for score in scores]
