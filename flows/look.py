"""`dualforce status` and `verify`: what a run folder says about itself, and whether its files are still whole."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

app = typer.Typer()
console = Console()
RunDir = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]


@app.command(epilog="Example:  \n`dualforce status runs/mine --clip interview-4f2a91c0-s0t0`")
def status(
    run_dir: RunDir,
    as_json: Annotated[bool, typer.Option("--json", help="Print `stages` and `clips` as JSON.")] = False,
    clip: Annotated[str | None, typer.Option(help="All that is known of one clip, by stage, as JSON.")] = None,
) -> None:
    """Show what became of every clip: counts per stage, reasons, what was reused."""
    from dualforce_model.errors import BadInput
    from tasks import status as told
    from tasks.run import open_run

    folder = open_run(run_dir).dir
    if clip is not None:
        rows = told.clip(folder, clip)
        if not rows:
            raise BadInput("unknown_clip", f"no ledger of {folder} knows a clip {clip!r}")
        print(json.dumps(rows, indent=1))
    elif as_json:
        print(json.dumps(told.status(folder), indent=1))
    else:
        show_counts(run_dir)


def show_counts(run_dir: Path) -> None:
    """The table of stages on the terminal."""
    from tasks.status import counts

    found = counts(run_dir.absolute())
    table = Table(title=str(run_dir), box=box.SIMPLE)
    for name in ("stage", "accepted", "rejected", "failed", "reused", "seconds"):
        table.add_column(name, no_wrap=True, justify="left" if name == "stage" else "right")
    for stage, row in found.items():
        numbers = [str(row[what]) for what in ("accepted", "rejected", "failed", "reused")]
        table.add_row(stage, *numbers, f"{row['seconds']:.1f}")
    console.print(table)
    for stage, row in found.items():
        if row["reasons"]:
            reasons = ", ".join(f"{reason} {count}" for reason, count in row["reasons"].items())
            console.print(f"  {stage}: {escape(reasons)}", highlight=False)


@app.command()
def verify(
    run_dir: RunDir,
    as_json: Annotated[bool, typer.Option("--json", help="Print the damaged files as JSON.")] = False,
) -> None:
    """Read every file of a run and compare it with what was recorded. Ends with code 1 when one is missing or changed.

    A rerun looks at sizes and times only; this also finds bytes that rotted on the disk. The next run makes what is
    found anew.
    """
    from tasks.run import lock, open_run
    from tasks.status import damaged

    run = open_run(run_dir)
    read_only = not os.access(run.dir, os.W_OK)  # nobody works in it then
    with contextlib.nullcontext() if read_only else lock(run.dir):
        found = list(damaged(run.dir))
    if as_json:
        print(json.dumps([one._asdict() for one in found], indent=1))
    else:
        for one in found:
            console.print(f"{one.stage}: {escape(one.file)}: {one.what}", soft_wrap=True, highlight=False)
        again = f"; `dualforce run {run_dir}` makes what is damaged anew" if found else ""
        console.print(f"{len(found)} damaged files{again}", soft_wrap=True)
    if found:
        raise typer.Exit(1)
