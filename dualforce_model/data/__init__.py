"""Training windows: what is read from a run folder, and in which order. It knows nothing of models or losses."""

from dualforce_model.data.dataset import Clip, Dataset
from dualforce_model.data.order import BatchOrder, Place, WindowOrder
from dualforce_model.data.windows import Sample, WindowReader, Windows, collate

__all__ = ["BatchOrder", "Clip", "Dataset", "Place", "Sample", "WindowOrder", "WindowReader", "Windows", "collate"]
