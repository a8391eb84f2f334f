"""The commands of whoever runs a server: `up`, `deploy`, `worker`, `crashed`, `retention`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from dualforce_model.config import ConfigError
from flows import server

app = typer.Typer()
console = Console()


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
def deploy(
    gpus: Annotated[
        int | None, typer.Option(min=1, help="GPUs of all workers together. Default: what is set, else this machine's.")
    ] = None,
) -> None:
    """Create work pools, limits, automations and the deployments of prefect.yaml on the server. Safe to repeat."""
    server.configure()
    from flows.deploy import deploy as create_deployments

    for line in create_deployments(gpus):
        console.print(line, soft_wrap=True)


@app.command()
def worker(pool: Annotated[str, typer.Option(help="Which work pool to serve: cpu or gpu.")] = "cpu") -> None:
    """Start a Prefect worker for a pool."""
    server.configure(verbose=True)
    raise typer.Exit(server.prefect("worker", "start", "--pool", pool, "--type", "process"))


@app.command()
def crashed() -> None:
    """Mark runs of this machine as crashed whose process is gone, so that they can be retried. Run folders stay as they are."""
    server.configure()
    from flows.crashed import mark_crashed

    count = 0
    for count, line in enumerate(mark_crashed(), 1):  # noqa: B007
        console.print(escape(line), highlight=False, soft_wrap=True)
    if not count:
        console.print("every run that is said to be running on this machine has its process")


@app.command()
def retention(
    days: Annotated[float, typer.Option(min=0, help="Runs that ended longer ago than this are deleted.")] = 30,
) -> None:
    """Delete old finished runs, their logs and artifacts from the server's database. Run folders are never touched."""
    server.configure()
    from flows.retention import forget_runs

    console.print(f"{forget_runs(days)} runs that ended more than {days:g} days ago are deleted", highlight=False)
