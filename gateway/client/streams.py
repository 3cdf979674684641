"""Streams: the delivery log as it grows, and requests with any number of lines."""

import asyncio
import json
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import aiohttp

from gateway.client.decoding import decode
from gateway.client.errors import (
    ApiError,
    DecodeError,
    FieldError,
    GatewayError,
    GatewayUnreachable,
    error_from_response,
)
from gateway.client.responses import Delivery
from gateway.client.transport import NOT_PROCESSED_STATUSES, Transport, back_off, encode_json, parse_retry_after

NDJSON = "application/x-ndjson"
# Lines are collected into chunks of at least this size before they are sent.
CHUNK_OCTETS = 64 * 1024


class ServerSentEvent(NamedTuple):
    """One Server-Sent Event. An event without `data` only reports the position (`id`) of the stream."""

    name: str
    data: str
    id: str | None


async def read_events(lines: AsyncIterable[bytes]) -> AsyncIterator[ServerSentEvent]:
    """Parse an event stream (HTML standard, section 9.2.6).

    The standard ignores an event without data. Here it is returned if it has an id, since the id is the position.
    """
    name, data, id_ = "message", list[str](), None
    async for raw in lines:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "" if not line:
                if data or id_ is not None:
                    yield ServerSentEvent(name, "\n".join(data), id_)
                name, data, id_ = "message", [], None
            case "event":
                name = value
            case "data":
                data.append(value)
            case "id":
                id_ = value


class Tail:
    """The delivery log as it grows: `async for delivery in gateway.deliveries.tail()`. The iteration does not end.

    When the connection is lost, the client reconnects, however long that takes, and continues after `last_event_id`.
    Store `last_event_id` to continue in another process. The iteration raises when the first connection fails, and when
    the gateway returns an error, for example because the key was removed.
    """

    def __init__(self, transport: Transport, query: Mapping[str, Any]) -> None:
        """Create the tail; `Deliveries.tail` does this."""
        self._transport = transport
        self._query = dict(query)
        self.last_event_id: str | None = self._query.pop("last_event_id", None)

    async def __aiter__(self) -> AsyncIterator[Delivery]:
        """Iterate over deliveries as they finish."""
        attempts, connected = 0, False
        while True:
            attempts += 1
            try:
                async for event in self._open_stream():
                    attempts, connected = 0, True
                    self.last_event_id = self.last_event_id if event.id is None else event.id
                    if event.name == "delivery":
                        yield decode(Delivery, json.loads(event.data))
                wait = back_off(1)
            except GatewayUnreachable:
                if attempts >= self._transport.max_attempts and not connected:
                    raise
                wait = back_off(attempts)
            except ApiError as error:
                is_temporary = error.status in (*NOT_PROCESSED_STATUSES, 502, 504)
                if not is_temporary or (attempts >= self._transport.max_attempts and not connected):
                    raise
                wait = parse_retry_after(error.retry_after) or back_off(attempts)
            await asyncio.sleep(wait)

    async def _open_stream(self) -> AsyncIterator[ServerSentEvent]:
        headers = {"Accept": "text/event-stream"}
        if self.last_event_id is not None:
            headers["Last-Event-ID"] = self.last_event_id
        async with self._transport.stream(
            "GET", "/v1/deliveries/stream", query=self._query, headers=headers
        ) as response:
            async for event in read_events(response.content):
                yield event


@dataclass(frozen=True, slots=True)
class ImportLineResult:
    """The result of one line. `status` says what was done, or is `refused`; then `errors` has the reasons."""

    line: int
    status: str
    id: str | None
    code: str | None
    errors: list[FieldError]


class ImportResults:
    """The results of a request with many lines. At the end, `sums` has the number of lines by status.

    Use `async for result in gateway.devices.import_many(registrations)`. Lines are sent as your iterator produces them.
    The client does not retry, because it cannot iterate twice; you may send all lines again safely.

    If the request fails, the iteration raises GatewayError after the results that were received before.
    """

    def __init__(
        self,
        transport: Transport,
        path: str,
        lines: Iterable[Any] | AsyncIterable[Any],
        query: Mapping[str, Any] | None = None,
    ) -> None:
        """Create the results; the methods of the resources do this."""
        self._transport = transport
        self._path = path
        self._lines = lines
        self._query = query
        self.sums: dict[str, int] = {}
        self._iterator_error: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[ImportLineResult]:
        """Send the lines and iterate over their results."""
        try:
            async for result in self._read_results():
                yield result
        except GatewayUnreachable:
            if self._iterator_error is not None:  # the iterator's exception ended the request
                raise self._iterator_error from None
            raise

    async def _read_results(self) -> AsyncIterator[ImportLineResult]:
        headers = {"Content-Type": NDJSON, "Accept": NDJSON}
        error: GatewayError | None = GatewayUnreachable("the response is incomplete")
        async with self._transport.stream(
            "POST", self._path, query=self._query, headers=headers, data=self._chunks()
        ) as response:
            async for record in _read_records(response):
                if "done" in record:
                    self.sums = {name: value for name, value in record.items() if type(value) is int}
                    error = None if record["done"] else error_from_response(response.status, record, response.headers)
                    continue
                errors = [FieldError(item["pointer"], item["detail"]) for item in record.get("errors", ())]
                yield ImportLineResult(record["line"], record["status"], record.get("id"), record.get("code"), errors)
        if error is not None:
            raise error

    async def _chunks(self) -> AsyncIterator[bytes]:
        chunk = bytearray()
        try:
            async for line in _iterate(self._lines):
                chunk += (line.strip() if isinstance(line, bytes) else encode_json(line)) + b"\n"
                if len(chunk) >= CHUNK_OCTETS:
                    yield bytes(chunk)
                    chunk.clear()
        except Exception as error:
            self._iterator_error = error
            raise
        yield bytes(chunk)


async def _read_records(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    try:
        async for line in response.content:
            yield json.loads(line)
    except ValueError as error:
        raise DecodeError(f"a result is not valid JSON: {error}") from None


async def _iterate(lines: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(lines, AsyncIterable):
        async for line in lines:
            yield line
        return
    for line in lines:
        yield line
