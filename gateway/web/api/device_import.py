"""Import devices: the request is an NDJSON stream of registrations, the response has a result for each line."""

from collections.abc import Sequence
from typing import Annotated

from aiohttp import web
from pydantic import Field

from gateway.domain import ids
from gateway.domain.database_work import EXPORT
from gateway.domain.json_object import JsonObject
from gateway.service.access.authentication import MANAGE
from gateway.service.audience.registration import CheckedRegistration, DeviceRegistrar
from gateway.web.api.device_import_decoder import read_line
from gateway.web.http.ndjson import NDJSON, check_credential, respond
from gateway.web.http.parsing import Query
from gateway.web.http.routing import Request, Routes

routes = Routes("devices")


class ImportQuery(Query):
    """Options of an import."""

    dry_run: Annotated[
        bool, Field(description="Validate every line without registering devices; valid lines get the status `valid`.")
    ] = False


@routes.add("POST", "/v1/devices/import", scopes=(MANAGE,), query=ImportQuery, streams=NDJSON, responses={200: str})
async def import_devices(request: Request[None, ImportQuery]) -> web.StreamResponse:
    """Register many devices: one registration per line (application/x-ndjson), any number of lines.

    The response has a line for each line of the request: `{"line", "status": "created"|"refreshed", "id"}`, or
    `{"line", "status": "refused", "code", "errors"}`. Its last line has the totals. A refused line does not affect the
    others.
    """
    share = request.context.connections.share(EXPORT, request.application_id)
    async with share.connect() as conn:
        registrar = await DeviceRegistrar.open(conn, request.context, request.application_id)

    def parse_line(line: bytes) -> CheckedRegistration:
        return registrar.check(read_line(line))

    async def skip(registrations: Sequence[CheckedRegistration]) -> list[JsonObject]:
        return [{"status": "valid"} for _ in registrations]

    async def register(registrations: Sequence[CheckedRegistration]) -> list[JsonObject]:
        await check_credential(request)
        async with share.begin() as conn:
            results = await registrar.register_all(conn, registrations)
        return [
            {"status": "created" if result.created else "refreshed", "id": ids.format_id(ids.DEVICE, result.device_id)}
            for result in results
        ]

    def endpoint_of(checked: CheckedRegistration) -> str:
        return checked.registration.subscription.endpoint

    if request.query.dry_run:
        return await respond(request, parse_line, skip, endpoint_of, ("valid",))
    return await respond(request, parse_line, register, endpoint_of, ("created", "refreshed"))
