"""Hosts that only a wildcard allows are contacted at a public address, or not at all."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from gateway.push import resolver
from gateway.push.client import PushClient
from gateway.push.resolver import PIN_TTL_S, AddressPins, NotPublic
from gateway.push.responses import NetworkFault, PushResponse, classify
from tests.unit.push.test_push_client import http_server, post


class Names:
    """A resolver that returns these answers in order, the last one repeatedly."""

    def __init__(self, *answers: Sequence[str] | OSError) -> None:
        self.answers = list(answers)
        self.names_asked: list[str] = []

    async def __call__(self, name: str) -> Sequence[str]:
        self.names_asked.append(name)
        await asyncio.sleep(0)
        response = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(response, OSError):
            raise response
        return response


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat 127.0.0.1 as public, because tests have no public address."""
    monkeypatch.setattr(resolver, "is_global", lambda address: str(address) == "127.0.0.1")


async def created(_: web.Request) -> web.Response:
    return web.Response(status=201)


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["8.8.8.8", "10.0.0.1"],
        ["169.254.169.254"],
        ["::1"],
        ["fe80::1%2"],
        ["fd00::1"],
        ["::ffff:10.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["2002:7f00:1::1"],
    ],
)
async def test_host_with_private_address_is_not_contacted(addresses: list[str]) -> None:
    requests: list[Any] = []

    async def handler(request: web.Request) -> web.Response:
        requests.append(request)
        return web.Response(status=201)

    async with http_server(handler) as origin:
        port = origin.rpartition(":")[2]
        async with PushClient(must_check_address=lambda _: True, pins=AddressPins(Names(addresses))) as client:
            response = await post(client, f"http://evil.example.org:{port}/x")
    assert (response, requests) == (
        PushResponse(None, duration_ms=response.duration_ms, fault=NetworkFault("private")),
        [],
    )


async def test_client_connects_to_the_checked_address(loopback_is_public: None) -> None:
    """The system's resolver does not know the name and is not called."""
    names = Names(["127.0.0.1"])
    async with http_server(created) as origin:
        port = origin.rpartition(":")[2]
        async with PushClient(must_check_address=lambda _: True, pins=AddressPins(names)) as client:
            answers = await asyncio.gather(*(post(client, f"http://a.example.invalid:{port}/{n}") for n in range(150)))
    assert {response.status for response in answers} == {201}
    assert names.names_asked == ["a.example.invalid"]


async def test_dns_rebinding_has_no_effect(loopback_is_public: None) -> None:
    """The first answer is used for its lifetime; the next one is checked as well."""
    clock, names = Clock(), Names(["127.0.0.1"], ["10.0.0.1"], ["127.0.0.1"])
    async with http_server(created) as origin:
        endpoint = f"http://rebinding.example.invalid:{origin.rpartition(':')[2]}/x"
        async with PushClient(must_check_address=lambda _: True, pins=AddressPins(names, clock)) as client:
            assert (await post(client, endpoint)).status == 201
            clock.now += PIN_TTL_S - 1
            assert (await post(client, endpoint)).status == 201
            clock.now += 1
            for _ in range(2):
                assert (await post(client, endpoint)).fault == NetworkFault("private")
            clock.now += PIN_TTL_S
            assert (await post(client, endpoint)).status == 201
    assert len(names.names_asked) == 3


async def test_failed_resolution_is_not_cached(loopback_is_public: None) -> None:
    async with http_server(created) as origin:
        endpoint = f"http://a.example.invalid:{origin.rpartition(':')[2]}/x"
        names = Names(OSError("no such name"), ["127.0.0.1"])
        async with PushClient(must_check_address=lambda _: True, pins=AddressPins(names)) as client:
            assert (await post(client, endpoint)).fault == NetworkFault("dns")
            assert (await post(client, endpoint)).status == 201


async def test_pinned_address_stays_while_still_valid() -> None:
    clock = Clock()
    pins = AddressPins(Names(["8.8.8.8"], ["1.1.1.1", "8.8.8.8", "9.9.9.9"], ["1.1.1.1"]), clock)
    addresses = []
    for _ in range(3):
        addresses.append(await pins.address("a.example.org"))
        clock.now += PIN_TTL_S
    assert addresses == ["8.8.8.8", "8.8.8.8", "1.1.1.1"]


async def test_cancelled_lookup_does_not_fail_other_waiters() -> None:
    pins = AddressPins(Names(["8.8.8.8"]))
    first, second = (asyncio.ensure_future(pins.address("a.example.org")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == "8.8.8.8"


async def test_pins_are_limited() -> None:
    names = Names(["10.0.0.1"])
    pins = AddressPins(names)
    for n in range(resolver.MAX_PINS + 10):
        with pytest.raises(NotPublic):
            await pins.address(f"{n}.example.org")
    assert len(pins._pins) == resolver.MAX_PINS


def test_private_address_fault_has_its_cause() -> None:
    outcome = classify(PushResponse(None, fault=NetworkFault("private")), datetime.now(UTC))
    assert "outside the public internet" in outcome.cause
