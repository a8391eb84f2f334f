"""Code that raises, workers that hang, bytes that rot: each is told, and mended by the next run."""

from __future__ import annotations

import json
import os
from collections import Counter

from faulty_stage import TROUBLE, assert_same, bring_up_to_date

from tasks.status import damaged


def verdicts(rows) -> Counter:
    return Counter((row["status"], row["reason"], row["retry"]) for row in rows)


def test_code_that_raises_on_one_clip_in_a_hundred_spoils_those_alone(untroubled, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / TROUBLE).write_text(json.dumps({"clip-007": "raise", "clip-107": "raise"}))
    rows = bring_up_to_date(run)
    assert verdicts(rows) == {("accepted", "", False): 198, ("failed", "IndexError", True): 2}
    assert "list index out of range (faulty_stage.py:" in rows[7]["message"]
    (run / TROUBLE).unlink()
    rows = bring_up_to_date(run)
    assert [row["source"] for row in rows if not row["reused"]] == ["clip-007", "clip-107"]
    assert_same(run, untroubled)


def test_a_worker_that_hangs_is_stopped_and_its_clip_tried_again(untroubled, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / TROUBLE).write_text(json.dumps({"clip-005": "hang once", "clip-006": "hang"}))
    rows = bring_up_to_date(run, timeout_s=3.0)
    assert verdicts(rows) == {("accepted", "", False): 199, ("failed", "timeout", True): 1}
    assert rows[6]["reason"] == "timeout"
    assert "no result after 3 s" in rows[6]["message"]
    (run / TROUBLE).unlink()
    bring_up_to_date(run)
    assert_same(run, untroubled)


def test_rot_that_no_time_shows_is_found_by_verify_and_mended_by_the_next_run(untroubled, tmp_path):
    run = tmp_path / "run"
    bring_up_to_date(run)
    assert list(damaged(run)) == []
    rotten, lost = run / "out" / "clip-042", run / "out" / "clip-043"
    before = rotten.stat()
    data = bytearray(rotten.read_bytes())
    data[1000] ^= 1
    rotten.write_bytes(data)
    os.utime(rotten, ns=(before.st_atime_ns, before.st_mtime_ns))
    lost.unlink()
    found = list(damaged(run))
    assert [(one.file, one.what) for one in found] == [("out/clip-042", "changed"), ("out/clip-043", "missing")]
    rows = bring_up_to_date(run)
    assert [row["source"] for row in rows if not row["reused"]] == ["clip-042", "clip-043"]
    assert_same(run, untroubled)
    assert list(damaged(run)) == []
