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
from gateway.records.postgres.notifier import Signals
from gateway.service.access.authentication import Caller, Door
from gateway.service.audience.registration import Reception
from gateway.service.context import Context
from gateway.service.inbox.inbox_notifier import Mailroom
from gateway.service.notifications.representations import to_json as to_json
from gateway.web.http.client_address import Addresses
from gateway.web.http.load_shedding import Crowd, Room
from gateway.web.http.parsing import Body, Query
from gateway.web.http.rate_limits import Buckets
from gateway.web.http.readiness import Readiness

B = TypeVar("B", default=Any)
Q = TypeVar("Q", bound=Query | None, default=Any)


@dataclass(frozen=True, slots=True)
class Front:
    """What the web side of this process works with."""

    context: Context
    bell: Signals
    admin_token: str | None = None
    metrics_token: str | None = None
    largest_body: int = 1 << 20
    crowd: Crowd = field(default_factory=lambda: Crowd(1000))
    inbox: Buckets = field(default_factory=lambda: Buckets("inbox", 60))
    addresses: Addresses = field(default_factory=Addresses)
    per_address: Buckets = field(default_factory=lambda: Buckets("address", 120_000))
    per_key: Buckets = field(default_factory=lambda: Buckets("key", 300_000))
    passes: Mapping[str, Caller] = field(default_factory=dict)
    """Keys of this process alone: whoever runs it is let in by them."""
    map_tiles: str | None = None
    imports: Room = field(default_factory=lambda: Room("NDJSON streams", 16))
    streams: Room = field(default_factory=lambda: Room("live streams of the log", 1000))
    channels: Room = field(default_factory=lambda: Room("live channels and long polls", 20_000))
    following: set[asyncio.Task[Any]] = field(default_factory=set)
    """Answers that have no end of their own; they are cut off when the server stops."""
    mailroom: Mailroom = field(init=False)
    readiness: Readiness = field(init=False)
    door: Door = field(init=False)
    reception: Reception = field(init=False)

    @property
    def rooms(self) -> Mapping[str, Room]:
        return {"imports": self.imports, "streams": self.streams, "channels": self.channels}

    def __post_init__(self) -> None:
        context = self.context
        object.__setattr__(self, "door", Door(context.engine, context.vault, self.admin_token, self.passes))
        object.__setattr__(self, "readiness", Readiness(context.engine))
        object.__setattr__(self, "reception", Reception(context))
        object.__setattr__(self, "mailroom", Mailroom(self.context.engine, self.bell))


@dataclass(frozen=True)
class Request(Generic[B, Q]):
    """One request that may be made, read and checked."""

    front: Front
    http: web.Request
    caller: Caller
    body: B
    query: Q

    @property
    def context(self) -> Context:
        return self.front.context

    @property
    def application_id(self) -> UUID:
        """The caller's; every credential but the operator's belongs to one."""
        if self.caller.application_id is None:
            raise NotFound("the admin token belongs to no application; use one of an application's keys")
        return self.caller.application_id

    def path(self, name: str) -> str:
        return self.http.match_info[name]

    def id(self, kind: str, name: str) -> UUID:
        """The id in the path. Raises NotFound when it is not even one of that kind."""
        found = ids.parse(kind, self.path(name))
        if found is None:
            raise NotFound(f"{self.path(name)[:80]!r} is not an id of this kind; it would begin with {kind}_")
        return found


@dataclass(frozen=True)
class Call(Request[B, Q]):
    """A request whose work and answer are one transaction, on `conn`; what comes `afterwards` is awaited in between."""

    conn: AsyncConnection
    afterwards: list[Callable[[], Awaitable[None]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Answer:
    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Medium:
    """Another form that a body may come in: how it is read, its most octets, and what it is."""

    read: Callable[[bytes], Awaitable[Any]]
    largest: int
    said: str


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
    may: tuple[str, ...]
    body: type[Body] | None
    query: type[Query] | None
    answers: Mapping[int, Any]
    browser: bool
    creates: bool
    conflicts: bool
    streams: str | None
    also: Mapping[str, Medium]
    before: Callable[[Any], Awaitable[Mapping[str, str]]] | None
    shared: Callable[[Any], Awaitable[Answer]] | None


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
        may: tuple[str, ...] = (),
        body: type[Body] | None = None,
        query: type[Query] | None = None,
        answers: Mapping[int, Any],
        browser: bool = False,
        creates: bool = False,
        conflicts: bool = False,
        streams: str | None = None,
        also: Mapping[str, Medium] = MappingProxyType({}),
        before: Callable[[Any], Awaitable[Mapping[str, str]]] | None = None,
        shared: Callable[[Any], Awaitable[Answer]] | None = None,
    ) -> Callable[[Handler], Handler]:
        def added(handler: Handler) -> Handler:
            said = (may, body, query, answers, browser, creates, conflicts, streams, also, before, shared)
            self.append(Route(method, path, handler, self.tag, *said))
            return handler

        return added
