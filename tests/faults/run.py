"""Run one seed: derive its plan, execute it, and check the invariants."""

from dataclasses import dataclass
from pathlib import Path

from tests.faults import invariants
from tests.faults.cluster import Cluster
from tests.faults.environment import start_environment
from tests.faults.execution import RunRecord, execute
from tests.faults.plan import Plan, draw_plan


@dataclass(frozen=True, slots=True)
class SeedResult:
    """The result of a seed.

    `repeats` is the number of repeated messages, and `max_repeats` the maximum number that the faults explain.
    """

    plan: Plan
    record: RunRecord
    repeats: int
    max_repeats: int
    breaches: list[str]

    def __str__(self) -> str:
        skewed = [f"{skew:+.0f} s" for skew in self.plan.skew_s if skew]
        clocks = f"; clock skew {skewed[0]}" if skewed else ""
        requests = self.record.api_responses.total()
        return (
            f"{'FAILED' if self.breaches else 'passed'} in {self.record.seconds:.1f} s; "
            f"{invariants.summarize_faults(self.record)}"
            f"{clocks}; {self.repeats} repeats of at most {self.max_repeats}; {requests} API requests"
        )


async def run_seed(cluster: Cluster, seed: int, devices: int, folder: Path) -> SeedResult:
    """Run a seed with `devices` devices and return its result; `folder` gets the logs of the processes."""
    plan = draw_plan(seed, devices)
    async with start_environment(cluster, plan, folder) as env:
        record = await execute(env)
        breaches = await invariants.find_breaches(env, record)
        return SeedResult(plan, record, *invariants.count_repeats(env, record), breaches)
