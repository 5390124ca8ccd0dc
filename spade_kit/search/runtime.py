"""Shared code of the searches: numba and the SIMD loops, if available, threads, settings, lists of the nearest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from spade_kit._arguments import HeldSetting, warn
from spade_kit.search.layout import SIMD_WIDTH

_PROBLEM = ""
try:
    import numba

    from spade_kit.search.simd import borrow, compare, measure, sum_squares
except Exception as problem:  # on any failure: brute force gives the same result, slower
    numba = borrow = compare = measure = sum_squares = None  # type: ignore[assignment]
    _PROBLEM = " ".join(f"{type(problem).__name__}: {problem}".split())

FAR = np.float32(1e38)  # above any distance, and below inf, which is beyond the radius
NOWHERE = np.iinfo(np.int64).max
EVERYWHERE = 1 << 30  # a radius that excludes nothing
SEEDS = 4  # images in which the best block or the same place is tried first, to get tight limits early


def compiled(**options: Any) -> Callable[[Callable], Any]:
    """Compile with numba, if installed; "contract" allows fused multiply-add and nothing else.

    Compiled code is cached beside the package or in the user's cache; if neither is writable, every process compiles
    again.
    """

    def decorate(function: Callable) -> Any:
        if numba is None:
            return function
        settings = {"fastmath": {"contract"}, "nogil": True, "error_model": "numpy", **options}
        try:
            return numba.njit(**settings)(function)
        except RuntimeError:  # no place to cache
            return numba.njit(**{**settings, "cache": False})(function)

    return decorate


@cache
def warn_without_numba() -> None:
    """Warn once if there is no compiler."""
    warn(
        f"numba cannot be imported ({_PROBLEM}): the search compares all pairs, which is about a hundred times slower. "
        "Run pip install --upgrade --force-reinstall numba."
    )


def in_threads(work: Callable[[int, int], None], pieces: int) -> None:
    """Distribute work over threads: ``work(worker, workers)`` does every ``workers``-th piece.

    As many threads as torch is set to use, at most NUMBA_NUM_THREADS. Plain threads, since the kernels release the GIL:
    numba's own threads would abort on concurrent calls, and threads of numba and of torch would spin while the other
    library works.
    """
    threads = max(1, min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS, pieces))  # type: ignore[attr-defined]
    with ThreadPoolExecutor(threads) as pool:
        others = [pool.submit(work, worker, threads) for worker in range(1, threads)]
        work(0, threads)
        for other in others:
            other.result()


def check_images(images: np.ndarray, count: int) -> np.ndarray:
    """Indices into ``count`` images; the kernels check nothing."""
    if len(images) and not 0 <= images.min() <= images.max() < count:
        raise ValueError(
            f"images must be indices into a gallery of {count} images, from 0; got {images.min()} to {images.max()}."
        )
    return np.ascontiguousarray(images, np.int64)


def check_places(place: np.ndarray, candidates: int) -> np.ndarray:
    """Places among ``candidates`` pixels: the last step of a search reads there, and is not checked by its kernel."""
    if not 0 <= place.min() <= place.max() < candidates:
        missing = np.count_nonzero((place < 0) | (place >= candidates))
        raise ValueError(
            f"Every pixel must have a match at a distance that fits into float32; got none for {missing} of "
            f"{place.size}. Check the features for NaN and very large numbers, or lower the weights."
        )
    return np.ascontiguousarray(place)


# the units that compute float32 products in TF32 or bfloat16 if told to; before torch 2.9, one setting for all
_PRODUCTS = (torch.backends.mkldnn, "matmul"), (torch.backends.mkldnn, "conv"), (torch.backends.cuda, "matmul")
_UNITS = [getattr(of, name) for of, name in _PRODUCTS if hasattr(getattr(of, name, None), "fp32_precision")]
_SETTINGS: list[tuple[Callable[[], Any], Callable[[Any], None], Any]] = [  # read, write, value in a new process
    (torch.get_default_dtype, torch.set_default_dtype, torch.float32),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode, 0),
    *((partial(getattr, unit, "fp32_precision"), partial(setattr, unit, "fp32_precision"), "ieee") for unit in _UNITS),
]
if not _UNITS:
    _SETTINGS.append((torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"))


def _write_settings(values: Sequence[Any]) -> None:
    for (read, write, _), value in zip(_SETTINGS, values):
        if read() != value:
            write(value)


_USUAL = [value for *_, value in _SETTINGS]
_as_in_a_new_process = HeldSetting(lambda: [read() for read, *_ in _SETTINGS], _write_settings, _USUAL)


@contextmanager
def usual_settings(device: torch.device) -> Iterator[None]:
    """Compute as a new process does, whatever defaults, autocast or modes the user has set in torch.

    Bounds need it: they do not hold in bfloat16 or TF32. Default dtypes also change networks and their weights.
    """
    is_usual = torch.empty(0).device.type == "cpu"  # then without torch's mode, which would slow every call
    with (
        _as_in_a_new_process,
        nullcontext() if is_usual else torch.device("cpu"),
        torch.autocast("cpu", enabled=False),
        torch.autocast(device.type, enabled=False),
    ):
        yield


@compiled(forceinline=True)
def make_room(levels):
    """What a thread's calls of `compare` and `measure` read and write: nothing above, sums, exact distances."""
    above, sums = np.zeros((levels, SIMD_WIDTH), np.float32), np.empty((levels, 4, SIMD_WIDTH), np.float32)
    return above, sums, np.empty((levels, SIMD_WIDTH), np.float32)


@compiled(forceinline=True)
def may_enter(cell, pixel, distance, start, best, found):
    """Whether a candidate at this distance, at place ``start`` or later, can be among a pixel's nearest.

    A candidate that ties with the last of them cannot, if that one lies before ``start``. On constant images this ends
    the search early.
    """
    last = best.shape[2] - 1
    return distance < best[cell, pixel, last] or (
        distance == best[cell, pixel, last] and start <= found[cell, pixel, last]
    )


@compiled(forceinline=True)
def insert(cell, pixel, distance, place, best, found):
    """Insert a candidate into a pixel's sorted list of the nearest; on a tie the first place comes first.

    ``best`` and ``found`` (cells, pixels, kappa) hold distances and places.
    """
    at = best.shape[2] - 1
    if distance > best[cell, pixel, at] or (distance == best[cell, pixel, at] and place >= found[cell, pixel, at]):
        return
    for earlier in range(at):
        if place == found[cell, pixel, earlier]:  # already in the list
            return
    while at > 0 and (
        distance < best[cell, pixel, at - 1]
        or (distance == best[cell, pixel, at - 1] and place < found[cell, pixel, at - 1])
    ):
        best[cell, pixel, at], found[cell, pixel, at] = best[cell, pixel, at - 1], found[cell, pixel, at - 1]
        at -= 1
    best[cell, pixel, at], found[cell, pixel, at] = distance, place
