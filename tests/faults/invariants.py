"""What must hold after every run, whatever went wrong in it; each breach in words."""

import json
import signal
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from itertools import pairwise
from uuid import UUID

from sqlalchemy import text

from gateway.domain.notification import Status
from gateway.sim import Message
from tests.faults.play import Played, most_repeats
from tests.faults.stand import Stand

GONE = {404, 410}
MARKING = GONE | {400, 401, 403}
# How long a message may have been taken and not be in the log when no fault is near: its batch gathers and is
# settled, on a machine that may be slow.
UNSETTLED = timedelta(seconds=10)
# A fault's traces last: leases run out, connections are made again.
AFTER = timedelta(seconds=20)
FAULTS_OF_OURS = ("job.failed", "delivery.failed", "http.failed", "feed.failed", "webhook.failed")


async def breaches(on: Stand, played: Played) -> list[str]:
    found = [f"refused: {said}" for said in played.refused]
    if not played.ended:
        found += await _unended(on, played)
        return found
    rows = await _rows(on)
    found += await _all_ended(on, played)
    found += _one_row_each(on, played, rows)
    found += await _counted(on)
    found += await _devices(on)
    copies = _copies(on, played, found)
    found += _outcomes(on, rows, copies)
    found += _repeats(on, played, copies)
    found += _processes(on, played)
    return found


async def _rows(on: Stand) -> dict[UUID, dict[UUID, str]]:
    """The outcome by notification and device."""
    rows: defaultdict[UUID, dict[UUID, str]] = defaultdict(dict)
    async with on.parts.engine.connect() as conn:
        query = text("SELECT notification_id, device_id, outcome FROM deliveries")
        for notification_id, device_id, outcome in await conn.execute(query):
            assert device_id not in rows[notification_id], "a device has two rows"
            rows[notification_id][device_id] = outcome
    return rows


async def _unended(on: Stand, played: Played) -> list[str]:
    found = [
        f"{title} did not end: {played.shown[id_][0].status}, {played.shown[id_][1].pending} pending"
        for title, id_ in played.titles.items()
        if id_ in played.shown and played.shown[id_][0].finished_at is None
    ]
    async with on.parts.engine.connect() as conn:
        query = text("SELECT id, attempt, tries, run_at - now() AS due, cardinality(device_ids) AS size FROM jobs")
        jobs = [
            f"job {row.id} (attempt {row.attempt}, tries {row.tries}, due in {row.due}) holds {row.size}"
            for row in await conn.execute(query)
        ]
    return found + jobs or ["it did not end"]


async def _all_ended(on: Stand, played: Played) -> list[str]:
    found = []
    for title, id_ in played.titles.items():
        notification, progress = played.shown[id_]
        if notification.status is not Status.DONE or progress.pending:
            found.append(f"{title} is {notification.status} with {progress.pending} pending")
    count = await on.parts.scalar("SELECT count(*) FROM notifications")
    if count != len(played.asked):
        found.append(f"{len(played.asked)} notifications were answered for, and there are {count}")
    return found


def _one_row_each(on: Stand, played: Played, rows: dict[UUID, dict[UUID, str]]) -> list[str]:
    """But for who was found gone, or given another key, before it was planned."""
    found = []
    for title, id_ in played.titles.items():
        missing, strange = played.asked[id_] - rows[id_].keys(), rows[id_].keys() - played.asked[id_]
        missing = {one for one in missing if not on.behaviour.said.get(on.endpoints[one], set()) & MARKING}
        targets = played.shown[id_][1].targets
        if missing or strange or targets != len(rows[id_]):
            found.append(f"{title}: {len(missing)} devices missing and {len(strange)} strange of {targets} targets")
    return found


async def _counted(on: Stand) -> list[str]:
    query = text("""
        SELECT p.notification_id, p.accepted, p.gone, p.rejected, p.expired, p.cancelled, p.skipped, p.retries,
            count(d.*) FILTER (WHERE outcome = 'accepted'), count(d.*) FILTER (WHERE outcome = 'gone'),
            count(d.*) FILTER (WHERE outcome = 'rejected'), count(d.*) FILTER (WHERE outcome = 'expired'),
            count(d.*) FILTER (WHERE outcome = 'cancelled'), count(d.*) FILTER (WHERE outcome = 'skipped'),
            (SELECT count(*) FROM attempts a WHERE a.notification_id = p.notification_id)
        FROM progress p LEFT JOIN deliveries d USING (notification_id) GROUP BY p.notification_id
    """)
    async with on.parts.engine.connect() as conn:
        return [
            f"{id_}: the counters say {counted[:7]}, the rows {counted[7:]}"
            for id_, *counted in await conn.execute(query)
            if counted[:7] != counted[7:]
        ]


