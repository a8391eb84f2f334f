"""From what a user names (a config, a folder, `a.b=c`) to a run that is ready for work."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dualforce_model import config as configs
from dualforce_model.config import ConfigError, near_misses
from tasks.config import RunConfig
from tasks.run import MANIFEST, Run, RunError, create, read_config, settings_of

SHIPPED = Path(__file__).parent / "configs"


def shipped() -> dict[str, Path]:
    """The configs that come with DualForce, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}


def name_of(config: str | None, run_dir: Path) -> str:
    """What the dataset is called, as far as that is known before anything is read or made: `run` where it is not."""
    if config and not Path(config).is_dir():
        return Path(config).stem
    try:
        return read_config(Path(config) if config else run_dir).name
    except (ConfigError, RunError):
        return "run"


def load(config: str | None, run_dir: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """A RunConfig from a YAML file, a shipped config's name, a run folder, or (None) what `run_dir` last used."""
    overrides = tuple(overrides)
    if config is None:
        return read_config(run_dir, overrides)
    path = Path(config)
    if path.is_dir() and (path / MANIFEST).exists():
        return read_config(path, overrides)
    if not path.is_file():
        if config not in shipped():
            raise ConfigError(f"no config file or run folder {config!r}{near_misses(config, shipped())}")
        path = shipped()[config]
    return configs.load(RunConfig, path, overrides)


def prepare(config: str | None, run_dir: str, input_dir: str | None = None, overrides: Iterable[str] = ()) -> Run:
    """Load the configuration and make (or take over) the run folder. Raises ConfigError and RunError."""
    folder = Path(run_dir)
    given = [f"source.input={configs.quoted(str(Path(input_dir).absolute()))}"] if input_dir else []
    with settings_of(folder):
        return create(folder, load(config, folder, [*overrides, *given]))
