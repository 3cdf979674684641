"""What is installed is what was locked, its licences are listed and allowed, and what is known against it is told."""

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
from ops.locked import LOCK, Locked, canonical, locked

ROOT = Path(__file__).parents[2]
Serve = Callable[[Any], str]


def test_every_locked_dependency_is_a_version_with_its_hashes() -> None:
    packages = locked()
    assert len(packages) > 90
    assert len({package[:2] for package in packages}) == len(packages)
    assert all(package.hashes for package in packages)
    entries = [line for line in LOCK.read_text().splitlines() if line and not line.startswith((" ", "#"))]
    assert len(entries) == len(packages)  # nothing by address, by file or without a version


def test_everything_that_the_project_asks_for_is_locked_in_a_version_it_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = [one for extra in project["project"]["optional-dependencies"].values() for one in extra]
    asked = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"], *extras]
    for requirement in map(Requirement, asked):
        versions = [package.version for package in locked() if package.name == canonical(requirement.name)]
        assert versions, requirement
        assert all(requirement.specifier.contains(version, prereleases=True) for version in versions), requirement


def test_only_what_has_a_locked_hash_is_installed() -> None:
    setup = (ROOT / "ops" / "run" / "setup").read_text()
    assert "--require-hashes --requirement" in setup


def test_every_locked_dependency_is_listed_with_a_licence_that_is_allowed() -> None:
    rows = licences.rows()
    assert [row[:2] for row in rows] == [(package.name, package.version) for package in locked()]
    for name, _, said in rows:
        assert set(licences.parts(said)) <= licences.ALLOWED, name


@pytest.mark.parametrize("said", ["GPL-3.0-or-later", "MIT AND AGPL-3.0-only", "LGPL-2.1", "Proprietary", None])
def test_a_licence_that_binds_whoever_uses_us_is_refused(said: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(licences, "_said", lambda _: [said] if said else [])
    monkeypatch.setattr(licences, "rows", list)
    with pytest.raises(licences.Unknown):
        licences.licence(Locked("pytest", version("pytest"), ()))


@pytest.fixture
def serve() -> Iterator[Serve]:
    """An advisory service that gives one answer."""
    servers = []

    def serving(answer: Any) -> str:
        class Answering(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                said = answer(asked) if callable(answer) else answer
                body = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Answering)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield serving
    for server in servers:
        server.shutdown()
        server.server_close()


def run(service: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["audit", "--service", service])
    return audit.main()


def of_pywebpush(asked: Any) -> Any:
    assert all(query["package"]["ecosystem"] == "PyPI" and query["version"] for query in asked["queries"])
    known = {"vulns": [{"id": "GHSA-xxxx"}]}
    return {"results": [known if q["package"]["name"] == "pywebpush" else {} for q in asked["queries"]]}


def test_a_known_vulnerability_fails_the_audit_unless_it_is_accepted_with_a_reason(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service = serve(of_pywebpush)
    assert run(service, monkeypatch) == 1
    assert "audit: pywebpush " in (said := capsys.readouterr().err)
    assert "GHSA-xxxx" in said
    monkeypatch.setitem(audit.ACCEPTED, "GHSA-xxxx", "only for servers that we are not")
    assert run(service, monkeypatch) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("answer", [b"not JSON", b"[]", b'{"results": []}', b'{"results": null}', b""])
def test_an_advisory_service_that_cannot_be_used_is_one_line_and_no_failure(
    answer: bytes, serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(serve(answer), monkeypatch) == 0
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_audit_without_a_network_is_one_line_and_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("http://127.0.0.1:1/", monkeypatch) == 0
    assert capsys.readouterr().err.startswith("audit: not done, the advisory service cannot be reached")
