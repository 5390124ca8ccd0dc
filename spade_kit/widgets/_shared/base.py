"""The base of all widgets: traits set by Python or the page; everything derived from them is computed at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from itertools import count
from math import inf
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import anywidget
import numpy as np
import traitlets
from matplotlib import style

from spade_kit._arguments import check_attribute, check_number, choose
from spade_kit._files import write_whole
from spade_kit.figures.style import SCALE, as_png
from spade_kit.gallery.gallery import Normal
from spade_kit.result import check_on_map
from spade_kit.scores import check_fpr
from spade_kit.widgets._shared import encoding
from spade_kit.widgets._shared.export import STYLE, fit_crops, frame_page, load_module
from spade_kit.widgets._shared.scheduler import Background, Steps

if TYPE_CHECKING:
    from typing_extensions import Self

MISTAKES = (ValueError, OSError)
Act = TypeVar("Act", bound=Callable[..., Any])
_THUMBS = 200_000  # bytes of the thumbnails that a notebook keeps


def locked(act: Act) -> Act:
    """A method that reads or changes several traits: no message of the page or result of the background comes between.

    They reach a widget from other threads than a cell.
    """

    @wraps(act)
    def act_alone(self: Any, *given: Any, **options: Any) -> Any:
        with self._lock:
            return act(self, *given, **options)

    return act_alone  # type: ignore[return-value]


class Checked(traitlets.TraitType):
    """A checked trait: ``check(widget, value)`` returns the value to store or raises an error with a cure."""

    def __init__(self, default: Any, check: Callable[[Any, Any], Any]) -> None:
        super().__init__(default)
        self.check = check
        self.tag(sync=True)

    def validate(self, widget: Any, value: Any) -> Any:
        return self.check(widget, value)


def check_path(path: str | Path) -> Path:
    if not isinstance(path, (str, Path)) or not Path(path).name:
        raise ValueError(f"path must be the name of a file; got {path!r}.")
    return Path(path).expanduser()


def check_distance(name: str, value: float) -> float:
    """A raw distance, or an excess, which may be below 0."""
    return check_number(name, value, "a finite raw distance", least=-1e9, most=1e9)


def check_rate(rate: str, needed: str, got: str) -> None:
    """Check the false-alarm rate in a threshold rule."""
    try:
        check_fpr(float(rate))
    except ValueError:
        raise ValueError(f"{needed}; got {got!r}.") from None


class Index(Checked):
    """Index into the widget's ``images``."""

    def __init__(self) -> None:
        super().__init__(0, lambda widget, value: widget.images.check(value))


class Probe(Checked):
    """A pixel (row, col) of the current map; only its form is checked while there is none."""

    def __init__(self) -> None:
        super().__init__((0, 0), self._check)

    @staticmethod
    def _check(widget: Live, value: Any) -> tuple[int, int]:
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            raise ValueError(f"probe must be a pixel (row, col) of the map; got {value!r}.")
        row, col = value
        return check_on_map(row, col, widget.photo.get("size", (inf, inf)))


