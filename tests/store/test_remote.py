"""A run in shared storage, on a real S3 server and on a plain folder: what is put is found whole, and nothing else."""

from __future__ import annotations

import fsspec
import pytest
from s3 import s3_bucket

from dualforce_model.config import ConfigError
from dualforce_model.store import digest_bytes, ledger
from dualforce_model.store.remote import NotInStore, Remote, Stored, StoreError, files_of
from tasks.config import RunnerConfig

A = b"a" * 70_000


@pytest.fixture(scope="module")
def s3():
    with s3_bucket() as url:
        yield url


@pytest.fixture(params=["s3", "file"])
def remote(request, s3, tmp_path) -> Remote:
    return Remote(f"s3://bucket/{tmp_path.name}" if request.param == "s3" else f"file://{tmp_path}/store")


@pytest.fixture
def here(tmp_path):
    folder = tmp_path / "here"
    (folder / "clips").mkdir(parents=True)
    return folder


def stored(folder, name: str, data: bytes) -> Stored:
    (folder / name).write_bytes(data)
    return Stored(name, len(data), digest_bytes(data))


def overwrite(remote: Remote, file: Stored, data: bytes) -> None:
    with fsspec.open(f"{remote.url}/files/{file.key}", "wb") as sink:
        sink.write(data)


def rows(*names: str, status: str = "accepted") -> list[dict]:
    return [{"clip_id": name, "source": name, "status": status} for name in names]


def clips_of(folder) -> list[str]:
    return ledger.read(folder, "quality")["clip_id"].tolist()


def test_what_one_machine_puts_another_fetches(remote, here, tmp_path):
    files = [stored(here, "clips/a.mp4", A), stored(here, "clips/b.mp4", b"b"), stored(here, "stats.json", b"{}")]
    remote.put(here, files)
    assert remote.sizes("clips") == {files[0].key: len(A), files[1].key: 1}
    assert remote.sizes("") == {files[2].key: 2}
    assert remote.sizes("samples") == {}
    remote.fetch(tmp_path / "there", files)
    for file in files:
        assert (tmp_path / "there" / file.name).read_bytes() == (here / file.name).read_bytes()


def test_two_versions_of_a_file_stand_side_by_side(remote, here):
    old, new = stored(here, "clips/a.mp4", A), None
    remote.put(here, [old])
    new = stored(here, "clips/a.mp4", b"new")
    remote.put(here, [new])
    remote.fetch(here, [old])
    assert (here / "clips/a.mp4").read_bytes() == A
    remote.fetch(here, [new])
    assert (here / "clips/a.mp4").read_bytes() == b"new"


@pytest.mark.parametrize("other", [b"x" * len(A), A[:1000]], ids=["same-size", "cut-short"])
def test_other_bytes_are_noticed_set_aside_and_can_be_put_again(remote, here, tmp_path, other):
    file = stored(here, "clips/a.mp4", A)
    remote.put(here, [file])
    overwrite(remote, file, other)
    with pytest.raises(NotInStore, match=r"clips/a\.mp4 .* other bytes .* run again") as caught:
        remote.fetch(tmp_path / "there", [file])
    assert caught.value.reason == "store_damaged"
    assert not list((tmp_path / "there").rglob("*.mp4"))
    assert remote.sizes("clips") == {}
    assert f"damaged/{file.key}" in remote.objects()
    with pytest.raises(NotInStore) as caught:
        remote.fetch(tmp_path / "there", [file])
    assert caught.value.reason == "store_missing"
    remote.put(here, [file])
    remote.fetch(tmp_path / "there", [file])
    assert (tmp_path / "there/clips/a.mp4").read_bytes() == A


def test_a_ledger_goes_from_machine_to_machine(remote, here, tmp_path):
    there = tmp_path / "there"
    ledger.write_part(here, "quality", 0, rows("a", "b"))
    ledger.write_part(here, "quality", 1, rows("c"))
    remote.push(here, "quality")
    remote.pull(there, ["quality", "flame"])
    assert clips_of(there) == ["a", "b", "c"]
    assert ledger.stages(there) == ["quality"]

    ledger.finish(there, "quality")  # one table of the parts
    remote.push(there, "quality")
    remote.pull(here, ["quality"])
    assert sorted(path.name for path in (here / "ledger/quality").glob("*.parquet")) == ["rows.parquet"]
    assert clips_of(here) == ["a", "b", "c"]

    ledger.rewrite(here, "quality", rows("a"))
    remote.push(here, "quality")
    remote.pull(there, ["quality"])
    assert clips_of(there) == ["a"]


