"""Generation: a picture and a voice in, video with that voice out, frame by frame. It knows no workflow, no ledger."""

from dualforce_model.generate.config import GenerateConfig

__all__ = ["GenerateConfig"]
