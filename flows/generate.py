"""`dualforce generate`: one picture and a voice in, video out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer()
console = Console()


@app.command(
    epilog="Examples:  \n"
    "`dualforce generate --checkpoint runs/demo/checkpoints/… --image me.jpg --audio hello.wav -o me.mp4`  \n"
    "`dualforce generate … --motion nod.mp4 --side-by-side --overlay --set guidance_reference=2`"
)
def generate(
    checkpoint: Annotated[Path, typer.Option(help="A checkpoint folder, or the folder that holds them.")],
    image: Annotated[Path, typer.Option(help="A picture with one face, any format and size.")],
    audio: Annotated[Path, typer.Option(help="Speech, any format and rate.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The video to write.")] = Path("out.mp4"),
    config: Annotated[Path | None, typer.Option(help="YAML with keys of GenerateConfig.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps per latent frame.")] = None,
    guidance_audio: Annotated[float | None, typer.Option(help="Above 1: follow the sound more strictly.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same video.")] = None,
    motion: Annotated[
        Path | None, typer.Option(help="Drive by a video, a LivePortrait template or a struct_latents file.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="A caption, or a .safetensors file with its embedding.")] = None,
    side_by_side: Annotated[bool, typer.Option("--side-by-side", help="Show the picture left of the video.")] = False,
    overlay: Annotated[bool, typer.Option("--overlay", help="Mark where the struct stream sees the face.")] = False,
    drift: Annotated[bool, typer.Option("--drift", help="Measure every ten seconds into OUTPUT.drift.json.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; the first GPU if there is one.")] = None,
    set_: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Any key of GenerateConfig.")] = [],  # noqa: B006
) -> None:
    """Generate a video from one picture and a voice."""
    from dualforce_model.config import load
    from dualforce_model.generate import GenerateConfig
    from dualforce_model.generate.render import Extras
    from dualforce_model.generate.render import generate as render

    short = {"steps": steps, "guidance_audio": guidance_audio, "seed": seed}
    changes = [*set_, *(f"{key}={value}" for key, value in short.items() if value is not None)]
    settings = load(GenerateConfig, config, changes)
    extras = Extras(motion, text, side_by_side, overlay, drift)
    made = render(checkpoint, image, audio, output, settings, device=device, extras=extras)
    console.print(str(made), soft_wrap=True, highlight=False, markup=False)
    if drift:
        console.print(str(made.save_drift()), soft_wrap=True, highlight=False, markup=False)
