"""A few seeds, each with other faults; `python -m tests.faults --seeds 1-200` plays them by the hundred."""

import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from gateway.domain.job import Job, JobKind
from gateway.domain.notification import Lane
from gateway.sim import Rule
from tests.faults.cluster import Cluster, cluster
from tests.faults.invariants import breaches
from tests.faults.plan import SENDERS, URGENT_SENDERS, WORKERS, Between, Break, Fault, Plan, draw
from tests.faults.play import Happened, play
from tests.faults.pulse import Pulse
from tests.faults.remembering import Meaning, Said
from tests.faults.run import run
from tests.faults.spans import Loss, losses, spans, unexcused, unexplained
from tests.faults.stand import stand
from tests.support.log_guard import guard

DEVICES = 600
SEEDS = (6, 12)


@pytest.fixture(scope="module")
async def shared() -> AsyncIterator[Cluster]:
    async with cluster() as made:
        yield made


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_breaks_everything_accepted_ends_and_is_logged_once(
    shared: Cluster, seed: int, tmp_path: Path
) -> None:
    ran = await run(shared, seed, DEVICES, tmp_path)
    print(ran)
    assert not ran.breaches, f"python -m tests.faults --seed {seed} --devices {DEVICES}"


NOTIFICATION, NOBODY = UUID(int=1), UUID(int=0)
AT = datetime(2026, 5, 4, tzinfo=UTC)
SABOTAGE = {
    "UPDATE progress SET rejected = rejected + 1": "the counters say",
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
    "DELETE FROM attempts; UPDATE progress SET retries = 0": "passing faults, and 0 are logged",
    "UPDATE notifications SET status = 'cancelled'": "is cancelled with",
}


async def test_what_is_wrong_is_noticed(shared: Cluster, tmp_path: Path) -> None:
    rules = (Rule(status=503, times=1, share=0.2, retry_after=0), Rule(status=413, share=0.05))
    plan = Plan(1, 200, (), (*rules, Rule(status=410, share=0.05)), (0.0,) * (WORKERS + 1))
    async with stand(shared, plan, tmp_path) as made:
        played = await play(made)
        assert await breaches(made, played) == []
        for statement, words in SABOTAGE.items():
            await shared.run(statement, made.database)
            played.shown = {id_: await made.parts.get_notification(id_) for id_ in played.asked}
            assert any(words in one for one in await breaches(made, played)), statement
        guard.record(f"sent to {next(iter(made.endpoints.values()))}")
        assert any("is in a log line" in one for one in await breaches(made, played))
        said = next(said for said in made.sim.said.values() if said[-1].meaning is Meaning.TAKEN)
        said.append(said[-1])
        assert any("no fault explains it" in one for one in await breaches(made, played))
        made.endpoints = dict.fromkeys(made.endpoints, "lost")
        assert any("said nothing of it" in one for one in await breaches(made, played))


def test_a_kill_explains_what_was_in_flight_or_unsettled_and_each_once() -> None:
    killed = [Happened(Fault(0.5, Break.KILL_WORKER, 1), AT, AT + timedelta(seconds=1))]
    assert explained(killed, -1.0, +5.0)
    assert not explained(killed, -10.0, +5.0)  # its batch should have been settled long ago
    assert not explained(killed, +3.0, +5.0)  # nobody was killed after it
    assert not explained(killed, -1.0, +5.0, +5.1)
    assert not explained([Happened(Fault(0.5, Break.KILL_API, 1), AT, AT)], -1.0, +5.0)


def test_without_the_database_what_was_taken_is_held_on_to_until_a_kill_or_a_lost_lease() -> None:
    away = Happened(Fault(0.4, Break.STOP_POSTGRES, 2), AT - timedelta(seconds=6), AT - timedelta(seconds=1))
    killed = Happened(Fault(0.5, Break.KILL_WORKER, 1), AT, AT + timedelta(seconds=1))
    lost = [Loss((AT - timedelta(seconds=1)).timestamp(), NOTIFICATION)]
    assert not explained([away], -5.0, +5.0)
    assert explained([away, killed], -5.0, +5.0)
    assert explained([away], -5.0, +5.0, lost=lost)
    assert not explained([away], -5.0, +5.0, lost=[Loss(lost[0].at, NOBODY)])
    assert not unexcused([away], lost, Pulse())
    assert not unexcused([away], [Loss(AT.timestamp() - 5, NOTIFICATION)], Pulse())
    assert unexcused([], lost, Pulse()) == lost


def test_a_lost_lease_is_read_from_what_a_worker_logs() -> None:
    job = Job(1, JobKind.SEND, NOTIFICATION, NOBODY, Lane.BULK, 1, 0, AT.date(), ())
    line = json.dumps({"event": "job.lease_lost", "timestamp": AT.isoformat(), **job.log_fields}, separators=(",", ":"))
    ahead_s = 60.0
    for written in (line, json.dumps(json.loads(line))):
        assert [*losses(f"started\n{written}\n", ahead_s)] == [Loss(AT.timestamp() - ahead_s, NOTIFICATION)]


def test_a_cut_explains_no_more_than_senders_can_have_in_flight() -> None:
    cut = [Happened(Fault(0.5, Break.CUT, 0, Between.WORKERS_AND_PUSH), AT, AT)]
    assert explained(cut, -0.1, +2.0)
    assert not explained(cut, -2.0, +2.0)
    most = (SENDERS + URGENT_SENDERS) * WORKERS
    copies = {(NOTIFICATION, f"https://push/{number}"): said(-0.1, +2.0) for number in range(most + 3)}
    assert len(unexplained(copies, spans(cut, (), Pulse()))) == 3


def explained(happened: Sequence[Happened], *seconds: float, lost: Sequence[Loss] = ()) -> bool:
    """Whether copies so many seconds from the last fault's start may be."""
    copies = {(NOTIFICATION, "https://push/1"): said(*seconds)}
    return not unexplained(copies, spans(happened, lost, Pulse()))


def said(*seconds: float) -> list[Said]:
    return [Said(Meaning.TAKEN, AT.timestamp() + one, AT.timestamp() + one) for one in seconds]


def test_the_seeds_of_the_suite_break_everything_between_them() -> None:
    plans = [draw(seed, DEVICES) for seed in SEEDS]
    assert {fault.what for plan in plans for fault in plan.faults} == set(Break)
    assert {fault.between for plan in plans for fault in plan.faults} >= set(Between)
    assert any(any(plan.skew_s) for plan in plans)


def test_a_plan_is_the_same_whenever_it_is_drawn() -> None:
    assert draw(17, 20_000) == draw(17, 20_000) != draw(18, 20_000)
