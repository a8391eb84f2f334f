"""What can be set about lists and fetching. Only `max_height` and `min_fps` decide which bytes come; the rest is manners."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from dualforce_model.config import ConfigError, near_misses

DATASETS = ("hdtf", "celebv_hq", "celebv_text", "vfhq", "links")


@dataclass(frozen=True)
class DownloadConfig:
    """Where videos come from when they don't lie in a folder, and how they are fetched.

    lists             the list of each dataset: a folder (hdtf), a JSON file (celebv_hq, celebv_text), a folder or archive
                      of clip files (vfhq), a text file (links). Empty: nothing is fetched
    deny              a text file with one id a line (video, clip or source id) that must not be used; see `dualforce forget`
    framing           what the list's crops are for: `list` shows exactly the list's square, `own` takes the square that
                      the face crop would choose for the face that the list means (the same framing for all datasets)
    max_height        of the picture, pixels; among the rest the highest is taken
    min_fps           rates below it are taken only when nothing faster is offered
    concurrent        videos at a time; `per_host` of them from one host
    rate_limit_kib    KiB a second for one video; 0 = no limit
    pause_s           between two requests' beginnings to one host, with jitter
    timeout_s         without a byte, then the attempt has failed
    retries           further attempts at one video in one run, with back-off from `backoff_s` to `max_backoff_s`
    retry_budget      further attempts at all videos together in one run
    lifetime          attempts at one video in all runs, then it is left alone until asked for by --retry-failed
    breaker           failures of a host in a row after which it is left alone for `breaker_pause_s`; still refusing after
                      `breaker_pauses` such pauses, it is left alone for the rest of the run
    max_mib, max_hours  of one video; larger and longer ones are not fetched
    video_timeout_s   for one video in one attempt
    keep_free_gib     the run stops before the disk has less
    cookies           a cookies.txt of yours for videos that need one, which nobody else may read; it is never written
    proxy             http, https or socks address; one with a password only as $NAME of an environment variable that
                      holds it, so that the password is neither in the run folder nor on the dashboard
    allow_hosts       `host` or `host:port` that may be fetched from although they are not public
    """

    lists: dict[str, Path] = field(default_factory=dict)
    deny: Path | None = None
    framing: Literal["list", "own"] = "list"
    max_height: int = 1080
    min_fps: int = 25
    concurrent: int = 8
    per_host: int = 4  # videos at a time from one host
    rate_limit_kib: int = 0
    pause_s: float = 0.0
    timeout_s: float = 30.0
    retries: int = 4
    retry_budget: int = 2000
    lifetime: int = 20
    backoff_s: float = 2.0  # pause after a first failure, doubled after each further one
    max_backoff_s: float = 300.0  # longest pause between two attempts
    breaker: int = 10
    breaker_pause_s: float = 120.0  # how long a failing host is left alone
    breaker_pauses: int = 3  # such pauses, then the host is given up for this run
    max_mib: int = 8192  # larger videos are too_large
    max_hours: float = 6.0  # longer videos are too_long
    video_timeout_s: float = 3600.0
    keep_free_gib: float = 2.0
    cookies: Path | None = None
    proxy: str = ""
    allow_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.lists:
            if name not in DATASETS:
                raise ConfigError(f"lists: unknown dataset {name!r}{near_misses(name, DATASETS)}")
        if min(self.concurrent, self.per_host, self.breaker, self.lifetime) < 1:
            raise ConfigError("concurrent, per_host, breaker and lifetime: expected at least 1")
        if min(self.retries, self.retry_budget, self.breaker_pauses, self.pause_s, self.backoff_s) < 0:
            raise ConfigError("retries, retry_budget, breaker_pauses, pause_s and backoff_s: expected at least 0")
        if self.timeout_s <= 0 or self.video_timeout_s <= 0 or self.max_height < 64:
            raise ConfigError("timeout_s and video_timeout_s must be above 0, max_height at least 64")
        if "@" in self.proxy:
            raise ConfigError(
                "proxy: a password must not stand in settings, which are stored and shown; put the address into an "
                "environment variable and set proxy to $NAME of it"
            )

    def absolute(self) -> DownloadConfig:
        """The same with paths that mean the same file wherever a worker stands."""
        lists = {name: path.absolute() for name, path in self.lists.items()}
        deny, cookies = (path and path.absolute() for path in (self.deny, self.cookies))
        return replace(self, lists=lists, deny=deny, cookies=cookies)

    @property
    def proxy_address(self) -> str:
        """The proxy itself; "" without one. Raises ConfigError when the environment does not hold it."""
        if not self.proxy.startswith("$"):
            return self.proxy
        if self.proxy[1:] not in os.environ:
            raise ConfigError(f"download.proxy: the environment has no variable {self.proxy[1:]!r}")
        return os.environ[self.proxy[1:]]
