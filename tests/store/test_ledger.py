from __future__ import annotations

import json

import pandas as pd
import pytest

from dualforce_model.store import ledger


def row(source: str, clip: str = "", at: str = "2026-01-01T00:00:00", **more):
    return {
        "source": source,
        "source_id": source,
        "clip_id": clip,
        "stage": "s",
        "status": "accepted",
        "finished_at": at,
        **more,
    }


def test_rows_come_back_typed_and_ordered(tmp_path):
    ledger.write_part(tmp_path, "s", 0, [row("b", "b-1", score_sharpness=2.5, reasons=["x", "y"]), row("a", "a-1")])
    ledger.write_part(tmp_path, "s", 1, [row("c", "c-1", facts=json.dumps({"k": 1}))])
    rows = ledger.read(tmp_path, "s")
    assert list(rows["clip_id"]) == ["a-1", "b-1", "c-1"]
    assert list(rows["reasons"].iloc[1]) == ["x", "y"]
    records = rows.to_dict("records")
    assert ledger.scores(records[1]) == {"sharpness": 2.5}
    assert ledger.scores(records[0]) == {"sharpness": None}
    assert ledger.facts(records[2]) == {"k": 1}
    assert len(pd.read_parquet(ledger.folder(tmp_path, "s"))) == 3  # one call of pandas reads all parts


def test_never_run_is_told_from_nothing_found(tmp_path):
    assert not ledger.exists(tmp_path, "s")
    assert list(ledger.read(tmp_path, "s").columns) == list(ledger.COLUMNS)
    ledger.write_part(tmp_path, "s", 0, [])
    assert ledger.exists(tmp_path, "s")
    assert len(ledger.read(tmp_path, "s")) == 0


def test_no_row_is_lost_when_shards_move_and_the_run_dies_half_way(tmp_path):
    ledger.write_part(tmp_path, "s", 0, [row("b", "b"), row("c", "c")])
    ledger.write_part(tmp_path, "s", 1, [row("d", "d")])
    ledger.begin(tmp_path, "s", 3)
    ledger.write_part(
        tmp_path, "s", 0, [row("a", "a", at="2026-01-02T00:00:00")]
    )  # b and c left this shard; then killed
    assert list(ledger.read(tmp_path, "s")["clip_id"]) == ["a", "b", "c", "d"]
    ledger.write_part(tmp_path, "s", 1, [row("b", "b", at="2026-01-03T00:00:00")])
    ledger.write_part(tmp_path, "s", 2, [row("c", "c")])
    ledger.finish(tmp_path, "s", 3)
    assert list(ledger.read(tmp_path, "s")["clip_id"]) == ["a", "b", "c"]
    assert sorted(p.name for p in ledger.folder(tmp_path, "s").iterdir()) == [f"part-{n:05d}.parquet" for n in range(3)]


def test_newest_row_of_an_item_wins(tmp_path):
    ledger.write_part(tmp_path, "s", 0, [row("a", "a", at="2026-01-02", status="rejected")])
    ledger.write_part(tmp_path, "s", 1, [row("a", "a", at="2026-01-01")])
    assert list(ledger.read(tmp_path, "s")["status"]) == ["rejected"]


def test_a_column_that_is_no_score_is_refused(tmp_path):
    with pytest.raises(ValueError, match="colour"):
        ledger.write_part(tmp_path, "s", 0, [row("a", colour=1.0)])
