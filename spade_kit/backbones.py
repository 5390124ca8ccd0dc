"""The public name of `spade_kit.features.backbones`."""

from spade_kit.features.backbones import EMBEDDED, Backbone, find_device, load_backbone

__all__ = ["EMBEDDED", "Backbone", "find_device", "load_backbone"]
