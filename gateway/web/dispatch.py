"""Handle one request: rate limit, credential, body, transaction, response.

Every route takes the same path, in this order:

1. The rate limit of the client address.
2. The credential with its scope and origin, and the rate limit of its key. This happens before the body is read and
   without a transaction, so a request without a valid credential costs little memory and time. Tokens with a forged
   signature cause no database lookup. The lookups of other unknown credentials are limited for each client address.
3. A slot of the request limiter. It is charged to the application and the credential, and to the client address unless
   the credential may send. So a client that stalls its requests uses up only its own share of the slots.
4. The body, with limits of size, time and rate, and its validation. No database connection is in use while a client
   sends the body.
5. One transaction: the credential is looked up again, the handler runs, and the idempotency record and the audit entry
   are stored. An error rolls back all of this. A successful response is sent after the commit.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack
from typing import Any

from aiohttp import HttpVersion11, web

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
from gateway.service.access.authentication import ADMIN, SEND, SESSION_PREFIX, Principal
from gateway.service.context import Connection
from gateway.web.api import audit, session
from gateway.web.http import credentials, problems
from gateway.web.http.load_shedding import RequestLimiter
from gateway.web.http.parsing import read_body, read_query
from gateway.web.http.routing import MediaType, Request, Response, Route, TransactionalRequest, WebState, encode_json

# The key under which aiohttp's request stores the id of the created resource, for the access log.
CREATED_ID = web.RequestKey("created_id", object)
# The principal of requests to public routes.
ANONYMOUS = Principal(frozenset())
# Maximum length of an Idempotency-Key.
MAX_KEY_LENGTH = 255
# Only paths with this prefix are rate limited. Probes and metrics are not, so that monitoring always works.
RATE_LIMITED_PREFIX = "/v1/"
# Time to receive a whole body. Without the limit, a slow client would occupy a slot of the request limiter.
BODY_TIMEOUT_S = 30.0
# Time to receive a body. Each MIN_BODY_RATE octets that have arrived extend it by a second, up to BODY_TIMEOUT_S.
BODY_GRACE_S = 5.0
MIN_BODY_RATE = 4096
# Maximum size of the body of a request to a public route.
MAX_PUBLIC_BODY_OCTETS = 16_384
# The maximum share of the request limiter that an application, a credential, a client address and all public requests
# may use, as multiples of the free amount: see SharedBudget.
APPLICATION_SHARE, CREDENTIAL_SHARE, ADDRESS_SHARE, PUBLIC_SHARE = 4.0, 2.0, 1.0, 0.5
# If a request is refused before its body was read, and the body has at most this length, the server reads and discards
# the body and keeps the connection open.
MAX_DISCARDED_OCTETS = 65_536


class Reservation:
    """The slot and the memory that one request occupies in the request limiter until its response is complete.

    They are charged to the application and to the credential, and to the client address unless the credential may send.
    Requests without a credential share one key in place of the credential.
    """

    def __init__(self, limiter: RequestLimiter, slots: ExitStack, principal: Principal, address: str) -> None:
        """Create an empty reservation. Closing `slots`, at the end of the request, releases what was reserved."""
        self._limiter = limiter
        self._slots = slots
        self.application_id = principal.application_id
        self.is_public = not principal.scopes
        self._sends = bool(principal.scopes & {SEND, ADMIN})
        shares: dict[Hashable, float] = {("credential", principal.key_id or principal.owner): CREDENTIAL_SHARE}
        if self.is_public:
            shares = {"public": PUBLIC_SHARE}
        if principal.application_id is not None:
            shares["application", principal.application_id] = APPLICATION_SHARE
        if not self._sends:
            shares["address", address] = ADDRESS_SHARE
        self._shares = shares

    def occupy_slot(self) -> None:
        """Occupy a slot. Raises RateLimited or Unavailable."""
        self._slots.enter_context(self._limiter.slot(self._shares, sends=self._sends))

    def begin_body(self) -> Callable[[int], None]:
        """Return the function that reserves memory for a chunk of the body. Raises RateLimited or Unavailable."""
        return self._slots.enter_context(self._limiter.body(self._shares, sends=self._sends))


def create_handler(state: WebState, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return the aiohttp handler of a route."""

    async def handle(http: web.Request) -> web.StreamResponse:
        try:
            response = await _handle(state, route, http)
        except problems.EXPECTED_ERRORS as error:
            response = problems.to_response(problems.from_exception(error))
        _close_if_unread(http, response)
        return response

    return handle


