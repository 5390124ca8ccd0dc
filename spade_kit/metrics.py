"""`spade_kit.evaluation.metrics`, under the name that it has for users."""

from spade_kit.evaluation.metrics import (
    aupro,
    average_precision,
    f1_max,
    f1_threshold,
    pixel_average_precision,
    pixel_f1_max,
    pixel_roc_auc,
    roc_auc,
)

__all__ = [
    "aupro",
    "average_precision",
    "f1_max",
    "f1_threshold",
    "pixel_average_precision",
    "pixel_f1_max",
    "pixel_roc_auc",
    "roc_auc",
]
