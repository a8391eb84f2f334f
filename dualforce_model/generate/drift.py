"""What becomes of a face over minutes: likeness to the picture, sharpness and colour of every ten seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dualforce_model.timeline import FPS

if TYPE_CHECKING:
    from dualforce_model.faces.identity import Embedder

EVERY_S = 10  # seconds per row
LOOK_EVERY = 5  # frames between two that are measured: five a second
KNOW_EVERY = 2 * FPS  # frames between two whose identity is measured
THUMB = 64  # pixels at which likeness is measured: the picture as a whole, not its noise


class Drift:
    """Shown the frames of a video one by one, it keeps a few numbers per ten seconds and no frame.

    reference_similarity  correlation of the grey picture at 64 px with the reference's: 1 the same, 0 unrelated
    identity_similarity   cosine of ArcFace's embedding to the reference's; null without its weights or without a face
    sharpness             variance of the Laplacian of the grey picture
    colour                mean red, green, blue, 0..255
    """

    def __init__(self, reference: np.ndarray, know: Embedder | None = None):
        """Begin with the reference picture uint8 [size,size,3]; `know` measures identity (`knower()`)."""
        self._thumb, self.reference = _thumb(reference), _looks(reference)
        self._mesh: Any = None
        self._know = know
        self._face: np.ndarray | None = None
        if know is not None:
            from dualforce_model.faces.detect import Mesh

            self._mesh = Mesh(0.5, static=True)
            self._face = self._embedded(reference)
        self._rows: list[dict[str, list[Any]]] = []
        self._frames = 0

    def see(self, frame: np.ndarray) -> None:
        """The next frame, uint8 [size,size,3]."""
        index = self._frames // (EVERY_S * FPS)
        if index == len(self._rows):
            self._rows.append({"reference_similarity": [], "identity_similarity": [], "sharpness": [], "colour": []})
        if self._frames % LOOK_EVERY == 0:
            row = self._rows[index]
            row["reference_similarity"].append(float((_thumb(frame) * self._thumb).mean()))
            for name, value in _looks(frame).items():
                row[name].append(value)
            if self._frames % KNOW_EVERY == 0 and self._face is not None:
                face = self._embedded(frame)
                row["identity_similarity"] += [] if face is None else [float(face @ self._face)]
        self._frames += 1

    def facts(self) -> dict[str, Any]:
        """What was seen, as plain data: a row per ten seconds, and how far the last differs from the first."""
        rows = []
        for n, found in enumerate(self._rows):
            until = min(EVERY_S * (n + 1), self._frames / FPS)
            row: dict[str, Any] = {"from_s": EVERY_S * n, "to_s": round(until, 2)}
            for name, values in found.items():
                means = np.mean(values, axis=0) if values else None
                row[name] = None if means is None else np.round(means, 4).tolist()
            rows.append(row)
        return {
            "seconds": self._frames / FPS,
            "identity_by": "arcface" if self._face is not None else None,
            "reference": {name: np.round(value, 4).tolist() for name, value in self.reference.items()},
            "rows": rows,
            "change": _change(rows) if rows else None,
        }

    def _embedded(self, picture: np.ndarray) -> np.ndarray | None:
        assert self._know is not None
        points = self._mesh.points(np.ascontiguousarray(picture))
        return None if points is None else self._know([picture], [points * len(picture)])[0]


def _change(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Last row minus first; null where one of them has no value."""
    change: dict[str, Any] = {}
    for name in ("reference_similarity", "identity_similarity", "sharpness", "colour"):
        first, last = (rows[at][name] for at in (0, -1))
        known = first is not None and last is not None
        change[name] = np.round(np.subtract(last, first), 4).tolist() if known else None
    return change


def _grey(picture: np.ndarray) -> np.ndarray:
    return picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def _thumb(picture: np.ndarray) -> np.ndarray:
    """The grey picture at 64 px at most, mean 0 and variance 1; zero where it has no contrast."""
    grey, cell = _grey(picture), max(1, len(picture) // THUMB)
    side = len(grey) // cell * cell
    small = grey[:side, :side].reshape(side // cell, cell, side // cell, cell).mean((1, 3))
    small -= small.mean()
    return small / max(float(small.std()), 1e-6)


def _looks(picture: np.ndarray) -> dict[str, Any]:
    grey = _grey(picture)
    bend = grey[1:-1, :-2] + grey[1:-1, 2:] + grey[:-2, 1:-1] + grey[2:, 1:-1] - 4 * grey[1:-1, 1:-1]
    return {"sharpness": float(bend.var()), "colour": picture.reshape(-1, 3).mean(0).tolist()}


def knower() -> Embedder | None:
    """ArcFace when its weights are on this machine, otherwise None: `Drift.facts` then says that nobody was asked."""
    from dualforce_model.faces import identity
    from dualforce_model.weights import WeightsError

    try:
        return identity.embedder()
    except WeightsError:
        return None
