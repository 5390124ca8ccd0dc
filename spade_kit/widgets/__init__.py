"""What one moves and points at in a notebook: state and events, nothing that could be computed elsewhere."""

from spade_kit.widgets.explorer import Explorer, explore

__all__ = ["Explorer", "explore"]
