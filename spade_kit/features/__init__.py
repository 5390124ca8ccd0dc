"""Stage 1: feature pyramids of images."""

from spade_kit.features.backbones import Backbone, load_backbone
from spade_kit.features.pyramid import Pyramid, compute_features, extract_features

__all__ = ["Backbone", "Pyramid", "compute_features", "extract_features", "load_backbone"]
