"""Check whether the database is ready: reachable, and with every migration of this version of the gateway."""

from gateway.domain.database_work import LOOKUP
from gateway.records.postgres import migrate
from gateway.service.context import DATABASE_ERRORS, Context


async def check_database(context: Context) -> dict[str, str]:
    """Return `ok` or a description of the problem, for the database and for its migrations."""
    try:
        async with context.connections.share(LOOKUP, "readiness").connect() as conn:
            is_current = await migrate.is_current(conn, context.engine.url.render_as_string(hide_password=False))
    except DATABASE_ERRORS:
        return {"database": "cannot be reached", "migrations": "unknown"}
    return {"database": "ok", "migrations": "ok" if is_current else "missing: run `gateway migrate`"}
