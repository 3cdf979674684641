"""Misbehaviour on purpose: who it hits, for how long, and that it is the same every time."""

import asyncio
import time
from collections import Counter

import aiohttp
import pytest
from sim_sender import Sender, encrypt

from gateway.sim import DEMO, Rule, Sim, Subscriber, Vendor
from gateway.sim.behaviour import Behaviour


def statuses(behaviour: Behaviour, tokens: int = 10_000, vendor: Vendor = Vendor.FCM) -> list[int | None]:
    rules = (behaviour.next(vendor, f"http://push/{token}", str(token)) for token in range(tokens))
    return [None if rule is None else rule.status for rule in rules]


async def test_the_first_tries_fail_and_then_it_goes_as_usual(sim: Sim, sender: Sender) -> None:
    device, other = sim.subscribe(Vendor.FCM), sim.subscribe(Vendor.FCM)
    sim.behave(Rule(endpoint=device.endpoint, status=503, retry_after=2, times=2))
    replies = [await sender.post(device.endpoint) for _ in range(3)]
    assert [(reply.status, reply.headers.get("Retry-After")) for reply in replies] == [
        (503, "2"),
        (503, "2"),
        (201, None),
    ]
    assert (await sender.post(other.endpoint)).status == 201
    assert sim.counters[Vendor.FCM] == {503: 2, 201: 2}


async def test_each_endpoint_has_its_own_count_of_failures(sim: Sim, sender: Sender) -> None:
    sim.behave(Rule(status=500, times=1))
    for device in sim.subscribe_many(Vendor.APPLE, 3):
        assert [(await sender.post(device.endpoint)).status for _ in range(2)] == [500, 201]


async def test_one_vendor_can_be_down_alone(sim: Sim, sender: Sender) -> None:
    sim.behave(Rule(vendor=Vendor.MOZILLA, status=503))
    devices = [sim.subscribe(vendor) for vendor in Vendor]
    assert [(await sender.post(device.endpoint)).status for device in devices] == [201, 503, 201, 201]
    sim.behave()
    assert (await sender.post(devices[1].endpoint)).status == 201


@pytest.mark.parametrize(
    ("rule", "reason", "header"),
    [
        (Rule(vendor=Vendor.FCM, status=429), "Too Many Requests", None),
        (Rule(vendor=Vendor.MOZILLA, status=503), 201, "120"),
        (Rule(vendor=Vendor.MOZILLA, status=503, reason="202", retry_after=1), 202, "1"),
        (Rule(vendor=Vendor.MOZILLA, status=410, reason="105"), 105, None),
        (Rule(vendor=Vendor.APPLE, status=429), "TooManyRequests", None),
        (Rule(vendor=Vendor.APPLE, status=403, reason="VapidPkHashMismatch"), "VapidPkHashMismatch", None),
        (Rule(vendor=Vendor.WNS, status=406, retry_after=3600), "The channel is throttled.", "3600"),
        (
            Rule(vendor=Vendor.FCM, status=429, retry_after="Fri, 31 Dec 1999 23:59:59 GMT"),
            "Too Many Requests",
            "Fri, 31 Dec 1999 23:59:59 GMT",
        ),
    ],
)
async def test_a_scripted_answer_is_in_the_vendors_words(
    sim: Sim, sender: Sender, rule: Rule, reason: object, header: str | None
) -> None:
    assert rule.vendor is not None
    sim.behave(rule)
    reply = await sender.post(sim.subscribe(rule.vendor).endpoint)
    assert (reply.status, reply.reason(), reply.headers.get("Retry-After")) == (rule.status, reason, header)


async def test_a_throttled_wns_channel_says_so(sim: Sim, sender: Sender) -> None:
    sim.behave(Rule(status=406))
    reply = await sender.post(sim.subscribe(Vendor.WNS).endpoint)
    assert reply.headers["X-WNS-NotificationStatus"] == "channelthrottled"


async def test_a_redirect_names_a_place_of_our_own(sim: Sim, sender: Sender) -> None:
    sim.behave(Rule(status=307))
    reply = await sender.post(sim.subscribe(Vendor.FCM).endpoint)
    assert (reply.status, reply.headers["Location"]) == (307, f"{sim.origins[Vendor.FCM]}/elsewhere")


async def test_a_message_can_be_taken_and_never_delivered(sim: Sim, sender: Sender) -> None:
    """Apple may answer 201 for a subscription that was removed."""
    device = sim.subscribe(Vendor.APPLE)
    sim.behave(Rule(endpoint=device.endpoint, status=201))
    reply = await sender.post(device.endpoint)
    assert (reply.status, "Location" in reply.headers, device.messages) == (201, True, [])


async def test_a_reset_connection_is_an_error_and_is_counted(sim: Sim, sender: Sender) -> None:
    device = sim.subscribe(Vendor.FCM)
    sim.behave(Rule(reset=True, times=1))
    with pytest.raises(aiohttp.ClientConnectionError):
        await sender.post(device.endpoint)
    assert (await sender.post(device.endpoint)).status == 201
    assert sim.counters[Vendor.FCM] == {0: 1, 201: 1}


