"""A few seeds, each with other faults; `python -m tests.faults --seeds 1-200` plays them by the hundred."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.cluster import Cluster, cluster
from tests.faults.plan import Between, Break, draw
from tests.faults.run import run

DEVICES = 800
SEEDS = (5, 6, 8)


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


def test_the_seeds_of_the_suite_break_everything_between_them() -> None:
    plans = [draw(seed, DEVICES) for seed in SEEDS]
    assert {fault.what for plan in plans for fault in plan.faults} == set(Break)
    assert {fault.between for plan in plans for fault in plan.faults} >= set(Between)
    assert any(any(plan.skew_s) for plan in plans)


def test_a_plan_is_the_same_whenever_it_is_drawn() -> None:
    assert draw(17, 20_000) == draw(17, 20_000) != draw(18, 20_000)
