"""Runs of the fault harness with the seeds SEEDS, and tests of the harness. `python -m tests.faults` runs any seed."""

import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from gateway.domain.job import Job, JobKind
from gateway.domain.notification import Lane
from gateway.sim import Rule
from tests.faults.cluster import Cluster, start_cluster
from tests.faults.environment import start_environment
from tests.faults.execution import InjectedFault, execute
from tests.faults.invariants import find_breaches
from tests.faults.latency_probe import LatencyProbe
from tests.faults.plan import SENDERS, URGENT_SENDERS, WORKERS, Fault, FaultKind, LinkGroup, Plan, draw_plan
from tests.faults.recording_sim import Meaning, Response
from tests.faults.repeat_windows import (
    LostLease,
    find_unexplained_losses,
    find_unexplained_repeats,
    parse_lost_leases,
    repeat_windows,
)
from tests.faults.run import run_seed
from tests.support.log_guard import guard

DEVICES = 600
SEEDS = (6, 12)


@pytest.fixture(scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    """The Postgres server that the tests of this module share."""
    async with start_cluster() as cluster:
        yield cluster


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
async def test_accepted_notifications_finish_despite_faults(cluster: Cluster, seed: int, tmp_path: Path) -> None:
    """Every accepted notification finishes, and every delivery is logged once, for the faults of each seed."""
    result = await run_seed(cluster, seed, DEVICES, tmp_path)
    print(result)
    assert not result.breaches, f"python -m tests.faults --seed {seed} --devices {DEVICES}"


NOTIFICATION, OTHER_ID = UUID(int=1), UUID(int=0)
AT = datetime(2026, 5, 4, tzinfo=UTC)
# Statements that falsify the database, each with a part of the sentence of the breach that it must cause.
CORRUPTIONS = {
    "UPDATE progress SET rejected = rejected + 1": "the counters are",
    "UPDATE devices SET status = 'gone' WHERE id = (SELECT id FROM devices LIMIT 1)": "is gone, and its push",
    "UPDATE devices SET status = 'quarantined' WHERE id IN (SELECT device_id FROM deliveries WHERE status = 413)": (
        "is quarantined, and its push"
    ),
    "UPDATE devices SET status = 'active' WHERE status = 'gone'": "is active, and its push",
    "DELETE FROM devices WHERE id = (SELECT id FROM devices ORDER BY id DESC LIMIT 1)": "1 devices are deleted",
    "UPDATE deliveries SET outcome = 'rejected' WHERE attempts = 2 AND status = 201": "is logged as rejected",
    "UPDATE deliveries SET outcome = 'accepted' WHERE status = 413": "is logged as accepted",
    "UPDATE deliveries SET outcome = 'expired' WHERE device_id = (SELECT device_id FROM deliveries LIMIT 1)": "expired",
    "DELETE FROM deliveries WHERE device_id = (SELECT device_id FROM deliveries LIMIT 1)": "1 devices missing",
    "UPDATE deliveries SET attempts = attempts + 1": "attempts; ",
    "DELETE FROM attempts; UPDATE progress SET retries = 0": "transient failures, and 0 are logged",
    "UPDATE notifications SET status = 'cancelled'": "is cancelled with",
}


REMOVE_HOSTILE_TENANT = (
    "DELETE FROM {} WHERE notification_id IN (SELECT id FROM notifications WHERE application_id = '{}')"
)


async def test_each_corruption_breaches_an_invariant(cluster: Cluster, tmp_path: Path) -> None:
    """The harness detects each corruption of the database, a secret in a log, a repeat and a missing response."""
    rules = (Rule(status=503, times=1, share=0.2, retry_after=0), Rule(status=413, share=0.05))
    plan = Plan(1, 200, (), (*rules, Rule(status=410, share=0.05)), (0.0,) * (WORKERS + 1))
    async with start_environment(cluster, plan, tmp_path) as env:
        record = await execute(env)
        assert await find_breaches(env, record) == []
        # The corruptions select any device or delivery, which must be one of those that the invariants are about.
        for table in ("attempts", "deliveries", "progress"):
            await cluster.run(REMOVE_HOSTILE_TENANT.format(table, env.hostile_tenant.application_id), env.database)
        await cluster.run(f"DELETE FROM applications WHERE id = '{env.hostile_tenant.application_id}'", env.database)  # noqa: S608
        for statement, message in CORRUPTIONS.items():
            await cluster.run(statement, env.database)
            record.notifications = {id_: await env.parts.get_notification(id_) for id_ in record.targets}
            assert any(message in breach for breach in await find_breaches(env, record)), statement
        guard.record(f"sent to {next(iter(env.endpoints.values()))}")
        assert any("is in a log line" in breach for breach in await find_breaches(env, record))
        responses = next(
            responses for responses in env.sim.responses.values() if responses[-1].meaning is Meaning.ACCEPTED
        )
        responses.append(responses[-1])
        assert any("no fault explains it" in breach for breach in await find_breaches(env, record))
        env.endpoints = dict.fromkeys(env.endpoints, "lost")
        assert any("responded nothing to that effect" in breach for breach in await find_breaches(env, record))


def test_kill_explains_one_repeat_of_unsettled_messages() -> None:
    """A kill explains one repeat of each message that was in flight or not yet settled."""
    killed = [InjectedFault(Fault(0.5, FaultKind.KILL_WORKER, 1), AT, AT + timedelta(seconds=1))]
    assert is_explained(killed, -1.0, +5.0)
    assert not is_explained(killed, -10.0, +5.0)  # the first message was settled long before the kill
    assert not is_explained(killed, +3.0, +5.0)  # the first message was sent after the kill
    assert not is_explained(killed, -1.0, +5.0, +5.1)  # the third message is a second repeat
    assert not is_explained([InjectedFault(Fault(0.5, FaultKind.KILL_API, 1), AT, AT)], -1.0, +5.0)


def test_outage_extends_the_window_of_kills_and_lost_leases() -> None:
    """Results stay unsettled during an outage, so a kill or lost lease after it explains repeats from before it."""
    outage = InjectedFault(Fault(0.4, FaultKind.STOP_POSTGRES, 2), AT - timedelta(seconds=6), AT - timedelta(seconds=1))
    killed = InjectedFault(Fault(0.5, FaultKind.KILL_WORKER, 1), AT, AT + timedelta(seconds=1))
    lost_leases = [LostLease((AT - timedelta(seconds=1)).timestamp(), NOTIFICATION)]
    assert not is_explained([outage], -5.0, +5.0)
    assert is_explained([outage, killed], -5.0, +5.0)
    assert is_explained([outage], -5.0, +5.0, lost_leases=lost_leases)
    assert not is_explained([outage], -5.0, +5.0, lost_leases=[LostLease(lost_leases[0].at, OTHER_ID)])
    assert not find_unexplained_losses([outage], lost_leases, LatencyProbe())
    assert not find_unexplained_losses([outage], [LostLease(AT.timestamp() - 5, NOTIFICATION)], LatencyProbe())
    assert find_unexplained_losses([], lost_leases, LatencyProbe()) == lost_leases


def test_lost_lease_is_parsed_from_the_log() -> None:
    """The time of a lost lease is read from the worker's log and corrected by the worker's clock error."""
    job = Job(1, JobKind.SEND, NOTIFICATION, OTHER_ID, Lane.BULK, 1, 0, AT.date(), ())
    line = json.dumps({"event": "job.lease_lost", "timestamp": AT.isoformat(), **job.log_fields}, separators=(",", ":"))
    ahead_s = 60.0
    for entry in (line, json.dumps(json.loads(line))):
        assert [*parse_lost_leases(f"started\n{entry}\n", ahead_s)] == [
            LostLease(AT.timestamp() - ahead_s, NOTIFICATION)
        ]


def test_cut_explains_at_most_the_messages_in_flight() -> None:
    """A cut explains at most one repeat for each message that the workers may have in flight."""
    cut = [InjectedFault(Fault(0.5, FaultKind.CUT, 0, LinkGroup.WORKERS_AND_PUSH), AT, AT)]
    assert is_explained(cut, -0.1, +2.0)
    assert not is_explained(cut, -2.0, +2.0)
    limit = (SENDERS + URGENT_SENDERS) * WORKERS
    copies = {(NOTIFICATION, f"https://push/{number}"): accepted_at(-0.1, +2.0) for number in range(limit + 3)}
    assert len(find_unexplained_repeats(copies, repeat_windows(cut, (), LatencyProbe()))) == 3


def is_explained(faults: Sequence[InjectedFault], *offsets_s: float, lost_leases: Sequence[LostLease] = ()) -> bool:
    """Return whether the faults explain that a message was sent at each of these offsets from AT."""
    copies = {(NOTIFICATION, "https://push/1"): accepted_at(*offsets_s)}
    return not find_unexplained_repeats(copies, repeat_windows(faults, lost_leases, LatencyProbe()))


def accepted_at(*offsets_s: float) -> list[Response]:
    """Return accepting responses at these offsets from AT."""
    return [Response(Meaning.ACCEPTED, AT.timestamp() + offset, AT.timestamp() + offset) for offset in offsets_s]


def test_seeds_of_this_module_have_all_kinds_of_faults() -> None:
    """The plans of SEEDS together have every kind of fault, every link group and a clock error."""
    plans = [draw_plan(seed, DEVICES) for seed in SEEDS]
    assert {fault.kind for plan in plans for fault in plan.faults} == set(FaultKind)
    assert {fault.link_group for plan in plans for fault in plan.faults} >= set(LinkGroup)
    assert any(any(plan.skew_s) for plan in plans)


def test_plan_is_determined_by_the_seed() -> None:
    """A seed always has the same plan, and another seed has another plan."""
    assert draw_plan(17, 20_000) == draw_plan(17, 20_000) != draw_plan(18, 20_000)
