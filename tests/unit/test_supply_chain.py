"""The lock file, the licences of the dependencies, and the audit of known vulnerabilities."""

import json
import threading
import tomllib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from ops import audit, licences
from ops.locked import LOCK, LockedPackage, canonical, read_lock

ROOT = Path(__file__).parents[2]
# Starts a server with this response and returns its URL.
Serve = Callable[[Any], str]


def test_lock_file_has_exact_versions_with_hashes() -> None:
    """Every line of the lock file that is no hash or comment is a package with an exact version and hashes."""
    packages = read_lock()
    assert len(packages) > 90
    assert len({package[:2] for package in packages}) == len(packages)
    assert all(package.hashes for package in packages)
    entries = [line for line in LOCK.read_text().splitlines() if line and not line.startswith((" ", "#"))]
    assert len(entries) == len(packages)  # so no entry is a URL or a path, or lacks a version


def test_every_requirement_is_locked_in_an_allowed_version() -> None:
    """Each requirement of pyproject.toml is locked in a version that satisfies it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = [name for extra in project["project"]["optional-dependencies"].values() for name in extra]
    requirements = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"], *extras]
    for requirement in map(Requirement, requirements):
        versions = [package.version for package in read_lock() if package.name == canonical(requirement.name)]
        assert versions, requirement
        assert all(requirement.specifier.contains(version, prereleases=True) for version in versions), requirement


def test_setup_requires_hashes() -> None:
    """The set-up script calls pip with --require-hashes, so that it installs only packages in the lock file."""
    setup = (ROOT / "ops" / "run" / "setup").read_text()
    assert "--require-hashes --requirement" in setup


def test_licence_list_matches_the_lock_file() -> None:
    """Every locked dependency is listed with an allowed licence."""
    rows = licences.read_rows()
    assert [row[:2] for row in rows] == [(package.name, package.version) for package in read_lock()]
    for name, _, licence in rows:
        assert set(licences.split_expression(licence)) <= licences.ALLOWED, name


@pytest.mark.parametrize("licence", ["GPL-3.0-or-later", "MIT AND AGPL-3.0-only", "LGPL-2.1", "Proprietary", None])
def test_copyleft_or_missing_licence_is_rejected(licence: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with a copyleft, proprietary or missing licence raises UnknownLicence."""
    monkeypatch.setattr(licences, "declared_licences", lambda _: [licence] if licence else [])
    monkeypatch.setattr(licences, "read_rows", list)
    with pytest.raises(licences.UnknownLicence):
        licences.find_licence(LockedPackage("pytest", version("pytest"), ()))


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that starts an advisory service with a fixed response."""
    servers = []

    def start(response: Any) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                result = response(query) if callable(response) else response
                body = result if isinstance(result, bytes) else json.dumps(result).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def run_audit(service: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the audit against a service and return its exit status."""
    monkeypatch.setattr("sys.argv", ["audit", "--service", service])
    return audit.main()


def respond_for_pywebpush(request: Any) -> Any:
    """Return one advisory for pywebpush and none for the other packages."""
    assert all(query["package"]["ecosystem"] == "PyPI" and query["version"] for query in request["queries"])
    advisory = {"vulns": [{"id": "GHSA-xxxx"}]}
    return {"results": [advisory if query["package"]["name"] == "pywebpush" else {} for query in request["queries"]]}


def test_audit_fails_for_an_advisory_unless_accepted(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An advisory for a locked package fails the audit and is printed; in ACCEPTED it is ignored."""
    service = serve(respond_for_pywebpush)
    assert run_audit(service, monkeypatch) == 1
    assert "audit: pywebpush " in (error_output := capsys.readouterr().err)
    assert "GHSA-xxxx" in error_output
    monkeypatch.setitem(audit.ACCEPTED, "GHSA-xxxx", "affects servers of another kind")
    assert run_audit(service, monkeypatch) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("response", [b"not JSON", b"[]", b'{"results": []}', b'{"results": null}', b""])
def test_audit_ignores_an_invalid_response(
    response: bytes, serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The audit reports an invalid response of the advisory service in one line and succeeds."""
    assert run_audit(serve(response), monkeypatch) == 0
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_audit_without_network_succeeds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a network the audit prints one line and succeeds."""
    assert run_audit("http://127.0.0.1:1/", monkeypatch) == 0
    assert capsys.readouterr().err.startswith("audit: not done, the advisory service cannot be reached")
