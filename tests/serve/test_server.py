"""Over real sockets: the same frames as offline, plain refusals, and nothing left behind by those who go."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request

import numpy as np
import pytest
import soxr
from PIL import Image
from skimage import data
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from dualforce_model.errors import BadInput
from dualforce_model.serve import ServeConfig
from dualforce_model.serve.app import may_connect
from dualforce_model.serve.protocol import Sound, picture_of

pytestmark = pytest.mark.usefixtures("nothing_left")


def test_frames_are_those_of_generate(server, talk, astronaut, speech, drawn):
    """To the last bit (as png), for the same picture, sound, seed; two at once, each with its own seed."""
    with talk(server) as one, talk(server) as other:
        ready = one.start(astronaut, format="png", options={"seed": 3})
        assert (ready["type"], ready["size"], ready["fps"], ready["sample_rate"]) == ("ready", 96, 25, 16000)
        other.start(astronaut, format="png", options={"seed": 4, "guidance_audio": 2.0})
        one.hear(speech, 333)
        other.hear(speech, 4321)
        for client in (one, other):
            client.say("end")
        assert one.answer() == {"type": "end", "frames": 40, "seconds": 1.6}
        assert other.answer()["frames"] == 40
        assert one.closed() == other.closed() == 1000
    np.testing.assert_array_equal(np.stack(one.frames), drawn(speech, seed=3))
    np.testing.assert_array_equal(np.stack(other.frames), drawn(speech, seed=4, guidance_audio=2.0))
    assert one.numbers == [(n, 40 * n) for n in range(40)]
    assert one.formats == {"PNG"}


def test_frames_come_while_sound_is_still_coming_and_no_later_than_promised(server, talk, astronaut, speech):
    with talk(server) as client:
        latency = client.start(astronaut)["latency_s"]
        assert latency < 0.1
        client.hear(speech[: round((17 / 25 + latency) * 16000) + 1], 320)
        for _ in range(17):  # would wait for ever if they needed more
            client.frame()
        client.say("end")
        assert client.answer()["frames"] == 20
    assert client.formats == {"JPEG"}


def test_sound_of_any_rate(server, talk, astronaut, speech, drawn):
    """A browser's microphone has its own rate; the server resamples with a library, piece by piece."""
    fine = soxr.resample(speech, 16000, 48000)
    with talk(server) as client:
        client.start(astronaut, format="png", rate=48000)
        client.hear(fine, 1920)
        client.say("end")
        assert client.answer()["frames"] == 40
    sound = Sound(48000, ServeConfig())
    pieces = [sound.take(fine[at : at + 999].tobytes()) for at in range(0, len(fine), 999)] + [sound.rest()]
    whole = np.concatenate(pieces)
    np.testing.assert_allclose(whole, soxr.resample(fine, 48000, 16000), atol=1e-6)
    np.testing.assert_array_equal(np.stack(client.frames), drawn(whole))


def test_a_photograph_as_telephones_send_it(server, talk, speech, drawn):
    """Turned by its EXIF data only."""
    out = io.BytesIO()
    image = Image.fromarray(np.rot90(data.astronaut()))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(out, "jpeg", quality=95, exif=exif)
    with talk(server) as client:
        assert client.start(out.getvalue(), format="png")["type"] == "ready"
        client.hear(speech)
        client.say("end")
        client.answer()
    upright = drawn(speech)[0].astype(float)
    assert np.abs(client.frames[0] - upright).mean() < 8


def png(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height)).save(out, "png")
    return out.getvalue()


def crowd() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.hstack([data.astronaut()] * 2)).save(out, "jpeg", quality=95)
    return out.getvalue()


START = json.dumps({"type": "start"})


