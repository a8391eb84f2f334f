"""One file over http: resumed where it broke off, verified, published whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dualforce_model.store import publish
from dualforce_model.weights.errors import WeightsError

PIECE = 1 << 20
BUSY = (408, 425, 429, 500, 502, 503, 504)  # answers that another try may change


@dataclass(frozen=True)
class Patience:
    """stall_s: seconds without a byte after which a connection is given up. tries: in a row without any progress.

    first_wait_s doubles from try to try up to longest_wait_s; a server's Retry-After is obeyed up to that, too.
    """

    stall_s: float = 30.0
    tries: int = 6
    first_wait_s: float = 1.0
    longest_wait_s: float = 120.0


DEFAULT = Patience()


class _TryAgainError(Exception):
    def __init__(self, what: str, wait_s: float | None = None):
        super().__init__(what)
        self.wait_s = wait_s


def download(
    url: str,
    path: Path,
    size: int | None = None,
    sha256: str | None = None,
    patience: Patience = DEFAULT,
    progress: Callable[[int], None] = lambda _: None,
) -> str:
    """Fetch `url` to `path`; returns the sha256 of what came. `progress` hears of every piece's length in bytes.

    An interrupted download waits in `<path>.part` and goes on from there, also in another process. Bytes that don't add
    up to `size` and `sha256` are thrown away and fetched once more. Raises WeightsError.
    """
    part = path.with_name(path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    failures, wrong = 0, 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _fetch(url, part, size, patience, progress)
            found = _digest(part)
            if sha256 is None or found == sha256:
                with publish(path) as temporary:
                    part.rename(temporary)
                return found
            part.unlink()
            wrong += 1
            if wrong == 2:
                raise WeightsError(f"{url} serves other bytes than published: sha256 {found}, expected {sha256}")
            continue
        except _TryAgainError as error:
            after = part.stat().st_size if part.exists() else 0
            failures = 1 if after > before else failures + 1
            if failures >= patience.tries:
                raise WeightsError(
                    f"{url}: {error}; gave up after {failures} tries; {after} bytes are kept for the next fetch"
                ) from error
            wait = patience.first_wait_s * 2 ** (failures - 1) if error.wait_s is None else error.wait_s
            time.sleep(min(wait, patience.longest_wait_s))


def _fetch(url: str, part: Path, size: int | None, patience: Patience, progress: Callable[[int], None]) -> None:
    """Append to `part` until the file is whole. Raises _TryAgainError, WeightsError."""
    have = part.stat().st_size if part.exists() else 0
    if size is not None and have >= size:
        if have == size:
            return
        part.unlink()
        have = 0
    request = urllib.request.Request(url, headers={"User-Agent": "dualforce", "Accept-Encoding": "identity"})  # noqa: S310
    mark = part.with_name(part.name + ".etag")  # what the server called the version that we hold a part of
    if have:
        request.add_header("Range", f"bytes={have}-")
        if mark.exists():
            request.add_header("If-Range", mark.read_text(encoding="utf-8"))
    try:
        with urllib.request.urlopen(request, timeout=patience.stall_s) as answer:  # noqa: S310
            resumed = answer.status == 206 and _starts_at(answer, have)
            if answer.status == 206 and not resumed:
                part.unlink(missing_ok=True)
                raise _TryAgainError("the server sent another range than asked for")
            have = have if resumed else 0
            length = answer.headers.get("Content-Length")
            whole = have + int(length) if length is not None else None
            if size is not None and whole is not None and whole != size:
                raise WeightsError(f"{url} has {whole} bytes, {size} were published; is the revision right?")
            etag = answer.headers.get("ETag")
            if etag and not etag.startswith("W/"):
                mark.write_text(etag, encoding="utf-8")
            else:
                mark.unlink(missing_ok=True)
            with open(part, "ab" if resumed else "wb") as file:
                while piece := answer.read(PIECE):
                    file.write(piece)
                    have += len(piece)
                    progress(len(piece))
    except urllib.error.HTTPError as error:
        if error.code == 416:  # our part is longer than the file, or just as long
            part.unlink(missing_ok=True)
            raise _TryAgainError("the file on the server is shorter than what was fetched of it") from error
        if error.code in BUSY:
            raise _TryAgainError(f"the server answers {error.code} {error.reason}", _retry_after(error)) from error
        raise WeightsError(f"{url}: the server answers {error.code} {error.reason}") from error
    except http.client.HTTPException as error:  # a connection that closes early is one of them
        raise _TryAgainError(f"the connection broke off ({type(error).__name__})") from error
    except TimeoutError as error:
        raise _TryAgainError(f"no byte for {patience.stall_s:g} s") from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            raise _TryAgainError(f"no answer for {patience.stall_s:g} s") from error
        raise _TryAgainError(f"the connection failed ({reason})") from error
    wanted = size if size is not None else whole
    if wanted is not None and have < wanted:
        raise _TryAgainError(f"the connection closed after {have} of {wanted} bytes")
    mark.unlink(missing_ok=True)


def _starts_at(answer: http.client.HTTPResponse, have: int) -> bool:
    return (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-")


def _retry_after(error: urllib.error.HTTPError) -> float | None:
    """Seconds that the server asks to wait; a date, which servers of files don't send, counts as nothing."""
    try:
        return max(0.0, float(error.headers.get("Retry-After") or ""))
    except ValueError:
        return None


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
