"""A progress bar for operations that take more than a second."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm


def track(items: Iterable | None = None, **options: Any) -> tqdm:
    """A bar that appears after a second, and never with ``TQDM_DISABLE=1``, which tqdm's notebook bars ignore.

    Nor without an open stderr, as in a windowed program or a service. Use it up before you yield anything: a bar whose
    last step is never asked for turns red.
    """
    silent = os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    nowhere = sys.stderr is None or getattr(sys.stderr, "closed", False)
    return tqdm(items, unit="image", delay=1, disable=silent or nowhere, **options)
