"""`dualforce weights`: which published weights there are, getting them, verifying them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

app = typer.Typer(help="Weights of the published extractors: list, fetch, verify.", no_args_is_help=True)
console = Console()
Names = Annotated[list[str], typer.Argument(help="Names from `dualforce weights list`.", show_default=False)]


@app.command("list")
def list_weights(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Every set of weights: what it is for, where it comes from, its licence, and whether it is here."""
    from dualforce_model.weights import WEIGHTS
    from dualforce_model.weights.place import missing, place_of

    rows = [
        {
            "name": one.name,
            "purpose": one.purpose,
            "source": one.source,
            "revision": one.revision,
            "licence": one.licence,
            "restriction": one.restriction,
            "folder": str(place_of(one.name)),
            "missing": missing(one.name),
        }
        for one in WEIGHTS.values()
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = Table("name", "for", "licence", "here")
    for row in rows:
        licence = f"{row['licence']}; [yellow]{row['restriction']}[/]" if row["restriction"] else str(row["licence"])
        table.add_row(str(row["name"]), str(row["purpose"]), licence, "no" if row["missing"] else "[green]yes[/]")
    console.print(table)


@app.command()
def fetch(
    names: Names,
    folder: Annotated[
        Path | None, typer.Option(help="A folder that holds the files already; it is linked, nothing is fetched.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Fetch all files anew, and forget what was pinned.")] = False,
) -> None:
    """Download sets of weights; an interrupted download goes on where it broke off. Their licences are yours to keep."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from dualforce_model.weights import named
    from dualforce_model.weights.fetch import fetch as download
    from dualforce_model.weights.place import use_folder

    chosen = [named(name) for name in names]
    for one in chosen:
        console.print(f"[bold]{one.name}[/]  {escape(one.purpose)}\n  from {escape(one.source)} ({one.revision})")
        console.print(f"  licence: {escape(one.licence)}", end="")
        console.print(f"; [bold yellow]{escape(one.restriction)}[/]" if one.restriction else "", soft_wrap=True)
        if folder is not None:
            console.print(f"  {use_folder(one, folder)}", soft_wrap=True)
            continue
        columns = (TextColumn("  {task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=console, transient=True) as shown:
            task = shown.add_task(one.name, total=sum(file.size or 0 for file in one.files) or None)
            place = download(one, again=again, progress=lambda count: shown.advance(task, count))  # noqa: B023
        console.print(f"  {place}", soft_wrap=True)


@app.command()
def verify(names: Annotated[list[str] | None, typer.Argument(help="Default: all that are here.")] = None) -> None:
    """Read every byte of the weights that are here and compare with what was published or pinned."""
    from dualforce_model.weights import WEIGHTS, WeightsError
    from dualforce_model.weights.place import check, missing

    here = names or [name for name in WEIGHTS if not missing(name)]
    failed = False
    for name in here:
        try:
            pins = check(name, thorough=True)
        except WeightsError as error:
            failed = True
            console.print(f"[red]wrong[/]  {name}: {escape(str(error))}", soft_wrap=True)
        else:
            size = sum(pin["size"] for pin in pins.values())
            console.print(f"[green]good[/]   {name}: {len(pins)} files, {size / 2**20:.1f} MiB", soft_wrap=True)
    if not here:
        console.print("no weights are here; see `dualforce weights list`")
    if failed:
        raise typer.Exit(1)
