"""NDJSON streams: any number of lines in, then a verdict for each line out.

The verdicts wait until the whole stream is read: most HTTP clients read no answer before they have sent
everything, and would wait for us as we for them.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence, Set
from tempfile import SpooledTemporaryFile
from typing import Any, NamedTuple, TypeVar

import msgspec
from aiohttp import web

from gateway.domain.errors import (
    BodyTooLarge,
    BodyTooSlow,
    FieldError,
    GatewayError,
    Unauthenticated,
    UnsupportedMediaType,
    ValidationError,
)
from gateway.web.http import problems
from gateway.web.http.routing import Request

NDJSON = "application/x-ndjson"
BATCH = 500
BATCH_OCTETS = 1 << 20
# Batches: the database takes one while it waits for the disk, or for us, with another.
AT_ONCE = 2
AT_A_TIME = 10
MAX_LINE_LENGTH = 65_536  # octets
IN_MEMORY = 1 << 20
# Lines may come as slowly as they are made, but not never.
SILENCE_S = 60

_encoder = msgspec.json.Encoder()

B = TypeVar("B")
Read = Callable[[bytes], B]
"""What a line says. Raises GatewayError, which is a refusal of this line."""
Take = Callable[[Sequence[B]], Awaitable[Sequence[dict[str, Any] | GatewayError]]]
"""Does some lines' work in one transaction; answers with a verdict that has a `status`, or a refusal, for each."""
Name = Callable[[B], object]
"""What a line is about. Lines about the same are taken in their order; others may be taken at once."""


class _Taking(NamedTuple):
    task: asyncio.Task[list[tuple[int, dict[str, Any] | GatewayError]]]
    names: Set[object]


async def answer(
    request: Request[Any, Any], read: Read[B], take: Take[B], name: Name[B], statuses: Sequence[str]
) -> web.StreamResponse:
    """A line that cannot be read is `refused`, and keeps no other from being taken.

    A last line has the sums by status. Raises UnsupportedMediaType, and RateLimited and Unavailable when too many are
    being taken already.
    """
    http = request.http
    if http.content_type not in (NDJSON, "application/jsonl", "application/octet-stream"):
        raise UnsupportedMediaType(f"the body must be {NDJSON}, not {http.content_type[:80]}")
    sums = Counter(dict.fromkeys((*statuses, "refused"), 0))
    with (
        request.state.limits.imports.slot_of(request.application_id),
        SpooledTemporaryFile(max_size=IN_MEMORY) as spool,
    ):
        try:
            async for verdicts in _verdicts(http, read, take, name):
                sums.update([verdict["status"] for verdict in verdicts])
                spool.write(_encoder.encode_lines(verdicts))
            last: dict[str, Any] = {"done": True, **sums}
        except problems.EXPECTED as error:  # lines before this one are done, and their verdicts must be heard
            refusal = problems.of(error)
            last = {"done": False, **sums, "code": refusal.code, "detail": refusal.detail}
        spool.write(_encoder.encode_lines([last]))
        spool.seek(0)
        response = web.StreamResponse(headers={"Content-Type": NDJSON})
        await response.prepare(http)
        while chunk := spool.read(IN_MEMORY):
            async with asyncio.timeout(SILENCE_S):  # whoever asks and does not read is left
                await response.write(chunk)
        await response.write_eof()
    return response


async def still_admitted(request: Request[Any, Any]) -> None:
    """Raises Unauthenticated when the key was removed since: a stream may go on for hours."""
    if not await request.state.authenticator.still_admits(request.principal):
        raise Unauthenticated("the key is unknown or was removed")


async def _verdicts(
    http: web.Request, read: Read[B], take: Take[B], name: Name[B]
) -> AsyncIterator[list[dict[str, Any]]]:
    """In the order of the lines. While some are being taken, the next ones are read, and the ones before told."""
    under_way: deque[_Taking] = deque()
    broken: GatewayError | None = None
    try:
        batches = _read_batches(http, read)
        while True:
            try:
                batch = await anext(batches, None)
            except (BodyTooLarge, BodyTooSlow) as error:  # the lines before are taken all the same
                batch, broken = None, error
            said = batch or []
            names = {name(one) for _, one in said if not isinstance(one, GatewayError)}
            while under_way and (batch is None or len(under_way) == AT_ONCE or not _apart(names, under_way)):
                yield [_verdict(line, came_to) for line, came_to in await under_way[0].task]
                under_way.popleft()
            if batch is None:
                break
            under_way.append(_Taking(asyncio.create_task(_taken(batch, take)), names))
        if broken is not None:
            raise broken
    finally:
        for taking in under_way:
            taking.task.cancel()


def _apart(names: Set[object], under_way: Iterable[_Taking]) -> bool:
    """Whether nothing of these is being taken now: of two lines about the same the later one must win."""
    return all(names.isdisjoint(taking.names) for taking in under_way)


async def _read_batches(http: web.Request, read: Read[B]) -> AsyncIterator[list[tuple[int, B | GatewayError]]]:
    async for batch in _batches(http):
        said: list[tuple[int, B | GatewayError]] = []
        for number, raw in batch:
            try:
                said.append((number, read(raw)))
            except GatewayError as refusal:
                said.append((number, refusal))
            if len(said) % AT_A_TIME == 0:
                await asyncio.sleep(0)  # neither the database nor whoever else is served must wait for all of them
        yield said


async def _taken(
    said: Sequence[tuple[int, B | GatewayError]], take: Take[B]
) -> list[tuple[int, dict[str, Any] | GatewayError]]:
    sound = [one for _, one in said if not isinstance(one, GatewayError)]
    taken = iter(await take(sound) if sound else ())
    return [(line, one if isinstance(one, GatewayError) else next(taken)) for line, one in said]


def _verdict(line: int, came_to: dict[str, Any] | GatewayError) -> dict[str, Any]:
    if not isinstance(came_to, GatewayError):
        return {"line": line, **came_to}
    faults = came_to.errors if isinstance(came_to, ValidationError) else [FieldError("", came_to.detail)]
    errors = [{"pointer": fault.pointer, "detail": fault.detail} for fault in faults]
    return {"line": line, "status": "refused", "code": came_to.code, "errors": errors}


async def _batches(http: web.Request) -> AsyncIterator[list[tuple[int, bytes]]]:
    """(line number, octets) of the lines that are not blank, some at a time. Raises BodyTooLarge and BodyTooSlow."""
    batch: list[tuple[int, bytes]] = []
    octets = 0
    async for lines in _lines(http):
        for number, line in lines:
            if line.strip():
                batch.append((number, line))
                octets += len(line)
            if len(batch) == BATCH or octets >= BATCH_OCTETS:
                yield batch
                batch, octets = [], 0
    if batch:
        yield batch


async def _lines(http: web.Request) -> AsyncIterator[Iterable[tuple[int, bytes]]]:
    number, rest = 1, b""
    while chunk := await _chunk(http):
        *lines, rest = (rest + chunk).split(b"\n")
        yield enumerate(lines, number)
        number += len(lines)
        if len(rest) > MAX_LINE_LENGTH:
            raise BodyTooLarge(f"line {number} has more than {MAX_LINE_LENGTH} octets")
    if rest:
        yield [(number, rest)]


async def _chunk(http: web.Request) -> bytes:
    """What has come; nothing at the end."""
    try:
        async with asyncio.timeout(SILENCE_S):
            return await http.content.readany()
    except TimeoutError:
        raise BodyTooSlow(f"nothing has come for {SILENCE_S} s") from None
