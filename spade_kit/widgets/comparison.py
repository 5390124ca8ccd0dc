"""Layers, backbones and settings side by side, with one probe in all of them: which layer sees this scratch?"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from math import nan
from typing import Any

import matplotlib
import numpy as np
import pandas
import traitlets
from matplotlib.figure import Figure

from spade_kit._arguments import check_count, check_index, choose
from spade_kit.datasets.samples import Dataset, Photo, as_list
from spade_kit.evaluation.views import ALL, Seen, View, Wanted, check_crops, look, make_view, rank, read_view
from spade_kit.figures.results import draw_views
from spade_kit.figures.style import SCALE, SIGNED
from spade_kit.gallery.gallery import Normal
from spade_kit.result import Result
from spade_kit.spade import SPADE
from spade_kit.widgets._shared.base import MISTAKES, Checked, Index, Live, Probe
from spade_kit.widgets._shared.caches import NeighbourPictures, Recent, Results, request_for
from spade_kit.widgets._shared.encoding import colour_table, find_highest, pack_cells, pack_photo
from spade_kit.widgets._shared.export import load_module
from spade_kit.widgets._shared.images import ImageList
from spade_kit.widgets._shared.scheduler import Step, do_nothing

FEWEST, MOST = 2, 6  # views
_KEPT = 3  # photos, whose results are at hand
_KIND = 40  # photos of a kind over which views are ranked, at most
_BASE = 1 << 20  # normal images of one fit, in the numbers by which a page asks for their crops


def compare_layers(
    spade: SPADE, image: Photo | Dataset | Iterable[Photo], views: Sequence[Wanted] | None = None
) -> Comparison:
    """A widget that shows a photograph under several views, side by side.

    Parameters
    ----------
    image
        A photograph, a list of them, or a Dataset, of which ``test`` is shown.
    views
        2 to 6 of: the name of a layer, which is then searched by itself; several names, which are searched together;
        a mapping of options, such as ``{"k": 5}`` or ``{"layers": ["layer1", "layer2"], "radius": 4}``, with a
        ``name`` if it should have one; another fitted SPADE, such as one with another backbone, which in a mapping
        is its ``base``; or ``None`` for all as they were fitted. If left out, every layer by itself and all together.

    Returns
    -------
    Comparison
        All that a hand can move can be set from Python, too: see its attributes.

    Raises
    ------
    ValueError
        If the views do not look at the same crop of a photograph.
    """
    return Comparison(spade, image, views)


class Comparison(Live):
    """See `compare_layers`.

    Attributes
    ----------
    index
        Which photograph.
    views
        Can be set to what `compare_layers` takes; gives a mapping each.
    scale
        ``"own"``: the colours of each view end at twice what is normal under it; ``"one"``: all end at the largest of
        these, in raw distances, which says something of views whose distances are of one kind.
    difference
        Which two views to subtract, or None: in multiples of what is normal under each, or with ``"one"`` scale raw.
    probe, pinned
        (row, col) of the map, and whether it stays there.
    """

    MOVABLE = ("index", "views", "scale", "difference", "probe", "pinned")
    TOLD = ("photo", "neighbours", "seen", "levels", "ranking")
    CROPS = 900_000
    MESSAGES = Live.MESSAGES | {"normals": "images"}

    _esm = load_module("comparison.js")

    index = Index()
    views = Checked((), lambda _, value: value)  # as is the difference: checked when all of a message is there
    scale = Checked("own", lambda _, value: choose("scale", value, ("own", "one")))
    difference = Checked(None, lambda _, value: value)
    probe = Probe()
    pinned = traitlets.Bool(False).tag(sync=True)

    photo: traitlets.Dict = traitlets.Dict().tag(sync=True)
    neighbours = traitlets.Dict().tag(sync=True)
    seen: traitlets.List = traitlets.List().tag(sync=True)
    levels: traitlets.List = traitlets.List().tag(sync=True)
    ranking = traitlets.Dict().tag(sync=True)

    def __init__(
        self, spade: SPADE, image: Photo | Dataset | Iterable[Photo], views: Sequence[Wanted] | None = None
    ) -> None:
        self._given, self._bases = [spade], [copy.copy(spade)]  # as users know them, and as they are now
        wanted = [*spade.backbone.layers, ALL] if views is None else views
        self.images = ImageList(self._bases[0], image if isinstance(image, Dataset) else as_list(image))
        self._results = Results(self.images, _KEPT * MOST)
        self._views: dict[str, View] = {}  # each is made once: what is known of it is kept by the object
        self._looked: Recent[Seen] = Recent(_KEPT * MOST)
        self._known: dict[View, tuple[float, bool]] = {}  # what is normal under a view, and whether all were asked
        self._kinds: dict[tuple[View, str], float] = {}  # AUPRO over a kind of defect
        self._pictures = NeighbourPictures()
        self._told: tuple = ()  # photo and views that the page has
        self._agreed: list[float] | None = None  # AUPRO of each on the photo
        super().__init__()
        self.about = {
            "colours": colour_table(),
            "signed": (matplotlib.colormaps[SIGNED](np.arange(256))[:, :3] * 255).round().astype(np.uint8).tobytes(),
            "photos": self.images.listed,
            "scale": SCALE,
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
        """The anomaly map of the photograph under each view, by its name."""
        return {view.name: self._view(self.index, view).anomaly_map for view in self._shown}

    def readout(self) -> pandas.DataFrame:
        """What each view finds at the probe: the normal pixel that explains it, and how far that is.

        ``map`` is the anomaly map there; ``of normal`` is that in multiples of what 99 % of the pixels of normal
        photographs stay below under the view; ``aupro`` says how well the whole map agrees with the mask.
        """
        with self._lock:
            (row, col), rows = self.probe, []
            for view, level, score in zip(self._shown, self._levels, self._scores):
                seen = self._view(self.index, view)
                match, value = seen.match(row, col), float(seen.anomaly_map[row, col])
                cells = {"view": view.name, "normal": match.image, "row": match.row, "col": match.col}
                cells |= {"distance": round(match.distance, 3), "map": round(value, 3)}
                rows.append(cells | {"of normal": round(value / level, 2), "aupro": score})
        return pandas.DataFrame(rows).set_index("view")

    def draw(self) -> Figure:
        """What is seen, as a Matplotlib figure."""
        ends = [SCALE * (max(self._levels) if self.scale == "one" else level) for level in self._levels]
        maps = {
            name if score is None else f"{name}: AUPRO {score:.3f}": anomaly_map / end
            for (name, anomaly_map), score, end in zip(self.maps.items(), self._scores, ends)
        }
        scale = f"each scale ends at {SCALE:g} times what 99 % of normal pixels stay below under that view"
        if self.scale == "one":
            scale = f"one scale for all, to {ends[0]:.1f}"
        return draw_views(self._judge(self.index)[0], maps, self.probe, scale, self._subtract())

    def _subtract(self) -> dict[str, np.ndarray]:
        """The difference that is shown, from -1 to 1, where colours end: what is normal, or half of the one scale."""
        if self.difference is None:
            return {}
        own, half = self.scale == "own", SCALE * max(self._levels) / 2
        (one, first), (other, second) = (
            (view.name, self._view(self.index, view).anomaly_map / (level if own else half))
            for view, level in ((self._shown[at], self._levels[at]) for at in self.difference)
        )
        return {f"{one} (orange) - {other} (violet)": first - second}

    @property
    def _levels(self) -> list[float]:
        return [known["level"] for known in self.levels]

    @property
    def _scores(self) -> list[float | None]:
        """AUPRO of each view on this photograph, None without a mask."""
        return self.ranking["photo"] or [None] * len(self.views)

    # ---- what can be set ---------------------------------------------------------------------------------------------

    @traitlets.validate("views", "difference")
    def _check_together(self, proposal: dict) -> Any:
        check = self._check_views if proposal["trait"].name == "views" else self._check_difference
        return check(proposal["value"])

    def _check_views(self, value: Any) -> list[dict[str, Any]]:
        if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
            raise ValueError(f"views is a list, such as ['layer1', 'layer2'], but {value!r} came.")
        wanted = list(value)
        if not FEWEST <= len(wanted) <= MOST:
            raise ValueError(f"Side by side fit {FEWEST} to {MOST} views, but {len(wanted)} came.")
        given = list(self._given)
        specs = [read_view(one, given) for one in wanted]
        bases = [*self._bases, *map(copy.copy, given[len(self._bases) :])]
        names = [make_view(spec, bases).name for spec in specs]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"Each view is shown once, but {twice!r} came twice. Give one another name=.")
        if len(bases) > len(self._bases):
            self._judge(self.index, bases)  # crops that differ are said before anything is changed
        self._given, self._bases = given, bases
        return [spec | {"name": name} for spec, name in zip(specs, names)]

    def _check_difference(self, value: Any) -> list[int] | None:
        if value is None:
            return None
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            raise ValueError(f"A difference is of two views, such as (0, 1), but {value!r} came.")
        first, second = (check_index("A view", at, len(self.views), "view") for at in value)
        if first == second:
            raise ValueError("A difference is of two views, but the same one came twice.")
        return [first, second]

    def _reconcile(self, changed: set[str], by_page: bool) -> None:
        if "probe" in changed and not by_page:
            self.pinned = True
        if "views" in changed and self.difference is not None and max(self.difference) >= len(self.views):
            self.difference = None

    # ---- what is seen ------------------------------------------------------------------------------------------------

    @property
    def _shown(self) -> list[View]:
        with self._lock:  # while a page's message is taken, views are not yet checked
            keys = [repr(sorted(spec.items())) for spec in self.views]
            for key, spec in zip(keys, self.views):
                if key not in self._views:
                    self._views[key] = make_view(spec, self._bases)
            return [self._views[key] for key in keys]

    def _judge(self, index: int, bases: Sequence[SPADE] | None = None) -> list[Result]:
        """A photograph as each of the fitted ones sees it."""
        return self._judge_by(bases or self._bases, lambda base: self._results.find(index, request_for(base)))

    def _judge_by(self, bases: Sequence[SPADE], judge: Callable[[SPADE], Result]) -> list[Result]:
        """By each of the fitted ones, all on the same crop."""
        results = [judge(base) for base in bases]
        for base, result in zip(bases[1:], results[1:]):
            check_crops(bases[0], results[0], base, result)
        return results

    def _view(self, index: int, view: View) -> Seen:
        return self._looked.find((index, view), lambda: look(self._judge(index), view))

    def _refresh(self) -> None:
        """Where another photograph or other views are looked at; the rest the page does by itself."""
        shown = self._shown
        if self._told == (self.index, *shown):
            return
        results, seen = self._judge(self.index), [self._view(self.index, view) for view in shown]
        mask = results[0].mask
        with self._without_events(), self.hold_sync():
            bases = [f"{base.backbone.name}, {len(base)} normal photos" for base in self._bases]
            layers = [list(base.backbone.layers) for base in self._bases]
            self.about = self.about | {"bases": bases, "layers": layers}
            if self.photo.get("index") != self.index:
                self.photo = {"index": self.index, **pack_photo(results[0], mask)}
                # the last view is of all layers, unless others were asked for
                self.probe = self._place_probe(find_highest(seen[-1].anomaly_map))
            self.seen = [
                {"index": self.index, "name": view.name, **self._pack(view, one)} for view, one in zip(shown, seen)
            ]
            # small pictures of all that were retrieved; whole crops follow when they are asked for
            numbers = list(dict.fromkeys(number for one in self.seen for _, number in one["normals"]))
            self.neighbours = self._pictures.pack(numbers, map(self._normal, numbers))
            for view, one in zip(shown, seen):
                if view not in self._known:
                    self._known[view] = self._guess_level(view, one), len(view.spade) == 1
            self._agreed = None if mask is None else _rounded(rank([[one.anomaly_map] for one in seen], [mask]))
            self._told = (self.index, *shown)
            self._publish(None)
        self._background.restart()

    def _pack(self, view: View, seen: Seen) -> dict[str, Any]:
        images = seen.neighbours.index.tolist()
        return pack_cells(seen.found, view.spade.sigma, ((image, self._number(view.base, image)) for image in images))

    def _number(self, base: int, image: int) -> int:
        """What the page calls a normal photo: one that several have fitted is sent once."""
        normal = self._bases[base].gallery.normals[image]
        for at, other in enumerate(self._bases[:base]):
            if (place := other.gallery.places.get(normal.digest)) is not None:
                return at * _BASE + place
        return base * _BASE + image

    # ---- what is normal, and which sees best -------------------------------------------------------------------------

    def _guess_level(self, view: View, seen: Seen) -> float:
        """A first idea of what is normal, from a few photos; of one photo nobody can tell, and its own map will do."""
        if len(view.spade) == 1:
            return float(seen.anomaly_map.max()) / SCALE
        return _level([view.judge_left_out(image) for image in view.spade.calibration.few])

    def _publish(self, _: None) -> None:
        """What is known of the views by now."""
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
        """Photographs of a kind of defect whose masks are known, evenly spaced where there are many."""
        photos = [at for at in range(len(self.images)) if self.images.label(at) == kind and self.images.masked(at)]
        return photos[:: -(-len(photos) // _KIND) or 1] if kind is not None else []

    def _background_steps(self) -> Iterator[Step]:
        kind = self.images.label(self.index)
        for view in self._shown:
            if not self._known[view][1] and len(view.spade) > 1:
                yield from self._judge_normals(view)
        if len(self._of_kind(kind)) > 1 and any((view, kind) not in self._kinds for view in self._shown):
            yield from self._rank_kind(str(kind))

    def _judge_normals(self, view: View) -> Iterator[Step]:
        """One normal photograph a step, so that the page is never kept waiting."""
        maps: list[np.ndarray] = []
        for image in view.spade.calibration.sample:
            yield partial(view.judge_left_out, image), maps.append
        self._known[view] = _level(maps), True
        yield do_nothing, self._publish

    def _rank_kind(self, kind: str) -> Iterator[Step]:
        """AUPRO of each view over all photographs of a kind; those that cannot be judged are left out."""
        shown, judged = self._shown, list[tuple[Any, list[np.ndarray]]]()
        for index in self._of_kind(kind):
            yield partial(self._judge_for_ranking, index, shown), judged.append
        known = [(mask, maps) for mask, maps in judged if mask is not None]
        scores = rank(list(zip(*(maps for _, maps in known))), [mask for mask, _ in known])
        for view, score in zip(shown, scores or [nan] * len(shown)):
            self._kinds[view, kind] = score
        yield do_nothing, self._publish

    def _judge_for_ranking(self, index: int, views: Sequence[View]) -> tuple[np.ndarray | None, list[np.ndarray]]:
        try:
            results = self._judge_by(self._bases, partial(self.images.judge, index))
        except MISTAKES:
            return None, []
        return results[0].mask, [look(results, view).anomaly_map for view in views]

    # ---- the page ----------------------------------------------------------------------------------------------------

    def _normal(self, number: int) -> Normal:
        base, image = divmod(check_count("A normal photo", number, least=0), _BASE)
        gallery = self._bases[check_index("A fit", base, len(self._bases), "fitted SPADE")].gallery
        return gallery.normals[gallery.check_index(image)]

    def _title_and_stem(self) -> tuple[str, str]:
        name, stem = super()._title_and_stem()
        return f"{name}, compared", f"{stem}-compared"

    def _most_used(self) -> list[int]:
        counts: Counter[int] = Counter()
        for view in self._shown:
            seen = self._view(self.index, view)
            for image, count in zip(seen.neighbours.index.tolist(), np.bincount(seen.found.image[0].ravel()).tolist()):
                counts[self._number(view.base, image)] += count
        return [number for number, count in counts.most_common() if count]


def _level(maps: Sequence[np.ndarray]) -> float:
    return float(np.percentile(np.stack(maps), 99))


def _rounded(scores: Sequence[float] | None) -> list[float] | None:
    return None if scores is None else [round(float(score), 4) for score in scores]
