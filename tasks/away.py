"""When the Prefect server is away: what it would only show is left out, and what needs it waits for its return.

Truth is in the run folder, so a server that is restarted, or lost with its database, must cost no work.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import TypeVar

import httpx
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

from tasks.run import RunError

R = TypeVar("R")
PATIENCE = "DUALFORCE_SERVER_PATIENCE_S"  # seconds for which a server that went away is waited for
DEFAULT_S = 300.0
logger = logging.getLogger("dualforce.server")


def away(error: BaseException | None) -> bool:
    """Whether an error comes of a server that can't be reached; Prefect wraps some in a RuntimeError of its own."""
    while error is not None and not isinstance(error, httpx.TransportError) and not _unavailable(error):
        error = error.__cause__
    return error is not None


def _unavailable(error: BaseException) -> bool:
    """Whether its proxy, or the server itself when its database is locked, says: not now (502, 503, 504)."""
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (502, 503, 504)


@contextlib.contextmanager
def only_shown() -> Iterator[None]:
    """Around calls that make something visible on the dashboard and nothing else: they never stop the work."""
    try:
        yield
    except Exception as error:
        # away, or back with another database
        if not (away(error) or isinstance(error, (httpx.HTTPStatusError, ObjectNotFound))):
            raise
        logger.warning("not shown on the dashboard: %s", error or type(error).__name__)


def again_when_back(work: Callable[[], R]) -> R:
    """The result of `work`; when the server goes away meanwhile, its result after the return. Raises RunError.

    `work` must be safe to repeat: a stage goes on from what is recorded.
    """
    while True:
        try:
            return work()
        except Exception as error:
            if not away(error):
                raise
            logger.warning("the Prefect server does not answer (%s); waiting for it", error or type(error).__name__)
            _await_return(error)


@contextlib.contextmanager
def said_plainly() -> Iterator[None]:
    """Around a whole run: a server that stays away is a RunError that says what to do."""
    try:
        yield
    except Exception as error:
        if not away(error):
            raise
        raise _gone(error) from error


def _await_return(error: Exception) -> None:
    api, end = get_current_settings().api.url, time.monotonic() + float(os.environ.get(PATIENCE, DEFAULT_S))
    while api and time.monotonic() < end:
        time.sleep(1)
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{api}/health", timeout=5):  # noqa: S310  (the user's)
            return
    raise _gone(error) from None


def _gone(error: Exception) -> RunError:
    api = get_current_settings().api.url or "that Prefect started for this command"
    return RunError(
        f"the Prefect server {api} does not answer ({error or type(error).__name__}); what was done is kept: start it "
        "again (`dualforce up`), then run the same command again"
    )
