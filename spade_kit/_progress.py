"""A progress bar for operations that take more than a second."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm


def track(items: Iterable | None = None, **options: Any) -> tqdm:
    """A bar that appears after a second, and never with ``TQDM_DISABLE=1``, which tqdm's notebook bars ignore."""
    silent = os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    return tqdm(items, unit="image", delay=1, disable=silent, **options)
