"""What all widgets are: traits that Python and a page set, and what follows from them computed at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from threading import RLock
from typing import Any, ClassVar

import anywidget
import traitlets
from matplotlib.figure import Figure

from spade_kit._arguments import check_count, check_number, choose
from spade_kit.gallery.gallery import Normal
from spade_kit.scores import check_fpr
from spade_kit.widgets._shared.export import STYLE, fit_crops, frame_page
from spade_kit.widgets._shared.scheduler import Background

MISTAKES = (ValueError, OSError)


class Checked(traitlets.TraitType):
    """A trait that is checked in words: ``check(widget, value)`` gives what is kept, or says what is needed."""

    def __init__(self, default: Any, check: Callable[[Any, Any], Any]) -> None:
        super().__init__(default)
        self.check = check
        self.tag(sync=True)

    def validate(self, widget: Any, value: Any) -> Any:
        return self.check(widget, value)


def check_place(value: Any, size: tuple[int, int] | None) -> tuple[int, int]:
    """(row, col) of a map, of any if its size is not known yet."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f"The probe is a place (row, col) of the map, but {value!r} came.")
    row, col = (int(check_count(name, at, least=0)) for name, at in zip(("row", "col"), value))
    height, width = size or (row + 1, col + 1)
    if row >= height or col >= width:
        raise ValueError(f"The probe is a place 0 <= row < {height}, 0 <= col < {width}, but ({row}, {col}) came.")
    return row, col


def check_distance(name: str, value: float) -> float:
    return check_number(name, value, "a raw distance from 0 up", least=0, most=1e9)


def check_rate(rate: str, needed: str, given: str) -> None:
    """A false-alarm rate that is a part of a rule."""
    try:
        check_fpr(float(rate))
    except ValueError:
        raise ValueError(f"{needed}, but {given!r} came.") from None


class Index(Checked):
    """Which photograph of the widget's ``images``."""

    def __init__(self) -> None:
        super().__init__(0, lambda widget, value: widget.images.check(value))


class Probe(Checked):
    """A place (row, col) of the present map."""

    def __init__(self) -> None:
        super().__init__((0, 0), lambda widget, value: check_place(value, widget.photo.get("size")))


