"""Rules of the simulator: which requests a rule affects, how often, and that a seed reproduces it."""

import asyncio
import time
from collections import Counter

import aiohttp
import pytest
from sim_sender import Sender, encrypt

from gateway.sim import DEMO, Rule, Sim, Subscriber, Vendor
from gateway.sim.behaviour import Behaviour


def rule_statuses(behaviour: Behaviour, tokens: int = 10_000, vendor: Vendor = Vendor.FCM) -> list[int | None]:
    """Return the status of the rule that applies to each endpoint, or None."""
    rules = (behaviour.select_rule(vendor, f"http://push/{token}", str(token)) for token in range(tokens))
    return [None if rule is None else rule.status for rule in rules]


async def test_rule_with_times_applies_that_often(sim: Sim, sender: Sender) -> None:
    """After `times` responses of a rule for an endpoint, the device gets normal responses again."""
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


async def test_rule_times_count_per_endpoint(sim: Sim, sender: Sender) -> None:
    """Every endpoint gets the response of the rule once."""
    sim.behave(Rule(status=500, times=1))
    for device in sim.subscribe_many(Vendor.APPLE, 3):
        assert [(await sender.post(device.endpoint)).status for _ in range(2)] == [500, 201]


async def test_rule_affects_only_its_vendor(sim: Sim, sender: Sender) -> None:
    """A rule for one vendor leaves the others unchanged, and without rules all accept again."""
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
async def test_scripted_status_has_vendor_format(
    sim: Sim, sender: Sender, rule: Rule, reason: object, header: str | None
) -> None:
    """The body and headers of a scripted status are those that the vendor sends."""
    assert rule.vendor is not None
    sim.behave(rule)
    reply = await sender.post(sim.subscribe(rule.vendor).endpoint)
    assert (reply.status, reply.reason(), reply.headers.get("Retry-After")) == (rule.status, reason, header)


async def test_wns_406_reports_throttled_channel(sim: Sim, sender: Sender) -> None:
    """The status header of WNS has the value for a throttled channel."""
    sim.behave(Rule(status=406))
    reply = await sender.post(sim.subscribe(Vendor.WNS).endpoint)
    assert reply.headers["X-WNS-NotificationStatus"] == "channelthrottled"


async def test_scripted_redirect_stays_on_the_simulator(sim: Sim, sender: Sender) -> None:
    """The redirect leads to the simulator's own origin, so no test contacts a real host."""
    sim.behave(Rule(status=307))
    reply = await sender.post(sim.subscribe(Vendor.FCM).endpoint)
    assert (reply.status, reply.headers["Location"]) == (307, f"{sim.origins[Vendor.FCM]}/elsewhere")


async def test_scripted_2xx_accepts_without_delivery(sim: Sim, sender: Sender) -> None:
    """A scripted 201 is returned without a delivery, as by Apple for a subscription that was removed."""
    device = sim.subscribe(Vendor.APPLE)
    sim.behave(Rule(endpoint=device.endpoint, status=201))
    reply = await sender.post(device.endpoint)
    assert (reply.status, "Location" in reply.headers, device.messages) == (201, True, [])


async def test_scripted_reset_is_counted(sim: Sim, sender: Sender) -> None:
    """A reset counts under status 0."""
    device = sim.subscribe(Vendor.FCM)
    sim.behave(Rule(reset=True, times=1))
    with pytest.raises(aiohttp.ClientConnectionError):
        await sender.post(device.endpoint)
    assert (await sender.post(device.endpoint)).status == 201
    assert sim.counters[Vendor.FCM] == {0: 1, 201: 1}


async def test_scripted_reset_sends_tcp_rst(sim: Sim) -> None:
    """The client sees a reset of the connection and not its end."""
    device = sim.subscribe(Vendor.FCM)
    sim.behave(Rule(reset=True))
    host, port = sim.origins[Vendor.FCM].removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    path = device.endpoint.removeprefix(sim.origins[Vendor.FCM])
    writer.write(f"POST {path} HTTP/1.1\r\nHost: {host}\r\nTTL: 0\r\nContent-Length: 0\r\n\r\n".encode())
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_delayed_response_is_otherwise_normal(sim: Sim, sender: Sender) -> None:
    """A rule with only a delay accepts the message after the delay."""
    device = sim.subscribe(Vendor.FCM)
    sim.behave(Rule(delay_ms=80))
    started_at = time.monotonic()
    assert (await sender.post(device.endpoint)).status == 201
    assert time.monotonic() - started_at >= 0.08


