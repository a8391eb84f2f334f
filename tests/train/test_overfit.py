"""Acceptance test 8 of the model's design: one short clip is learned by heart, and comes back out of noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dualforce_model import metadata, timeline
from dualforce_model.configs.forcing import DropRates
from dualforce_model.features import FEATURES, codec
from dualforce_model.generate import GenerateConfig
from dualforce_model.generate.stream import Stream
from dualforce_model.generate.talker import Talker
from dualforce_model.media import Clip
from dualforce_model.store import read_provenance, read_tensors, write_tensors
from dualforce_model.train import TrainConfig
from dualforce_model.train.config import OptimiserConfig
from dualforce_model.train.log import read
from dualforce_model.train.loop import train

CLIP, LATENTS = "good_hdtf_may_512_25-s0t0", 5
FRAMES = timeline.raw_count(LATENTS)  # 17: she speaks and turns her head


@pytest.fixture
def short_folder(run_folder, tmp_path) -> Path:
    """A dataset of the beginning of one clip."""
    kept = {
        "video_latents": lambda a: {"latents": a["latents"][:, :LATENTS]},
        "audio_features": lambda a: {"audio": a["audio"][: timeline.audio_count(FRAMES)]},
        "reference": lambda a: {"latents": a["latents"][:1], "frames": a["frames"][:1]},
    }
    for name in FEATURES:
        path = Path("features") / name / f"{CLIP}.safetensors"
        arrays, provenance = read_tensors(run_folder / path), read_provenance(run_folder / path)
        arrays = kept.get(name, lambda a: {key: value[:FRAMES] for key, value in a.items()})(arrays)
        if name == "reference":
            provenance["config"]["count"] = 1
        made_by = {key: value for key, value in provenance.items() if key not in ("data_sha256", "statistics")}
        write_tensors(tmp_path / path, arrays, made_by)
    folders = {name: tmp_path / "features" / name for name in FEATURES}
    row = {"clip_id": CLIP, "source_id": CLIP, "frames": FRAMES}
    metadata.build(tmp_path, [row], folders, metadata.MetadataConfig())
    return tmp_path


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Of all frames together, dB."""
    return float(10 * np.log10(255**2 / ((a.astype(np.float64) - b) ** 2).mean()))


def test_a_clip_learned_by_heart_comes_back_from_noise(run_folder, short_folder, tmp_path):
    config = TrainConfig(
        steps=300,
        batch=4,
        frames=LATENTS,
        reference_spread=0.1,  # she moves: that far, and more, lie the frames from the picture
        optimiser=OptimiserConfig(lr=6e-3),
        drops=DropRates(0.0, 0.0, 0.0),
        checkpoint_every=300,
    )
    out = tmp_path / "checkpoints"
    train(config, short_folder, out, lambda _: None)
    losses = np.array([row["loss_video"] for row in read(out / "log.jsonl")])
    fall = losses[:10].mean() / losses[-20:].mean()

    clip = Clip(run_folder / "clips", CLIP)
    frames = np.stack([frame for frame, _ in zip(clip.frames(), range(FRAMES), strict=False)])
    stream = Stream(Talker.load(out, "cpu"), frames[0], GenerateConfig())
    made = np.stack([*stream.push(clip.audio()[: timeline.sample_of_raw(FRAMES)]), *stream.finish()])
    original = codec.decode(codec.encode(frames))  # what a perfect model would give
    still = np.broadcast_to(original[:1], original.shape)
    print(f"loss / {fall:.1f}, PSNR {psnr(made, original):.1f} dB, the still picture {psnr(still, original):.1f} dB")
    assert fall > 10
    assert psnr(made, original) > 29
    assert psnr(made, original) > psnr(still, original) + 5
