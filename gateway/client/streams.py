"""What has no end, or any length: the log as it grows, and many lines sent at once."""

import asyncio
import json
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import aiohttp

from gateway.client.decoding import decode
from gateway.client.errors import DecodeError, FieldError, GatewayError, Refused, Unreachable, refusal
from gateway.client.responses import Delivery
from gateway.client.transport import NOT_DONE, Transport, asked_wait, back_off, to_json

NDJSON = "application/x-ndjson"
AT_A_TIME = 64 * 1024  # octets


class Event(NamedTuple):
    """One Server-Sent Event. Without `data` it only tells where a reader is now."""

    name: str
    data: str
    id: str | None


async def read_events(lines: AsyncIterable[bytes]) -> AsyncIterator[Event]:
    """As the HTML standard reads them (section 9.2.6), except that an id alone is told too."""
    name, data, id_ = "message", list[str](), None
    async for raw in lines:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "" if not line:
                if data or id_ is not None:
                    yield Event(name, "\n".join(data), id_)
                name, data, id_ = "message", [], None
            case "event":
                name = value
            case "data":
                data.append(value)
            case "id":
                id_ = value


class Tail:
    """The log as it grows: `async for delivery in gateway.deliveries.tail()`, for ever.

    A connection that broke is made again, however long that takes, and goes on after `last_event_id`: keep that to go
    on in another process. It ends with an exception when the first one cannot be made, and when the gateway refuses, as
    it does once the key is removed.
    """

    def __init__(self, transport: Transport, query: Mapping[str, Any]) -> None:
        self._transport = transport
        self._query = dict(query)
        self.last_event_id: str | None = self._query.pop("last_event_id", None)

    async def __aiter__(self) -> AsyncIterator[Delivery]:
        failed, connected = 0, False
        while True:
            failed += 1
            try:
                async for event in self._connected():
                    failed, connected = 0, True
                    self.last_event_id = self.last_event_id if event.id is None else event.id
                    if event.name == "delivery":
                        yield decode(Delivery, json.loads(event.data))
                wait = back_off(1)
            except Unreachable:
                if failed >= self._transport.tries and not connected:
                    raise
                wait = back_off(failed)
            except Refused as refused:
                passing = refused.status in (*NOT_DONE, 502, 504)
                if not passing or (failed >= self._transport.tries and not connected):
                    raise
                wait = asked_wait(refused.retry_after) or back_off(failed)
            await asyncio.sleep(wait)

    async def _connected(self) -> AsyncIterator[Event]:
        headers = {"Accept": "text/event-stream"}
        if self.last_event_id is not None:
            headers["Last-Event-ID"] = self.last_event_id
        async with self._transport.stream("GET", "/v1/deliveries/stream", query=self._query, headers=headers) as answer:
            async for event in read_events(answer.content):
                yield event


@dataclass(frozen=True, slots=True)
class ImportLineResult:
    """What became of a line. `status` is `refused`, with its `faults`, or what was done."""

    line: int
    status: str
    id: str | None
    code: str | None
    faults: list[FieldError]


class ImportResults:
    """`async for verdict in gateway.devices.import_(registrations)`: one for each line, and then `sums` by status.

    The lines are sent as the iterator makes them, and are not sent again: it could not make them twice. A line may
    safely come again. Raises GatewayError when it broke off; the verdicts until then are told first.
    """

    def __init__(
        self,
        transport: Transport,
        at: str,
        lines: Iterable[Any] | AsyncIterable[Any],
        query: Mapping[str, Any] | None = None,
    ) -> None:
        self._transport = transport
        self._at = at
        self._lines = lines
        self._query = query
        self.sums: dict[str, int] = {}
        self._fault: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[ImportLineResult]:
        try:
            async for verdict in self._asked():
                yield verdict
        except Unreachable:
            if self._fault is not None:  # the lines ended, and so did the connection
                raise self._fault from None
            raise

    async def _asked(self) -> AsyncIterator[ImportLineResult]:
        headers = {"Content-Type": NDJSON, "Accept": NDJSON}
        broken: GatewayError | None = Unreachable("the answer broke off")
        async with self._transport.stream(
            "POST", self._at, query=self._query, headers=headers, data=self._chunks()
        ) as answer:
            async for said in _told(answer):
                if "done" in said:
                    self.sums = {name: value for name, value in said.items() if type(value) is int}
                    broken = None if said["done"] else refusal(answer.status, said, answer.headers)
                    continue
                faults = [FieldError(one["pointer"], one["detail"]) for one in said.get("errors", ())]
                yield ImportLineResult(said["line"], said["status"], said.get("id"), said.get("code"), faults)
        if broken is not None:
            raise broken

    async def _chunks(self) -> AsyncIterator[bytes]:
        chunk = bytearray()
        try:
            async for line in _each(self._lines):
                chunk += (line.strip() if isinstance(line, bytes) else to_json(line)) + b"\n"
                if len(chunk) >= AT_A_TIME:
                    yield bytes(chunk)
                    chunk.clear()
        except Exception as error:
            self._fault = error
            raise
        yield bytes(chunk)


async def _told(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    try:
        async for line in answer.content:
            yield json.loads(line)
    except ValueError as error:
        raise DecodeError(f"a verdict cannot be read: {error}") from None


async def _each(lines: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(lines, AsyncIterable):
        async for line in lines:
            yield line
        return
    for line in lines:
        yield line
