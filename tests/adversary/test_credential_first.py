"""Before the credential of a request is checked, the server only reads the headers.

A stranger or a tenant sends bodies that are costly, endless or slow, and credentials that nobody issued.
"""

import asyncio
import resource
import secrets
from collections.abc import Iterator

import aiohttp
import pytest

from tests.support.alerts import CAP, star_document
from tests.support.bystander import Bystander
from tests.support.gateway_parts import APP_ORIGIN, Parts
from tests.support.raw_requests import open_connections, read_status, request_head

MEBIBYTE = 1 << 20
# The pause between two requests of one attacker: the test is of the credentials, not of the number of requests.
PAUSE_S = 0.02


@pytest.fixture(autouse=True)
def _raise_descriptor_limit() -> Iterator[None]:
    """Allow this process the file descriptors for 1,000 connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("key", [None, "sk_" + "x" * 43])
async def test_costly_document_of_a_stranger_delays_no_alert(
    bystander: Bystander, origin: str, http: aiohttp.ClientSession, key: str | None
) -> None:
    """Six documents of star polygons without a valid key are refused before they are parsed."""
    headers = {"Content-Type": CAP} | ({} if key is None else {"Authorization": f"Bearer {key}"})
    document = star_document(7, 100)

    async def attack() -> int:
        async with http.post(f"{origin}/v1/alerts", data=document, headers=headers) as response:
            return response.status

    attacks = [asyncio.create_task(attack()) for _ in range(6)]
    await bystander.check_alert()
    assert await asyncio.gather(*attacks) == [401] * 6


@pytest.mark.parametrize(("count", "octets"), [(8, 8 * MEBIBYTE), (1000, 2)])
async def test_stalled_body_of_a_stranger_delays_no_alert(
    bystander: Bystander, origin: str, count: int, octets: int
) -> None:
    """Bodies without a credential that stall before their last octet take no memory and no place from an alert."""
    head = request_head("/v1/alerts", Content_Type=CAP, Content_Length=str(octets))
    async with open_connections(origin, count, head + b" " * (octets - 1)) as streams:
        await bystander.check_alert()
        assert await read_status(streams[-1]) == 401


@pytest.mark.parametrize("credential", ["publishable", "secret"])
async def test_stalled_body_of_a_tenant_delays_no_alert(bystander: Bystander, origin: str, credential: str) -> None:
    """1,000 stalled bodies of one credential use up the share of that credential; each ends with 408 or 429."""
    key = bystander.parts.application[f"{credential}_key"]
    path = {"publishable": "/v1/devices", "secret": "/v1/alerts"}[credential]
    head = request_head(path, key, Origin=APP_ORIGIN, Content_Type="application/json", Content_Length="1000")
    async with open_connections(origin, 1000, head + b"{") as streams:
        await bystander.check_alert()
        assert 429 in {await read_status(stream) for stream in streams[-20:]}
        assert await read_status(streams[0]) == 408


async def test_stalled_documents_of_a_tenant_delay_no_alert(parts: Parts, bystander: Bystander, origin: str) -> None:
    """Twelve stalled documents of 8 MiB with a valid key leave memory for the bodies of other applications."""
    key = parts.application["secret_key"]
    octets = 8 * MEBIBYTE
    head = request_head("/v1/alerts", key, Content_Type=CAP, Content_Length=str(octets))
    async with open_connections(origin, 12, head + b" " * (octets - 1)):
        await bystander.check_alert()


async def test_invented_credentials_delay_no_alert(
    bystander: Bystander, origin: str, http: aiohttp.ClientSession
) -> None:
    """A flood of credentials that the gateway never issued is answered with 401 or 429; the bystander's key works."""

    async def attack(prefix: str) -> list[int]:
        statuses = []
        for _ in range(100):
            headers = {"Authorization": f"Bearer {prefix}{secrets.token_urlsafe(32)}"}
            async with http.get(f"{origin}/v1/devices", headers=headers) as response:
                statuses.append(response.status)
            await asyncio.sleep(PAUSE_S)
        return statuses

    async with asyncio.TaskGroup() as group:
        attacks = [group.create_task(attack(prefix)) for prefix in ("sk_", "pk_", "ss_", "dt_", "xx_", "")]
        await bystander.check_alert()
    statuses = [status for task in attacks for status in task.result()]
    assert set(statuses) <= {401, 429}
