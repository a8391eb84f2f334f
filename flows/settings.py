"""From what a user names (a config, a folder, `a.b=c`) to a run that is ready for work."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dualforce_model import config as configs
from dualforce_model.config import ConfigError, near_misses
from tasks.config import RunConfig
from tasks.run import MANIFEST, Run, create, read_config

SHIPPED = Path(__file__).parent / "configs"


def load(config: str | None, run_dir: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """A RunConfig from a YAML file, a shipped config's name, a run folder, or (None) what `run_dir` last used."""
    overrides = tuple(overrides)
    if config is None:
        return read_config(run_dir, overrides)
    path = Path(config)
    if path.is_dir() and (path / MANIFEST).exists():
        return read_config(path, overrides)
    if not path.is_file():
        shipped = {p.stem: p for p in SHIPPED.glob("*.yaml")}
        if config not in shipped:
            raise ConfigError(f"no config file or run folder {config!r}{near_misses(config, shipped)}")
        path = shipped[config]
    return configs.load(RunConfig, path, overrides)


def prepare(config: str | None, run_dir: str, input_dir: str | None = None, overrides: Iterable[str] = ()) -> Run:
    """Load the configuration and make (or take over) the run folder. Raises ConfigError and RunError."""
    folder = Path(run_dir)
    given = [f"source.input={configs.quoted(str(Path(input_dir).absolute()))}"] if input_dir else []
    return create(folder, load(config, folder, [*overrides, *given]))