async def defer_continue(http: web.Request) -> None:
    """Handle `Expect` without sending 100 Continue. `_respond` sends it, after the credential was checked.

    Raises:
        HTTPExpectationFailed: the expectation is not 100-continue (RFC 9110 section 10.1.1).
    """
    if http.version == HttpVersion11 and not _expects_continue(http):
        raise web.HTTPExpectationFailed


async def _handle(state: WebState, route: Route, http: web.Request) -> web.StreamResponse:
    """Handle a request in the order that the module describes, and return its response."""
    address = state.client_addresses.resolve(http)
    if route.path.startswith(RATE_LIMITED_PREFIX):
        state.limits.address_buckets.acquire(address)
    body_received = http.content.is_eof()
    principal = await _authenticate(state, route, http)
    headers = _acquire_for_key(state, principal, address)
    with ExitStack() as slots:
        reservation = Reservation(state.limits.requests, slots, principal, address)
        # Streaming routes have their own limiters. The probes count as streaming routes, so that they work when the
        # request limiter has no free slot.
        if route.streams is None:
            reservation.occupy_slot()
        await _send_continue(http)
        raw, body, query = await _read_input(state, route, http, reservation)
        request = Request(state, http, principal, body, query)
        if route.precondition is not None:
            # Many requests may wait in a precondition at once (long polling), so they must not occupy slots.
            slots.close()
            headers |= await route.precondition(request)
            if route.streams is None:
                reservation.occupy_slot()
        return await _respond(route, request, raw, headers, body_received=body_received)


async def _respond(
    route: Route, request: Request, raw: bytes, headers: dict[str, str], *, body_received: bool
) -> web.StreamResponse:
    """Run the handler and return its response, which has the given headers."""
    state, http = request.state, request.http
    if route.streams is not None:
        stream: web.StreamResponse = await route.handler(request)
        return stream
    if route.batch_handler is not None and "Idempotency-Key" not in http.headers:
        if not body_received:
            await _authenticate(state, route, http)
        return _to_http(http, await route.batch_handler(request), headers)
    async with _transaction(route, request) as conn:
        principal = await _authenticate(state, route, http, conn)
        transactional = TransactionalRequest(state, http, principal, request.body, request.query, conn)
        response = await _respond_once(route, transactional, raw)
    for callback in transactional.after_commit:
        await callback()
    return _to_http(http, response, headers)


def _transaction(route: Route, request: Request) -> AbstractAsyncContextManager[Connection]:
    """Return the transaction of a request, on a connection of its application's share for this kind of work."""
    principal = request.principal
    share_key = principal.application_id or ("operator" if principal.scopes else "public")
    return request.context.connections.share(route.work_for(request.body), share_key).begin()


def _acquire_for_key(state: WebState, principal: Principal, address: str) -> dict[str, str]:
    """Take a token from the bucket of the API key. Client addresses share the tokens of a publishable key.

    Raises:
        RateLimited: the key, or the address with this key, has sent too many requests.
    """
    if principal.key_id is None:
        return {}
    if principal.origins is None:
        return state.limits.key_buckets.acquire(principal.key_id)
    return state.limits.publishable_key_buckets.acquire(principal.key_id, address)


