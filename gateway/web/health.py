"""Is this process alive, can it work, and what has it measured."""

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway.web import shapes
from gateway.web.routes import Request, Routes, to_json

routes = Routes("operation")

JSON = "application/json"


@routes.add("GET", "/healthz", streams=JSON, answers={200: shapes.Health})
async def alive(request: Request) -> web.Response:
    """The process answers. Says nothing of the database, so that an outage there restarts nothing here."""
    del request
    return web.Response(body=to_json({"status": "ok"}), content_type=JSON)


@routes.add("GET", "/readyz", streams=JSON, answers={200: shapes.Readiness, 503: shapes.Readiness})
async def ready(request: Request) -> web.Response:
    """Requests can be served: the database is there, with every migration this version needs."""
    checks = await request.front.readiness.checks()
    sound = set(checks.values()) == {"ok"}
    said = {"status": "ready" if sound else "not ready", "checks": checks}
    return web.Response(body=to_json(said), status=200 if sound else 503, content_type=JSON)


@routes.add("GET", "/metrics", streams="text/plain", answers={200: str})
async def metrics(request: Request) -> web.Response:
    """What this process has measured, for Prometheus."""
    del request
    return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
