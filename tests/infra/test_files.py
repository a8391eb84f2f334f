"""The files of infra/, each against the schema or the program that reads it."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from chain import ROOT, call
from prefect.utilities.templating import apply_values

import dualforce_model
from dualforce_model import config as configs
from dualforce_model.store import ledger, write_json
from flows import server
from tasks.config import RunConfig
from tasks.run import create
from tasks.stages import STAGES
from tasks.train import folder

INFRA = ROOT / "infra"
TOOLS = Path(sys.executable).parent
COMPOSE = INFRA / "docker" / "compose.yaml"
VERSION = dualforce_model.__version__
IMAGE = f"registry.example.org/dualforce:{VERSION}"
POOLS = {name: json.loads((INFRA / "kubernetes" / f"{name}-pool.json").read_text()) for name in ("cpu", "gpu")}


def complaints(*command: str | Path) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    said = (done.stdout + done.stderr).strip()
    return said if done.returncode else ""


def test_the_compose_file_is_one_by_the_specification(tmp_path):
    checker = (TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec")
    assert complaints(*checker, COMPOSE) == ""
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text().replace("healthcheck:", "health_check:"))
    assert "health_check" in complaints(*checker, wrong)


def test_the_compose_file_opens_nothing_and_pins_everything():
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    assert set(services) >= {"postgres", "server", "services", "cpu-worker", "gpu-worker", "tensorboard"}
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert sorted(ports) == ["127.0.0.1:4200:4200", "127.0.0.1:6006:6006"]
    for name, service in services.items():
        assert re.fullmatch(r"[\w./-]+:\d+\.\d+(\.\d+)?(-\w+)?", service["image"]), name  # a version, never `latest`
        assert "test" in service["healthcheck"] or service["healthcheck"] == {"disable": True}, name
        assert name in ("postgres", "redis") or service["image"] == f"dualforce:{VERSION}"
    assert "PREFECT_SERVER_API_AUTH_STRING" in services["server"]["environment"]
    assert services["gpu-worker"]["shm_size"]


def test_no_secret_is_written_into_a_file_and_every_variable_is_explained():
    text = COMPOSE.read_text()
    assert re.findall(r"(?im)^.*(?:password|auth_string|redis_url).*$", text)
    for line in re.findall(r"(?im)^ *\w*(?:PASSWORD|AUTH_STRING|AUTH|_URL): (.*)$", text):
        assert "${" in line or line.startswith("http"), line
    explained = set(re.findall(r"(?m)^(\w+)=", (INFRA / "docker" / ".env.example").read_text()))
    assert set(re.findall(r"(?<!\$)\$\{(\w+)", text)) == explained
    for example in INFRA.rglob("*.env.example"):
        assert not re.search(r"(?m)^\w*(?:PASSWORD|AUTH_STRING)=.+", example.read_text()), example
    ignored = subprocess.run(["git", "check-ignore", "-q", "infra/docker/.env"], cwd=ROOT)
    assert ignored.returncode == 0


def test_the_image_is_described_as_it_should_be_and_leaves_root():
    assert complaints(TOOLS / "hadolint", INFRA / "docker" / "Dockerfile") == ""
    lines = (INFRA / "docker" / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER ")] == ["USER 1001"]
    copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1] if "--" not in name}
    wanted = (ROOT / ".dockerignore").read_text()
    assert all(name == "." or f"!{name.partition('/')[0]}\n" in wanted for name in copied)
    assert f"torch=={pinned('torch')}" in "\n".join(lines)
    said = dict(re.findall(r"(\w+)=([\w.]+)", "\n".join(lines).partition("ENV ")[2].partition("\nUSER")[0]))
    assert said == {"PYTHONUNBUFFERED": "1", **server.QUIET}  # as the commands of `dualforce` set it


def pinned(package: str) -> str:
    return dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)[
        package
    ]


@pytest.mark.parametrize("name", ["dualforce.yaml", "deploy.yaml"])
def test_the_cluster_accepts_the_manifests(name):
    manifests = list(yaml.safe_load_all((INFRA / "kubernetes" / name).read_text()))
    for manifest in manifests:
        kubernetes_validate.validate(manifest, "1.37", strict=True)
    images = [
        c["image"]
        for m in manifests
        if m["kind"] in ("Deployment", "Job")
        for c in m["spec"]["template"]["spec"]["containers"]
    ]
    assert images == [IMAGE]


def job_of(pool: str, **values: object) -> dict:
    """The job that the worker of a pool makes: its template with the pool's defaults and a run's own values."""
    template = POOLS[pool]
    defaults = {name: spec["default"] for name, spec in template["variables"]["properties"].items()}
    command = ["prefect", "flow-run", "execute"]
    run = {"name": "run-train", "command": command, "labels": {"a": "b"}, "env": [{"name": "A", "value": "b"}]}
    return apply_values(template["job_configuration"], {**defaults, **run, **values})["job_manifest"]


@pytest.mark.parametrize("pool", POOLS)
def test_the_cluster_accepts_the_jobs_of_a_pool(pool):
    job = job_of(pool)
    spec = job["spec"]["template"]["spec"]
    # Prefect's worker insists on these two here, where the cluster drops them
    assert (spec.pop("parallelism"), spec.pop("completions")) == (1, 1)
    kubernetes_validate.validate(job, "1.37", strict=True)
    (container,) = spec["containers"]
    assert container["image"] == IMAGE
    assert {"name": "data", "mountPath": "/data"} in container["volumeMounts"]
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert spec["volumes"][1]["emptyDir"]["medium"] == "Memory"
    assert spec["securityContext"]["runAsNonRoot"] is True
    gpus = job_of(pool, gpus="4")["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"].get(
        "nvidia.com/gpu"
    )
    assert gpus == {"cpu": None, "gpu": "4"}[pool]
    job["spec"]["template"]["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="volumeMount"):
        kubernetes_validate.validate(job, "1.37", strict=True)


def test_the_two_pools_differ_by_the_gpus_and_by_sizes():
    cpu, gpu = (json.loads(json.dumps(POOLS[name])) for name in ("cpu", "gpu"))
    assert gpu["variables"]["properties"].pop("gpus")["default"] == "1"
    for template in (cpu, gpu):
        template["variables"].pop("description")
        for name in ("cpu", "memory", "shared_memory"):
            template["variables"]["properties"][name].pop("default")
        spec = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
        spec.pop("tolerations")
        spec["containers"][0]["resources"]["limits"].pop("nvidia.com/gpu", None)
    assert cpu == gpu


def test_the_helm_values_agree_with_each_other():
    server, cpu, gpu = (
        yaml.safe_load((INFRA / "helm" / f"{name}.yaml").read_text()) for name in ("server", "worker", "worker-gpu")
    )
    for image in (server["global"]["prefect"]["image"], cpu["worker"]["image"]):
        assert f"{image['repository']}:{image['prefectTag']}" == IMAGE
    assert server["server"]["basicAuth"] == {"enabled": True, "existingSecret": "dualforce-auth"}
    assert cpu["worker"]["selfHostedServerApiConfig"]["apiUrl"].startswith(
        f"http://{server['fullnameOverride']}.dualforce."
    )
    assert (cpu["worker"]["config"]["workPool"], gpu["worker"]["config"]["workPool"]) == ("cpu", "gpu")
    assert cpu["fullnameOverride"] != gpu["fullnameOverride"]


def test_systemd_accepts_the_units(tmp_path):
    for unit in (INFRA / "systemd").glob("*.[st]*"):
        # the units name the place where the docs install; the program they start has to be there
        text = unit.read_text().replace("/opt/dualforce/.venv/bin", str(TOOLS)).replace("/opt/dualforce", str(ROOT))
        (tmp_path / unit.name.replace("@", "@cpu")).write_text(text)
    units = sorted(tmp_path.iterdir())
    assert len(units) == 4
    verify = ("systemd-analyze", "verify", "--man=no")
    own = [line for line in said(*verify, *units).splitlines() if "dualforce" in line]
    assert own == []
    units[0].write_text(units[0].read_text().replace("ExecStart=", "ExecSart="))
    assert "'ExecSart'" in said(*verify, units[0])


def said(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True).stderr


def test_the_slurm_script_finds_the_training_of_a_run(tmp_path):
    """The part of it that is ours; SLURM itself ran it by hand, see infra/README.md."""
    script = (INFRA / "slurm" / "train.sbatch").read_text()
    code = re.search(r"<<'PYTHON'\n(.*?)\nPYTHON\n", script, re.DOTALL)[1]
    run = create(tmp_path / "run", configs.build(RunConfig, {"train": {"steps": 7}}))
    ledger.rewrite(run.dir, "metadata", [])
    write_json(run.dir / "metadata.json", {"identity": "of the dataset"})
    out = Path(call([sys.executable, "-c", code, str(run.dir), "train"]).strip())
    assert out == folder(run.dir, *STAGES["train"].plan(run))
    assert json.loads((out / "train.json").read_text()) == configs.to_dict(run.config.train)


def test_tensorboard_starts():
    assert complaints(TOOLS / "tensorboard", "--version_tb") == ""


def test_shell_scripts_are_clean():
    scripts = [*INFRA.rglob("*.sh"), *INFRA.rglob("*.sbatch"), ROOT / ".ci" / "run"]
    assert len(scripts) >= 4
    assert complaints(TOOLS / "shellcheck", *scripts) == ""


def test_no_flow_and_no_task_keeps_its_result():
    calls = [
        node
        for folder in ("flows", "tasks")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("flow", "task")
    ]
    assert len(calls) >= 4
    for made in calls:
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in made.keywords}
        assert given.get("persist_result") == "False", ast.unparse(made)


def test_the_licence_of_every_direct_dependency_is_listed():
    listed = (ROOT / "docs" / "licences.md").read_text().lower().replace("_", "-")
    text = (ROOT / "pyproject.toml").read_text().partition("dependencies = [")[2].partition("\n]")[0]
    names = re.findall(r'^ +"([\w.-]+)', text, re.MULTILINE)
    assert len(names) > 20
    assert [name for name in names if f"| {name.lower()} |" not in listed] == []


def test_the_readme_names_every_file():
    text = (INFRA / "README.md").read_text()
    folders = ("docker", "helm", "kubernetes", "slurm", "systemd")
    files = [f.relative_to(INFRA) for folder in folders for f in (INFRA / folder).iterdir() if f.name != ".env"]
    assert len(files) > 15
    assert [str(f) for f in files if f"`{f}`" not in text] == []
