"""Routes: the path, scopes, request and response models, and handler of each endpoint.

Dispatch, the OpenAPI document, the audit log and the tests all use the same `Route` objects, so the document always
describes the actual behaviour.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic
from uuid import UUID

from aiohttp import web
from typing_extensions import TypeVar

from gateway.domain import ids
from gateway.domain.database_work import REQUEST, WorkKind
from gateway.domain.errors import NotFound
from gateway.service.access.authentication import Authenticator, Principal
from gateway.service.audience.registration import BatchingRegistrar
from gateway.service.context import Connection, Context, Notifier
from gateway.service.inbox.inbox_notifier import InboxNotifier
from gateway.service.notifications.representations import encode_json as encode_json
from gateway.web.http.client_address import ClientAddressResolver
from gateway.web.http.load_shedding import RequestLimiter, SharedBudget, StreamLimiter
from gateway.web.http.parsing import Body, Query
from gateway.web.http.rate_limits import AddressBuckets, SharedBuckets, TokenBuckets
from gateway.web.http.readiness import Readiness

B = TypeVar("B", default=Any)
Q = TypeVar("Q", bound=Query | None, default=Any)


# Maximum number of live channels whose page has not sent its first message yet.
MAX_GREETINGS = 2000
# Maximum number of lookups of unknown credentials per client address and minute. A credential has 256 random bits, so
# guessing one does not succeed and only causes load.
MAX_FAILED_LOOKUPS = 600


@dataclass(slots=True)
class WebLimits:
    """The limits of one server process. The class of each limiter documents to whom requests are charged."""

    max_body: int = 1 << 20
    requests: RequestLimiter = field(default_factory=lambda: RequestLimiter(1000))
    imports: StreamLimiter = field(default_factory=lambda: StreamLimiter("NDJSON streams", 16))
    log_streams: StreamLimiter = field(default_factory=lambda: StreamLimiter("live streams of the log", 1000))
    live_channels: StreamLimiter = field(default_factory=lambda: StreamLimiter("live channels and long polls", 20_000))
    # Live channels whose page has not sent its first message yet.
    greetings: SharedBudget = field(
        default_factory=lambda: SharedBudget(MAX_GREETINGS, "too many live channels are being opened on this server")
    )
    address_buckets: AddressBuckets = field(default_factory=lambda: AddressBuckets("address", 120_000))
    key_buckets: TokenBuckets = field(default_factory=lambda: TokenBuckets("key", 300_000))
    publishable_key_buckets: SharedBuckets = field(default_factory=lambda: SharedBuckets("key", 300_000))
    new_device_address_buckets: AddressBuckets = field(default_factory=lambda: AddressBuckets("new devices", 6_000))
    new_device_buckets: SharedBuckets = field(default_factory=lambda: SharedBuckets("new devices", 60_000))
    inbox_buckets: TokenBuckets = field(default_factory=lambda: TokenBuckets("inbox", 60))
    # Database lookups of unknown credentials, per client address.
    lookup_buckets: TokenBuckets = field(default_factory=lambda: TokenBuckets("credential", MAX_FAILED_LOOKUPS))

    def long_lived_connections(self) -> dict[str, int]:
        """Return the number of open long-lived connections by kind."""
        return {
            "imports": self.imports.in_use,
            "streams": self.log_streams.in_use,
            "channels": self.live_channels.in_use,
        }


@dataclass(slots=True)
class WebState:
    """The objects that the handlers of one server process share.

    `open_streams` has the tasks of endless responses. They are cancelled when the server stops.
    """

    context: Context
    notifier: Notifier
    authenticator: Authenticator
    registrar: BatchingRegistrar
    readiness: Readiness
    inbox_notifier: InboxNotifier
    limits: WebLimits
    client_addresses: ClientAddressResolver
    map_tiles: str | None
    open_streams: set[asyncio.Task[Any]]

    @classmethod
    def create(
        cls,
        context: Context,
        notifier: Notifier,
        *,
        admin_token: str | None = None,
        in_process_keys: Mapping[str, Principal] = MappingProxyType({}),
        limits: WebLimits | None = None,
        client_addresses: ClientAddressResolver | None = None,
        map_tiles: str | None = None,
    ) -> "WebState":
        """Build the state of a server process.

        Args:
            context: the dependencies of the service layer.
            notifier: receives messages of Postgres (LISTEN/NOTIFY).
            admin_token: the operator's bearer token; None disables the operator's endpoints.
            in_process_keys: bearer tokens that are valid in this process only, with their principals.
            limits: the limits of the process; None uses the defaults.
            client_addresses: resolves the client address behind proxies; None trusts no proxy.
            map_tiles: the URL template of the console's map tiles.
        """
        return cls(
            context=context,
            notifier=notifier,
            authenticator=Authenticator(context.connections, context.keyring, admin_token, in_process_keys),
            registrar=BatchingRegistrar(context),
            readiness=Readiness(context),
            inbox_notifier=InboxNotifier(context.connections, notifier),
            limits=limits or WebLimits(),
            client_addresses=client_addresses or ClientAddressResolver(),
            map_tiles=map_tiles,
            open_streams=set(),
        )


@dataclass(frozen=True)
class Request(Generic[B, Q]):
    """An authorized request with its validated body and query."""

    state: WebState
    http: web.Request
    principal: Principal
    body: B
    query: Q

    @property
    def context(self) -> Context:
        """The dependencies of the service layer."""
        return self.state.context

    @property
    def application_id(self) -> UUID:
        """The principal's application.

        Raises:
            NotFound: the principal is the operator, who has no application.
        """
        if self.principal.application_id is None:
            raise NotFound("the admin token belongs to no application; use one of an application's keys")
        return self.principal.application_id

    @property
    def client_address(self) -> str:
        """The client address that the request is charged to."""
        return self.state.client_addresses.resolve(self.http)

    def path(self, name: str) -> str:
        """Return a path parameter."""
        return self.http.match_info[name]

    def id(self, kind: str, name: str) -> UUID:
        """Return the id in a path parameter.

        Raises:
            NotFound: the parameter is not an id of this kind.
        """
        id_ = ids.parse(kind, self.path(name))
        if id_ is None:
            raise NotFound(f"{self.path(name)[:80]!r} is not an id of this kind; it would begin with {kind}_")
        return id_


@dataclass(frozen=True)
class TransactionalRequest(Request[B, Q]):
    """A request that is handled in a transaction, on the connection `conn`.

    Dispatch awaits the callbacks in `after_commit` after the commit, before it sends the response.
    """

    conn: Connection
    after_commit: list[Callable[[], Awaitable[None]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Response:
    """A response whose body is serialized as JSON; None sends no body."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MediaType:
    """A request media type other than JSON.

    Attributes:
        read: the parser; it gets the service context, the application and the body.
        max_octets: the size limit.
        description: the description in the OpenAPI document.
    """

    read: Callable[[Context, UUID | None, bytes], Awaitable[Any]]
    max_octets: int
    description: str


