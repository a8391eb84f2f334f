"""The real yt-dlp against a real server that misbehaves in every way, and a look at the options for other hosts."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from host import Fault, Host

from dualforce_model.download.config import DownloadConfig
from dualforce_model.download.fetch import FetchError, Session, kept, options
from dualforce_model.download.fetch import _ffmpeg as ffmpeg
from dualforce_model.download.listed import ListedVideo
from dualforce_model.errors import BadInput
from dualforce_model.media import probe
from dualforce_model.store import digest_bytes

BLOCK = 64 * 1024


@pytest.fixture(scope="module")
def data(shared_data):
    return (shared_data / "clips" / "good_hdtf_aoc_512_25.mp4").read_bytes()


@pytest.fixture
def host():
    with Host() as server:
        yield server


@pytest.fixture
def get(host, tmp_path):
    """Fetch `name` from the host; sessions are reused as in a run."""
    sessions = {}

    def fetch(name, url=None, identity="id", **settings):
        config = DownloadConfig(**{"allow_hosts": (host.name,), "timeout_s": 1.0, "keep_free_gib": 0.0, **settings})
        if config not in sessions.values():
            sessions.clear()
            sessions[Session(config)] = config
        (session,) = sessions
        video = ListedVideo("links", "", name, url or host.url(f"/{name}.mp4"), ())
        return session.fetch(video, identity, tmp_path / "downloads")

    return fetch


def failure(get, *arguments, **settings):
    with pytest.raises(FetchError) as caught:
        get(*arguments, **settings)
    return caught.value.failure


def names(tmp_path):
    return sorted(path.name for path in (tmp_path / "downloads").glob("*"))


def transferred(host, path):
    """Bytes sent of a file, without the looks at its beginning."""
    return [(r.first, r.sent) for r in host.requests if r.path == path and not r.look]


def test_a_plain_link_comes_whole_once_with_its_sidecar(get, host, data, tmp_path):
    host.files["/a.mp4"] = data
    got = get("a")
    assert got.path.read_bytes() == data
    assert got.bytes_fetched == len(data)
    assert names(tmp_path) == ["a.json", "a.mp4"]
    facts = json.loads(got.sidecar.read_text())
    assert facts["sha256"] == digest_bytes(data)
    assert (facts["bytes"], facts["height"], facts["sound"]) == (len(data), 512, True)
    assert transferred(host, "/a.mp4") == [(0, len(data))]
    assert sum(r.sent for r in host.requests) <= len(data) + 1024
    assert kept(tmp_path / "downloads", "a", "id") == (got.path, got.sidecar)
    assert kept(tmp_path / "downloads", "a", "other") is None
    got.path.write_bytes(data[:-1] + b"x")
    assert kept(tmp_path / "downloads", "a", "id") is None


@pytest.mark.parametrize("how", [{"cut_after": 1_000_000}, {"stall_after": 1_000_000}])
def test_a_broken_transfer_goes_on_where_it_stopped(get, host, data, how):
    host.files["/a.mp4"] = data
    host.faults["/a.mp4"] = [Fault(), Fault(**how)]
    first = failure(get, "a")
    assert (first.kind, first.progressed) == ("network", True)
    assert get("a").path.read_bytes() == data
    (_, sent), (resumed, rest) = transferred(host, "/a.mp4")
    assert sent - BLOCK <= resumed <= sent
    assert resumed + rest == len(data)


def test_a_part_of_another_version_is_not_gone_on_with(get, host, data, shared_data, tmp_path):
    other = (shared_data / "clips" / "good_retalk1_700_30.mp4").read_bytes()
    host.files["/a.mp4"] = other
    host.faults["/a.mp4"] = [Fault(), Fault(cut_after=300_000)]
    assert failure(get, "a").progressed
    host.files["/a.mp4"] = data
    assert get("a").path.read_bytes() == data
    assert names(tmp_path) == ["a.json", "a.mp4"]


@pytest.fixture(scope="module")
def streams(shared_data, tmp_path_factory):
    """One real clip as separate picture and sound, and as HLS."""
    folder = tmp_path_factory.mktemp("streams")
    source = str(shared_data / "clips" / "good_lp_s18_1280x720_30.mp4")
    for arguments in (["-an", "v.mp4"], ["-vn", "a.m4a"], ["-f", "hls", "-hls_time", "1", "x.m3u8"]):
        *kind, name = arguments
        subprocess.run([ffmpeg(), "-v", "error", "-i", source, "-c", "copy", *kind, str(folder / name)], check=True)
    return {f"/{path.name}": path.read_bytes() for path in folder.iterdir()}


def test_separate_picture_and_sound_are_joined(host, streams, tmp_path):
    host.files |= streams
    session = Session(DownloadConfig(allow_hosts=(host.name,), keep_free_gib=0.0))
    formats = [
        {"format_id": "v", "url": host.url("/v.mp4"), "ext": "mp4", "vcodec": "avc1", "acodec": "none", "height": 720},
        {"format_id": "a", "url": host.url("/a.m4a"), "ext": "m4a", "vcodec": "none", "acodec": "mp4a"},
    ]
    entry = {"id": "x", "title": "x", "extractor": "test", "extractor_key": "Test", "formats": formats}
    downloader = session._downloader
    session._hooks[:] = [lambda status: None]
    downloader.params["outtmpl"]["default"] = str(tmp_path / "x.%(ext)s")
    downloader.process_info(downloader.process_ie_result(entry, download=False))
    assert [path.name for path in tmp_path.glob("x.*")] == ["x.mp4"]
    assert probe(tmp_path / "x.mp4").audio is not None


def test_a_stream_in_pieces_comes_through_the_same_guard(get, host, streams):
    host.files |= streams
    host.always["/x.m3u8"] = Fault(content_type="application/vnd.apple.mpegurl")
    info = probe(get("x", url=host.url("/x.m3u8")).path)
    assert (info.height, info.audio is not None) == (720, True)
    pieces = [name for name in streams if name.endswith(".ts")]
    assert {path: n for path, n in host.count().items() if path.endswith(".ts")} == dict.fromkeys(pieces, 1)
    with Host() as inner:
        inner.files |= streams
        listing = streams["/x.m3u8"].decode().replace("x0.ts", inner.url("/x0.ts")).encode()
        host.files["/y.m3u8"] = listing
        host.always["/y.m3u8"] = Fault(content_type="application/vnd.apple.mpegurl")
        assert failure(get, "y", url=host.url("/y.m3u8")).kind == "local_address"
        assert inner.requests == []


def test_a_length_that_is_too_long_leaves_the_part_and_one_too_short_is_noticed(get, host, data, tmp_path):
    host.files["/a.mp4"] = data
    host.faults["/a.mp4"] = [Fault(), Fault(length=5000), Fault(), Fault(length=-50_000)]
    assert failure(get, "a").kind == "network"
    assert get("a").path.read_bytes() == data  # the part was whole after all
    host.files["/b.mp4"] = data
    host.always["/b.mp4"] = Fault(length=-50_000)
    short = failure(get, "b")
    assert short.kind == "damaged"
    assert "cut off" in short.message
    assert names(tmp_path) == ["a.json", "a.mp4"]  # nothing of b is taken for a whole file by the next attempt


STATUSES = {
    401: "sign_in",
    403: "forbidden",
    404: "gone",
    410: "gone",
    429: "throttled",
    451: "region",
    500: "network",
    503: "throttled",
}


@pytest.mark.parametrize("status", STATUSES)
def test_refusals_at_the_door(get, host, status):
    host.always["/a.mp4"] = Fault(status=status, headers={"Retry-After": "7"})
    refused = failure(get, "a")
    assert (refused.kind, refused.retry_after_s, refused.progressed) == (STATUSES[status], 7.0, False)


def test_refusals_of_the_transfer_keep_what_the_host_asked_for(get, host, data):
    host.files["/a.mp4"] = data
    for status, kind in ((503, "throttled"), (429, "throttled"), (403, "forbidden"), (404, "gone")):
        host.faults["/a.mp4"] = [Fault(), Fault(status=status, headers={"Retry-After": "9"})]
        refused = failure(get, "a")
        assert (refused.kind, refused.retry_after_s) == (kind, 9.0)


def test_wrong_types(get, host, data, tmp_path):
    host.files["/page.mp4"] = b"<html><body>Please enable cookies</body></html>"
    host.always["/page.mp4"] = Fault(content_type="text/html")
    assert failure(get, "page").kind == "not_a_video"
    host.files["/named.mp4"] = b"<html>all well</html>" * 500  # but called video/mp4
    assert failure(get, "named").kind == "not_a_video"
    host.files["/empty.mp4"] = b""
    assert failure(get, "empty").kind == "damaged"
    host.files["/odd.mp4"] = data
    host.always["/odd.mp4"] = Fault(content_type="application/octet-stream")
    assert get("odd").path.read_bytes() == data
    assert names(tmp_path) == ["odd.json", "odd.mp4"]


def test_redirects_reach_no_local_address(get, host, data):
    with Host() as inner:
        inner.files["/a.mp4"] = data
        port = inner.name.rpartition(":")[2]
        for target in (
            inner.url("/a.mp4"),
            f"http://localhost:{port}/a.mp4",
            f"http://2130706433:{port}/a.mp4",
            f"http://[::ffff:127.0.0.1]:{port}/a.mp4",
            f"http://0:{port}/a.mp4",
            "http://169.254.169.254/latest/meta-data",
            "ftp://127.0.0.1/a.mp4",
            "file:///etc/passwd",
            "data:video/mp4;base64,AAAA",
        ):
            host.always["/a.mp4"] = Fault(status=302, headers={"Location": target})
            assert failure(get, "a", timeout_s=0.5).kind in ("local_address", "network"), target
        assert failure(get, "a", url=inner.url("/a.mp4")).kind == "local_address"  # nor does a list
        assert inner.requests == []
        host.always["/a.mp4"] = Fault(status=302, headers={"Location": inner.url("/a.mp4")})
        assert get("a", allow_hosts=(host.name, inner.name)).path.read_bytes() == data  # unless somebody says so
    host.always["/loop.mp4"] = Fault(status=302, headers={"Location": host.url("/loop.mp4")})
    assert failure(get, "loop").kind == "gone"


def test_another_format_or_a_damaged_file_is_fetched_anew(get, host, data, tmp_path):
    host.files["/a.mp4"] = data
    host.faults["/a.mp4"] = [Fault(), Fault(cut_after=500_000)]
    failure(get, "a", identity="1080 pixels")
    got = get("a", identity="720 pixels")  # the part was of something else
    assert [first for first, _ in transferred(host, "/a.mp4")] == [0, 0]
    got.path.write_bytes(data[:-1] + b"x")
    assert get("a", identity="720 pixels").path.read_bytes() == data
    assert get("a", identity="480 pixels").path.read_bytes() == data
    assert [first for first, _ in transferred(host, "/a.mp4")] == [0, 0, 0, 0]
    assert names(tmp_path) == ["a.json", "a.mp4"]


def test_caps_on_size_and_time(get, host, data, tmp_path):
    host.files["/a.mp4"] = data
    assert failure(get, "a", max_mib=1).kind == "too_large"
    host.files["/b.mp4"] = data
    host.faults["/b.mp4"] = [Fault(), Fault(length=10_000_000)]  # it says more than it sends
    assert failure(get, "b", max_mib=5).kind == "too_large"
    slow = failure(get, "a", video_timeout_s=0.2, rate_limit_kib=256)
    assert (slow.kind, slow.progressed) == ("too_slow", True)
    assert failure(get, "a", max_hours=0.001).kind == "too_long"
    assert sum(sent for _, sent in transferred(host, "/a.mp4")[-1:]) < len(data)


def test_a_full_disk_is_no_failure_of_the_video(get, host, data):
    host.files["/a.mp4"] = data
    with pytest.raises(OSError, match="GiB are free"):
        get("a", keep_free_gib=1e9)
    assert host.requests == []


def test_a_name_that_does_not_exist(get):
    assert failure(get, "a", url="http://does-not-exist.invalid/a.mp4").kind == "network"


def test_cookies_are_sent_and_their_file_is_not_touched(get, host, data, tmp_path):
    host.files["/a.mp4"] = data
    path = tmp_path / "cookies.txt"
    path.write_text("# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t2000000000\tsession\tsecret\n")
    path.chmod(0o640)
    os.utime(path, (1, 1))
    with pytest.raises(BadInput, match=r"other users \(mode 0640\); chmod 600"):
        get("a", cookies=path)
    assert host.requests == []
    path.chmod(0o600)
    get("a", cookies=path)
    assert path.stat().st_mtime == 1
    assert {r.cookie for r in host.requests} == {"session=secret"}
    assert "secret" not in (tmp_path / "downloads" / "a.json").read_text()


FORMATS = [
    {"format_id": "sd", "height": 360, "fps": 25, "vcodec": "avc1", "acodec": "mp4a", "tbr": 500},
    {"format_id": "hd-slow", "height": 1080, "fps": 15, "vcodec": "avc1", "acodec": "none", "tbr": 2000},
    {"format_id": "hd", "height": 1080, "fps": 30, "vcodec": "avc1", "acodec": "none", "tbr": 2500},
    {"format_id": "uhd", "height": 2160, "fps": 30, "vcodec": "vp9", "acodec": "none", "tbr": 9000},
    {"format_id": "720", "height": 720, "fps": 25, "vcodec": "avc1", "acodec": "none", "tbr": 1500},
    {"format_id": "sound", "vcodec": "none", "acodec": "mp4a", "tbr": 128},
]


@pytest.mark.parametrize(
    ("settings", "without", "chosen"),
    [
        ({}, (), "hd+sound"),
        ({"max_height": 720}, (), "720+sound"),
        ({"max_height": 4320}, (), "uhd+sound"),
        ({}, ("hd", "uhd", "720"), "sd"),  # a slow rate only when there is nothing faster
        ({}, ("hd", "uhd", "720", "sd"), "hd-slow+sound"),
        ({}, ("sound",), "sd"),  # never without sound
        ({"min_fps": 10}, ("hd",), "hd-slow+sound"),
    ],
)
def test_choice_of_format(settings, without, chosen):
    from yt_dlp import YoutubeDL

    formats = [
        {**f, "url": f"http://h/{f['format_id']}", "ext": "mp4", "protocol": "https"}
        for f in FORMATS
        if f["format_id"] not in without
    ]
    with YoutubeDL(options(DownloadConfig(**settings))) as downloader:
        info = downloader.process_ie_result(
            {"id": "x", "title": "x", "formats": formats, "extractor": "test", "extractor_key": "Test"}, download=False
        )
    assert info["format_id"] == chosen


def test_manners_reach_yt_dlp():
    found = options(DownloadConfig(rate_limit_kib=100, timeout_s=7, pause_s=2, proxy="socks5://p:1080"))
    assert (found["ratelimit"], found["socket_timeout"], found["sleep_interval_requests"]) == (102400, 7, 2)
    assert found["proxy"] == "socks5://p:1080"
    assert found["cachedir"] is False
    assert found["retries"] == found["extractor_retries"] == found["fragment_retries"] == 0
