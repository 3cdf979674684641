"""NDJSON streams: any number of lines in, then a verdict for each line out.

The verdicts wait until the whole stream is read: most HTTP clients read no answer before they have sent
everything, and would wait for us as we for them.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from tempfile import SpooledTemporaryFile
from typing import Any, TypeVar

from aiohttp import web

from gateway.domain.errors import BodyTooLarge, GatewayError, Invalid, UnsupportedMediaType
from gateway.web import problems
from gateway.web.routes import to_json

NDJSON = "application/x-ndjson"
BATCH = 500
AT_A_TIME = 50
LONGEST_LINE = 65_536  # octets
IN_MEMORY = 1 << 20

B = TypeVar("B")
Read = Callable[[bytes], B]
"""What a line says. Raises GatewayError, which is a refusal of this line."""
Take = Callable[[Sequence[B]], Awaitable[Sequence[dict[str, Any] | GatewayError]]]
"""Does some lines' work in one transaction; answers with a verdict that has a `status`, or a refusal, for each."""


async def answer(http: web.Request, read: Read[B], take: Take[B], statuses: Sequence[str]) -> web.StreamResponse:
    """A line that cannot be read is `refused`, and keeps no other from being taken.

    A last line has the sums by status. Raises UnsupportedMediaType.
    """
    if http.content_type not in (NDJSON, "application/jsonl", "application/octet-stream"):
        raise UnsupportedMediaType(f"the body must be {NDJSON}, not {http.content_type[:80]}")
    sums = Counter(dict.fromkeys((*statuses, "refused"), 0))
    with SpooledTemporaryFile(max_size=IN_MEMORY) as spool:
        try:
            async for verdict in _verdicts(http, read, take):
                sums[verdict["status"]] += 1
                spool.write(to_json(verdict) + b"\n")
            last: dict[str, Any] = {"done": True, **sums}
        except problems.EXPECTED as error:  # lines before this one are done, and their verdicts must be heard
            refusal = problems.of(error)
            last = {"done": False, **sums, "code": refusal.code, "detail": refusal.detail}
        spool.write(to_json(last) + b"\n")
        spool.seek(0)
        response = web.StreamResponse(headers={"Content-Type": NDJSON})
        await response.prepare(http)
        while chunk := spool.read(IN_MEMORY):
            await response.write(chunk)
        await response.write_eof()
    return response


async def _verdicts(http: web.Request, read: Read[B], take: Take[B]) -> AsyncIterator[dict[str, Any]]:
    """In the order of the lines. While some are being taken, the next ones are read."""
    under_way: asyncio.Task[list[dict[str, Any]]] | None = None
    try:
        async for batch in _read_batches(http, read):
            if under_way is not None:
                for verdict in await under_way:
                    yield verdict
            under_way = asyncio.create_task(_taken(batch, take))
    except BodyTooLarge:  # the lines before are taken all the same
        if under_way is not None:
            for verdict in await under_way:
                yield verdict
        raise
    else:
        if under_way is not None:
            for verdict in await under_way:
                yield verdict
    finally:
        if under_way is not None:
            under_way.cancel()


async def _read_batches(http: web.Request, read: Read[B]) -> AsyncIterator[list[tuple[int, B | GatewayError]]]:
    async for batch in _batches(http):
        said: list[tuple[int, B | GatewayError]] = []
        for number, raw in batch:
            try:
                said.append((number, read(raw)))
            except GatewayError as refusal:
                said.append((number, refusal))
            if len(said) % AT_A_TIME == 0:
                await asyncio.sleep(0)  # whoever else is served by this process must not wait for all of them
        yield said


async def _taken(read: Sequence[tuple[int, B | GatewayError]], take: Take[B]) -> list[dict[str, Any]]:
    sound = [(line, body) for line, body in read if not isinstance(body, GatewayError)]
    taken = await take([body for _, body in sound]) if sound else []
    said = {line: came_to for (line, _), came_to in zip(sound, taken, strict=True)}
    return [_verdict(line, body if isinstance(body, GatewayError) else said[line]) for line, body in read]


def _verdict(line: int, came_to: dict[str, Any] | GatewayError) -> dict[str, Any]:
    match came_to:
        case Invalid(faults=faults):
            errors = [{"pointer": fault.pointer, "detail": fault.detail} for fault in faults]
            return {"line": line, "status": "refused", "code": Invalid.code, "errors": errors}
        case GatewayError():
            errors = [{"pointer": "", "detail": came_to.detail}]
            return {"line": line, "status": "refused", "code": came_to.code, "errors": errors}
    return {"line": line, **came_to}


async def _batches(http: web.Request) -> AsyncIterator[list[tuple[int, bytes]]]:
    """(line number, octets) of the lines that are not blank, some at a time. Raises BodyTooLarge."""
    batch: list[tuple[int, bytes]] = []
    async for number, line in _lines(http):
        if line.strip():
            batch.append((number, line))
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


async def _lines(http: web.Request) -> AsyncIterator[tuple[int, bytes]]:
    number, rest = 0, b""
    async for chunk in http.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            number += 1
            yield number, line
        if len(rest) > LONGEST_LINE:
            raise BodyTooLarge(f"line {number + 1} has more than {LONGEST_LINE} octets")
    if rest:
        yield number + 1, rest
