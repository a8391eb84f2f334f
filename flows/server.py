"""Which Prefect server a command talks to, and starting one. Everything stays on this machine unless told otherwise."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from dualforce_model.config import ConfigError

HOST, PORT = "127.0.0.1", 4200
AUTH, SERVER_AUTH = "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"  # what a client says, a server asks for
QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "dualforce",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # 12 s on two idle cores, more on busy ones
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60",  # the automation that marks crashed runs waits for ten of them
    # a server that is restarted is waited for: 2 + 4 + … + 128 s
    "PREFECT_CLIENT_MAX_RETRIES": "7",
    # results go into the run folder and nowhere else; what Prefect kept of its own would be a pickle
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
}
ROOT = Path(__file__).resolve().parent.parent


def configure(verbose: bool = False) -> None:
    """Set what Prefect reads from the environment; call before it is imported. What the user set stays.

    A server named by PREFECT_API_URL is used; else one that `dualforce up` started here; else Prefect starts its own
    for as long as the command runs (same database, so a dashboard opened later shows the run).
    Raises ConfigError when the server asks for an auth string that the environment does not hold.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    # the dashboard gets every line; the terminal has progress bars and our own messages
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "INFO" if verbose else "CRITICAL")
    if SERVER_AUTH in os.environ:  # who may start the server may use it
        os.environ.setdefault(AUTH, os.environ[SERVER_AUTH])
    if "PREFECT_API_URL" not in os.environ and healthy(url(PORT)):
        os.environ["PREFECT_API_URL"] = url(PORT)
    api = os.environ.get("PREFECT_API_URL", "")
    if api and not admits(api):
        wrong = f"refuses the {AUTH} that is set" if os.environ.get(AUTH) else f"asks for an auth string: set {AUTH}"
        raise ConfigError(f"the Prefect server at {api} {wrong} to what the server was started with ({SERVER_AUTH})")


def url(port: int, host: str = HOST) -> str:
    return f"http://{host}:{port}/api"


def healthy(api: str) -> bool:
    """Whether a Prefect server answers at this address."""
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=2) as answer:  # noqa: S310  (http by construction)
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def admits(api: str) -> bool:
    """Whether the server lets us in with the auth string of the environment; True also when it does not answer."""
    words = base64.b64encode(os.environ.get(AUTH, "").encode()).decode()
    # health is answered to anybody, so it says nothing about this
    asked = urllib.request.Request(f"{api}/admin/version", headers={"Authorization": f"Basic {words}"})  # noqa: S310
    try:
        with urllib.request.urlopen(asked, timeout=5):  # noqa: S310  (an address that the user named)
            return True
    except urllib.error.HTTPError as error:
        return error.code != 401
    except (OSError, ValueError):
        return True


def loopback(host: str) -> bool:
    """Whether only this machine reaches what is bound to `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def start(port: int, host: str = HOST, wait_s: float = 120) -> subprocess.Popen[bytes]:
    """Start a server with its dashboard and return once it answers. Raises RuntimeError when it does not come up.

    Raises ConfigError for an address beyond this machine without an auth string: whoever reaches a server runs code.
    """
    if not loopback(host) and not os.environ.get(SERVER_AUTH):
        raise ConfigError(
            f"--host {host} lets other machines in, and whoever reaches the server can run code here: "
            f"set {SERVER_AUTH}=user:password first (docs/security.md)"
        )
    environment = {**os.environ, **QUIET, "PREFECT_API_URL": url(port, host)}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]
    server = subprocess.Popen(command, env=environment, umask=0o077)  # its database is nobody else's to read
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
    # a script's background job is started deaf to SIGINT, which is what Prefect's worker ends by; children of ours are not
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return hold(subprocess.Popen([sys.executable, "-m", "prefect", *arguments], cwd=ROOT))


def hold(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process we started; its exit code. It gets our SIGTERM; Ctrl-C at a terminal reaches it by itself."""
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                return process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
