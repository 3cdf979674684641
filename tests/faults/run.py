"""One seed from its plan to its verdict."""

from dataclasses import dataclass
from pathlib import Path

from tests.faults import invariants
from tests.faults.cluster import Cluster
from tests.faults.plan import Plan, draw
from tests.faults.play import Played, play
from tests.faults.stand import stand


@dataclass(frozen=True, slots=True)
class Ran:
    plan: Plan
    played: Played
    repeats: int
    most: int
    breaches: list[str]

    def __str__(self) -> str:
        skewed = [f"{skew:+.0f} s" for skew in self.plan.skew_s if skew]
        clocks = f"; a clock {skewed[0]}" if skewed else ""
        tries = self.played.answers.total()
        return (
            f"{'FAILED' if self.breaches else 'passed'} in {self.played.seconds:.1f} s; {invariants.told(self.played)}"
            f"{clocks}; {self.repeats} repeats of at most {self.most}; {tries} tries at the API"
        )


async def run(on: Cluster, seed: int, devices: int, folder: Path) -> Ran:
    plan = draw(seed, devices)
    async with stand(on, plan, folder) as made:
        played = await play(made)
        found = await invariants.breaches(made, played)
        return Ran(plan, played, *invariants.repeats(made, played), found)
