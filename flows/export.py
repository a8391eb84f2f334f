"""`dualforce export`: a model alone, out of a checkpoint."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer()
console = Console()


class Which(StrEnum):
    """The weights of a checkpoint that can be taken."""

    ema = "ema"
    model = "model"


@app.command(epilog="Example:  \n`dualforce export runs/demo/checkpoints/… my-model`")
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder, or the folder that holds them.")],
    folder: Annotated[Path, typer.Argument(help="A new folder for the model.")],
    weights: Annotated[
        Which, typer.Option(help="ema: averaged, what generation uses; model: those of the last step.")
    ] = Which.ema,
) -> None:
    """Write a model's weights (safetensors) and config, without optimiser and dataset."""
    from dualforce_model.train.export import export as write

    made = write(checkpoint, folder, weights.value)
    console.print(f"{made}: {', '.join(sorted(p.name for p in made.iterdir()))}", soft_wrap=True)
