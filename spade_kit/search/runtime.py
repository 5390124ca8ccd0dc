"""What the compiled searches share: the compiler and its vectors, if it is there, threads, the list of the nearest."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch

from spade_kit._arguments import warn

_PROBLEM = ""
try:
    import numba

    from spade_kit.search.simd import borrow, compare, measure
except Exception as problem:  # whatever it is: brute force gives the same answer, later
    numba = borrow = compare = measure = None  # type: ignore[assignment]
    _PROBLEM = " ".join(f"{type(problem).__name__}: {problem}".split())

FAR = np.float32(1e38)  # farther than any distance, and nearer than inf, which is out of reach
NOWHERE = np.iinfo(np.int64).max


def compiled(**options: Any) -> Callable[[Callable], Any]:
    """numba's compiler, where it is installed; "contract" allows fused multiply-add and no other liberty.

    What is compiled is kept beside the package or in the user's cache; where neither can be written, it is compiled
    anew in every process.
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
    """Once, where there is no compiler."""
    warn(
        f"numba cannot be imported ({_PROBLEM}): the search compares all pairs, some hundred times more slowly. "
        "Run pip install --upgrade --force-reinstall numba."
    )


def in_threads(work: Callable[[int, int], None], pieces: int) -> None:
    """Share out some pieces of work: ``work(worker, workers)`` does every ``workers``-th of them.

    As many threads as torch is told to use, and no more than NUMBA_NUM_THREADS. Plain ones, since the kernels let go
    of the interpreter: numba's own would abort on concurrent calls, and both numba's and torch's would spin while the
    other's work.
    """
    threads = max(1, min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS, pieces))  # type: ignore[attr-defined]
    with ThreadPoolExecutor(threads) as pool:
        others = [pool.submit(work, worker, threads) for worker in range(1, threads)]
        work(0, threads)
        for other in others:
            other.result()


@compiled(forceinline=True)
def may_enter(cell, pixel, distance, start, best, found):
    """Whether a candidate at this distance, from place ``start`` on, can be among a pixel's nearest.

    One at the distance of the last of them cannot, if that lies before. Where all is alike, this ends the search soon.
    """
    last = best.shape[2] - 1
    return distance < best[cell, pixel, last] or (
        distance == best[cell, pixel, last] and start <= found[cell, pixel, last]
    )


@compiled(forceinline=True)
def insert(cell, pixel, distance, place, best, found):
    """Put a candidate into a pixel's sorted list of the nearest; of equal ones the first place goes before.

    ``best`` and ``found`` (cells, pixels, kappa) hold distances and places.
    """
    at = best.shape[2] - 1
    if distance > best[cell, pixel, at] or (distance == best[cell, pixel, at] and place >= found[cell, pixel, at]):
        return
    for earlier in range(at):
        if place == found[cell, pixel, earlier]:  # one that comes by again
            return
    while at > 0 and (
        distance < best[cell, pixel, at - 1]
        or (distance == best[cell, pixel, at - 1] and place < found[cell, pixel, at - 1])
    ):
        best[cell, pixel, at], found[cell, pixel, at] = best[cell, pixel, at - 1], found[cell, pixel, at - 1]
        at -= 1
    best[cell, pixel, at], found[cell, pixel, at] = distance, place
