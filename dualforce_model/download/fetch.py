"""One attempt at one video through yt-dlp: the format, the caps, the resume, and a look at what came."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from errno import ENOSPC
from pathlib import Path
from typing import Any

from dualforce_model.download.config import DownloadConfig
from dualforce_model.download.failures import Failure, classify, scrub
from dualforce_model.download.listed import ListedVideo
from dualforce_model.errors import BadInput
from dualforce_model.media import probe
from dualforce_model.store import digest_file, publish, write_json

log = logging.getLogger("dualforce.download")
BLOCK = 64 * 1024  # bytes
LEFT_OVER = (".part", ".ytdl", ".temp", ".seen")  # endings of unfinished files


@dataclass(frozen=True)
class Fetched:
    """A video that lies whole in the downloads folder, with its side-car; `bytes_fetched` in this attempt."""

    path: Path
    sidecar: Path
    bytes_fetched: int


class FetchError(Exception):
    """One attempt failed; `failure` says how."""

    def __init__(self, failure: Failure):
        super().__init__(failure.message)
        self.failure = failure

    def __reduce__(self) -> tuple[type[FetchError], tuple[Failure]]:
        return type(self), (self.failure,)


class Session:
    """yt-dlp made ready once (0.1 s) for one video after the other; not to be shared between threads. `stop` ends it soon."""

    def __init__(self, config: DownloadConfig, stop: threading.Event | None = None):
        from dualforce_model.download.guard import GuardedDownloader

        self.config, self._stop = config, stop or threading.Event()
        self._hooks: list[Callable[[dict[str, Any]], None]] = []
        parameters = options(config) | {"progress_hooks": [lambda status: self._hooks[0](status)], "logger": _Quiet()}
        self._downloader = GuardedDownloader(parameters, config.allow_hosts)

    def fetch(self, video: ListedVideo, identity: str, folder: Path) -> Fetched:
        """One attempt: `video` into `folder` as `<key>.<ext>` and, last, `<key>.json`; goes on where a killed one stopped.

        Raises FetchError with the class of what went wrong, and OSError when the disk is full.
        """
        downloader = self._downloader
        folder.mkdir(parents=True, exist_ok=True)
        _room(folder, self.config)
        before = _bytes(folder, video.key)
        self._hooks[:] = [_caps(self.config, self._stop)]
        downloader.refusal, downloader.seen = None, ""
        downloader.params["outtmpl"]["default"] = f"{str(folder / video.key).replace('%', '%%')}.%(ext)s"
        try:
            with downloader.looking():
                info = downloader.extract_info(video.url, download=False)
            _acceptable(info, self.config)
            _same_as_begun(folder, video.key, f"{identity} {info.get('format_id')} {downloader.seen}")
            downloader.process_info(info)
        except FetchError as error:  # a cap
            raise FetchError(replace(error.failure, progressed=_bytes(folder, video.key) > before)) from error
        except Exception as error:
            failure = _failure(error, downloader.refusal)
            if failure.kind == "disk":
                raise OSError(ENOSPC, failure.message) from error
            raise FetchError(replace(failure, progressed=_bytes(folder, video.key) > before)) from error
        finally:
            downloader.close_responses()
        return _finish(video, identity, folder, info, self.config, _bytes(folder, video.key) - before)


def options(config: DownloadConfig) -> dict[str, Any]:
    """yt-dlp's parameters. It retries nothing itself: our back-off sees every failure."""
    height = f"[height<=?{config.max_height}]"
    speedy = f"{height}[fps>=?{config.min_fps}]"
    # sound must come along: with separate streams, or in one file; video alone is no use to us
    wanted = f"bv*{speedy}+ba/b{speedy}/bv*{height}+ba/b{height}"
    return {
        "format": wanted,
        "format_sort": [f"res:{config.max_height}", f"fps:{max(30, config.min_fps)}"],
        "outtmpl": {"default": "-"},  # set for every video
        "noplaylist": True,
        "continuedl": True,
        "overwrites": False,
        "retries": 0,
        "fragment_retries": 0,
        "extractor_retries": 0,
        "file_access_retries": 0,
        "skip_unavailable_fragments": False,
        "hls_prefer_native": True,  # ffmpeg would fetch past our guard
        "buffersize": BLOCK,
        "noresizebuffer": True,  # a transfer that breaks loses the block it was in: a small one
        "socket_timeout": config.timeout_s,
        "ratelimit": config.rate_limit_kib * 1024 or None,
        "sleep_interval_requests": config.pause_s or None,
        "proxy": config.proxy_address or None,
        "cookiefile": cookies_of(config.cookies),
        "cachedir": False,
        "fixup": "never",  # our reader looks into a file and not at its name
        "updatetime": False,
        "writeinfojson": False,
        "quiet": True,
        "no_warnings": True,
        "noprogress": True,
        "color": "never",
        "ffmpeg_location": _ffmpeg(),
    }


