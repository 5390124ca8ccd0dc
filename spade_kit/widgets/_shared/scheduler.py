"""Background work in small steps, interleaved with the replies to the page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

Step: TypeAlias = "tuple[Callable[[], Any], Callable[[Any], None]]"  # compute in a thread, report on the event loop
_PAUSE = 0.3  # s after the last change: a slider may still be moving


def no_op(_: Any) -> None:
    """For steps without a result to report."""


def do_nothing() -> None:
    """For steps that only report."""


class Background:
    """Runs steps and starts over on every change; changes may come from any thread.

    Without a running event loop, as in a plain script, nothing is computed until `finish` is called.

    Parameters
    ----------
    steps
        Yields the work that is pending at the time of the call, most urgent first.
    """

    def __init__(self, steps: Callable[[], Iterator[Step]]) -> None:
        self._steps = steps
        self._round = 0  # steps of an earlier round are abandoned
        self._task: asyncio.Task | None = None
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None

    def restart(self) -> None:
        self._round += 1
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._begin, self._round)

    def stop(self) -> None:
        self._round += 1

    def finish(self) -> None:
        """Run all steps now."""
        self.stop()
        for compute, tell in self._steps():
            tell(compute())

    def _begin(self, number: int) -> None:
        self._task = asyncio.ensure_future(self._run(number))  # held here: the loop keeps only weak references

    async def _run(self, number: int) -> None:
        await asyncio.sleep(_PAUSE)
        if number != self._round:
            return
        for compute, tell in self._steps():
            value = await asyncio.to_thread(compute)
            if number != self._round:
                return
            tell(value)
