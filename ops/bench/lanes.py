"""An alert to ten thousand devices while a campaign to a million runs flat out.

First some alerts on an idle gateway, then as many as are asked for beside the campaign, one after the other. An
alert counts from the moment its acceptance is committed: to its first message (`attempted_at`, before it is encrypted),
to its first answer, and to the last row in the log. The campaign's own rate is told too: it does not stop.
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

import stage
from sqlalchemy import text
from stage import Context, Stage, console

from gateway.domain.errors import Conflict
from gateway.domain.notification import Kind
from gateway.service.notifications import lifecycle

AREA = {"topic": "weather"}
LOOK_S = 0.01
PAUSE_S = 0.5
FIRST = text("""
    SELECT min(attempted_at), min(attempted_at + duration_ms * interval '1 millisecond'), max(settled_at)
    FROM deliveries WHERE notification_id = :id
""")


@dataclass(frozen=True, slots=True)
class Alert:
    """Milliseconds from acceptance."""

    first_send: float
    first_answer: float
    whole: float


def main() -> None:
    parser = stage.parser("lanes", __doc__)
    parser.add_argument("--devices", type=int, default=1_000_000, help="of the campaign (%(default)s)")
    parser.add_argument("--area", type=int, default=10_000, help="devices of each alert (%(default)s)")
    parser.add_argument("--alerts", type=stage.at_least_one, default=50, help="beside the campaign (%(default)s)")
    parser.add_argument("--idle", type=stage.at_least_one, default=10, help="alerts on an idle gateway (%(default)s)")
    asked = parser.parse_args()
    with stage.stage() as on:
        found = asyncio.run(measure(on, asked))
    report(found)
    stage.keep(asked.json, {"sink": on.sink, "devices": asked.devices, "area": asked.area} | found)


async def measure(on: Stage, asked: argparse.Namespace) -> dict[str, Any]:
    async with stage.orders(on) as context:
        application_id = await stage.application(context)
        await stage.devices(context, application_id, on.origin, asked.devices, topic=("weather", asked.area))
        with stage.running(on, "work", until="worker.started"):
            await alert(context, application_id)  # connections are made, statements prepared
            idle = [await alert(context, application_id) for _ in range(asked.idle)]
            campaign = await stage.send(context, application_id)
            before = await flowing(context, campaign, asked.devices // 100)
            began, beside = time.perf_counter(), []
            for number in range(asked.alerts):
                beside.append(await alert(context, application_id))
                console.print(f"[dim]{number + 1}: {beside[-1]}[/]", end="\r")
                await asyncio.sleep(PAUSE_S)  # the campaign's own time, not a wait for an event
            seconds, after = time.perf_counter() - began, await sent(context, campaign)
            if after == asked.devices:
                console.print("[red]the campaign was over before the alerts were: ask for fewer alerts or more devices")
            with suppress(Conflict):  # it is over
                async with context.engine.begin() as conn:
                    await lifecycle.cancel(conn, application_id, campaign)
            await stage.ended(context, campaign)
    return {
        "idle": [vars_of(one) for one in idle],
        "beside": [vars_of(one) for one in beside],
        "campaign_per_second": (after - before) / seconds,
    }


async def alert(context: Context, application_id: UUID) -> Alert:
    id_ = await stage.send(context, application_id, Kind.ALERT, AREA)
    accepted = datetime.now(UTC)
    await stage.ended(context, id_, look_s=LOOK_S)
    async with context.engine.connect() as conn:
        moments = (await conn.execute(FIRST, {"id": id_})).one()
    return Alert(*((moment - accepted).total_seconds() * 1000 for moment in moments))


async def flowing(context: Context, campaign: UUID, count: int) -> int:
    """When so many of it have been sent; answers how many."""
    while (done := await sent(context, campaign)) < count:  # noqa: ASYNC110 - another process sends
        await asyncio.sleep(stage.LOOK_S)
    return done


async def sent(context: Context, campaign: UUID) -> int:
    counted = text("SELECT accepted FROM progress WHERE notification_id = :id")
    async with context.engine.connect() as conn:
        done: int = (await conn.execute(counted, {"id": campaign})).scalar_one()
    return done


def vars_of(one: Alert) -> dict[str, float]:
    return {"first_send_ms": one.first_send, "first_answer_ms": one.first_answer, "whole_ms": one.whole}


def quantile(figures: list[float], share: float) -> float:
    """The smallest figure that this share of them does not exceed."""
    return sorted(figures)[math.ceil(share * len(figures)) - 1]


def report(found: dict[str, Any]) -> None:
    table = stage.table("from acceptance to", "idle p50 ms", "p99", "beside p50 ms", "p99", "p50 beside/idle")
    for name, words in (
        ("first_send_ms", "the first message"),
        ("first_answer_ms", "the first answer"),
        ("whole_ms", "the last row in the log"),
    ):
        idle, beside = ([one[name] for one in found[which]] for which in ("idle", "beside"))
        table.add_row(
            words,
            *(f"{quantile(some, share):,.0f}" for some in (idle, beside) for share in (0.5, 0.99)),
            f"x {quantile(beside, 0.5) / quantile(idle, 0.5):.2f}",
        )
    console.print(table)
    console.print(f"the campaign meanwhile: {found['campaign_per_second']:,.0f} messages/s")


if __name__ == "__main__":
    main()
