"""A hostile tenant and a hostile stranger, who load the gateway during a run; the other tenant's run must still pass.

The tenant has devices at the same push services, which refuse all of its messages but the first with one status. It
sends campaigns to them, previews costly audiences and repeats the other tenant's Idempotency-Keys. The stranger has no
credential: it holds silent connections, sends bodies octet by octet, posts costly documents and guesses tokens.
The harness does not check the responses to either. Both connect from the address ADDRESS, the harness from another.
"""

import asyncio
import cmath
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import aiohttp

from gateway.domain import ids
from gateway.service.access import applications
from gateway.sim import Limit, Vendor
from tests.faults.plan import REQUESTS
from tests.support.gateway_parts import APP_ORIGIN, Parts

ADDRESS = "127.0.0.2"
DEVICES_PER_VENDOR = 50
SILENT_CONNECTIONS = 30
DRIPPING_BODIES = 4
# Seconds between two requests of one kind.
INTERVAL_S = 0.25
# Corners of the star, whose edges all cross each other.
CORNERS = 301
# The window in which push services accept one message of the tenant, longer than any run.
REFUSAL_S = 3600.0
CONNECTION_ERRORS = (aiohttp.ClientError, OSError, TimeoutError)


async def create_tenant(parts: Parts) -> Parts:
    """Create the hostile application and its devices; return a copy of the parts with that application."""
    async with parts.engine.begin() as conn:
        application = await applications.create(
            conn, parts.context.keyring, "Hostile", "mailto:ops@example.com", [APP_ORIGIN]
        )
    application_id = ids.parse(ids.APPLICATION, application["id"])
    assert application_id is not None
    tenant = replace(parts, application_id=application_id, application=application)
    for vendor in Vendor:
        await tenant.register(tenant.subscribe(vendor, DEVICES_PER_VENDOR, share_keys=True))
    return tenant


def refusals(tenant: Parts, status: int) -> Limit:
    """Return the limit by which push services refuse the tenant's messages with `status`, except the first."""
    return Limit(messages=1, window_s=REFUSAL_S, site=tenant.application["vapid_public_key"], status=status)


@asynccontextmanager
async def attack(tenant: Parts, origin: str, seed: int) -> AsyncIterator[None]:
    """Attack the API at `origin` as the tenant and as the stranger until the context ends."""
    async with AsyncExitStack() as stack:
        connector = aiohttp.TCPConnector(local_addr=(ADDRESS, 0), limit=0)
        http = await stack.enter_async_context(aiohttp.ClientSession(origin, connector=connector))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        attacks: list[Callable[[], Awaitable[None]]] = [
            lambda: _send_campaigns(http, tenant),
            lambda: _preview_audiences(http, tenant),
            lambda: _repeat_keys(http, tenant, seed),
            lambda: _post_documents(http),
            lambda: _guess_tokens(http),
            *[lambda: _drip_body(http)] * DRIPPING_BODIES,
            *[lambda: _stay_silent(origin)] * SILENT_CONNECTIONS,
        ]
        tasks = [group.create_task(_repeat(action)) for action in attacks]
        yield
        for task in tasks:
            task.cancel()


async def _repeat(action: Callable[[], Awaitable[None]]) -> None:
    while True:
        with suppress(*CONNECTION_ERRORS):  # a fault of the run, or the gateway closed the connection
            await action()
        await asyncio.sleep(INTERVAL_S)


async def _post(http: aiohttp.ClientSession, path: str, key: str | None, **body: Any) -> None:
    headers = {**body.pop("headers", {})}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    async with http.post(path, headers=headers, **body) as response:
        await response.read()


async def _send_campaigns(http: aiohttp.ClientSession, tenant: Parts) -> None:
    body = {"name": "flood", "content": {"title": "flood"}, "audience": {"everyone": True}, "delivery": {"ttl": 7200}}
    await _post(http, "/v1/campaigns", tenant.application["secret_key"], json=body)


async def _preview_audiences(http: aiohttp.ClientSession, tenant: Parts) -> None:
    leaves = [{"attribute": "plan", "contains": f"p{number}"} for number in range(200)]
    await _post(http, "/v1/audiences/preview", tenant.application["secret_key"], json={"audience": {"any": leaves}})


async def _repeat_keys(http: aiohttp.ClientSession, tenant: Parts, seed: int) -> None:
    for title in ("campaign", *(f"request {number}" for number in range(REQUESTS))):
        headers = {"Idempotency-Key": f"seed {seed} {title}", "Origin": APP_ORIGIN}
        await _post(http, "/v1/devices", tenant.application["publishable_key"], json={}, headers=headers)


async def _post_documents(http: aiohttp.ClientSession) -> None:
    await _post(http, "/v1/alerts", None, data=_star_alert(), headers={"Content-Type": "application/cap+xml"})


def _star_alert() -> bytes:
    """Return a CAP document whose polygon crosses itself in every edge, which is costly to check."""
    step = CORNERS // 2
    corners = [cmath.rect(1, 2 * cmath.pi * step * number / CORNERS) for number in range(CORNERS + 1)]
    polygon = " ".join(f"{48 + corner.real:.5f},{16 + corner.imag:.5f}" for corner in corners)
    return f"""
        <alert xmlns="urn:oasis:names:tc:emergency:cap:1.2"><identifier>star</identifier><sender>x@example.com</sender>
        <sent>2026-11-30T12:00:00+00:00</sent><status>Actual</status><msgType>Alert</msgType><scope>Public</scope>
        <info><category>Met</category><event>Star</event><urgency>Immediate</urgency><severity>Extreme</severity>
        <certainty>Observed</certainty><area><areaDesc>Star</areaDesc><polygon>{polygon}</polygon></area></info>
        </alert>""".strip().encode()


async def _guess_tokens(http: aiohttp.ClientSession) -> None:
    for token in ("dt_guessed", "sk_guessed", "pk_guessed", "x" * 200):
        await _post(http, "/v1/notifications", token, json={})


async def _drip_body(http: aiohttp.ClientSession) -> None:
    async def octets() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b" "
            await asyncio.sleep(INTERVAL_S)

    await _post(http, "/v1/notifications", None, data=octets(), headers={"Content-Type": "application/json"})


async def _stay_silent(origin: str) -> None:
    host, _, port = origin.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), local_addr=(ADDRESS, 0))
    try:
        await reader.read()  # until the gateway closes the connection
    finally:
        writer.close()
