"""Speech ratio by Silero's voice activity detector (onnxruntime, 16 kHz): a network's ear instead of energy in a band."""

from __future__ import annotations

from functools import cache

import numpy as np

from dualforce_model import weights
from dualforce_model.timeline import SAMPLE_RATE

WEIGHTS = "silero_vad"
FILE = "silero_vad_16k_op15.onnx"
STEP, CONTEXT = 512, 64  # samples that the network takes at a time, and those of the step before that it sees again
SPEECH = 0.5  # Silero's own threshold


class SileroVad:
    """Probability of speech for each 32 ms of sound."""

    def __init__(self, model: str):
        from onnxruntime import InferenceSession, SessionOptions

        options = SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # the work is spread over processes
        self._session = InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        """float32 [n / 512 rounded up], 0..1, of 16 kHz mono float32 [n]; the last step is filled up with silence."""
        steps = -(-len(audio) // STEP)
        sound = np.zeros(CONTEXT + steps * STEP, np.float32)
        sound[CONTEXT : CONTEXT + len(audio)] = audio
        state, rate = np.zeros((2, 1, 128), np.float32), np.array(SAMPLE_RATE, np.int64)
        out = np.empty(steps, np.float32)
        for step in range(steps):
            piece = sound[None, step * STEP : step * STEP + CONTEXT + STEP]
            probability, state = self._session.run(None, {"input": piece, "state": state, "sr": rate})
            out[step] = probability[0, 0]
        return out


@cache
def vad() -> SileroVad:
    """The process's detector. Raises MissingWeightsError."""
    return SileroVad(str(weights.locate(WEIGHTS) / FILE))


def speech_ratio(audio: np.ndarray) -> float:
    """Share of the time with speech, 0..1; 0 for no sound at all."""
    return float((vad()(audio) > SPEECH).mean()) if len(audio) else 0.0