async def _authenticate(state: WebState, route: Route, http: web.Request, conn: Connection | None = None) -> Principal:
    """Return the principal of a request, and check that it may call the route.

    With `conn` the credential is looked up in that transaction. So a key that was removed while the client sent the
    body is refused.

    Raises:
        RateLimited: the client address has sent too many unknown credentials.
        Unauthenticated: the credential is missing or unknown.
        Forbidden: the credential lacks the scope, or a request with the session cookie may be forged.
        OriginNotAllowed: the publishable key is used from an origin that is not allowed.
    """
    if not route.scopes:
        return ANONYMOUS
    bearer = _credential(state, http)
    if conn is None:
        principal = await credentials.identify(state, state.client_addresses.resolve(http), bearer)
    else:
        principal = await state.authenticator.identify(bearer, conn)
    _authorize(route, principal, http)
    return principal


async def _respond_once(route: Route, request: TransactionalRequest[Any, Any], raw: bytes) -> Response:
    """Run the handler. If there is a stored response for the Idempotency-Key, return it instead.

    `raw` is the request body.
    """
    key = request.http.headers.get("Idempotency-Key") if route.creates else None
    if key is None:
        return await _run_handler(route, request)
    if not 0 < len(key) <= MAX_KEY_LENGTH or not key.isascii() or not key.isprintable():
        raise ValidationError(
            [FieldError("/header/Idempotency-Key", f"must have 1 to {MAX_KEY_LENGTH} printable ASCII characters")]
        )
    keyring, owner = request.context.keyring, request.principal.owner
    digest = hashlib.sha256(f"{request.http.method} {request.http.path_qs}\n".encode() + raw).digest()
    stored = await idempotency.begin(request.conn, keyring, owner, key, digest)
    if stored is not None:
        return Response(stored.body, stored.status, {"Idempotency-Replayed": "true"})
    response = await _run_handler(route, request)
    await idempotency.store_response(request.conn, keyring, owner, key, response.status, encode_json(response.body))
    return response


async def _run_handler(route: Route, request: TransactionalRequest[Any, Any]) -> Response:
    response: Response = await route.handler(request)
    await audit.record(route, request, response)
    return response


def _to_http(http: web.Request, response: Response, headers: Mapping[str, str]) -> web.Response:
    """Serialize the response. A GET or HEAD gets an ETag, or status 304 if the client sent the current ETag."""
    if response.status in (201, 202) and isinstance(response.body, dict):
        http[CREATED_ID] = response.body.get("id")
    headers = {**headers, **response.headers}
    if response.body is None:
        return web.Response(status=response.status, headers=headers)
    body = encode_json(response.body)
    if http.method in ("GET", "HEAD") and response.status == 200:
        headers["ETag"] = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        if _matches_etag(http, headers["ETag"]):
            return web.Response(status=304, headers=headers)
    return web.Response(
        status=response.status, body=body, content_type="application/json", charset="utf-8", headers=headers
    )


def _matches_etag(http: web.Request, etag: str) -> bool:
    """Return whether If-None-Match contains the ETag (weak comparison, RFC 9110 section 13.1.2)."""
    tags = http.headers.get("If-None-Match", "")
    return tags.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in tags.split(","))


def _close_if_unread(http: web.Request, response: web.StreamResponse) -> None:
    """Close the connection after the response if the body is unread and may be long.

    aiohttp never parses an unread body as the next request. It discards data for a few seconds
    (`protocol.LINGERING_S`), and closes the connection if the body has not ended by then. `Connection: close` makes
    the client stop sending.
    """
    length = http.content_length
    if not http.content.is_eof() and (length is None or length > MAX_DISCARDED_OCTETS):
        response.force_close()


def _expects_continue(http: web.Request) -> bool:
    return http.headers.get("Expect", "").lower() == "100-continue"


async def _send_continue(http: web.Request) -> None:
    if http.version == HttpVersion11 and _expects_continue(http) and not http.content.is_eof():
        await http.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        http.writer.output_size = 0  # aiohttp would otherwise assume that the response has begun


