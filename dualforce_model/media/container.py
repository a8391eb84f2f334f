"""Opening a file somebody gave us: every way it can be wrong gets a name, and nothing but that one file is read."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from dualforce_model.errors import BadInput

if TYPE_CHECKING:
    from av.container import InputContainer

# Playlists, scripts and text "videos" (hls, concat, tty, …) are left out: such a file makes the decoder read other
# files or shows typed text as a picture.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpegts,mpeg,mpegvideo,avi,flv,asf,ogg,nut,mxf,ivf,rm,dv,gif,"
    "h264,hevc,m4v,obu,av1,wtv,vob,h263,yuv4mpegpipe"
)
MP4_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid", b"moof", b"styp", b"sidx"}
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


@contextmanager
def open_container(path: Path) -> Iterator[InputContainer]:
    """An opened PyAV container.

    Raises BadInput: unreadable, no_permission, symlink_loop, empty_file, truncated, not_a_video.
    """
    import av
    from av.error import FFmpegError

    av.logging.set_level(av.logging.PANIC)  # decoder chatter; what matters comes back as an exception or a count
    try:
        file = open(path, "rb")  # noqa: SIM115  (only opening it is tried here; it is closed below)
    except OSError as error:
        raise _unreadable(path, error) from error
    with file:
        cut = _missing_bytes(file, path)
        file.seek(0)
        try:
            # a file object, not a name: a name could be taken for a protocol ("pipe:1") or a pattern ("%d")
            container = av.open(file, "r", container_options={"format_whitelist": FORMATS}, metadata_errors="replace")
        except (FFmpegError, ValueError) as error:
            if cut:
                raise BadInput("truncated", f"{path.name!r} is cut off: {cut}; copy or download it again") from error
            raise BadInput(
                "not_a_video", f"{path.name!r} is not a video file of a known kind (mp4, mov, mkv, avi, mpeg, …)"
            ) from error
        with container:
            if cut:
                raise BadInput("truncated", f"{path.name!r} is cut off: {cut}; copy or download it again")
            yield container


def _unreadable(path: Path, error: OSError) -> BadInput:
    reason = {errno.EACCES: "no_permission", errno.EPERM: "no_permission", errno.ELOOP: "symlink_loop"}
    return BadInput(
        reason.get(error.errno or 0, "unreadable"),
        f"cannot read {path.name!r}: {error.strerror}; check that it is there and may be read",
    )


def _missing_bytes(file: BinaryIO, path: Path) -> str:
    """What a cut-off file lacks according to its own container, or "" when nothing is known to be missing."""
    try:
        size = file.seek(0, 2)
        if size == 0:
            raise BadInput("empty_file", f"{path.name!r} has no bytes; copy or download it again")
        file.seek(0)
        head = file.read(12)
        if head[4:8] in MP4_BOXES:
            return _missing_boxes(file, size)
        if head[:4] == EBML:
            return _missing_segment(file, size)
        if (
            head[:4] == b"RIFF"
            and head[8:12] == b"AVI "
            and (declared := struct.unpack("<I", head[4:8])[0] + 8) > size + 1
        ):
            return f"it declares {declared} bytes and has {size}"
    except OSError as error:
        raise _unreadable(path, error) from error
    return ""


def _missing_boxes(file: BinaryIO, size: int) -> str:
    """MP4 and QuickTime: walk the top-level boxes; each must lie inside the file, and there must be an index."""
    at, names = 0, set()
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length, name = struct.unpack(">I4s", head[:8])
        if not all(32 <= byte < 127 or byte == 0xA9 for byte in name):
            break  # trailing rubbish after the last box: players don't mind
        if length == 1 and len(head) == 16:
            length = struct.unpack(">Q", head[8:])[0]
        names.add(name)
        if length == 0:  # "to the end of the file"
            break
        if length < 8:
            break
        if at + length > size and name in MP4_BOXES:
            return f"its {name.decode()} part needs {at + length} bytes and the file has {size}"
        at += length
    if b"mdat" in names and not names & {b"moov", b"moof"}:
        return "its index (moov) is missing"
    return "" if names != {b"ftyp"} else "nothing follows its header"


def _missing_segment(file: BinaryIO, size: int) -> str:
    """Matroska and WebM: the segment tells its own length (unless it was streamed, all ones)."""
    file.seek(0)
    head = file.read(4096)
    at = head.find(SEGMENT)
    if at < 0 or at + 12 > len(head):
        return "its segment is missing" if at < 0 and size < len(head) + 1 else ""
    first = head[at + 4]
    if first == 0:
        return ""
    width = 9 - first.bit_length()
    value = int.from_bytes(bytes([first & ((1 << (8 - width)) - 1)]) + head[at + 5 : at + 4 + width], "big")
    unknown = value == (1 << (7 * width)) - 1
    declared = at + 4 + width + value
    return f"it declares {declared} bytes and has {size}" if not unknown and declared > size else ""
