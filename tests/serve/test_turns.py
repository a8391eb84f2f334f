"""Whose turn it is, and what waits for it: on real streams, without a network."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import weakref

import numpy as np
import pytest

from dualforce_model.errors import BadInput, Rejected
from dualforce_model.generate import GenerateConfig
from dualforce_model.generate.stream import Stream
from dualforce_model.serve.session import Session
from dualforce_model.serve.turns import Turns

QUICK = GenerateConfig(steps=1)


class Watched(Session):
    """Writes down in which order latents were delivered."""

    order: list[tuple[int, int]]  # session, frames

    def deliver(self, frames):
        super().deliver(frames)
        if frames:
            self.order.append((self.number, len(frames)))


@pytest.fixture
def stage(talker, face):
    """Run a coroutine on `turns` and a maker of sessions."""

    def run(scene, queue_samples=10**6, queue_frames=1000):
        async def play():
            turns, order, numbers = Turns(), [], iter(range(1, 10))

            def session(stream=None):
                stream = stream or Stream(talker, face, QUICK)
                one = Watched(next(numbers), stream, queue_samples, queue_frames)
                one.order = order
                turns.enter(one)
                return one

            running = asyncio.create_task(turns.run())
            try:
                await asyncio.wait_for(scene(turns, session, order), 120)
                for one in turns.sessions:
                    await turns.leave(one)
            finally:
                running.cancel()
                turns.close()

        asyncio.run(play())

    return run


async def all_frames(session):
    return np.stack([frame async for frame in session.frames()])


def test_sessions_progress_in_turn(stage, speech):
    """Counted in the order of what was drawn: nobody is ever two latents ahead of another who could go on."""

    async def scene(turns, session, order):
        first, second, third = session(), session(), session()
        for one in (first, second, third):  # all of the sound at once: everyone is always ready
            await one.hear(speech)
            one.end()
        await asyncio.gather(*map(all_frames, (first, second, third)))
        who = [number for number, _ in order]
        assert len(who) == 3 * 11  # 40 frames: one, nine times four, three
        assert all(set(who[at : at + 3]) == {1, 2, 3} for at in range(0, len(who), 3))
        assert [frames for number, frames in order if number == 2] == [1] + [4] * 9 + [3]

    stage(scene)


def test_one_that_comes_late_gets_every_second_turn(stage, speech):
    async def scene(turns, session, order):
        early = session()
        await early.hear(np.tile(speech, 2))
        early.end()
        while len(order) < 4:
            await asyncio.sleep(0)
        late = session()
        await late.hear(speech)
        late.end()
        before = len(order)
        await asyncio.gather(all_frames(early), all_frames(late))
        both = [number for number, _ in order[before : before + 20]]
        assert abs(both.count(1) - both.count(2)) <= 1
        assert not any(a == b for a, b in itertools.pairwise(both[1:]))

    stage(scene)


def test_one_that_waits_for_sound_holds_up_nobody(stage, speech):
    async def scene(turns, session, order):
        silent, speaking = session(), session()
        await silent.hear(speech[:100])
        await speaking.hear(speech)
        speaking.end()
        assert len(await all_frames(speaking)) == 40
        assert {number for number, _ in order} == {2}

    stage(scene)


def test_sound_waits_at_the_door_while_nobody_takes_the_frames(stage, speech):
    """Both queues are bounded, and so is what the stream was given: the sender is stopped, not the memory filled."""

    async def scene(turns, session, order):
        one, heard = session(), 0

        async def send():
            nonlocal heard
            for at in range(0, 60 * 16000, 1600):
                await one.hear(np.resize(speech, 1600) + np.float32(at * 1e-9))
                heard += 1600

        sending = asyncio.create_task(send())
        while one.waiting_frames < 8 or one.waiting_samples <= 8000 - 1600:
            await asyncio.sleep(0.01)
        for _ in range(20):  # the sender and the scheduler get their chance
            await asyncio.sleep(0.01)
        assert not sending.done()
        assert one.waiting_frames <= 10
        assert one.waiting_samples <= 8000
        assert heard <= 10 * 640 + 2 * 8000 + 3 * 1600  # what the frames and both queues stand for
        taken = heard
        async for _ in one.frames():  # now somebody looks, and it goes on
            if heard > taken + 16000:
                break
        sending.cancel()

    stage(scene, queue_samples=8000, queue_frames=10)


def test_pieces_of_sound_do_not_matter(stage, speech, drawn):
    async def scene(turns, session, order):
        one = session()
        watching = asyncio.create_task(all_frames(one))
        for piece in np.array_split(speech, 37):
            await one.hear(piece)
        one.end()
        np.testing.assert_array_equal(await watching, drawn(speech))

    stage(scene, queue_samples=8000, queue_frames=4)


def test_a_session_that_leaves_frees_its_cache_at_once(stage, talker, face, speech):
    async def scene(turns, session, order):
        stream = Stream(talker, face, QUICK)
        gone = weakref.ref(stream)
        leaving, staying = session(stream), session()
        del stream
        for one in (leaving, staying):
            await one.hear(speech)
            one.end()
        while len(order) < 5:  # in the middle of it
            await asyncio.sleep(0)
        gc.disable()
        try:
            await turns.leave(leaving)
            assert gone() is None
        finally:
            gc.enable()
        assert len(await all_frames(staying)) == 40

    stage(scene)


def test_idle_is_only_who_could_be_drawn_at_once(stage, speech):
    """Not while sound waits for the model, is drawn, or became frames that are not sent yet."""

    async def scene(turns, session, order):
        one, free, began = session(), threading.Event(), threading.Event()
        assert one.idle_s > 0
        other = asyncio.create_task(turns.in_thread(lambda: began.set() or free.wait(60)))
        await asyncio.to_thread(began.wait)
        await one.hear(speech[:8000])
        assert one.idle_s == 0  # in the queue
        while one.waiting_samples:
            await asyncio.sleep(0)
        assert one.idle_s == 0  # behind what the model does for another
        free.set()
        await other
        frames = one.frames()
        for n in range(9):
            assert one.idle_s == 0
            await anext(frames)
            assert one.idle_s == 0, n  # on its way to the client
        sent = asyncio.create_task(anext(frames))
        while not one.idle_s:  # a last turn finds that there is too little sound for more
            await asyncio.sleep(0)
        assert one.frames_sent == 9
        sent.cancel()

    stage(scene)


class Broken:
    """A stream whose model fails."""

    frames = 0

    def __init__(self, error):
        self.error = error

    def push(self, samples):
        raise self.error

    def close(self):
        pass


@pytest.mark.parametrize(
    ("error", "reason"),
    [(BadInput("bad_audio", "not finite"), "bad_audio"), (RuntimeError("CUDA error: 719"), "internal")],
)
def test_a_failure_is_its_own_sessions(stage, speech, drawn, error, reason, caplog):
    async def scene(turns, session, order):
        broken, whole = session(Broken(error)), session()
        for one in (broken, whole):
            await one.hear(speech)
            one.end()
        with pytest.raises((BadInput, Rejected)) as caught:
            await all_frames(broken)
        assert caught.value.reason == reason
        assert turns.fault == ("RuntimeError" if reason == "internal" else None)
        np.testing.assert_array_equal(await all_frames(whole), drawn(speech))

    stage(scene)
    assert ("719" in caplog.text) == (reason == "internal")  # a fault of ours is in the log, not at the client


def test_empty_pieces_are_no_sound(stage, speech, drawn):
    async def scene(turns, session, order):
        one = session()
        for _ in range(1000):
            await one.hear(speech[:0])
        assert not one.ready
        await one.hear(speech)
        one.end()
        np.testing.assert_array_equal(await all_frames(one), drawn(speech))

    stage(scene)


def test_no_sound_is_said(stage):
    async def scene(turns, session, order):
        one = session()
        one.end()
        with pytest.raises(BadInput) as caught:
            await all_frames(one)
        assert caught.value.reason == "empty_audio"

    stage(scene)
