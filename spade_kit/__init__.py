"""spade_kit: inspectable nearest-neighbour anomaly detection in images (SPADE, Cohen & Hoshen 2020).

Names are imported on first use, so that ``import spade_kit`` does not import torch.
"""

import os
from importlib import import_module

# Torch's OpenMP threads keep spinning for about 5 ms after each pass in case more work arrives, and take a core from
# the search meanwhile. With this setting they sleep after a fraction of a millisecond; the pass itself is no slower.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.2.0"

_NAMES = {
    "features.backbones": "Backbone load_backbone",
    "correspondence": "Correspondence match_pixels",
    "datasets.samples": "Dataset Sample",
    "datasets.loading": "load_dataset",
    "features.pyramid": "Pyramid extract_features",
    "evaluation.report": "Report",
    "evaluation.evaluate": "evaluate",
    "evaluation.sweep": "sweep",
    "figures.reports": "draw_curves draw_hardest draw_sweep",
    "figures.results": "draw_explanation draw_layers draw_match draw_neighbours draw_reconstruction draw_result",
    "retrieval": "Neighbours nearest_images",
    "result": "Match Result",
    "spade": "SPADE",
    "widgets": "explore choose_threshold compare_layers map_images paint_defect review_suspects show_stages",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
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
