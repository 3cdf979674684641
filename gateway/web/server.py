"""Build the web application: all routes, the pages, and the middleware for every request."""

import logging
import time
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import http_exceptions, web

from gateway import metrics, tracing
from gateway.domain import ids
from gateway.web import dispatch
from gateway.web.api import (
    alerts,
    applications,
    audit,
    campaigns,
    categories,
    deliveries,
    device_import,
    devices,
    events,
    feeds,
    health,
    inbox,
    live,
    notifications,
    receipts,
    reminders,
    segments,
    session,
    statistics,
    templates,
    triggers,
    webhooks,
)
from gateway.web.http import problems
from gateway.web.http.routing import Route, WebState, encode_json
from gateway.web.http.security_headers import header_hook
from gateway.web.pages import static_files
from gateway.web.schemas import openapi

# The routes of all resources.
ROUTES: tuple[Route, ...] = (
    *applications.routes,
    *audit.routes,
    *device_import.routes,
    *devices.routes,
    *inbox.routes,
    *live.routes,
    *categories.routes,
    *segments.routes,
    *templates.routes,
    *notifications.routes,
    *campaigns.routes,
    *reminders.routes,
    *alerts.routes,
    *deliveries.routes,
    *statistics.routes,
    *receipts.routes,
    *triggers.routes,
    *events.routes,
    *webhooks.routes,
    *feeds.routes,
    *session.routes,
    *health.routes,
)

# The key under which aiohttp's request stores the request id.
REQUEST_ID = web.RequestKey("request_id", str)
# Maximum length of a request id that a client sends.
MAX_REQUEST_ID_LENGTH = 128

# aiohttp's errors for requests that are not valid HTTP.
PROTOCOL_ERRORS = (http_exceptions.HttpProcessingError, web.RequestPayloadError)
# The kinds of ids that the access log contains, by name.
LOGGED_IDS = {"notification": ids.NOTIFICATION, "event": ids.EVENT, "reminder": ids.REMINDER}

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _shorten_protocol_errors(record: logging.LogRecord) -> bool:
    """Reduce the log record of a request that is not valid HTTP to the class of the error.

    The content of such a request is untrusted and may be large.
    """
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, PROTOCOL_ERRORS):
        record.msg, record.args = "http.unreadable: %s", (type(error).__name__,)
        record.exc_info = record.exc_text = None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


def build(state: WebState, *, pages: bool = True) -> web.Application:
    """Build the application. Run it with a `protocol.Runner`.

    Args:
        state: the objects that the handlers share.
        pages: whether to serve the console, the SDK, the documentation and the OpenAPI document.
    """
    logging.getLogger("aiohttp.server").addFilter(_shorten_protocol_errors)
    app = web.Application(middlewares=[_observe])
    browser_paths = set()
    for route in ROUTES:
        handle = dispatch.create_handler(state, route)
        # By default a path parameter of aiohttp does not match braces, which user ids may contain.
        path = route.path.replace("}", ":[^/]+}")
        if route.method == "GET":
            app.router.add_get(path, handle, allow_head=route.streams is None, expect_handler=dispatch.defer_continue)
        else:
            app.router.add_route(route.method, path, handle, expect_handler=dispatch.defer_continue)
        if route.browser and path not in browser_paths:
            browser_paths.add(path)
            app.router.add_route("OPTIONS", path, _preflight)
    if pages:
        static_files.add_routes(app, encode_json(openapi.document(ROUTES)), state.map_tiles)

    async def close_streams(_: web.Application) -> None:
        await state.inbox_notifier.close()
        for task in state.open_streams:
            task.cancel()

    app.on_response_prepare.append(_add_request_id)
    app.on_response_prepare.append(header_hook(state.context.public_url))
    app.on_shutdown.append(close_streams)
    return app


async def _preflight(request: web.Request) -> web.Response:
    """Answer a CORS preflight request. Any origin is allowed here: dispatch checks the origins of the key."""
    del request
    headers = {
        "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE",
        "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, If-None-Match",
        "Access-Control-Max-Age": "86400",
    }
    return web.Response(status=204, headers=headers)


@web.middleware
async def _observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Assign a request id; log, measure and trace the request; convert exceptions to problem documents."""
    request_id = request.headers.get("X-Request-Id", "")
    if not (request_id.isascii() and request_id.isprintable() and 0 < len(request_id) <= MAX_REQUEST_ID_LENGTH):
        request_id = ids.new_id().hex
    request[REQUEST_ID] = request_id
    started_at = time.perf_counter()
    route = _route(request)
    attributes = {"http.request.method": request.method, "http.route": route, "request.id": request_id}
    parent = request.headers.get("traceparent")
    request_span = tracing.span(f"{request.method} {route}", attributes, kind="server", parent=parent)
    with (
        request_span as span,
        structlog.contextvars.bound_contextvars(request_id=request_id, **tracing.log_fields(span)),
    ):
        try:
            response = await handler(request)
        except Exception as error:  # noqa: BLE001 - no stack trace may reach a client
            response = problems.to_response(problems.from_exception(error))
        seconds = time.perf_counter() - started_at
        log.info(
            "http.request",
            method=request.method,
            route=route,
            status=response.status,
            ms=round(seconds * 1000, 1),
            **_logged_id(request),
        )
        # The duration of a stream depends on its client, so it is not recorded.
        duration_s = seconds if isinstance(response, web.Response) else None
        tracing.set_response_status(span, response.status)
        metrics.record_response(request.method, route, response.status, duration_s)
    return response


async def _add_request_id(request: web.Request, response: web.StreamResponse) -> None:
    # aiohttp itself answers some requests, such as those with an unknown Expect. They have no request id yet.
    response.headers["X-Request-Id"] = request.get(REQUEST_ID) or ids.new_id().hex


def _logged_id(request: web.Request) -> dict[str, str]:
    """Return the id of the created or requested resource, by which to find later log events about it."""
    id_ = request.get(dispatch.CREATED_ID) or request.match_info.get("notification_id")
    if not isinstance(id_, str):
        return {}
    return {f"{name}_id": id_ for name, kind in LOGGED_IDS.items() if ids.parse(kind, id_) is not None}


def _route(request: web.Request) -> str:
    """Return the path template of the route. The path itself may contain a user id, which must not be logged."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "none"