async def _read_input(
    state: WebState, route: Route, http: web.Request, reservation: Reservation
) -> tuple[bytes, Any, Any]:
    """Return the raw body, the validated body and the validated query."""
    media_type = route.media_types.get(http.content_type) if http.body_exists else None
    raw = b"" if route.body is None else await _read_raw(state, http, media_type, reservation)
    document = None if media_type is None else await media_type.read(state.context, reservation.application_id, raw)
    if any("\0" in value for value in http.match_info.values()):
        raise NotFound("path parameters must not contain NUL (U+0000)")
    query = None
    if route.query is not None:
        query = read_query(route.query, list(http.query.items()))
    elif http.query:
        raise ValidationError([FieldError(f"/query/{name}", "is not known here") for name in http.query])
    if document is not None or route.body is None:
        return raw, document, query
    return raw, read_body(route.body, raw), query


async def _read_raw(
    state: WebState, http: web.Request, media_type: MediaType | None, reservation: Reservation
) -> bytes:
    """Read the body. Its memory stays reserved in the request limiter until the response is complete.

    Raises:
        UnsupportedMediaType: the body is neither JSON nor a media type of the route.
        BodyTooLarge: the body exceeds the limit of its media type.
        BodyTooSlow: the body did not arrive in time.
        RateLimited: the bodies of the same client exceed its share of the memory limit.
        Unavailable: all bodies together exceed the memory limit of the process.
    """
    content_type, max_octets = http.content_type, state.limits.max_body
    if reservation.is_public:
        max_octets = min(max_octets, MAX_PUBLIC_BODY_OCTETS)
    if media_type is not None:
        max_octets = max(max_octets, media_type.max_octets)
    elif http.body_exists and content_type != "application/json" and not content_type.endswith("+json"):
        raise UnsupportedMediaType(f"the body must be application/json, not {content_type[:80]}")
    too_large = BodyTooLarge(f"the body has more than {max_octets} octets")
    if http.content_length is not None and http.content_length > max_octets:
        raise too_large
    raw = bytearray()
    reserve = reservation.begin_body()
    begun_at = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(min(BODY_GRACE_S, BODY_TIMEOUT_S)) as timeout:
            async for chunk in http.content.iter_any():
                raw += chunk
                if len(raw) > max_octets:
                    raise too_large
                reserve(len(chunk))
                timeout.reschedule(begun_at + min(BODY_GRACE_S + len(raw) / MIN_BODY_RATE, BODY_TIMEOUT_S))
    except TimeoutError:
        raise BodyTooSlow(
            f"the body must arrive within {BODY_GRACE_S:.0f} s, or at {MIN_BODY_RATE} octets a second for at most "
            f"{BODY_TIMEOUT_S:.0f} s"
        ) from None
    return bytes(raw)


def _credential(state: WebState, http: web.Request) -> str:
    """Return the bearer token, or without one the session token in the console's cookie.

    Raises:
        Unauthenticated: there is neither, or the Authorization header is malformed.
        Forbidden: the request with the session cookie may be forged.
    """
    if "Authorization" not in http.headers and (token := session.find_token(state, http)) is not None:
        return token
    scheme, _, bearer = http.headers.get("Authorization", "").partition(" ")
    if not scheme:
        raise Unauthenticated("this needs a credential: Authorization: Bearer ...")
    if scheme.lower() != "bearer" or not bearer.strip() or bearer.strip().startswith(SESSION_PREFIX):
        raise Unauthenticated("the credential must be given as Authorization: Bearer ...")
    return bearer.strip()


def _authorize(route: Route, principal: Principal, http: web.Request) -> None:
    """Check the principal's scopes and origins against the route and the Origin header.

    Raises:
        Forbidden: the principal has none of the route's scopes.
        OriginNotAllowed: the publishable key is used from an origin that its application does not allow.
    """
    if not principal.scopes & set(route.scopes):
        scopes = ", ".join(sorted(principal.scopes)) or "nothing"
        raise Forbidden(f"this needs {' or '.join(route.scopes)}; the credential has {scopes}")
    if principal.origins is None:
        return
    origin = http.headers.get("Origin")
    # Browsers send no Origin with a GET of a page to its own origin. They always send it with a POST.
    if origin is None and http.method == "GET":
        return
    if origin is None or origin not in principal.origins:
        source = "a request without an Origin" if origin is None else origin[:200]
        raise OriginNotAllowed(
            f"the publishable key may not be used from {source}; see the application's allowed_origins"
        )
