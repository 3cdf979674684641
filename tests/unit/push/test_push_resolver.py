"""Address pins: a host that only a wildcard allows is contacted at a checked public address, or not at all."""

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


class FakeResolver:
    """A resolver that returns or raises `answers` in order, and repeats the last one."""

    def __init__(self, *answers: Sequence[str] | OSError) -> None:
        self.answers = list(answers)
        self.resolved_names: list[str] = []

    async def __call__(self, name: str) -> Sequence[str]:
        self.resolved_names.append(name)
        await asyncio.sleep(0)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat 127.0.0.1 as a public address, because the servers of the tests have no public address."""
    monkeypatch.setattr(resolver, "is_global", lambda address: str(address) == "127.0.0.1")


async def respond_201(_: web.Request) -> web.Response:
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
    """The fault is "private", and the server gets no request."""
    requests: list[Any] = []

    async def handler(request: web.Request) -> web.Response:
        requests.append(request)
        return web.Response(status=201)

    async with http_server(handler) as origin:
        port = origin.rpartition(":")[2]
        async with PushClient(must_check_address=lambda _: True, pins=AddressPins(FakeResolver(addresses))) as client:
            response = await post(client, f"http://evil.example.org:{port}/x")
    assert (response, requests) == (
        PushResponse(None, duration_ms=response.duration_ms, fault=NetworkFault("private")),
        [],
    )


async def test_client_connects_to_the_checked_address(loopback_is_public: None) -> None:
    """The host name does not exist in DNS, so another resolution by the system would fail."""
    fake_resolver = FakeResolver(["127.0.0.1"])
    async with http_server(respond_201) as origin:
        port = origin.rpartition(":")[2]
        async with PushClient(must_check_address=lambda _: True, pins=AddressPins(fake_resolver)) as client:
            posts = (post(client, f"http://a.example.invalid:{port}/{n}") for n in range(150))
            responses = await asyncio.gather(*posts)
    assert {response.status for response in responses} == {201}
    assert fake_resolver.resolved_names == ["a.example.invalid"]


async def test_dns_rebinding_has_no_effect(loopback_is_public: None) -> None:
    """The first address is used for PIN_TTL_S; the address of the next resolution is checked as well."""
    clock, fake_resolver = Clock(), FakeResolver(["127.0.0.1"], ["10.0.0.1"], ["127.0.0.1"])
    async with http_server(respond_201) as origin:
        endpoint = f"http://rebinding.example.invalid:{origin.rpartition(':')[2]}/x"
        async with PushClient(must_check_address=lambda _: True, pins=AddressPins(fake_resolver, clock)) as client:
            assert (await post(client, endpoint)).status == 201
            clock.now += PIN_TTL_S - 1
            assert (await post(client, endpoint)).status == 201
            clock.now += 1
            for _ in range(2):
                assert (await post(client, endpoint)).fault == NetworkFault("private")
            clock.now += PIN_TTL_S
            assert (await post(client, endpoint)).status == 201
    assert len(fake_resolver.resolved_names) == 3


async def test_failed_resolution_is_not_cached(loopback_is_public: None) -> None:
    """The next message resolves the host name again."""
    async with http_server(respond_201) as origin:
        endpoint = f"http://a.example.invalid:{origin.rpartition(':')[2]}/x"
        fake_resolver = FakeResolver(OSError("no such name"), ["127.0.0.1"])
        async with PushClient(must_check_address=lambda _: True, pins=AddressPins(fake_resolver)) as client:
            assert (await post(client, endpoint)).fault == NetworkFault("dns")
            assert (await post(client, endpoint)).status == 201


async def test_pinned_address_is_renewed_while_resolved() -> None:
    """After PIN_TTL_S, the pinned address is used again if the host still resolves to it."""
    clock = Clock()
    pins = AddressPins(FakeResolver(["8.8.8.8"], ["1.1.1.1", "8.8.8.8", "9.9.9.9"], ["1.1.1.1"]), clock)
    addresses = []
    for _ in range(3):
        addresses.append(await pins.address("a.example.org"))
        clock.now += PIN_TTL_S
    assert addresses == ["8.8.8.8", "8.8.8.8", "1.1.1.1"]


async def test_cancelled_lookup_does_not_fail_other_waiters() -> None:
    """Two requests wait for one lookup; the cancellation of one does not cancel the lookup."""
    pins = AddressPins(FakeResolver(["8.8.8.8"]))
    first, second = (asyncio.ensure_future(pins.address("a.example.org")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == "8.8.8.8"


async def test_oldest_pin_is_evicted_at_the_limit() -> None:
    """The last MAX_PINS names are not resolved again; the name before them is."""
    fake_resolver = FakeResolver(["10.0.0.1"])
    pins = AddressPins(fake_resolver)
    count = resolver.MAX_PINS + 10
    for n in (*range(count), *range(10, count), 9):
        with pytest.raises(NotPublic):
            await pins.address(f"{n}.example.org")
    assert len(fake_resolver.resolved_names) == count + 1
    assert fake_resolver.resolved_names[-1] == "9.example.org"


def test_private_address_fault_has_its_cause() -> None:
    """The cause in the delivery log says that the address is not public."""
    outcome = classify(PushResponse(None, fault=NetworkFault("private")), datetime.now(UTC))
    assert "outside the public internet" in outcome.cause
