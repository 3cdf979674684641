"""Import registrations: an NDJSON stream in, then a verdict for each line out.

The verdicts wait until the whole stream is read: most HTTP clients read no answer before they have sent
everything, and would wait for us as we for them.
"""

from collections.abc import AsyncIterator
from tempfile import SpooledTemporaryFile
from typing import Any

from aiohttp import web

from gateway.domain import ids
from gateway.domain.errors import BodyTooLarge, GatewayError, Invalid, MalformedBody, UnsupportedMediaType
from gateway.service.access import MANAGE
from gateway.service.registration import Desk, Registered
from gateway.web import problems
from gateway.web.devices import NewDevice
from gateway.web.reading import read_body
from gateway.web.routes import Request, Routes, to_json

routes = Routes("devices")

BATCH = 500
LONGEST_LINE = 65_536  # octets
IN_MEMORY = 1 << 20
NDJSON = "application/x-ndjson"


@routes.add("POST", "/v1/devices/import", may=(MANAGE,), streams=NDJSON, answers={200: str})
async def import_(request: Request) -> web.StreamResponse:
    """Register many devices: one registration a line (application/x-ndjson), of any length in all.

    The answer is a line for each line, `{"line", "status": "created"|"refreshed"|"refused", "id"}` or `errors`,
    and a last one with the sums. A refused line keeps no other from being registered.
    """
    http = request.http
    if http.content_type not in (NDJSON, "application/jsonl", "application/octet-stream"):
        raise UnsupportedMediaType(f"the body must be {NDJSON}, not {http.content_type[:80]}")
    sums = {"created": 0, "refreshed": 0, "refused": 0}
    with SpooledTemporaryFile(max_size=IN_MEMORY) as spool:
        try:
            async for verdicts in _verdicts(request):
                for verdict in verdicts:
                    sums[verdict["status"]] += 1
                    spool.write(to_json(verdict) + b"\n")
            last: dict[str, Any] = {"done": True, **sums}
        except problems.EXPECTED as error:  # lines before this one are registered, and their verdicts must be heard
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


async def _verdicts(request: Request) -> AsyncIterator[list[dict[str, Any]]]:
    engine = request.context.engine
    async with engine.connect() as conn:
        desk = await Desk.open(conn, request.context, request.application_id)
    async for batch in _batches(request.http):
        read = [(line, _read(raw)) for line, raw in batch]
        sound = [(line, new.value()) for line, new in read if isinstance(new, NewDevice)]
        async with engine.begin() as conn:
            registered = await desk.register_all(conn, [registration for _, registration in sound])
        said = {line: verdict for (line, _), verdict in zip(sound, registered, strict=True)}
        yield [_verdict(line, new if isinstance(new, GatewayError) else said[line]) for line, new in read]


def _read(raw: bytes) -> NewDevice | GatewayError:
    try:
        return read_body(NewDevice, raw)
    except (MalformedBody, Invalid) as refusal:
        return refusal


def _verdict(line: int, came_to: Registered | GatewayError) -> dict[str, Any]:
    match came_to:
        case Registered(device_id, created):
            status = "created" if created else "refreshed"
            return {"line": line, "status": status, "id": ids.show(ids.DEVICE, device_id)}
        case Invalid(faults=faults):
            errors = [{"pointer": fault.pointer, "detail": fault.detail} for fault in faults]
            return {"line": line, "status": "refused", "code": Invalid.code, "errors": errors}
        case GatewayError():
            errors = [{"pointer": "", "detail": came_to.detail}]
            return {"line": line, "status": "refused", "code": came_to.code, "errors": errors}


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
