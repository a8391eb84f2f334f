"""`dualforce weights`: which published weights there are, getting them, verifying them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from dualforce_model.weights.pins import Pins
    from dualforce_model.weights.registry import Weights

app = typer.Typer(help="Weights of the published extractors: list, fetch, verify.", no_args_is_help=True)
console = Console()
Names = Annotated[list[str], typer.Argument(help="Names from `dualforce weights list`.", show_default=False)]


@app.command("list")
def list_weights(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Every set of weights: what it is for, where it comes from, its licence, and whether it is here."""
    from dualforce_model.weights import WEIGHTS
    from dualforce_model.weights.place import missing, place_of, read_pins

    pins = {name: read_pins(name) for name in WEIGHTS}
    rows = [
        {
            "name": one.name,
            "purpose": one.purpose,
            "source": one.source,
            "revision": one.revision,
            "commit": pins[one.name].commit,
            "licence": one.licence,
            "restriction": one.restriction,
            "folder": str(place_of(one.name)),
            "missing": missing(one.name),
            "files": _files(one, pins[one.name]),
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


def _files(weights: Weights, pins: Pins) -> list[dict[str, Any]]:
    """Each file's size and sha256: what is published, else what is pinned, else nothing."""
    rows = []
    for file in weights.files:
        pin = pins.files.get(file.path, {})
        size, sha256 = file.size or pin.get("size"), file.sha256 or pin.get("sha256")
        rows.append({"path": file.path, "size": size, "sha256": sha256, "pinned": bool(pin)})
    return rows


@app.command()
def fetch(
    names: Names,
    folder: Annotated[
        Path | None, typer.Option(help="A folder that holds the files already; it is linked, nothing is fetched.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Fetch all files anew, and pin them in place of the old.")
    ] = False,
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
            place = download(
                one,
                again=again,
                progress=lambda count: shown.advance(task, count),  # noqa: B023
                say=lambda text: console.print(f"  {escape(text)}", soft_wrap=True),
            )
        console.print(f"  {place}", soft_wrap=True)


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Default: all that are here, in part even.")] = None,
) -> None:
    """Read every byte of the weights that are here and compare with what was published or pinned."""
    from dualforce_model.weights import WEIGHTS, MissingWeightsError, WeightsError
    from dualforce_model.weights.place import begun, check, root

    here = names or [name for name in WEIGHTS if begun(name)]
    failed = False
    for name in here:
        try:
            pins = check(name, thorough=True)
        except WeightsError as error:
            failed = True
            what = "[red]lacks[/]" if isinstance(error, MissingWeightsError) else "[red]wrong[/]"
            console.print(f"{what}  {name}: {escape(str(error))}", soft_wrap=True)
        else:
            size = sum(pin["size"] for pin in pins.files.values())
            console.print(f"[green]good[/]   {name}: {len(pins.files)} files, {size / 2**20:.1f} MiB", soft_wrap=True)
    if not here:
        console.print(f"no weights are in {escape(str(root()))}; see `dualforce weights list`", soft_wrap=True)
    if failed:
        raise typer.Exit(1)
