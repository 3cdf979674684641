"""A route and all that is said of it: who may call, what comes in, what goes out.

Dispatch, OpenAPI and the tests all read the same `Route`s, so that the document cannot drift from the behaviour.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic
from uuid import UUID

from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection
from typing_extensions import TypeVar

from gateway.domain import ids
from gateway.domain.errors import NotFound
from gateway.records.postgres.notifier import Notifier
from gateway.service.access.authentication import Authenticator, Principal
from gateway.service.audience.registration import BatchingRegistrar
from gateway.service.context import Context
from gateway.service.inbox.inbox_notifier import InboxNotifier
from gateway.service.notifications.representations import to_json as to_json
from gateway.web.http.client_address import ClientAddressResolver
from gateway.web.http.load_shedding import RequestLimiter, StreamLimiter
from gateway.web.http.parsing import Body, Query
from gateway.web.http.rate_limits import TokenBuckets
from gateway.web.http.readiness import Readiness

B = TypeVar("B", default=Any)
Q = TypeVar("Q", bound=Query | None, default=Any)


@dataclass(frozen=True, slots=True)
class WebState:
    """What the web side of this process works with."""

    context: Context
    notifier: Notifier
    admin_token: str | None = None
    metrics_token: str | None = None
    max_body: int = 1 << 20
    request_limiter: RequestLimiter = field(default_factory=lambda: RequestLimiter(1000))
    inbox_buckets: TokenBuckets = field(default_factory=lambda: TokenBuckets("inbox", 60))
    client_addresses: ClientAddressResolver = field(default_factory=ClientAddressResolver)
    address_buckets: TokenBuckets = field(default_factory=lambda: TokenBuckets("address", 120_000))
    key_buckets: TokenBuckets = field(default_factory=lambda: TokenBuckets("key", 300_000))
    in_process_keys: Mapping[str, Principal] = field(default_factory=dict)
    """Keys of this process alone: whoever runs it is let in by them."""
    map_tiles: str | None = None
    imports: StreamLimiter = field(default_factory=lambda: StreamLimiter("NDJSON streams", 16))
    streams: StreamLimiter = field(default_factory=lambda: StreamLimiter("live streams of the log", 1000))
    channels: StreamLimiter = field(default_factory=lambda: StreamLimiter("live channels and long polls", 20_000))
    following: set[asyncio.Task[Any]] = field(default_factory=set)
    """Answers that have no end of their own; they are cut off when the server stops."""
    inbox_notifier: InboxNotifier = field(init=False)
    readiness: Readiness = field(init=False)
    authenticator: Authenticator = field(init=False)
    registrar: BatchingRegistrar = field(init=False)

    @property
    def stream_limiters(self) -> Mapping[str, StreamLimiter]:
        return {"imports": self.imports, "streams": self.streams, "channels": self.channels}

    def __post_init__(self) -> None:
        context = self.context
        authenticator = Authenticator(context.engine, context.keyring, self.admin_token, self.in_process_keys)
        object.__setattr__(self, "authenticator", authenticator)
        object.__setattr__(self, "readiness", Readiness(context.engine))
        object.__setattr__(self, "registrar", BatchingRegistrar(context))
        object.__setattr__(self, "inbox_notifier", InboxNotifier(self.context.engine, self.notifier))


@dataclass(frozen=True)
class Request(Generic[B, Q]):
    """One request that may be made, read and checked."""

    state: WebState
    http: web.Request
    principal: Principal
    body: B
    query: Q

    @property
    def context(self) -> Context:
        return self.state.context

    @property
    def application_id(self) -> UUID:
        """The caller's; every credential but the operator's belongs to one."""
        if self.principal.application_id is None:
            raise NotFound("the admin token belongs to no application; use one of an application's keys")
        return self.principal.application_id

    def path(self, name: str) -> str:
        return self.http.match_info[name]

    def id(self, kind: str, name: str) -> UUID:
        """The id in the path. Raises NotFound when it is not even one of that kind."""
        found = ids.parse(kind, self.path(name))
        if found is None:
            raise NotFound(f"{self.path(name)[:80]!r} is not an id of this kind; it would begin with {kind}_")
        return found


@dataclass(frozen=True)
class TransactionalRequest(Request[B, Q]):
    """A request whose work and answer are one transaction, on `conn`; what comes `afterwards` is awaited in between."""

    conn: AsyncConnection
    afterwards: list[Callable[[], Awaitable[None]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Response:
    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MediaType:
    """Another form that a body may come in: how it is read, its most octets, and what it is."""

    read: Callable[[bytes], Awaitable[Any]]
    max_octets: int
    description: str


Handler = Callable[[Any], Awaitable[Any]]
"""From a Call to an Answer; of a route that streams, from a Request to aiohttp's response."""


@dataclass(frozen=True, slots=True)
class Route:
    """`may`: the scopes of which the caller needs one; none at all for what everyone may see.

    `answers`: the type of the body by status. `browser`: pages of other origins call it. `creates`: takes an
    Idempotency-Key. `conflicts`: what is there already may forbid it (409).
    `streams`: the content type of what it answers by itself, outside any transaction. `also`: the content types that
    the body may come in beside JSON. `before`: awaited before the transaction, from a Request to headers.
    `shared`: does the same as the handler, from a Request, in a transaction that it may share with other requests; for
    those without an Idempotency-Key.
    """

    method: str
    path: str
    handler: Handler
    tag: str
    scopes: tuple[str, ...]
    body: type[Body] | None
    query: type[Query] | None
    responses: Mapping[int, Any]
    browser: bool
    creates: bool
    conflicts: bool
    streams: str | None
    media_types: Mapping[str, MediaType]
    precondition: Callable[[Any], Awaitable[Mapping[str, str]]] | None
    batch_handler: Callable[[Any], Awaitable[Response]] | None


class Routes(list[Route]):
    """The routes of one resource."""

    def __init__(self, tag: str) -> None:
        super().__init__()
        self.tag = tag

    def add(
        self,
        method: str,
        path: str,
        *,
        scopes: tuple[str, ...] = (),
        body: type[Body] | None = None,
        query: type[Query] | None = None,
        responses: Mapping[int, Any],
        browser: bool = False,
        creates: bool = False,
        conflicts: bool = False,
        streams: str | None = None,
        media_types: Mapping[str, MediaType] = MappingProxyType({}),
        precondition: Callable[[Any], Awaitable[Mapping[str, str]]] | None = None,
        batch_handler: Callable[[Any], Awaitable[Response]] | None = None,
    ) -> Callable[[Handler], Handler]:
        def added(handler: Handler) -> Handler:
            said = (
                scopes,
                body,
                query,
                responses,
                browser,
                creates,
                conflicts,
                streams,
                media_types,
                precondition,
                batch_handler,
            )
            self.append(Route(method, path, handler, self.tag, *said))
            return handler

        return added
