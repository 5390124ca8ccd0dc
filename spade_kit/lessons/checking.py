"""Checks of the environment that the lessons need, and of answers to their exercises."""

from __future__ import annotations

import json
import os
import platform
import reprlib
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from html import escape
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_OPEN = "Not answered yet: replace the dots with your own code, and run the cell again."
_NOTHING = "The function returned nothing: begin the last line with return."


def check_environment() -> None:
    """Print what the lessons need and whether it is installed; print the cure for anything that is missing.

    In Jupyter's page, also give the figures of the lesson their descriptions; see `describe_figures`.
    """
    describe_figures()
    print(f"{'needed':<44} installed")
    cures = []
    for needed, find_cure in _NEEDED.items():
        cure = find_cure()
        print(f"{needed:<44} {'yes' if cure is None else 'NO'}")
        if cure is not None:
            cures.append(cure)
    print("Ready." if not cures else "\n".join(cures))


def describe_figures() -> None:
    """Show figures as HTML pictures with an alternative text: that in the metadata of the cell as it is in the file.

    Jupyter's page shows a PNG without one and does not tell the kernel the metadata of a cell. So the file is read,
    which the server names; elsewhere nothing changes, nor do the figures of cells that have been edited.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    lesson: dict[str, Any] = {"cells": []}
    with suppress(KeyError, OSError, ValueError):
        lesson = json.loads(Path(os.environ["JPY_SESSION_NAME"]).read_text(encoding="utf-8"))
    alts = {"".join(cell["source"]).strip(): cell["metadata"].get("alt") for cell in lesson["cells"]}
    if shell is None or not any(alts.values()):
        return

    def show(figure: Any) -> dict[str, str]:
        alt, picture = alts.get(shell.user_ns["_ih"][-1].strip()), draw(figure)
        return {"text/html": f'<img src="data:image/png;base64,{picture}" alt="{escape(alt)}">'} if alt else {}

    draw = shell.display_formatter.formatters["image/png"]
    shell.display_formatter.mimebundle_formatter.for_type_by_name("matplotlib.figure", "Figure", show)


def tell(ask: Callable[[], Any], find_mistake: Callable[[Any], str | None], right: str) -> None:
    """Print whether an answer is right and, if it is not, the mistake.

    Parameters
    ----------
    ask
        Returns the reader's answer, or a list of answers; ``...`` where there is no answer yet.
    find_mistake
        Takes the answer and returns a sentence on the mistake, or None if there is none.
    right
        The sentence to print after a right answer.
    """
    try:
        answer = ask()
    except Exception as problem:  # the reader's code may raise anything
        print(f"Not yet. Your code raises {type(problem).__name__}: {problem}")
        return
    answers = answer if isinstance(answer, list) else [answer]
    if any(one is ... for one in answers):
        print(_OPEN)
        return
    try:
        mistake = _NOTHING if any(one is None for one in answers) else find_mistake(answer)
    except Exception:  # such as a text for a number, or one number for three
        mistake = f"The exercise asks for an answer of another form; got {reprlib.repr(answer)}."
    print(f"Right. {right}" if mistake is None else f"Not yet. {mistake}")


def explain(answer: Any, right: Any, mistakes: Mapping[str, Any], otherwise: str, rtol: float = 1e-5) -> str | None:
    """Explain an answer: None if it is right, the sentence on the mistake that leads to it, or ``otherwise``."""
    import numpy as np  # imported here, so that check_environment runs with nothing installed

    for told, value in [(None, right), *mistakes.items()]:
        if np.allclose(answer, value, rtol=rtol):
            return told
    return otherwise


def check_answer(
    answer: Any,
    right: Any,
    mistakes: Mapping[str, Any],
    otherwise: str | Callable[[Any], str],
    told: str,
    rtol: float = 1e-5,
) -> None:
    """Print whether an answer is a number or list of numbers, and if not, why; see `tell` and `explain`.

    ``answer`` may be a function that computes it, ``otherwise`` one that takes it.
    """

    def find_mistake(got: Any) -> str | None:
        return explain(got, right, mistakes, otherwise(got) if callable(otherwise) else otherwise, rtol)

    tell(answer if callable(answer) else lambda: answer, find_mistake, told)


def _find_python() -> str | None:
    here = tuple(map(int, platform.python_version_tuple()[:2]))
    return None if here >= (3, 10) else "Python is too old: install 3.10 or later and run `make lab` again."


def _find_package(name: str, least: tuple[int, ...], *others: str) -> str | None:
    """Check for one package in at least this version, and for others in any version."""
    cure = f"Run `pip install -e .[lab]` in the project folder to install {', '.join((name, *others))}."
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
    "the compiler for the search (numba)": lambda: _find_package("numba", (0, 61)),
    "widgets (anywidget, ipywidgets) and plotly": lambda: _find_package("anywidget", (0, 9), "ipywidgets", "plotly"),
    "EfficientNet-Lite0 weights (SHA-256 check)": _find_weights,
    "demo images": lambda: _find_photos("demo"),
    "solar-cell images (elpv-dataset)": lambda: _find_photos("solar_cells"),
}
