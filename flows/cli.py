"""The command line `dualforce`. Heavy imports stand inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dualforce_model import __version__
from dualforce_model.config import ConfigError
from dualforce_model.errors import BadInput, Rejected
from flows import download, serve, server, weights

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

    stages = chosen(from_stage, only)
    with progress_bars(console, stages):
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
    _print_status(folder)
    console.print(f"report: {folder / 'report' / 'index.html'}", soft_wrap=True)
    return folder


@app.command()
def status(
    run_dir: RunDir,
    as_json: Annotated[bool, typer.Option("--json", help="Print `stages` and `clips` as JSON.")] = False,
) -> None:
    """Show what became of every clip: counts per stage, reasons, what was reused."""
    from tasks.run import open_run
    from tasks.status import status as read_status

    if as_json:
        print(json.dumps(read_status(open_run(run_dir).dir), indent=1))
    else:
        open_run(run_dir)
        _print_status(run_dir)


def _print_status(run_dir: Path) -> None:
    from tasks.status import status as read_status

    found = read_status(run_dir.absolute())
    table = Table(title=str(run_dir), box=box.SIMPLE)
    for name in ("stage", "accepted", "rejected", "failed", "reused", "seconds"):
        table.add_column(name, no_wrap=True, justify="left" if name == "stage" else "right")
    for stage, row in found["stages"].items():
        numbers = [str(row[what]) for what in ("accepted", "rejected", "failed", "reused")]
        table.add_row(stage, *numbers, f"{row['seconds']:.1f}")
    console.print(table)
    for stage, row in found["stages"].items():
        if row["reasons"]:
            reasons = ", ".join(f"{reason} {count}" for reason, count in row["reasons"].items())
            console.print(f"  {stage}: {escape(reasons)}", highlight=False)


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


@app.command(
    epilog="Example:  \n`dualforce generate --checkpoint runs/demo/checkpoints/… --image me.jpg --audio hello.wav -o me.mp4`"
)
def generate(
    checkpoint: Annotated[Path, typer.Option(help="A checkpoint folder, or the folder that holds them.")],
    image: Annotated[Path, typer.Option(help="A picture with one face, any format and size.")],
    audio: Annotated[Path, typer.Option(help="Speech, any format and rate.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The video to write.")] = Path("out.mp4"),
    steps: Annotated[int | None, typer.Option(help="Denoising steps per latent frame.")] = None,
    guidance_audio: Annotated[float | None, typer.Option(help="Above 1: follow the sound more strictly.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same video.")] = None,
    set_: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Any key of GenerateConfig.")] = [],  # noqa: B006
) -> None:
    """Generate a video from one picture and a voice."""
    from dualforce_model.config import load
    from dualforce_model.generate import GenerateConfig
    from dualforce_model.generate.render import generate as render

    short = {"steps": steps, "guidance_audio": guidance_audio, "seed": seed}
    changes = [*set_, *(f"{key}={value}" for key, value in short.items() if value is not None)]
    made = render(checkpoint, image, audio, output, load(GenerateConfig, None, changes))
    console.print(f"{made.path}: {made.seconds:.2f} s", soft_wrap=True)


@app.command()
def up(
    port: int = server.PORT,
    host: Annotated[str, typer.Option(help="Bind beyond this machine only on purpose.")] = server.HOST,
) -> None:
    """Start the Prefect server with its dashboard, on this machine only, until Ctrl-C."""
    if server.healthy(server.url(port, host)):
        console.print(f"a server already answers: dashboard http://{host}:{port}")
        return
    try:
        process = server.start(port, host)
    except RuntimeError as error:
        raise ConfigError(str(error)) from error
    console.print(
        f"[bold]dashboard http://{host}:{port}[/]   export PREFECT_API_URL={server.url(port, host)}", soft_wrap=True
    )
    raise typer.Exit(server.hold(process))


@app.command()
def deploy() -> None:
    """Create the work pools and the deployments of prefect.yaml on the running server. Safe to repeat."""
    server.configure()
    from flows.deploy import deploy as create_deployments

    for line in create_deployments():
        console.print(line, soft_wrap=True)


@app.command()
def worker(pool: Annotated[str, typer.Option(help="Which work pool to serve: cpu or gpu.")] = "cpu") -> None:
    """Start a Prefect worker for a pool."""
    server.configure(verbose=True)
    raise typer.Exit(server.prefect("worker", "start", "--pool", pool, "--type", "process"))


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


app.add_typer(download.app)  # plan, forget
app.add_typer(serve.app)  # serve
app.add_typer(weights.app, name="weights")
bench = typer.Typer(help="Measure this machine; each prints JSON.", no_args_is_help=True)
app.add_typer(bench, name="bench")


@bench.command("data")
def bench_data(
    input_dir: Annotated[Path, typer.Option("--input", help="Folder with videos.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON (the only format).")] = True,
    set_: Set = [],  # noqa: B006
) -> None:
    """Time stages 2 to 5 (face crop to metadata) on a folder of videos, in a run folder of its own."""
    from flows.bench import data

    figures: dict[str, Any] = data(input_dir, set_)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