class Live(anywidget.AnyWidget):
    """A widget with traits that both the user and Python can set; an invalid value raises an error and changes nothing.

    Subclasses declare their settable traits and their messages. `_refresh` sends the page everything derived from them,
    `_background_steps` yields background work, most urgent first, and `draw` returns the current view as a figure.
    """

    MOVABLE: ClassVar[tuple[str, ...]] = ()  # traits that may be set
    TOLD: ClassVar[tuple[str, ...]] = ()  # further traits stored in a saved page
    CROPS: ClassVar[int] = 0  # maximum bytes of normal crops in a saved page
    OWN: ClassVar[tuple[str, ...]] = ()  # attributes that `copy` takes over, too
    DONE: ClassVar[tuple[str, ...]] = ()  # what was done with the image, for titles and names of files
    # message kinds, each with the fields passed to `_on_<kind>` or else to the method of this name
    MESSAGES: ClassVar[dict[str, str]] = {"hello": "", "page": "", "png": "", "normals": "images"}
    # these change no state
    ASKED: ClassVar[set[str]] = {"hello", "page", "png", "pair", "normals", "photos", "points", "ask", "distances"}

    _css = STYLE
    _lock = RLock()  # of all widgets: linked ones change each other, and two locks could wait for each other
    _quiet = True  # until construction is complete

    problem = traitlets.Unicode().tag(sync=True)
    about: traitlets.Dict = traitlets.Dict({"colours": encoding.colour_table(), "scale": SCALE}).tag(sync=True)
    photos: traitlets.List = traitlets.List().tag(sync=True)
    photo: traitlets.Dict = traitlets.Dict().tag(sync=True)
    neighbours: traitlets.Dict = traitlets.Dict().tag(sync=True)
    waiting = traitlets.Unicode().tag(sync=True)  # what the background computes, and how far it is
    thumbs: Any = traitlets.Dict().tag(sync=True)  # by index: what a notebook shows without a kernel

    def __init_subclass__(cls, page: str | None = None) -> None:
        if page is not None:
            cls._esm = load_module(page)
        super().__init_subclass__()

    def __new__(cls, *given: Any, **options: Any) -> Self:
        widget = super().__new__(cls, *given, **options)
        widget._arguments = given, options
        return widget

    def __init__(self, **traits: Any) -> None:
        self._background = Background(self._background_steps, self._lock, self._report)
        super().__init__(**traits)

    def _open(self) -> None:
        """Construction is complete: react to changes from now on."""
        self.observe(self._follow, list(self.MOVABLE))
        self.on_msg(self._on_message)
        self._refresh()
        self._quiet = False
        self._background.restart()

    @locked
    def __setattr__(self, name: str, value: Any) -> None:
        """One change at a time: cells and page messages run in different threads.

        A change waits before the trait is set, since traitlets holds back the notifications of all threads while a
        message is applied: the change would be taken for one of the page.
        """
        if not self._quiet:
            check_attribute(self, name)
        super().__setattr__(name, value)

    def close(self) -> None:
        if hasattr(self, "_background"):  # ipywidgets also closes a widget that failed to construct
            self._background.stop()
        super().close()

    @locked
    def copy(self) -> Self:
        """A widget of its own in the same state.

        A notebook keeps a widget as the last cell left it. To show the effect of a later cell where that cell is, and
        to leave the earlier widget as it is, move a copy::

            closer = explorer.copy()
            closer.k = 3
            closer
        """
        given, options = self._arguments
        once = [self.images.given_ones if isinstance(one, Iterator) else one for one in given]  # it is used up
        other, state = type(self)(*once, **options), self._current_traits()
        with other._without_events(), other.hold_sync():
            other._take_over(self)
            other._restore({name: value for name, value in state.items() if name not in ("probe", "pinned")})
            other._refresh()  # a probe lies within the image
            other._restore(state)
            other._refresh()
        return other

    def finish(self) -> None:
        """Run all pending background work now."""
        self._background.finish()

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        return {**data, "text/plain": repr(self), "image/png": self._preview()}, metadata

    def save_html(self, path: str | Path) -> None:
        """Finish all pending work, and write the current view as a self-contained page that works offline."""
        self._save_page(path)

    @locked
    def _save_page(self, path: str | Path, *photos: Any) -> None:
        file = check_path(path)
        if file.suffix.lower() not in (".html", ".htm"):  # it could be an image
            raise ValueError(f"The name of a page must end in .html; got {file.name!r}.")
        self.finish()
        write_whole(file, self._make_page(*photos).encode())

    # ---- for subclasses ----------------------------------------------------------------------------------------------

    def _reconcile(self, changed: set[str], by_page: bool) -> None:
        """Update dependent traits without triggering events."""

    def _background_steps(self) -> Steps:
        """The pending work, most urgent first."""
        yield from ()

    def _take_over(self, other: Self) -> None:
        """Take over from another widget what its traits do not say."""
        self.images.take_over(other.images)
        self.photos = other.photos
        for name in self.OWN:
            value = getattr(other, name)
            setattr(self, name, value.copy() if hasattr(value, "copy") else value)

    def _on_connected(self) -> None:
        """Send data beyond the traits to a newly opened page."""

    def _preview(self) -> bytes:
        """A static PNG for places where the widget cannot run."""
        return self._draw_png(80)

    def _draw_png(self, dpi: int, title: str = "") -> bytes:
        """The current view on white: legible on dark pages, too, whatever style the user has set."""
        with style.context("default"):
            figure = self.draw()
            if title:  # Matplotlib before 3.11 leaves room for an empty one, too
                figure.suptitle(title, parse_math=False)
            return as_png(figure, dpi)

    def _title_and_stem(self) -> tuple[str, str]:
        """The page title and the file stem of the current view."""
        parts = self.images.name(self.index), *self.DONE
        return ", ".join(parts), "-".join(parts).replace("/", "-")

    def _normal(self, number: int) -> Normal:
        """The normal image with this page-side number."""
        gallery = self.spade.gallery
        return gallery.normals[gallery.check_index(number)]

    def _most_used(self) -> list[int]:
        """Normal images to store as crops in a saved page, most important first."""
        return []

    def _saved(self) -> dict[str, Any]:
        """The initial traits of a saved page."""
        return {name: getattr(self, name) for name in (*self.MOVABLE, "about", *self.TOLD)}

    def _make_page(self) -> str:
        normals = fit_crops(((number, self._normal(number).jpeg) for number in self._most_used()), self.CROPS)
        return self._frame(self._title_and_stem()[0], state=self._saved(), photos={}, thumbs={}, normals=normals)

    def _frame(self, title: str, **saved: Any) -> str:
        return frame_page(str(self._esm), str(self._css), title, saved)

    def _tell(self, what: str, work: Sequence[Callable[[], Any]]) -> Steps:
        """Do one thing per step, so that the page stays responsive, and say how far it is; returns what they return."""
        done = []
        for at, one in enumerate(work, 1):
            self.waiting = f"{what}: {at} of {len(work)}"
            done.append((yield one))
        self.waiting = ""
        return done

    def _place_probe(self, highest: tuple[int, int]) -> tuple[int, int]:
        """The probe on a new image: the map's maximum, or the pinned pixel clipped to the map."""
        row, col = self.probe if self.pinned else highest
        height, width = self.photo["size"]
        return min(row, height - 1), min(col, width - 1)

    # ---- setting traits ----------------------------------------------------------------------------------------------

    @contextmanager
    def _without_events(self) -> Iterator[None]:
        """Set traits without triggering events, while holding the lock."""
        with self._lock:
            before, self._quiet = self._quiet, True
            try:
                yield
            finally:
                self._quiet = before

    def _follow(self, change: dict) -> None:
        """Apply a change made in Python at once; roll back on an error."""
        if self._quiet:
            return
        before = self._current_traits() | {change["name"]: change["old"]}
        try:
            with self._without_events():
                self._reconcile({change["name"]}, by_page=False)
            self._refresh()
        except MISTAKES:
            self._restore(before)
            raise

    @locked
    def set_state(self, sync_data: dict) -> None:
        """Apply changes from the page. On an error, roll back and show the message there."""
        before, problem, self.problem = self._current_traits(), "", ""  # so that a repeated error is sent again
        try:
            with self._without_events():
                super().set_state(sync_data)
                self._reconcile({name for name, value in before.items() if getattr(self, name) != value}, by_page=True)
            self._refresh()
        except Exception as mistake:  # any error: a traceback would never be seen here
            problem = _explain(mistake)
            self._restore(before)
            self._refresh()
            self.send_state([name for name in sync_data if name in before])  # the page shows what it asked for
        self.problem = problem

    def _current_traits(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.MOVABLE}

    def _restore(self, before: dict[str, Any]) -> None:
        with self._without_events():
            for name, value in before.items():
                setattr(self, name, value)

    # ---- messages from the page --------------------------------------------------------------------------------------

    @locked
    def _on_message(self, _: Any, content: dict, buffers: Sequence[Any]) -> None:
        try:
            if content["kind"] not in self.ASKED:
                self.problem = ""  # so that a repeated error is sent again
            self._act(choose("A message", content["kind"], self.MESSAGES), {**content, "buffers": buffers})
        except Exception as mistake:  # as above
            self._report(mistake)

    def _report(self, mistake: Exception) -> None:
        self.problem = _explain(mistake)

    def _act(self, kind: str, content: dict) -> None:
        act = getattr(self, f"_on_{kind}", None) or getattr(self, kind)
        act(*(content[name] for name in self.MESSAGES[kind].split()))

    def _on_hello(self) -> None:
        self.send({"kind": "here"})
        self._on_connected()

    def _on_page(self) -> None:
        self.finish()
        self._send_file(".html", self._make_page().encode())

    def _on_png(self) -> None:
        self._send_file(".png", self._draw_png(150, self._title_and_stem()[0]))

    def _on_normals(self, images: list[int]) -> None:
        self.send({"kind": "normals", "images": images}, [self._normal(image).jpeg for image in images])

    def _send_file(self, ending: str, content: bytes) -> None:
        self.send({"kind": "file", "name": f"{self._title_and_stem()[1]}{ending}"}, [content])

    def _send_thumbs(self, thumbs: dict[int, bytes]) -> None:
        self.send({"kind": "thumbs", "indexes": list(thumbs)}, list(thumbs.values()))
        self.thumbs = fit_crops((self.thumbs | thumbs).items(), _THUMBS)