class Live(anywidget.AnyWidget):
    """A widget whose traits a hand and Python move alike; a mistake is told and changes nothing.

    Those that inherit name what can be moved and asked for. They tell the page in `_refresh` all that follows from it,
    give in `_background_steps` what to compute while nobody waits, most urgent first, and `draw` what is seen.
    """

    MOVABLE: ClassVar[tuple[str, ...]] = ()  # traits that may be set
    TOLD: ClassVar[tuple[str, ...]] = ()  # traits that a saved page holds, too
    CROPS: ClassVar[int] = 0  # bytes of normal crops in a saved page
    # what a page may say, and with which parts of that `_on_<kind>`, or else the method of this name, is called
    MESSAGES: ClassVar[dict[str, str]] = {"hello": "", "page": "", "png": ""}
    ASKED: ClassVar[tuple[str, ...]] = ("hello", "page", "png", "pair", "normals", "photos")  # these change nothing

    _esm: str | Path
    _css = STYLE

    problem = traitlets.Unicode().tag(sync=True)
    about = traitlets.Dict().tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        self._lock = RLock()
        self._quiet = True  # until everything is there
        self._background = Background(self._background_steps)
        super().__init__(**traits)

    def _open(self) -> None:
        """All is there: from now on what is set is followed."""
        self.observe(self._follow, list(self.MOVABLE))
        self.on_msg(self._on_message)
        self._refresh()
        self._quiet = False
        self._background.restart()

    def close(self) -> None:
        if hasattr(self, "_background"):  # ipywidgets closes what could not be made, too
            self._background.stop()
        super().close()

    def finish(self) -> None:
        """Compute now what would come in the background."""
        with self._lock:
            self._background.finish()

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        return {**data, "text/plain": repr(self), "image/png": self._preview()}, metadata

    def save_html(self, path: str | Path) -> None:
        """Write what is seen as a page that works offline."""
        Path(path).write_text(self._make_page(), encoding="utf-8")

    # ---- for those that inherit --------------------------------------------------------------------------------------

    def _reconcile(self, changed: set[str], by_page: bool) -> None:
        """Set quietly what has to change with what was set."""

    def _on_connected(self) -> None:
        """What a page is sent that has just opened, beside the traits."""

    def _preview(self) -> bytes:
        """A PNG that stands in where no widget can live."""
        return _as_png(self.draw(), 80)

    def _title_and_stem(self) -> tuple[str, str]:
        """What is seen: as a page is called, and as files are, but for their suffix."""
        name = self.images.name(self.index)
        return name, name.replace("/", "-")

    def _normal(self, number: int) -> Normal:
        """A normal photo, by the number by which a page knows it."""
        gallery = self.spade.gallery
        return gallery.normals[gallery.check_index(number)]

    def _most_used(self) -> list[int]:
        """Normal photos whose crops a saved page needs, most of all first."""
        return []

    def _saved(self) -> dict[str, Any]:
        """The traits that a saved page starts with."""
        return {name: getattr(self, name) for name in (*self.MOVABLE, "about", *self.TOLD)}

    def _make_page(self) -> str:
        normals = fit_crops(((number, self._normal(number).jpeg) for number in self._most_used()), self.CROPS)
        return self._frame(self._title_and_stem()[0], state=self._saved(), photos={}, thumbs={}, normals=normals)

    def _frame(self, title: str, **saved: Any) -> str:
        return frame_page(str(self._esm), str(self._css), title, saved)

    def _place_probe(self, highest: tuple[int, int]) -> tuple[int, int]:
        """Of another photograph: where it is highest, unless it is pinned, and then as near as the map reaches."""
        row, col = self.probe if self.pinned else highest
        height, width = self.photo["size"]
        return min(row, height - 1), min(col, width - 1)

    # ---- what is set -------------------------------------------------------------------------------------------------

    @contextmanager
    def _without_events(self) -> Iterator[None]:
        """Set traits without consequences, and with no other thread in between."""
        with self._lock:
            before, self._quiet = self._quiet, True
            try:
                yield
            finally:
                self._quiet = before

    def notify_change(self, change: Any) -> None:
        """One change at a time: a notebook's cells and its page's messages come in different threads."""
        with self._lock:
            super().notify_change(change)

    def _follow(self, change: dict) -> None:
        """What is set from Python is computed at once; after a mistake all is as before."""
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

    def set_state(self, sync_data: dict) -> None:
        """What the page sends. A mistake is told there, and all is as before."""
        with self._lock:
            before, problem, self.problem = self._current_traits(), "", ""  # so that the same mistake is told again
            try:
                with self._without_events():
                    super().set_state(sync_data)
                    self._reconcile(
                        {name for name, value in before.items() if getattr(self, name) != value}, by_page=True
                    )
                self._refresh()
            except Exception as mistake:  # whatever it is: nobody sees a traceback here
                problem = _explain(mistake)
                self._restore(before)
                self._refresh()
            self.problem = problem

    def _current_traits(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.MOVABLE}

    def _restore(self, before: dict[str, Any]) -> None:
        with self._without_events():
            for name, value in before.items():
                setattr(self, name, value)

    # ---- the page speaks ---------------------------------------------------------------------------------------------

    def _on_message(self, _: Any, content: dict, buffers: Sequence[Any]) -> None:
        with self._lock:
            try:
                if content["kind"] not in self.ASKED:
                    self.problem = ""  # so that the same mistake is told again
                self._act(choose("A message", content["kind"], self.MESSAGES), {**content, "buffers": buffers})
            except Exception as mistake:  # as above
                self.problem = _explain(mistake)

    def _act(self, kind: str, content: dict) -> None:
        act = getattr(self, f"_on_{kind}", None) or getattr(self, kind)
        act(*(content[name] for name in self.MESSAGES[kind].split()))

    def _on_hello(self) -> None:
        self.send({"kind": "here"})
        self._on_connected()

    def _on_page(self) -> None:
        self._send_file(".html", self._make_page().encode())

    def _on_png(self) -> None:
        self._send_file(".png", _as_png(self.draw(), 150))

    def _on_normals(self, images: list[int]) -> None:
        self.send({"kind": "normals", "images": images}, [self._normal(image).jpeg for image in images])

    def _send_file(self, ending: str, content: bytes) -> None:
        self.send({"kind": "file", "name": f"{self._title_and_stem()[1]}{ending}"}, [content])

    def _send_thumbs(self, thumbs: dict[int, bytes]) -> None:
        self.send({"kind": "thumbs", "indexes": list(thumbs)}, list(thumbs.values()))


def _explain(mistake: Exception) -> str:
    """A mistake of the user's is a sentence; what else goes wrong has its kind before it."""
    return str(mistake) if isinstance(mistake, MISTAKES) else f"{type(mistake).__name__}: {mistake}"


def _as_png(figure: Figure, dpi: int) -> bytes:
    stream = BytesIO()
    figure.savefig(stream, dpi=dpi)
    return stream.getvalue()
