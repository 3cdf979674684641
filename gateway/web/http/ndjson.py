"""NDJSON streams: any number of lines in the request, and a result for each line in the response.

The results are sent after the whole request was read. Most HTTP clients read the response only after they have sent the
whole request, so client and server could otherwise wait for each other forever.
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
from gateway.domain.json_object import JsonObject
from gateway.web.http import problems
from gateway.web.http.routing import Request

# Media type of NDJSON.
NDJSON = "application/x-ndjson"
# A batch has at most this many lines and octets.
BATCH = 500
MAX_BATCH_OCTETS = 1 << 20
# Maximum number of batches in progress: one batch can wait for the database while the next batch is parsed.
MAX_CONCURRENT_BATCHES = 2
# Number of lines that are parsed before other tasks of the event loop may run.
LINES_PER_TURN = 10
MAX_LINE_LENGTH = 65_536  # octets
# Results beyond this size are stored in a temporary file.
MAX_SPOOL_OCTETS = 1 << 20
# Maximum pause between two chunks of the request. There is no limit for the whole request, since a client may produce
# lines slowly.
CHUNK_TIMEOUT_S = 60

_encoder = msgspec.json.Encoder()

B = TypeVar("B")
LineResult = JsonObject | GatewayError
# Parses a line. If it raises a GatewayError, only this line is refused.
ParseLine = Callable[[bytes], B]
# Processes lines in one transaction. Returns the result of each line (with a `status`), or the error of the line.
ProcessLines = Callable[[Sequence[B]], Awaitable[Sequence[LineResult]]]
# Returns the key of a line. Lines with the same key are processed in order; other lines may be processed concurrently.
KeyOf = Callable[[B], object]


class _BatchInProgress(NamedTuple):
    task: asyncio.Task[list[tuple[int, LineResult]]]
    keys: Set[object]


async def respond(
    request: Request[Any, Any],
    parse_line: ParseLine[B],
    process_lines: ProcessLines[B],
    key_of: KeyOf[B],
    statuses: Sequence[str],
) -> web.StreamResponse:
    """Process the lines of a request, and send the response: a line for each result, and a last line with the totals.

    A refused line has the status `refused`, and does not affect other lines. `statuses` are the statuses of accepted
    lines, for the totals.

    Raises:
        UnsupportedMediaType: the request is not NDJSON.
        RateLimited: the application has used up its share of NDJSON requests in progress.
        Unavailable: the maximum number of NDJSON requests is in progress in this process.
    """
    http = request.http
    if http.content_type not in (NDJSON, "application/jsonl", "application/octet-stream"):
        raise UnsupportedMediaType(f"the body must be {NDJSON}, not {http.content_type[:80]}")
    totals = Counter(dict.fromkeys((*statuses, "refused"), 0))
    with (
        request.state.limits.imports.slot_of(request.application_id),
        SpooledTemporaryFile(max_size=MAX_SPOOL_OCTETS) as spool,
    ):
        try:
            async for results in _process(http, parse_line, process_lines, key_of):
                totals.update([result["status"] for result in results])
                spool.write(_encoder.encode_lines(results))
            summary: JsonObject = {"done": True, **totals}
        # The lines before the error were committed, so their results are sent nevertheless.
        except problems.EXPECTED_ERRORS as exception:
            error = problems.from_exception(exception)
            summary = {"done": False, **totals, "code": error.code, "detail": error.detail}
        spool.write(_encoder.encode_lines([summary]))
        spool.seek(0)
        response = web.StreamResponse(headers={"Content-Type": NDJSON})
        await response.prepare(http)
        while chunk := spool.read(MAX_SPOOL_OCTETS):
            async with asyncio.timeout(CHUNK_TIMEOUT_S):  # a client that does not read is disconnected
                await response.write(chunk)
        await response.write_eof()
    return response


async def check_credential(request: Request[Any, Any]) -> None:
    """Check that the API key of the request still exists. Call it for each batch, since a stream may last for hours.

    Raises:
        Unauthenticated: the key was removed.
    """
    if not await request.state.authenticator.is_still_valid(request.principal):
        raise Unauthenticated("the key is unknown or was removed")


async def _process(
    http: web.Request, parse_line: ParseLine[B], process_lines: ProcessLines[B], key_of: KeyOf[B]
) -> AsyncIterator[list[JsonObject]]:
    """Yield the results in the order of the lines. The next batch is read while batches are being processed."""
    in_progress: deque[_BatchInProgress] = deque()
    read_error: GatewayError | None = None
    try:
        batches = _parse_batches(http, parse_line)
        while True:
            try:
                batch = await anext(batches, None)
            except (BodyTooLarge, BodyTooSlow) as error:  # the lines before the error are processed nevertheless
                batch, read_error = None, error
            keys = {key_of(line) for _, line in batch or [] if not isinstance(line, GatewayError)}
            while in_progress and (
                batch is None or len(in_progress) == MAX_CONCURRENT_BATCHES or _conflicts(keys, in_progress)
            ):
                yield [_to_json(number, result) for number, result in await in_progress[0].task]
                in_progress.popleft()
            if batch is None:
                break
            in_progress.append(_BatchInProgress(asyncio.create_task(_process_batch(batch, process_lines)), keys))
        if read_error is not None:
            raise read_error
    finally:
        for entry in in_progress:
            entry.task.cancel()


def _conflicts(keys: Set[object], in_progress: Iterable[_BatchInProgress]) -> bool:
    """Return whether a batch in progress has one of the keys. Lines with the same key must be processed in order."""
    return not all(keys.isdisjoint(entry.keys) for entry in in_progress)


async def _parse_batches(
    http: web.Request, parse_line: ParseLine[B]
) -> AsyncIterator[list[tuple[int, B | GatewayError]]]:
    """Yield batches of (line number, parsed line or the error of the line)."""
    async for batch in _read_batches(http):
        lines: list[tuple[int, B | GatewayError]] = []
        for number, raw in batch:
            try:
                lines.append((number, parse_line(raw)))
            except GatewayError as error:
                lines.append((number, error))
            if len(lines) % LINES_PER_TURN == 0:
                await asyncio.sleep(0)  # let other tasks run: parsing a whole batch takes too long
        yield lines


async def _process_batch(
    lines: Sequence[tuple[int, B | GatewayError]], process_lines: ProcessLines[B]
) -> list[tuple[int, LineResult]]:
    valid = [line for _, line in lines if not isinstance(line, GatewayError)]
    results = iter(await process_lines(valid) if valid else ())
    return [(number, line if isinstance(line, GatewayError) else next(results)) for number, line in lines]


def _to_json(number: int, result: LineResult) -> dict[str, Any]:
    if not isinstance(result, GatewayError):
        return {"line": number, **result}
    errors = result.errors if isinstance(result, ValidationError) else [FieldError("", result.detail)]
    errors_json = [{"pointer": error.pointer, "detail": error.detail} for error in errors]
    return {"line": number, "status": "refused", "code": result.code, "errors": errors_json}


async def _read_batches(http: web.Request) -> AsyncIterator[list[tuple[int, bytes]]]:
    """Yield batches of (line number, line), without blank lines.

    Raises:
        BodyTooLarge: a line is too long.
        BodyTooSlow: no data arrived for CHUNK_TIMEOUT_S.
    """
    batch: list[tuple[int, bytes]] = []
    octets = 0
    async for lines in read_lines(http):
        for number, line in lines:
            if line.strip():
                batch.append((number, line))
                octets += len(line)
            if len(batch) == BATCH or octets >= MAX_BATCH_OCTETS:
                yield batch
                batch, octets = [], 0
    if batch:
        yield batch


async def read_lines(http: web.Request) -> AsyncIterator[Iterable[tuple[int, bytes]]]:
    """Yield (line number, line) of a request, for each chunk that arrives.

    Raises:
        BodyTooLarge: a line is too long.
        BodyTooSlow: no data arrived for CHUNK_TIMEOUT_S.
    """
    number, rest = 1, b""
    while chunk := await _read_chunk(http):
        *lines, rest = (rest + chunk).split(b"\n")
        yield enumerate(lines, number)
        number += len(lines)
        if len(rest) > MAX_LINE_LENGTH:
            raise BodyTooLarge(f"line {number} has more than {MAX_LINE_LENGTH} octets")
    if rest:
        yield [(number, rest)]


async def _read_chunk(http: web.Request) -> bytes:
    """Wait for data and return it; empty at the end of the body."""
    try:
        async with asyncio.timeout(CHUNK_TIMEOUT_S):
            return await http.content.readany()
    except TimeoutError:
        raise BodyTooSlow(f"no data arrived for {CHUNK_TIMEOUT_S} s") from None
