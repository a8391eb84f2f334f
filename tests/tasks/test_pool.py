from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pool_jobs import job
from waiting import until

from dualforce_model import config as strict
from dualforce_model.store import born
from tasks import devices
from tasks.config import RunConfig
from tasks.pool import Pool, WorkerDied, WorkerHung, leave_gpus, shared

ROOT = Path(__file__).resolve().parents[2]


def results(pool: Pool, items, timeout=60.0):
    out = dict(pool.map(job, items, timeout))
    pool.close()
    assert sorted(out) == list(range(len(items)))
    return out


def test_an_item_that_kills_its_worker_is_named_and_the_others_live():
    items = [("ok", n) for n in range(8)]
    items[3] = ("die", None)
    out = results(Pool(2), items)
    assert isinstance(out.pop(3), WorkerDied)
    assert out == {n: n for n in (0, 1, 2, 4, 5, 6, 7)}


def test_a_worker_killed_from_outside_costs_nothing(tmp_path):
    items = [("ok", 0), ("die once", str(tmp_path / "mark")), ("ok", 2)]
    assert results(Pool(2), items) == {0: 0, 1: str(tmp_path / "mark"), 2: 2}


def test_workers_killed_while_they_had_nothing_to_do_lose_nothing():
    pool = Pool(2)
    assert dict(pool.map(job, [("ok", 0)], 60.0)) == {0: 0}
    executor = pool._executor
    for pid in pool.pids():
        os.kill(pid, signal.SIGKILL)
    until(lambda: executor._broken, "its own thread to see it, so that nothing can be handed to it")
    assert results(pool, [("ok", n) for n in range(5)]) == {n: n for n in range(5)}


def test_a_hanging_item_is_stopped_and_named():
    out = results(Pool(2), [("ok", 0), ("hang", None), ("ok", 2)], timeout=2.0)
    assert isinstance(out[1], WorkerHung)
    assert (out[0], out[2]) == (0, 2)


def test_the_libraries_of_a_worker_keep_to_one_core():
    assert results(Pool(1), [("threads", None)]) == {0: (1, 1)}


def test_an_error_belongs_to_its_item():
    out = results(Pool(1), [("raise", "broken"), ("ok", 1)])
    assert isinstance(out[0], ValueError)
    assert out[1] == 1


def test_processes_are_dealt_out_to_the_gpus(tmp_path):
    found = results(Pool(4, ("2", "5")), [("gpu", (str(tmp_path), 4))] * 4)
    assert sorted(found.values()) == ["2", "2", "5", "5"]


def test_a_gpu_that_the_user_chose_is_the_only_one(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # of GPUs that a test may not have
    assert devices.present(RunConfig()) == ("3", "5")
    monkeypatch.setenv("DUALFORCE_DEVICE", "cuda:1")
    assert devices.present(RunConfig()) == ("5",)
    asked = [("environment", name) for name in ("CUDA_VISIBLE_DEVICES", "DUALFORCE_DEVICE")]
    assert results(Pool(1, ("5",)), asked) == {0: "5", 1: "cuda"}


def test_networks_get_a_few_processes_per_gpu_and_all_else_one_per_core(monkeypatch):
    config = strict.build(
        RunConfig,
        {
            "runner": {"workers": 8, "gpus": [2, 5]},
            "video_latents": {"backend": "wan_vae"},
            "flame": {"backend": "emoca"},
        },
    )
    assert devices.workers(config, "video_latents") == (2, ("2", "5"))  # large: alone on a GPU of 24 GB
    assert devices.workers(config, "flame") == (2, ("2", "5"))  # the same processes, so that it stays alone
    small = strict.build(RunConfig, {"runner": {"workers": 8, "gpus": [2, 5]}, "flame": {"backend": "emoca"}})
    assert devices.workers(small, "flame") == (8, ("2", "5"))
    assert devices.workers(config, "face_crop") == devices.workers(config, "struct_latents") == (8, ())
    more = replace(config, runner=replace(config.runner, per_gpu=3))
    assert devices.workers(more, "flame") == (6, ("2", "5"))
    assert devices.workers(replace(config, runner=replace(more.runner, workers=1)), "flame")[0] == 1
    monkeypatch.setenv("DUALFORCE_DEVICE", "cpu")
    free = replace(config, runner=replace(config.runner, gpus=()))
    assert devices.workers(free, "flame") == (8, ())


@pytest.mark.parametrize(
    ("needed", "there", "processes"),
    [(24, 22.4, 1), (24, 79.6, 2), (24, 139.8, 5), (5, 22.4, 4), (5, 79.6, 12), (5, 11, 1)],
)
def test_as_many_processes_share_a_gpu_as_fit_twelve_at_most(needed, there, processes):
    assert devices.sharing(needed, there) == processes


def test_idle_workers_leave_the_gpus_to_a_training_and_are_there_again_after_it():
    busy, idle = shared(1), shared(1, ("7",))
    try:
        assert dict(busy.map(job, [("ok", 1)], 60)) == dict(idle.map(job, [("ok", 1)], 60)) == {0: 1}
        (there,), (gone,) = busy.pids(), idle.pids()
        leave_gpus()
        until(lambda: not born(gone), "the end of the GPU's worker")
        assert born(there)
        working = idle.map(job, [("ok", 2), ("ok", 3)], 60)
        assert next(working) == (0, 2)
        (used,) = idle.pids()
        leave_gpus()  # another stage wants the GPU; this one is not done
        assert idle.pids() == [used]
        assert list(working) == [(1, 3)]
    finally:
        busy.close()
        idle.close()


def test_workers_leave_when_their_parent_is_killed(tmp_path):
    code = (
        "import sys, os, signal\nfrom pathlib import Path\nfrom tasks.pool import Pool\n"
        "if __name__ == '__main__':\n"
        "    pool = Pool(2)\n    list(pool.map(abs, [1, 2, 3], 60))\n"
        "    print(*pool.pids(), flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=env)
    pids = [int(p) for p in done.stdout.split()]
    assert len(pids) >= 1
    until(lambda: not any(born(p) for p in pids), "the end of workers without a parent", seconds=30)
