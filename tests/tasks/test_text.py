"""Captions from a file to the dataset: each embedded once, refused with a reason, forgotten, made anew when damaged."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import engine
import numpy as np
import pandas as pd
import pytest
import tiny_umt5

from dualforce_model.config import ConfigError
from dualforce_model.errors import BadInput
from dualforce_model.features import umt5
from dualforce_model.features.captions import TextConfig
from dualforce_model.features.umt5 import Umt5Config
from dualforce_model.store import ledger, read_tensors
from flows.pipeline import ORDER, chosen
from tasks import forget, gpu, status, watch
from tasks.config import STAGES, RunConfig
from tasks.run import Run, RunError, create
from tasks.synthetic import make
from tasks.working_copy import pull

TALKS, SMILES, LONG = "a person talks", "a person smiles", "a person talks and smiles and talks"
ENCODER = Umt5Config(tokens=5, precision="float32")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Run:
    """Six accepted clips with all features and a dataset of them, and no word about any."""
    return make(tmp_path_factory.mktemp("made"), 6)


@pytest.fixture
def run(made, tmp_path, monkeypatch) -> Run:
    tiny_umt5.install(tmp_path / "weights", monkeypatch)
    shutil.copytree(made.dir, tmp_path / "run")
    return Run(tmp_path / "run", made.config)


@pytest.fixture
def embedded(monkeypatch) -> list[str]:
    """The captions that were really computed."""
    computed: list[str] = []
    real = umt5.Encoder.__call__

    def spy(self: umt5.Encoder, caption: str) -> np.ndarray:
        found = real(self, caption)
        computed.append(caption)
        return found

    monkeypatch.setattr(umt5.Encoder, "__call__", spy)
    return computed


def names(run: Run) -> list[str]:
    return sorted(ledger.read(run.dir, "quality").query("status == 'accepted'")["clip_id"])


def captioned(run: Run, lines: list[tuple[str, str]], by: str = "clip_id") -> Run:
    """The run with these captions in its configuration."""
    path = run.dir.parent / "captions.csv"
    pd.DataFrame(lines, columns=[by, "caption"]).to_csv(path, index=False)
    text = TextConfig("umt5", path, ENCODER)
    return create(run.dir, replace(run.config, text=text))


def said(rows: list[dict]) -> dict[str, str]:
    """clip -> reason, "" where it was embedded."""
    return {row["clip_id"]: row["reason"] for row in rows}


def test_captions_become_a_column_of_the_dataset_and_cost_no_clip_its_place(run, embedded):
    one, two, none, long, empty, twice = names(run)
    engine.do(run, "metadata")
    before = {name: (run.dir / name).read_bytes() for name in ("metadata.json", "metadata.parquet", "stats.json")}
    lines = [(one, TALKS), (two, f" {TALKS} "), (long, LONG), (empty, " "), (twice, TALKS), (twice, SMILES)]
    worded = captioned(run, [*lines, ("clip-x", TALKS), ("clip-y", TALKS)])
    rows = engine.do(worded, "text")
    refused = {long: "caption_too_long", empty: "caption_empty", twice: "caption_twice", "": "caption_unknown"}
    assert said(rows) == {one: "", two: "", **refused}
    assert {row["status"] for row in rows if row["reason"]} == {"rejected"}
    (unknown,) = (row for row in rows if not row["clip_id"])
    assert "8, 9" in unknown["message"]
    assert embedded == [TALKS]
    (file,) = (run.dir / "features" / "text").iterdir()
    assert read_tensors(file)["text"].shape == (3, tiny_umt5.WIDTH)

    assert {row["status"] for row in engine.do(worded, "metadata")} == {"accepted"}
    table = pd.read_parquet(run.dir / "metadata.parquet").set_index("clip_id")
    path = str(file.relative_to(run.dir))
    assert {clip: text if isinstance(text, str) else None for clip, text in table["text"].items()} == {
        **dict.fromkeys((none, long, empty, twice)), one: path, two: path,
    }  # fmt: skip
    card = json.loads((run.dir / "metadata.json").read_text())
    assert card["features"]["text"]["backend"] == "umt5"
    assert card["text_dim"] == tiny_umt5.WIDTH
    assert card["identity"] != json.loads(before["metadata.json"])["identity"]
    assert status.counts(run.dir)["text"]["reasons"]["caption_too_long"] == 1
    assert {clip["status"] for clip in status.status(run.dir)["clips"] if clip["clip_id"] in names(run)} == {"accepted"}

    # without the stage all is as if it had never been
    engine.do(run, "metadata")
    assert {name: (run.dir / name).read_bytes() for name in before} == before


def test_a_rerun_reuses_everything_and_a_changed_caption_is_embedded_alone(run, embedded):
    one, two, three, *_ = names(run)
    lines = [(one, TALKS), (two, TALKS), (three, SMILES)]
    engine.do(captioned(run, lines), "text")
    files = {path: path.stat().st_mtime_ns for path in (run.dir / "features" / "text").iterdir()}
    assert sorted(embedded) == sorted((TALKS, SMILES))
    assert all(row["reused"] for row in engine.do(captioned(run, lines), "text"))
    assert len(embedded) == 2
    engine.do(captioned(run, [*lines[:2], (three, "a person")]), "text")
    assert embedded[2:] == ["a person"]
    assert all(path.stat().st_mtime_ns == at for path, at in files.items())
    engine.do(captioned(run, lines), "text", force=True)
    assert sorted(embedded[3:]) == sorted((TALKS, SMILES))


def test_its_progress_counts_captions_and_not_the_one_item(run):
    one, two, three, *_ = names(run)
    told = []
    engine.do(captioned(run, [(one, TALKS)]), "text")
    with watch.heard_by(lambda *progress: told.append(progress)):
        engine.do(captioned(run, [(one, TALKS), (two, SMILES), (three, SMILES)]), "text")
    assert ("text", 0, 1, 2) in told  # the first was there, the other is embedded now


def test_a_source_lends_its_caption_to_its_clips_by_name_or_id(run):
    sources = ledger.read(run.dir, "quality").query("status == 'accepted'")
    first, second = sources.to_dict("records")[:2]
    rejected = ledger.read(run.dir, "quality").query("status == 'rejected'")
    lines = [(first["source"], TALKS), (second["source_id"], SMILES), ("nowhere.mp4", TALKS)]
    lines += [(source, TALKS) for source in rejected["source"]]  # known, so no stranger; not accepted, so no row
    rows = engine.do(captioned(run, lines, "source"), "text")
    assert said(rows) == {first["clip_id"]: "", second["clip_id"]: "", "": "caption_unknown"}


def test_forgetting_removes_what_was_said_of_a_clip_alone(run):
    one, two, three, four, *_ = names(run)
    worded = captioned(run, [(one, TALKS), (two, TALKS), (three, SMILES), (four, "a person")])
    engine.do(worded, "text")
    folder = run.dir / "features" / "text"
    engine.do(captioned(run, [(one, TALKS), (two, TALKS), (three, SMILES), (four, "a")]), "text")
    assert len(list(folder.iterdir())) == 4  # what was said of the fourth before lies there, too
    forget.forget(worded, [three])
    assert {path.name for path in folder.iterdir()} == {umt5.name_of(TALKS), umt5.name_of("a")}
    forget.forget(worded, [one])
    assert umt5.name_of(TALKS) in {path.name for path in folder.iterdir()}  # of the second clip
    forget.forget(worded, [two])
    assert {path.name for path in folder.iterdir()} == {umt5.name_of("a")}
    rows = engine.do(captioned(run, [(one, TALKS), (four, "a")]), "text")
    assert said(rows) == {four: "", "": "caption_unknown"}
    assert not any(one in str(row) for row in rows)


def test_a_damaged_embedding_is_found_once_and_made_anew(run, embedded):
    one, two, *_ = names(run)
    worded = captioned(run, [(one, TALKS), (two, TALKS)])
    engine.do(worded, "text")
    (file,) = (run.dir / "features" / "text").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-4] + b"gone")
    assert [(found.stage, found.what) for found in status.damaged(run.dir)] == [("text", "changed")]
    engine.do(worded, "text")
    assert file.read_bytes() == whole
    assert embedded == [TALKS, TALKS]


def test_another_machine_of_the_store_takes_over_what_is_embedded(run, embedded, tmp_path):
    one, two, three, *_ = names(run)
    store = replace(run.config, runner=replace(run.config.runner, store=f"file://{tmp_path}/store"))
    here = captioned(Run(run.dir, store), [(one, TALKS), (two, TALKS), (three, SMILES)])
    engine.do(here, "text")
    there = pull(store.runner.store, tmp_path / "there", files=False)
    assert not (there.dir / "features").exists()
    assert all(row["reused"] for row in engine.do(there, "text"))
    changed = create(there.dir, captioned(here, [(one, TALKS), (two, TALKS), (three, "a person")]).config)
    engine.do(changed, "text")
    assert sorted(embedded) == sorted((TALKS, SMILES, "a person"))
    shutil.rmtree(changed.dir / "features")
    engine.do(changed, "metadata")  # which fetches what it reads
    assert pd.read_parquet(changed.dir / "metadata.parquet")["text"].notna().sum() == 3

    (lost,) = (tmp_path / "store" / "files" / "features" / "text").glob(f"{umt5.name_of(TALKS)}.*")
    lost.unlink()
    third = pull(store.runner.store, tmp_path / "third", files=False)
    assert said(engine.do(third, "text")) == dict.fromkeys((one, two, three), "")
    assert lost.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"", "must be 'clip_id,caption' or 'source,caption'"),
        (b"a.mp4,somebody talks\n", "must be 'clip_id,caption'"),
        (b"clip_id,source,caption\n", "must be 'clip_id,caption'"),
        (b"clip_id,caption\na,\xff\n", "cannot be read"),
    ],
)
def test_a_file_that_holds_no_captions_says_so(run, tmp_path, content, message):
    path = tmp_path / "captions.csv"
    if content is not None:
        path.write_bytes(content)
    config = replace(run.config, text=TextConfig("umt5", path, ENCODER))
    with pytest.raises(BadInput, match=message) as error:
        engine.do(create(run.dir, config), "text")
    assert error.value.reason == "no_captions"


def test_the_stage_is_left_out_unless_it_is_configured(run, tmp_path, monkeypatch):
    assert run.config.leaves_out("text")
    with pytest.raises(RunError, match=r"text\.backend=umt5"):
        engine.do(run, "text")
    with pytest.raises(ConfigError, match="name their file"):
        TextConfig("umt5")
    monkeypatch.chdir(tmp_path)
    config = RunConfig(text=TextConfig("umt5", Path("captions.csv")))
    assert not config.leaves_out("text")
    assert create(tmp_path / "other", config).config.text.captions == tmp_path / "captions.csv"
    assert (gpu.slots(config, "text"), gpu.slots(run.config, "text")) == (1, 0)
    with pytest.raises(RunError, match="'text' has not run"):
        engine.do(Run(run.dir, replace(run.config, text=config.text)), "metadata")


def test_the_stage_stands_between_the_features_and_the_metadata():
    assert tuple(name for group in ORDER for name in group) == STAGES
    assert chosen("text", [])[:2] == ["text", "metadata"]
    assert chosen("flame", [])[:2] == ["flame", "metadata"]
