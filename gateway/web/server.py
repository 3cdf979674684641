"""The web side put together: every route, the pages, and what is done around each request."""

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
from gateway.web.http.routing import Route, WebState, to_json
from gateway.web.http.security_headers import protecting
from gateway.web.pages import static_files as files
from gateway.web.schemas import openapi

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

REQUEST_ID = web.RequestKey("request_id", str)
MAX_REQUEST_ID_LENGTH = 128

UNREADABLE = (http_exceptions.HttpProcessingError, web.RequestPayloadError)
ABOUT = {"notification": ids.NOTIFICATION, "event": ids.EVENT, "reminder": ids.REMINDER}

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _in_a_word(record: logging.LogRecord) -> bool:
    """What cannot be read as HTTP comes from strangers, as often as they like, and may hold anything: of it the log has
    the kind of fault alone."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, UNREADABLE):
        record.msg, record.args = "http.unreadable: %s", (type(error).__name__,)
        record.exc_info = record.exc_text = None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


def build(state: WebState, *, pages: bool = True) -> web.Application:
    """To be run by a `connection.Runner`. `pages`: with the document, the console and the SDK."""
    logging.getLogger("aiohttp.server").addFilter(_in_a_word)
    app = web.Application(middlewares=[_watched])
    browser_paths = set()
    for route in ROUTES:
        handle = dispatch.create_handler(state, route)
        # Of itself aiohttp takes no brace in what is named, and people's ids may have them.
        path = route.path.replace("}", ":[^/]+}")
        if route.method == "GET":
            app.router.add_get(path, handle, allow_head=route.streams is None, expect_handler=dispatch.defer_continue)
        else:
            app.router.add_route(route.method, path, handle, expect_handler=dispatch.defer_continue)
        if route.browser and path not in browser_paths:
            browser_paths.add(path)
            app.router.add_route("OPTIONS", path, _preflight)
    if pages:
        files.add(app, to_json(openapi.document(ROUTES)), state.map_tiles)

    async def cut_off(_: web.Application) -> None:
        await state.inbox_notifier.close()
        for following in state.open_streams:
            following.cancel()

    app.on_response_prepare.append(_name)
    app.on_response_prepare.append(protecting(state.context.public_url))
    app.on_shutdown.append(cut_off)
    return app


async def _preflight(request: web.Request) -> web.Response:
    """Any page may ask. Whether a key may be used from there is decided when it is used (no cookies are involved)."""
    del request
    allowed = {
        "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE",
        "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, If-None-Match",
        "Access-Control-Max-Age": "86400",
    }
    return web.Response(status=204, headers=allowed)


@web.middleware
async def _watched(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request an id, log it, and turn whatever went wrong into a problem."""
    given = request.headers.get("X-Request-Id", "")
    request_id = given if given.isascii() and given.isprintable() and 0 < len(given) <= MAX_REQUEST_ID_LENGTH else ""
    request_id = request_id or ids.new_id().hex
    request[REQUEST_ID] = request_id
    began = time.perf_counter()
    route = _route(request)
    asked = {"http.request.method": request.method, "http.route": route, "request.id": request_id}
    above = request.headers.get("traceparent")
    traced = tracing.span(f"{request.method} {route}", asked, kind="server", parent=above)
    with traced as span, structlog.contextvars.bound_contextvars(request_id=request_id, **tracing.log_fields(span)):
        try:
            response = await handler(request)
        except Exception as error:  # noqa: BLE001 - the last line: no stack trace ever reaches a caller
            response = problems.answer(problems.of(error))
        seconds = time.perf_counter() - began
        log.info(
            "http.request",
            method=request.method,
            route=route,
            status=response.status,
            ms=round(seconds * 1000, 1),
            **_about(request),
        )
        timed = seconds if isinstance(response, web.Response) else None
        tracing.set_response_status(span, response.status)
        metrics.record_response(request.method, route, response.status, timed)
    return response


async def _name(request: web.Request, response: web.StreamResponse) -> None:
    # Without one: what is answered before anybody of ours is asked, as an Expect that nobody can meet.
    response.headers["X-Request-Id"] = request.get(REQUEST_ID) or ids.new_id().hex


def _about(request: web.Request) -> dict[str, str]:
    """What was made, or the notification asked for: what comes of it later is logged with the same id."""
    id_ = request.get(dispatch.CREATED_ID) or request.match_info.get("notification_id")
    if not isinstance(id_, str):
        return {}
    return {f"{name}_id": id_ for name, kind in ABOUT.items() if ids.parse(kind, id_) is not None}


def _route(request: web.Request) -> str:
    """The address without what it names, which may be a person."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "none"
