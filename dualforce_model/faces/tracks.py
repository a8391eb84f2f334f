"""From faces seen now and then to tracks: the same face over time within one shot."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dualforce_model.faces.detect import Face

REACH = 0.8  # of its size: how far a face may move between two looks
GROWTH = 1.8  # how much its box may grow or shrink between two looks (the two models' boxes differ, too)
HUMAN_SHARE = 0.34  # of the checks that must find it human
SIGHTINGS = 3  # times that a face must be seen to count (or half of the thorough searches, in short shots)


@dataclass
class Track:
    """One face in one shot: grid frames at which it was looked at and seen, and its boxes there."""

    at: list[int] = field(default_factory=list)
    faces: list[Face] = field(default_factory=list)

    @property
    def human(self) -> bool:
        checks = [face.human for face in self.faces if face.human is not None]
        return bool(checks) and sum(checks) >= HUMAN_SHARE * len(checks)

    @property
    def side(self) -> float:
        return float(np.median([face.side for face in self.faces]))

    def box_at(self, frames: np.ndarray) -> np.ndarray:
        """Centre x, y and side [n,3] at grid frames [n], interpolated between the looks."""
        boxes = np.array([(f.x, f.y, f.side) for f in self.faces])
        return np.stack([np.interp(frames, self.at, boxes[:, c]) for c in range(3)], axis=1)


def link(looks: list[tuple[int, list[Face]]], patience: int, searches: int) -> list[Track]:
    """Tracks of one shot from its looks (frame, faces found), largest face first.

    `patience`: frames that a face may go unseen. `searches`: thorough ones among the looks; small faces are seen by
    those alone. Faces that are seen too rarely, or are not human, are left out.
    """
    tracks: list[Track] = []
    for at, faces in looks:
        free = list(faces)
        alive = [t for t in tracks if at - t.at[-1] <= patience]
        pairs = sorted(
            ((_distance(t.faces[-1], f), i, j) for i, t in enumerate(alive) for j, f in enumerate(free)),
        )
        taken_tracks: set[int] = set()
        taken_faces: set[int] = set()
        for distance, i, j in pairs:
            if distance <= 1 and i not in taken_tracks and j not in taken_faces:
                alive[i].at.append(at)
                alive[i].faces.append(free[j])
                taken_tracks.add(i)
                taken_faces.add(j)
        tracks += [Track([at], [face]) for j, face in enumerate(free) if j not in taken_faces]
    enough = min(SIGHTINGS, max(1, searches // 2))
    kept = [t for t in tracks if len(t.at) >= enough and t.human]
    return sorted(kept, key=lambda t: (-t.side * len(t.at) ** 0.5, t.at[0]))


def _distance(a: Face, b: Face) -> float:
    """0 for the same box, above 1 when they can't be the same face."""
    ratio = max(a.side, b.side) / min(a.side, b.side)
    if ratio > GROWTH:
        return 2.0
    return float(np.hypot(a.x - b.x, a.y - b.y)) / (REACH * max(a.side, b.side))
