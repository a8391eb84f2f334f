"""All stages by name, in the order of the workflow."""

from __future__ import annotations

from tasks import download, face_crop, features, generate, metadata, quality, source, text, train
from tasks.stage import Stage

STAGES: dict[str, Stage] = {
    "download": download.STAGE,
    "source": source.STAGE,
    "face_crop": face_crop.STAGE,
    "quality": quality.STAGE,
    **features.STAGES,
    "text": text.STAGE,
    "metadata": metadata.STAGE,
    **train.STAGES,
    "generate": generate.STAGE,
}
