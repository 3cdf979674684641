"""Base class of the resources, the groups of API operations."""

from collections.abc import Mapping
from typing import Any, TypeVar

from gateway.client.decoding import decode
from gateway.client.pagination import Listing
from gateway.client.transport import Transport, build_path

T = TypeVar("T")


class Resource:
    """A group of API operations, such as those on devices. Responses are decoded into dataclasses."""

    def __init__(self, transport: Transport) -> None:
        """Create the resource with a transport."""
        self._transport = transport

    async def _get(self, kind: type[T], template: str, *path_values: str, query: Mapping[str, Any] | None = None) -> T:
        return decode(kind, (await self._transport.call("GET", build_path(template, *path_values), query=query)).body)

    async def _create(self, kind: type[T], template: str, *path_values: str, body: Any, key: str | None) -> T:
        response = await self._transport.call(
            "POST", build_path(template, *path_values), body=body, creates=True, key=key
        )
        return decode(kind, response.body)

    async def _call(self, kind: type[T], method: str, template: str, *path_values: str, body: Any = None) -> T:
        return decode(kind, (await self._transport.call(method, build_path(template, *path_values), body=body)).body)

    async def _execute(self, method: str, template: str, *path_values: str, body: Any = None) -> None:
        await self._transport.call(method, build_path(template, *path_values), body=body)

    def _list(
        self, kind: type[T], template: str, *path_values: str, query: Mapping[str, Any] | None = None
    ) -> Listing[T]:
        return Listing(self._transport, build_path(template, *path_values), kind, query)
