"""First reading of a source: where shots begin and end, and which faces are seen when."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

from dualforce_model.faces.config import FaceCropConfig
from dualforce_model.faces.detect import SAME, Face, overlap
from dualforce_model.faces.insightface import finder_of
from dualforce_model.media import GridReader
from dualforce_model.timeline import FPS

SHOT_PX = 192  # longest side of the pictures on which cuts are found
LOOK_PX = 640  # and on which known faces are followed
SEARCH_PX = 1280  # and on which the whole is searched thoroughly
SEARCH_EVERY = FPS  # frames between two searches of the whole picture, while faces are known
THOROUGH_EVERY = 2 * FPS  # frames between two thorough ones: also for small faces, and each face is checked
MIN_SHOT = 15  # frames between two cuts (PySceneDetect's own default): a flash is no cut


@dataclass
class Scan:
    """What the first reading found. Frames count from the first one shown, 25 a second.

    looks: (frame, faces seen there); searches: frames at which the whole picture was searched.
    """

    frames: int = 0
    cuts: list[int] = field(default_factory=list)
    looks: list[tuple[int, list[Face]]] = field(default_factory=list)
    searches: list[int] = field(default_factory=list)

    def shots(self, max_frames: int) -> list[tuple[int, int]]:
        """[first, last+1) of every shot; longer ones than `max_frames` are cut into equal parts."""
        edges = [0, *sorted({c for c in self.cuts if 0 < c < self.frames}), self.frames]
        out = []
        for first, last in pairwise(edges):
            parts = max(1, -(-(last - first) // max_frames))
            marks = [first + round(k * (last - first) / parts) for k in range(parts + 1)]
            out += list(pairwise(marks))
        return [(a, b) for a, b in out if b > a]


def scan(reader: GridReader, config: FaceCropConfig, within: tuple[int, int, int] | None = None) -> Scan:
    """Read all frames of `reader` once; faces outside the square `within` (left, top, side) are as if not there.

    Core-ms per frame at 25 fps: cuts 0.3, faces 1 (1080p: 2).
    """
    import cv2
    from scenedetect import ContentDetector, FrameTimecode

    cv2.setNumThreads(1)
    found = Scan()
    cuts = ContentDetector(threshold=config.cut_threshold, min_scene_len=MIN_SHOT)
    finder = finder_of(config)
    known: list[Face] = []  # human faces, where they were last
    next_thorough = 0
    for frame in reader:
        found.frames = frame.index + 1
        fresh_cuts: list[int] = []
        if frame.fresh:
            small = frame.picture.thin(SHOT_PX)[:, :, ::-1]
            fresh_cuts = [c.frame_num for c in cuts.process_frame(FrameTimecode(frame.index, float(FPS)), small)]
            found.cuts += fresh_cuts
        look = frame.index % config.detect_every == 0
        since = frame.index - found.searches[-1] if found.searches else SEARCH_EVERY
        if since >= SEARCH_EVERY or fresh_cuts or (look and not known):
            thorough = frame.index >= next_thorough or bool(fresh_cuts)
            if thorough:
                next_thorough = frame.index + THOROUGH_EVERY
            picture = frame.picture.small(SEARCH_PX if thorough else LOOK_PX)
            scale = reader.width / picture.shape[1]
            faces = finder.search(picture, scale, known, tiles=thorough)
            faces = [f for f in faces if f.side >= config.min_track_px and _inside(f, within)]
            # whom a thorough search has found human is believed until the next one
            trusted = [] if thorough else [f for f in faces if any(overlap(f, k) >= SAME for k in known)]
            checked = [replace(f, human=finder.human(picture, scale, f)) for f in faces if f not in trusted]
            faces, known = trusted + checked, trusted + [f for f in checked if f.human]
            found.searches.append(frame.index)
        elif look:
            picture = frame.picture.small(LOOK_PX)
            faces = known = finder.follow(picture, reader.width / picture.shape[1], known)
        else:
            continue
        found.looks.append((frame.index, faces))
    return found


def _inside(face: Face, within: tuple[int, int, int] | None) -> bool:
    """Whether a face's centre lies in the square (left, top, side), if there is one."""
    if within is None:
        return True
    left, top, side = within
    return left <= face.x < left + side and top <= face.y < top + side
