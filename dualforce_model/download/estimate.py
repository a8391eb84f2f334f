"""What a list will cost before anything is fetched: videos, hours, bytes, disk, and time per stage at measured rates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dualforce_model.download.config import DownloadConfig
from dualforce_model.download.listed import ListedVideo, Manifest
from dualforce_model.download.terms import TERMS
from dualforce_model.store import ledger

# Mbit/s of picture and sound that a large platform sends for speech at that height: typical, not promised
MBITS = {2160: 14.0, 1440: 7.0, 1080: 3.0, 720: 1.7, 480: 0.9, 360: 0.6}
LINE_MBIT = 50.0  # of the line, unless said otherwise
UNKNOWN_S = 300.0  # a video whose length nothing tells

# (core-seconds, bytes) per second of clip at 512 px, embedded backends: process time over 13 real files of 96 s
RATES: dict[str, tuple[float, float]] = {
    "face_crop": (0.331, 425_000.0),
    "quality": (0.003, 0.0),
    "video_latents": (0.048, 827_000.0),
    "struct_latents": (0.0006, 7_700.0),
    "flame": (0.003, 20_200.0),
    "audio_features": (0.0014, 16_500.0),
    "reference": (0.013, 59_000.0),
    "metadata": (0.0002, 400.0),
}


def estimate(
    manifests: Sequence[Manifest],
    config: DownloadConfig,
    cores: int,
    rates: Mapping[str, tuple[float, float]] = RATES,
    line_mbit: float = LINE_MBIT,
) -> dict[str, Any]:
    """`datasets` (one entry per dataset and group), `total`, `disk_gib` and `hours` per stage, `assumed` (sentences).

    A list does not say how long a video is, only where its last clip ends: its bytes are estimated from that.
    """
    parts = [part for manifest in manifests for part in _parts(manifest, config)]
    seconds = sum(part["clip_hours"] for part in parts) * 3600
    gib = sum(part["gib"] for part in parts)
    videos = sum(part["videos"] for part in parts)
    line = line_mbit * 1e6 / 8
    if config.rate_limit_kib:
        line = min(line, config.rate_limit_kib * 1024 * min(config.concurrent, config.per_host))
    return {
        "datasets": parts,
        "total": {
            "videos": videos,
            "clips": sum(part["clips"] for part in parts),
            "clip_hours": round(seconds / 3600, 3),
            "video_hours": round(sum(part["video_hours"] for part in parts), 3),
            "gib": round(gib, 3),
        },
        "disk_gib": {"download": round(gib, 3)}
        | {stage: round(size * seconds / 2**30, 3) for stage, (_, size) in rates.items() if size},
        "hours": {"download": round(max(gib * 2**30 / line, videos * config.pause_s) / 3600, 3)}
        | {stage: round(work * seconds / cores / 3600, 3) for stage, (work, _) in rates.items()},
        "assumed": [
            f"videos no longer than their last clip's end (a whole one {UNKNOWN_S:.0f} s)",
            f"pictures at most {config.max_height} pixels high",
            f"{', '.join(f'{rate:g} Mbit/s at {height}' for height, rate in sorted(MBITS.items()))}",
            f"a line of {line_mbit:g} Mbit/s, {cores} cores, every listed clip obtained and accepted",
        ],
    }


def rates_of(run_dir: Path) -> dict[str, tuple[float, float]]:
    """Rates as an earlier run had them: from its ledgers, rows that were reused left out with the work they saved."""
    cropped = ledger.read(run_dir, "face_crop")
    seconds = {row["clip_id"]: ledger.facts(row).get("frames", 0) / 25 for row in cropped.to_dict("records")}
    found = {}
    for stage in RATES:
        rows = ledger.read(run_dir, stage)
        length = sum(seconds.get(clip, 0.0) for clip in rows["clip_id"])
        if length:
            found[stage] = float(rows["seconds"].sum()) / length, float(rows["bytes"].sum()) / length
    return found


def _parts(manifest: Manifest, config: DownloadConfig) -> list[dict[str, Any]]:
    groups: dict[str, list[ListedVideo]] = {}
    for video in manifest.videos:
        groups.setdefault(video.group, []).append(video)
    return [
        {
            "dataset": manifest.dataset,
            "group": group,
            "videos": len(videos),
            "clips": sum(len(video.clips) for video in videos),
            "persons": len({clip.person for video in videos for clip in video.clips}),
            "clip_hours": round(sum(_clip_seconds(video) for video in videos) / 3600, 3),
            "video_hours": round(sum(_length(video) for video in videos) / 3600, 3),
            "gib": round(sum(_length(video) * _mbits(video, config) for video in videos) * 1e6 / 8 / 2**30, 3),
            "list_problems": dict(sorted(Counter(problem.reason for problem in manifest.problems).items()))
            if first
            else {},
            "licence": TERMS[manifest.dataset].licence,
            "terms": TERMS[manifest.dataset].text,
        }
        for first, (group, videos) in ((n == 0, pair) for n, pair in enumerate(groups.items()))
    ]


def _clip_seconds(video: ListedVideo) -> float:
    return sum(clip.span.seconds if clip.span else UNKNOWN_S for clip in video.clips)


def _length(video: ListedVideo) -> float:
    return video.last_second or UNKNOWN_S


def _mbits(video: ListedVideo, config: DownloadConfig) -> float:
    """At the height that will come: the list's where it says one (0 = unknown), never above the cap."""
    height = min(video.height or config.max_height, config.max_height)
    return MBITS[min(MBITS, key=lambda known: abs(known - height))]
