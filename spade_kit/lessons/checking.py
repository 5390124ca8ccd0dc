"""Is everything here that a lesson needs, and is an answer right?"""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

_OPEN = "Not answered yet: put your own lines where the dots are, and run the cell again."


def check_environment() -> None:
    """Print what the lessons need and whether it is here; where something is not, a sentence with the cure."""
    print(f"{'needed':<44} here")
    cures = []
    for needed, find_cure in _NEEDED.items():
        cure = find_cure()
        print(f"{needed:<44} {'yes' if cure is None else 'NO'}")
        if cure is not None:
            cures.append(cure)
    print("Ready." if not cures else "\n".join(cures))


def tell(ask: Callable[[], Any], find_mistake: Callable[[Any], str | None], right: str) -> None:
    """Print whether an answer is right, and if not, what is wrong with it.

    Parameters
    ----------
    ask
        Gives the reader's answer; ``...`` where nothing was given yet.
    find_mistake
        Takes it and gives a sentence on what is wrong, None if nothing is.
    right
        What to say of a right answer.
    """
    try:
        answer = ask()
        if answer is ...:
            print(_OPEN)
            return
        mistake = find_mistake(answer)
    except Exception as problem:  # whatever a reader's lines may raise
        mistake = f"It stops with {type(problem).__name__}: {problem}"
    print(f"Right. {right}" if mistake is None else f"Not yet. {mistake}")


def _find_python() -> str | None:
    here = tuple(map(int, platform.python_version_tuple()[:2]))
    return None if here >= (3, 10) else "Python is too old: install 3.10 or later, and run `make lab` again."


def _find_package(name: str, least: tuple[int, ...], *others: str) -> str | None:
    """A package in a version that will do, and others in whatever version."""
    cure = f"`pip install -e .[lab]` in the folder of the project installs {', '.join((name, *others))}."
    try:
        here = tuple(int(part) for part in version(name).split("+")[0].split(".")[: len(least)])
    except (PackageNotFoundError, ValueError):
        return cure
    return None if here >= least and all(map(find_spec, others)) else cure


def _find_weights() -> str | None:
    from spade_kit.features.backbones import load_backbone

    try:
        load_backbone("efficientnet_lite0")
    except (ImportError, OSError, ValueError) as problem:
        return str(problem)
    return None


def _find_photos(dataset: str) -> str | None:
    from spade_kit.datasets.loading import load_dataset

    try:
        load_dataset(dataset)
    except (ImportError, OSError, ValueError) as problem:
        return str(problem)
    return None


_NEEDED: dict[str, Callable[[], str | None]] = {
    "Python 3.10 or later": _find_python,
    "PyTorch 2.6 or later, torchvision, timm": lambda: _find_package("torch", (2, 6), "torchvision", "timm"),
    "a compiler for the search (numba)": lambda: _find_package("numba", (0, 61)),
    "widgets (anywidget, ipywidgets) and plotly": lambda: _find_package("anywidget", (0, 9), "ipywidgets", "plotly"),
    "weights of EfficientNet-Lite0, by SHA-256": _find_weights,
    "photographs of the demo": lambda: _find_photos("demo"),
    "photographs of solar cells (elpv-dataset)": lambda: _find_photos("solar_cells"),
}
