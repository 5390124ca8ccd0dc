"""Results, reports and sweeps in, figures out; nothing is computed here."""

from spade_kit.figures.reports import draw_curves, draw_evidence, draw_hardest, draw_sweep
from spade_kit.figures.results import (
    draw_explanation,
    draw_layers,
    draw_match,
    draw_neighbours,
    draw_reconstruction,
    draw_result,
    draw_views,
)

__all__ = [
    "draw_curves",
    "draw_evidence",
    "draw_explanation",
    "draw_hardest",
    "draw_layers",
    "draw_match",
    "draw_neighbours",
    "draw_reconstruction",
    "draw_result",
    "draw_sweep",
    "draw_views",
]