class Waiting(Live):
    """A widget that opens before its SPADE knows what is taken off a map for its excess: all normal images tell that.

    ``waiting`` says how far they are, and is empty once it is known; ``place_level`` is what is taken off.
    """

    place_level = traitlets.Dict().tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        self._answers = count()
        super().__init__(**traits)

    def _missing(self) -> list[int]:
        """The normal images to be judged before the excess is known."""
        spade = self.spade
        return spade.calibration.required(spade.options, []) if spade.gallery.comparable else []

    def _tell_progress(self, done: int, of: int) -> None:
        self.waiting = f"computing the excess: {done} of {of} normal photos judged…"

    def _start_waiting(self) -> None:
        if missing := self._missing():
            self._tell_progress(0, len(missing))

    def _stop_waiting(self) -> Steps:
        """Judge the missing normal images, one per step, and show the result again."""
        if not self.waiting:
            return
        calibration, options, missing = self.spade.calibration, self.spade.options, self._missing()
        for at, image in enumerate(missing, 1):
            yield partial(list, calibration.maps(options, [image]))
            self._tell_progress(at, len(missing))
        yield partial(calibration.place_level, options, calibration.level_sample)
        with self._without_events(), self.hold_sync():
            self.waiting = ""
            self._show()

    def _show(self) -> None:
        """Send the page the current result."""
        self._refresh()

    def _send_result(self, numbers: list[int], photo: dict[str, Any]) -> None:
        """Send the result, with the page's numbers for its neighbours: a reply, even if nothing has changed."""
        result, sigma = self.result, self.spade.sigma
        taken = result.place_level if self.spade.judged == "excess" and not self.waiting else None
        self.place_level = {} if taken is None else encoding.pack_place_level(taken)
        self.neighbours = encoding.pack_neighbours(numbers, map(self._normal, numbers))
        seen = encoding.pack_cells(result.correspondence, sigma, zip(numbers, numbers))
        self.photo = {"index": self.index, "answer": next(self._answers), "seen": seen, **photo}

    @property
    def _judged_map(self) -> np.ndarray:
        """The judged map; the map itself until it is known what is taken off."""
        return self.result.anomaly_map if self.waiting else self.result.judged_map

    def _preview(self) -> bytes:
        if not self.waiting:
            return super()._preview()
        values = self._judged_map
        shown = [(self.result, values, encoding.find_highest(values))]
        return encoding.draw_preview(shown, None, max(float(np.nanmax(values)), 1e-9))


def _explain(mistake: Exception) -> str:
    """The message of a user error; any other exception is prefixed with its type."""
    return str(mistake) if isinstance(mistake, MISTAKES) else f"{type(mistake).__name__}: {mistake}"
