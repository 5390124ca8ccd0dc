"""The method in one picture: what each stage makes of one image, from its crop to its segmentation."""

from __future__ import annotations

from contextlib import suppress
from io import BytesIO

import numpy as np
import traitlets
from matplotlib.figure import Figure
from PIL import Image

from spade_kit._arguments import check_count, choose
from spade_kit.datasets.samples import as_array
from spade_kit.figures.stages import draw_stages, paint_pyramid
from spade_kit.figures.style import SCALE
from spade_kit.options import Options, check_sigma
from spade_kit.result import Result
from spade_kit.retrieval import Neighbours
from spade_kit.spade import SPADE
from spade_kit.widgets._shared import encoding
from spade_kit.widgets._shared.base import MISTAKES, Checked, Index, Live, Probe, check_distance
from spade_kit.widgets._shared.caches import Request, Results
from spade_kit.widgets._shared.images import ImageList, Images

STAGES = ("image", "pyramid", "retrieval", "correspondence", "map", "segmentation")
_MATCHING = ("kappa", "radius", "weights", "combine", "squared")  # options of `match_pixels`
_LISTED = 400  # normal images in the chart of distances
_SHARP = 4  # normal images of each kind that are sent in full: the nearest, and those that explain most
_WHOLE, _THUMB, _QUALITY = 320, 80, 60  # px of the long side of the whole image and of a thumbnail; of their JPEGs
_RATE = 0.05  # false alarms among normal images at the first threshold


def show_stages(spade: SPADE, image: Images) -> Stages:
    """A widget with the method in one picture: six cards, from an image to its segmentation.

    The cards show the evaluated crop, the feature pyramid, the retrieved normal images, the normal pixel that explains
    a pixel, the anomaly map, and the segmentation. A click on one opens the stage: what happens in it, its arrays, the
    call that computes them, and the control that matters there.

    Parameters
    ----------
    image
        An image, a list of images, or a Dataset, to show its ``test``.

    Returns
    -------
    Stages
        Everything you can do with the mouse also works from Python: see its attributes.

    Notes
    -----
    The map itself is thresholded and its maximum is the image score, whatever the SPADE's ``judged`` and ``score``.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> spade = spade_kit.SPADE(k=5).fit(parts.train[:12])
    >>> stages = spade_kit.show_stages(spade, parts.test[5])
    """
    return Stages(spade, image)


