"""The public names for editors and type checkers, which do not run the imports on first use."""
# ruff: noqa: I001 (a module a line)

from spade_kit import (
    backbones as backbones,
    correspondence as correspondence,
    datasets as datasets,
    features as features,
    figures as figures,
    metrics as metrics,
    reference as reference,
    retrieval as retrieval,
    scores as scores,
)
from spade_kit.correspondence import Correspondence as Correspondence, match_pixels as match_pixels
from spade_kit.datasets.loading import load_dataset as load_dataset
from spade_kit.datasets.samples import Dataset as Dataset, Sample as Sample
from spade_kit.evaluation.evaluate import evaluate as evaluate
from spade_kit.evaluation.report import Report as Report
from spade_kit.evaluation.sweep import sweep as sweep
from spade_kit.features.backbones import Backbone as Backbone, load_backbone as load_backbone
from spade_kit.features.pyramid import Pyramid as Pyramid, extract_features as extract_features
from spade_kit.figures.reports import draw_curves as draw_curves, draw_hardest as draw_hardest, draw_sweep as draw_sweep
from spade_kit.figures.results import (
    draw_explanation as draw_explanation,
    draw_layers as draw_layers,
    draw_match as draw_match,
    draw_neighbours as draw_neighbours,
    draw_reconstruction as draw_reconstruction,
    draw_result as draw_result,
)
from spade_kit.result import Match as Match, Result as Result
from spade_kit.retrieval import Neighbours as Neighbours, nearest_images as nearest_images
from spade_kit.spade import SPADE as SPADE
from spade_kit.widgets import (
    choose_threshold as choose_threshold,
    compare_layers as compare_layers,
    explore as explore,
    map_images as map_images,
    paint_defect as paint_defect,
    review_suspects as review_suspects,
    show_stages as show_stages,
)

__version__: str
