from __future__ import annotations

from pathlib import Path

import prepared
import pytest


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory, shared_data) -> Path:
    """Made once for all rooms that read it; nobody writes into it."""
    return prepared.run_folder(tmp_path_factory, shared_data)
