"""How well scores separate normal from anomalous; defined in `spade_kit.evaluation.metrics`."""

from spade_kit.evaluation.metrics import aupro as aupro
from spade_kit.evaluation.metrics import average_precision as average_precision
from spade_kit.evaluation.metrics import f1_max as f1_max
from spade_kit.evaluation.metrics import f1_threshold as f1_threshold
from spade_kit.evaluation.metrics import pixel_average_precision as pixel_average_precision
from spade_kit.evaluation.metrics import pixel_f1_max as pixel_f1_max
from spade_kit.evaluation.metrics import pixel_roc_auc as pixel_roc_auc
from spade_kit.evaluation.metrics import roc_auc as roc_auc
