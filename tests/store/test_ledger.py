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
    ledger.begin(tmp_path, "s")
    ledger.write_part(tmp_path, "s", 0, [row("a", "a")])  # b and c left this shard; then killed
    assert list(ledger.read(tmp_path, "s")["clip_id"]) == ["a", "b", "c", "d"]
    ledger.begin(tmp_path, "s")
    assert list(ledger.read(tmp_path, "s")["clip_id"]) == ["a", "b", "c", "d"]
    ledger.write_part(tmp_path, "s", 0, [row("b", "b"), row("e", "e")])
    kept = ledger.table_of([row("c", "c")])
    ledger.finish(tmp_path, "s", kept)
    assert list(ledger.read(tmp_path, "s")["clip_id"]) == ["b", "c", "e"]
    assert [p.name for p in ledger.folder(tmp_path, "s").iterdir()] == [ledger.TABLE]


def test_the_row_of_the_newer_run_wins_whatever_the_clock_said(tmp_path):
    ledger.write_part(tmp_path, "s", 0, [row("a", "a", at="2026-01-02"), row("b", "b")])
    ledger.finish(tmp_path, "s")
    ledger.begin(tmp_path, "s")
    ledger.write_part(tmp_path, "s", 0, [row("a", "a", at="1970-01-01", status="rejected")])
    assert list(ledger.read(tmp_path, "s")["status"]) == ["rejected", "accepted"]
    ledger.begin(tmp_path, "s")
    assert list(ledger.read(tmp_path, "s")["status"]) == ["rejected", "accepted"]


def test_an_unchanged_ledger_is_not_written_again(tmp_path):
    ledger.write_part(tmp_path, "s", 0, [row("b", "b"), row("a", "a")])
    ledger.finish(tmp_path, "s")
    path = ledger.folder(tmp_path, "s") / ledger.TABLE
    before = path.stat().st_ino
    ledger.finish(tmp_path, "s", ledger.table(tmp_path, "s"))
    assert path.stat().st_ino == before
    ledger.finish(tmp_path, "s", ledger.table(tmp_path, "s").slice(1))
    assert list(ledger.read(tmp_path, "s")["clip_id"]) == ["b"]


def test_one_clip_is_found_in_every_stage(tmp_path):
    ledger.write_part(tmp_path, "source", 0, [row("v", "", facts='{"n": 1}'), row("w", "")])
    ledger.write_part(tmp_path, "quality", 0, [row("v", "v-1", score_face_px=3.0), row("w", "w-1")])
    found = ledger.of_clip(tmp_path, "v-1")
    assert set(found) == {"source", "quality"}
    assert ledger.facts(found["source"]) == {"n": 1}
    assert ledger.scores(found["quality"]) == {"face_px": 3.0}
    assert ledger.of_clip(tmp_path, "no such") == {}


def test_a_column_that_is_no_score_is_refused(tmp_path):
    with pytest.raises(ValueError, match="colour"):
        ledger.write_part(tmp_path, "s", 0, [row("a", colour=1.0)])
