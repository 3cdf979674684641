"""Health checks and metrics.

`metrics_app` serves them in processes without an API: workers and relays. They have no `/readyz`, since they receive no
requests that a load balancer routes.
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


@routes.add("GET", "/metrics", streams="text/plain", responses={200: str})
async def get_metrics(request: Request) -> web.Response:
    """Get the metrics of this process for Prometheus. A token is required if GATEWAY_METRICS_TOKEN is set."""
    return _metrics_response(request.http, request.state.metrics_token)


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
