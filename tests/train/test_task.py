"""The task's side of a training: what is not worth another attempt, by real processes."""

from __future__ import annotations

import contextlib
import shutil

import pytest

from dualforce_model.errors import BadInput
from dualforce_model.train import TrainConfig
from dualforce_model.train.config import OptimiserConfig
from tasks import train
from tasks.config import RunnerConfig
from tasks.run import RunError
from tasks.run_stage import EndedEarly, long_job_ended
from tasks.stage import Item


def test_a_training_that_diverged_is_not_tried_again(run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "run")
    config = TrainConfig(steps=60, batch=2, frames=3, optimiser=OptimiserConfig(lr=1e30, warmup=0))
    hopeless = Item("ab" * 16, "", "", payload={"stage": "train", "config": config, "runner": RunnerConfig()})
    with pytest.raises(BadInput, match="its clips: good_hdtf_") as error:  # a reason for the ledger, not for Prefect
        train.work(hopeless, tmp_path / "run", True)
    assert error.value.reason == "diverged"


@pytest.mark.parametrize(
    ("row", "raised"),
    [
        ({"status": "accepted", "reason": "", "retry": False}, None),
        ({"status": "failed", "reason": "diverged", "retry": False}, None),  # the ledger keeps it; run_stage tells
        ({"status": "failed", "reason": "JobFailed", "retry": True}, EndedEarly),  # Prefect tries again
        ({"status": "failed", "reason": "JobStopped", "retry": True}, RunError),  # somebody wanted it to end
        ({"status": "failed", "reason": "RunError", "retry": True}, RunError),  # somebody has to see to it
    ],
)
def test_which_end_of_a_training_is_worth_another_attempt(row, raised):
    expected = pytest.raises(raised, match="said") if raised else contextlib.nullcontext()
    with expected:
        long_job_ended(train.STAGES["train"], [{**row, "message": "said"}])
