"""The way of every request: who is it, what does it say, was it said before, do it, answer.

All of it is one transaction, so that an error leaves nothing behind and an answer is given for what is kept.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from typing import Any

from aiohttp import web

from gateway.domain.errors import (
    BodyTooLarge,
    BodyTooSlow,
    FieldError,
    Forbidden,
    NotFound,
    OriginNotAllowed,
    Unauthenticated,
    UnsupportedMediaType,
    ValidationError,
)
from gateway.service.access import idempotency
from gateway.service.access.authentication import SESSION_PREFIX, Principal
from gateway.web.api import audit, session
from gateway.web.http import problems
from gateway.web.http.parsing import read_body, read_query
from gateway.web.http.routing import MediaType, Request, Response, Route, TransactionalRequest, WebState, to_json

MADE = web.RequestKey("made", object)
"""The id of what a request has made, for the log."""
NOBODY = Principal(frozenset())
MAX_KEY_LENGTH = 255
# Probes and metrics are answered whoever floods us.
LIMITED = "/v1/"
# For all of a body: who sends slowly holds what others need.
BODY_S = 30


def handler(front: WebState, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await _handle(front, route, request)
        except problems.EXPECTED as error:
            return problems.answer(problems.of(error))

    return handle


async def _handle(front: WebState, route: Route, http: web.Request) -> web.StreamResponse:
    if route.path.startswith(LIMITED):
        front.address_buckets.acquire(front.client_addresses.of(http))
    with ExitStack() as held:
        # What streams takes little at a time, and the probes among it must be answered when nothing else is.
        if route.streams is None:
            held.enter_context(front.request_limiter.slot())
        return await _answered(front, route, http, held)


async def _answered(front: WebState, route: Route, http: web.Request, held: ExitStack) -> web.StreamResponse:
    # The body comes first: a slow sender must not hold a connection to the database.
    medium = route.media_types.get(http.content_type) if http.body_exists else None
    raw = await _read(http, front, medium, held) if route.body is not None else b""
    other = None if medium is None else await medium.read(raw)
    headers: Mapping[str, str] = {}
    shared = None if "Idempotency-Key" in http.headers else route.batch_handler
    if route.streams is not None or route.precondition is not None or shared is not None:
        caller = NOBODY
        if route.scopes:
            caller = await front.authenticator.identify(_credential(front, http))
            _authorize(route, caller, http)
            headers = _count(front, caller)
        asked = Request(front, http, caller, *_input(route, http, raw, other))
        if route.precondition is not None:
            held.close()  # it may wait for news, as many do at once
            headers = {**headers, **await route.precondition(asked)}
            if route.streams is None:
                held.enter_context(front.request_limiter.slot())
        if route.streams is not None:
            streamed: web.StreamResponse = await route.handler(asked)
            return streamed
        if shared is not None:
            return _plain(http, await shared(asked), headers)
    async with front.context.engine.begin() as conn:
        caller = NOBODY
        if route.scopes:
            caller = await front.authenticator.identify_on(conn, _credential(front, http))
            _authorize(route, caller, http)
            headers = headers or _count(front, caller)
        call = TransactionalRequest(front, http, caller, *_input(route, http, raw, other), conn)
        answer = await _answer(route, call, raw)
    for wait in call.afterwards:
        await wait()
    return _plain(http, answer, headers)


async def _answer(route: Route, call: TransactionalRequest[Any, Any], raw: bytes) -> Response:
    key = call.http.headers.get("Idempotency-Key") if route.creates else None
    if key is None:
        return await _done(route, call)
    if not 0 < len(key) <= MAX_KEY_LENGTH or not key.isascii() or not key.isprintable():
        raise ValidationError(
            [FieldError("/header/Idempotency-Key", f"must have 1 to {MAX_KEY_LENGTH} printable ASCII characters")]
        )
    vault, owner = call.context.keyring, call.principal.owner
    digest = hashlib.sha256(f"{call.http.method} {call.http.path_qs}\n".encode() + raw).digest()
    first = await idempotency.begin(call.conn, vault, owner, key, digest)
    if first is not None:
        return Response(first.body, first.status, {"Idempotency-Replayed": "true"})
    done = await _done(route, call)
    await idempotency.store_response(call.conn, vault, owner, key, done.status, to_json(done.body))
    return done


async def _done(route: Route, call: TransactionalRequest[Any, Any]) -> Response:
    done: Response = await route.handler(call)
    await audit.note(route, call, done)
    return done


def _plain(request: web.Request, answer: Response, beside: Mapping[str, str]) -> web.Response:
    if answer.status in (201, 202) and isinstance(answer.body, dict):
        request[MADE] = answer.body.get("id")
    headers = {**beside, **answer.headers}
    if answer.body is None:
        return web.Response(status=answer.status, headers=headers)
    body = to_json(answer.body)
    if request.method in ("GET", "HEAD") and answer.status == 200:
        headers["ETag"] = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        if _is_known(request, headers["ETag"]):
            return web.Response(status=304, headers=headers)
    return web.Response(
        status=answer.status, body=body, content_type="application/json", charset="utf-8", headers=headers
    )


def _is_known(request: web.Request, etag: str) -> bool:
    """RFC 9110 section 13.1.2: compared weakly."""
    known = request.headers.get("If-None-Match", "")
    return known.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in known.split(","))


async def _read(request: web.Request, front: WebState, medium: MediaType | None, held: ExitStack) -> bytes:
    """Raises UnsupportedMediaType, BodyTooLarge, BodyTooSlow and Unavailable."""
    kind, largest = request.content_type, front.max_body
    if medium is not None:
        largest = max(largest, medium.max_octets)
    elif request.body_exists and kind != "application/json" and not kind.endswith("+json"):
        raise UnsupportedMediaType(f"the body must be application/json, not {kind[:80]}")
    raw = bytearray()
    hold = held.enter_context(front.request_limiter.body())
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.content.iter_any():
                raw += chunk
                if len(raw) > largest:
                    raise BodyTooLarge(f"the body has more than {largest} octets")
                hold(len(chunk))
    except TimeoutError:
        raise BodyTooSlow(f"the body must be here within {BODY_S} s") from None
    return bytes(raw)


def _input(route: Route, request: web.Request, raw: bytes, other: Any) -> tuple[Any, Any]:
    """(body, query); `other` is the body when it came in a form of its own."""
    if any("\0" in value for value in request.match_info.values()):
        raise NotFound("nothing is named with U+0000")
    query = None
    if route.query is not None:
        query = read_query(route.query, list(request.query.items()))
    elif request.query:
        raise ValidationError([FieldError(f"/query/{name}", "is not known here") for name in request.query])
    if other is not None or route.body is None:
        return other, query
    return read_body(route.body, raw), query


def _credential(front: WebState, request: web.Request) -> str:
    """What was said to be who they are, else what the console's cookie holds. Raises Unauthenticated and Forbidden."""
    if "Authorization" not in request.headers and (token := session.token_of(front, request)) is not None:
        return token
    scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
    if not scheme:
        raise Unauthenticated("this needs a credential: Authorization: Bearer ...")
    if scheme.lower() != "bearer" or not bearer.strip() or bearer.strip().startswith(SESSION_PREFIX):
        raise Unauthenticated("the credential must be given as Authorization: Bearer ...")
    return bearer.strip()


def _count(front: WebState, caller: Principal) -> dict[str, str]:
    """What is told of the key's limit. Raises RateLimited."""
    return {} if caller.key_id is None else front.key_buckets.acquire(caller.key_id)


def _authorize(route: Route, caller: Principal, request: web.Request) -> None:
    """Raises Forbidden and OriginNotAllowed."""
    if not caller.scopes & set(route.scopes):
        has = ", ".join(sorted(caller.scopes)) or "nothing"
        raise Forbidden(f"this needs {' or '.join(route.scopes)}; the credential has {has}")
    if caller.origins is None:
        return
    origin = request.headers.get("Origin")
    # Browsers leave Origin out of a page's GET to its own origin, and never out of a POST.
    if origin is None and request.method == "GET":
        return
    if origin is None or origin not in caller.origins:
        said = "a request without an Origin" if origin is None else origin[:200]
        raise OriginNotAllowed(
            f"the publishable key may not be used from {said}; see the application's allowed_origins"
        )
