"""Measure the delay of an alert to ten thousand devices during a campaign to a million.

The benchmark sends alerts on an idle gateway first, and then during the campaign, one after the other. The delay is
measured from the commit of the alert's acceptance to its first message (`attempted_at`, before encryption), its first
response, and its last row in the log. The campaign's own rate during the alerts is printed too.
"""

import argparse
import asyncio
import math
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import testbed
from sqlalchemy import text
from testbed import Context, Testbed, console

from gateway.domain.errors import Conflict
from gateway.domain.notification import Kind
from gateway.service.notifications import lifecycle

WEATHER_TOPIC = {"topic": "weather"}
POLL_INTERVAL_S = 0.01
PAUSE_S = 0.5
MOMENTS = text("""
    SELECT min(attempted_at), min(attempted_at + duration_ms * interval '1 millisecond'), max(settled_at)
    FROM deliveries WHERE notification_id = :id
""")


@dataclass(frozen=True, slots=True)
class Alert:
    """Delays of an alert, in milliseconds from its acceptance."""

    first_send: float
    first_answer: float
    last_row: float


def main() -> None:
    """Run the benchmark."""
    parser = testbed.make_parser("lanes", __doc__)
    parser.add_argument("--devices", type=int, default=1_000_000, help="devices of the campaign (%(default)s)")
    parser.add_argument("--area", type=int, default=10_000, help="devices of each alert (%(default)s)")
    parser.add_argument(
        "--alerts", type=testbed.positive_int, default=50, help="alerts during the campaign (%(default)s)"
    )
    parser.add_argument("--idle", type=testbed.positive_int, default=10, help="alerts on an idle gateway (%(default)s)")
    options = parser.parse_args()
    with testbed.create_testbed() as bed:
        figures = asyncio.run(measure(bed, options))
    report(figures)
    testbed.write_json(options.json, {"sink": bed.sink, "devices": options.devices, "area": options.area} | figures)


async def measure(bed: Testbed, options: argparse.Namespace) -> dict[str, Any]:
    """Send the alerts and the campaign and return the figures."""
    async with testbed.open_context(bed) as context:
        application_id = await testbed.create_application(context)
        await testbed.create_devices(
            context, application_id, bed.origin, options.devices, topic=("weather", options.area)
        )
        with testbed.run_process(bed, "work", until="worker.started"):
            await measure_alert(context, application_id)  # warm up: open connections, prepare statements
            idle = [await measure_alert(context, application_id) for _ in range(options.idle)]
            campaign = await testbed.submit_notification(context, application_id)
            accepted_before = await wait_until_accepted(context, campaign, options.devices // 100)
            start, during_campaign = time.perf_counter(), []
            for number in range(options.alerts):
                during_campaign.append(await measure_alert(context, application_id))
                console.print(f"[dim]alert {number + 1}[/]", end="\r")
                await asyncio.sleep(PAUSE_S)  # let the campaign run without an alert for a while
            seconds, accepted_after = time.perf_counter() - start, await count_accepted(context, campaign)
            if accepted_after == options.devices:
                console.print("[red]the campaign finished before the alerts: use fewer alerts or more devices")
            with suppress(Conflict):  # raised if the campaign is finished already
                async with context.engine.begin() as conn:
                    await lifecycle.cancel(conn, application_id, campaign)
            await testbed.wait_until_finished(context, campaign)
    return {
        "idle": [to_milliseconds(alert) for alert in idle],
        "during_campaign": [to_milliseconds(alert) for alert in during_campaign],
        "campaign_per_second": (accepted_after - accepted_before) / seconds,
    }


async def measure_alert(context: Context, application_id: UUID) -> Alert:
    """Send one alert and return its delays."""
    id_ = await testbed.submit_notification(context, application_id, Kind.ALERT, WEATHER_TOPIC)
    accepted = datetime.now(UTC)
    await testbed.wait_until_finished(context, id_, interval_s=POLL_INTERVAL_S)
    async with context.engine.connect() as conn:
        moments = (await conn.execute(MOMENTS, {"id": id_})).one()
    return Alert(*((moment - accepted).total_seconds() * 1000 for moment in moments))


async def wait_until_accepted(context: Context, campaign: UUID, count: int) -> int:
    """Wait until `count` messages of the campaign have been accepted; return the number of accepted messages."""
    while (accepted := await count_accepted(context, campaign)) < count:  # noqa: ASYNC110 - another process sends
        await asyncio.sleep(testbed.POLL_INTERVAL_S)
    return accepted


async def count_accepted(context: Context, campaign: UUID) -> int:
    """Return the number of accepted messages of a campaign."""
    query = text("SELECT accepted FROM progress WHERE notification_id = :id")
    async with context.engine.connect() as conn:
        accepted: int = (await conn.execute(query, {"id": campaign})).scalar_one()
    return accepted


def to_milliseconds(alert: Alert) -> dict[str, float]:
    """Return the delays as a JSON object."""
    return {"first_send_ms": alert.first_send, "first_answer_ms": alert.first_answer, "last_row_ms": alert.last_row}


def quantile(figures: list[float], share: float) -> float:
    """Return a quantile by the nearest-rank method: 0.5 is the median, 0.99 the 99th percentile."""
    return sorted(figures)[math.ceil(share * len(figures)) - 1]


def report(figures: dict[str, Any]) -> None:
    """Print the delays."""
    table = testbed.make_table(
        "from acceptance to", "idle p50 ms", "p99", "campaign p50 ms", "p99", "p50 campaign/idle"
    )
    for name, label in (
        ("first_send_ms", "the first message"),
        ("first_answer_ms", "the first answer"),
        ("last_row_ms", "the last row in the log"),
    ):
        idle, busy = ([alert[name] for alert in figures[phase]] for phase in ("idle", "during_campaign"))
        table.add_row(
            label,
            *(f"{quantile(delays, share):,.0f}" for delays in (idle, busy) for share in (0.5, 0.99)),
            f"x {quantile(busy, 0.5) / quantile(idle, 0.5):.2f}",
        )
    console.print(table)
    console.print(f"the campaign during the alerts: {figures['campaign_per_second']:,.0f} messages/s")


if __name__ == "__main__":
    main()
