"""Figures of results, reports and sweeps; nothing is computed here."""

from spade_kit.figures.reports import draw_curves as draw_curves
from spade_kit.figures.reports import draw_hardest as draw_hardest
from spade_kit.figures.reports import draw_sweep as draw_sweep
from spade_kit.figures.reports import draw_threshold_study as draw_threshold_study
from spade_kit.figures.results import draw_explanation as draw_explanation
from spade_kit.figures.results import draw_layers as draw_layers
from spade_kit.figures.results import draw_match as draw_match
from spade_kit.figures.results import draw_neighbours as draw_neighbours
from spade_kit.figures.results import draw_reconstruction as draw_reconstruction
from spade_kit.figures.results import draw_result as draw_result
from spade_kit.figures.results import draw_views as draw_views
