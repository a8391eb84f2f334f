"""What changes a ledger without being a stage reaches the store as well, and so do all machines that look there."""

from __future__ import annotations

from dataclasses import replace

import pytest
from chain import differences

from dualforce_model.download import deny
from dualforce_model.store import ledger
from dualforce_model.store.remote import Remote, StoreError
from tasks.forget import forget
from tasks.quality import refilter
from tasks.run import RunError, create
from tasks.synthetic import make
from tasks.working_copy import pull


@pytest.fixture
def stored(tmp_path):
    """A finished run whose store is a folder, to which it brought nothing yet; and the store."""
    run, url = make(tmp_path / "made", 2), f"file://{tmp_path}/store"
    config = replace(run.config, runner=replace(run.config.runner, store=url))
    return create(run.dir, config), Remote(url)


def test_verdicts_and_forgetting_reach_every_copy(stored, tmp_path):
    run, remote = stored
    refilter(run)  # takes the run into the store
    first = pull(remote.url, tmp_path / "first")
    assert differences(first.dir, run.dir) == []

    strict = replace(first.config, quality=replace(first.config.quality, min_face_px=100_000))
    refilter(create(first.dir, strict))
    second = pull(remote.url, tmp_path / "second", files=False)
    assert set(ledger.read(second.dir, "quality")["status"]) == {"rejected"}
    assert not list(second.dir.glob("clips/*"))

    clip = ledger.read(second.dir, "face_crop")["clip_id"][0]
    assert any(clip in name for name in remote.objects())
    said = forget(second, [clip])
    assert any(name.startswith("files/clips/") for name in said["files"])
    assert not any(clip in name or "metadata.parquet" in name for name in remote.objects())
    third = pull(remote.url, tmp_path / "third", files=False)
    assert clip in deny.read(third.dir)
    assert clip not in {one for stage in ledger.stages(third.dir) for one in ledger.read(third.dir, stage)["clip_id"]}


def test_a_folder_with_another_run_is_left_alone(stored, tmp_path):
    run, remote = stored
    refilter(run)
    mine = make(tmp_path / "mine", 1)
    before = differences(mine.dir, run.dir)
    with pytest.raises(RunError, match="not a working copy of"):
        pull(remote.url, mine.dir)
    with pytest.raises(RunError, match="different runs"):
        refilter(create(mine.dir, replace(mine.config, runner=run.config.runner)))
    assert [line for line in differences(mine.dir, run.dir) if "run.json" not in line] == [
        line for line in before if "run.json" not in line
    ]
    with pytest.raises(RunError, match="there is no run at"):
        pull(f"{remote.url}/elsewhere", tmp_path / "nothing")
    with pytest.raises(StoreError, match="different runs"):
        remote.pull(mine.dir, ["quality"])
