"""Import registrations: an NDJSON stream in, then a verdict for each line out."""

from collections.abc import Sequence
from typing import Annotated, Any

from aiohttp import web
from pydantic import Field

from gateway.domain import ids
from gateway.records.devices import CheckedRegistration
from gateway.service.access.authentication import MANAGE
from gateway.service.audience.registration import DeviceRegistrar
from gateway.web.api.device_import_decoder import read_line
from gateway.web.http.ndjson import NDJSON, answer, still_admitted
from gateway.web.http.parsing import Query
from gateway.web.http.routing import Request, Routes

routes = Routes("devices")


class ImportQuery(Query):
    dry_run: Annotated[bool, Field(description="Check every line, and register nothing: the status is `valid`.")] = (
        False
    )


@routes.add("POST", "/v1/devices/import", scopes=(MANAGE,), query=ImportQuery, streams=NDJSON, responses={200: str})
async def import_(request: Request[None, ImportQuery]) -> web.StreamResponse:
    """Register many devices: one registration a line (application/x-ndjson), of any length in all.

    The answer is a line for each line, `{"line", "status": "created"|"refreshed"|"refused", "id"}` or `errors`,
    and a last one with the sums. A refused line keeps no other from being registered.
    """
    engine = request.context.engine
    async with engine.connect() as conn:
        desk = await DeviceRegistrar.open(conn, request.context, request.application_id)

    def read(line: bytes) -> CheckedRegistration:
        return desk.check(read_line(line))

    async def check(new: Sequence[CheckedRegistration]) -> list[dict[str, Any]]:
        return [{"status": "valid"} for _ in new]

    async def register(new: Sequence[CheckedRegistration]) -> list[dict[str, Any]]:
        await still_admitted(request)
        async with engine.begin() as conn:
            registered = await desk.register_all(conn, new)
        return [
            {"status": "created" if one.created else "refreshed", "id": ids.format_id(ids.DEVICE, one.device_id)}
            for one in registered
        ]

    def name(new: CheckedRegistration) -> str:
        return new.registration.subscription.endpoint

    if request.query.dry_run:
        return await answer(request, read, check, name, ("valid",))
    return await answer(request, read, register, name, ("created", "refreshed"))
