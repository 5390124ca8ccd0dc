"""The numbers a user gives: checked once, in words."""

from __future__ import annotations

import inspect
import operator
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from math import isfinite
from numbers import Real
from typing import SupportsIndex


def check_count(name: str, value: SupportsIndex, least: int = 1) -> int:
    """An integer of at least ``least``; bool and float are no counts."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, but {value!r} came.")
    return number


def check_index(name: str, value: SupportsIndex, count: int, what: str) -> int:
    """A place among ``count`` things, from 0."""
    place = check_count(name, value, least=0)
    if place >= count:
        raise ValueError(f"{name} is a {what} from 0 to {count - 1}, but {place} came.")
    return place


def cut_count(name: str, value: int, available: int, of: str) -> int:
    """No more than there are; said once where more was asked for."""
    if value > available:
        warn(f"{name}={value} was asked for, but there are {available} {of}: {available} are used.")
    return min(value, available)


def check_number(name: str, value: float, needed: str, *, least: float, most: float) -> float:
    """A real number of numpy's or Python's own from ``least`` to ``most``, as a float; bool is no number."""
    if isinstance(value, Real) and not isinstance(value, bool) and isfinite(value) and least <= value <= most:
        return float(value)
    raise ValueError(f"{name} is {needed}, but {value!r} came.")


def warn(message: str) -> None:
    """A warning that points at the user's line, not at one of ours."""
    frame, level = inspect.currentframe(), 1
    while frame and frame.f_back and frame.f_globals.get("__name__", "").startswith("spade_kit"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def choose(name: str, value: str, legal: Iterable[str]) -> str:
    """One of a list; the nearest is suggested where it is none."""
    legal = list(legal)
    if value not in legal:
        close = get_close_matches(str(value), legal, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{name} is one of {', '.join(map(repr, legal))}, but {value!r} came.{hint}")
    return value
