"""`python -m dualforce_model.generate --checkpoint CHECKPOINT --image face.jpg --audio speech.wav -o out.mp4`"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dualforce_model import config as strict
from dualforce_model.config import ConfigError
from dualforce_model.errors import Verdict
from dualforce_model.generate.config import GenerateConfig

BAD_INPUT = 2


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dualforce_model.generate", description="One picture and a voice in, video out."
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="checkpoint folder, or the folder that holds them"
    )
    parser.add_argument("--image", type=Path, required=True, help="a picture with one face, any format and size")
    parser.add_argument("--audio", type=Path, required=True, help="speech, any format and rate")
    parser.add_argument("-o", "--output", type=Path, default=Path("out.mp4"), help="the video (mp4) to write")
    parser.add_argument("--config", type=Path, help="YAML or JSON with keys of GenerateConfig")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one key of the config")
    parser.add_argument("--steps", type=int, help="denoising steps per latent frame")
    parser.add_argument("--guidance-audio", type=float, help="above 1: follow the sound more strictly")
    parser.add_argument("--seed", type=int, help="the same seed gives the same video")
    parser.add_argument(
        "--motion", type=Path, help="drive by a video, a LivePortrait template or a struct_latents file"
    )
    parser.add_argument("--text", help="a caption, or a .safetensors file with its embedding")
    parser.add_argument("--side-by-side", action="store_true", help="show the picture left of the video")
    parser.add_argument("--overlay", action="store_true", help="mark where the struct stream sees the face")
    parser.add_argument("--drift", action="store_true", help="measure every ten seconds into OUTPUT.drift.json")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; the first GPU if there is one")
    given = parser.parse_args(arguments)
    short = {"steps": given.steps, "guidance_audio": given.guidance_audio, "seed": given.seed}
    changes = [*given.set, *(f"{key}={value}" for key, value in short.items() if value is not None)]
    try:
        config = strict.load(GenerateConfig, given.config, changes)
        from dualforce_model.generate.render import Extras, generate

        extras = Extras(given.motion, given.text, given.side_by_side, given.overlay, given.drift)
        files = (given.checkpoint, given.image, given.audio, given.output)
        made = generate(*files, config, device=given.device, extras=extras)
        saved = made.save_drift() if given.drift else None
    except (Verdict, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    print(made)
    if saved:
        print(saved)
    return 0


if __name__ == "__main__":
    sys.exit(main())
