"""Run the examples of the reference that draw, and show below each what it draws: a picture, or a live widget."""

from __future__ import annotations

import contextlib
import doctest
import io
from typing import Any

import anywidget
import plotly.graph_objects
from lessons import DOCS, PAGES, draw_curves, frame, save, write
from matplotlib.figure import Figure

from spade_kit.shell import main

_DRAWN = (Figure, plotly.graph_objects.Figure, anywidget.AnyWidget)
_PICTURES = PAGES.parent / "pictures"
DRAWN = {  # what the example of each function shows
    "draw_result": "A chipped part, its anomaly map with a bright spot at the rim, and the outline of the spot.",
    "draw_match": "A pixel of the chipped rim, the normal pixel nearest to it on another part, and both close up.",
    "draw_explanation": "The chipped part, its map and outline; below, the peak beside its nearest normal pixel.",
    "draw_layers": "The contribution of each layer to the map, and below each the map of this layer searched alone.",
    "draw_neighbours": "The chipped part and the three most similar normal parts, with their distances.",
    "draw_reconstruction": "The chipped part, and the same part put together from normal patches: it is whole.",
    "draw_curves": "Curves of the true-positive rate, precision, and overlap with defects, by false-alarm rate.",
    "draw_hardest": "The defective parts that score lowest and the good part that scores highest, with their maps.",
    "draw_sweep": "AUPRO and ROC-AUC as K grows.",
    "explore": "The explorer: the part, its map, the normal part that explains a pixel, and the neighbours.",
    "choose_threshold": "Histograms of good and defective parts with a threshold to drag.",
    "compare_layers": "One part under several views side by side, with a shared probe.",
    "map_images": "All images as points, near each other where their features are.",
    "paint_defect": "A good part to draw defects on, with its map.",
    "show_stages": "Six cards, from the image to its segmentation, each of which opens a stage of the method.",
    "review_suspects": "The normal parts, the most anomalous first, to be labelled.",
}


def setup(app: Any) -> None:
    app.connect("builder-inited", lambda app: write_commands())
    app.connect("autodoc-process-docstring", _add_drawing, priority=900)  # after numpydoc


def _add_drawing(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    name = name.removeprefix("spade_kit.")
    if name not in DRAWN:
        return
    drawn = run_example(thing.__doc__)
    if isinstance(drawn, plotly.graph_objects.Figure):
        html = draw_curves(drawn, "../../course/")
        lines += ["", ".. raw:: html", "", *(f"   {line}" for line in html.splitlines()), ""]
    elif isinstance(drawn, Figure):
        _PICTURES.mkdir(parents=True, exist_ok=True)
        drawn.savefig(_PICTURES / f"{name}.png", dpi=100, bbox_inches="tight")
        lines += ["", f".. image:: /_made/pictures/{name}.png", f"   :alt: {DRAWN[name]}", ""]
    else:
        page = PAGES / "reference" / "api" / f"{name}.page.html"
        save(drawn, page)
        lines += ["", ".. raw:: html", "", f"   {frame(page.name, DRAWN[name])}", ""]


def run_example(docstring: str) -> Any:
    """Run the example of a docstring; return the first figure or widget that it makes."""
    names: dict[str, Any] = {}
    for step in doctest.DocTestParser().get_examples(docstring):
        exec(step.source, names)
    return next(made for made in names.values() if isinstance(made, _DRAWN))


def write_commands() -> None:
    """Write what each command says of itself into _made/commands.md."""
    lines = []
    for command in ("fit", "predict", "lab", "doctor"):
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            main([command, "--help"])
        lines.append(f"## spade-kit {command}\n\n```text\n{said.getvalue().strip()}\n```\n")
    write(DOCS / "_made" / "commands.md", "\n".join(lines))
