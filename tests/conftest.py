"""Where the real clips are: beside the checkout, never in it. Without them the tests fail, they are not skipped."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    assert (SHARED / "clips").is_dir(), f"the test data is missing: {SHARED}"
    return SHARED
