"""The whole workflow: every stage in order, the five features side by side."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prefect import flow

from dualforce_model.config import ConfigError, near_misses
from dualforce_model.features import FEATURES
from flows.crashed import worked_on_here
from flows.settings import load, prepare
from flows.stages import FLOWS, run_name
from tasks.artifacts import show_run
from tasks.away import again_when_back
from tasks.config import STAGES, TRAININGS
from tasks.download import retry_failed as ask_again
from tasks.run import lock

ORDER: tuple[tuple[str, ...], ...] = (
    ("download",), ("source",), ("face_crop",), ("quality",), tuple(FEATURES), ("text",), ("metadata",),
    *((name,) for name in TRAININGS), ("generate",),
)  # fmt: skip


def chosen(from_stage: str | None, only: Iterable[str]) -> list[str]:
    """The stages to run, in order. Raises ConfigError for a name that is no stage."""
    only = list(only)
    for name in [*only, *([from_stage] if from_stage else [])]:
        if name not in STAGES:
            raise ConfigError(f"unknown stage {name!r}{near_misses(name, STAGES)}")
    if only and from_stage:
        raise ConfigError("give either --from or --only, not both")
    if only:
        return [name for name in STAGES if name in only]
    if from_stage in FEATURES:  # the five stand side by side: what comes from one are the later groups, not its sisters
        return [from_stage, *STAGES[STAGES.index("metadata") :]]  # type: ignore[list-item]
    return list(STAGES[STAGES.index(from_stage) :]) if from_stage else list(STAGES)


if TYPE_CHECKING:
    StageName = str
else:
    StageName = Literal[STAGES]  # so that the dashboard's form offers them
WHAT = "Videos in, checkpoint and generated clip out. What is valid is reused; run it again after any crash or change."


@flow(name="pipeline", description=WHAT, flow_run_name=run_name, persist_result=False)
def pipeline(
    run_dir: str,
    config: str | None = "local",
    input_dir: str | None = None,
    overrides: list[str] = [],  # noqa: B006  (never changed; the dashboard's form shows it)
    from_stage: StageName | None = None,
    only: list[StageName] = [],  # noqa: B006
    force: bool = False,
    retry_failed: list[str] = [],  # noqa: B006
) -> dict[str, dict[str, int]]:
    """Run the chosen stages in order.

    Args:
        run_dir: the run folder, as an absolute path on the worker's machine.
        config: a shipped config (`local`, `demo`, `hdtf`, …), a YAML file, another run folder, or None for what this
            folder last used.
        input_dir: a folder with videos, or None for what the config says.
        overrides: settings as KEY=VALUE, such as `quality.min_face_px=120`.
        from_stage: start here and run what follows from it.
        only: run only these stages.
        force: do again what is valid.
        retry_failed: classes of failed downloads to try again (`gone`, `private`, …, or `all`).
    """
    stages = chosen(from_stage, only)
    load(config, Path(run_dir), overrides)  # what is wrong with it is said before anything is made or waited for
    counts: dict[str, dict[str, int]] = {}
    with worked_on_here(), lock(Path(run_dir)):
        run = prepare(config, run_dir, input_dir, overrides)
        if retry_failed:
            ask_again(run, retry_failed)
        for group in ORDER:
            names = [name for name in group if name in stages and (name in only or not run.config.leaves_out(name))]
            with ThreadPoolExecutor(max_workers=max(1, len(names))) as threads:
                # each thread takes along the flow run it belongs to
                running = {
                    name: threads.submit(
                        copy_context().run, again_when_back, partial(FLOWS[name], run_dir=str(run.dir), force=force)
                    )
                    for name in names
                }
            counts |= {name: future.result() for name, future in running.items()}
        show_run(run)
    return counts
