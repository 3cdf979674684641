"""Execute a plan: send a campaign to all devices, and REQUESTS notifications to topics, while faults occur.

Each request is repeated with the same Idempotency-Key until it is accepted, as a client should do. It is then sent
once more, as by a client that did not receive the response.
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
from tests.faults import hostile
from tests.faults.environment import TOPICS, Environment
from tests.faults.latency_probe import LatencyProbe
from tests.faults.plan import REQUESTS, Fault, FaultKind

# The time for faults, retries and expired leases on a slow machine, in addition to the time for sending.
EXTRA_TIME_S = 120.0
# The lowest rate at which a run is expected to deliver.
MIN_DEVICES_PER_S = 100
# The interval at which the harness checks whether all notifications are done.
POLL_INTERVAL_S = 0.2
# How often each request must be accepted: once, and again with the same Idempotency-Key.
REPETITIONS = 2
# The pause between two attempts of a request.
RETRY_S = 0.1
# The maximum wait for a share of the campaign, after which the run continues: a fault may prevent all sending.
MAX_SHARE_WAIT_S = 20.0


@dataclass(slots=True)
class InjectedFault:
    """A fault with its start and end times."""

    fault: Fault
    started_at: datetime
    ended_at: datetime | None = None

    def __str__(self) -> str:
        return f"{self.started_at:%H:%M:%S.%f} {self.fault}"


@dataclass(slots=True)
class RunRecord:
    """The record of a run.

    Attributes:
        targets: the devices of each accepted notification, by notification id.
        titles: the notification ids by title.
        api_responses: the number of responses by status, and of failed requests by error.
        refusals: the API responses that a client does not retry.
        faults: the injected faults.
        probe: the delays of the machine.
        notifications: the notifications at the end of the run, by id.
        jobs: the number of the application's jobs that are left in the queue.
        ended: whether every notification was done in time.
        exit_codes: the exit codes of the workers and, as the last item, of the API.
    """

    targets: dict[UUID, set[UUID]] = field(default_factory=dict)
    titles: dict[str, UUID] = field(default_factory=dict)
    api_responses: Counter[str] = field(default_factory=Counter)
    refusals: list[str] = field(default_factory=list)
    faults: list[InjectedFault] = field(default_factory=list)
    probe: LatencyProbe = field(default_factory=LatencyProbe)
    notifications: dict[UUID, tuple[Notification, Progress]] = field(default_factory=dict)
    jobs: int = 0
    ended: bool = False
    exit_codes: list[int | None] = field(default_factory=list)
    seconds: float = 0.0


async def execute(env: Environment) -> RunRecord:
    """Execute the plan; return when every notification is done, or after the maximum time."""
    record, start = RunRecord(), time.monotonic()
    probe_task = asyncio.create_task(record.probe.measure(env.parts), name="probe")
    await _send_request(
        env, record, "campaign", "/v1/campaigns", {"name": "faults"}, {"everyone": True}, set(env.endpoints)
    )
    async with hostile.attack(env.hostile_tenant, env.direct_origin, env.plan.seed):
        async with asyncio.TaskGroup() as group:
            requests = group.create_task(_send_requests(env, record))
            for fault in env.plan.faults:
                await _wait_for_share(env, fault.at)
                group.create_task(_inject(env, fault, record))
            await requests
        await _wait_until_done(env, record, EXTRA_TIME_S + env.plan.devices / MIN_DEVICES_PER_S)
    probe_task.cancel()
    record.exit_codes = [await process.end() for process in (*env.workers, env.api)]
    record.seconds = time.monotonic() - start
    return record


async def _wait_for_share(env: Environment, share: float) -> None:
    """Wait until the push services have accepted messages for this share of the devices, or for MAX_SHARE_WAIT_S."""
    messages = env.parts.sim.messages
    try:
        await env.parts.sim.wait_for(lambda: messages.total >= share * env.plan.devices, timeout=MAX_SHARE_WAIT_S)
    except TimeoutError:
        return


async def _send_requests(env: Environment, record: RunRecord) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(REQUESTS):
            await _wait_for_share(env, number / REQUESTS * 0.8)
            topic = f"t{(env.plan.seed + number) % TOPICS}"
            targets = {device_id for device_id, device_topic in env.topics.items() if device_topic == topic}
            audience, title = {"topic": topic}, f"request {number}"
            path = "/v1/notifications"
            group.create_task(_send_request(env, record, title, path, {}, audience, targets))


async def _send_request(
    env: Environment,
    record: RunRecord,
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
    headers = {"Idempotency-Key": f"seed {env.plan.seed} {title}"}
    async with asyncio.timeout(EXTRA_TIME_S):
        accepted = 0
        while accepted < REPETITIONS:
            try:
                async with env.http.post(env.origin + path, json=body, headers=headers) as response:
                    text = await response.text()
                    status = response.status
            except (aiohttp.ClientError, TimeoutError) as error:
                record.api_responses[type(error).__name__] += 1
            else:
                record.api_responses[str(status)] += 1
                if status < 300:
                    id_ = ids.parse(ids.NOTIFICATION, json.loads(text)["id"])
                    assert id_ is not None
                    record.targets[id_] = targets
                    record.titles[title] = id_
                    accepted += 1
                elif status not in (429, 500, 502, 503, 504):
                    record.refusals.append(f"{title}: {status} {text}")
                    return
            await asyncio.sleep(RETRY_S)


async def _inject(env: Environment, fault: Fault, record: RunRecord) -> None:
    injected = InjectedFault(fault, datetime.now(UTC))
    record.faults.append(injected)
    await INJECTORS[fault.kind](env, fault)
    injected.ended_at = datetime.now(UTC)


async def _kill_worker(env: Environment, fault: Fault) -> None:
    env.workers[fault.worker].kill()
    await asyncio.sleep(fault.seconds)
    env.workers[fault.worker].start()


async def _kill_api(env: Environment, fault: Fault) -> None:
    env.api.kill()
    await asyncio.sleep(fault.seconds)
    env.api.start()


async def _stop_postgres(env: Environment, fault: Fault) -> None:
    async with env.postgres_lock:
        await env.stop_postgres()
        await asyncio.sleep(fault.seconds)
        await env.start_postgres()


async def _cut(env: Environment, fault: Fault) -> None:
    assert fault.link_group is not None
    for link in env.links[fault.link_group]:
        link.refusing = fault.seconds > 0
        link.cut()
    await asyncio.sleep(fault.seconds)
    for link in env.links[fault.link_group]:
        link.refusing = False


async def _delay(env: Environment, fault: Fault) -> None:
    assert fault.link_group is not None
    for link in env.links[fault.link_group]:
        link.delay_s = fault.delay_s
    await asyncio.sleep(fault.seconds)
    for link in env.links[fault.link_group]:
        link.delay_s = 0.0


async def _fill_disk(env: Environment, fault: Fault) -> None:
    async with AsyncExitStack() as stack:
        await _retry_until_available(lambda: stack.enter_async_context(env.cluster.disk_full(env.database)))
        await asyncio.sleep(fault.seconds)
        await _retry_until_available(stack.aclose)


async def _retry_until_available(action: Callable[[], Awaitable[object]]) -> None:
    """Repeat an action until Postgres is available; a fault of another kind may have stopped Postgres."""
    while True:
        try:
            await action()
            return
        except DATABASE_ERRORS:
            await asyncio.sleep(RETRY_S)


INJECTORS: dict[FaultKind, Callable[[Environment, Fault], Awaitable[None]]] = {
    FaultKind.KILL_WORKER: _kill_worker,
    FaultKind.KILL_API: _kill_api,
    FaultKind.STOP_POSTGRES: _stop_postgres,
    FaultKind.CUT: _cut,
    FaultKind.DELAY: _delay,
    FaultKind.FULL_DISK: _fill_disk,
}


async def _wait_until_done(env: Environment, record: RunRecord, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            record.notifications = {id_: await env.parts.get_notification(id_) for id_ in record.targets}
            query = "SELECT count(*) FROM jobs WHERE application_id = :application_id"
            record.jobs = await env.parts.scalar(query, application_id=env.parts.application_id)
        except DATABASE_ERRORS:
            await asyncio.sleep(POLL_INTERVAL_S)
            continue
        finished = all(notification.finished_at is not None for notification, _ in record.notifications.values())
        if finished and not record.jobs:
            record.ended = True
            return
        await asyncio.sleep(POLL_INTERVAL_S)  # the change happens in other processes; polling is cheap
