"""Every error as `application/problem+json` (RFC 9457). A stack trace goes to the log, never to the caller."""

import json
from typing import Any

import structlog
from aiohttp import web
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

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
from gateway.records.postgres.engine import is_refusal

RETRY_AFTER_S = 5

log = structlog.get_logger(__name__)

DATABASE_DOWN = (DBAPIError, PoolTimeout, OSError, TimeoutError)
EXPECTED = (GatewayError, web.RequestPayloadError, *DATABASE_DOWN)


def answer(refusal: GatewayError) -> web.Response:
    problem: dict[str, Any] = {
        "type": f"/docs/errors#{refusal.code}",
        "title": refusal.title,
        "status": refusal.status,
        "detail": refusal.detail,
        "code": refusal.code,
    }
    if isinstance(refusal, ValidationError):
        problem["errors"] = [{"pointer": fault.pointer, "detail": fault.detail} for fault in refusal.faults]
    text = json.dumps(problem, ensure_ascii=False)
    headers: dict[str, str] = {}
    if isinstance(refusal, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(refusal, MethodNotAllowed):
        headers["Allow"] = refusal.allowed
    if isinstance(refusal, RateLimited):
        headers |= refusal.headers
    if isinstance(refusal, UpgradeRequired):
        headers |= {"Upgrade": "websocket", "Connection": "Upgrade"}
    if isinstance(refusal, Unavailable):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    body = text.encode("utf-8", "replace")
    return web.Response(
        status=refusal.status, body=body, content_type="application/problem+json", charset="utf-8", headers=headers
    )


def of(error: Exception) -> GatewayError:
    """What the caller is told of an exception; whatever is not a refusal is logged."""
    match error:
        case GatewayError():
            return error
        case web.RequestPayloadError():
            return MalformedBody("the body ended too soon, or is not encoded as its headers say")
        case web.HTTPNotFound():
            return NotFound("there is nothing at this address")
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return MethodNotAllowed(error.method, allowed)
        case _ if isinstance(error, DATABASE_DOWN) and not is_refusal(error):
            log.warning("http.database_unavailable", error=type(error).__name__)
            return Unavailable("the database cannot be reached; try again shortly")
        case _:
            log.exception("http.failed", exc_info=error)
            return InternalError("the fault was logged; the request can be tried again")
