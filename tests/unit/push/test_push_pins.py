"""Hosts that only a suffix allows are connected to at an address of the public internet, or not at all."""

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
    """Each time somebody asks, the next answer; the last one for ever."""

    def __init__(self, *answers: Sequence[str] | OSError) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, name: str) -> Sequence[str]:
        self.asked.append(name)
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
    """127.0.0.1 stands for an address of the public internet, since tests have no other."""
    monkeypatch.setattr(resolver, "is_global", lambda address: str(address) == "127.0.0.1")


async def created(_: web.Request) -> web.Response:
    return web.Response(status=201)


@pytest.mark.parametrize(
    "found",
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
async def test_a_name_that_leads_inside_is_not_connected_to(found: list[str]) -> None:
    seen: list[Any] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request)
        return web.Response(status=201)

    async with http_server(handler) as origin:
        port = origin.rpartition(":")[2]
        async with PushClient(must_check_address=lambda _: True, pins=AddressPins(Names(found))) as client:
            answer = await post(client, f"http://evil.example.org:{port}/x")
    assert (answer, seen) == (PushResponse(None, duration_ms=answer.duration_ms, fault=NetworkFault("private")), [])


async def test_what_was_checked_is_what_is_connected_to(loopback_is_public: None) -> None:
    """The name means nothing to the system's resolver, which is never asked."""
    names = Names(["127.0.0.1"])
    async with http_server(created) as origin:
        port = origin.rpartition(":")[2]
        async with PushClient(must_check_address=lambda _: True, pins=AddressPins(names)) as client:
            answers = await asyncio.gather(*(post(client, f"http://a.example.invalid:{port}/{n}") for n in range(150)))
    assert {answer.status for answer in answers} == {201}
    assert names.asked == ["a.example.invalid"]


async def test_a_name_that_answers_differently_the_second_time_gains_nothing(loopback_is_public: None) -> None:
    """Within its time the first answer holds; the next one is checked like it."""
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
    assert len(names.asked) == 3


async def test_a_name_that_cannot_be_resolved_is_asked_for_again(loopback_is_public: None) -> None:
    async with http_server(created) as origin:
        endpoint = f"http://a.example.invalid:{origin.rpartition(':')[2]}/x"
        names = Names(OSError("no such name"), ["127.0.0.1"])
        async with PushClient(must_check_address=lambda _: True, pins=AddressPins(names)) as client:
            assert (await post(client, endpoint)).fault == NetworkFault("dns")
            assert (await post(client, endpoint)).status == 201


async def test_the_address_stays_the_same_while_the_name_still_leads_there() -> None:
    clock = Clock()
    held = AddressPins(Names(["8.8.8.8"], ["1.1.1.1", "8.8.8.8", "9.9.9.9"], ["1.1.1.1"]), clock)
    found = []
    for _ in range(3):
        found.append(await held.address("a.example.org"))
        clock.now += PIN_TTL_S
    assert found == ["8.8.8.8", "8.8.8.8", "1.1.1.1"]


async def test_one_who_gives_up_does_not_keep_others_from_knowing() -> None:
    held = AddressPins(Names(["8.8.8.8"]))
    first, second = (asyncio.ensure_future(held.address("a.example.org")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == "8.8.8.8"


async def test_many_names_are_not_remembered_for_ever() -> None:
    names = Names(["10.0.0.1"])
    held = AddressPins(names)
    for n in range(resolver.MAX_PINS + 10):
        with pytest.raises(NotPublic):
            await held.address(f"{n}.example.org")
    assert len(held._pins) == resolver.MAX_PINS


def test_the_log_says_that_the_name_leads_inside() -> None:
    outcome = classify(PushResponse(None, fault=NetworkFault("private")), datetime.now(UTC))
    assert "outside the public internet" in outcome.cause
