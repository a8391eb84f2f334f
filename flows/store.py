"""`dualforce pull`: a run in shared storage as a run folder of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer()
console = Console()


@app.command(epilog="Example:  \n`dualforce pull s3://bucket/runs/hdtf runs/hdtf`")
def pull(
    store: Annotated[str, typer.Argument(help="Shared storage, as runner.store names it.", show_default=False)],
    run_dir: Annotated[Path, typer.Argument(help="An empty folder, or a working copy of it.", show_default=False)],
    ledgers: Annotated[bool, typer.Option("--ledgers", help="Only what the ledgers say; stages fetch files.")] = False,
    secret: Annotated[str, typer.Option(help="Name of the Prefect Secret block with its options.")] = "",
) -> None:
    """Make a run folder of a run in shared storage: settings, ledgers and files, each compared with its sha256."""
    from flows import server
    from tasks.working_copy import pull as make_copy

    server.configure()
    console.print(str(make_copy(store, run_dir, secret, files=not ledgers).dir), soft_wrap=True)
