"""A few seeds, each with other faults; `python -m tests.faults --seeds 1-200` plays them by the hundred."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.cluster import Cluster, cluster
from tests.faults.invariants import breaches
from tests.faults.plan import WORKERS, Between, Break, Plan, draw
from tests.faults.play import play
from tests.faults.remembering import Meaning
from tests.faults.run import run
from tests.faults.stand import stand

DEVICES = 600
SEEDS = (2, 20)


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


SOME = "device_id = (SELECT device_id FROM deliveries LIMIT 1)"
SABOTAGE = {
    "UPDATE progress SET rejected = rejected + 1": "the counters say",
    "UPDATE devices SET status = 'gone' WHERE id = (SELECT id FROM devices LIMIT 1)": "is gone, and its push",
    "DELETE FROM devices WHERE id = (SELECT id FROM devices ORDER BY id DESC LIMIT 1)": "1 devices are deleted",
    f"UPDATE deliveries SET outcome = 'expired' WHERE {SOME}": "expired",  # noqa: S608
    f"UPDATE deliveries SET outcome = 'rejected' WHERE {SOME}": "rejected",  # noqa: S608
    "UPDATE devices SET status = 'quarantined' WHERE id = (SELECT id FROM devices LIMIT 1)": "is quarantined, and",
    "UPDATE deliveries SET attempts = attempts + 1": "says 2 attempts; 0 failed",
    f"DELETE FROM deliveries WHERE {SOME}": "1 devices missing",  # noqa: S608
    "UPDATE notifications SET status = 'cancelled'": "is cancelled with",
}


async def test_what_is_wrong_is_noticed(shared: Cluster, tmp_path: Path) -> None:
    plan = Plan(1, 100, (), (), (0.0,) * (WORKERS + 1))
    async with stand(shared, plan, tmp_path) as made:
        played = await play(made)
        assert await breaches(made, played) == []
        for statement, words in SABOTAGE.items():
            await shared.run(statement, made.database)
            played.shown = {id_: await made.parts.show(id_) for id_ in played.asked}
            assert any(words in one for one in await breaches(made, played)), statement
        taken = next(said for said in made.sim.said.values() if said[-1].meaning is Meaning.TAKEN)
        taken.append(taken[-1])
        assert any("no fault explains it" in one for one in await breaches(made, played))
        for said in made.sim.said.values():
            said.insert(0, replace(said[0], meaning=Meaning.PASSING))
        assert any("met 1 passing faults, and 0 are logged" in one for one in await breaches(made, played))
        made.endpoints = dict.fromkeys(made.endpoints, "lost")
        assert any("said nothing of it" in one for one in await breaches(made, played))


def test_the_seeds_of_the_suite_break_everything_between_them() -> None:
    plans = [draw(seed, DEVICES) for seed in SEEDS]
    assert {fault.what for plan in plans for fault in plan.faults} == set(Break)
    assert {fault.between for plan in plans for fault in plan.faults} >= set(Between)
    assert any(any(plan.skew_s) for plan in plans)


def test_a_plan_is_the_same_whenever_it_is_drawn() -> None:
    assert draw(17, 20_000) == draw(17, 20_000) != draw(18, 20_000)
