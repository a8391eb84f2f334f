"""Every module of this package with `arguments` and `run` is a subcommand; its docstring's first line is the help."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
from types import ModuleType

import dualforce_model.bench as package


def subcommands() -> dict[str, ModuleType]:
    """Name to module."""
    found = {}
    for info in pkgutil.iter_modules(package.__path__):
        if not info.name.startswith("_"):
            module = importlib.import_module(f"{package.__name__}.{info.name}")
            if hasattr(module, "run") and hasattr(module, "arguments"):
                found[info.name] = module
    return found


def main(words: list[str] | None = None) -> int:
    """Run one benchmark; 0 when its checks, if it has any, hold."""
    parser = argparse.ArgumentParser(prog="python -m dualforce_model.bench", description=package.__doc__)
    choices = parser.add_subparsers(dest="name", required=True)
    modules = subcommands()
    for name, module in modules.items():
        sub = choices.add_parser(name, help=(module.__doc__ or "").splitlines()[0], description=module.__doc__)
        module.arguments(sub)
        sub.add_argument("--json", action="store_true", help="print the whole result as JSON")
    chosen = parser.parse_args(words)
    result = modules[chosen.name].run(chosen)
    if chosen.json:
        print(json.dumps(result, indent=1))
    else:
        for key, value in result.items():
            print(f"{key:28} {value}")
    return 0 if result.get("holds", True) else 1


if __name__ == "__main__":
    sys.exit(main())
