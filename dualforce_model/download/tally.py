"""Expected against obtained: what the lists promised, what came of it, and why the rest did not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dualforce_model.download.listed import ListedClip, ListedVideo, Manifest
from dualforce_model.download.terms import TERMS

WAITING = "not_tried_yet"
Fate = tuple[str, float]  # (reason, "" when obtained; seconds, 0 when not known)


@dataclass
class _Count:
    expected: float = 0
    obtained: float = 0
    lost: dict[str, float] = field(default_factory=dict)

    def add(self, reason: str, amount: float = 1) -> None:
        self.expected += amount
        if reason:
            self.lost[reason] = self.lost.get(reason, 0) + amount
        else:
            self.obtained += amount

    def plain(self, digits: int = 0) -> dict[str, Any]:
        def tidy(value: float) -> float:
            return round(value, digits) if digits else int(value)

        lost = {
            reason: tidy(amount) for reason, amount in sorted(self.lost.items(), key=lambda pair: (-pair[1], pair[0]))
        }
        return {"expected": tidy(self.expected), "obtained": tidy(self.obtained), "lost": lost}


def tally(manifests: Iterable[Manifest], videos: Mapping[str, str], clips: Mapping[str, Fate]) -> list[dict[str, Any]]:
    """One entry per dataset and group: counts of videos, clips, hours and persons as {expected, obtained, lost: {reason: n}}.

    `videos`: fate by source name ("" = fetched, else the reason); `clips`: fate by clip name. What is in neither has not
    been tried. Clips that a faulty list lost are expected and lost; a person is obtained with the first clip.
    """
    entries = []
    for manifest in manifests:
        groups: dict[str, list[ListedVideo]] = {}
        for video in manifest.videos:
            groups.setdefault(video.group, []).append(video)
        for number, (group, members) in enumerate(groups.items()):
            entry = _group(members, videos, clips)
            problems = Counter(problem.reason for problem in manifest.problems) if number == 0 else Counter[str]()
            for problem in manifest.problems if number == 0 else ():
                if problem.lost:
                    entry["clips"].add(problem.reason, problem.lost)
            entries.append(
                {
                    "dataset": manifest.dataset,
                    "group": group,
                    "videos": entry["videos"].plain(),
                    "clips": entry["clips"].plain(),
                    "hours": entry["hours"].plain(4),
                    "persons": entry["persons"].plain(),
                    "list_problems": dict(sorted(problems.items())),
                    "licence": TERMS[manifest.dataset].licence,
                    "terms": TERMS[manifest.dataset].text,
                }
            )
    return entries


def _group(members: list[ListedVideo], videos: Mapping[str, str], clips: Mapping[str, Fate]) -> dict[str, _Count]:
    counts = {name: _Count() for name in ("videos", "clips", "hours", "persons")}
    persons: dict[str, set[str]] = {}
    for video in members:
        fate = videos.get(video.source, WAITING)
        counts["videos"].add(fate)
        for clip in video.clips:
            reason, seconds = _fate(video, clip, fate, clips)
            counts["clips"].add(reason)
            counts["hours"].add(reason, seconds / 3600)
            persons.setdefault(clip.person, set()).add(reason)
    for reasons in persons.values():
        counts["persons"].add("" if "" in reasons else min(reasons))
    return counts


def _fate(video: ListedVideo, clip: ListedClip, video_fate: str, clips: Mapping[str, Fate]) -> Fate:
    reason, seconds = clips.get(f"{video.source}/{clip.name}", (WAITING, 0.0))
    return video_fate or reason, clip.span.seconds if clip.span else seconds


def table(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same as flat rows for a table: one per entry, counts as `obtained of expected`, losses in words."""
    rows = []
    for entry in entries:
        lost = Counter[str](entry["clips"]["lost"])
        rows.append(
            {
                "dataset": f"{entry['dataset']} {entry['group']}".strip(),
                **{
                    name: f"{entry[name]['obtained']:g} of {entry[name]['expected']:g}"
                    for name in ("videos", "clips", "hours", "persons")
                },
                "clips lost": ", ".join(f"{reason} {count}" for reason, count in lost.most_common()) or "none",
                "licence": entry["licence"],
            }
        )
    return rows
