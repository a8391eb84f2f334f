"""Writing mp4: H.264 pictures and lossless or AAC sound, the same bytes for the same input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from dualforce_model.timeline import FPS

# Colour tags, as the conversion is, so that every player shows the same colours: BT.601's matrix, as small videos have
# and OpenCV converts, limited range, the primaries and the curve of BT.709 that all screens share.
BT601, BT709, LIMITED = 6, 1, 1
X264 = {
    # Measured on 512x512 faces, one core, ms to encode, ms to decode, KB and dB a frame: ultrafast 1.1, 0.6, 11.7,
    # 47.5; superfast 2.3, 1.2, 9.2, 48.7; veryfast 3.8. Clips are decoded several times by later stages.
    "preset": "ultrafast",
    "crf": "18",
    # one thread: the same bytes on every machine. No B-frames: the first frame stands at time 0 without an edit list.
    "threads": "1",
    "bf": "0",
    "g": "50",
}


class _Output:
    """A file opened for writing that remembers why it could not be written: ffmpeg only says that it could not.

    A file object, not a name, because ffmpeg would take some names for protocols.
    """

    def __init__(self, path: Path):
        self._file = open(path, "wb")  # noqa: SIM115  (`close` closes it)
        self.seek, self.tell, self.flush = self._file.seek, self._file.tell, self._file.flush
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def close(self) -> None:
        self._file.close()

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Within it, a failure of the disk is raised as the OSError that it is."""
        from av.error import FFmpegError

        try:
            yield
        except FFmpegError as error:
            raise self.error or error from None


class VideoWriter:
    """Encode frames one by one, with their sound, into the file `path` (in place: `store.publish` around it).

    `size`: (width, height), even. `audio`: float [samples] in -1..1 at `rate` Hz, written beside the frames it belongs
    to; None makes a file without a sound track. FLAC keeps the samples (16 bits) exactly; AAC is what every player
    knows. Use as a context manager; the file is whole after it. Raises ValueError for an odd size or a wrong frame,
    OSError when the disk does not take it.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        audio: np.ndarray | None = None,
        rate: int = 16_000,
        audio_codec: Literal["flac", "aac"] = "flac",
        fps: int = FPS,
    ):
        import av
        from av.video.reformatter import VideoReformatter

        if size[0] % 2 or size[1] % 2 or min(size) < 2:
            raise ValueError(f"H.264 4:2:0 needs an even width and height, got {size[0]}x{size[1]}")
        self.size, self.fps, self.rate, self.frames, self._written = size, fps, rate, 0, 0
        self._audio = None if audio is None else _sixteen_bits(audio)
        self._file = _Output(path)
        self._container = av.open(self._file, "w", format="mp4", container_options={"fflags": "+bitexact"})
        self._reformatter = VideoReformatter()
        self._video: Any = self._container.add_stream("libx264", rate=fps, options=dict(X264))
        self._video.width, self._video.height, self._video.pix_fmt = *size, "yuv420p"
        context = self._video.codec_context
        context.time_base = Fraction(1, fps)
        context.colorspace, context.color_primaries, context.color_trc = BT601, BT709, BT709
        context.color_range = LIMITED
        self._sound: Any = None
        if self._audio is not None:
            self._sound = self._container.add_stream(audio_codec, rate=rate, layout="mono")
            self._sound.codec_context.format = "s16" if audio_codec == "flac" else "fltp"

    def write(self, frame: np.ndarray) -> None:
        """One more frame: uint8 [height,width,3] RGB, or [height*3/2,width] I420 of limited range BT.601.

        Those with OpenCV at hand have the latter in a third of the time (0.2 ms for 512 pixels).
        """
        import av
        from av.video.reformatter import Colorspace

        width, height = self.size
        if frame.dtype != np.uint8 or frame.shape not in ((height, width, 3), (height * 3 // 2, width)):
            raise ValueError(f"expected RGB uint8 {(height, width, 3)}, got {frame.dtype} {frame.shape}")
        if frame.ndim == 2:
            picture = av.VideoFrame.from_ndarray(frame, "yuv420p")
        else:
            rgb = av.VideoFrame.from_ndarray(frame, "rgb24")
            picture = self._reformatter.reformat(rgb, format="yuv420p", dst_colorspace=Colorspace.ITU601)
        picture.pts, picture.time_base = self.frames, Fraction(1, self.fps)
        with self._file.telling():
            self._container.mux(self._video.encode(picture))
            self.frames += 1
            self._write_sound(round(self.frames * self.rate / self.fps))

    def _write_sound(self, until: int) -> None:
        import av

        if self._audio is None or until <= self._written or self._written >= len(self._audio):
            return
        piece = self._audio[None, self._written : until]
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece), "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = self.rate, self._written, Fraction(1, self.rate)
        self._container.mux(self._sound.encode(frame))
        self._written += piece.shape[1]

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        from av.error import FFmpegError

        try:
            if kind is None:
                with self._file.telling():
                    if self._audio is not None:
                        self._write_sound(len(self._audio))
                        self._container.mux(self._sound.encode(None))
                    self._container.mux(self._video.encode(None))
                    self._container.close()
                self._file.flush()
        finally:
            with suppress(FFmpegError, OSError):  # after a failure closing may fail again; the first is the one to tell
                self._container.close()
            with suppress(OSError):
                self._file.close()


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],
    audio: np.ndarray | None,
    rate: int = 16_000,
    audio_codec: Literal["flac", "aac"] = "flac",
    fps: int = FPS,
) -> int:
    """Write uint8 [H,W,3] RGB `frames`, `audio` (float [samples] at `rate` Hz, or None) to `path`; returns the count.

    Streams: holds one frame at a time. Raises ValueError when there is no frame, sizes differ or are odd.
    """
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise ValueError(f"no frames to write to {path.name!r}")
    with VideoWriter(path, (first.shape[1], first.shape[0]), audio, rate, audio_codec, fps) as writer:
        writer.write(first)
        for frame in iterator:
            writer.write(frame)
    return writer.frames


def _sixteen_bits(audio: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(np.asarray(audio, np.float32) * 32768.0), -32768, 32767).astype(np.int16)
