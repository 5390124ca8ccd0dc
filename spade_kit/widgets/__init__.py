"""Interactive widgets for notebooks: state and events only; all computation lives in other modules."""

from spade_kit.widgets.atlas import Atlas as Atlas
from spade_kit.widgets.atlas import map_images as map_images
from spade_kit.widgets.chooser import Chooser as Chooser
from spade_kit.widgets.chooser import choose_threshold as choose_threshold
from spade_kit.widgets.comparison import Comparison as Comparison
from spade_kit.widgets.comparison import compare_layers as compare_layers
from spade_kit.widgets.explorer import Explorer as Explorer
from spade_kit.widgets.explorer import explore as explore
from spade_kit.widgets.painting import Painting as Painting
from spade_kit.widgets.painting import paint_defect as paint_defect
from spade_kit.widgets.review import Review as Review
from spade_kit.widgets.review import review_suspects as review_suspects
from spade_kit.widgets.stages import Stages as Stages
from spade_kit.widgets.stages import show_stages as show_stages
