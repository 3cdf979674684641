"""The invariants that must hold after every run, whatever its faults were. One sentence describes each breach."""

import signal
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text

from gateway.domain.notification import Status
from tests.faults import repeat_windows
from tests.faults.environment import Environment
from tests.faults.execution import RunRecord
from tests.faults.recording_sim import Meaning, Response
from tests.support.log_guard import SecretInLog, guard

# The log events of unexpected exceptions.
INTERNAL_ERROR_EVENTS = ("job.failed", "delivery.failed", "http.failed", "feed.failed", "webhook.failed")
# The status of a device after a response with such a meaning.
STATUS_BY_MEANING = {Meaning.GONE: "gone", Meaning.KEY_MISMATCH: "quarantined"}


class Row(NamedTuple):
    """A row of the delivery log.

    `attempts` is the value of the row's column, `failed_attempts` the number of the delivery's rows in the table of
    attempts, and `posted` whether the final result came from a POST.
    """

    outcome: str
    attempts: int
    posted: bool
    failed_attempts: int


# Responses by (notification id, endpoint), in the order of the requests.
Responses = dict[tuple[UUID, str], list[Response]]


async def find_breaches(env: Environment, record: RunRecord) -> list[str]:
    """Return the breaches of a run; if it did not finish, only those that say what is unfinished."""
    breaches = [f"refused: {refusal}" for refusal in record.refusals]
    if not record.ended:
        breaches += await _describe_unfinished(env, record)
        return breaches
    rows = await _read_rows(env)
    responses = _responses_by_delivery(env, record, breaches)
    meanings: defaultdict[str, set[Meaning]] = defaultdict(set)
    for (_, endpoint), device_responses in responses.items():
        meanings[endpoint].update(response.meaning for response in device_responses)
    breaches += await _check_finished(env, record)
    breaches += _check_rows(env, record, rows, meanings)
    breaches += await _check_counters(env)
    breaches += await _check_devices(env, meanings)
    breaches += _check_outcomes(env, rows, responses, meanings)
    lost_leases = list(_lost_leases(env))
    windows = repeat_windows.repeat_windows(record.faults, lost_leases, record.probe)
    breaches += _check_attempts(env, rows, responses, windows)
    breaches += repeat_windows.find_unexplained_repeats(_select_accepted(responses), windows)
    breaches += [
        f"a lease of {lost_lease.notification_id} was lost without a fault and without CPU starvation"
        for lost_lease in repeat_windows.find_unexplained_losses(record.faults, lost_leases, record.probe)
    ]
    breaches += _check_processes(env, record)
    breaches += _check_secrets()
    return breaches


async def _read_rows(env: Environment) -> dict[UUID, dict[UUID, Row]]:
    """Return the rows of the delivery log by notification and device."""
    rows: defaultdict[UUID, dict[UUID, Row]] = defaultdict(dict)
    attempts_query = text("SELECT notification_id, device_id, count(*) FROM attempts GROUP BY 1, 2")
    query = text("""
        SELECT notification_id, device_id, outcome, attempts, attempted_at FROM deliveries
        WHERE application_id = :application_id""")
    async with env.parts.engine.connect() as conn:
        attempt_counts = {
            (notification_id, device_id): count
            for notification_id, device_id, count in await conn.execute(attempts_query)
        }
        values = {"application_id": env.parts.application_id}
        for notification_id, device_id, outcome, attempts, attempted_at in await conn.execute(query, values):
            assert device_id not in rows[notification_id], "a device has two rows"
            count = attempt_counts.get((notification_id, device_id), 0)
            rows[notification_id][device_id] = Row(outcome, attempts, attempted_at is not None, count)
    return rows


async def _describe_unfinished(env: Environment, record: RunRecord) -> list[str]:
    """Describe the notifications and jobs that did not finish."""
    breaches = [
        f"{title} is unfinished: {record.notifications[id_][0].status}, {record.notifications[id_][1].pending} pending"
        for title, id_ in record.titles.items()
        if id_ in record.notifications and record.notifications[id_][0].finished_at is None
    ]
    async with env.parts.engine.connect() as conn:
        query = text("""
            SELECT id, attempt, tries, run_at - now() AS due, cardinality(device_ids) AS size FROM jobs
            WHERE application_id = :application_id""")
        jobs = [
            f"job {row.id} (generation {row.attempt}, attempts {row.tries}, due in {row.due}) has {row.size} devices"
            for row in await conn.execute(query, {"application_id": env.parts.application_id})
        ]
    return breaches + jobs or ["the run did not finish"]


