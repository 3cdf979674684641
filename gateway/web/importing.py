"""Import registrations: an NDJSON stream in, then a verdict for each line out."""

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from gateway.domain import ids
from gateway.domain.errors import GatewayError
from gateway.service.access import MANAGE
from gateway.service.registration import Desk, Registered
from gateway.web.devices import NewDevice
from gateway.web.ndjson import NDJSON, answer
from gateway.web.routes import Request, Routes

routes = Routes("devices")


@routes.add("POST", "/v1/devices/import", may=(MANAGE,), streams=NDJSON, answers={200: str})
async def import_(request: Request) -> web.StreamResponse:
    """Register many devices: one registration a line (application/x-ndjson), of any length in all.

    The answer is a line for each line, `{"line", "status": "created"|"refreshed"|"refused", "id"}` or `errors`,
    and a last one with the sums. A refused line keeps no other from being registered.
    """
    engine = request.context.engine
    async with engine.connect() as conn:
        desk = await Desk.open(conn, request.context, request.application_id)

    async def register(lines: Sequence[NewDevice]) -> list[dict[str, Any] | GatewayError]:
        async with engine.begin() as conn:
            registered = await desk.register_all(conn, [line.value() for line in lines])
        return [_verdict(came_to) for came_to in registered]

    return await answer(request.http, NewDevice, register, ("created", "refreshed"))


def _verdict(came_to: Registered | GatewayError) -> dict[str, Any] | GatewayError:
    if isinstance(came_to, GatewayError):
        return came_to
    return {"status": "created" if came_to.created else "refreshed", "id": ids.show(ids.DEVICE, came_to.device_id)}