@pytest.mark.parametrize(
    ("messages", "reason", "said"),
    [
        (["hello"], "bad_message", '"type": "start"'),
        (["[1]"], "bad_message", '"type": "start"'),
        (["[" * 9_000], "bad_message", '"type": "start"'),
        (["[" * 10_001], "bad_message", "at most 10000 characters"),
        ([b"\x89PNG"], "bad_message", "as JSON text, got bytes"),
        ([json.dumps({"type": "end"})], "bad_message", "'end'"),
        ([json.dumps({"type": "start", "rat": 1})], "bad_message", "did you mean 'rate'"),
        ([json.dumps({"type": "start", "rate": 5})], "bad_message", "8000 to 192000 Hz"),
        ([json.dumps({"type": "start", "format": "gif"})], "bad_message", "'jpeg', 'png'"),
        ([START, "no picture"], "bad_message", "as bytes"),
        ([json.dumps({"type": "start", "options": {"sed": 1}}), b""], "bad_option", "did you mean 'seed'"),
        ([json.dumps({"type": "start", "options": {"seed": "x"}}), b""], "bad_option", "expected int"),
        ([json.dumps({"type": "start", "options": {"steps": 2}}), b""], "bad_option", "at most 1 steps"),
        ([json.dumps({"type": "start", "options": {"threads": 64}}), b""], "bad_option", "'threads'"),
        ([json.dumps({"type": "start", "options": {"seed": 2**63}}), b""], "bad_option", "seed is 0 to"),
        ([json.dumps({"type": "start", "options": {"guidance_audio": float("nan")}}), b""], "bad_option", "0 to 20"),
        ([START, b""], "no_picture", "JPEG, PNG, WEBP"),
        ([START, b"GIF89a and so on"], "no_picture", "JPEG, PNG, WEBP"),
        ([START, png(64, 64)[:60]], "no_picture", "cannot read a picture from these bytes"),
        ([START, png(1, 1)], "no_face", "1x1 pixels"),
        ([START, png(7072, 7072)], "picture_too_large", "7072 x 7072 pixels, the limit is 50000000"),
        ([START, bytes(12_000_001)], "picture_too_large", "12000001 bytes, the limit is 12000000"),
        ([START, crowd()], "several_faces", "2 faces"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusals_before_anything_heavy(server, talk, messages, reason, said):
    """One form, a stable reason, a sentence that says what would be accepted; and the socket closes by policy."""
    with talk(server) as client:
        for message in messages:
            client.socket.send(message)
        error = client.answer()
        assert (error["type"], error["reason"]) == ("error", reason)
        assert said in error["message"]
        assert client.closed() == 1008


@pytest.mark.parametrize(
    ("sound", "reason"),
    [
        (b"123", "bad_audio"),
        (np.full(100, np.nan, np.float32).tobytes(), "bad_audio"),
        (bytes(4 * 16001), "piece_too_long"),
        ("hello", "bad_message"),
        (json.dumps({"type": "end"}), "empty_audio"),
    ],
)
def test_bad_sound_is_refused(server, talk, astronaut, sound, reason):
    with talk(server) as client:
        assert client.start(astronaut)["most_samples"] == 16000
        client.socket.send(sound)
        assert client.answer()["reason"] == reason
        assert client.closed() == 1008


def test_more_than_the_socket_takes_is_cut_off(server, talk):
    """Twice the limit of a picture is not even read to its end."""
    with talk(server) as client:
        client.say("start")
        with pytest.raises(ConnectionClosed) as error:
            client.socket.send(bytes(24_000_001))
            client.answer()
        assert error.value.rcvd is None or error.value.rcvd.code == 1009


def test_nothing_is_expected_after_the_end(server, talk, astronaut, speech):
    with talk(server) as client:
        client.start(astronaut)
        client.hear(speech)
        client.say("end")
        client.hear(speech[:100])
        assert client.answer()["reason"] == "bad_message"


def test_a_full_house_is_said_at_once(server, talk):
    with talk(server) as one, talk(server) as two:
        for client in (one, two):
            client.say("start")  # a seat is taken by whoever connects
        with talk(server) as third:
            assert third.answer() == {
                "type": "error",
                "reason": "busy",
                "message": "all 2 sessions of this server are taken; try again later",
            }
            assert third.closed() == 1013  # try again later
        one.socket.close()
        with talk(server) as third:
            third.say("end")
            assert third.answer()["reason"] in ("bad_message", "busy")


def test_pages_from_elsewhere_may_not_connect(server, talk, serving):
    with pytest.raises(InvalidStatus) as error, talk(server, origin="https://evil.example"):
        pass
    assert error.value.response.status_code == 403
    told = json.loads(error.value.response.body)
    assert told["reason"] == "wrong_origin"
    assert "evil.example" in told["message"]
    for origin in ("http://localhost:5173", f"http://{server.name}"):
        with talk(server, origin=origin) as client:
            client.say("end")
            assert client.answer()["reason"] == "bad_message"


def test_a_socket_elsewhere_is_refused(server):
    with pytest.raises(InvalidStatus) as error, connect(f"ws://{server.name}/talks"):
        pass
    assert error.value.response.status_code == 404
    assert json.loads(error.value.response.body)["reason"] == "not_found"


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, about the damage
def test_damaged_pictures_are_refused(astronaut):
    """However they are damaged: by a file that cannot be read, or drawn, never by an error of ours."""
    image, config, outcomes = Image.fromarray(data.astronaut()[:64, :64]), ServeConfig(), set()
    exif = image.getexif()
    exif[0x0112] = 6
    for kind in ("png", "jpeg", "webp"):
        out = io.BytesIO()
        image.save(out, kind, exif=exif)
        whole = out.getvalue()
        random = np.random.default_rng(0)
        for _ in range(300):
            broken = bytearray(whole[: random.integers(len(whole) // 2, len(whole))])
            for at in random.integers(0, 300, 4):
                broken[at] = random.integers(256)
            try:
                outcomes.add(picture_of(bytes(broken), config).shape[2])
            except BadInput as error:
                outcomes.add(error.reason)
    orientation = whole.index(b"MM\x00*")
    with pytest.raises(BadInput, match="not a TIFF file"):
        picture_of(whole[:orientation] + b"MM@*" + whole[orientation + 4 :], config)
    assert outcomes <= {3, "no_picture", "picture_too_large"}
    assert "no_picture" in outcomes


@pytest.mark.parametrize(
    ("origin", "may"),
    [
        (None, True),  # a program, not a page
        ("http://127.0.0.1:8000", True),
        ("http://127.9.9.9", True),
        ("https://localhost", True),
        ("http://[::1]:8000", True),
        ("https://allowed.example", True),
        ("http://allowed.example", False),
        ("https://allowed.example:444", False),
        ("https://sub.allowed.example", False),
        ("https://localhost.evil.example", False),
        ("https://127.0.0.1.evil.example", False),
        ("http://localhost@evil.example", False),
        ("http://192.168.0.7", False),
        ("http://[::1", False),
        ("null", False),  # a file, or a frame in a sandbox
        ("", False),
    ],
)
def test_which_pages_may_connect(origin, may):
    assert may_connect(origin, ("https://allowed.example",)) == may


def test_health_and_what_a_client_should_know(server):
    assert server.health == {
        "status": "ok", "device": "cpu", "sessions": 0, "most_sessions": 2, "caches": 0, "streams": []
    }  # fmt: skip
    about = server.get("/about")
    assert about["limits"]["sound_seconds"] == 600
    assert about["limits"]["steps"] == about["options"]["steps"] == 1
    assert about["pictures"] == ["jpeg", "png", "webp"]


def test_clients_choose_only_what_is_prepared(serving, talk, wait, astronaut, speech, drawn):
    """Unless the operator allows more: seed and steps use the cache that is there, guidance would need a new one."""
    server = serving(sessions=1, steps=3)
    idle = server.studio.talker.idle
    assert server.get("/about")["options"] == {"seed": 0, "steps": 1}
    for name in ("guidance_audio", "guidance_reference"):
        with talk(server) as client:
            refusal = client.start(astronaut, options={name: 2.0})
            assert (refusal["reason"], refusal["message"]) == ("bad_option", f"no option '{name}'; known: seed, steps")
    assert [len(kept) for kept in idle.values()] == [1]
    with talk(server) as client:
        client.start(astronaut, format="png", options={"seed": 5, "steps": 3})
        assert [len(kept) for kept in idle.values()] == [0]  # the prepared one is lent
        client.hear(speech)
        client.say("end")
        assert client.answer()["frames"] == 40
    np.testing.assert_array_equal(np.stack(client.frames), drawn(speech, seed=5, steps=3))
    wait(lambda: server.health["sessions"] == 0)
    assert [len(kept) for kept in idle.values()] == [1]


def test_health_says_that_the_model_failed(serving, talk, astronaut, caplog):
    server = serving(sessions=1)
    with talk(server) as client:
        client.start(astronaut)
        client.say("end")
        assert client.answer()["reason"] == "empty_audio"  # raised in the model's thread, and the client's fault
    assert server.health["status"] == "ok"
    weight = server.studio.talker.model.video.embed.weight
    weight.data = weight.data[:, :-1]  # the model cannot be run any more
    with talk(server) as client:
        assert client.start(astronaut)["reason"] == "internal"
    with pytest.raises(urllib.error.HTTPError) as error:
        server.get("/health")
    assert error.value.code == 503
    told = json.load(error.value)
    assert (told["status"], told["most_sessions"]) == ("failed", 1)
    assert told["reason"] == "the model failed with RuntimeError; the server's log says more"
    assert "a session failed" in caplog.text


@pytest.mark.parametrize("path", ["/nothing", "/../config.py", "/%2e%2e/config.py", "/docs", "/openapi.json"])
def test_the_page_is_all_that_is_served(server, path):
    with pytest.raises(urllib.error.HTTPError) as error:
        server.get(path)
    assert error.value.code == 404
    assert json.load(error.value)["reason"] == "not_found"


def test_the_page_may_load_nothing_from_elsewhere(server):
    with urllib.request.urlopen(server.url) as answer:
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        page = answer.read().decode()
    assert "//" not in page
