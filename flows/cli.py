"""The command line `dualforce`. Heavy imports stand inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dualforce_model import __version__
from dualforce_model.config import ConfigError
from dualforce_model.errors import BadInput, Rejected
from flows import bench, download, export, generate, look, operate, serve, server, store, weights

app = typer.Typer(
    name="dualforce",
    help="Talking-head videos in, a trained streaming talking-head generator out.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console()
Set = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, e.g. quality.min_face_px=120.")
]
RunDir = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]


def main() -> None:
    """Entry point: known troubles are one line and exit code 2, not a traceback."""
    from tasks.run import RunError

    try:
        app(standalone_mode=True)
    except (ConfigError, RunError, BadInput, Rejected) as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        console.print(f"dualforce {__version__}")
        raise typer.Exit


@app.command(
    epilog="Examples:  \n`dualforce run demo --input videos --run-dir runs/mine`  \n"
    "`dualforce run runs/mine --only audio_features --set audio_features.mels=64`"
)
def run(
    config: Annotated[str, typer.Argument(help="A YAML file, a shipped config (demo, local), or a run folder.")],
    input_dir: Annotated[Path | None, typer.Option("--input", help="Folder with videos.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where results go. Default: runs/<config name>.")] = None,
    from_stage: Annotated[str | None, typer.Option("--from", metavar="STAGE", help="Start at this stage.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="STAGE", help="Run only this stage (may be repeated).")
    ] = None,
    force: Annotated[bool, typer.Option(help="Do again what is valid.")] = False,
    retry_failed: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS", help="Try failed downloads of this class again (gone, private, …, all)."),
    ] = None,
    set_: Set = [],  # noqa: B006
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show Prefect's log.")] = False,
) -> None:
    """Run the workflow, or a part of it. What is valid from an earlier run is reused."""
    _run(config, input_dir, run_dir, from_stage, only or [], force, set_, verbose, retry_failed or [])


def _run(
    config: str, input_dir: Path | None, run_dir: Path | None, from_stage: str | None = None, only: list[str] = [],  # noqa: B006
    force: bool = False, set_: list[str] = [], verbose: bool = False, retry_failed: list[str] = [],  # noqa: B006
) -> Path:  # fmt: skip
    from flows import settings

    folder = run_dir or (Path(config) if Path(config).is_dir() else Path("runs") / Path(config).stem)
    settings.load(config, folder, set_)  # a wrong key is said before a server is started
    server.configure(verbose)
    from flows.pipeline import chosen, pipeline
    from flows.progress import progress_bars
    from tasks.away import said_plainly

    stages = chosen(from_stage, only)
    with said_plainly(), progress_bars(console, stages):
        pipeline(
            run_dir=str(folder.absolute()),
            config=str(Path(config).absolute()) if Path(config).exists() else config,
            input_dir=str(input_dir.absolute()) if input_dir else None,
            overrides=set_,
            from_stage=from_stage,
            only=only,
            force=force,
            retry_failed=retry_failed,
        )
    look.show_counts(folder)
    console.print(f"report: {folder / 'report' / 'index.html'}", soft_wrap=True)
    return folder


@app.command(epilog="Example:  \n`dualforce refilter runs/mine --set quality.min_face_px=120`")
def refilter(run_dir: RunDir, set_: Set = []) -> None:  # noqa: B006
    """Give new verdicts from stored scores under changed thresholds. Nothing is measured again."""
    from tasks.quality import refilter as judge_again
    from tasks.run import create, lock, open_run, read_config

    if wrong := [s for s in set_ if not s.startswith("quality.")]:
        raise ConfigError(f"refilter changes thresholds only (quality.…), not {wrong[0]!r}")
    before = open_run(run_dir)
    config = read_config(run_dir, tuple(set_))
    with lock(before.dir):
        was = _verdicts(before.dir)
        judge_again(create(run_dir, config))
    now = _verdicts(before.dir)
    for clip, verdict in now.items():
        if was.get(clip) != verdict:
            console.print(f"{escape(clip)}: {was.get(clip)} → {verdict}", soft_wrap=True)
    accepted = sum(verdict == "accepted" for verdict in now.values())
    console.print(f"{accepted} of {len(now)} clips accepted; `dualforce run {run_dir}` extracts what is new")


def _verdicts(run_dir: Path) -> dict[str, str]:
    from dualforce_model.store import ledger

    rows = ledger.read(run_dir, "quality")
    return {row.clip_id: row.reason or row.status for row in rows.itertuples(index=False)}


@app.command()
def report(run_dir: RunDir) -> None:
    """Write the self-contained HTML report of a run."""
    from dualforce_model.report import render
    from tasks.run import open_run

    console.print(str(render(open_run(run_dir).dir)), soft_wrap=True)


@app.command("demo-clips")
def demo_clips(folder: Annotated[Path, typer.Argument(help="Where the clips go.")], seed: int = 0) -> None:
    """Render demo videos (good ones and traps) and the list of verdicts that they should get."""
    from dualforce_model.demo import render

    expected = render(folder, seed)
    console.print(f"{len(expected)} clips and expected.json in {folder}", soft_wrap=True)


@app.command()
def demo(
    run_dir: Annotated[Path, typer.Option(help="Where results go.")] = Path("runs/demo"),
    input_dir: Annotated[Path | None, typer.Option("--input", help="Your own videos instead of rendered ones.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v")] = False,
) -> None:
    """Run the whole chain on rendered clips (or your own) and check itself."""
    from flows.demo import check, finish

    folder = input_dir
    if folder is None:
        folder = run_dir.parent / f"{run_dir.name}-clips"
        if not (folder / "expected.json").exists():
            demo_clips(folder)
    _run("demo", folder, run_dir, verbose=verbose)
    finish(console, run_dir)
    if input_dir is None and not check(console, run_dir, folder):
        raise typer.Exit(1)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Say what is installed, which weights are there, and what is missing for what."""
    from flows.doctor import examine

    findings = examine()
    if as_json:
        print(json.dumps(findings, indent=1))
    else:
        table = Table("what", "state", "detail")
        for row in findings:
            table.add_row(row["what"], "[green]ok[/]" if row["ok"] else "[yellow]missing[/]", escape(row["detail"]))
        console.print(table)
    if any(row["needed"] and not row["ok"] for row in findings):
        raise typer.Exit(1)


app.add_typer(look.app)  # status, verify
app.add_typer(store.app)  # pull
app.add_typer(download.app)  # plan, forget
app.add_typer(generate.app)  # generate
app.add_typer(export.app)  # export
app.add_typer(serve.app)  # serve
app.add_typer(operate.app)  # up, deploy, worker, crashed, retention
app.add_typer(weights.app, name="weights")
app.add_typer(bench.app, name="bench")


if __name__ == "__main__":
    main()
