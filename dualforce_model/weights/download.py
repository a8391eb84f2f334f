"""One file over http: resumed where it broke off, verified, published whole or not at all."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dualforce_model.store import digest_file, publish
from dualforce_model.weights.alone import alone
from dualforce_model.weights.errors import WeightsError, writing

PIECE = 1 << 20
BUSY = (408, 425, 429, 500, 502, 503, 504)  # answers that another try may change


@dataclass(frozen=True)
class Patience:
    """stall_s: seconds without a byte after which a connection is given up. tries: in a row without any progress.

    first_wait_s doubles from try to try up to longest_wait_s; a server's Retry-After is obeyed up to that, too.
    sleep: does the waiting.
    """

    stall_s: float = 30.0
    tries: int = 6
    first_wait_s: float = 1.0
    longest_wait_s: float = 120.0
    sleep: Callable[[float], None] = time.sleep


DEFAULT = Patience()


class _TryAgainError(Exception):
    def __init__(self, what: str, wait_s: float | None = None, discard: bool = False):
        super().__init__(what)
        self.wait_s = wait_s
        self.discard = discard  # what was fetched so far is of no use


def download(
    url: str,
    path: Path,
    size: int | None = None,
    sha256: str | None = None,
    patience: Patience = DEFAULT,
    progress: Callable[[int], None] = lambda _: None,
) -> str:
    """Fetch `url` to `path`; returns the sha256 of what came. `progress` hears of every piece's length in bytes.

    An interrupted download waits in `<path>.part` and goes on from there, also in another process; two at once take turns.
    Bytes that don't add up to `size` and `sha256` are thrown away and fetched once more. Raises WeightsError.
    """
    part = path.with_name(path.name + ".part")
    with writing(part), alone(part.with_name(part.name + ".lock")):
        return _download(url, path, part, size, sha256, patience, progress)


def _download(
    url: str,
    path: Path,
    part: Path,
    size: int | None,
    sha256: str | None,
    patience: Patience,
    progress: Callable[[int], None],
) -> str:
    failures, wrong = 0, 0
    while True:
        before = _length(part)
        try:
            _fetch(url, part, size, sha256, patience, progress)
        except _TryAgainError as error:
            if error.discard:
                part.unlink(missing_ok=True)
            after = _length(part)
            failures = 1 if after > before else failures + 1
            if failures >= patience.tries:
                raise WeightsError(
                    f"{url}: {error}; gave up after {failures} tries; {after} bytes are kept for the next fetch"
                ) from error
            wait = patience.first_wait_s * 2 ** (failures - 1) if error.wait_s is None else error.wait_s
            patience.sleep(min(wait, patience.longest_wait_s))
            continue
        found = digest_file(part)
        if sha256 is None or found == sha256:
            with publish(path) as temporary:
                part.rename(temporary)
            return found
        part.unlink()
        wrong += 1
        if wrong == 2:
            raise WeightsError(
                f"{url} serves other bytes than were published or pinned: sha256 {found}, expected {sha256}"
            )


def _fetch(
    url: str,
    part: Path,
    size: int | None,
    sha256: str | None,
    patience: Patience,
    progress: Callable[[int], None],
) -> None:
    """Append to `part` until the file is whole. Raises _TryAgainError, WeightsError; OSError is the disk's."""
    have = _length(part)
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
    with _connection(url, patience):
        answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=patience.stall_s)  # noqa: S310
    with answer:
        resumed = answer.status == 206 and _starts_at(answer, have)
        if answer.status == 206 and not resumed:
            raise _TryAgainError("the server sent another range than asked for", discard=True)
        whole = None if answer.length is None else (have if resumed else 0) + answer.length
        if size is not None and whole is not None and whole != size:
            raise WeightsError(f"{url} has {whole} bytes, {size} were published; is the revision right?")
        wanted = size if size is not None else whole
        if wanted is None and sha256 is None and not answer.chunked:
            raise WeightsError(
                f"{url}: neither the server says how long the file is, nor are its size or sha256 known, so nobody could"
                " tell whether all of it came; get it by other means and name its folder with --folder"
            )
        etag = answer.headers.get("ETag")
        if etag and not etag.startswith("W/"):
            mark.write_text(etag, encoding="utf-8")
        else:
            mark.unlink(missing_ok=True)
        with open(part, "ab" if resumed else "wb") as file:
            while piece := _read(answer, url, patience):
                file.write(piece)
                progress(len(piece))
    have = _length(part)
    if wanted is not None and have != wanted:
        raise _TryAgainError(f"{have} of {wanted} bytes came, then the connection closed", discard=have > wanted)
    mark.unlink(missing_ok=True)


def _read(answer: http.client.HTTPResponse, url: str, patience: Patience) -> bytes:
    with _connection(url, patience):
        return answer.read(PIECE)


@contextmanager
def _connection(url: str, patience: Patience) -> Iterator[None]:
    """What goes wrong at the server or on the way to it: is it worth another try (_TryAgainError) or not (WeightsError)?"""
    try:
        yield
    except urllib.error.HTTPError as error:
        if error.code == 416:  # our part is longer than the file, or just as long
            what = "the file on the server is shorter than what was fetched of it"
            raise _TryAgainError(what, discard=True) from error
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


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _starts_at(answer: http.client.HTTPResponse, have: int) -> bool:
    return (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-")


def _retry_after(error: urllib.error.HTTPError) -> float | None:
    """Seconds that the server asks to wait; a date, which servers of files don't send, counts as nothing."""
    try:
        return max(0.0, float(error.headers.get("Retry-After") or ""))
    except ValueError:
        return None
