"""Play a plan: send a campaign to everybody while its faults happen, and ask for more through the API all along.

Who asks tries again with the same Idempotency-Key until there is an answer, as a client should, and once more after
it, as one would who did not hear it.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

import aiohttp

from gateway.domain import ids
from gateway.domain.notification import Notification, Progress
from gateway.records.postgres.engine import DATABASE_ERRORS
from tests.faults.plan import REQUESTS, Break, Fault
from tests.faults.pulse import Pulse
from tests.faults.stand import TOPICS, Stand

# For what faults, tries and leases may add to a run, on a slow machine.
PATIENCE_S = 120.0
DEVICES_A_SECOND = 100
LOOK_S = 0.2
TOLD = 2
TRY_AGAIN_S = 0.1
# A moment that does not come, since nothing is taken meanwhile, is now.
LONGEST_WAIT_S = 20.0


@dataclass(slots=True)
class Happened:
    """A fault as it came."""

    fault: Fault
    began: datetime
    ended: datetime | None = None

    def __str__(self) -> str:
        return f"{self.began:%H:%M:%S.%f} {self.fault}"


@dataclass(slots=True)
class Played:
    """`asked`: each notification that was accepted, by id, with the devices it is for."""

    asked: dict[UUID, set[UUID]] = field(default_factory=dict)
    titles: dict[str, UUID] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)
    happened: list[Happened] = field(default_factory=list)
    pulse: Pulse = field(default_factory=Pulse)
    shown: dict[UUID, tuple[Notification, Progress]] = field(default_factory=dict)
    jobs: int = 0
    ended: bool = False
    exit_codes: list[int | None] = field(default_factory=list)
    seconds: float = 0.0


async def play(on: Stand) -> Played:
    """Returns when everything has ended, or has had more than enough time."""
    played, began = Played(), time.monotonic()
    beating = asyncio.create_task(played.pulse.beat(on.parts), name="pulse")
    await _ask(on, played, "campaign", "/v1/campaigns", {"name": "faults"}, {"everyone": True}, set(on.endpoints))
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(_ask_for_more(on, played))
        for fault in on.plan.faults:
            await _reached(on, fault.at)
            group.create_task(_happen(on, fault, played))
        await asking
    await _until_ended(on, played, PATIENCE_S + on.plan.devices / DEVICES_A_SECOND)
    beating.cancel()
    played.exit_codes = [await process.end() for process in (*on.workers, on.api)]
    played.seconds = time.monotonic() - began
    return played


async def _reached(on: Stand, share: float) -> None:
    messages = on.parts.sim.messages
    try:
        await on.parts.sim.wait_for(lambda: messages.total >= share * on.plan.devices, timeout=LONGEST_WAIT_S)
    except TimeoutError:
        return


async def _ask_for_more(on: Stand, played: Played) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(REQUESTS):
            await _reached(on, number / REQUESTS * 0.8)
            topic = f"t{(on.plan.seed + number) % TOPICS}"
            targets = {device_id for device_id, has in on.topics.items() if has == topic}
            audience, title = {"topic": topic}, f"request {number}"
            path = "/v1/notifications"
            group.create_task(_ask(on, played, title, path, {}, audience, targets))


async def _ask(
    on: Stand,
    played: Played,
    title: str,
    path: str,
    extra: dict[str, object],
    audience: dict[str, object],
    targets: set[UUID],
) -> None:
    body = extra | {
        "content": {"title": title, "body": "Stay inside"},
        "audience": audience,
        "delivery": {"ttl": 7200},
    }
    headers = {"Idempotency-Key": f"seed {on.plan.seed} {title}"}
    async with asyncio.timeout(PATIENCE_S):
        accepted = 0
        while accepted < TOLD:
            try:
                async with on.http.post(on.origin + path, json=body, headers=headers) as answer:
                    said = await answer.text()
                    status = answer.status
            except (aiohttp.ClientError, TimeoutError) as error:
                played.answers[type(error).__name__] += 1
            else:
                played.answers[str(status)] += 1
                if status < 300:
                    id_ = ids.parse(ids.NOTIFICATION, json.loads(said)["id"])
                    assert id_ is not None
                    played.asked[id_] = targets
                    played.titles[title] = id_
                    accepted += 1
                elif status not in (429, 500, 502, 503, 504):
                    played.refused.append(f"{title}: {status} {said}")
                    return
            await asyncio.sleep(TRY_AGAIN_S)


async def _happen(on: Stand, fault: Fault, played: Played) -> None:
    happened = Happened(fault, datetime.now(UTC))
    played.happened.append(happened)
    await HOW[fault.what](on, fault)
    happened.ended = datetime.now(UTC)


async def _kill_worker(on: Stand, fault: Fault) -> None:
    on.workers[fault.worker].kill()
    await asyncio.sleep(fault.seconds)
    on.workers[fault.worker].start()


async def _kill_api(on: Stand, fault: Fault) -> None:
    on.api.kill()
    await asyncio.sleep(fault.seconds)
    on.api.start()


async def _stop_postgres(on: Stand, fault: Fault) -> None:
    async with on.postgres_is_ours:
        await on.stop_postgres()
        await asyncio.sleep(fault.seconds)
        await on.start_postgres()


async def _cut(on: Stand, fault: Fault) -> None:
    assert fault.between is not None
    for link in on.links[fault.between]:
        link.refusing = fault.seconds > 0
        link.cut()
    await asyncio.sleep(fault.seconds)
    for link in on.links[fault.between]:
        link.refusing = False


async def _delay(on: Stand, fault: Fault) -> None:
    assert fault.between is not None
    for link in on.links[fault.between]:
        link.delay_s = fault.delay_s
    await asyncio.sleep(fault.seconds)
    for link in on.links[fault.between]:
        link.delay_s = 0.0


async def _fill_disk(on: Stand, fault: Fault) -> None:
    async with AsyncExitStack() as stack:
        await _insist(lambda: stack.enter_async_context(on.cluster.disk_full(on.database)))
        await asyncio.sleep(fault.seconds)
        await _insist(stack.aclose)


async def _insist(do: Callable[[], Awaitable[object]]) -> None:
    """The trigger that stands for a full disk needs the Postgres that another fault may have stopped."""
    while True:
        try:
            await do()
            return
        except DATABASE_ERRORS:
            await asyncio.sleep(TRY_AGAIN_S)


HOW: dict[Break, Callable[[Stand, Fault], Awaitable[None]]] = {
    Break.KILL_WORKER: _kill_worker,
    Break.KILL_API: _kill_api,
    Break.STOP_POSTGRES: _stop_postgres,
    Break.CUT: _cut,
    Break.DELAY: _delay,
    Break.FULL_DISK: _fill_disk,
}


async def _until_ended(on: Stand, played: Played, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            played.shown = {id_: await on.parts.get_notification(id_) for id_ in played.asked}
            played.jobs = await on.parts.scalar("SELECT count(*) FROM jobs")
        except DATABASE_ERRORS:
            await asyncio.sleep(LOOK_S)
            continue
        finished = all(notification.finished_at is not None for notification, _ in played.shown.values())
        if finished and not played.jobs:
            played.ended = True
            return
        await asyncio.sleep(LOOK_S)  # several processes away, and a look is cheap
