"""From what was seen to what is cropped: one steady square per track, and how many faces are around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dualforce_model.faces.config import FaceCropConfig
from dualforce_model.faces.scan import SEARCH_EVERY, Scan
from dualforce_model.faces.tracks import Track, link
from dualforce_model.timeline import FPS

ROOM = 1.3  # face boxes that a crop must hold beside the way the face moves
OTHERS = 0.25  # of the face's size: smaller faces are background, not a second person
PATIENCE = SEARCH_EVERY + 5  # frames: a face that only thorough searches see must survive from one to the next


@dataclass(frozen=True)
class Plan:
    """One clip to be: grid frames [first, last) of the source, and the crop square in its pixels (may stick out)."""

    shot: int
    index: int  # of the track in its shot, largest first
    first: int
    last: int
    left: int
    top: int
    side: int
    track: Track
    faces_max: int  # faces seen at once while the clip lasts, this one included
    multi_face_share: float  # share of its frames with a second face
    other_face_px: float  # the largest other face's size in the source, 0 without one

    @property
    def frames(self) -> int:
        return self.last - self.first

    def expected(self, frame: int) -> tuple[float, float, float]:
        """Centre x, y and side of the face at a grid frame, in 0..1 of the crop."""
        x, y, side = self.track.box_at(np.array([frame]))[0]
        return (x - self.left) / self.side, (y - self.top) / self.side, side / self.side


def plan(
    scan: Scan, config: FaceCropConfig, heard: tuple[int, int], framed: tuple[int, int, int] | None = None
) -> tuple[list[Plan], int]:
    """The clips to make, and the number of shots that are long enough.

    `heard`: grid frames [first, last) during which there is a sound track. A clip begins and ends with both streams
    where that leaves one; where it does not, the clip keeps its pictures and the filter will find the sound missing.
    `framed`: the square (left, top, side) that is to be shown whatever the face does; then a shot gives one clip.
    """
    plans: list[Plan] = []
    shots = scan.shots(int(config.max_clip_s * FPS))
    long_enough = 0
    for shot, (first, last) in enumerate(shots):
        if last - first < config.min_shot_s * FPS:
            continue
        long_enough += 1
        looks = [look for look in scan.looks if first <= look[0] < last]
        searches = sum(first <= at < last for at in scan.searches)
        tracks = link(looks, PATIENCE, searches)
        for index, track in enumerate(tracks[: 1 if framed else config.max_tracks]):
            # a track begins before the look that saw it first: at the cut when that was one of the first two
            near = 2 * config.detect_every
            begin = first if track.at[0] - first <= near else track.at[0]
            end = last if last - track.at[-1] <= near else track.at[-1] + 1
            if end - begin < config.min_shot_s * FPS:
                continue
            both = max(begin, heard[0]), min(end, heard[1])
            if both[1] - both[0] >= config.min_shot_s * FPS:
                begin, end = both
            left, top, side = framed or square(track, config)
            faces_max, share, other = company(track, tracks, begin, end)
            plans.append(Plan(shot, index, begin, end, left, top, side, track, faces_max, share, other))
    return plans, long_enough


def square(track: Track, config: FaceCropConfig) -> tuple[int, int, int]:
    """Left, top, side of the square that holds the face wherever it goes."""
    boxes = np.array([(f.x, f.y, f.side) for f in track.faces])
    size = float(np.median(boxes[:, 2]))
    # a single odd box must not widen the crop: the middle nine tenths of the way
    low, high = np.percentile(boxes[:, :2], [5, 95], axis=0)
    side = max(config.margin * size, float((high - low).max()) + ROOM * size)
    x, y = (low + high) / 2
    y -= config.shift_up * size
    whole = max(2, 2 * round(side / 2))
    return round(x - whole / 2), round(y - whole / 2), whole


def company(track: Track, tracks: list[Track], begin: int, end: int) -> tuple[int, float, float]:
    """Most faces at once, share of the frames with a second one, size of the largest other one."""
    count = np.ones(end - begin, int)
    largest = 0.0
    for other in tracks:
        if other is track or other.side < OTHERS * track.side:
            continue
        a, b = max(begin, other.at[0]), min(end, other.at[-1] + 1)
        if b > a:
            count[a - begin : b - begin] += 1
            largest = max(largest, other.side)
    return int(count.max()), float((count > 1).mean()), largest
