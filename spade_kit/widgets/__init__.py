"""Interactive widgets for notebooks: state and events only; all computation lives in other modules."""

from spade_kit.widgets.chooser import Chooser, choose_threshold
from spade_kit.widgets.comparison import Comparison, compare_layers
from spade_kit.widgets.explorer import Explorer, explore
from spade_kit.widgets.painting import Painting, paint_defect
from spade_kit.widgets.review import Review, review_suspects

__all__ = [
    "Chooser",
    "Comparison",
    "Explorer",
    "Painting",
    "Review",
    "choose_threshold",
    "compare_layers",
    "explore",
    "paint_defect",
    "review_suspects",
]
