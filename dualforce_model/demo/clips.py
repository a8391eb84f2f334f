"""The demo clips: a table of what is rendered, and the rendering. Same seed, same bytes."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from dualforce_model.demo import expected
from dualforce_model.demo.expected import Expected
from dualforce_model.demo.file import write_movie
from dualforce_model.demo.voice import mouth_opening, speak, utterance
from dualforce_model.store import publish
from dualforce_model.timeline import FPS

PITCH = {"astronaut": 205.0, "woman": 190.0, "man": 118.0}  # Hz


@dataclass(frozen=True)
class Scene:
    """One row of the table. No sitters: a cup is seen instead. face: width in px. sound: speech, silence or none."""

    file: str
    note: str
    sitters: tuple[str, ...] = ("astronaut",)
    width: int = 480
    height: int = 480
    fps: Fraction = Fraction(25)
    seconds: float = 3.0
    face: float = 220.0
    reasons: tuple[str, ...] = ()
    status: str = ""  # default: accepted without reasons, rejected with
    sound: str = "speech"
    sound_rate: int = 44_100
    late_ms: int = 0
    blur: float = 0.0  # px
    still: bool = False
    variable: bool = False
    rotation: int = 0  # degrees counter-clockwise that a player must turn the stored picture
    video_start: Fraction = Fraction(0)
    keep: float = 1.0  # fraction of the file's bytes that is left


NTSC = Fraction(30_000, 1001)
VARIABLE = "real variable frame rate: declared 30, irregular"
LATE = "audio_out_of_sync"
SCENES = (
    Scene("good_square_25.mp4", "frontal, 25 fps", width=512, height=512, seconds=5.0, sound_rate=48_000),
    Scene("good_vga_30.mp4", "landscape, 30 fps", ("man",), 640, 480, Fraction(30), 4.0),
    Scene("good_phone_24.mp4", "upright as a phone's, 24 fps", ("astronaut",), 720, 1280, Fraction(24), 3.5, face=300),
    Scene("good_wide_2997.mp4", "wide, 29.97 fps", ("woman",), 960, 540, NTSC, 3.6, face=240, sound_rate=48_000),
    Scene("good_long_25.mp4", "the longest, 16 kHz sound", ("man",), seconds=6.0, face=200, sound_rate=16_000),
    Scene("good_variable_rate.mp4", VARIABLE, ("astronaut",), 512, 512, Fraction(30), 4.6, variable=True),
    Scene("good_rotation_tag.mp4", "stored lying; a tag turns it", ("woman",), 480, 640, seconds=3.6, rotation=90),
    Scene("good_late_video.mp4", "the picture starts 0.8 s after the sound", seconds=3.6, video_start=Fraction(4, 5)),
    Scene("bad_two_faces.mp4", "two people side by side", ("astronaut", "man"), 960, reasons=("several_faces",)),
    Scene("bad_no_face.mp4", "a cup of coffee, with a voice", (), reasons=("no_face",)),
    Scene("bad_blurred.mp4", "out of focus", blur=7.0, reasons=("blurry",)),
    Scene("bad_near_still.mp4", "a still portrait with a voice", ("man",), still=True, reasons=("near_still",)),
    Scene("bad_no_audio.mp4", "no sound track", ("woman",), sound="none", reasons=("no_audio",)),
    Scene("bad_silence.mp4", "a sound track of digital silence", sound="silence", reasons=("silent_audio",)),
    Scene("bad_late_sound.mp4", "the sound is 400 ms late", ("man",), seconds=4.0, late_ms=400, reasons=(LATE,)),
    Scene("bad_too_short.mp4", "one second", seconds=1.0, reasons=("too_short",)),
    Scene("bad_truncated.mp4", "the end of the file is missing", status="failed", reasons=("truncated",), keep=0.6),
)  # fmt: skip


def render(out: Path, seed: int = 0) -> list[Expected]:
    """Write every demo clip and `expected.json` into `out` (made if missing); files of the same names are replaced.

    Takes some 15 s on two cores. The same seed gives the same bytes on the same machine.
    """
    out.mkdir(parents=True, exist_ok=True)
    longest_first = sorted(range(len(SCENES)), key=lambda k: -SCENES[k].seconds * SCENES[k].width * SCENES[k].height)
    done: dict[int, Expected] = {}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=min(4, os.cpu_count() or 1), mp_context=spawn) as pool:
        waiting = {k: pool.submit(render_scene, SCENES[k], out, (seed, k)) for k in longest_first}
        for k, result in waiting.items():
            done[k] = result.result()
    clips = [done[k] for k in range(len(SCENES))]
    expected.write(out, seed, clips)
    return clips


def render_scene(scene: Scene, out: Path, seed: tuple[int, int]) -> Expected:
    """Write one scene's file and return what is expected of it."""
    rng = np.random.default_rng(seed)
    times = _frame_times(rng, scene)
    end = float(scene.video_start) + scene.seconds
    syllables = utterance(rng, end - scene.late_ms / 1000, PITCH[scene.sitters[0]] if scene.sitters else 140.0)
    sound = None
    if scene.sound != "none":
        sound = np.zeros(round(end * scene.sound_rate), np.float32)
        if scene.sound == "speech":
            late = scene.late_ms * scene.sound_rate // 1000
            sound[late:] = speak(rng, syllables, end, scene.sound_rate)[: len(sound) - late]
    seconds = np.array([float(t) for t in times])
    with publish(out / scene.file) as temporary:
        frames = _frames(rng, scene, seconds, mouth_opening(syllables, seconds))
        write_movie(temporary, frames, times, scene.fps, sound, scene.sound_rate, scene.rotation)
        if scene.keep < 1:
            os.truncate(temporary, int(temporary.stat().st_size * scene.keep))
    grid = float(scene.video_start) + np.arange(math.floor(scene.seconds * FPS + 1e-6)) / FPS
    mouth = mouth_opening(syllables, grid) * (0.0 if scene.still or not scene.sitters else 1.0)
    return Expected(
        file=scene.file,
        status=scene.status or ("rejected" if scene.reasons else "accepted"),
        reasons=scene.reasons,
        note=scene.note,
        sitters=scene.sitters,
        width=scene.width,
        height=scene.height,
        fps=round(len(times) / scene.seconds, 3),
        seconds=scene.seconds,
        variable_fps=scene.variable,
        rotation=scene.rotation,
        video_start_s=float(scene.video_start),
        av_offset_ms=float(scene.late_ms),
        mouth=tuple(round(float(m), 4) for m in mouth),
    )


