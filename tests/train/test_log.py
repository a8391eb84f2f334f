"""The log: after a resume it reads as if there had been no interruption."""

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
