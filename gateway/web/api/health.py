"""Health checks, and the metrics with a listener of their own.

`metrics_app` serves `/metrics` and `/healthz` in every process that has a metrics port. The API's port serves no
metrics: they describe the tenants and the load to whoever reads them. `metrics_app` has no `/readyz`, since no traffic
is routed to it.
"""

import hmac

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway.domain.errors import Unauthenticated
from gateway.web.http import problems
from gateway.web.http.routing import Request, Routes, encode_json
from gateway.web.http.security_headers import header_hook
from gateway.web.schemas import responses

routes = Routes("operation")

JSON = "application/json"


@routes.add("GET", "/healthz", streams=JSON, responses={200: responses.Health})
async def check_liveness(request: Request) -> web.Response:
    """Check that the process responds.

    The database is not checked: otherwise its outage would make an orchestrator restart the process.
    """
    del request
    return web.Response(body=encode_json({"status": "ok"}), content_type=JSON)


@routes.add("GET", "/readyz", streams=JSON, responses={200: responses.Readiness, 503: responses.Readiness})
async def check_readiness(request: Request) -> web.Response:
    """Check that the process can serve requests: the database is reachable and has all migrations."""
    checks = await request.state.readiness.run_checks()
    is_ready = set(checks.values()) == {"ok"}
    body = {"status": "ready" if is_ready else "not ready", "checks": checks}
    return web.Response(body=encode_json(body), status=200 if is_ready else 503, content_type=JSON)


def metrics_app(token: str | None) -> web.Application:
    """Return an application with `/healthz` and `/metrics` only."""

    async def check_liveness(_: web.Request) -> web.Response:
        return web.Response(body=encode_json({"status": "ok"}), content_type=JSON)

    async def get_metrics(request: web.Request) -> web.Response:
        try:
            return _metrics_response(request, token)
        except Unauthenticated as error:
            return problems.to_response(error)

    app = web.Application()
    app.on_response_prepare.append(header_hook(None))
    app.router.add_get("/healthz", check_liveness)
    app.router.add_get("/metrics", get_metrics)
    return app


def _metrics_response(request: web.Request, token: str | None) -> web.Response:
    """Return the response with the metrics; raises Unauthenticated if the request lacks the token."""
    authorization = request.headers.get("Authorization", "").encode("utf-8", "replace")
    if token is not None and not hmac.compare_digest(authorization, f"Bearer {token}".encode()):
        raise Unauthenticated("this needs the token of GATEWAY_METRICS_TOKEN: Authorization: Bearer ...")
    return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
