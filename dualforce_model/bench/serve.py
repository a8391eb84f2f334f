"""Let several sessions talk at once through the server's scheduler: how many frames each gets, and whether they are its own.

Everything but the web around it: the thread that owns the model, the turns, the queues, the frames as JPEG. Sound comes
first as fast as it is taken, then as it is spoken.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dualforce_model.bench._machine import median, surroundings
from dualforce_model.bench.generate import random_vae, talker_of
from dualforce_model.generate.config import GenerateConfig
from dualforce_model.generate.stream import Stream
from dualforce_model.generate.talker import Talker
from dualforce_model.serve import ServeConfig
from dualforce_model.serve.protocol import frame_message
from dualforce_model.serve.session import Session
from dualforce_model.serve.turns import Turns
from dualforce_model.timeline import FPS, SAMPLE_RATE

PIECE_S = 0.1  # of sound in a message, as the page sends it


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="mova_lite")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the model")
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--guidance-audio", type=float, default=1.0, help="1: off")
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--decoder", default="block_dct", choices=("block_dct", "wan_vae"))
    parser.add_argument("--sessions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of sound of each")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Frames per second and lags in seconds; `holds` when every session's frames are those that it would have alone."""
    device = torch.device(args.device)
    fast = device.type == "cuda" and not args.eager
    drawn = GenerateConfig(steps=args.steps, guidance_audio=args.guidance_audio, window=args.window)
    config = ServeConfig(sessions=args.sessions, generate=drawn)
    torch.set_num_threads(drawn.threads)
    turns = Turns()
    with tempfile.TemporaryDirectory(prefix="dualforce-bench-") as folder, random_vae(args.decoder, Path(folder)):

        def prepared() -> Talker:
            talker = talker_of(args, device, "bfloat16" if fast else "float32", fast)
            talker.prepare(drawn, args.sessions)
            return talker

        talker = turns.at_once(prepared)
        try:
            alone = [turns.at_once(lambda n=n: _alone(talker, config, n, args.seconds)) for n in range(args.sessions)]  # type: ignore[misc]
            quick, spoken = asyncio.run(_both(talker, turns, config, args))
        finally:
            turns.close()
    same = all(one["digests"] == [of["digest"] for of in alone] for one in (quick, spoken))
    for one in (quick, spoken):
        del one["digests"]
    return {
        **surroundings(device),
        "preset": args.preset,
        "sessions": args.sessions,
        "alone: frames per second": round(median([one["rate"] for one in alone]), 1),
        "as fast as it goes": quick,
        "as it is spoken": spoken,
        "every session's frames are its own, to the bit": same,
        "holds": same,
    }


def _voice(number: int, seconds: float) -> np.ndarray:
    return (0.1 * np.random.default_rng(number).standard_normal(int(seconds * SAMPLE_RATE))).astype(np.float32)


def _face(talker: Talker, number: int) -> np.ndarray:
    return np.random.default_rng(100 + number).integers(0, 256, (talker.size, talker.size, 3), np.uint8)


def _alone(talker: Talker, config: ServeConfig, number: int, seconds: float) -> dict[str, Any]:
    """What session `number` would see were nobody else there."""
    digest, frames, began = hashlib.sha256(), 0, time.perf_counter()
    with Stream(talker, _face(talker, number), config.generate) as stream:
        for frame in (*stream.push(_voice(number, seconds)), *stream.finish()):
            digest.update(frame.tobytes())
            frames += 1
    return {"digest": digest.hexdigest(), "rate": frames / (time.perf_counter() - began)}


async def _both(
    talker: Talker, turns: Turns, config: ServeConfig, args: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Any]]:
    async def work() -> tuple[dict[str, Any], dict[str, Any]]:
        quick = await _together(talker, turns, config, args, spoken=False)
        return quick, await _together(talker, turns, config, args, spoken=True)

    scheduler, working = asyncio.create_task(turns.run()), asyncio.create_task(work())
    await asyncio.wait({scheduler, working}, return_when=asyncio.FIRST_COMPLETED)
    scheduler.cancel()
    with suppress(asyncio.CancelledError):
        await scheduler  # it goes on for ever, or says why it does not
    return await working


async def _together(
    talker: Talker, turns: Turns, config: ServeConfig, args: argparse.Namespace, spoken: bool
) -> dict[str, Any]:
    """All sessions at once. A frame's lag is what passes from the sound that it shows to the frame, in JPEG."""
    room = int(config.queue_seconds * SAMPLE_RATE)

    async def session(number: int, ready: Callable[[], Any]) -> tuple[list[float], str]:
        stream = await turns.in_thread(lambda: Stream(talker, _face(talker, number), config.generate))
        one = Session(number, stream, room, config.queue_frames)
        turns.enter(one)
        await ready()
        speaking = asyncio.create_task(_speak(one, _voice(number, args.seconds), spoken))
        began, digest = time.perf_counter(), hashlib.sha256()
        arrivals: list[float] = []
        async for frame in one.frames():
            await asyncio.to_thread(frame_message, len(arrivals), frame, "jpeg", config.jpeg_quality)
            arrivals.append(time.perf_counter() - began)
            digest.update(frame.tobytes())
        await speaking
        await turns.leave(one)
        return arrivals, digest.hexdigest()

    all_there = asyncio.Barrier(args.sessions)
    found = await asyncio.gather(*(session(n, all_there.wait) for n in range(args.sessions)))
    ends = [arrivals[-1] for arrivals, _ in found]
    rates = [len(arrivals) / end for (arrivals, _), end in zip(found, ends, strict=True)]
    out: dict[str, Any] = {
        "frames per second, all": round(sum(len(arrivals) for arrivals, _ in found) / max(ends), 1),
        "frames per second, slowest and quickest": [round(min(rates), 2), round(max(rates), 2)],
        "first frame, latest": round(max(arrivals[0] for arrivals, _ in found), 3),
        "digests": [digest for _, digest in found],
    }
    if spoken:
        lags = sorted(at - (n + 1) / FPS for arrivals, _ in found for n, at in enumerate(arrivals))
        out["lag, median and 95 %"] = [round(lags[len(lags) // 2], 3), round(lags[int(0.95 * len(lags))], 3)]
    return out


async def _speak(session: Session, sound: np.ndarray, spoken: bool) -> None:
    began = time.perf_counter()
    step = int(PIECE_S * SAMPLE_RATE)
    for start in range(0, len(sound), step):
        piece = sound[start : start + step]
        if spoken:  # a piece can be sent once it has been said
            await asyncio.sleep(max(0.0, began + (start + len(piece)) / SAMPLE_RATE - time.perf_counter()))
        await session.hear(piece)
    session.end()
