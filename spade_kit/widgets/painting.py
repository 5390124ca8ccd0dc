"""Paint a defect and see whether it is found: strokes on an image, with a new map after each."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import traitlets
from jaxtyping import Bool, UInt8
from matplotlib.figure import Figure
from PIL import ImageColor

from spade_kit._arguments import check_number, choose
from spade_kit._files import as_text, encode_png, printable, write_whole
from spade_kit.datasets.naming import GOOD, as_label
from spade_kit.datasets.samples import Dataset, Sample, as_array
from spade_kit.datasets.synthetic import TOOLS, Stroke, changed, paint
from spade_kit.figures.results import draw_explanation
from spade_kit.figures.style import SCALE
from spade_kit.gallery.calibration import NormalScores
from spade_kit.result import Result
from spade_kit.spade import SPADE
from spade_kit.widgets._shared.base import Index, Live, Probe, Waiting, check_path, locked
from spade_kit.widgets._shared.caches import Recent, Results, request_for
from spade_kit.widgets._shared.encoding import find_highest, pack_photo, rank_by_use
from spade_kit.widgets._shared.images import ImageList, Images
from spade_kit.widgets._shared.scheduler import Steps

# defaults of each tool: diameter as a fraction of the crop's short side, strength, and colour if it uses one
_STARTS: dict[str, tuple[float, float, str | None]] = {
    "brush": (0.04, 1.0, "#c82828"),
    "scratch": (0.013, 0.9, None),
    "stain": (0.2, 0.8, "#6e461e"),
    "blur": (0.2, 0.8, None),
    "colour": (0.2, 0.6, "#2f6fd0"),
    "move": (0.2, 1.0, None),
    "erase": (0.1, 1.0, None),
}


def paint_defect(spade: SPADE, image: Images, *, folder: str | Path = "painted") -> Painting:
    """A widget to paint defects on an image and see whether they are found.

    Parameters
    ----------
    image
        An image, a list of images, or a Dataset, to paint on its ``test``.
    folder
        Output folder for kept images, in the MVTec AD layout.

    Returns
    -------
    Painting
        Everything you can do with the mouse also works from Python: see its methods.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> spade = spade_kit.SPADE(k=5).fit(parts.train[:12])
    >>> painting = spade_kit.paint_defect(spade, parts.test[6])
    """
    return Painting(spade, image, folder=folder)


class Painting(Waiting, page="painting.js"):
    """See `paint_defect`.

    Attributes
    ----------
    index
        Index of the image; each image keeps its strokes.
    probe
        (row, col) of the map pixel to explain.
    dataset
        The input dataset, with the kept images appended to its ``test``.
    """

    MOVABLE = ("index", "probe")
    OWN = ("dataset", "kept", "_own_files")
    TOLD = ("photos", "photo", "place_level", "neighbours", "normals", "kept")
    CROPS = 600_000
    DONE = ("painted",)
    MESSAGES = Live.MESSAGES | {"stroke": "tool points size strength colour drawn", "undo": "", "redo": "", "clear": "",
                                "keep": "label", "pair": ""}  # fmt: skip

    index = Index()
    probe = Probe()

    normals: traitlets.Dict = traitlets.Dict().tag(sync=True)
    kept: traitlets.List = traitlets.List().tag(sync=True)

    def __init__(self, spade: SPADE, image: Images, *, folder: str | Path) -> None:
        self.spade = copy.copy(spade)
        self.folder = Path(folder).expanduser()
        self.images = ImageList(self.spade, image)
        if not self.images.given:
            raise ValueError(
                "paint_defect needs an image to paint on; got none. Pass an image of dataset.test, a path or a "
                "(H, W, 3) array."
            )
        normals = [normal.sample for normal in spade.gallery.normals if normal.sample]
        self.dataset = image if isinstance(image, Dataset) else Dataset("painted", normals, [])
        self._strokes: dict[int, list[Stroke]] = defaultdict(list)  # per image
        self._undone: dict[int, list[Stroke]] = defaultdict(list)
        self._own_files: set[Path] = set()
        self._drawn: Any = None  # the page's id of the last stroke
        self._plain: Recent[np.ndarray] = Recent(1)  # the unpainted image
        self._judged = Results(self.images, room=1)  # likewise
        self._painted: Recent[np.ndarray] = Recent(1)
        self._results: Recent[Result] = Recent(1)
        super().__init__()
        self.about = self.about | {
            "tools": [[tool, *_STARTS[tool]] for tool in TOOLS],
            "folder": printable(self.folder.name),
            "source": f"{self.spade.backbone.describe()}; {self.spade.describe_options()}",
        }
        self._start_waiting()
        self.photos = self.images.listed
        self._open()

    # ---- for Python --------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        scores = self.waiting or f"score {self.result.image_score:.2f}, before {self._before.image_score:.2f}"
        strokes = f"{len(self.strokes)} {'stroke' if len(self.strokes) == 1 else 'strokes'}"
        return f"Painting({self.images.name(self.index)}, {strokes}: {scores})"

    @property
    def strokes(self) -> tuple[Stroke, ...]:
        """The strokes, in image pixels."""
        return tuple(self._strokes[self.index])

    @property
    def painted(self) -> UInt8[np.ndarray, "H W 3"]:
        """The full image with all strokes."""
        return self._canvas.copy()

    @property
    @locked
    def mask(self) -> Bool[np.ndarray, "H W"]:
        """The visibly changed pixels of the full image."""
        return changed(self._pixels, self._canvas)

    @property
    @locked
    def result(self) -> Result:
        """SPADE's result for the painted image."""
        return self._results.find((self.index, self.strokes), self._judge)

    def _judge(self) -> Result:
        """Judge the painted image; a fitted image is compared only with the others, painted or not."""
        if not self.strokes:
            return self._before
        result, among = self.spade.judge(self._canvas), self._before.among
        return result.with_normals(among) if len(among) < len(result.among) else result

    @locked
    def stroke(
        self,
        tool: str,
        points: Iterable[tuple[float, float]],
        *,
        size: float | None = None,
        strength: float | None = None,
        colour: str | None = None,
    ) -> None:
        """Paint a line.

        Parameters
        ----------
        tool
            ``"brush"``, ``"scratch"``, ``"stain"``, ``"blur"``, ``"colour"``; ``"move"``, which copies the disc
            around the first point to the second; or ``"erase"``, which restores the image.
        points
            Pairs (row, col) in map pixels.
        size, strength, colour
            Diameter in map pixels; strength above 0, up to 1; a colour name or ``"#rrggbb"``, for ``"brush"``,
            ``"stain"`` and ``"colour"``. If omitted, the tool's defaults.
        """
        self._on_stroke(tool, points, size, strength, colour, None)

    def undo(self) -> None:
        """Undo the last stroke."""
        self._swap(self._strokes, self._undone, "undo")

    def redo(self) -> None:
        """Redo the last undone stroke."""
        self._swap(self._undone, self._strokes, "redo")

    @locked
    def clear(self) -> None:
        """Undo all strokes; each can be redone."""
        strokes = self._strokes.pop(self.index, [])
        self._undone[self.index].extend(reversed(strokes))
        self._drawn = None
        self._show()

    @locked
    def save(self, path: str | Path) -> None:
        """Write the painted image as PNG, and its mask next to it as ``<stem>_mask.png``.

        Both files are new, or were written by this widget: an image or mask of yours is never replaced.
        """
        path = check_path(path)
        if path.suffix.lower() != ".png":
            raise ValueError(f"path must end in .png, since PNG is lossless; got {path.name!r}.")
        files = dict(zip((path, path.with_name(f"{path.stem}_mask.png")), self._encode()))
        for file, content in files.items():
            if file.exists() and file.resolve() not in self._own_files and file.read_bytes() != content:
                raise ValueError(f"{as_text(file)} exists, and would be replaced. Use another name, or delete it.")
        for file, content in files.items():
            write_whole(file, content)
            self._own_files.add(file.resolve())

    @locked
    def keep(self, label: str = "painted") -> Sample:
        """Write the painted image to the folder and append it to the test images of ``dataset``.

        Parameters
        ----------
        label
            The defect type, used as a folder name.
        """
        named = isinstance(label, str) and label.strip() == Path(label).name == label != ""
        if not named or label.startswith(".") or as_label(label) == GOOD:
            raise ValueError(f"label must be a defect type that is a valid folder name, like 'scratch'; got {label!r}.")
        if not self.mask.any():
            raise ValueError("The strokes made no visible change, so there is no defect to keep. Paint a defect first.")
        photos = self.folder / "test" / label
        masks = self.folder / "ground_truth" / label
        taken = {path.stem.removesuffix("_mask") for folder in (photos, masks) for path in folder.glob("*")}
        stem = next(f"{number:03d}" for number in range(10**6) if f"{number:03d}" not in taken)
        mask_path = masks / f"{stem}_mask.png"
        photo, mask = self._encode()
        write_whole(mask_path, mask)  # first: an image without its mask would lack its ground truth
        write_whole(photos / f"{stem}.png", photo)
        sample = Sample(photos / f"{stem}.png", label, mask_path, masked=True)
        self.dataset = replace(self.dataset, test=[*self.dataset.test, sample])
        self.kept = [*self.kept, f"{label}/{stem}"]
        return sample

    def readout(self) -> pandas.DataFrame:
        """Scores before and after painting, and the number of normal images at or above each."""
        rows = {"before": self._before.image_score, "painted": self.result.image_score}
        scores = np.empty(0)
        if self.spade.gallery.comparable:
            calibration = self.spade.calibration
            scores = calibration.scores(self.spade.options, calibration.sample).scores
        table = {name: [round(score, 2), sum(normal >= score for normal in scores)] for name, score in rows.items()}
        return pandas.DataFrame.from_dict(table, "index", columns=["score", f"normals of {len(scores)} at or above"])

    def draw(self) -> Figure:
        """The current view as a Matplotlib figure."""
        return draw_explanation(self.result, *self.probe)

    def _take_over(self, other: Painting) -> None:
        super()._take_over(other)
        for mine, theirs in ((self._strokes, other._strokes), (self._undone, other._undone)):
            mine.update({index: [*strokes] for index, strokes in theirs.items()})

    # ---- painting ----------------------------------------------------------------------------------------------------

    @property
    def _pixels(self) -> np.ndarray:
        return self._plain.find(self.index, lambda: as_array(self.images.photo(self.index)[0]))

    @property
    def _before(self) -> Result:
        """SPADE's result for the unpainted image."""
        return self._judged.find(self.index, request_for(self.spade))

    @property
    @locked
    def _canvas(self) -> np.ndarray:
        """The image with its strokes, cached."""
        return self._painted.find((self.index, self.strokes), lambda: paint(self._pixels, self.strokes))

    def _make_stroke(
        self, tool: str, points: Iterable, size: float | None, strength: float | None, colour: str | None
    ) -> Stroke:
        part, usual, ink = _STARTS[choose("tool", tool, TOOLS)]
        crop = self._before.crop
        short = min(crop.size)
        size = part * short if size is None else size
        size = check_number("size", size, f"a diameter from 0.1 to {short} map pixels", least=0.1, most=short)
        colour = colour or ink or "black"
        try:
            rgb = ImageColor.getrgb(colour)[:3]
        except (ValueError, AttributeError, TypeError):
            raise ValueError(f"colour must be a colour name or a value like '#c82828'; got {colour!r}.") from None
        places = crop.on_photo(_read_places(points))
        scale = np.mean(np.array(crop.photo) / np.array(crop.scaled))  # image pixels per map pixel
        strength = usual if strength is None else strength
        return Stroke(tool, tuple(map(tuple, places.tolist())), float(size * scale), strength, rgb)

    def _on_stroke(self, tool: str, points: Iterable, size: Any, strength: Any, colour: Any, drawn: Any) -> None:
        """Add a stroke, or extend the one that the page is still drawing."""
        stroke = self._make_stroke(tool, points, size, strength, colour)
        strokes = self._strokes[self.index]
        if drawn is not None and drawn == self._drawn and strokes:
            strokes.pop()
        strokes.append(stroke)
        self._drawn = drawn
        self._undone.pop(self.index, None)
        self._show()

    @locked
    def _swap(self, here: dict[int, list[Stroke]], there: dict[int, list[Stroke]], what: str) -> None:
        if not here[self.index]:
            raise ValueError(f"There is no stroke to {what}.")
        there[self.index].append(here[self.index].pop())
        self._drawn = None  # drawing on starts a new stroke
        self._show()

    def _encode(self) -> tuple[bytes, bytes]:
        return encode_png(self._canvas), encode_png(self.mask)

    # ---- the page ----------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        if self.photo.get("index") != self.index:
            self._drawn = None
            self._show()

    def _show(self) -> None:
        result = self.result
        with self._without_events(), self.hold_sync():
            photo = {
                "drawn": self._drawn,
                "strokes": len(self.strokes),
                "undone": len(self._undone[self.index]),
                "score": None if self.waiting else result.image_score,
                "before": None if self.waiting else self._before.image_score,
            }
            packed = pack_photo(result, result.crop.cut_mask(self.mask), quality=92)
            self._send_result(result.neighbours.index.tolist(), packed | photo)
            self.probe = find_highest(self._judged_map)
            calibration = self.spade.calibration
            if self.waiting or not self.spade.gallery.comparable:  # scale the colours to the unpainted image
                self.normals = {"level": float(self._before.anomaly_map.max()) / SCALE, "scores": [], "of": 0}
            elif not self.normals.get("scores"):
                self._send_normals(calibration.scores(self.spade.options, calibration.few))

    def _send_normals(self, known: NormalScores) -> None:
        self.normals = {"level": known.level, "scores": known.scores.tolist(), "of": len(self.spade)}

    def _background_steps(self) -> Steps:
        yield from self._stop_waiting()
        if self.spade.gallery.comparable:
            calibration, options = self.spade.calibration, self.spade.options
            for image in calibration.required(options, calibration.sample):
                yield partial(list, calibration.maps(options, [image]))
            self._send_normals((yield partial(calibration.scores, options, calibration.sample)))

    def _on_pair(self) -> None:
        for ending, picture in zip((".png", "_mask.png"), self._encode()):
            self._send_file(ending, picture)

    def _most_used(self) -> list[int]:
        return rank_by_use(self.result)


def _read_places(points: Iterable) -> np.ndarray:
    """(n, 2): row and col of each point."""
    points = list(points) if isinstance(points, Iterable) else [points]
    try:
        places = np.array(points, float).reshape(len(points), -1)
    except (TypeError, ValueError):
        places = np.empty((1, 0))
    if len(points) and places.shape[1] != 2:
        raise ValueError(f"points must be pairs (row, col) of map pixels; got {points!r}.")
    return places.reshape(-1, 2)