class Stages(Live, page="stages.js"):
    """See `show_stages`.

    Attributes
    ----------
    index
        Index of the image.
    stage
        The open one: ``"image"``, ``"pyramid"``, ``"retrieval"``, ``"correspondence"``, ``"map"``, ``"segmentation"``,
        or None.
    k, sigma
        As in `SPADE`.
    threshold
        A raw distance; pixels of the map at or above it are anomalous. At first one that 5 % of the normal images
        reach or, if there are fewer than 19, only the most anomalous of them, each judged against the others.
    probe
        (row, col) of the map: the pixel that is followed through the stages.
    """

    MOVABLE = ("index", "stage", "k", "sigma", "threshold", "probe")
    TOLD = ("photos", "photo", "pyramid", "ranking", "neighbours", "matches", "normals")
    DONE = ("stages",)

    index = Index()
    stage = Checked("image", lambda _, value: None if value is None else choose("stage", value, STAGES))
    k = Checked(1, lambda self, value: min(check_count("k", value), len(self.spade)))
    sigma = Checked(4.0, lambda _, value: check_sigma(value))
    threshold = Checked(0.0, lambda _, value: check_distance("threshold", value))
    probe = Probe()

    pyramid: traitlets.List = traitlets.List().tag(sync=True)
    ranking = traitlets.Dict().tag(sync=True)
    matches = traitlets.Dict().tag(sync=True)
    normals = traitlets.Dict().tag(sync=True)

    def __init__(self, spade: SPADE, image: Images) -> None:
        self.images = ImageList(spade, image)
        self.spade = spade.with_options(judged="map", score="max")
        self._results = Results(self.images)
        self._seen: tuple = ()  # the image and the request last sent to the page
        options = self.spade.options
        start = {"k": min(self.spade.k, len(spade)), "sigma": options.sigma}
        super().__init__(**start)
        self.photos = self.images.listed
        told = {
            "matching": self._describe_matching(),
            "start": start,
            "of": len(spade),
            "source": f"{self.spade.backbone.describe()}; as fitted: {self.spade.describe_options()}",
        }
        self.about = self.about | told | {"kappa": options.kappa, "radius": options.radius}
        self.threshold = self._calibrate()
        self._open()

    # ---- for Python --------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        result, threshold = self.result, f"threshold {self.threshold:.2f}"
        told = f"{result.describe_options()}; image score {result.image_score:.2f}, {threshold}"
        return f"Stages({self.images.name(self.index)}: {told})"

    @property
    def result(self) -> Result:
        """The result for the current image, K and sigma."""
        full = self._full
        return full.with_k(min(self.k, len(full.neighbours))).with_options(sigma=self.sigma)

    def draw(self) -> Figure:
        """The six stages as a Matplotlib figure."""
        return draw_stages(self.result, self._whole, self._rank(), self.threshold, self.probe)

    def _preview(self) -> bytes:
        """In 256 colours: with all of them, so many pictures would take more of a notebook than the widget."""
        stream = BytesIO()
        Image.open(BytesIO(super()._preview())).convert("RGB").quantize(kmeans=5).save(stream, "PNG", optimize=True)
        return stream.getvalue()

    # ---- the stages --------------------------------------------------------------------------------------------------

    @property
    def _request(self) -> Request:
        """The search for the current K, and for more neighbours if the page can then follow K."""
        return Request(self.spade, self.spade.options.replace(k=self.k)).ahead

    @property
    def _full(self) -> Result:
        return self._results.find(self.index, self._request)

    @property
    def _whole(self) -> np.ndarray:
        """The original image; the crop where that alone was kept."""
        with suppress(*MISTAKES):
            return as_array(self.images.photo(self.index)[0])
        return self._full.image

    def _rank(self) -> Neighbours:
        """All normal images that the image is compared with, nearest first."""
        full, options = self._full, self.spade.options
        return self.spade.gallery.retrieve(full.query, options.replace(k=len(full.among)), full.among)

    def _describe_matching(self) -> str:
        """The arguments of `match_pixels` that are not its defaults."""
        options, gallery = self.spade.options, self.spade.gallery
        given = {name: getattr(options, name) for name in _MATCHING}
        if options.weights is not None:  # as numbers: "equal" is of all normal images
            factors = gallery.factors(options, np.arange(len(gallery)))
            given["weights"] = {name: float(f"{factor:.6g}") for name, factor in zip(gallery.layers, factors)}
        return "".join(f", {name}={value!r}" for name, value in given.items() if value != getattr(Options(), name))

    def _calibrate(self) -> float:
        """Take the scores of the normal images, for a threshold and the colours."""
        if not self.spade.gallery.comparable:
            highest = float(self._full.anomaly_map.max())
            self.normals = {"level": highest / SCALE, "scores": [], "curve": None}
            return highest
        known = self.spade.calibration.scores(self.spade.options, self.spade.calibration.sample)
        self.normals = {"scores": known.scores.tolist(), **encoding.pack_reference(known)}
        return known.threshold("image", max(_RATE, 1 / (len(known.scores) + 1)))

    def _refresh(self) -> None:
        """Send the page the arrays of another image; it handles everything else without the kernel."""
        wanted = self.index, self._request
        if self._seen == wanted:
            return
        full, ranking = self._full, self._rank()
        with self._without_events(), self.hold_sync():
            if self.photo.get("index") != self.index:
                self.photo = self._pack_image(full)
                self.probe = encoding.find_highest(self.result.anomaly_map)
                names = [*self.spade.backbone.labels.values(), "pooled"]
                given = zip(names, [*full.query.levels, full.query.pooled], paint_pyramid(full.query))
                self.pyramid = [[name, array.shape, picture.tobytes()] for name, array, picture in given]
                near = zip(ranking.index[:_LISTED].tolist(), ranking.distance[:_LISTED].tolist())
                self.ranking = {"nearest": list(near), "of": len(ranking)}
            self.neighbours = self._pack_neighbours(full)
            whole = {"layers": [], "parts": b""}  # no shares of layers: they are a third of the bytes
            self.matches = {"index": self.index} | encoding.pack_matches(full) | whole
            self._seen = wanted

    def _pack_image(self, full: Result) -> dict:
        whole, crop = self._whole, full.crop
        box = crop.box if whole.shape[:2] == crop.photo else (0, 0, *crop.size)
        packed = {"index": self.index, "box": box, "photo": whole.shape[:2], "whole": encoding.jpeg(whole, _WHOLE, 75)}
        return encoding.pack_photo(full, full.mask, quality=82) | packed

    def _pack_neighbours(self, full: Result) -> dict:
        """The retrieved images: those that explain most pixels in full, the others as thumbnails."""
        first, used = full.neighbours.index[:_SHARP].tolist(), encoding.rank_by_use(full)[:_SHARP]
        sharp = {full.match(*self.probe).image, *first, *used}
        sides = [None if image in sharp else _THUMB for image in full.neighbours.index]
        pictures = zip(map(full.normal_image, full.neighbours.index), sides)
        return {
            "images": full.neighbours.index.tolist(),
            "jpegs": [encoding.jpeg(picture, side, _QUALITY) for picture, side in pictures],
        }