def test_share_per_endpoint_is_stable() -> None:
    """The same seed selects the same endpoints each time, and another seed selects others."""
    behaviour = Behaviour([Rule(status=410, share=0.02)], seed=7)
    first, second = rule_statuses(behaviour), rule_statuses(behaviour)
    assert first == second == rule_statuses(Behaviour([Rule(status=410, share=0.02)], seed=7))
    assert 150 <= Counter(first)[410] <= 250
    assert first != rule_statuses(Behaviour([Rule(status=410, share=0.02)], seed=8))


def test_share_per_try_selects_each_try_separately() -> None:
    """Each try is decided on its own, so few endpoints fail twice in a row."""
    behaviour = Behaviour([Rule(status=503, share=0.02, per="try")])
    first, second = rule_statuses(behaviour), rule_statuses(behaviour)
    failed_twice = sum(a == b == 503 for a, b in zip(first, second, strict=True))
    assert 150 <= Counter(first)[503] <= 250
    assert 150 <= Counter(second)[503] <= 250
    assert failed_twice < 30


def test_first_matching_rule_decides() -> None:
    """Later rules that match too are ignored."""
    behaviour = Behaviour([Rule(status=410, vendor=Vendor.APPLE), Rule(status=500), Rule(status=503)])
    assert rule_statuses(behaviour, 3, Vendor.FCM) == [500] * 3
    assert rule_statuses(behaviour, 3, Vendor.APPLE) == [410] * 3


async def test_demo_errors_end_after_retries(sim: Sim, sender: Sender) -> None:
    """With the rules of the demo, every device accepts or is gone within ten tries."""
    devices = [device for vendor in Vendor for device in sim.subscribe_many(vendor, 60, share_keys=True)]
    sim.behave(*[rule for rule in DEMO if not rule.delay_ms], seed=1)
    counts: Counter[int] = Counter()

    async def deliver(device: Subscriber) -> int:
        for _ in range(10):
            status = (await sender.post(device.endpoint)).status
            counts[status] += 1
            if status in (201, 410):
                return status
        return status

    final_statuses = Counter(await asyncio.gather(*map(deliver, devices)))
    assert set(final_statuses) <= {201, 410}
    assert final_statuses[201] > 200
    assert counts[201] == final_statuses[201] == sim.messages.total


async def test_wait_for_ends_with_the_message(sim: Sim, sender: Sender) -> None:
    """Waiting for a count or a condition ends with the message that fulfils it."""
    device = sim.subscribe(Vendor.FCM)
    has_topic_b = sim.wait_for(lambda: any(message.topic == "b" for message in sim.messages))
    waiting = asyncio.gather(sim.wait_for(count=2), has_topic_b)
    await sender.post(device.endpoint, headers={"Topic": "a"})
    assert not waiting.done()
    await sender.post(device.endpoint, headers={"Topic": "b"})
    await asyncio.wait_for(waiting, 5)


async def test_wait_for_timeout_reports_accepted_messages(sim: Sim, sender: Sender) -> None:
    """The error says how many messages were accepted in the time."""
    await sender.post(sim.subscribe(Vendor.FCM).endpoint)
    with pytest.raises(TimeoutError, match=r"waited 0\.02 s for 2 messages; 1 messages were accepted"):
        await sim.wait_for(count=2, timeout=0.02)


async def test_message_log_is_limited(sender: Sender) -> None:
    """The log drops the oldest messages but counts all of them, until it is cleared."""
    async with Sim(max_messages=3) as sim:
        first, second = sim.subscribe_many(Vendor.FCM, 2)
        for device, text in ((first, b"1"), (first, b"2"), (second, b"3"), (first, b"4"), (second, b"5")):
            await sender.post(device.endpoint, encrypt(device, text))
        assert [message.text for message in sim.messages] == ["3", "4", "5"]
        assert [message.text for message in first.messages] == ["4"]
        assert sim.messages.total == 5
        sim.clear()
        assert (len(sim.messages), sim.messages.total, first.messages) == (0, 0, [])
        assert sim.counters[Vendor.FCM] == {}


async def test_devices_have_own_keys_unless_shared(sim: Sim, sender: Sender) -> None:
    """Simulated devices share one key pair only on request."""
    devices = sim.subscribe_many(Vendor.FCM, 2000, sender.public_key)
    assert len({device.p256dh for device in devices}) == 2000
    assert len({device.p256dh for device in sim.subscribe_many(Vendor.FCM, 10, share_keys=True)}) == 1
