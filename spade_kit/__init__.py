"""spade_kit: see how nearest neighbours find what is wrong in a photograph (SPADE, Cohen & Hoshen 2020).

Names are looked up on first use, so that ``import spade_kit`` takes no torch with it.
"""

import os
from importlib import import_module

# Torch's OpenMP threads go on spinning for about 5 ms after each pass, in case more work comes, and keep a core from
# the search meanwhile. With this they sleep after a fraction of a millisecond; the pass itself takes as long as before.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"

_HOME = {
    "Backbone": "features.backbones",
    "load_backbone": "features.backbones",
    "Correspondence": "correspondence",
    "match_pixels": "correspondence",
    "Dataset": "datasets.samples",
    "Sample": "datasets.samples",
    "load_dataset": "datasets.loading",
    "Pyramid": "features.pyramid",
    "extract_features": "features.pyramid",
    "Report": "evaluation.report",
    "evaluate": "evaluation.evaluate",
    "draw_curves": "figures.reports",
    "draw_hardest": "figures.reports",
    "draw_sweep": "figures.reports",
    "draw_explanation": "figures.results",
    "draw_layers": "figures.results",
    "draw_match": "figures.results",
    "draw_neighbours": "figures.results",
    "draw_reconstruction": "figures.results",
    "draw_result": "figures.results",
    "Neighbours": "retrieval",
    "nearest_images": "retrieval",
    "Match": "result",
    "Result": "result",
    "SPADE": "spade",
    "sweep": "evaluation.sweep",
    "explore": "widgets",
    "choose_threshold": "widgets",
    "compare_layers": "widgets",
    "paint_defect": "widgets",
    "review_suspects": "widgets",
}
_MODULES = {"backbones", "correspondence", "datasets", "features", "figures"}
_MODULES |= {"metrics", "reference", "retrieval", "scores"}

__all__ = [*_HOME, "metrics"]


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES})