async def _check_finished(env: Environment, record: RunRecord) -> list[str]:
    """Check that every accepted notification is done and has no pending delivery."""
    breaches = []
    for title, id_ in record.titles.items():
        notification, progress = record.notifications[id_]
        if notification.status is not Status.DONE or progress.pending:
            breaches.append(f"{title} is {notification.status} with {progress.pending} pending")
    query = "SELECT count(*) FROM notifications WHERE application_id = :application_id"
    count = await env.parts.scalar(query, application_id=env.parts.application_id)
    if count != len(record.targets):
        breaches.append(f"{len(record.targets)} notifications were accepted, but the database has {count}")
    return breaches


def _check_rows(
    env: Environment, record: RunRecord, rows: dict[UUID, dict[UUID, Row]], meanings: dict[str, set[Meaning]]
) -> list[str]:
    """Check that each target has a row, unless its device was gone or had a key mismatch in another notification."""
    breaches = []
    for title, id_ in record.titles.items():
        missing, unexpected = record.targets[id_] - rows[id_].keys(), rows[id_].keys() - record.targets[id_]
        missing = {
            device_id
            for device_id in missing
            if not meanings.get(env.endpoints[device_id], set()) & STATUS_BY_MEANING.keys()
        }
        targets = record.notifications[id_][1].targets
        if missing or unexpected or targets != len(rows[id_]):
            breaches.append(
                f"{title}: {len(missing)} devices missing and {len(unexpected)} unexpected of {targets} targets"
            )
    return breaches


async def _check_counters(env: Environment) -> list[str]:
    """Check that the counters of each notification equal the counts of its rows."""
    query = text("""
        SELECT p.notification_id, p.accepted, p.gone, p.rejected, p.expired, p.cancelled, p.skipped, p.retries,
            count(d.*) FILTER (WHERE outcome = 'accepted'), count(d.*) FILTER (WHERE outcome = 'gone'),
            count(d.*) FILTER (WHERE outcome = 'rejected'), count(d.*) FILTER (WHERE outcome = 'expired'),
            count(d.*) FILTER (WHERE outcome = 'cancelled'), count(d.*) FILTER (WHERE outcome = 'skipped'),
            (SELECT count(*) FROM attempts a WHERE a.notification_id = p.notification_id)
        FROM progress p LEFT JOIN deliveries d USING (notification_id) GROUP BY p.notification_id
    """)
    async with env.parts.engine.connect() as conn:
        return [
            f"{id_}: the counters are {counts[:7]}, the rows are {counts[7:]}"
            for id_, *counts in await conn.execute(query)
            if counts[:7] != counts[7:]
        ]


async def _check_devices(env: Environment, meanings: dict[str, set[Meaning]]) -> list[str]:
    """Check that no device is missing, and that each has the status that follows from its responses."""
    breaches = []
    async with env.parts.engine.connect() as conn:
        query = text("SELECT id, status FROM devices WHERE application_id = :application_id")
        rows = await conn.execute(query, {"application_id": env.parts.application_id})
        statuses = {row.id: row.status for row in rows}
    if missing := env.endpoints.keys() - statuses.keys():
        breaches.append(f"{len(missing)} devices are deleted")
    for id_, status in statuses.items():
        device_meanings = meanings.get(env.endpoints[id_], set())
        expected = {
            expected_status for meaning, expected_status in STATUS_BY_MEANING.items() if meaning in device_meanings
        } or {"active"}
        if status not in expected:
            meanings_text = sorted(device_meanings) or "nothing to that effect"
            breaches.append(f"{id_} is {status}, and its push service responded {meanings_text}")
    return breaches


def _responses_by_delivery(env: Environment, record: RunRecord, breaches: list[str]) -> Responses:
    """Return the responses by delivery, and add a breach for each message that the API did not accept.

    The Topic header identifies the notification, because the recording simulator has the title of each Topic.
    """
    ids_by_topic: dict[str, UUID] = {}
    for topic, title in env.sim.titles.items():
        if title in record.titles:
            ids_by_topic[topic] = record.titles[title]
        else:
            breaches.append(f"the push services received {title!r}, which the API did not accept")
    if env.sim.strays:
        breaches.append(f"{env.sim.strays} requests went to an endpoint without a device")
    return {
        (ids_by_topic[topic], endpoint): sorted(device_responses, key=lambda response: response.requested_at)
        for (endpoint, topic), device_responses in env.sim.responses.items()
        if topic in ids_by_topic
    }


def _select_accepted(responses: Responses) -> Responses:
    """Return the deliveries with an accepting response, each with only these responses."""
    accepted = {
        delivery: [response for response in device_responses if response.meaning is Meaning.ACCEPTED]
        for delivery, device_responses in responses.items()
    }
    return {delivery: device_responses for delivery, device_responses in accepted.items() if device_responses}


