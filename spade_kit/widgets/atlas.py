"""All images on one map: normal and test images as points, close together where their pooled vectors are alike.

jupyter-scatter works offline, too, but adds 2.1 MB to each notebook and page, and its points cannot be reached by keys.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from io import BytesIO
from itertools import cycle
from math import ceil

import numpy as np
import traitlets
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image, ImageOps
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from spade_kit._arguments import choose, spread_evenly, warn
from spade_kit.datasets.naming import GOOD
from spade_kit.datasets.samples import Dataset, Photo
from spade_kit.datasets.tables import UNKNOWN
from spade_kit.figures.style import BLUE, COLOURS, GREEN, GREY, RING, make_panels, small_print
from spade_kit.spade import SPADE
from spade_kit.widgets._shared.base import MISTAKES, Checked, Live
from spade_kit.widgets._shared.encoding import jpeg
from spade_kit.widgets._shared.images import ImageList
from spade_kit.widgets._shared.scheduler import Steps

PROJECTION = ("pca", "tsne")
COLOUR = ("kind", "score", "neighbours")
_NORMAL = "normal"
_NAMED = 5
_DEFECTS = (RING, "#E69F00", "#CC79A7", "#56B4E9", "#F0E442")  # of the Okabe-Ito colours, in turn
_LEAST = 3  # images: two are always on a line
_PARTS, _ITERATIONS, _EXAGGERATION, _PERPLEXITY = 4, 250, 12, 30  # of t-SNE
_EMPTY = "#808080"  # visible in both themes
_BATCH = 20  # images between two messages to the page
_SAVED = 1000  # images whose pictures and neighbours a notebook or a saved page holds
_TILE, _SHEET = 72, 1_000_000  # px: side of a saved picture if there are few, and area of all of them


def map_images(spade: SPADE, dataset: Dataset | Iterable[Photo] | None = None) -> Atlas:
    """A widget with a map of all images: each is a point, and images with similar pooled vectors are close together.

    It shows what retrieval sees, stage 2: groups among the normal images, images far from all of them, and the K
    neighbours of each. A small defect hardly moves its image.

    Parameters
    ----------
    dataset
        A Dataset, to show its ``test`` along with the normal images, or a list of images. If omitted, only normal
        images are shown.

    Returns
    -------
    Atlas
        ``atlas.selection`` is what the lasso holds; an explorer linked to it shows only these images. Without Python,
        in a saved notebook or page, pictures and neighbours of up to 1,000 images are there, spread evenly.

    Raises
    ------
    ValueError
        If there are fewer than three images. Those that cannot be read are skipped with a warning.

    Examples
    --------
    >>> import spade_kit, traitlets
    >>> parts = spade_kit.load_dataset("demo")
    >>> spade = spade_kit.SPADE(k=2).fit(parts.train[:4])
    >>> atlas, explorer = spade_kit.map_images(spade, parts), spade_kit.explore(spade, parts)
    >>> link = traitlets.link((atlas, "selection"), (explorer, "selection"))
    >>> atlas.selection = [40, 3]
    >>> explorer.selection
    (3, 40)
    """
    return Atlas(spade, dataset)


class Atlas(Live, page="atlas.js"):
    """See `map_images`. Points are test images, followed by the normal images.

    Attributes
    ----------
    selection, selected_normals
        Indices of the selected test images and of the selected normal images; both empty show all alike.
    projection
        ``"pca"``: the two principal components of all vectors; ``"tsne"``: t-SNE that starts from these.
    colour
        ``"kind"``; ``"score"``, the image score, computed on first use, normal images against the others; or
        ``"neighbours"``, of a normal image the number of test images that have it among their K neighbours.
    """

    MOVABLE = ("selection", "selected_normals", "projection", "colour")
    TOLD = ("photos", "places", "values", "told", "pictures")
    MESSAGES = Live.MESSAGES | {"points": "points"}

    selection = Checked((), lambda self, images: self.images.check_all(images, "selection"))
    selected_normals = Checked((), lambda self, images: self._fitted.check_all(images, "selected_normals"))
    projection = Checked("pca", lambda _, value: choose("projection", value, PROJECTION))
    colour = Checked("kind", lambda _, value: choose("colour", value, COLOUR))

    places = traitlets.Dict().tag(sync=True)
    values = traitlets.Dict().tag(sync=True)
    told = traitlets.Dict().tag(sync=True)
    pictures = traitlets.Dict().tag(sync=True)  # what the page shows without a kernel

    def __init__(self, spade: SPADE, dataset: Dataset | Iterable[Photo] | None) -> None:
        self.spade = copy.copy(spade)
        self.images, self._fitted = ImageList(self.spade, dataset), ImageList(self.spade, None)
        self._tested = self.images.given
        pooled = self.spade.gallery.pooled.cpu().numpy()
        self._vectors = np.concatenate([np.zeros((self._tested, pooled.shape[1])), pooled])
        self._scores = np.full(len(self._vectors), np.nan, np.float32)
        self._near: dict[int, np.ndarray] = {}  # the neighbours of a point
        self._lost: dict[int, str] = {}  # why test images cannot be read
        self._tsne: list[np.ndarray] = []  # after each part
        unread = self._unread()
        while len(self._known) < _LEAST and unread:
            self._read(unread.pop(0))
        if len(self._known) < _LEAST:
            raise ValueError(
                f"A map needs at least {_LEAST} images; got {len(pooled)} normal and {self._tested} test images, of "
                f"which {len(self._lost)} cannot be read. Add images."
            )
        self._fit_axes()
        super().__init__()
        kinds = [self.images.label(at) or UNKNOWN for at in range(self._tested)] + [_NORMAL] * len(pooled)
        names = [self.images.name(at) for at in range(self._tested)] + [f"normal {at}" for at in range(len(pooled))]
        self.photos = list(map(list, zip(names, kinds)))
        source = f"{self.spade.backbone.describe()}; {self.spade.describe_options()}"
        self.about = self.about | {"tested": self._tested, "kinds": _choose_looks(kinds), "source": source}
        self._open()

    # ---- for Python --------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        chosen = len(self.selection) + len(self.selected_normals)
        return f"Atlas({self._tested} test images, {len(self.spade)} normal images; {chosen} selected)"

    def draw(self) -> Figure:
        """The map as a Matplotlib figure."""
        figure, (panel,) = make_panels(None, 1, side=7)
        shown = self.projection if self._tsne else "pca"
        places, kinds, values = self._places[shown], np.array(self.photos)[:, 1], self._values.get(self.colour)
        for kind, colour, marker in self.about["kinds"]:
            x, y = places[kinds == kind].T
            look = {"c": colour, "marker": marker, "label": f"{kind} ({len(x)})"}
            if values is not None:
                look |= {"c": values[kinds == kind], "cmap": COLOURS, "plotnonfinite": True, "edgecolors": colour}
                look |= {"vmin": np.nanmin(values), "vmax": np.nanmax(values)}
                look |= {"path_effects": [withStroke(linewidth=3, foreground=GREY)]}  # pale kinds are seen on white
            panel.scatter(x, y, 24, **look)
        if values is not None:
            figure.colorbar(panel.collections[-1], ax=panel, label=self.colour)
        panel.set(xticks=[], yticks=[])
        panel.set_aspect("equal", "datalim")
        panel.legend(fontsize=8)
        return small_print(figure, f"{self.told['axes'][shown]}\n{self.about['source']}")

    # ---- vectors, neighbours and scores ------------------------------------------------------------------------------

    def _find(self, at: int) -> tuple[ImageList, int]:
        """The list that a point is from, and its index there."""
        return (self.images, at) if at < self._tested else (self._fitted, at - self._tested)

    def _unread(self) -> list[int]:
        return [at for at in range(self._tested) if at not in self._near and at not in self._lost]

    @property
    def _known(self) -> np.ndarray:
        """The points with a vector."""
        return np.array([at for at in range(len(self._vectors)) if at >= self._tested or at in self._near])

    def _read(self, at: int) -> None:
        """Take in the vector of an image and its neighbours; a normal image has them among the others."""
        gallery, (images, index) = self.spade.gallery, self._find(at)
        try:
            query = self.spade.read(images.photo(index)[0]) if at < self._tested else gallery.query(index)
        except MISTAKES as problem:
            self._lost[at] = str(problem)
            return
        known = gallery.places.get(query.digest)
        among = np.flatnonzero(gallery.contents != (-1 if known is None else gallery.contents[known]))
        self._vectors[at] = query.pyramid.pooled[0].cpu().numpy()
        self._near[at] = gallery.retrieve(query.pyramid, self.spade.options, among).index if len(among) else among

    def _find_near(self, at: int) -> list[int]:
        if at >= self._tested and at not in self._near:
            self._read(at)
        return self._near[at].tolist() if at in self._near else []

    def _score(self, at: int) -> None:
        images, index = self._find(at)
        with suppress(*MISTAKES):
            self._scores[at] = images.judge(index, self.spade).image_score

    @property
    def _values(self) -> dict[str, np.ndarray]:
        """The score of each point, and how many test images have it as a neighbour; NaN if unknown."""
        count = np.full_like(self._scores, np.nan)
        tested = [near for at, near in list(self._near.items()) if at < self._tested]
        count[self._tested :] = np.bincount(np.concatenate([[], *tested]).astype(int), minlength=len(self.spade))
        return {"score": self._scores, "neighbours": count}

    # ---- places on the map -------------------------------------------------------------------------------------------

    def _fit_axes(self) -> None:
        """The principal components of all known vectors, exact; only two are computed, which is quick."""
        known = self._vectors[self._known]
        solver = "arpack" if np.ptp(known, axis=0).any() else "full"  # identical images have no variance
        with np.errstate(invalid="ignore"):
            self._axes = PCA(2, svd_solver=solver, random_state=0).fit(known)

    @property
    def _places(self) -> dict[str, np.ndarray]:
        """(n, 2) float32 by projection, NaN where unknown; t-SNE once it has begun."""
        known = self._known
        found = {"pca": self._axes.transform(self._vectors[known]), **dict(zip(["tsne"], self._tsne[-1:]))}
        places = {name: np.full((len(self._vectors), 2), np.nan, np.float32) for name in found}
        for name, placed in found.items():
            places[name][known] = placed
        return places

    def _embed(self) -> np.ndarray:
        """The next part of t-SNE; each goes on from the one before, so that the page can show how far it is.

        It starts from the principal components, as scikit-learn's does by default: there is nothing random in it.
        """
        vectors = self._vectors[self._known]
        start = self._axes.transform(vectors)
        return TSNE(
            perplexity=_find_perplexity(len(vectors)),
            early_exaggeration=1 if self._tsne else _EXAGGERATION,
            learning_rate=max(len(vectors) / _EXAGGERATION / 4, 50),  # of "auto", in all parts
            max_iter=_ITERATIONS,
            init=self._tsne[-1] if self._tsne else (1e-4 * start / (start[:, 0].std() or 1)).astype(np.float32),
        ).fit_transform(vectors.astype(np.float32))

    # ---- background work ---------------------------------------------------------------------------------------------

    def _reconcile(self, changed: set[str], by_page: bool) -> None:
        if changed & {"projection", "colour"}:
            self._background.restart()

    def _background_steps(self) -> Steps:
        if unread := self._unread():
            yield from self._work("photos read", unread, self._read)
            self._fit_axes()
        if self.projection == "tsne":
            for part in range(len(self._tsne), _PARTS):
                self._say(f"t-SNE: {part * _ITERATIONS} of {_PARTS * _ITERATIONS} iterations…")
                self._tsne.append((yield self._embed))
        if self.colour == "score":
            unknown = [at for at in self._known.tolist() if np.isnan(self._scores[at])]
            yield from self._work("photos scored", unknown, self._score)
        self._say("")
        if unread and self._lost:
            warn(self.told["lost"])
        if not self.pictures:
            yield from self._keep_pictures()

    def _work(self, what: str, points: list[int], act: Callable[[int], None]) -> Steps:
        for done, at in enumerate(points):
            if done % _BATCH == 0:
                self._say(f"{done} of {len(points)} {what}…")
            yield partial(act, at)

    def _say(self, waiting: str) -> None:
        with self._without_events(), self.hold_sync():
            self.waiting = waiting
            self._refresh()

    def _refresh(self) -> None:
        across, up = 100 * np.nan_to_num(self._axes.explained_variance_ratio_)
        perplexity = _find_perplexity(len(self._known))
        names = ", ".join(map(self.images.name, list(self._lost)[:_NAMED]))
        lost = f"Images that cannot be read: {len(self._lost)} ({names}). First error: " if self._lost else ""
        with self._without_events(), self.hold_sync():
            self.places = {name: placed.tobytes() for name, placed in self._places.items()}
            self.values = {name: values.tobytes() for name, values in self._values.items()}
            self.told = {
                "axes": {
                    "pca": f"Principal components: {across:.0f} % of the variance to the right, {up:.0f} % upwards.",
                    "tsne": f"t-SNE, perplexity {perplexity:.3g}: only close points say that images are alike.",
                },
                "lost": lost + next(iter(self._lost.values()), ""),
            }

    # ---- the page ----------------------------------------------------------------------------------------------------

    def _thumb(self, at: int) -> bytes:
        images, index = self._find(at)
        return images.thumbs([index])[index]

    def _keep_pictures(self) -> Steps:
        """Keep the neighbours of some images, and their pictures as the tiles of a single one."""
        points = self._known[spread_evenly(len(self._known), _SAVED)].tolist()
        side = min(_TILE, int((_SHEET / len(points)) ** 0.5))
        columns = ceil(len(points) ** 0.5)
        sheet, near = Image.new("RGB", (columns * side, -(-len(points) // columns) * side), _EMPTY), []
        for at, point in enumerate(points):
            near.append((yield partial(self._find_near, point)))
            if thumb := (yield partial(self._thumb, point)):
                tile = ImageOps.pad(Image.open(BytesIO(thumb)), (side, side), color=_EMPTY)
                sheet.paste(tile, (at % columns * side, at // columns * side))
        told = {"points": points, "near": near, "side": side, "columns": columns}
        self.pictures = told | {"jpeg": jpeg(np.asarray(sheet))}

    def _on_points(self, points: list[int]) -> None:
        near, thumbs = list(map(self._find_near, points)), list(map(self._thumb, points))
        self.send({"kind": "points", "points": points, "near": near}, thumbs)

    def _title_and_stem(self) -> tuple[str, str]:
        return "Map of photos", "map"


def _find_perplexity(count: int) -> float:
    return min(_PERPLEXITY, (count - 1) / 3)


def _choose_looks(kinds: Iterable[str]) -> list[tuple[str, str, str]]:
    """Each kind with its colour and Matplotlib marker, in the order of the legend, which a notebook's file keeps."""
    usual = {_NORMAL: (BLUE, "o"), GOOD: (GREEN, "s"), UNKNOWN: (GREY, "D")}
    defects = zip(sorted({*kinds} - {*usual}), cycle((colour, marker) for marker in "^v" for colour in _DEFECTS))
    return [(kind, *look) for kind, look in {**usual, **dict(defects)}.items() if kind in kinds]
