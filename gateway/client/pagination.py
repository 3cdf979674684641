"""Paginated lists. `async for` iterates over all items and requests each page when it is needed."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from gateway.client.decoding import decode
from gateway.client.transport import Transport

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list; `next_cursor` is None on the last page."""

    items: list[T]
    next_cursor: str | None


class Listing(Generic[T]):
    """A list of resources.

    Iterate with `async for device in gateway.devices.list(topic="news")`, or call `fetch_page` for one page.
    """

    def __init__(self, transport: Transport, path: str, kind: type[T], query: Mapping[str, Any] | None = None) -> None:
        """Create the list; the methods of the resources do this."""
        self._transport = transport
        self._path = path
        self._kind = kind
        self._query = query or {}

    async def fetch_page(self, cursor: str | None = None, *, limit: int = 100) -> Page[T]:
        """Return one page of at most `limit` (1 to 1,000) items.

        `cursor` is the `next_cursor` of the previous page.
        """
        query = {**self._query, "limit": limit, "cursor": cursor}
        response = await self._transport.call("GET", self._path, query=query)
        return Page([decode(self._kind, item) for item in response.body["items"]], response.body["next_cursor"])

    async def fetch(self, count: int) -> list[T]:
        """Return the first `count` items, or all if there are fewer."""
        items: list[T] = []
        cursor: str | None = None
        while len(items) < count:
            page = await self.fetch_page(cursor, limit=min(count - len(items), 1000))
            items += page.items
            cursor = page.next_cursor
            if cursor is None:
                break
        return items

    async def __aiter__(self) -> AsyncIterator[T]:
        """Iterate over all items, page by page."""
        cursor: str | None = None
        while True:
            page = await self.fetch_page(cursor)
            for item in page.items:
                yield item
            cursor = page.next_cursor
            if cursor is None:
                return
