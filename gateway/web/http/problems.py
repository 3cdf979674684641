"""Error responses as `application/problem+json` (RFC 9457). Stack traces are logged, and never sent to a client."""

import json

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
from gateway.domain.json_object import JsonObject
from gateway.service.context import DATABASE_ERRORS, is_refusal

# The value of Retry-After in responses with status 503.
RETRY_AFTER_S = 5

log = structlog.get_logger(__name__)

# The errors that dispatch converts to a response. Any other exception is a defect of the gateway.
EXPECTED_ERRORS = (GatewayError, web.RequestPayloadError, *DATABASE_ERRORS)


def to_response(error: GatewayError) -> web.Response:
    """Return the response for an error, as a problem document."""
    problem: JsonObject = {
        "type": f"/docs/errors#{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
    }
    if isinstance(error, ValidationError):
        problem["errors"] = [{"pointer": field.pointer, "detail": field.detail} for field in error.errors]
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


def from_exception(error: Exception) -> GatewayError:
    """Convert an exception to the error for the client. Log unexpected exceptions with their stack traces."""
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
