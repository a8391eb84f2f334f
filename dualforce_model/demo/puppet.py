"""Moves a portrait: jaw, eyelids and head. Every frame is a warp of one picture, so the true mouth opening is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dualforce_model.demo.portraits import CHIN, LOWER_LIDS, LOWER_LIP, UPPER_LIDS, UPPER_LIP, Portrait

WIDEST = 0.13  # gap between the lips at opening 1, in face widths
SHUT = 0.004  # the same at opening 0
SMALL = 8  # the head's warp is smooth: computed on a grid this much coarser


@dataclass(frozen=True)
class Pose:
    """mouth, blink: 0..1. x, y: head shift in face widths. roll, yaw: radians. zoom: head scale minus 1."""

    mouth: float = 0.0
    blink: float = 0.0
    x: float = 0.0
    y: float = 0.0
    roll: float = 0.0
    yaw: float = 0.0
    zoom: float = 0.0


class Puppet:
    """A portrait that can be posed; `frame(pose)` gives uint8 RGB of the portrait's size."""

    def __init__(self, portrait: Portrait):
        self.portrait = portrait
        points, self.face = portrait.points, portrait.face_width
        self.height, self.width = portrait.picture.shape[:2]
        self._mouth_setup(points)
        self.lids = [
            self._lid_setup(points[list(u)], points[list(d)]) for u, d in zip(UPPER_LIDS, LOWER_LIDS, strict=True)
        ]
        self._head_setup(points)

    def frame(self, pose: Pose) -> np.ndarray:
        picture = self.portrait.picture.copy()
        if pose.blink > 0:
            for lid in self.lids:
                self._lower_lid(picture, lid, pose.blink)
        self._move_jaw(picture, pose.mouth)
        return self._move_head(picture, pose)

    # --- jaw -----------------------------------------------------------------------------------------------------

    def _mouth_setup(self, points: np.ndarray) -> None:
        upper, lower = points[list(UPPER_LIP)], points[list(LOWER_LIP)]
        right, left = upper[0], upper[-1]
        chin = points[CHIN]
        half = (left[0] - right[0]) / 2
        middle = (left[0] + right[0]) / 2
        x0, x1 = int(middle - 0.55 * self.face), int(middle + 0.55 * self.face)
        y0, y1 = int(upper[:, 1].min() - 0.06 * self.face), int(chin[1] + 0.5 * self.face)
        x0, y0, x1, y1 = max(0, x0), max(0, y0), min(self.width, x1), min(self.height, y1)
        self.jaw_box = (slice(y0, y1), slice(x0, x1))
        self.jaw_y, self.jaw_x = np.mgrid[y0:y1, x0:x1].astype(np.float32)
        columns = np.arange(x0, x1)
        self.lip_up = np.interp(columns, upper[:, 0], upper[:, 1]).astype(np.float32)  # [columns]
        self.lip_down = np.maximum(np.interp(columns, lower[:, 0], lower[:, 1]), self.lip_up).astype(np.float32)
        self.gap = float((lower[5, 1] - upper[5, 1]) / self.face)  # of the portrait itself, in face widths
        u = (columns - middle) / half
        self.lip_wide = np.sqrt(np.clip(1 - u**2, 0, 1)).astype(np.float32)  # the lips part between the corners
        self.jaw_wide = np.clip(1.25 - (u * half / (0.40 * self.face)) ** 2, 0, 1).astype(np.float32)
        self.chin_y = float(chin[1])

    def _drop(self, y: np.ndarray, gap: float) -> np.ndarray:
        """How far the skin at height `y` below the lips has moved down, in pixels, for a lip gap change of `gap` px."""
        down = np.clip((y - self.lip_down) / np.maximum(self.chin_y - self.lip_down, 1), 0, 1)
        across = (1 - down) * self.lip_wide + down * self.jaw_wide
        below = np.clip((y - self.chin_y) / (0.48 * self.face), 0, 1)
        return gap * across * (1 - 0.35 * down) * (1 - below * below * (3 - 2 * below))

    def _move_jaw(self, picture: np.ndarray, opening: float) -> None:
        import cv2

        gap = (SHUT + (WIDEST - SHUT) * opening - self.gap) * self.face
        box = picture[self.jaw_box]
        source = self.jaw_y - self._drop(self.jaw_y, gap)
        for _ in range(3):  # where did the skin that is now at this pixel come from: fixed point of y = y' + drop(y')
            source = self.jaw_y - self._drop(source, gap)
        lower = cv2.remap(
            box,
            self.jaw_x - self.jaw_x[0, 0],
            source - self.jaw_y[0, 0],
            cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REPLICATE,
        )
        edge = self.lip_down + gap * self.lip_wide  # where the lower lip begins now
        is_lower = np.clip(self.jaw_y - edge + 0.5, 0, 1)[..., None]
        inside = np.clip(self.jaw_y - self.lip_down + 1.5, 0, 1) * (self.lip_wide > 0)  # below what the portrait shows
        depth = np.clip((self.jaw_y - self.lip_up) / np.maximum(edge - self.lip_up, 1), 0, 1)[..., None]
        throat = np.array([52, 18, 18], np.float32) + depth**3 * np.array([70, 28, 30], np.float32)  # dark, then tongue
        upper = box * (1 - inside[..., None]) + throat * inside[..., None]
        picture[self.jaw_box] = (is_lower * lower + (1 - is_lower) * upper).astype(np.uint8)

    # --- eyelids -------------------------------------------------------------------------------------------------

    def _lid_setup(self, upper: np.ndarray, lower: np.ndarray) -> dict:
        x0, x1 = int(upper[0, 0]) - 1, int(upper[-1, 0]) + 2
        top = float(upper[:, 1].min() - 0.06 * self.face)
        y0, y1 = int(top), int(lower[:, 1].max()) + 2
        y, x = np.mgrid[y0:y1, x0:x1].astype(np.float32)
        columns = np.arange(x0, x1)
        lid = np.interp(columns, upper[:, 0], upper[:, 1]).astype(np.float32)
        floor = np.interp(columns, lower[:, 0], lower[:, 1]).astype(np.float32)
        return {"box": (slice(y0, y1), slice(x0, x1)), "x": x - x0, "y": y, "top": top, "lid": lid, "floor": floor}

    @staticmethod
    def _lower_lid(picture: np.ndarray, lid: dict, blink: float) -> None:
        """The skin between brow and lashes stretches down over the eye."""
        import cv2

        box, y, top = picture[lid["box"]], lid["y"], lid["top"]
        now = lid["lid"] + blink * np.maximum(lid["floor"] - lid["lid"], 0)
        stretched = top + (y - top) * (lid["lid"] + 1.5 - top) / (now + 1.5 - top)
        skin = cv2.remap(
            box, lid["x"], (stretched - top).astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        is_skin = np.clip(now + 1.5 - y + 0.5, 0, 1)[..., None]
        picture[lid["box"]] = (is_skin * skin + (1 - is_skin) * box).astype(np.uint8)

    # --- head ----------------------------------------------------------------------------------------------------

    def _head_setup(self, points: np.ndarray) -> None:
        """On a coarse grid: how much each place moves with the head, and how far it stands in front of the neck."""
        centre = (points.min(0) + points.max(0)) / 2
        height, width = -(-self.height // SMALL) + 1, -(-self.width // SMALL) + 1
        y, x = np.mgrid[:height, :width].astype(np.float32) * SMALL
        self.dx, self.dy = (x - centre[0]) / self.face, (y - centre[1]) / self.face
        distance = np.hypot(self.dx / 1.5, (self.dy + 0.1) / 1.7)
        self.follow = (0.12 + 0.88 * np.exp(-(distance**4))).astype(np.float32)  # the background moves a little too
        self.at = np.dstack(list(np.mgrid[: self.height, : self.width][::-1])).astype(np.float32)  # [H,W,2] x, y
        self.front = np.exp(-((self.dx / 0.42) ** 2) - (self.dy / 0.6) ** 2).astype(np.float32)

    def _move_head(self, picture: np.ndarray, pose: Pose) -> np.ndarray:
        import cv2

        scale = 1 + pose.zoom
        cos, sin = np.cos(pose.roll) / scale, np.sin(pose.roll) / scale
        x = self.dx - pose.x - 0.35 * np.sin(pose.yaw) * self.front
        y = self.dy - pose.y
        move_x = (cos * x + sin * y - self.dx) * self.follow * self.face
        move_y = (cos * y - sin * x - self.dy) * self.follow * self.face
        # the coarse samples stand at multiples of SMALL; a plain resize would put them half a cell off
        coarse = np.dstack([move_x, move_y]).astype(np.float32)
        corner = np.array([[1 / SMALL, 0, 0], [0, 1 / SMALL, 0]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        move = cv2.warpAffine(coarse, corner, (self.width, self.height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        where = self.at + move
        return cv2.remap(picture, where[..., 0], where[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)


def act(rng: np.random.Generator, times: np.ndarray, mouth: np.ndarray, liveliness: float = 1.0) -> list[Pose]:
    """Poses at `times` (s): the given mouth opening 0..1, slow sums of sines for the head, a blink every 2-3 s."""

    def wander(size: float) -> np.ndarray:
        rates, phases = rng.uniform(0.12, 0.7, 4), rng.uniform(0, 2 * np.pi, 4)
        return size * liveliness * np.sin(2 * np.pi * rates * times[:, None] + phases).mean(1) * 2

    x, y, roll, yaw, zoom = wander(0.10), wander(0.05), wander(0.06), wander(0.25), wander(0.03)
    nod = 0.012 * liveliness * mouth  # speakers nod with their syllables
    blink = np.zeros(len(times))
    at = float(rng.uniform(0.6, 1.4))
    while at < times[-1]:
        blink = np.maximum(blink, np.clip(1.6 - np.abs(times - at) / 0.07, 0, 1))
        at += float(rng.uniform(1.8, 3.0))
    return [
        Pose(float(m), float(b), float(px), float(py), float(r), float(w), float(z))
        for m, b, px, py, r, w, z in zip(mouth, blink, x, y + nod, roll, yaw, zoom, strict=True)
    ]
