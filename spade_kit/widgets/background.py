"""What is computed while nobody waits: one small step after another, between the answers to the page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

Step: TypeAlias = "tuple[Callable[[], Any], Callable[[Any], None]]"  # compute in a thread, then tell on the event loop
_PAUSE = 0.3  # s after the last change: a slider may still be moving


class Background:
    """Steps that start over whenever something changes.

    Without a running event loop, in a plain script, nothing is computed until `finish` is called.

    Parameters
    ----------
    steps
        Gives what there is to do, most urgent first, as things stand when it is asked.
    """

    def __init__(self, steps: Callable[[], Iterator[Step]]) -> None:
        self._steps = steps
        self._task: asyncio.Task | None = None

    def restart(self) -> None:
        self.stop()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self._task = loop.create_task(self._run())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def finish(self) -> None:
        """Do all of it now."""
        self.stop()
        for compute, tell in self._steps():
            tell(compute())

    async def _run(self) -> None:
        await asyncio.sleep(_PAUSE)
        for compute, tell in self._steps():
            tell(await asyncio.to_thread(compute))
