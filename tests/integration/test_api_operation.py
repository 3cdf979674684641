"""Health, readiness, metrics, static files, and the responses to failures of the gateway."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import text
from yarl import URL

from gateway.records.postgres.engine import open_engine
from gateway.service.context import Context
from gateway.service.notifications import representations
from gateway.web.http import readiness
from gateway.web.http.readiness import Readiness
from tests.support.api import Api


async def test_health_and_readiness_are_public(api: Api) -> None:
    """Health and readiness need no credential; the metrics are not on the port of the API."""
    assert (await api.call("GET", "/healthz", key=None)).body == {"status": "ok"}
    ready = await api.call("GET", "/readyz", key=None)
    assert (ready.status, ready.body["checks"]) == (200, {"database": "ok", "migrations": "ok"})
    assert (await api.call("GET", "/metrics", key=None)).status == 404


async def test_database_without_migrations_is_not_ready(api: Api) -> None:
    """A database without migrations makes readiness fail."""
    async with api.parts.engine.begin() as conn:
        await conn.execute(text("DELETE FROM alembic_version"))
    response = await api.call("GET", "/readyz", key=None)
    assert (response.status, response.body["checks"]["migrations"]) == (503, "missing: run `gateway migrate`")


async def test_database_of_a_later_version_is_ready(api: Api) -> None:
    """Servers of the previous version stay ready after an upgrade has migrated the database."""
    async with api.parts.engine.begin() as conn:
        await conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    response = await api.call("GET", "/readyz", key=None)
    assert (response.status, response.body["checks"]["migrations"]) == (200, "ok")


async def test_internal_error_reveals_nothing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The response to an internal error has the status 500 and no details."""

    def raise_error(*_: object) -> None:
        raise RuntimeError("the secret is hunter2")

    monkeypatch.setattr(representations, "preview_audience", raise_error)
    response = await api.call("POST", "/v1/audiences/preview", {"audience": {"everyone": True}})
    assert (response.status, response.body["code"]) == (500, "internal_error")
    assert "hunter2" not in str(response.body)
    assert "Traceback" not in str(response.body)


async def test_unreachable_database_gets_503_but_is_healthy(api: Api) -> None:
    """Without the database, requests and readiness get 503, and health still gets 200."""
    await api.parts.engine.dispose()
    url = api.parts.engine.url.set(port=1)
    unreachable = open_engine(url.render_as_string(hide_password=False))
    engine = api.state.context.engine
    api.state.context = replace(api.state.context, engine=unreachable)
    api.state.readiness = Readiness(api.state.context)
    try:
        response = await api.call("GET", "/v1/devices")
        assert (response.status, response.body["code"]) == (503, "unavailable")
        assert int(response.headers["Retry-After"]) > 0
        assert (await api.call("GET", "/readyz", key=None)).status == 503
        assert (await api.call("GET", "/healthz", key=None)).status == 200
    finally:
        api.state.context = replace(api.state.context, engine=engine)


async def test_concurrent_readiness_checks_share_one_query(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Concurrent readiness requests share one check of the database."""
    checks = 0
    check_database = readiness.check_database

    async def counting_check(context: Context) -> dict[str, str]:
        nonlocal checks
        checks += 1
        return await check_database(context)

    monkeypatch.setattr(readiness, "check_database", counting_check)
    responses = await asyncio.gather(*(api.call("GET", "/readyz", key=None) for _ in range(50)))
    assert {response.status for response in responses} == {200}
    assert checks <= 3  # one check per second: a slow machine may take more than a second for all requests


async def test_unknown_paths_and_methods_get_problems(api: Api) -> None:
    """The responses to unknown paths and wrong methods are problem documents."""
    assert (await api.call("GET", "/v1/nothing")).body["code"] == "not_found"
    response = await api.call("PUT", "/v1/devices")
    assert (response.status, response.body["code"]) == (405, "method_not_allowed")
    assert response.headers["Allow"] in response.body["detail"]


async def test_every_response_has_a_request_id(api: Api) -> None:
    """Every response has the header X-Request-Id, with the value of the request if the request has the header."""
    generated = await api.call("GET", "/healthz", key=None)
    assert len(generated.headers["X-Request-Id"]) == 32
    response = await api.call("GET", "/healthz", key=None, headers={"X-Request-Id": "trace-1"})
    assert response.headers["X-Request-Id"] == "trace-1"


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/sdk/webpush.js", "text/javascript"),
        ("/sdk/service-worker.js", "text/javascript"),
        ("/sdk/webpush.d.ts", "text/plain"),
        ("/sample/", "text/html"),
        ("/console/", "text/html"),
        ("/docs/", "text/html"),
    ],
)
async def test_pages_and_scripts_are_served(api: Api, path: str, media_type: str) -> None:
    """Pages and scripts are served with their media type; pages have a content security policy."""
    async with api.http.get(path) as page:
        assert (page.status, page.content_type) == (200, media_type)
        policy = page.headers.get("Content-Security-Policy", "")
        assert ("script-src 'self'" in policy) == (media_type == "text/html")
        assert "unsafe" not in policy


async def test_files_outside_the_pages_are_not_served(api: Api) -> None:
    """A path that leads outside the static folders is not found."""
    for path in ("/sdk/..%2F..%2Fsettings.py", "/console/%2e%2e/sdk/webpush.js", "/sdk/.hidden", "/sdk/"):
        async with api.http.get(URL(path, encoded=True)) as page:
            assert page.status == 404, path
