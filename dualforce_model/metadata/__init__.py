"""A run's features made one dataset: validated, split by person, summed up. It knows stored features, no extractor."""

from dualforce_model.metadata.build import FORMAT, build
from dualforce_model.metadata.config import MetadataConfig

__all__ = ["FORMAT", "MetadataConfig", "build"]
