"""What the parts of the client are made of: a resource asks through one transport, and answers with types."""

from collections.abc import Mapping
from typing import Any, TypeVar

from gateway.client.decoding import decode
from gateway.client.pagination import Listing
from gateway.client.transport import Transport, path

T = TypeVar("T")


class Resource:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def _get(self, kind: type[T], at: str, *named: str, query: Mapping[str, Any] | None = None) -> T:
        return decode(kind, (await self._transport.call("GET", path(at, *named), query=query)).body)

    async def _make(self, kind: type[T], at: str, *named: str, body: Any, key: str | None) -> T:
        answer = await self._transport.call("POST", path(at, *named), body=body, creates=True, key=key)
        return decode(kind, answer.body)

    async def _order(self, kind: type[T], method: str, at: str, *named: str, body: Any = None) -> T:
        return decode(kind, (await self._transport.call(method, path(at, *named), body=body)).body)

    async def _do(self, method: str, at: str, *named: str, body: Any = None) -> None:
        await self._transport.call(method, path(at, *named), body=body)

    def _list(self, kind: type[T], at: str, *named: str, query: Mapping[str, Any] | None = None) -> Listing[T]:
        return Listing(self._transport, path(at, *named), kind, query)