async def _devices(on: Stand) -> list[str]:
    """None is missing, and none is marked but for what its push service said."""
    found = []
    async with on.parts.engine.connect() as conn:
        known = {row.id: row.status for row in await conn.execute(text("SELECT id, status FROM devices"))}
    if missing := on.endpoints.keys() - known.keys():
        found.append(f"{len(missing)} devices are deleted")
    for id_, status in known.items():
        said = on.behaviour.said.get(on.endpoints[id_], set())
        if status == "gone" and not said & GONE:
            found.append(f"{id_} is gone, and its push service said {said or 'nothing of it'}")
        if status == "quarantined" and not said & MARKING - GONE:
            found.append(f"{id_} is quarantined, and its push service said {said or 'nothing of it'}")
    return found


Copies = dict[tuple[UUID, str], list[Message]]


def _copies(on: Stand, played: Played, found: list[str]) -> Copies:
    """What the sim accepted, by notification and endpoint. A topic stands for a notification: one is read for each."""
    names: dict[str | None, UUID] = {}
    copies: defaultdict[tuple[UUID, str], list[Message]] = defaultdict(list)
    for message in on.parts.sim.messages:
        if message.topic not in names:
            title = json.loads(message.payload)["notification"]["title"]
            if title not in played.titles:
                found.append(f"the push services were sent {title!r}, which nobody was answered for")
                continue
            names[message.topic] = played.titles[title]
        copies[names[message.topic], message.endpoint].append(message)
    return copies


def _outcomes(on: Stand, rows: dict[UUID, dict[UUID, str]], copies: Copies) -> list[str]:
    """What the log says is what the push services did."""
    found = []
    for notification_id, by_device in rows.items():
        for device_id, outcome in by_device.items():
            endpoint = on.endpoints[device_id]
            said = on.behaviour.said.get(endpoint, set())
            if endpoint.startswith(on.malformed.origin):
                taken = on.malformed.took[endpoint.removeprefix(on.malformed.origin)] > 0
            else:
                taken = (notification_id, endpoint) in copies or any(status < 300 for status in said)
            match outcome:
                case "accepted" if not taken:
                    found.append(f"{device_id} of {notification_id} is logged as accepted, and nobody took it")
                case "gone" if not said & GONE:
                    found.append(f"{device_id} of {notification_id} is logged as gone; said was {said}")
                case "rejected" if not any(300 <= status < 500 for status in said):
                    found.append(f"{device_id} of {notification_id} is logged as rejected; said was {said}")
                case "expired" | "cancelled" | "skipped":
                    found.append(f"{device_id} of {notification_id} is {outcome}")
                case _:
                    pass
    return found


def repeats(on: Stand) -> int:
    """Messages that the sim accepted from the second on, each device and notification by itself."""
    messages = on.parts.sim.messages
    return len(messages) - len({(message.endpoint, message.topic) for message in messages})


def _repeats(on: Stand, played: Played, copies: Copies) -> list[str]:
    """Only what a fault found in flight is sent again: each repeat spans one, and in number they are bounded."""
    found = []
    count, most = repeats(on), most_repeats(played)
    if count > most:
        found.append(f"{count} messages were sent again; at most {most} were in flight at the faults")
    for (notification_id, endpoint), several in copies.items():
        for first, second in pairwise(several):
            if not any(_explains(one.began, one.ended, first, second) for one in played.happened):
                when = f"{first.received_at:%H:%M:%S.%f} and {second.received_at:%H:%M:%S.%f}"
                found.append(
                    f"{notification_id} went twice to {endpoint.rpartition('/')[0]}, at {when}: no fault between"
                )
    return found


def _explains(began: datetime, ended: datetime | None, first: Message, second: Message) -> bool:
    assert ended is not None
    return began - UNSETTLED <= first.received_at <= ended + AFTER and second.received_at >= began


def _processes(on: Stand, played: Played) -> list[str]:
    found = []
    names = [process.name for process in (*on.workers, on.api)]
    for name, code in zip(names, played.exit_codes, strict=True):
        # Who is told before it listens ends by the signal itself.
        if code not in (0, None, -signal.SIGTERM):
            found.append(f"{name} was told to stop and ended with {code}")
    for process, skew in zip((*on.workers, on.api), on.plan.skew_s, strict=True):
        if bool(skew) != ('"clock.wrong"' in process.log):
            found.append(f"{process.name}'s clock should be ahead by {skew:.0f} s")
        found += [f"{process.name} ended by itself with {code}" for code in process.exits]
        for line in process.log.splitlines():
            if any(f'"{event}"' in line for event in FAULTS_OF_OURS):
                found.append(f"{process.name}: {line[:2000]}")
    return found


def told(played: Played) -> str:
    """The run in a few words."""
    kinds = Counter(one.fault.what for one in played.happened)
    return ", ".join(f"{count} x {what}" for what, count in kinds.items())
