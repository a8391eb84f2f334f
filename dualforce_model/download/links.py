"""A plain list of links: one http(s) or YouTube address a line, with an optional name before it; `#` begins a remark."""

from __future__ import annotations

from pathlib import Path

from dualforce_model.download.listed import Gathering, ListedClip, Manifest, link, safe_key
from dualforce_model.download.texts import read_text


def read(path: Path) -> Manifest:
    """Read the list; every video is one clip, its own person. Raises BadInput no_list, list_unreadable."""
    out = Gathering("links")
    urls: dict[str, str] = {}  # by name
    known: set[str] = set()
    for number, line in enumerate(read_text(path).splitlines(), 1):
        fields = [] if line.lstrip().startswith("#") else line.split()
        if not fields:
            continue
        where = f"{path.name}:{number}"
        found = link(fields[-1]) if len(fields) <= 2 else None
        if found is None:
            out.problem(
                where, "bad_line", f"line {number}: expected a link, or a name and a link, got {line.strip()!r}", 1
            )
            continue
        key, url = found
        if len(fields) == 2:
            key = safe_key(fields[0])
        if urls.get(key, url) != url:
            out.problem(where, "name_twice", f"line {number}: {key} is the name of two links; the first counts", 1)
        elif url in known and key not in urls:
            out.problem(
                where, "same_video", f"line {number}: {url} is listed under another name; it is fetched once", 1
            )
        elif key not in urls:
            urls[key] = url
            known.add(url)
            out.add("", key, url, [ListedClip(key, key)])
    return out.manifest()
