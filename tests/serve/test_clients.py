"""Clients that vanish, that do not read, that say nothing or too much: nobody else notices, and nothing is left behind."""

from __future__ import annotations

import socket
import threading
import time

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

pytestmark = pytest.mark.usefixtures("nothing_left")


def test_a_client_that_vanishes_frees_its_cache_and_harms_nobody(server, talk, wait, astronaut, speech, drawn):
    long = np.tile(speech, 2)
    with talk(server) as staying:
        staying.start(astronaut, format="png")
        staying.hear(long[:9600])
        with talk(server) as leaving:
            leaving.start(astronaut, format="png")
            leaving.hear(speech)
            leaving.socket.recv(timeout=60)  # the first frame: in the middle of it
            assert server.health["caches"] == 2
            leaving.vanish()
            wait(lambda: server.health["caches"] == 1)  # counted by weak references to the streams
            wait(lambda: server.health["sessions"] == 1)
        staying.hear(long[9600:])
        staying.say("end")
        assert staying.answer()["type"] == "end"
    np.testing.assert_array_equal(np.stack(staying.frames), drawn(long))


@pytest.mark.parametrize("when", ["nothing said", "started", "picture sent"])
def test_a_client_that_vanishes_early_frees_its_seat(server, talk, wait, astronaut, when):
    with talk(server) as client:
        wait(lambda: server.health["sessions"] == 1)
        if when != "nothing said":
            client.say("start")
        if when == "picture sent":
            client.socket.send(astronaut)
        client.vanish()
        wait(lambda: server.health["sessions"] == 0)


@pytest.fixture(scope="module")
def strict_server(serving):
    return serving(idle_seconds=3.0, queue_seconds=0.5, queue_frames=4)


def test_one_that_does_not_read_stops_and_then_loses_its_place(strict_server, talk, wait, astronaut, speech):
    """It can neither fill memory with sound nor with frames; others are served meanwhile; then it is cut off."""
    sent = 0
    raw = socket.create_connection(strict_server.name.split(":"))
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)  # its own kernel would hide a minute of sound
    with talk(strict_server, max_queue=1, close_timeout=1, sock=raw) as deaf:
        deaf.start(astronaut, format="png")

        def send_a_minute():
            nonlocal sent
            try:
                for _ in range(0, 59 * 16000, 1600):
                    deaf.hear(np.resize(speech, 1600))
                    sent += 1600
            except ConnectionClosed:
                pass

        sending = threading.Thread(target=send_a_minute)
        sending.start()
        with talk(strict_server) as other:
            other.start(astronaut)
            other.hear(speech)
            other.say("end")
            assert other.answer()["frames"] == 40
        worst = {"waiting_frames": 0, "waiting_seconds": 0.0}

        def gone():
            health = strict_server.health
            for stream in health["streams"]:
                worst.update({key: max(worst[key], stream[key]) for key in worst})
            return health["caches"] == 0 and health["sessions"] == 0

        wait(gone)
        assert 1 <= worst["waiting_frames"] <= 4
        assert 0.2 < worst["waiting_seconds"] <= 0.5
        sending.join(60)
        assert sent < 20 * 16000  # the rest never left the client: the server did not read it
        assert not strict_server.connections  # not even an open connection is left of it


def test_one_that_says_nothing_is_sent_away(strict_server, talk):
    with talk(strict_server) as client:
        assert client.answer() == {
            "type": "error", "reason": "idle", "message": "nothing came for 3 s (idle_seconds)"
        }  # fmt: skip
        assert client.closed() == 1008


def test_one_that_waits_for_a_busy_model_is_not_idle(serving, talk, astronaut, speech):
    """However long the model does something else, such as recording what another client wants."""
    server = serving(idle_seconds=1.0)
    with talk(server) as client:
        client.start(astronaut)
        began = threading.Event()
        busy = threading.Thread(target=server.studio.turns.at_once, args=(lambda: began.set() or time.sleep(3),))
        busy.start()
        assert began.wait(60)
        client.hear(speech[:16000])
        client.frame()  # instead of being sent away
        busy.join()
        assert client.answer()["reason"] == "idle"  # now it is the client who says nothing
    assert len(client.frames) == 21


def test_sound_ends_at_its_limit(serving, talk, astronaut, speech):
    with talk(serving(generate={"steps": 1, "max_seconds": 1.0})) as client:
        client.start(astronaut)
        client.hear(speech[:16000])
        client.hear(speech[16000:16001])
        error = client.answer()
        assert error["reason"] == "too_long"
        assert "at most 1 s of sound" in error["message"]


def test_a_session_ends_at_its_limit(serving, talk, astronaut, speech):
    """However busy it is."""
    with talk(serving(session_seconds=2.5)) as client:
        client.start(astronaut)
        error = None
        while error is None:
            client.hear(speech[:160])
            try:
                error = client.answer(0.1)
            except TimeoutError:
                continue
        assert error["reason"] == "session_too_long"
        assert "at most 2.5 s" in error["message"]


def test_one_that_does_not_read_cannot_keep_the_server_from_stopping(serving, talk, wait, astronaut, speech, caplog):
    server = serving(queue_frames=4)
    raw = socket.create_connection(server.name.split(":"))
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with talk(server, max_queue=1, close_timeout=1, sock=raw) as deaf:
        deaf.start(astronaut, format="png")
        for _ in range(4):
            deaf.hear(speech)
        wait(lambda: not all(one.writable.is_set() for one in server.connections))  # it is stuck
        server.stop()
    assert not server.studio.streams
    assert not [one for one in caplog.records if one.levelname == "ERROR" and "websockets.client" not in one.name]
