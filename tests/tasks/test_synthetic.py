"""The made-up run folder of `dualforce bench rerun` is one that the real stages find complete."""

from __future__ import annotations

from dualforce_model.store import ledger
from tasks.shard import sort_out
from tasks.stages import STAGES
from tasks.status import counts, damaged
from tasks.synthetic import CHAIN, make


def test_no_stage_finds_anything_to_do(tmp_path):
    run = make(tmp_path, 21)
    for name in CHAIN:
        todo, kept = sort_out(run, STAGES[name], STAGES[name].plan(run))
        assert todo == []
        assert kept.num_rows == len(ledger.read(run.dir, name, ["source"])) > 20
    found = counts(run.dir)
    assert found["quality"]["reasons"] == {"silent_audio": 1}
    assert found["metadata"]["accepted"] == 21
    assert list(damaged(run.dir)) == []
