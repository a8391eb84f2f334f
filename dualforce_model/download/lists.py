"""All lists of a configuration, read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from dualforce_model.download import celebv, hdtf, links, vfhq
from dualforce_model.download.config import DownloadConfig
from dualforce_model.download.listed import Manifest
from dualforce_model.download.terms import TERMS
from dualforce_model.errors import BadInput

READERS: dict[str, Callable[[Path], Manifest]] = {
    "hdtf": hdtf.read,
    "celebv_hq": partial(celebv.read, dataset="celebv_hq"),
    "celebv_text": partial(celebv.read, dataset="celebv_text"),
    "vfhq": vfhq.read,
    "links": links.read,
}


def read_lists(config: DownloadConfig) -> list[Manifest]:
    """One manifest for each list, in the order of the configuration. Raises BadInput that says where to get it."""
    manifests = []
    for dataset, path in config.lists.items():
        try:
            manifests.append(READERS[dataset](path))
        except BadInput as error:
            home = TERMS[dataset].home
            help_ = f"; get it from {home} and say --set download.lists.{dataset}=PATH" if home else ""
            raise BadInput(error.reason, f"{error}{help_}") from error
    return manifests
