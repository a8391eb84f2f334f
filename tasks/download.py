"""Stage `download`: every video of the lists fetched once for all its clips; what is wrong with a list is a row as well."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dualforce_model.config import ConfigError, near_misses
from dualforce_model.download import deny
from dualforce_model.download.config import DownloadConfig
from dualforce_model.download.failures import CLASSES, Failure
from dualforce_model.download.fetch import FetchError, Session, cookies_of, discard, kept
from dualforce_model.download.listed import ListedVideo, Manifest
from dualforce_model.download.lists import read_lists
from dualforce_model.download.manners import Manners
from dualforce_model.download.schedule import work_off
from dualforce_model.store import identity, ledger
from tasks import working_copy
from tasks.run import Run, RunError
from tasks.stage import Item, Row, Stage, row_facts

VERSION = 1
FOLDER = "downloads"
_manners: dict[Path, Manners] = {}  # of the run that this process does; all its shards share them
_mine = threading.local()


def plan(run: Run) -> list[Item]:
    """One item per video and one per problem of a list. Which clips are wanted is no part of a video's identity."""
    config = run.config.download
    if not config.lists:
        raise RunError("no lists to download from: set download.lists.<dataset>=PATH (hdtf, celebv_hq, vfhq, links, …)")
    _manners[run.dir] = Manners(config)
    _ = cookies_of(config.cookies), config.proxy_address  # said once, and not of every video
    denied, tries = deny.read(run.dir), _tries(run)
    items: list[Item] = []
    for manifest in read_lists(config):
        items += [_item(video, config, denied, tries.get(video.source, 0)) for video in manifest.videos]
        items += _problems(manifest)
    return items


def identity_of(video: ListedVideo, config: DownloadConfig) -> str:
    return identity(
        stage="download", version=VERSION, dataset=video.dataset, key=video.key, url=video.url,
        height=config.max_height, fps=config.min_fps,
    )  # fmt: skip


def _item(video: ListedVideo, config: DownloadConfig, denied: frozenset[str], tries: int) -> Item:
    if deny.denies(denied, video.source):
        mine = identity(stage="download", denied=video.source)
        said = (
            "denied",
            f"{video.key} is on the deny-list; `dualforce forget {video.key}` removes what is there of it",
        )
        return Item(mine, video.key, video.source, payload={"said": said})
    payload = {"video": video, "config": config, "tries": tries}
    return Item(identity_of(video, config), video.key, video.source, payload=payload)


def _problems(manifest: Manifest) -> Iterator[Item]:
    seen: dict[str, int] = {}
    for problem in manifest.problems:
        name = f"{manifest.dataset}/list/{problem.where}"
        seen[name] = seen.get(name, 0) + 1
        name += f"+{seen[name]}" if seen[name] > 1 else ""
        mine = identity(stage="download", version=VERSION, problem=dataclasses.asdict(problem), name=name)
        facts = {"lost": problem.lost}
        yield Item(mine, "", name, payload={"said": (problem.reason, problem.message), "facts": facts})


def _tries(run: Run) -> dict[str, int]:
    """Attempts of earlier runs, by video."""
    rows = ledger.read(run.dir, "download")
    return {
        row.source: row_facts(row).get("tries", 0) for row in rows[rows["status"] == "failed"].itertuples(index=False)
    }


def work(item: Item, run_dir: Path, reuse: bool) -> list[Row]:
    """One attempt at one video, unless it lies there whole."""
    if "said" in item.payload:
        reason, message = item.payload["said"]
        return [Row("rejected", reason, message, facts=item.payload.get("facts", {}))]
    video: ListedVideo = item.payload["video"]
    folder = run_dir / FOLDER / video.dataset
    if not reuse:
        discard(folder, video.key)
    found = kept(folder, video.key, item.identity)
    if found is None:
        try:
            fetched = _session(item.payload["config"]).fetch(video, item.identity, folder)
        except FetchError as error:
            if not error.failure.passing:
                discard(folder, video.key)  # nothing will go on from here
            return [_failed(error.failure)]
        found = fetched.path, fetched.sidecar
    facts = json.loads(found[1].read_text(encoding="utf-8"))
    return [Row(files=tuple(str(path.relative_to(run_dir)) for path in found), facts=facts)]


def spread(run: Run, function: Callable[[Item], Any], items: Sequence[Item]) -> Iterator[tuple[int, Any]]:
    """Attempts in threads of this process, because they share the manners towards each host; yields as the engine wants it."""
    manners = _manners.setdefault(run.dir, Manners(run.config.download))
    stop = threading.Event()
    videos = [n for n, item in enumerate(items) if "video" in item.payload]
    yield from ((n, function(item)) for n, item in enumerate(items) if "video" not in item.payload)

    def attempt(number: int) -> tuple[Any, Failure | None]:
        _mine.stop = stop
        result = function(items[videos[number]])
        return result, _failure(result)

    def refuse(number: int, failure: Failure) -> Any:
        return [(_failed(failure), [])], 0.0

    hosts = [urlsplit(items[n].payload["video"].url).netloc.rpartition("@")[2].lower() for n in videos]
    for number, result, tries in work_off(hosts, attempt, refuse, manners, stop):
        item = items[videos[number]]
        yield videos[number], _final(result, item.payload["tries"] + tries, item.payload["config"].lifetime)


def _session(config: DownloadConfig) -> Session:
    if getattr(_mine, "session", None) is None or _mine.session.config != config:
        _mine.session = Session(config, _mine.stop)
    return _mine.session  # type: ignore[no-any-return]


def _failed(failure: Failure) -> Row:
    return Row("failed", failure.kind, failure.message, facts={"failure": dataclasses.asdict(failure)}, retry=True)


def _failure(result: Any) -> Failure | None:
    rows, _ = result
    facts = rows[0][0].facts if isinstance(rows, list) else {}
    return Failure(**facts["failure"]) if "failure" in facts else None


def _final(result: Any, tries: int, lifetime: int) -> Any:
    """The row of a video that failed for this run: whether the next one tries again, and how often it was tried."""
    failure = _failure(result)
    if failure is None:
        return result
    kind, message, again = failure.kind, failure.message, failure.passing or failure.kind == "host_refusing"
    if again and tries >= lifetime:
        again, message = False, f"{message}; given up after {tries} attempts, --retry-failed {kind} asks for more"
    return [(Row("failed", kind, message, facts={"tries": tries}, retry=again), [])], result[1]


def retry_failed(run: Run, classes: Iterable[str]) -> int:
    """Mark failed videos of these classes to be tried again, as if for the first time; returns how many."""
    classes = set(classes)
    for name in classes - {"all"}:
        if name not in CLASSES:
            raise ConfigError(f"--retry-failed: no class {name!r}{near_misses(name, ['all', *CLASSES])}")
    with working_copy.changed(run, ["download"]):
        records, marked = ledger.read(run.dir, "download").to_dict("records"), 0
        for record in records:
            if record["status"] == "failed" and (record["reason"] in classes or "all" in classes):
                record |= {"retry": True, "facts": json.dumps({"tries": 0})}
                marked += 1
        if marked:
            ledger.rewrite(run.dir, "download", records)
    return marked


STAGE = Stage("download", "downloads", plan, work, gives="clips", spread=spread)
