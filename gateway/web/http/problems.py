"""Error responses as `application/problem+json` (RFC 9457). Stack traces go to the log, never into a response."""

import json
from typing import Any

import structlog
from aiohttp import web

from gateway.domain.errors import (
    GatewayError,
    InternalError,
    MalformedBody,
    MethodNotAllowed,
    NotFound,
    RateLimited,
    Unauthenticated,
    Unavailable,
    UpgradeRequired,
    ValidationError,
)
from gateway.service.context import DATABASE_ERRORS, is_refusal

RETRY_AFTER_S = 5

log = structlog.get_logger(__name__)

# The errors that dispatch turns into a response; any other is a defect.
EXPECTED = (GatewayError, web.RequestPayloadError, *DATABASE_ERRORS)


def answer(error: GatewayError) -> web.Response:
    """Return the response for an error."""
    problem: dict[str, Any] = {
        "type": f"/docs/errors#{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
    }
    if isinstance(error, ValidationError):
        problem["errors"] = [{"pointer": fault.pointer, "detail": fault.detail} for fault in error.errors]
    text = json.dumps(problem, ensure_ascii=False)
    headers: dict[str, str] = {}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = error.allowed
    if isinstance(error, RateLimited):
        headers |= error.headers
    if isinstance(error, UpgradeRequired):
        headers |= {"Upgrade": "websocket", "Connection": "Upgrade"}
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    body = text.encode("utf-8", "replace")
    return web.Response(
        status=error.status, body=body, content_type="application/problem+json", charset="utf-8", headers=headers
    )


def of(error: Exception) -> GatewayError:
    """Convert an exception to the error for the client; unexpected exceptions are logged with their stack trace."""
    match error:
        case GatewayError():
            return error
        case web.RequestPayloadError():
            return MalformedBody("the body is incomplete, or its encoding differs from the headers")
        case web.HTTPNotFound():
            return NotFound("there is nothing at this URL")
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return MethodNotAllowed(error.method, allowed)
        case _ if isinstance(error, DATABASE_ERRORS) and not is_refusal(error):
            log.warning("http.database_unavailable", error=type(error).__name__)
            return Unavailable("the database cannot be reached; try again shortly")
        case _:
            log.exception("http.failed", exc_info=error)
            return InternalError("the error was logged; the request can be tried again")
