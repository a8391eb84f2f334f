"""What the command line says about downloads: `dualforce plan` before anything is fetched, `dualforce forget` afterwards."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

console = Console()
app = typer.Typer()


@app.command(epilog="Example:  \n`dualforce plan hdtf --set download.lists.hdtf=HDTF/HDTF_dataset`")
def plan(
    config: Annotated[
        str, typer.Argument(help="A YAML file, a shipped config (hdtf, celebv_hq, vfhq), or a run folder.")
    ],
    set_: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a setting.")] = [],  # noqa: B006
    line: Annotated[float, typer.Option("--line", metavar="MBIT", help="Speed of your line.")] = 50.0,
    measured: Annotated[Path | None, typer.Option(metavar="RUN_DIR", help="Take the rates of that run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a list will cost before anything is fetched: videos, hours, bytes, disk, time per stage, and the terms."""
    from dualforce_model.config import ConfigError
    from dualforce_model.download.estimate import RATES, estimate, rates_of
    from dualforce_model.download.lists import read_lists
    from flows import settings

    run_config = settings.load(config, Path("runs") / Path(config).stem, set_)
    if not run_config.download.lists:
        raise ConfigError("nothing to plan: the config names no list (download.lists.<dataset>=PATH)")
    cores = run_config.runner.workers or len(os.sched_getaffinity(0))
    rates = RATES | rates_of(measured) if measured else RATES
    found = estimate(read_lists(run_config.download), run_config.download, cores, rates, line)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        _print_plan(found)


def _print_plan(found: dict[str, Any]) -> None:
    table = Table("dataset", "videos", "clips", "persons", "clip hours", "video hours", "GiB")
    for part in found["datasets"]:
        numbers = [str(part[name]) for name in ("videos", "clips", "persons")]
        hours = [f"{part[name]:.1f}" for name in ("clip_hours", "video_hours", "gib")]
        table.add_row(f"{part['dataset']} {part['group']}".strip(), *numbers, *hours)
    console.print(table)
    stages = Table("stage", "hours", "GiB on disk")
    for stage, hours in found["hours"].items():
        stages.add_row(stage, f"{hours:.2f}", f"{found['disk_gib'].get(stage, 0):.1f}")
    stages.add_row("all", f"{sum(found['hours'].values()):.2f}", f"{sum(found['disk_gib'].values()):.1f}")
    console.print(stages)
    for part in found["datasets"]:
        if part["list_problems"]:
            flaws = (f"{reason.removeprefix('list_')} {count}" for reason, count in part["list_problems"].items())
            console.print(f"flaws of the list {part['dataset']}: {', '.join(flaws)}", soft_wrap=True)
    for text in found["assumed"]:
        console.print(f"assumed: {text}", soft_wrap=True)
    for text in dict.fromkeys(f"{part['dataset']} ({part['licence']}): {part['terms']}" for part in found["datasets"]):
        console.print(f"terms of {escape(text)}", soft_wrap=True)


@app.command(epilog="Example:  \n`dualforce forget runs/hdtf CPCoMyuBRM0`")
def forget(
    run_dir: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    ids: Annotated[list[str], typer.Argument(help="Video, source or clip ids, or names as the ledger has them.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Deny ids and remove everything the run holds of them; your own input files stay. Says what it removed."""
    from tasks.forget import forget as take_out
    from tasks.run import open_run

    found = take_out(open_run(run_dir), ids)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for file in found["files"]:
        console.print(f"removed {escape(file)}", soft_wrap=True)
    rows = ", ".join(f"{stage} {count}" for stage, count in found["rows"].items()) or "none"
    console.print(
        f"{len(found['files'])} files, {found['bytes']:,} bytes; ledger rows: {rows}; of the dataset: {found['dataset_rows']}"
    )
    console.print(f"denied from now on: {escape(', '.join(found['denied']))}", soft_wrap=True)
    if found["left"]:
        console.print(
            f"[yellow]these checkpoints were trained before and may have seen it:[/] {', '.join(found['left'])}"
        )
