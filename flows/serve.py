"""`dualforce serve`: the streaming generator as a page and a socket on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer()
console = Console()
HOST, PORT = "127.0.0.1", 8000


@app.command(
    epilog="Example:  \n`dualforce serve --checkpoint runs/mine/checkpoints/… --set generate.steps=4 --set sessions=2`"
)
def serve(
    checkpoint: Annotated[Path, typer.Option(help="A checkpoint folder, or the folder that holds them.")],
    port: Annotated[int, typer.Option(help="0: any that is free.")] = PORT,
    host: Annotated[str, typer.Option(help="Bind beyond this machine only on purpose.")] = HOST,
    origin: Annotated[
        list[str], typer.Option(metavar="URL", help="Let this page connect, too (may be repeated).")
    ] = [],  # noqa: B006
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; the first GPU if there is one.")] = None,
    set_: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Any key of ServeConfig, e.g. sessions=2.")
    ] = [],  # noqa: B006
) -> None:
    """Talk to a picture: a web page and a WebSocket on this machine only, until Ctrl-C."""
    import dataclasses
    import logging

    from dualforce_model.config import load
    from dualforce_model.serve import ServeConfig
    from dualforce_model.serve.server import serve as run

    config = load(ServeConfig, None, set_)
    config = dataclasses.replace(config, origins=(*config.origins, *origin))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run(checkpoint, config, host, port, device, lambda address: console.print(f"[bold]{address}[/]", soft_wrap=True))
