"""What must hold after every run, whatever went wrong in it; each breach in words."""

import signal
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text

from gateway.domain.notification import Status
from tests.faults import spans
from tests.faults.play import Played
from tests.faults.remembering import Meaning, Said
from tests.faults.stand import Stand
from tests.support.log_guard import SecretInLog, guard

FAULTS_OF_OURS = ("job.failed", "delivery.failed", "http.failed", "feed.failed", "webhook.failed")
MARKED_AS = {Meaning.GONE: "gone", Meaning.ANOTHER_KEY: "quarantined"}


class Row(NamedTuple):
    """`tries`: the attempts that were written down, each of which came to nothing final."""

    outcome: str
    attempts: int
    posted: bool
    tries: int


Answers = dict[tuple[UUID, str], list[Said]]
"""By notification and endpoint, as they were given."""


async def breaches(on: Stand, played: Played) -> list[str]:
    found = [f"refused: {said}" for said in played.refused]
    if not played.ended:
        found += await _unended(on, played)
        return found
    rows = await _rows(on)
    answers = _answers(on, played, found)
    meant: defaultdict[str, set[Meaning]] = defaultdict(set)
    for (_, endpoint), said in answers.items():
        meant[endpoint].update(one.meaning for one in said)
    found += await _all_ended(on, played)
    found += _one_row_each(on, played, rows, meant)
    found += await _counted(on)
    found += await _devices(on, meant)
    found += _outcomes(on, rows, answers, meant)
    lost = list(_lost(on))
    allowed = spans.spans(played.happened, lost, played.pulse)
    found += _attempts(on, rows, answers, allowed)
    found += spans.unexplained(_taken(answers), allowed)
    found += [
        f"a lease of {loss.notification_id} was lost, without a fault and on a machine that was not starved"
        for loss in spans.unexcused(played.happened, lost, played.pulse)
    ]
    found += _processes(on, played)
    found += _secrets()
    return found


async def _rows(on: Stand) -> dict[UUID, dict[UUID, Row]]:
    """By notification and device."""
    rows: defaultdict[UUID, dict[UUID, Row]] = defaultdict(dict)
    tried = text("SELECT notification_id, device_id, count(*) FROM attempts GROUP BY 1, 2")
    query = text("SELECT notification_id, device_id, outcome, attempts, attempted_at FROM deliveries")
    async with on.parts.engine.connect() as conn:
        tries = {(notification_id, device_id): count for notification_id, device_id, count in await conn.execute(tried)}
        for notification_id, device_id, outcome, attempts, at in await conn.execute(query):
            assert device_id not in rows[notification_id], "a device has two rows"
            count = tries.get((notification_id, device_id), 0)
            rows[notification_id][device_id] = Row(outcome, attempts, at is not None, count)
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


def _one_row_each(
    on: Stand, played: Played, rows: dict[UUID, dict[UUID, Row]], meant: dict[str, set[Meaning]]
) -> list[str]:
    """But for who was found gone, or given another key, before it was planned."""
    found = []
    for title, id_ in played.titles.items():
        missing, strange = played.asked[id_] - rows[id_].keys(), rows[id_].keys() - played.asked[id_]
        missing = {one for one in missing if not meant.get(on.endpoints[one], set()) & MARKED_AS.keys()}
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


async def _devices(on: Stand, meant: dict[str, set[Meaning]]) -> list[str]:
    """None is missing, and each is marked as its push service said."""
    found = []
    async with on.parts.engine.connect() as conn:
        known = {row.id: row.status for row in await conn.execute(text("SELECT id, status FROM devices"))}
    if missing := on.endpoints.keys() - known.keys():
        found.append(f"{len(missing)} devices are deleted")
    for id_, status in known.items():
        said = meant.get(on.endpoints[id_], set())
        should_be = {mark for meaning, mark in MARKED_AS.items() if meaning in said} or {"active"}
        if status not in should_be:
            found.append(f"{id_} is {status}, and its push service said {sorted(said) or 'nothing of it'}")
    return found


def _answers(on: Stand, played: Played, found: list[str]) -> Answers:
    """A topic stands for a notification; of each topic one message was read."""
    names: dict[str, UUID] = {}
    for topic, title in on.sim.titles.items():
        if title in played.titles:
            names[topic] = played.titles[title]
        else:
            found.append(f"the push services were sent {title!r}, which nobody was answered for")
    if on.sim.strays:
        found.append(f"{on.sim.strays} requests went to where no device is")
    return {
        (names[topic], endpoint): sorted(said, key=lambda one: one.asked_at)
        for (endpoint, topic), said in on.sim.said.items()
        if topic in names
    }


def _taken(answers: Answers) -> Answers:
    taken = {which: [one for one in said if one.meaning is Meaning.TAKEN] for which, said in answers.items()}
    return {which: said for which, said in taken.items() if said}


def _outcomes(
    on: Stand, rows: dict[UUID, dict[UUID, Row]], answers: Answers, meant: dict[str, set[Meaning]]
) -> list[str]:
    """What the log says is what the push services did."""
    found = []
    for notification_id, by_device in rows.items():
        for device_id, row in by_device.items():
            endpoint = on.endpoints[device_id]
            said = {one.meaning for one in answers.get((notification_id, endpoint), ())}
            if on.malformed.took[endpoint.removeprefix(on.malformed.origin)]:
                said.add(Meaning.TAKEN)
            marked = meant.get(endpoint, set()) & MARKED_AS.keys()
            match row.outcome:
                case "accepted":
                    right = Meaning.TAKEN in said
                case "gone":
                    right = Meaning.GONE in said | marked
                case "rejected":
                    right = bool(said & {Meaning.REJECTED, Meaning.ANOTHER_KEY}) or Meaning.ANOTHER_KEY in marked
                case _:
                    right = False
            if not right:
                what = sorted(said) or "nothing of it"
                found.append(
                    f"{device_id} of {notification_id} is logged as {row.outcome}; its push service said {what}"
                )
    return found


def _attempts(
    on: Stand, rows: dict[UUID, dict[UUID, Row]], answers: Answers, allowed: Sequence[spans.Span]
) -> list[str]:
    """Every passing answer is written down, but for those that a fault kept from whoever asked."""
    found = []
    for notification_id, by_device in rows.items():
        for device_id, row in by_device.items():
            passing = sum(
                one.meaning is Meaning.PASSING and not any(span.holds(one, notification_id) for span in allowed)
                for one in answers.get((notification_id, on.endpoints[device_id]), ())
            )
            if row.tries < passing:
                found.append(
                    f"{device_id} of {notification_id} met {passing} passing faults, and {row.tries} are logged"
                )
            if row.attempts != row.tries + row.posted:
                found.append(f"{device_id} of {notification_id} says {row.attempts} attempts; {row.tries} failed")
    return found


def repeats(on: Stand, played: Played) -> tuple[int, int]:
    """Messages that push services took from the second on, each device and notification by itself; and at the most."""
    taken = _taken(_answers(on, played, []))
    count = sum(len(said) - 1 for said in taken.values())
    return count, spans.most_repeats(taken, spans.spans(played.happened, _lost(on), played.pulse))


def _lost(on: Stand) -> Iterator[spans.Loss]:
    for process, skew in zip(on.workers, on.plan.skew_s, strict=False):
        yield from spans.losses(process.log, skew)


def _secrets() -> list[str]:
    """In what the processes have logged."""
    try:
        guard.check()
    except SecretInLog as leak:
        return [str(leak)[:2000]]
    return []


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
