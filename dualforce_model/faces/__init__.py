"""Where the faces are: shots, tracks, one steady crop per track, landmarks. It knows nothing of verdicts or models.

A source is read twice, one frame at a time. `scan` finds shots and face tracks; `crop` renders the clips and measures
every frame once, so that later stages neither detect faces nor decode the source again.
"""

from dualforce_model.faces.config import FaceCropConfig
from dualforce_model.faces.crop import crop_source
from dualforce_model.faces.insightface import weights_of
from dualforce_model.faces.picture import crop_picture

__all__ = ["FaceCropConfig", "crop_picture", "crop_source", "weights_of"]
