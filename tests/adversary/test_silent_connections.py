"""Connections without a complete request leave descriptors, memory and channels to the other clients."""

import asyncio
import resource
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.api import ADMIN
from tests.support.bystander import Bystander
from tests.support.gateway_parts import APP_ORIGIN, Parts
from tests.support.raw_requests import open_connections, read_status, request_head
from tests.support.worker_process import server_process

# The file descriptors of the server, fewer than the attacker's connections.
DESCRIPTORS = 400


@pytest.fixture(autouse=True)
def _raise_descriptor_limit() -> Iterator[None]:
    """Allow this process the file descriptors for the attacker's connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
async def origin(parts: Parts, tmp_path: Path) -> AsyncIterator[str]:
    """Run `gateway serve` with few file descriptors; yield its origin."""
    server = server_process(parts, tmp_path, max_descriptors=DESCRIPTORS, admin_token=ADMIN)
    async with server as (_, origin):
        yield origin


@pytest.mark.parametrize("octets", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "], ids=["nothing", "half a head"])
async def test_silent_connections_refuse_no_request(bystander: Bystander, origin: str, octets: bytes) -> None:
    """420 connections that send no complete request leave descriptors to other clients, and are closed within 15 s."""
    async with open_connections(origin, 420, octets) as streams:
        await bystander.check_alert()
        async with aiohttp.ClientSession() as newcomer, newcomer.get(f"{origin}/readyz") as response:
            assert response.status == 200
        async with asyncio.timeout(15):
            await asyncio.gather(*(reader.read() for reader, _ in streams))


async def test_dripping_bodies_end_early(parts: Parts, bystander: Bystander, origin: str) -> None:
    """A body that arrives at one octet a second is answered with 408 soon, not only after the maximum body time."""
    head = request_head(
        "/v1/devices",
        parts.application["publishable_key"],
        Origin=APP_ORIGIN,
        Content_Type="application/json",
        Content_Length="1000",
    )
    async with open_connections(origin, 100, head) as streams:

        async def drip() -> None:
            while True:
                for _, writer in streams:
                    writer.write(b" ")
                await asyncio.sleep(1)

        dripping = asyncio.create_task(drip())
        responses = asyncio.gather(*(read_status(stream) for stream in streams))
        try:
            await bystander.check_alert()
            assert set(await responses) == {408}
        finally:
            dripping.cancel()


async def test_live_channels_without_hello_are_closed(bystander: Bystander, origin: str) -> None:
    """200 live channels without a hello message delay no alert, and are closed within 10 s with the code 4408."""
    device = "dev_" + "0" * 32
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as attacker:
        channels = await asyncio.gather(
            *(attacker.ws_connect(f"{origin}/v1/devices/{device}/live") for _ in range(200))
        )
        await bystander.check_alert()
        async with asyncio.timeout(10):
            closed = await asyncio.gather(*(channel.receive() for channel in channels))
        assert {message.data for message in closed} == {4408}
