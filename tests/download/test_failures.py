"""What yt-dlp raises, sorted: its own exception types, its own messages, its own wrappers."""

from __future__ import annotations

import errno
import io

import pytest
from yt_dlp import utils
from yt_dlp.networking.common import Response
from yt_dlp.networking.exceptions import HTTPError, IncompleteRead, ProxyError, SSLError, TransportError

from dualforce_model.download.failures import DEAD, PASSING, classify, scrub
from dualforce_model.download.guard import LocalAddress


def http(status, **headers):
    return HTTPError(Response(io.BytesIO(), "http://h/", {k.replace("_", "-"): v for k, v in headers.items()}, status))


def wrapped(error):
    """As yt-dlp hands it on: an ExtractorError with a cause, inside a DownloadError."""
    inner = utils.ExtractorError("Unable to download webpage", cause=error)
    return utils.DownloadError("ERROR: Unable to download webpage", (type(inner), inner, None))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, "sign_in"),
        (403, "forbidden"),
        (404, "gone"),
        (410, "gone"),
        (416, "damaged"),
        (429, "throttled"),
        (451, "region"),
        (500, "network"),
        (502, "network"),
        (503, "throttled"),
        (302, "local_address"),
    ],
)
def test_statuses(status, kind):
    assert classify(http(status)).kind == kind
    assert classify(wrapped(http(status))).kind == kind


def test_the_host_says_when_to_come_back():
    assert classify(wrapped(http(429, Retry_After="120"))).retry_after_s == 120
    assert classify(http(503, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT")).retry_after_s == 0
    assert classify(http(429)).retry_after_s == 0


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (utils.GeoRestrictedError("This video is not available from your location", countries=["FR"]), "region"),
        (utils.UnsupportedError("http://h/page"), "not_a_video"),
        (utils.ContentTooShortError(10, 20), "network"),
        (utils.ThrottledDownload(), "throttled"),
        (utils.UserNotLive(), "live"),
        (IncompleteRead(10, 20), "network"),
        (TransportError("timed out"), "network"),
        (SSLError("handshake"), "network"),
        (ProxyError("refused"), "network"),
        (LocalAddress("10.0.0.1 is not a public address"), "local_address"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk"),
        (ConnectionResetError("reset"), "network"),
        (utils.DownloadError("something new"), "unknown"),
    ],
)
def test_types(error, kind):
    assert classify(error).kind == kind
    if kind not in ("disk", "unknown"):
        assert classify(wrapped(error)).kind == kind


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        # as the YouTube extractor says it
        ("Private video. Sign in if you've been granted access to this video", "private"),
        ("Join this channel to get access to members-only content like this video", "private"),
        ("Video unavailable. This video is private", "private"),
        ("Video unavailable", "gone"),
        ("Video unavailable. This video has been removed by the uploader", "gone"),
        (
            "Video unavailable. This video is no longer available because the YouTube account has been terminated.",
            "gone",
        ),
        ("Video unavailable. This video contains content from UMG, who has blocked it on copyright grounds", "gone"),
        ("This video has been removed for violating YouTube's Terms of Service", "gone"),
        ("Video unavailable. The uploader has not made this video available in your country", "region"),
        (
            "Video unavailable. This video contains content from SME, who has blocked it in your country on copyright grounds",
            "region",
        ),
        (
            "Sign in to confirm your age. This video may be inappropriate for some users. Use --cookies",
            "age",
        ),
        (
            "Sign in to confirm you\u2019re not a bot. Use --cookies-from-browser or --cookies for the authentication",
            "throttled",
        ),
        (
            "Video unavailable. The current session has been rate-limited by YouTube, try again later",
            "throttled",
        ),
        ("This video is only available for registered users. Use --cookies", "sign_in"),
        ("This video requires payment to watch", "sign_in"),
        ("Premieres in 3 hours", "live"),
        ("This live event will begin in 2 days.", "live"),
        ("Requested format is not available. Use --list-formats for a list of available formats", "no_format"),
        ("This video is DRM protected", "no_format"),
        ("[download] Got error: HTTP Error 503: Service Unavailable", "throttled"),
        ("[download] Got error: Downloaded 10 bytes, expected 20 bytes", "network"),
        ("[download] Got error: The read operation timed out", "network"),
        ("unable to write data: [Errno 28] No space left on device", "disk"),
        ("Unable to download webpage: [Errno -3] Temporary failure in name resolution", "network"),
    ],
)
def test_messages(message, kind):
    assert classify(utils.DownloadError(f"ERROR: [youtube] CPCoMyuBRM0: {message}")).kind == kind


def test_every_class_either_passes_or_is_dead():
    assert not set(PASSING) & set(DEAD)
    assert {"throttled", "network", "forbidden"} <= set(PASSING)
    assert {"gone", "private", "region", "age", "sign_in"} <= set(DEAD)


def test_nothing_personal_stays_in_a_message():
    text = scrub(
        "\x1b[0;31mERROR:\x1b[0m https://me:secret@rr4.googlevideo.com/videoplayback?expire=1&ip=203.0.113.9&sig=abc failed"
        " from 203.0.113.9; please report this issue on https://github.com/x  with all your logs"
    )
    assert text == "https://rr4.googlevideo.com/videoplayback failed from <address>"