def kept(folder: Path, key: str, identity: str) -> tuple[Path, Path] | None:
    """The video and its side-car when an earlier run published them whole under this identity."""
    sidecar = folder / f"{key}.json"
    try:
        facts = json.loads(sidecar.read_text(encoding="utf-8"))
        path = folder / Path(facts["file"]).name
        whole = facts["identity"] == identity and digest_file(path) == facts["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if whole:
        (folder / f"{key}.seen").unlink(missing_ok=True)  # a kill came between the two
    return (path, sidecar) if whole else None


def discard(folder: Path, key: str) -> list[Path]:
    """Remove everything that belongs to a video, unfinished files too; returns what was there."""
    gone = [path for path in sorted(folder.glob(f"{key}.*")) if path.is_file()]
    for path in gone:
        path.unlink()
    return gone


def _finish(
    video: ListedVideo, identity: str, folder: Path, info: dict[str, Any], config: DownloadConfig, fetched: int
) -> Fetched:
    found = [p for p in folder.glob(f"{video.key}.*") if p.suffix != ".json" and not p.name.endswith(LEFT_OVER)]
    if len(found) != 1:
        names = ", ".join(sorted(p.name for p in found)) or "nothing"
        discard(folder, video.key)
        raise FetchError(Failure("unknown", f"yt-dlp reported success and left {names}"))
    (path,) = found
    try:
        facts = probe(path)
        _short_enough(facts.duration_s, config)
    except FetchError:
        discard(folder, video.key)
        raise
    except BadInput as error:
        discard(folder, video.key)  # the next attempt must not take it for a finished file
        kind = "not_a_video" if error.reason in ("not_a_video", "no_video_stream") else "damaged"
        raise FetchError(Failure(kind, f"what came is no whole video: {error}")) from error
    sidecar = folder / f"{video.key}.json"
    write_json(
        sidecar,
        {
            "identity": identity,
            "dataset": video.dataset,
            "key": video.key,
            "url": scrub(video.url) if video.dataset == "links" else video.url,
            "file": path.name,
            "bytes": path.stat().st_size,
            "sha256": digest_file(path),
            "format": str(info.get("format_id") or ""),
            "extractor": str(info.get("extractor_key") or ""),
            "width": facts.width,
            "height": facts.height,
            "fps": facts.fps_mean,
            "duration_s": facts.duration_s,
            "sound": facts.audio is not None,
        },
    )
    (folder / f"{video.key}.seen").unlink(
        missing_ok=True
    )  # last: without it, files that have no side-car are not trusted
    return Fetched(path, sidecar, fetched)


def _same_as_begun(folder: Path, key: str, seen: str) -> None:
    """Before a part is gone on with: what lies there must be of the same file in the same format, else it goes.

    `seen` says which; it stands beside what is unfinished. A part that is whole already, by the host's own word on its
    length, becomes the file.
    """
    note = folder / f"{key}.seen"
    if not note.exists() or note.read_text(encoding="utf-8") != seen:
        discard(folder, key)
        with publish(note) as temporary:
            temporary.write_text(seen, encoding="utf-8")
    for part in folder.glob(f"{key}.*.part"):
        if str(part.stat().st_size) == seen.rpartition(" ")[2]:
            part.replace(part.with_suffix(""))


def _failure(error: BaseException, refusal: Any) -> Failure:
    failure = classify(error)
    if refusal is not None and failure.passing:
        # yt-dlp drops the status and the headers of what the host said while it was sending
        known = classify(refusal)
        return Failure(known.kind, failure.message, known.retry_after_s)
    return failure


def _bytes(folder: Path, key: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(f"{key}.*") if path.suffix not in (".json", ".seen"))


def _acceptable(info: dict[str, Any] | None, config: DownloadConfig) -> None:
    """Raise FetchError for what should not even be begun."""
    if not info or info.get("_type", "video") != "video" or "entries" in info:
        raise FetchError(
            Failure("not_a_video", "the link leads to a list of videos or a page without one, not to one video")
        )
    if info.get("is_live") or info.get("live_status") in ("is_live", "is_upcoming", "post_live"):
        raise FetchError(Failure("live", "the video is a live stream or not out yet"))
    _short_enough(info.get("duration") or 0, config)
    size = sum(f.get("filesize") or f.get("filesize_approx") or 0 for f in info.get("requested_formats") or [info])
    _within(size, config)


def _short_enough(seconds: float, config: DownloadConfig) -> None:
    if seconds > config.max_hours * 3600:
        raise FetchError(Failure("too_long", f"{seconds / 3600:.2f} h is more than max_hours = {config.max_hours:g}"))


def _within(size: int, config: DownloadConfig) -> None:
    if size > config.max_mib << 20:
        raise FetchError(Failure("too_large", f"{size >> 20} MiB is more than max_mib = {config.max_mib}"))


def _room(folder: Path, config: DownloadConfig) -> None:
    if shutil.disk_usage(folder).free < config.keep_free_gib * 2**30:
        raise OSError(ENOSPC, f"less than {config.keep_free_gib:g} GiB are free at {folder} (download.keep_free_gib)")


def _caps(config: DownloadConfig, stop: threading.Event) -> Callable[[dict[str, Any]], None]:
    """What yt-dlp calls after every block: ends what exceeds a cap."""
    begun = time.monotonic()

    def check(status: dict[str, Any]) -> None:
        _within(max(status.get("downloaded_bytes") or 0, status.get("total_bytes") or 0), config)
        if stop.is_set():
            raise FetchError(Failure("network", "the run was stopped; the next one goes on from here"))
        if time.monotonic() - begun > config.video_timeout_s:
            raise FetchError(Failure("too_slow", f"not finished after video_timeout_s = {config.video_timeout_s:g}"))

    return check


class _Quiet:
    """yt-dlp's chatter goes to the debug log, without what could be personal."""

    def debug(self, text: str) -> None:
        log.debug("%s", scrub(text))

    info = warning = error = debug


def cookies_of(path: Path | None) -> io.StringIO | None:
    """The cookies in `path`. Raises BadInput when they can't be read, or when others can read them too."""
    if path is None:
        return None
    try:
        with path.open(encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            if mode & 0o077:  # whoever has them is signed in as their owner
                raise BadInput(
                    "cookies_exposed",
                    f"{path} can be read by other users (mode {mode:04o}); chmod 600 it and run again",
                )
            return io.StringIO(file.read())  # yt-dlp writes back what it was given: a copy, not the file
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput("no_cookies", f"download.cookies cannot be read: {type(error).__name__}") from error


def _ffmpeg() -> str:
    """The ffmpeg that joins separate picture and sound."""
    if found := shutil.which("ffmpeg"):
        return found
    import imageio_ffmpeg

    return str(imageio_ffmpeg.get_ffmpeg_exe())
