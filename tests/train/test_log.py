"""The log: after a resume it reads as if there had been no interruption."""

import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dualforce_model.train.log import Log, read


def test_lines_beyond_the_checkpoint_and_unfinished_ones_go(tmp_path):
    log = Log(tmp_path, 0)
    for step in range(1, 8):
        log.add(step=step, loss=1 / step)
    log.close()
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 8, "lo')  # killed here
    log = Log(tmp_path, 5)
    log.add(step=6, loss=1 / 6)
    log.close()
    assert read(tmp_path / "log.jsonl") == [{"step": s, "loss": 1 / s} for s in range(1, 7)]


def test_events_beyond_the_checkpoint_are_hidden(tmp_path):
    for first, value in ((1, 1.0), (6, 2.0)):  # killed after step 8, resumed from step 5
        log = Log(tmp_path, first - 1)
        for step in range(first, 9):
            log.add(step=step, loss=value)
        log.close()
        for file in (
            tmp_path / "tensorboard"
        ).iterdir():  # a minute goes by: files are read in the order of their second
            *before, second, host, process, writer = file.name.rsplit(".", 4)
            file.rename(file.with_name(".".join([*before, f"{int(second) - 60:010d}", host, process, writer])))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss/loss")
    assert [(event.step, event.value) for event in events] == [(s, 1.0 if s < 6 else 2.0) for s in range(1, 9)]


def test_what_is_no_number_is_null(tmp_path):
    log = Log(tmp_path, 0)
    log.add(step=1, loss=float("nan"), deciles_video=[0.5, float("inf")])
    log.close()
    assert read(tmp_path / "log.jsonl") == [{"step": 1, "loss": None, "deciles_video": [0.5, None]}]


def test_without_tensorboard_the_log_is_whole_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    said = []
    log = Log(tmp_path, 0, said.append)
    log.add(step=1, loss=0.5)
    log.close()
    assert "tensorboard is not installed" in said[0]
    assert read(tmp_path / "log.jsonl") == [{"step": 1, "loss": 0.5}]
