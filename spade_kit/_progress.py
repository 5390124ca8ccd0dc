"""A progress bar for operations that take more than a second."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm


class _Bar(tqdm):
    """A bar whose text in a saved notebook, too, ends complete: tqdm's own is that of the moment when it appeared."""

    _output: Any = None

    def display(self, *args: Any, **options: Any) -> Any:
        if getattr(self, "displayed", True) is False and options.get("check_delay", True):  # only in notebooks
            from IPython.display import display

            self._output, self.displayed = display(self.container, display_id=True), True
        return super().display(*args, **options)

    def close(self) -> None:
        super().close()
        if self._output is not None:
            self._output.update(self.container)
            self._output = None


def track(items: Iterable | None = None, **options: Any) -> tqdm:
    """A bar that appears after a second, and never with ``TQDM_DISABLE=1``, which tqdm's notebook bars ignore.

    Nor without an open stderr, as in a windowed program or a service. Use it up before you yield anything: a bar whose
    last step is never asked for turns red.
    """
    silent = os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    nowhere = sys.stderr is None or getattr(sys.stderr, "closed", False)
    return _Bar(items, unit="image", delay=1, disable=silent or nowhere, **options)
