"""`spade_kit.features.backbones`, under the name that it has for users."""

from spade_kit.features.backbones import EMBEDDED, Backbone, find_device, load_backbone

__all__ = ["EMBEDDED", "Backbone", "find_device", "load_backbone"]
