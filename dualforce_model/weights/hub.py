"""Addresses on the Hugging Face Hub, or on the mirror that HF_ENDPOINT names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dualforce_model.weights.errors import WeightsError
from dualforce_model.weights.registry import HUB, File, Weights

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata


def commit_of(weights: Weights, file: File) -> str:
    """The commit that the set's revision (a branch, mostly) is now; the revision itself at a mirror that doesn't say."""
    return _facts(_address(weights, file, weights.revision)).commit_hash or weights.revision


def on_the_hub(weights: Weights, file: File, commit: str) -> tuple[str, int | None, str | None]:
    """Address of a file, its size, its sha256; the last two if known. Raises WeightsError."""
    url = _address(weights, file, commit)
    facts = _facts(url)
    etag = facts.etag or ""
    # the hub's tag of a large file is its sha256; that of a small one a git hash, which says nothing to us
    return url, facts.size, etag if len(etag) == 64 else None


def _address(weights: Weights, file: File, revision: str) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(weights.source.removeprefix(HUB), file.path, revision=revision)


def _facts(url: str) -> HfFileMetadata:
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # httpx's or httpx2's, by its version

    try:
        return get_hf_file_metadata(url, retry_on_errors=True)
    except (HTTPError, OSError) as error:
        raise WeightsError(f"{url}: {error}") from error
