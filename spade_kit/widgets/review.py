"""Review the normal images, most anomalous first, and label each with one key: good, defect or unknown."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas
import traitlets
from matplotlib.figure import Figure

from spade_kit._arguments import check_index
from spade_kit._files import as_folder, as_text
from spade_kit.datasets.naming import GOOD, as_label
from spade_kit.datasets.tables import UNKNOWN, LabelTable, clean_label, name_numbers
from spade_kit.figures.results import draw_explanation
from spade_kit.figures.style import SCALE
from spade_kit.gallery.gallery import Normal
from spade_kit.result import Result
from spade_kit.spade import SPADE
from spade_kit.widgets._shared.base import Checked, Live, Waiting, locked
from spade_kit.widgets._shared.caches import Results, Score, Scores, request_for
from spade_kit.widgets._shared.edits import Corrections
from spade_kit.widgets._shared.encoding import find_highest, jpeg, pack_mask
from spade_kit.widgets._shared.images import ImageList, find_name
from spade_kit.widgets._shared.scheduler import Steps

_DEFECT = "defect"
_SAID = {GOOD: "kept", UNKNOWN: "unknown"}  # of any other label: dropped
_BATCH = 24  # thumbnails in a message
_SHOWN = 100  # thumbnails that a notebook or a saved page holds


def review_suspects(spade: SPADE, folder: str | Path | None = None) -> Review:
    """A widget to review the normal images, each judged against the others, most anomalous first.

    Parameters
    ----------
    folder
        Where to keep the labels, such as the folder of the images: ``labels.csv`` is written after each decision, a
        later review goes on from it, and `Dataset.label` reads it. None keeps them in the widget only.

    Returns
    -------
    Review
        ``review.spade`` is the SPADE without the dropped images; the one passed in is never modified.

    Raises
    ------
    ValueError
        If ``labels.csv`` holds anything else, or the images have no files.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> spade = spade_kit.SPADE(k=5).fit(parts.train[:12])
    >>> review = spade_kit.review_suspects(spade)
    """
    return Review(spade, folder)


class Review(Waiting, page="review.js"):
    """See `review_suspects`.

    Attributes
    ----------
    index
        The normal image under review. Here and in ``kept`` and ``dropped``, indexes are those at the start of the
        review. If the excess is not known yet, it is the first image until all are ranked.
    """

    MOVABLE = ("index",)
    OWN = ("_decisions", "_corrections", "_ranked")
    TOLD = ("thumbs", "photo", "place_level", "neighbours", "suspects", "state")
    CROPS = 400_000
    MESSAGES = Live.MESSAGES | {"keep": "", "drop": "", "skip": "", "undo": ""}

    index = Checked(0, lambda self, value: self._check_number(value))

    suspects: traitlets.List = traitlets.List().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)

    def __init__(self, spade: SPADE, folder: str | Path | None = None) -> None:
        self._named = find_name(spade) or "spade"
        self._corrections = Corrections(spade)
        self._given = self.spade
        self.images = ImageList(self.spade, None)
        self._decisions: list[tuple[int, str]] = []  # index and label
        self._table = None if folder is None else LabelTable(as_folder("folder", folder))
        self._paths = {} if self._table is None else self._name_images(self._table.file.parent)
        self._scores = Scores(self.images)
        self._scores.start(request_for(self.spade))
        self._ranked = not self._missing()
        if self._ranked:
            self._take_scores(self.spade.suspects())  # raises if there is only one image
        else:
            self._scores.known = {index: Score(index) for index in range(len(spade))}
        self._results = Results(self.images, room=1)
        super().__init__(index=self._open_ones()[0])
        self._start_waiting()
        self.about = self.about | {
            "names": [self.images.name(index) for index in range(len(spade))],
            "source": f"{self.spade.backbone.describe()}; {self.spade.describe_options()}"
            + (f"; labels in {self._table.name}" if self._table else ""),
        }
        self._open()
        self._go_on()

    # ---- for Python --------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"Review({len(self.images)} normal images: {len(self.kept)} kept, {len(self.dropped)} dropped)"

    @property
    def spade(self) -> SPADE:
        """The fitted SPADE without the dropped images."""
        return self._corrections.spade

    @property
    def kept(self) -> list[int]:
        """The images confirmed as normal."""
        return [index for index, label in self._decisions if label == GOOD]

    @property
    def dropped(self) -> list[int]:
        """The images removed from the normal ones."""
        return [index for index, label in self._decisions if label not in _SAID]

    @property
    def unknown(self) -> list[int]:
        """The images of which it stays open whether they are normal."""
        return [index for index, label in self._decisions if label == UNKNOWN]

    @property
    def result(self) -> Result:
        """The result of the current image, judged against the remaining ones."""
        return self._results.find(self.index, request_for(self.spade))

    def keep(self) -> None:
        """Confirm the image as normal and move on to the next suspect; its label is ``good``."""
        self._decide(GOOD)

    def drop(self) -> None:
        """Remove the image, as a refit would, and move on to the next suspect; its label is ``defect``."""
        self._decide(_DEFECT)

    def skip(self) -> None:
        """Leave open whether the image is normal, and move on to the next suspect; its label is ``unknown``."""
        self._decide(UNKNOWN)

    @locked
    def undo(self) -> None:
        """Undo the last decision and return to its image."""
        if not self._decisions:
            raise ValueError("There is no decision to undo.")
        self._write(self._decisions[:-1])
        self._go(self._untake())

    def code(self) -> str:
        """Lines of Python that remove the dropped images."""
        name, lines = self._corrections.code(self._named)
        return "\n".join(lines or [f"# no images were dropped from {name}"])

    def draw(self) -> Figure:
        """The current view as a Matplotlib figure."""
        return draw_explanation(self.result, *find_highest(self.result.judged_map))

    def _take_over(self, other: Review) -> None:
        super()._take_over(other)
        self._forget()

    # ---- decisions ---------------------------------------------------------------------------------------------------

    def _check_number(self, number: int) -> int:
        return check_index("index", number, len(self.images), "normal image")

    def _take_scores(self, ranked: pandas.DataFrame) -> None:
        for index, score in ranked["score"].items():
            self._scores.take(Score(int(index), float(score)))

    def _rank(self, ranked: pandas.DataFrame) -> None:
        """All scores are known: go to the most anomalous image, unless another one has been picked."""
        self._take_scores(ranked)
        self._ranked = True
        self._go(self.index or self._open_ones()[0])

    def _name_images(self, folder: Path) -> dict[int, str]:
        """The path of each image in the table of labels, relative to its folder."""
        samples = {index: normal.sample for index, normal in enumerate(self._given.gallery.normals)}
        paths = {index: as_text(os.path.relpath(one.path, folder)) for index, one in samples.items() if one}
        if not paths:
            raise ValueError("Labels are kept by path; got images that were fitted as arrays. Leave the folder out.")
        return paths

    def _go_on(self) -> None:
        """Decide what the table of labels says already."""
        table = {} if self._table is None else self._table.labels
        known = dict(zip(table, name_numbers([*table.values()])))
        labels = {index: known[path] for index, path in self._paths.items() if path in known}
        for index, label in labels.items():
            self._take(index, as_label(clean_label(label) or UNKNOWN))
        if labels:
            self._go(next(iter(self._open_ones()), self.index))

    def _write(self, decisions: Sequence[tuple[int, str]]) -> None:
        """Keep the labels, if there is a folder for them."""
        if self._table is not None:
            others = self._table.labels.keys() - {*self._paths.values()}
            labels = {path: label for path, label in self._table.labels.items() if path in others}
            self._table.write(labels | {self._paths[at]: label for at, label in decisions if at in self._paths})

    @locked
    def _decide(self, label: str) -> None:
        if not self._ranked:
            self.finish()
        known = dict(self._decisions)
        if self.index in known:
            raise ValueError(f"Normal image {self.index} is already {_SAID.get(known[self.index], 'dropped')}.")
        self._take(self.index, label)
        try:
            self._write(self._decisions)
        except (OSError, ValueError):
            self._untake()
            raise
        self._go(next(iter(self._open_ones()), self.index))

    def _take(self, index: int, label: str) -> None:
        if label not in _SAID:
            gallery, normals = self.spade.gallery, self._given.gallery.normals
            image = gallery.places[normals[index].digest]
            if len(np.unique(np.delete(gallery.contents, image))) < 2:
                raise ValueError("Cannot drop one of the last two: judging needs at least one other normal image.")
            self._corrections.remove(image)
            self._forget()
        self._decisions.append((index, label))

    def _untake(self) -> int:
        """Revert the last decision, and return its image."""
        index, label = self._decisions.pop()
        if label not in _SAID:
            self._corrections.undo()
            self._forget()
        return index

    def _open_ones(self) -> list[int]:
        """The undecided images, most anomalous first."""
        decided = dict(self._decisions)
        return sorted((at for at in self._scores.known if at not in decided), key=lambda at: -self._score_of(at))

    def _score_of(self, index: int) -> float:
        return self._scores.known[index].score or 0

    def _forget(self) -> None:
        """The gallery changed: old scores stay, marked as stale, until they are computed again."""
        self._scores.start(request_for(self.spade))
        self._start_waiting()
        self._background.restart()

    def _go(self, index: int) -> None:
        with self._without_events(), self.hold_sync():
            self.index = index
            self._refresh()

    def _refresh(self) -> None:
        result, score, level = self.result, None, None
        with self._without_events(), self.hold_sync():
            if not self.waiting:
                score = result.image_score
                level = self._given.calibration.level(self.spade.options)  # known, and one scale for the whole review
                self._scores.take(Score(self.index, score))
            # indexes of the normal images at the start of the review
            places, normals = self._given.gallery.places, self.spade.gallery.normals
            numbers = [places[normals[image].digest] for image in result.neighbours.index]
            photo = {
                "size": list(result.anomaly_map.shape),
                "jpeg": jpeg(result.image, quality=90),
                "roi": pack_mask(result.roi),
                "level": float(result.anomaly_map.max()) / SCALE if level is None else level,
                "score": score,
            }
            self._send_result(numbers, photo)
            self._send_state()

    def _send_state(self) -> None:
        decided = {index: _SAID.get(label, "dropped") for index, label in self._decisions}
        counts = {"kept": len(self.kept), "dropped": len(self.dropped), "left": len(self.spade)}
        with self._without_events(), self.hold_sync():
            indexes = *decided, *self._open_ones()
            scores = [round(self._score_of(index), 3) if self._ranked else None for index in indexes]
            fresh = self._scores.fresh
            self.suspects = [[at, score, at in fresh, decided.get(at, "")] for at, score in zip(indexes, scores)]
            self.state = counts | {"code": self.code()}

    # ---- background work ---------------------------------------------------------------------------------------------

    def _background_steps(self) -> Steps:
        yield from self._stop_waiting()
        if not self._ranked:
            self._rank((yield self.spade.suspects))
        missing = [index for index in (*self._open_ones(), *self.kept) if index not in self._scores.fresh]
        for at, index in enumerate(missing, 1):
            self._scores.take((yield partial(self._scores.score, index, self.spade)))
            if at % _BATCH == 0:
                self._send_state()
        self._send_state()
        if not self.thumbs:  # no page has asked for them
            self._send_thumbs((yield partial(self.images.thumbs, [index for index, *_ in self.suspects[:_SHOWN]])))

    # ---- the page ----------------------------------------------------------------------------------------------------

    def _on_connected(self) -> None:
        for start in range(0, len(self.images), _BATCH):
            self._send_thumbs(self.images.thumbs(index for index, *_ in self.suspects[start : start + _BATCH]))

    def _title_and_stem(self) -> tuple[str, str]:
        return "Review of normal photos", f"normal-{self.index}"

    def _normal(self, number: int) -> Normal:
        return self._given.gallery.normals[self._check_number(number)]

    def _most_used(self) -> list[int]:
        return [number for number, _ in self.photo["seen"]["normals"]]