def test_what_did_not_change_is_not_moved_again(remote, here, monkeypatch):
    ledger.rewrite(here, "quality", rows("a"))
    remote.push(here, "quality")
    moved = []
    for name in ("read", "write"):
        real = getattr(Remote, name)
        monkeypatch.setattr(Remote, name, lambda *them, real=real: moved.append(them[1]) or real(*them))
    remote.pull(here, ["quality"])
    remote.push(here, "quality")
    assert moved == []
    ledger.rewrite(here, "quality", rows("a", "b"))
    remote.push(here, "quality")
    assert moved == ["ledger/quality/rows.parquet"]


def test_a_push_that_was_killed_loses_no_row(remote, here, tmp_path, monkeypatch):
    for shard, name in enumerate("ab"):
        ledger.write_part(here, "quality", shard, rows(name))
    remote.push(here, "quality")
    ledger.finish(here, "quality")

    def killed(*them):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Remote, "remove", killed)  # the new table is there, the old parts as well
        remote.push(here, "quality")
    remote.pull(tmp_path / "there", ["quality"])
    assert clips_of(tmp_path / "there") == ["a", "b"]


def test_a_run_from_before_there_was_a_store_is_taken_in_whole(remote, here, tmp_path):
    file = stored(here, "clips/a.mp4", A)
    ledger.rewrite(here, "quality", [{**rows("a")[0], "files": f'[["{file.name}", {file.bytes}, "{file.sha256}"]]'}])
    remote.pull(here, ["quality"])
    remote.pull(tmp_path / "there", ["quality"])
    assert clips_of(tmp_path / "there") == ["a"]
    remote.fetch(tmp_path / "there", [file])
    assert (tmp_path / "there/clips/a.mp4").read_bytes() == A


def test_killed_while_it_is_taken_in_or_pulled_it_goes_on(remote, here, tmp_path, monkeypatch):
    def killed(*them):
        raise KeyboardInterrupt

    ledger.rewrite(here, "quality", rows("a"))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Remote, "remove", killed)
        remote.pull(here, ["quality"])
    remote.pull(here, ["quality"])
    assert clips_of(here) == ["a"]
    real = Remote._note
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Remote, "_note", lambda *them: killed() if len(them) > 4 else real(*them))
        remote.pull(tmp_path / "there", ["quality"])
    assert clips_of(tmp_path / "there") == ["a"]
    remote.pull(tmp_path / "there", ["quality"])
    assert clips_of(tmp_path / "there") == ["a"]


def test_two_different_runs_are_not_mixed(remote, here, tmp_path):
    ledger.rewrite(here, "quality", rows("a"))
    remote.pull(here, ["quality"])
    ledger.rewrite(tmp_path / "there", "quality", rows("other"))
    with pytest.raises(StoreError, match="different runs; name an empty folder"):
        remote.pull(tmp_path / "there", ["quality"])
    assert clips_of(tmp_path / "there") == ["other"]


@pytest.mark.parametrize("name", ["../out", "/etc/out", "clips/../../out"])
def test_a_row_that_leads_out_of_the_run_folder_is_refused(remote, here, tmp_path, name):
    files = f'[["clips/a.mp4", 1, "00"], ["{name}", 1, "00"]]'
    with pytest.raises(StoreError, match="not in the run folder"):
        files_of(files)
    ledger.rewrite(tmp_path / "evil", "quality", [{**rows("a")[0], "files": files}])
    remote.push(tmp_path / "evil", "quality")
    for _ in range(2):  # and is not believed the next time either
        with pytest.raises(StoreError, match="not in the run folder"):
            remote.pull(here, ["quality"])


def test_only_a_ledgers_own_files_are_pulled(remote, here, tmp_path):
    ledger.rewrite(here, "quality", rows("a"))
    remote.push(here, "quality")
    remote.write("ledger/quality/deeper/rows.parquet", here / "ledger/quality/rows.parquet")
    remote.pull(tmp_path / "there", ["quality"])
    assert [path.name for path in (tmp_path / "there").rglob("*.parquet")] == ["rows.parquet"]


def test_what_keeps_the_store_from_being_used_is_said_without_keys(s3, here):
    options = {"key": "the-key", "secret": "the-secret", "endpoint_url": s3}
    assert "the-secret" not in repr(Remote("s3://bucket/x", options))
    for remote, words in (
        (Remote("s3://no-such-bucket/x", options), "no-such-bucket.*does not exist"),
        (Remote("s3://bucket/x", {**options, "endpoint_url": "http://127.0.0.1:9"}), "127.0.0.1:9"),
        (Remote("nothing://bucket/x"), "nothing"),
    ):
        with pytest.raises(StoreError, match=words) as caught:
            remote.put(here, [stored(here, "clips/a.mp4", A)])
        assert "the-secret" not in str(caught.value)
    for url in ("s3://key:secret@bucket/x", "bucket/x"):
        with pytest.raises(ConfigError, match="store") as refused:
            RunnerConfig(store=url)
        assert "secret@" not in str(refused.value)
