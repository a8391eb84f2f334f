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


LONG = ("flows/", "train/", "faults/", "machines/", "infra/")  # rooms whose files take minutes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: of two files at a time, a long one that begins last would leave a core idle for minutes."""
    items.sort(key=lambda item: not item.path.relative_to(ROOT / "tests").as_posix().startswith(LONG))
