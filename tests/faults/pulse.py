"""How slow the machine is, measured all along a run.

What the design allows is told in its own seconds: a batch waits 0.3 of them. On a machine that others use too, how much
longer that takes is not guessed but read from what takes us no time ourselves.
"""

import asyncio
import time

from gateway.records.postgres.engine import DATABASE_ERRORS
from tests.support.gateway_parts import Parts

BEAT_S = 0.1


class Pulse:
    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []

    async def beat(self, parts: Parts) -> None:
        """Until cancelled. How late we wake up, and how long Postgres takes for nothing, while it is there."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(BEAT_S)
            late = time.monotonic() - began - BEAT_S
            began = time.monotonic()
            try:
                await parts.scalar("SELECT 1")
            except DATABASE_ERRORS:
                began = time.monotonic()
            self._late.append((time.time(), late + time.monotonic() - began))

    def worst(self, since: float, until: float) -> float:
        """In seconds, between two moments."""
        return max((late for at, late in self._late if since <= at and at - late <= until), default=0.0)