async def test_a_reset_connection_is_a_reset_on_the_wire(sim: Sim) -> None:
    device = sim.subscribe(Vendor.FCM)
    sim.behave(Rule(reset=True))
    host, port = sim.origins[Vendor.FCM].removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    path = device.endpoint.removeprefix(sim.origins[Vendor.FCM])
    writer.write(f"POST {path} HTTP/1.1\r\nHost: {host}\r\nTTL: 0\r\nContent-Length: 0\r\n\r\n".encode())
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_a_slow_answer_is_slow_and_otherwise_as_usual(sim: Sim, sender: Sender) -> None:
    device = sim.subscribe(Vendor.FCM)
    sim.behave(Rule(delay_ms=80))
    began = time.monotonic()
    assert (await sender.post(device.endpoint)).status == 201
    assert time.monotonic() - began >= 0.08


def test_a_share_of_endpoints_is_always_the_same_one() -> None:
    behaviour = Behaviour([Rule(status=410, share=0.02)], seed=7)
    first, second = statuses(behaviour), statuses(behaviour)
    assert first == second == statuses(Behaviour([Rule(status=410, share=0.02)], seed=7))
    assert 150 <= Counter(first)[410] <= 250
    assert first != statuses(Behaviour([Rule(status=410, share=0.02)], seed=8))


def test_a_share_of_tries_hits_others_each_time() -> None:
    behaviour = Behaviour([Rule(status=503, share=0.02, per="try")])
    first, second = statuses(behaviour), statuses(behaviour)
    both = sum(a == b == 503 for a, b in zip(first, second, strict=True))
    assert 150 <= Counter(first)[503] <= 250
    assert 150 <= Counter(second)[503] <= 250
    assert both < 30


def test_the_first_rule_that_hits_decides() -> None:
    behaviour = Behaviour([Rule(status=410, vendor=Vendor.APPLE), Rule(status=500), Rule(status=503)])
    assert statuses(behaviour, 3, Vendor.FCM) == [500] * 3
    assert statuses(behaviour, 3, Vendor.APPLE) == [410] * 3


async def test_on_the_demos_bad_day_everyone_not_gone_gets_through(sim: Sim, sender: Sender) -> None:
    devices = [device for vendor in Vendor for device in sim.subscribe_many(vendor, 60, share_keys=True)]
    sim.behave(*[rule for rule in DEMO if not rule.delay_ms], seed=1)
    seen: Counter[int] = Counter()

    async def deliver(device: Subscriber) -> int:
        for _ in range(10):
            status = (await sender.post(device.endpoint)).status
            seen[status] += 1
            if status in (201, 410):
                return status
        return status

    ended = Counter(await asyncio.gather(*map(deliver, devices)))
    assert set(ended) <= {201, 410}
    assert ended[201] > 200
    assert seen[201] == ended[201] == sim.messages.total


async def test_waiting_ends_with_the_message_that_was_waited_for(sim: Sim, sender: Sender) -> None:
    device = sim.subscribe(Vendor.FCM)
    waiting = asyncio.gather(sim.wait_for(count=2), sim.wait_for(lambda: any(m.topic == "b" for m in sim.messages)))
    await sender.post(device.endpoint, headers={"Topic": "a"})
    assert not waiting.done()
    await sender.post(device.endpoint, headers={"Topic": "b"})
    await asyncio.wait_for(waiting, 5)


async def test_waiting_in_vain_tells_what_came(sim: Sim, sender: Sender) -> None:
    await sender.post(sim.subscribe(Vendor.FCM).endpoint)
    with pytest.raises(TimeoutError, match=r"waited 0\.02 s for 2 messages; 1 messages were accepted"):
        await sim.wait_for(count=2, timeout=0.02)


async def test_only_the_last_messages_are_kept(sender: Sender) -> None:
    async with Sim(keep=3) as sim:
        first, second = sim.subscribe_many(Vendor.FCM, 2)
        for device, text in ((first, b"1"), (first, b"2"), (second, b"3"), (first, b"4"), (second, b"5")):
            await sender.post(device.endpoint, encrypt(device, text))
        assert [message.text for message in sim.messages] == ["3", "4", "5"]
        assert [message.text for message in first.messages] == ["4"]
        assert sim.messages.total == 5
        sim.clear()
        assert (len(sim.messages), sim.messages.total, first.messages) == (0, 0, [])
        assert sim.counters[Vendor.FCM] == {}


async def test_2000_devices_are_made_in_well_under_two_seconds(sim: Sim, sender: Sender) -> None:
    began = time.perf_counter()
    devices = sim.subscribe_many(Vendor.FCM, 2000, sender.public_key)
    assert time.perf_counter() - began < 1
    assert len({device.p256dh for device in devices}) == 2000
    assert len({device.p256dh for device in sim.subscribe_many(Vendor.FCM, 10, share_keys=True)}) == 1
