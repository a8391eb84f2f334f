"""The end of `dualforce demo`: does every demo clip have the verdict that it was made for, and where is what."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dualforce_model import report
from dualforce_model.demo import mismatches, read
from dualforce_model.store import ledger
from flows import server
from tasks.status import verdicts


def check(console: Console, run_dir: Path, clips: Path) -> bool:
    """Compare the run's verdicts with expected.json; print what differs."""
    expected = read(clips)
    wrong = mismatches(expected, verdicts(run_dir))
    for line in wrong:
        console.print(f"[red]not as expected:[/] {escape(line)}", soft_wrap=True)
    if not wrong:
        console.print(f"[green]all {len(expected)} demo clips got the verdict they were made for[/]")
    return not wrong


def finish(console: Console, run_dir: Path) -> None:
    """Print the funnel, and where the report, the generated clip and the dashboard are."""
    table = Table("", "count", "", title="funnel")
    for label, count, detail in report.funnel(run_dir):
        table.add_row(escape(label), str(count), escape(detail))
    console.print(table)
    console.print(f"report     {run_dir / 'report' / 'index.html'}", soft_wrap=True)
    for row in ledger.read(run_dir, "generate").itertuples(index=False):
        console.print(f"generated  {run_dir / row.artifact}", soft_wrap=True)
    console.print(f"dashboard  {sys.argv[0]} up, then http://{server.HOST}:{server.PORT}", soft_wrap=True)
