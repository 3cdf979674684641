"""Whether requests can be served: the database is there, with every migration this version needs.

Anybody may ask, as often as they like, so what was found is the answer for a moment: it must keep neither the database
busy nor us.
"""

import asyncio
import time

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.records.postgres import migrate
from gateway.records.postgres.engine import DATABASE_ERRORS

FOUND_S = 1.0


class Readiness:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._one_looks = asyncio.Lock()
        self._found: dict[str, str] = {}
        self._until = 0.0

    async def checks(self) -> dict[str, str]:
        """What was looked at, and `ok` or what is wrong with it."""
        async with self._one_looks:
            if time.monotonic() >= self._until:
                self._found = await self._look()
                self._until = time.monotonic() + FOUND_S
            return self._found

    async def _look(self) -> dict[str, str]:
        try:
            async with self._engine.connect() as conn:
                await conn.execute(text("SELECT 1"))
                current = await migrate.is_current(conn, self._engine.url.render_as_string(hide_password=False))
        except DATABASE_ERRORS:
            return {"database": "cannot be reached", "migrations": "unknown"}
        return {"database": "ok", "migrations": "ok" if current else "missing: run `gateway migrate`"}
