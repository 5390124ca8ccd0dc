"""Is everything here that a lesson needs, and is an answer right?"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
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
        Gives the reader's answer, or a list of answers; ``...`` where nothing was given yet.
    find_mistake
        Takes it and gives a sentence on what is wrong, None if nothing is.
    right
        What to say of a right answer.
    """
    try:
        answer = ask()
        if any(one is ... for one in (answer if isinstance(answer, list) else [answer])):
            print(_OPEN)
            return
        mistake = find_mistake(answer)
    except Exception as problem:  # whatever a reader's lines may raise
        mistake = f"It stops with {type(problem).__name__}: {problem}"
    print(f"Right. {right}" if mistake is None else f"Not yet. {mistake}")


def explain(answer: Any, right: Any, mistakes: Mapping[str, Any], otherwise: str, rtol: float = 1e-5) -> str | None:
    """None if an answer is right; else the sentence on the mistake that leads to this answer, or another sentence."""
    import numpy as np  # here, so that check_environment needs nothing that has to be installed

    for told, value in [(None, right), *mistakes.items()]:
        if np.allclose(answer, value, rtol=rtol):
            return told
    return otherwise


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

    return _try(load_backbone, "efficientnet_lite0")


def _find_photos(dataset: str) -> str | None:
    from spade_kit.datasets.loading import load_dataset

    return _try(load_dataset, dataset)


def _try(load: Callable[[str], Any], name: str) -> str | None:
    try:
        load(name)
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
