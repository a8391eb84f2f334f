"""Progress bars on the terminal, one per stage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tasks import watch


@contextmanager
def progress_bars(console: Console, stages: Sequence[str]) -> Iterator[None]:
    """Show how far each stage is while the block runs."""
    columns = (TextColumn("{task.description:<15}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    done: dict[str, dict[int, tuple[int, int]]] = defaultdict(dict)
    with Progress(*columns, console=console) as progress:
        bars: dict[str, TaskID] = {}

        def show(stage: str, shard: int, finished: int, total: int) -> None:
            if stage in stages:
                if stage not in bars:
                    bars[stage] = progress.add_task(stage, total=total)
                done[stage][shard] = (finished, total)
                counts = list(done[stage].values())
                progress.update(bars[stage], completed=sum(c[0] for c in counts), total=sum(c[1] for c in counts))

        with watch.heard_by(show):
            yield
