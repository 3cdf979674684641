"""Push services that limit the messages of one application: no other application is delayed.

The limits are scaled down: 1,000 messages a minute (Chrome's site limit) are 300 in three seconds here.
"""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gateway.domain.notification import Kind
from gateway.sim import Limit, Rule, Vendor
from tests.support.bystander import Bystander
from tests.support.gateway_parts import Parts

# The time in which the gateway must not repeat refused messages; earlier versions did so every two seconds.
QUIET_S = 4.0
# The messages that the push service accepts of the application in three seconds.
BUDGET = 300


@pytest.fixture
def work_log(tmp_path: Path) -> Path:
    """The log of the worker process."""
    return tmp_path / "work.log"


def site_limit(parts: Parts) -> Limit:
    """Return the scaled site limit on the application of `parts`."""
    return Limit(vendor=Vendor.FCM, site=parts.application["vapid_public_key"], messages=BUDGET, window_s=3)


def count_responses(parts: Parts, vendor: Vendor = Vendor.FCM) -> Counter[str]:
    """Return the numbers of messages that the push service has accepted and refused, of all applications."""
    counter = parts.sim.counters[vendor]
    return Counter(accepted=counter[201], refused=counter[429] + counter[406] + counter[503])


def logged_events(log: Path, event: str) -> list[dict[str, Any]]:
    """Return the entries of `event` in a log."""
    return [entry for line in log.read_text().splitlines() if (entry := json.loads(line))["event"] == event]


async def wait_until_limited(log: Path) -> None:
    """Wait until the worker has logged that it limits an application at a host."""
    async with asyncio.timeout(20):
        while not logged_events(log, "host.limits_application"):  # noqa: ASYNC110 - another process gives no event
            await asyncio.sleep(0.05)


async def test_site_limit_of_one_application_delays_no_other(
    parts: Parts, bystander: Bystander, work_log: Path
) -> None:
    """A tenant's campaign exceeds Chrome's site limit; the bystander's alerts at the same push service are on time."""
    await parts.register(parts.subscribe(Vendor.FCM, 3000, share_keys=True))
    parts.sim.clear()
    parts.sim.behave(limits=[site_limit(parts)])
    sent = await parts.submit()
    await wait_until_limited(work_log)
    await bystander.check_alert()
    await parts.wait_until(sent.id, lambda progress: progress.accepted >= 2 * BUDGET)
    await bystander.check_alert()
    responses = count_responses(parts)
    assert responses["refused"] < 0.15 * responses["accepted"], "the worker has not learnt the limit"
    limited = {entry["application_id"] for entry in logged_events(work_log, "host.limits_application")}
    assert limited == {parts.application["id"]}


async def test_limited_application_has_a_budget_for_alerts(parts: Parts, bystander: Bystander, work_log: Path) -> None:
    """An alert of the limited application to half as many devices as its budget overtakes its campaign."""
    await parts.register(parts.subscribe(Vendor.FCM, 3000, share_keys=True), topics=("offers",))
    await parts.register(parts.subscribe(Vendor.FCM, BUDGET // 2, share_keys=True), topics=("weather",))
    parts.sim.behave(limits=[site_limit(parts)])
    campaign = await parts.submit(audience={"topic": "offers"})
    await wait_until_limited(work_log)
    await parts.wait_until(campaign.id, lambda progress: progress.accepted >= BUDGET * 3 // 2)
    _, before = await parts.get_notification(campaign.id)
    alert = await parts.submit(Kind.ALERT, audience={"topic": "weather"})
    assert (await parts.wait_until_done(alert.id)).accepted == BUDGET // 2
    _, after = await parts.get_notification(campaign.id)
    assert after.accepted - before.accepted < BUDGET, "the campaign used the budget before the alert"
    await bystander.check_alert()


@pytest.mark.parametrize(
    ("vendor", "limit"),
    [
        (Vendor.MOZILLA, Limit(messages=60, window_s=300, per="service", status=429)),
        (Vendor.MOZILLA, Limit(messages=60, window_s=300, per="service", status=429, retry_after=30)),
        (Vendor.WNS, Limit(messages=60, window_s=900, per="service", status=406, retry_after=900)),
    ],
    ids=["429", "429 Retry-After", "406 Retry-After"],
)
async def test_refusing_host_gets_few_posts(
    parts: Parts, bystander: Bystander, work_log: Path, vendor: Vendor, limit: Limit
) -> None:
    """A host that accepts 60 messages refuses fewer than 20; when it accepts again, an alert is sent in the hold."""
    await parts.register(parts.subscribe(vendor, 600, share_keys=True), topics=("offers",))
    await parts.register(parts.subscribe(vendor, 2), topics=("weather",))
    parts.sim.clear()
    parts.sim.behave(limits=[limit])
    await parts.submit(audience={"topic": "offers"})
    await wait_until_limited(work_log)
    await bystander.check_alert()
    await asyncio.sleep(QUIET_S)
    assert count_responses(parts, vendor)["refused"] < 20
    parts.sim.behave()
    alert = await parts.submit(Kind.ALERT, audience={"topic": "weather"})
    assert (await parts.wait_until_done(alert.id)).accepted == 2


async def test_refusals_of_single_devices_do_not_slow_a_campaign(
    parts: Parts, bystander: Bystander, work_log: Path
) -> None:
    """When 3 % of the messages get a 429, only their devices wait: neither application is limited."""
    await parts.register(parts.subscribe(Vendor.FCM, 2000, share_keys=True))
    # Once per device: devices of the bystander may be among the 3 %, and its next alert must reach them.
    parts.sim.behave(Rule(vendor=Vendor.FCM, status=429, share=0.03, times=1))
    sent = await parts.submit()
    await parts.wait_until(sent.id, lambda progress: progress.accepted + progress.retries >= 2000)
    await bystander.check_alert()
    assert not logged_events(work_log, "host.limits_application")
