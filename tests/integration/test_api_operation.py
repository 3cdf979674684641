"""Health, metrics, and what a caller is told when something is wrong on our side."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import text
from yarl import URL

from gateway.records.postgres.engine import open_engine
from gateway.service.notifications import representations
from gateway.web.http.readiness import Readiness
from tests.support.api import Api


async def test_health_readiness_and_metrics(api: Api) -> None:
    assert (await api.call("GET", "/healthz", key=None)).body == {"status": "ok"}
    ready = await api.call("GET", "/readyz", key=None)
    assert (ready.status, ready.body["checks"]) == (200, {"database": "ok", "migrations": "ok"})
    metrics = await api.call("GET", "/metrics", key=None)
    assert "gateway_attempts_total" in metrics.body


async def test_a_database_without_the_migrations_is_not_ready(api: Api) -> None:
    async with api.parts.engine.begin() as conn:
        await conn.execute(text("DELETE FROM alembic_version"))
    said = await api.call("GET", "/readyz", key=None)
    assert (said.status, said.body["checks"]["migrations"]) == (503, "missing: run `gateway migrate`")


async def test_a_database_of_a_later_version_keeps_nobody_from_serving(api: Api) -> None:
    """An upgrade migrates first: the servers of the version before are ready until they are replaced."""
    async with api.parts.engine.begin() as conn:
        await conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    said = await api.call("GET", "/readyz", key=None)
    assert (said.status, said.body["checks"]["migrations"]) == (200, "ok")


async def test_a_fault_of_ours_tells_the_caller_nothing_of_it(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the secret is hunter2")

    monkeypatch.setattr(representations, "preview", broken)
    said = await api.call("POST", "/v1/audiences/preview", {"audience": {"everyone": True}})
    assert (said.status, said.body["code"]) == (500, "internal_error")
    assert "hunter2" not in str(said.body)
    assert "Traceback" not in str(said.body)


async def test_a_database_that_is_away_is_told_as_such_and_health_says_it_is_not_us(api: Api) -> None:
    await api.parts.engine.dispose()
    url = api.parts.engine.url.set(port=1)
    away = open_engine(url.render_as_string(hide_password=False))
    real = api.state.context.engine
    api.state.context = replace(api.state.context, engine=away)
    api.state.readiness = Readiness(away)
    try:
        said = await api.call("GET", "/v1/devices")
        assert (said.status, said.body["code"]) == (503, "unavailable")
        assert int(said.headers["Retry-After"]) > 0
        assert (await api.call("GET", "/readyz", key=None)).status == 503
        assert (await api.call("GET", "/healthz", key=None)).status == 200
    finally:
        api.state.context = replace(api.state.context, engine=real)


async def test_however_many_ask_whether_it_is_ready_one_looks(api: Api) -> None:
    looks = 0
    look = api.state.readiness._check

    async def counted() -> dict[str, str]:
        nonlocal looks
        looks += 1
        return await look()

    api.state.readiness._check = counted  # type: ignore[method-assign]
    answers = await asyncio.gather(*(api.call("GET", "/readyz", key=None) for _ in range(50)))
    assert {answer.status for answer in answers} == {200}
    assert looks <= 3, "a slow machine may take more than a second for them"


async def test_wrong_addresses_and_methods_are_problems_too(api: Api) -> None:
    assert (await api.call("GET", "/v1/nothing")).body["code"] == "not_found"
    said = await api.call("PUT", "/v1/devices")
    assert (said.status, said.body["code"]) == (405, "method_not_allowed")
    assert said.headers["Allow"] in said.body["detail"]


async def test_every_answer_names_its_request(api: Api) -> None:
    ours = await api.call("GET", "/healthz", key=None)
    assert len(ours.headers["X-Request-Id"]) == 32
    theirs = await api.call("GET", "/healthz", key=None, headers={"X-Request-Id": "trace-1"})
    assert theirs.headers["X-Request-Id"] == "trace-1"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/sdk/webpush.js", "text/javascript"),
        ("/sdk/service-worker.js", "text/javascript"),
        ("/sdk/webpush.d.ts", "text/plain"),
        ("/sample/", "text/html"),
        ("/console/", "text/html"),
        ("/docs/", "text/html"),
    ],
)
async def test_pages_and_scripts_are_served(api: Api, path: str, kind: str) -> None:
    async with api.http.get(path) as page:
        assert (page.status, page.content_type) == (200, kind)
        policy = page.headers.get("Content-Security-Policy", "")
        assert ("script-src 'self'" in policy) == (kind == "text/html")
        assert "unsafe" not in policy


async def test_nothing_outside_the_pages_is_served(api: Api) -> None:
    for path in ("/sdk/..%2F..%2Fsettings.py", "/console/%2e%2e/sdk/webpush.js", "/sdk/.hidden", "/sdk/"):
        async with api.http.get(URL(path, encoded=True)) as page:
            assert page.status == 404, path
