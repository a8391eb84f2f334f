"""Why a video could not be fetched: yt-dlp's exceptions and messages sorted into classes that call for different things."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# What may pass is tried again, first with back-off and then by later runs; the rest only when somebody asks for it.
PASSING = ("throttled", "forbidden", "network", "damaged", "too_slow", "unknown")
DEAD = (
    "gone", "private", "region", "age", "sign_in", "live", "no_format", "not_a_video", "too_large", "too_long",
    "local_address",
)  # fmt: skip
REFUSALS = ("throttled", "forbidden", "sign_in", "network")  # a host that answers all requests so is left alone
CLASSES = (*PASSING, *DEAD, "host_refusing")

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
STATUS = {
    401: "sign_in", 402: "sign_in", 403: "forbidden", 404: "gone", 407: "network", 408: "network", 410: "gone", 425: "throttled",
    429: "throttled", 451: "region", 503: "throttled", 509: "throttled",
}  # fmt: skip

# First match wins: the narrow ones stand before `Video unavailable`, which YouTube puts in front of most reasons.
MESSAGES: tuple[tuple[str, str], ...] = (
    (
        "disk",
        r"no space left|disk quota exceeded|unable to write data|unable to open for writing|read-only file system",
    ),
    ("throttled", r"not a bot|rate.?limit|too many requests|error 429|try again later|throttl|captcha"),
    (
        "private",
        r"private video|video is private|members.only|join this channel|been made private|is not public|password",
    ),
    ("age", r"age.?restricted|confirm your age|inappropriate for some users|age.?verif|age.?gate"),
    ("region", r"(not |un)available (in|from) your (country|location|region)|in your country|geo.?restrict|geo.?block"),
    (
        "live",
        r"live event will begin|premieres? in|is not currently live|live stream (recording )?is not available|is offline",
    ),
    (
        "sign_in",
        r"sign in|log ?in|--cookies|registered users|account (is )?required|requires? (an )?account|premium|requires? payment",
    ),
    ("no_format", r"requested format is not available|no video formats found|drm protect"),
    ("not_a_video", r"unsupported url|is not a valid url|no video could be found|unable to extract"),
    (
        "gone",
        r"video unavailable|video (is )?(no longer|not) available|been removed|does not exist|been terminated|deleted",
    ),
    ("gone", r"copyright|account.{0,40}(closed|suspended)|violat|error 404|error 410|not found"),
    (
        "network",
        r"timed? ?out|connection|network|unreachable|getaddrinfo|name or service|name resolution|resolve|remote end",
    ),
    ("network", r"bytes read|more expected|expected \d+ bytes|download.{0,10}too short|did not get any data|giving up"),
    ("network", r"ssl|tls|certificate|proxy|http error 5\d\d"),
)
_MESSAGES = tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in MESSAGES)
_STATED = re.compile(r"HTTP Error (\d{3})", re.IGNORECASE)
_ADDRESS = re.compile(r"(https?://)(?:[^/@\s]*@)?([^\s?#'\"<>]*)[^\s'\"<>]*")
_NUMBER = re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b")


@dataclass(frozen=True)
class Failure:
    """One failed attempt. `retry_after_s` is what the host asked for; `progressed`: the attempt brought new bytes."""

    kind: str
    message: str
    retry_after_s: float = 0.0
    progressed: bool = False

    @property
    def passing(self) -> bool:
        return self.kind in PASSING


def classify(error: BaseException) -> Failure:
    """The class of what yt-dlp raised. Looks through its wrappers for a status or type, then at the words."""
    from yt_dlp import utils
    from yt_dlp.networking import exceptions as net

    from dualforce_model.download.guard import LocalAddress

    message = scrub(str(error))
    for cause in _chain(error):
        if isinstance(cause, net.HTTPError):
            kind = STATUS.get(
                cause.status, "throttled" if cause.status == 999 else "network" if cause.status >= 500 else ""
            )
            if cause.redirect_loop:
                kind = "gone"
            elif 300 <= cause.status < 400:  # a redirect that yt-dlp does not follow: away from http
                kind = "local_address"
            elif cause.status == 416:  # not even the first byte is there
                kind = "damaged"
            if kind:
                return Failure(kind, message, _retry_after(cause))
        if isinstance(cause, LocalAddress):
            return Failure("local_address", message)
        if isinstance(cause, utils.GeoRestrictedError):
            return Failure("region", message)
        if isinstance(cause, utils.ThrottledDownload):
            return Failure("throttled", message)
        if isinstance(cause, utils.UserNotLive):
            return Failure("live", message)
        if isinstance(cause, utils.UnsupportedError):
            return Failure("not_a_video", message)
        if isinstance(cause, OSError) and cause.errno in FULL:
            return Failure("disk", message)
        if isinstance(cause, (net.TransportError, utils.ContentTooShortError, ConnectionError, TimeoutError)):
            return Failure("network", message)
    stated = _STATED.search(message)
    if stated and int(stated[1]) in STATUS:
        return Failure(STATUS[int(stated[1])], message)
    for kind, pattern in _MESSAGES:
        if pattern.search(message):
            return Failure(kind, message)
    return Failure("unknown", message)


def scrub(text: str) -> str:
    """A message fit for a ledger: links without their query (signatures, our address), no colours, no IP addresses."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = _ADDRESS.sub(r"\1\2", text)
    text = _NUMBER.sub(lambda m: m[0] if m[0].startswith("127.") else "<address>", text)
    text = re.sub(r"; please report this issue on .*", "", text, flags=re.DOTALL)
    return text.removeprefix("ERROR: ").strip()[:500]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and everything that it wraps, by each of the ways in which yt-dlp wraps."""
    queue: list[Any] = [error]
    seen: set[int] = set()
    while queue:
        one = queue.pop(0)
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            info = getattr(one, "exc_info", None)
            queue += [getattr(one, "cause", None), info[1] if info else None, one.__cause__, one.__context__]


def _retry_after(error: Any) -> float:
    text = (error.response.headers.get("Retry-After") or "").strip()
    return float(text) if text.isdigit() else 0.0
