"""Measure how slow the machine is during a run.

The invariants compare times with the gateway's own limits, such as the 0.3 s that a batch waits. On a loaded machine
every step takes longer; the probe measures how much longer, by the lateness of a sleep and the time of an empty query.
"""

import asyncio
import time

from gateway.records.postgres.engine import DATABASE_ERRORS
from tests.support.gateway_parts import Parts

# The interval between two measurements.
INTERVAL_S = 0.1


class LatencyProbe:
    """The delays that were measured, at intervals of INTERVAL_S."""

    def __init__(self) -> None:
        self._delays: list[tuple[float, float]] = []

    async def measure(self, parts: Parts) -> None:
        """Measure until cancelled: the lateness of a sleep and, while Postgres is available, the time of a query."""
        while True:
            start = time.monotonic()
            await asyncio.sleep(INTERVAL_S)
            delay = time.monotonic() - start - INTERVAL_S
            start = time.monotonic()
            try:
                await parts.scalar("SELECT 1")
            except DATABASE_ERRORS:
                start = time.monotonic()
            self._delays.append((time.time(), delay + time.monotonic() - start))

    def max_delay_s(self, since: float, until: float) -> float:
        """Return the longest delay in seconds that was measured between two times."""
        return max(
            (delay for ended_at, delay in self._delays if since <= ended_at and ended_at - delay <= until), default=0.0
        )
