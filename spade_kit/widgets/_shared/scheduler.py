"""Background work in small steps, interleaved with the replies to the page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import suppress
from threading import RLock
from typing import Any, TypeAlias

Steps: TypeAlias = "Generator[Callable[[], Any], Any, Any]"  # yields what a thread computes, and is sent the result
_PAUSE = 0.3  # s after the last change: a slider may still be moving


class Background:
    """Runs steps and starts over on every change; changes may come from any thread.

    Without a running event loop, as in a plain script, nothing is computed until `finish` is called.

    Parameters
    ----------
    steps
        Yields the work that is pending at the time of the call, most urgent first, and takes in the results; only the
        work itself runs in a thread.
    lock
        Held while results are taken in, and by whoever changes what the steps depend on.
    report
        Called with an error that ends a round: nobody waits for it.
    """

    def __init__(self, steps: Callable[[], Steps], lock: RLock, report: Callable[[Exception], None]) -> None:
        self._steps, self._lock, self._report = steps, lock, report
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
        with self._lock, suppress(StopIteration):  # raised when all is done
            self.stop()
            steps, value = self._steps(), None
            while True:
                value = steps.send(value)()

    def _begin(self, number: int) -> None:
        self._task = asyncio.ensure_future(self._run(number))  # held here: the loop keeps only weak references

    async def _run(self, number: int) -> None:
        await asyncio.sleep(_PAUSE)
        steps, value = self._steps(), None
        try:
            while True:
                with self._lock:  # a change comes before, and ends this round, or after
                    if number != self._round:
                        return
                    work = steps.send(value)
                value = await asyncio.to_thread(work)
        except StopIteration:
            pass
        except Exception as mistake:
            self._report(mistake)
