"""Where results live on disk: identity of an artifact, atomic publishing, the ledger. It knows nothing of their content."""

from dualforce_model.store.identity import digest_bytes, digest_file, identity
from dualforce_model.store.publish import born, publish, sweep, write_json
from dualforce_model.store.tensors import intact, read_provenance, read_tensors, write_tensors

__all__ = [
    "born",
    "digest_bytes",
    "digest_file",
    "identity",
    "intact",
    "publish",
    "read_provenance",
    "read_tensors",
    "sweep",
    "write_json",
    "write_tensors",
]
