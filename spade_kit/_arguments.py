"""Checks of user input, with readable errors, and settings of other libraries that must not change an answer."""

from __future__ import annotations

import inspect
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from difflib import get_close_matches
from math import isfinite
from numbers import Real
from threading import Lock
from typing import Any, SupportsIndex

import numpy as np


def check_count(name: str, value: SupportsIndex, least: int = 1, most: int | None = None) -> int:
    """An integer from ``least`` to ``most``; bool and float are rejected."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least or (most is not None and number > most):
        needed = f"of at least {least}" if most is None else f"from {least} to {most:,}"
        raise ValueError(f"{name} must be a whole number {needed}; got {value!r}.")
    return number


def check_switch(name: str, value: bool) -> bool:
    """True or False, also NumPy's; other values are rejected, since any text is true."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be True or False; got {value!r}.")
    return bool(value)


def check_index(name: str, value: SupportsIndex, count: int, what: str) -> int:
    """An index into ``count`` items, from 0."""
    place = check_count(name, value, least=0)
    if place >= count:
        raise ValueError(f"{name} must refer to one of the {what}s, from 0 to {count - 1}; got {place}.")
    return place


def cut_count(name: str, value: int, available: int, of: str) -> int:
    """At most ``available``; warns if ``value`` is larger."""
    if value > available:
        warn(f"{name}={value} exceeds the number of {of} ({available}); using {available}.")
    return min(value, available)


def check_number(name: str, value: float, needed: str, *, least: float, most: float) -> float:
    """A real number of Python or NumPy from ``least`` to ``most``, as a float; bool is rejected."""
    if isinstance(value, Real) and not isinstance(value, bool):
        with suppress(OverflowError):  # raised for 10**400
            number = float(value)  # compared as one: a limit may be too large for NumPy's small floats
            if isfinite(number) and least <= number <= most:
                return number
    raise ValueError(f"{name} must be {needed}; got {value!r}.")


_held: ContextVar[list[str] | None] = ContextVar("_held", default=None)


@contextmanager
def hold_warnings() -> Iterator[list[str]]:
    """Collect the messages of `warn` in this thread, to be issued where the user's line is known."""
    messages: list[str] = []
    before = _held.set(messages)
    try:
        yield messages
    finally:
        _held.reset(before)


def warn(message: str) -> None:
    """Issue a warning that points at the user's line, not at the package's."""
    if (held := _held.get()) is not None:
        held.append(message)
        return
    frame, level = inspect.currentframe(), 1
    while frame and frame.f_back and frame.f_globals.get("__name__", "").startswith("spade_kit"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def check_attribute(thing: object, name: str) -> None:
    """Refuse to set a public attribute that an object does not have: Python would accept any typing error."""
    missing = object()
    if not name.startswith("_") and inspect.getattr_static(thing, name, missing) is missing:
        hint = suggest(name, [known for known in dir(thing) if known[0] != "_"])
        raise AttributeError(f"A {type(thing).__name__} has no attribute {name!r}.{hint}")


def check_made(by: str, value: object, kind: type) -> None:
    """A value of a public class, which ``by`` makes."""
    if not isinstance(value, kind):
        raise ValueError(f"Expected a {kind.__name__}, from {by}; got a value of type {type(value).__name__}.")


def choose(name: str, value: str, legal: Iterable[str]) -> str:
    """A value from a list; for any other value the error suggests the closest legal one."""
    legal = list(legal)
    if value not in legal:
        hint = suggest(str(value), legal)
        raise ValueError(f"{name} must be one of {', '.join(map(repr, legal))}; got {value!r}.{hint}")
    return value


class HeldSetting:
    """A setting of the whole process: it has one value while any thread is inside, and then its own again."""

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], None], value: Any) -> None:
        self._read, self._write, self._value = read, write, value
        self._lock, self._inside, self._before = Lock(), 0, value

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = self._read()
                self._write(self._value)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._write(self._before)


def spread_evenly(count: int, most: int) -> list[int]:
    """At most so many of ``count`` indices, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist()


def suggest(name: str, known: Sequence[str]) -> str:
    """A question that names the most similar of the known names; empty if none is similar."""
    close = get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