def _frame_times(rng: np.random.Generator, scene: Scene) -> list[Fraction]:
    """When each picture is shown. Variable: the camera drops to half its rate in stretches, as in the dark."""
    times, k, slow, count = [], 0, False, round(scene.seconds * scene.fps)
    while k < count:
        times.append(scene.video_start + k / scene.fps)
        if scene.variable and rng.random() < 0.12:
            slow = not slow
        k += 2 if slow else 1
    return times


def _frames(rng: np.random.Generator, scene: Scene, seconds: np.ndarray, mouth: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the pictures of a scene (RGB uint8)."""
    import cv2

    cv2.setNumThreads(1)  # the processes are the parallelism
    if not scene.sitters:
        yield from _cup(scene, seconds)
        return
    from dualforce_model.demo.portraits import sit
    from dualforce_model.demo.puppet import Puppet, act

    across = scene.width // len(scene.sitters)
    puppets = [Puppet(sit(name, across, scene.height, scene.face)) for name in scene.sitters]
    plays = []
    for k in range(len(puppets)):
        if k > 0:  # the first speaks, the others answer with their own words
            mouth = mouth_opening(utterance(rng, float(seconds[-1]), 100.0), seconds)
        plays.append(act(rng, seconds, mouth))
    shown: np.ndarray | None = None
    for k in range(len(seconds)):
        if shown is None or not scene.still:
            shown = np.hstack([puppet.frame(play[k]) for puppet, play in zip(puppets, plays, strict=True)])
            if scene.blur:
                shown = cv2.GaussianBlur(shown, (0, 0), scene.blur)
        yield shown


def _cup(scene: Scene, seconds: np.ndarray) -> Iterator[np.ndarray]:
    """A slow camera move over scikit-image's `coffee`."""
    import cv2

    from dualforce_model.demo.portraits import picture_of

    cup = picture_of("coffee.png")
    scale = 1.3 * scene.height / cup.shape[0]
    for t in seconds:
        shift = [-0.25 * scene.width + 12 * math.sin(t), -0.1 * scene.height + 20 * math.sin(0.8 * t)]
        matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
        size = (scene.width, scene.height)
        yield cv2.warpAffine(cup, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
