"""Published weights: which there are, where they lie, how to get and verify them. It knows files, not networks."""

from dualforce_model.weights.errors import MissingWeightsError, WeightsError
from dualforce_model.weights.place import digest, locate
from dualforce_model.weights.registry import WEIGHTS, named

__all__ = ["WEIGHTS", "MissingWeightsError", "WeightsError", "digest", "locate", "named"]
