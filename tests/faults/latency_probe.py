"""Measure how slow the machine is during a run.

The bounds of the design are times: a batch waits 0.3 s. On a shared machine everything takes longer, and this module
measures how much: by how late a sleep ends and how long an empty query takes.
"""

import asyncio
import time

from gateway.records.postgres.engine import DATABASE_ERRORS
from tests.support.gateway_parts import Parts

INTERVAL_S = 0.1


class LatencyProbe:
    """Delays measured at short intervals."""

    def __init__(self) -> None:
        self._delays: list[tuple[float, float]] = []

    async def measure(self, parts: Parts) -> None:
        """Measure the delay of a sleep plus the time of an empty query, if Postgres is available, until cancelled."""
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
        """Return the longest delay in seconds between two times."""
        return max((delay for at, delay in self._delays if since <= at and at - delay <= until), default=0.0)
