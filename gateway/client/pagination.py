"""Lists, which come in pages: `async for` goes through all of them, and asks for the next one when it gets there."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from gateway.client.decoding import decode
from gateway.client.transport import Transport

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    items: list[T]
    next_cursor: str | None


class Listing(Generic[T]):
    """`async for device in gateway.devices.list(topic="news")`, or `await listing.page()` for one page."""

    def __init__(self, transport: Transport, at: str, kind: type[T], query: Mapping[str, Any] | None = None) -> None:
        self._transport = transport
        self._at = at
        self._kind = kind
        self._query = query or {}

    async def page(self, cursor: str | None = None, *, limit: int = 100) -> Page[T]:
        """At most `limit` (1 to 1,000) items from `cursor` on, which is the `next_cursor` of the page before."""
        query = {**self._query, "limit": limit, "cursor": cursor}
        answer = await self._transport.call("GET", self._at, query=query)
        return Page([decode(self._kind, one) for one in answer.body["items"]], answer.body["next_cursor"])

    async def first(self, count: int) -> list[T]:
        """The first so many, or as many as there are."""
        found: list[T] = []
        cursor: str | None = None
        while len(found) < count:
            page = await self.page(cursor, limit=min(count - len(found), 1000))
            found += page.items
            cursor = page.next_cursor
            if cursor is None:
                break
        return found

    async def __aiter__(self) -> AsyncIterator[T]:
        cursor: str | None = None
        while True:
            page = await self.page(cursor)
            for item in page.items:
                yield item
            cursor = page.next_cursor
            if cursor is None:
                return
