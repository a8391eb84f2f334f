"""From a source video to clips: find the faces, then render and measure each crop in one more reading."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from dualforce_model.errors import Rejected
from dualforce_model.faces.config import FaceCropConfig
from dualforce_model.faces.detect import cut
from dualforce_model.faces.mesh import FaceMeter
from dualforce_model.faces.plan import Plan, plan
from dualforce_model.faces.scan import scan
from dualforce_model.media import Clip, GridFrame, GridReader, SourceInfo, VideoWriter, probe, read_audio
from dualforce_model.media.cut import Cut
from dualforce_model.media.piece import PieceReader
from dualforce_model.store import digest_file, publish, write_json, write_tensors
from dualforce_model.timeline import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME

PADDED_S = 0.1  # a sound track that begins later or ends earlier than the pictures by less is as long as they are
BATCH = 16  # frames: each model, run on several in a row, finds its weights in the processor's cache (7 % less work)
MEASURE_PX = 512  # frames are measured at this size or larger, so that scores do not depend on the clips' size


def crop_source(
    path: Path,
    source_id: str,
    identity: str,
    out: Path,
    config: FaceCropConfig,
    piece: Cut | None = None,
    sound: bool = True,
) -> list[dict[str, Any]]:
    """Make the clips of one source video in `out`; returns their side-cars, in the order of the source.

    For each face track and shot: `<clip>.mp4` (`config.size` square, 25 fps, 16 kHz mono FLAC), `<clip>.landmarks.
    safetensors` (arrays of `faces.mesh.ARRAYS`) and, last, `<clip>.json`. Clips with several faces are made as well:
    the verdict is the quality filter's. Reads the source twice, holding one frame and one clip's sound at a time.
    With `piece` the source is that part of the file, read where it lies. Clips last no longer than the sound, unless
    there is none or none is wanted (`sound` False).

    Raises Rejected no_face, too_short; BadInput as `media.probe`, `media.GridReader` and `media.read_audio` do.
    """
    info = probe(path) if sound else replace(probe(path), audio=None)
    reader = GridReader(path) if piece is None else PieceReader(path, piece)
    reader.draft = True
    within = None if piece is None else piece.square
    found = scan(reader, config, within)
    framed = None if piece is None or piece.own_framing else within
    plans, shots = plan(found, config, _heard(info, reader.origin_s, found.frames), framed)
    if not plans:
        raise _nothing(path, found.frames, shots, found.looks)
    source = asdict(info) | {
        "decoded_frames": reader.decoded,
        "decode_errors": len(reader.errors),
        "grid_frames": found.frames,
        "fps_measured": round(reader.decoded * FPS / found.frames, 4),
        "shots": shots,
    }
    if piece is not None:
        source["cut"] = asdict(piece)
    return _render(path, plans, reader, info, source, (source_id, identity), out, config)


def _render(
    path: Path,
    plans: list[Plan],
    facts: GridReader,
    info: SourceInfo,
    source: dict[str, Any],
    names: tuple[str, str],
    out: Path,
    config: FaceCropConfig,
) -> list[dict[str, Any]]:
    waiting, sidecars = sorted(plans, key=lambda p: (p.first, p.index)), []
    active: list[_Rendering] = []
    try:
        for frame in facts.again():
            while waiting and waiting[0].first == frame.index:
                active.append(_Rendering(path, waiting.pop(0), facts, info, names, out, config))
            if not active:
                if not waiting:
                    break
                continue
            for rendering in active:
                rendering.add(frame)
            for rendering in [r for r in active if r.plan.last == frame.index + 1]:
                sidecars.append(rendering.finish(source))
                active.remove(rendering)
    finally:
        for rendering in active:  # on the way out of a failure: nothing half-made stays
            rendering.close()
    if active or waiting:
        frames = source["grid_frames"]
        raise RuntimeError(f"{path.name!r} had {frames} frames at the first reading and fewer at the second")
    return sidecars


class _UnfinishedError(Exception):
    """Tells `publish` that the file is not whole."""


class _Rendering:
    """One clip while it is being written."""

    def __init__(
        self,
        path: Path,
        plan: Plan,
        facts: GridReader,
        info: SourceInfo,
        names: tuple[str, str],
        out: Path,
        config: FaceCropConfig,
    ):
        self.plan, self.facts, self.config = plan, facts, config
        self.source_id, self.identity = names
        self.clip = Clip(out, f"{self.source_id}-s{plan.shot}t{plan.index}")
        self.start_s = facts.origin_s + plan.first / FPS
        audio, self.covered = None, 0.0
        if info.audio is not None:
            audio, self.covered = read_audio(path, self.start_s, plan.frames * SAMPLES_PER_FRAME)
        self.clip.sidecar.unlink(missing_ok=True)  # an older clip of this name ends here
        self._files = ExitStack()
        temporary = self._files.enter_context(publish(self.clip.video))
        self._writer = self._files.enter_context(VideoWriter(temporary, (config.size, config.size), audio, SAMPLE_RATE))
        self._meter = FaceMeter(config.size, config.landmarks)
        self._crops: list[tuple[np.ndarray, bool, int]] = []  # waiting: crop, fresh, grid frame

    def add(self, frame: GridFrame) -> None:
        plan = self.plan
        if frame.fresh or not self._crops:
            picture, left, top = frame.picture.square(plan.left, plan.top, plan.side)
            crop = cut(picture, plan.left - left, plan.top - top, plan.side, max(self.config.size, MEASURE_PX))
        else:
            crop = self._crops[-1][0]
        self._crops.append((crop, frame.fresh, frame.index))
        if len(self._crops) == BATCH:
            self._work()

    def _work(self) -> None:
        """Measure and encode the waiting crops."""
        import cv2

        for crop, fresh, frame in self._crops:
            self._meter.measure(crop, fresh, self.plan.expected(frame))
        for crop, _, _ in self._crops:
            shown = crop if len(crop) == self.config.size else cut(crop, 0, 0, len(crop), self.config.size)
            self._writer.write(cv2.cvtColor(shown, cv2.COLOR_RGB2YUV_I420))
        self._crops.clear()

    def close(self) -> None:
        """Give up a clip that was not finished."""
        self._meter.close()
        unfinished = _UnfinishedError()
        self._files.__exit__(type(unfinished), unfinished, None)

    def finish(self, source: dict[str, Any]) -> dict[str, Any]:
        self._work()
        self._files.close()
        self._meter.close()
        plan, clip = self.plan, self.clip
        arrays = self._meter.arrays()
        provenance = {
            "identity": self.identity,
            "clip_id": clip.clip_id,
            "feature": "landmarks",
            "backend": self.config.backend,
            "version": self.config.version,
        }
        write_tensors(clip.landmarks, arrays, provenance)
        pixels = plan.side / self.config.size  # source pixels per clip pixel
        sidecar = {
            "identity": self.identity,
            "clip_id": clip.clip_id,
            "source_id": self.source_id,
            "frames": plan.frames,
            "size": self.config.size,
            "start_s": round(self.start_s, 6),
            "box": [plan.left, plan.top, plan.side, plan.side],
            "shot": plan.shot,
            "track": plan.index,
            "video_sha256": digest_file(clip.video),
            "landmarks_sha256": digest_file(clip.landmarks),
            "audio_coverage": round(self.covered, 6),
            "decode_errors": sum(plan.first <= at < plan.last for at in self.facts.errors),
            "longest_gap_s": round(self._longest_gap(), 6),
            "faces": {
                "face_px": round(_face_px(arrays) * pixels, 2),
                "coverage": round(float(arrays["valid"].mean()), 6),
                "faces_max": plan.faces_max,
                "multi_face_share": round(plan.multi_face_share, 6),
                "other_face_px": round(plan.other_face_px, 2),
                "padding": round(_padding(plan, self.facts), 6),
            },
            "source": source,
        }
        write_json(clip.sidecar, sidecar)
        return sidecar

    def _longest_gap(self) -> float:
        inside = [s for at, s in self.facts.gaps if at < self.plan.last and at + s * FPS > self.plan.first]
        return max(inside, default=0.0)


def _face_px(arrays: dict[str, np.ndarray]) -> float:
    """Median size of the face in clip pixels: geometric mean of the mesh's width and height."""
    points = arrays["landmarks"][arrays["valid"]][:, :, :2]
    if not len(points):
        return 0.0
    spans = points.max(1) - points.min(1)
    return float(np.median(np.sqrt(spans[:, 0] * spans[:, 1])))