# From a TransactionalRequest to a Response; for a streaming route, from a Request to aiohttp's response.
Handler = Callable[[Any], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """An endpoint.

    Attributes:
        method: the HTTP method.
        path: the path template, with `{name}` for parameters.
        handler: the function that serves the request; its docstring is the operation's description.
        tag: the OpenAPI tag.
        scopes: the scopes of which the principal needs one; empty for public endpoints.
        body: the model of the request body; None for endpoints without a body.
        query: the model of the query parameters.
        responses: the type of the response body by status.
        audit: the action name for the audit log; None when the endpoint is not audited.
        browser: whether pages of other origins may call the endpoint (CORS).
        creates: whether the endpoint accepts an Idempotency-Key.
        conflicts: whether the endpoint may respond with status 409.
        streams: the content type of a response that the handler itself sends, without a transaction of dispatch.
        media_types: the media types that are accepted besides JSON, with their parsers.
        precondition: is awaited with the Request before the transaction; returns response headers.
        work: the kind of database work, or a function from the body to it.
        batch_handler: an alternative handler, called with the Request. Concurrent requests may share its transaction.
            Dispatch calls it for requests without an Idempotency-Key.
    """

    method: str
    path: str
    handler: Handler
    tag: str
    scopes: tuple[str, ...]
    body: type[Body] | None
    query: type[Query] | None
    responses: Mapping[int, Any]
    audit: str | None
    browser: bool
    creates: bool
    conflicts: bool
    streams: str | None
    media_types: Mapping[str, MediaType]
    precondition: Callable[[Any], Awaitable[Mapping[str, str]]] | None
    batch_handler: Callable[[Any], Awaitable[Response]] | None
    work: WorkKind | Callable[[Any], WorkKind]

    def work_for(self, body: Any) -> WorkKind:
        """Return the kind of database work of a request with this body."""
        return self.work if isinstance(self.work, WorkKind) else self.work(body)


class Routes(list[Route]):
    """The routes of one resource."""

    def __init__(self, tag: str) -> None:
        """Create an empty list of routes under an OpenAPI tag."""
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
        audit: str | None = None,
        browser: bool = False,
        creates: bool = False,
        conflicts: bool = False,
        streams: str | None = None,
        media_types: Mapping[str, MediaType] = MappingProxyType({}),
        precondition: Callable[[Any], Awaitable[Mapping[str, str]]] | None = None,
        batch_handler: Callable[[Any], Awaitable[Response]] | None = None,
        work: WorkKind | Callable[[Any], WorkKind] = REQUEST,
    ) -> Callable[[Handler], Handler]:
        """Return a decorator that adds a route with the decorated handler. See `Route` for the arguments."""

        def add_route(handler: Handler) -> Handler:
            route = Route(
                method=method,
                path=path,
                handler=handler,
                tag=self.tag,
                scopes=scopes,
                body=body,
                query=query,
                responses=responses,
                audit=audit,
                browser=browser,
                creates=creates,
                conflicts=conflicts,
                streams=streams,
                media_types=media_types,
                precondition=precondition,
                batch_handler=batch_handler,
                work=work,
            )
            self.append(route)
            return handler

        return add_route
