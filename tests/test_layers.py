"""One direction only: flows → tasks → dualforce_model; and the library needs none of the heavy packages to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {"dualforce_model": {"tasks", "flows", "prefect"}, "tasks": {"flows"}, "flows": set()}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_layer_imports_nothing_above_it(layer):
    files = list((ROOT / layer).rglob("*.py"))
    assert files
    wrong = {str(f): bad for f in files if (bad := imported(f) & FORBIDDEN[layer])}
    assert not wrong


def test_the_rule_would_catch_a_wrong_import(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from flows.pipeline import pipeline\n    import tasks.run\n")
    assert imported(bad) == {"flows", "tasks"}


HEAVY = ("prefect", "mediapipe", "insightface", "cv2", "diffusers", "transformers")


def test_library_imports_without_heavy_packages():
    modules = ["model", "diffusion", "data", "train", "generate", "features", "metadata", "store", "timeline", "media"]
    code = (
        "import sys\n"
        f"for name in {HEAVY!r}: sys.modules[name] = None\n"  # an import of any of them now raises
        + "".join(f"import dualforce_model.{name}\n" for name in modules)
        + "print('fine')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "fine"


def test_data_side_starts_without_torch():
    code = (
        "import sys, dualforce_model.media, dualforce_model.faces, dualforce_model.quality, dualforce_model.features,"
        " dualforce_model.metadata\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
