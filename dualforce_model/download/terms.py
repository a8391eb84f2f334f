"""Under which terms each dataset may be used. Not legal advice: what the lists' own authors wrote, in one line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Terms:
    """`licence`: a short name for tables; `text`: one sentence; `home`: where the list and its terms are."""

    licence: str
    text: str
    home: str


_UPLOADERS = "The videos belong to their uploaders; fetching and using them is between you, them and the platform."
TERMS: dict[str, Terms] = {
    "hdtf": Terms("CC-BY-4.0 (list)", f"The list is under CC BY 4.0: name its authors. {_UPLOADERS}", "https://github.com/MRzzm/HDTF"),
    "celebv_hq": Terms(
        "non-commercial research", f"For non-commercial research only, not to be passed on. {_UPLOADERS}",
        "https://github.com/CelebV-HQ/CelebV-HQ",
    ),
    "celebv_text": Terms(
        "non-commercial research", f"For non-commercial research only, not to be passed on. {_UPLOADERS}",
        "https://github.com/celebv-text/CelebV-Text",
    ),
    "vfhq": Terms(
        "non-commercial research", f"For non-commercial research only. {_UPLOADERS}", "https://liangbinxie.github.io/projects/vfhq/"
    ),
    "links": Terms("unknown", f"You chose the links; you know their terms. {_UPLOADERS}", ""),
}  # fmt: skip
