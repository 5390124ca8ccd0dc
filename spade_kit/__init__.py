"""spade_kit: inspectable nearest-neighbour anomaly detection in images (SPADE, Cohen & Hoshen 2020).

Names are imported on first use, so that ``import spade_kit`` does not import torch.
"""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def _collect_once() -> Iterator[None]:
    """Torch, torchvision and timm bring half a million objects that stay.

    Python would look for garbage among them each time that there are a quarter more, the last time while the user waits
    for a widget. To look once, at the end, makes the imports 0.7 s faster, of 4 s, and the first widget 0.3 s.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        if gc.get_count()[0] > 100_000:
            gc.collect()


def __getattr__(name: str):
    if name not in _HOME and name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _collect_once():
        module = import_module(f"{__name__}.{_HOME.get(name, name)}")
    return module if name in _MODULES else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES})
