"""The report's plots as inline SVG: colours come from the page, so that they follow its light and dark scheme."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from dualforce_model.timeline import FPS

WIDTH, MARGIN = 560, 34
ALONE = (  # colours of a plot that stands outside of the report
    "<style>svg{font:11px sans-serif}text{fill:#555}.grid{stroke:#ddd}polyline{fill:none;stroke:#4477aa}"
    '.raw{opacity:.3}.mouth{stroke-width:2}.dot{fill:#cc6677}</style><rect width="100%" height="100%" fill="#fff"/>'
)
FLAT_MOUTH, FLAT_SOUND = 0.04, 0.005  # what moves less than this is drawn as nearly flat as it is


def mouth_and_sound(mouth: np.ndarray, energy: np.ndarray, lag_frames: float | None, name: str) -> str:
    """Mouth opening [T] and sound energy [T] of a clip, 25 a second, each scaled to its own range.

    lag_frames: found delay of the sound behind the mouth; from one frame on, the sound is also drawn moved back by it.
    """
    width, height, count = 360, 110, len(mouth)
    if count < 2:
        return ""
    seconds = count / FPS

    def at(k: np.ndarray) -> np.ndarray:
        return MARGIN / 2 + k / (count - 1) * (width - MARGIN)

    frames = np.arange(count)
    step = _nice(seconds / 6)
    marks = [k * step for k in range(math.floor(seconds / step) + 1)]
    ticks = "".join(
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="6" y2="{height - 18}"/>'
        f'<text x="{x:.1f}" y="{height - 4}" text-anchor="middle">{mark:g}{" s" if mark == 0 else ""}</text>'
        for mark in marks
        if (x := float(at(np.array(min(mark * FPS, count - 1)))))
    )
    loud, opening = _up(energy, height, FLAT_SOUND), _up(mouth, height, FLAT_MOUTH)
    lines = _line(at(frames), loud, "sound") + _line(at(frames), opening, "mouth")
    if lag_frames is not None and abs(lag_frames) >= 1:
        moved = at(frames - lag_frames)
        inside = (moved >= MARGIN / 2) & (moved <= width - MARGIN / 2)
        lines = _line(moved[inside], loud[inside], "moved") + lines
    title = f"Mouth opening and sound energy of {name} over {seconds:.1f} seconds"
    return _svg(width, height, title, ticks + lines)


def loss_curve(points: Sequence[tuple[float, float]], validation: Sequence[tuple[float, float]] = ()) -> str:
    """Training loss over steps: each logged value faintly, and their running mean; validation values as dots."""
    height = 260
    finite = [(s, v) for s, v in points if math.isfinite(v)]
    if len(finite) < 2:
        return ""
    steps, values = np.array(finite).T
    dots = np.array([p for p in validation if math.isfinite(p[1])]).reshape(-1, 2)
    smooth = _running_mean(values, max(1, len(values) // 25))
    shown = np.concatenate([values, dots[:, 1]])
    low, high = float(shown.min()), float(np.percentile(shown, 99.5))
    step = _nice((high - low) / 4 or abs(high) / 4 or 1.0)
    low = math.floor(low / step) * step
    high = max(math.ceil(high / step) * step, low + step)
    left, right, top, bottom = 52, WIDTH - 24, 10, height - 34
    first, last = float(steps[0]), float(steps[-1])

    def x(s: np.ndarray) -> np.ndarray:
        return left + (s - first) / max(last - first, 1) * (right - left)

    def y(v: np.ndarray) -> np.ndarray:
        return bottom - (np.clip(v, low, high) - low) / (high - low) * (bottom - top)

    parts = []
    for k in range(round((high - low) / step) + 1):
        level = low + k * step
        at = float(y(np.array(level)))
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{level:.4g}</text>')
    stride = _nice((last - first) / 6)
    for k in range(math.ceil(first / stride), math.floor(last / stride) + 1):
        at = float(x(np.array(k * stride)))
        parts.append(f'<text x="{at:.1f}" y="{height - 18}" text-anchor="middle">{k * stride:g}</text>')
    parts.append(f'<text x="{(left + right) / 2}" y="{height - 3}" text-anchor="middle">optimiser step</text>')
    parts += [_line(x(steps), y(values), "raw"), _line(x(steps), y(smooth), "mouth")]
    parts += [
        f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="3.5"/>'
        for a, b in zip(x(dots[:, 0]), y(dots[:, 1]), strict=True)
    ]
    title = (
        f"Training loss from step {first:.0f} to {last:.0f}: from {smooth[0]:.4g} to {smooth[-1]:.4g} (running mean)"
    )
    return _svg(WIDTH, height, title, "".join(parts))


def curve_page(rows: Sequence[Mapping[str, Any]]) -> str:
    """The loss curve of a training log's rows as an SVG file of its own."""
    found = [
        [(float(row["step"]), float(row[name])) for row in rows if row.get(name) is not None]
        for name in ("loss", "val_loss")
    ]
    plot = loss_curve(*found) or _svg(WIDTH, 40, "", '<text x="12" y="24">fewer than two steps were logged</text>')
    return plot.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(">", f">{ALONE}", 1)


def _svg(width: int, height: int, title: str, body: str) -> str:
    words = escape(title, quote=True)
    return f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-label="{words}">{body}</svg>'


def _line(x: np.ndarray, y: np.ndarray, name: str) -> str:
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True) if math.isfinite(b))
    return f'<polyline class="{name}" points="{points}"/>'


def _up(values: np.ndarray, height: int, flat: float) -> np.ndarray:
    """Values onto the plot's height, the smallest below, the largest (or what is `flat` above it) on top."""
    values = np.asarray(values, np.float64)
    low, high = (np.nanmin(values), np.nanmax(values)) if np.isfinite(values).any() else (0.0, 1.0)
    return height - 22 - (values - low) / max(high - low, flat) * (height - 32)


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean of the last `width` values, of fewer at the beginning."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - width, 0)
    mean: np.ndarray = (total[last] - total[first]) / (last - first)
    return mean


def _nice(step: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is not below `step`."""
    if step <= 0 or not math.isfinite(step):
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= step * 0.999)
