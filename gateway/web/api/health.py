"""Is this process alive, can it work, and what has it measured.

`beside` is for processes that serve nothing else: workers and relays. They have no `/readyz`, since nothing is sent to
them: a worker without its queue takes no job.
"""

import hmac

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway.domain.errors import Unauthenticated
from gateway.web.http import problems
from gateway.web.http.routing import Request, Routes, to_json
from gateway.web.http.security_headers import protecting
from gateway.web.schemas import responses

routes = Routes("operation")

JSON = "application/json"


@routes.add("GET", "/healthz", streams=JSON, responses={200: responses.Health})
async def alive(request: Request) -> web.Response:
    """The process answers. Says nothing of the database, so that an outage there restarts nothing here."""
    del request
    return web.Response(body=to_json({"status": "ok"}), content_type=JSON)


@routes.add("GET", "/readyz", streams=JSON, responses={200: responses.Readiness, 503: responses.Readiness})
async def ready(request: Request) -> web.Response:
    """Requests can be served: the database is there, with every migration this version needs."""
    checks = await request.state.readiness.checks()
    sound = set(checks.values()) == {"ok"}
    said = {"status": "ready" if sound else "not ready", "checks": checks}
    return web.Response(body=to_json(said), status=200 if sound else 503, content_type=JSON)


@routes.add("GET", "/metrics", streams="text/plain", responses={200: str})
async def metrics(request: Request) -> web.Response:
    """What this process has measured, for Prometheus; with a token where the settings name one."""
    return _measured(request.http, request.state.metrics_token)


def metrics_app(token: str | None) -> web.Application:
    """`/healthz` and `/metrics` alone."""

    async def alive(_: web.Request) -> web.Response:
        return web.Response(body=to_json({"status": "ok"}), content_type=JSON)

    async def metrics(request: web.Request) -> web.Response:
        try:
            return _measured(request, token)
        except Unauthenticated as refusal:
            return problems.answer(problems.of(refusal))

    app = web.Application()
    app.on_response_prepare.append(protecting(None))
    app.router.add_get("/healthz", alive)
    app.router.add_get("/metrics", metrics)
    return app


def _measured(request: web.Request, token: str | None) -> web.Response:
    """Raises Unauthenticated."""
    said = request.headers.get("Authorization", "").encode("utf-8", "replace")
    if token is not None and not hmac.compare_digest(said, f"Bearer {token}".encode()):
        raise Unauthenticated("this needs the token that GATEWAY_METRICS_TOKEN names: Authorization: Bearer ...")
    return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