def _padding(plan: Plan, facts: GridReader) -> float:
    """Share of the crop that lies outside the source picture, whose border goes on there."""
    width = min(plan.left + plan.side, facts.width) - max(plan.left, 0)
    height = min(plan.top + plan.side, facts.height) - max(plan.top, 0)
    return 1 - max(0, width) * max(0, height) / plan.side**2


def _heard(info: SourceInfo, origin_s: float, frames: int) -> tuple[int, int]:
    """Grid frames [first, last) that the sound track covers; codecs' own padding at both ends does not count."""
    if info.audio is None:
        return 0, frames
    first = info.audio.start_s - origin_s
    last = frames / FPS if info.audio.duration_s is None else first + info.audio.duration_s
    return (
        math.ceil(first * FPS) if first > PADDED_S else 0,
        math.floor(last * FPS) if last < frames / FPS - PADDED_S else frames,
    )


def _nothing(path: Path, frames: int, shots: int, looks: list[tuple[int, list]]) -> Rejected:
    if not shots:
        return Rejected("too_short", f"{path.name!r} has {frames / FPS:.2f} s in shots too short to hold a clip")
    seen = sum(bool(faces) for _, faces in looks)
    what = f"; in {seen} there is something like a face, but no human one that lasts" if seen else ""
    return Rejected("no_face", f"{path.name!r}: no human face in {len(looks)} pictures looked at{what}")
