"""Training: loop, optimiser, checkpoints, exact resume. Runs alone or under `accelerate launch`; knows no workflow."""

from dualforce_model.train.config import TrainConfig

__all__ = ["TrainConfig"]
