"""The readiness check: whether this process can serve requests.

The result is cached for CACHE_S. `/readyz` needs no credential, and without the cache anyone could cause many queries.
"""

import asyncio
import time

from gateway.service.context import Context
from gateway.service.operations.readiness import check_database

# Time for which the result of a check is cached.
CACHE_S = 1.0


class Readiness:
    """The readiness checks of this process, with their cached results."""

    def __init__(self, context: Context) -> None:
        """Create the checks of a database."""
        self._context = context
        self._lock = asyncio.Lock()
        self._checks: dict[str, str] = {}
        self._expires_at = 0.0

    async def run_checks(self) -> dict[str, str]:
        """Return the result of each check, from the cache if possible: `ok`, or a description of the problem."""
        async with self._lock:
            if time.monotonic() >= self._expires_at:
                self._checks = await check_database(self._context)
                self._expires_at = time.monotonic() + CACHE_S
            return self._checks
