"""The whole workflow: every stage in order, the five features side by side."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial

from prefect import flow

from dualforce_model.config import ConfigError, near_misses
from dualforce_model.features import FEATURES
from flows.settings import prepare
from flows.stages import FLOWS, run_name
from tasks.artifacts import show_run
from tasks.config import STAGES
from tasks.download import retry_failed as ask_again
from tasks.run import lock

ORDER: tuple[tuple[str, ...], ...] = (
    ("download",), ("source",), ("face_crop",), ("quality",), tuple(FEATURES), ("metadata",), ("train",), ("generate",),
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


@flow(name="pipeline", flow_run_name=run_name, persist_result=False)
def pipeline(
    run_dir: str,
    config: str | None = "local",
    input_dir: str | None = None,
    overrides: list[str] = [],  # noqa: B006  (never changed; the dashboard's form shows it)
    from_stage: str | None = None,
    only: list[str] = [],  # noqa: B006
    force: bool = False,
    retry_failed: list[str] = [],  # noqa: B006
) -> dict[str, dict[str, int]]:
    """Videos in, checkpoint and generated clip out. What is valid is reused; rerun it after any crash or change.

    Args:
        run_dir: the run folder.
        config: a YAML file, a shipped config (demo, local), or empty for what the run folder last used.
        input_dir: folder with videos; empty for the config's.
        overrides: settings such as `quality.min_face_px=120`.
        from_stage: start here and run what follows from it.
        only: run only these stages.
        force: do again what is valid.
        retry_failed: classes of failed downloads to try again (`gone`, `private`, …, or `all`).
    """
    stages = chosen(from_stage, only)
    run = prepare(config, run_dir, input_dir, overrides)
    counts: dict[str, dict[str, int]] = {}
    with lock(run.dir):
        if retry_failed:
            ask_again(run, retry_failed)
        for group in ORDER:
            names = [name for name in group if name in stages]
            if "download" in names and not (run.config.download.lists or "download" in only):
                continue  # the videos lie in a folder
            with ThreadPoolExecutor(max_workers=max(1, len(names))) as threads:
                # each thread takes along the flow run it belongs to
                running = {
                    name: threads.submit(copy_context().run, partial(FLOWS[name], run_dir=str(run.dir), force=force))
                    for name in names
                }
            counts |= {name: future.result() for name, future in running.items()}
        show_run(run)
    return counts