def _check_outcomes(
    env: Environment, rows: dict[UUID, dict[UUID, Row]], responses: Responses, meanings: dict[str, set[Meaning]]
) -> list[str]:
    """Check that each outcome in the log follows from the push service's responses."""
    breaches = []
    for notification_id, by_device in rows.items():
        for device_id, row in by_device.items():
            endpoint = env.endpoints[device_id]
            device_meanings = {response.meaning for response in responses.get((notification_id, endpoint), ())}
            if env.malformed.accepted[endpoint.removeprefix(env.malformed.origin)]:
                device_meanings.add(Meaning.ACCEPTED)
            implied = meanings.get(endpoint, set()) & STATUS_BY_MEANING.keys()
            match row.outcome:
                case "accepted":
                    matches = Meaning.ACCEPTED in device_meanings
                case "gone":
                    matches = Meaning.GONE in device_meanings | implied
                case "rejected":
                    matches = (
                        bool(device_meanings & {Meaning.REJECTED, Meaning.KEY_MISMATCH})
                        or Meaning.KEY_MISMATCH in implied
                    )
                case _:
                    matches = False
            if not matches:
                meanings_text = sorted(device_meanings) or "nothing to that effect"
                breaches.append(
                    f"{device_id} of {notification_id} is logged as {row.outcome}; "
                    f"its push service responded {meanings_text}"
                )
    return breaches


def _check_attempts(
    env: Environment,
    rows: dict[UUID, dict[UUID, Row]],
    responses: Responses,
    windows: Sequence[repeat_windows.RepeatWindow],
) -> list[str]:
    """Check that every transient failure is recorded, unless a fault may have kept the response from the worker."""
    breaches = []
    for notification_id, by_device in rows.items():
        for device_id, row in by_device.items():
            transient = sum(
                response.meaning is Meaning.TRANSIENT
                and not any(window.contains(response, notification_id) for window in windows)
                for response in responses.get((notification_id, env.endpoints[device_id]), ())
            )
            if row.failed_attempts < transient:
                breaches.append(
                    f"{device_id} of {notification_id} had {transient} transient failures, "
                    f"and {row.failed_attempts} are logged"
                )
            if row.attempts != row.failed_attempts + row.posted:
                breaches.append(
                    f"{device_id} of {notification_id} has {row.attempts} attempts; {row.failed_attempts} failed"
                )
    return breaches


def count_repeats(env: Environment, record: RunRecord) -> tuple[int, int]:
    """Return the number of repeated messages, and the maximum number of repeats that the faults explain."""
    accepted = _select_accepted(_responses_by_delivery(env, record, []))
    count = sum(len(device_responses) - 1 for device_responses in accepted.values())
    return count, repeat_windows.max_repeats(
        accepted, repeat_windows.repeat_windows(record.faults, _lost_leases(env), record.probe)
    )


def _lost_leases(env: Environment) -> Iterator[repeat_windows.LostLease]:
    for process, skew in zip(env.workers, env.plan.skew_s, strict=False):
        yield from repeat_windows.parse_lost_leases(process.log, skew)


def _check_secrets() -> list[str]:
    """Check that the logs of the processes contain no secrets."""
    try:
        guard.check()
    except SecretInLog as leak:
        return [str(leak)[:2000]]
    return []


def _check_processes(env: Environment, record: RunRecord) -> list[str]:
    """Check that no process failed or logged an internal error, and that each one detected its clock error."""
    breaches = []
    names = [process.name for process in (*env.workers, env.api)]
    for name, code in zip(names, record.exit_codes, strict=True):
        # A process that is stopped before it handles SIGTERM exits by the signal.
        if code not in (0, None, -signal.SIGTERM):
            breaches.append(f"{name} exited with {code} after SIGTERM")
    for process, skew in zip((*env.workers, env.api), env.plan.skew_s, strict=True):
        if bool(skew) != ('"clock.wrong"' in process.log):
            breaches.append(f"{process.name}'s clock should be ahead by {skew:.0f} s")
        breaches += [f"{process.name} exited unexpectedly with {code}" for code in process.exits]
        for line in process.log.splitlines():
            if any(f'"{event}"' in line for event in INTERNAL_ERROR_EVENTS):
                breaches.append(f"{process.name}: {line[:2000]}")
    return breaches


def summarize_faults(record: RunRecord) -> str:
    """Return the number of injected faults of each kind as text."""
    kinds = Counter(injected.fault.kind for injected in record.faults)
    return ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
