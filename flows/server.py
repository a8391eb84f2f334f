"""Which Prefect server a command talks to, and starting one. Everything stays on this machine unless told otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

HOST, PORT = "127.0.0.1", 4200
QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "dualforce",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # 12 s on two idle cores, more on busy ones
}
ROOT = Path(__file__).resolve().parent.parent


def configure(verbose: bool = False) -> None:
    """Set what Prefect reads from the environment; call before it is imported. What the user set stays.

    A server named by PREFECT_API_URL is used; else one that `dualforce up` started here; else Prefect starts its own
    for as long as the command runs (same database, so a dashboard opened later shows the run).
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    # the dashboard gets every line; the terminal has progress bars and our own messages
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "INFO" if verbose else "CRITICAL")
    if "PREFECT_API_URL" not in os.environ and healthy(url(PORT)):
        os.environ["PREFECT_API_URL"] = url(PORT)


def url(port: int, host: str = HOST) -> str:
    return f"http://{host}:{port}/api"


def healthy(api: str) -> bool:
    """Whether a Prefect server answers at this address."""
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=2) as answer:  # noqa: S310  (http by construction)
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def start(port: int, host: str = HOST, wait_s: float = 120) -> subprocess.Popen[bytes]:
    """Start a server with its dashboard and return once it answers. Raises RuntimeError when it does not come up."""
    environment = {**os.environ, **QUIET, "PREFECT_API_URL": url(port, host)}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]
    server = subprocess.Popen(command, env=environment)
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"the Prefect server ended with code {server.returncode}; is port {port} taken?")
        if healthy(url(port, host)):
            return server
        time.sleep(0.2)
    server.terminate()
    raise RuntimeError(f"the Prefect server did not answer on {url(port, host)} within {wait_s:g} s")


def prefect(*arguments: str) -> int:
    """Run a `prefect` command in the project's folder; returns its exit code."""
    return subprocess.call([sys.executable, "-m", "prefect", *arguments], cwd=ROOT)
