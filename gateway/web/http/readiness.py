"""The readiness check: whether this process can serve requests.

The result is cached for CACHE_S. `/readyz` needs no credential, and without the cache anyone could cause many queries.
"""

import asyncio
import time

from gateway.service.context import Engine
from gateway.service.operations.readiness import check_database

CACHE_S = 1.0


class Readiness:
    """The readiness checks of this process, with their cached results."""

    def __init__(self, engine: Engine) -> None:
        """Create the checks for a database."""
        self._engine = engine
        self._lock = asyncio.Lock()
        self._checks: dict[str, str] = {}
        self._expires_at = 0.0

    async def run_checks(self) -> dict[str, str]:
        """Return the result of each check, from the cache if possible: `ok`, or a description of the problem."""
        async with self._lock:
            if time.monotonic() >= self._expires_at:
                self._checks = await check_database(self._engine)
                self._expires_at = time.monotonic() + CACHE_S
            return self._checks
