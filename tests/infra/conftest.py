"""A real PostgreSQL on loopback, for a Prefect server that a team shares."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from chain import free_port


@dataclass(frozen=True)
class Postgres:
    port: int
    password: str
    bin: Path

    def tool(self, name: str, *arguments: str) -> str:
        """The output of one of PostgreSQL's own commands on the database."""
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "prefect", "-d", "postgres"]
        environment = {**os.environ, "PGPASSWORD": self.password}
        done = subprocess.run([self.bin / name, *where, *arguments], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def value(self, query: str) -> str:
        return self.tool("psql", "-At", "-c", query).strip()


def _binaries() -> Path:
    found = [Path(p).resolve().parent for p in [shutil.which("initdb")] if p]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    assert found, "PostgreSQL is missing; `make install` installs Debian's package"
    return found[0]


def _another_user() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to run as root: its own user, or nobody."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    return names.get("postgres") or names["nobody"]


@pytest.fixture(scope="session")
def postgres():
    binaries, user = _binaries(), _another_user()
    owner = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    folder = Path(tempfile.mkdtemp(prefix="dualforce-postgres-"))  # pytest's folders are closed to other users
    server = Postgres(free_port(), secrets.token_hex(16), binaries)
    (folder / "password").write_text(server.password)
    if user:
        for path in (folder, folder / "password"):
            os.chown(path, user.pw_uid, user.pw_gid)
    process = None
    try:
        access = ["-U", "prefect", "--auth=scram-sha-256", f"--pwfile={folder / 'password'}"]
        make = [binaries / "initdb", "-D", folder / "data", "--no-sync", *access]
        done = subprocess.run(make, cwd=folder, capture_output=True, text=True, **owner)
        assert done.returncode == 0, done.stdout + done.stderr
        listen = ["-h", "127.0.0.1", "-p", str(server.port), "-k", str(folder), "-c", "fsync=off"]
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen(
                [binaries / "postgres", "-D", folder / "data", *listen], cwd=folder, stdout=log, stderr=log, **owner
            )
        ready = [binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(server.port)]
        end = time.monotonic() + 60
        while subprocess.run(ready).returncode != 0:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.1)
        yield server
    finally:
        if process is not None:
            process.send_signal(signal.SIGINT)  # PostgreSQL's fast way to stop: it waits for no client
            process.wait(60)
        shutil.rmtree(folder)
