"""A team's server: PostgreSQL behind it, an auth string before it, a worker, and secrets that must leave no trace."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from chain import ROOT, SMALL, call, command, free_port, reused
from host import Host
from waiting import until

from flows.server import healthy
from tasks.config import FEATURES

STAGES = ("download", "source", "face_crop", "quality", *FEATURES, "metadata", "train", "generate")
PICKLES = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))


@dataclass
class Team:
    """A server of a team and what it keeps to itself."""

    api: str
    folder: Path
    environment: dict[str, str]  # of a client that knows no secret
    server: subprocess.Popen[bytes]
    secrets: dict[str, str] = field(
        default_factory=lambda: {n: secrets.token_hex(12) for n in ("auth", "proxy", "cookie", "link")}
    )

    @property
    def auth(self) -> str:
        return f"admin:{self.secrets['auth']}"

    @property
    def member(self) -> dict[str, str]:
        return {**self.environment, "PREFECT_API_AUTH_STRING": self.auth}

    def ask(self, path: str, **body: object) -> dict:
        words = base64.b64encode(self.auth.encode()).decode()
        headers = {"Authorization": f"Basic {words}", "Content-Type": "application/json"}
        query = urllib.request.Request(
            self.api + path, headers=headers, data=json.dumps(body).encode() if body else None
        )
        with urllib.request.urlopen(query, timeout=30) as answer:
            return json.load(answer)


def start(arguments: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    with open(log, "wb") as file:
        return subprocess.Popen(arguments, env=environment, stdout=file, stderr=file, cwd=ROOT, umask=0)


@pytest.fixture(scope="module")
def team(postgres, tmp_path_factory) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("team")
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    environment = {"PREFECT_API_URL": api, "PREFECT_HOME": str(folder / "home")}
    log = folder / "server.log"
    team = Team(api, folder, environment, None)  # type: ignore[arg-type]
    team.secrets["database"] = postgres.password
    url = f"postgresql+asyncpg://prefect:{postgres.password}@127.0.0.1:{postgres.port}/postgres"
    private = {"PREFECT_SERVER_API_AUTH_STRING": team.auth, "PREFECT_SERVER_DATABASE_CONNECTION_URL": url}
    team.server = start(command("up", "--port", str(port)), {**environment, **private}, log)
    try:
        until(lambda: healthy(api) or team.server.poll() is not None, "the server", seconds=120, every=0.1)
        assert team.server.poll() is None, log.read_text()
        yield team
    finally:
        team.server.terminate()
        team.server.wait(180)


@pytest.fixture(scope="module")
def ran(team, shared_data) -> Iterator[Path]:
    """A run by a deployment: its video comes through a proxy with a password, which a Prefect block holds."""
    clip = (shared_data / "clips" / "good_hdtf_may_512_25.mp4").read_bytes()
    links, cookies = team.folder / "links.txt", team.folder / "cookies.txt"
    links.write_text(f"a http://videos.test/a.mp4?signature={team.secrets['link']}\n")
    cookies.write_text(
        f"# Netscape HTTP Cookie File\nvideos.test\tFALSE\t/\tFALSE\t2000000000\tsession\t{team.secrets['cookie']}\n"
    )
    cookies.chmod(0o600)
    with Host() as proxy:
        proxy.files["http://videos.test/a.mp4"] = clip
        call(command("deploy"), env=team.member)
        address = f"http://me:{team.secrets['proxy']}@{proxy.name}"
        made = "from prefect.blocks.system import Secret; import os; Secret(value=os.environ['ADDRESS']).save('video-proxy')"
        call([sys.executable, "-c", made], env={**team.member, "ADDRESS": address})
        worker = start(command("worker", "--pool", "cpu"), team.member, team.folder / "worker.log")
        try:
            run_dir = team.folder / "run"
            sets = [*SMALL, f"download.lists.links={links}", f"download.cookies={cookies}", "download.keep_free_gib=0"]
            parameters = {"run_dir": str(run_dir), "config": "demo"}
            parameters["overrides"] = [*sets, "download.proxy=$VIDEO_PROXY"]
            pairs = [part for key, value in parameters.items() for part in ("--param", f"{key}={json.dumps(value)}")]
            block = json.dumps({"VIDEO_PROXY": "{{ prefect.blocks.secret.video-proxy }}"})
            deployment = [sys.executable, "-m", "prefect", "deployment", "run", "pipeline/dualforce", "--watch"]
            call([*deployment, *pairs, "--job-variable", f"env={block}"], env=team.member)
            seen = {(request.cookie, request.proxy_authorization) for request in proxy.requests}
            words = base64.b64encode(f"me:{team.secrets['proxy']}".encode()).decode()
            assert seen == {(f"session={team.secrets['cookie']}", f"Basic {words}")}  # the secrets were needed and used
            running = [team.server, worker]
            processes = [p for parent in running for p in psutil.Process(parent.pid).children(recursive=True)]
            (team.folder / "commands.log").write_text("\n".join(" ".join(p.cmdline()) for p in processes))
            yield run_dir
        finally:
            worker.terminate()
            worker.wait(180)


def test_only_this_machine_reaches_the_server(team):
    processes = [psutil.Process(team.server.pid), *psutil.Process(team.server.pid).children(recursive=True)]
    listening = {c.laddr.ip for p in processes for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}
    # and what it writes (SQLite's database) only its user reads, although it was started with umask 0
    masks = {re.search(r"Umask:\s*(\d+)", Path(f"/proc/{p.pid}/status").read_text())[1] for p in processes[1:]}
    assert masks == {"0077"}


def test_binding_beyond_this_machine_needs_an_auth_string(team):
    said = call(command("up", "--host", "0.0.0.0", "--port", str(free_port())), code=2, env=team.environment)
    assert "PREFECT_SERVER_API_AUTH_STRING" in said


def test_without_the_auth_string_nothing_is_served_and_every_command_says_what_is_missing(team, tmp_path):
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{team.api}/admin/version")
    run = ["run", "demo", "--input", str(tmp_path), "--run-dir", str(tmp_path / "run")]
    for arguments in (["deploy"], ["worker"], run):
        said = call(command(*arguments), code=2, env=team.environment)
        assert "asks for an auth string: set PREFECT_API_AUTH_STRING" in said, said
    said = call(command("deploy"), code=2, env={**team.environment, "PREFECT_API_AUTH_STRING": "admin:wrong"})
    assert "refuses the PREFECT_API_AUTH_STRING that is set" in said


@pytest.mark.parametrize("pool", ["cpu", "gpu"])
def test_the_server_takes_the_job_templates_of_the_kubernetes_pools(team, pool):
    template = json.loads((ROOT / "infra" / "kubernetes" / f"{pool}-pool.json").read_text())
    made = team.ask("/work_pools/", name=f"kubernetes-{pool}", type="kubernetes", base_job_template=template)
    assert made["base_job_template"] == template


def test_a_deployment_runs_with_postgresql_behind_the_server(team, ran, postgres):
    assert {name: reused(ran)[name] for name in STAGES} == dict.fromkeys(STAGES, (0, 1))
    joined = "FROM flow_run r JOIN flow f ON f.id = r.flow_id"
    runs = f"SELECT string_agg(f.name || ' ' || r.state_name, ', ' ORDER BY f.name) {joined}"
    flows = sorted((*(stage.replace("_", "-") for stage in STAGES), "pipeline"))
    assert postgres.value(runs) == ", ".join(f"{flow} Completed" for flow in flows)
    # rows of task runs and of logs are written a little after the run has ended
    shards = "SELECT count(*) FROM task_run WHERE name LIKE '%-0000' AND state_name = 'Completed'"
    until(lambda: postgres.value(shards) == str(len(STAGES)), "a task run per shard", seconds=120, every=0.1)
    lines = "SELECT count(*) FROM log WHERE message LIKE '%: 1 accepted%'"
    until(lambda: postgres.value(lines) == str(len(STAGES)), "a line in the log per shard", seconds=120, every=0.1)
    assert "funnel-face-crop" in postgres.value("SELECT string_agg(key, ' ') FROM artifact")


def test_the_command_line_runs_with_the_auth_string_and_reuses_what_the_worker_made(team, ran, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(ran, copy)
    call(command("run", copy, "--only", "face_crop", "--only", "quality"), env=team.member)
    assert {name: reused(copy)[name] for name in ("face_crop", "quality")} == {"face_crop": (1, 1), "quality": (1, 1)}


def test_secrets_leave_no_trace_and_no_pickle_is_left(team, ran, postgres):
    dump = team.folder / "database.sql"
    dump.write_text(postgres.tool("pg_dump", "--inserts"))
    assert "download.proxy=$VIDEO_PROXY" in dump.read_text()  # parameters are in it
    files = [p for p in team.folder.rglob("*") if p.is_file() and p.name not in ("cookies.txt", "links.txt")]
    assert {ran / "run.json", team.folder / "worker.log", team.folder / "commands.log"} <= set(files)
    spoken = {name: (value, base64.b64encode(value.encode()).decode()) for name, value in team.secrets.items()}
    found = [
        (str(p), n) for p in files for n, ways in spoken.items() if any(w.encode() in p.read_bytes() for w in ways)
    ]
    assert found == []
    assert [p for p in files if p.read_bytes().startswith(PICKLES)] == []


def test_what_a_run_writes_is_not_everybodys_to_change(ran):
    written = [ran, *ran.rglob("*")]  # the worker ran with umask 0
    assert [p for p in written if p.stat().st_mode & 0o002] == []
    assert len(written) > 20
