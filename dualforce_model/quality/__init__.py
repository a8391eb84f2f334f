"""How good a clip is, and whether it is good enough. Measuring needs no weights; a verdict needs only stored scores."""

from dualforce_model.quality.config import MeasureConfig, weights_of
from dualforce_model.quality.measure import MEASURE_VERSION, SCORES, measure
from dualforce_model.quality.verdict import CHECKS, Check, QualityConfig, verdict

__all__ = [
    "CHECKS",
    "MEASURE_VERSION",
    "SCORES",
    "Check",
    "MeasureConfig",
    "QualityConfig",
    "measure",
    "verdict",
    "weights_of",
]
