"""The demo clips, rendered once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from dualforce_model.demo import Expected, render


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Expected]]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, {clip.file: clip for clip in render(folder)}
