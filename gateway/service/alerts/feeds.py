"""Feeds: alerts that nobody posts, fetched from those who publish them."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func

from gateway.domain import ids
from gateway.records.postgres import named_resources, notifier
from gateway.records.postgres.engine import Connection, Row
from gateway.records.postgres.schema import feeds as table
from gateway.service.audience import segments
from gateway.service.context import Context

SHORTEST, USUAL = timedelta(seconds=10), timedelta(seconds=60)


async def create(
    conn: Connection,
    context: Context,
    application_id: UUID,
    name: str,
    url: str,
    *,
    interval: timedelta = USUAL,
    audience: Any = None,
    category: str | None = None,
) -> dict[str, Any]:
    """It is fetched at once. Raises Invalid, AddressNotAllowed and Conflict."""
    if audience is not None:
        await segments.read(conn, application_id, audience)
    row = await named_resources.add(
        conn,
        table,
        application_id=application_id,
        name=name,
        url=context.outbound.check(url),
        interval_s=int(interval.total_seconds()),
        audience=audience,
        category=category,
    )
    await notifier.notify(conn, notifier.FEEDS)
    return to_json(row)


async def change(
    conn: Connection, context: Context, application_id: UUID, id_: UUID, values: dict[str, Any]
) -> dict[str, Any]:
    """`values` by column; it is fetched anew at once. Raises NotFound, Invalid, AddressNotAllowed and Conflict."""
    await named_resources.find(conn, table, application_id, id_, lock=True)
    if values.get("audience") is not None:
        await segments.read(conn, application_id, values["audience"])
    if "url" in values:
        values = values | {"url": context.outbound.check(values["url"])}
    anew = {"run_at": func.now(), "claim": table.c.claim + 1, "etag": None, "last_modified": None, "digest": None}
    row = await named_resources.change(conn, table, id_, **values, **anew, failures=0)
    await notifier.notify(conn, notifier.FEEDS)
    return to_json(row)


async def remove(conn: Connection, application_id: UUID, id_: UUID) -> None:
    """Raises NotFound."""
    await named_resources.find(conn, table, application_id, id_)
    await named_resources.remove(conn, table, id_)


async def get(conn: Connection, application_id: UUID, id_: UUID) -> dict[str, Any]:
    """Raises NotFound."""
    return to_json(await named_resources.find(conn, table, application_id, id_))


async def list_page(
    conn: Connection, application_id: UUID, *, before: UUID | None, limit: int
) -> Sequence[dict[str, Any]]:
    return [
        to_json(row) for row in await named_resources.list_page(conn, table, application_id, before=before, limit=limit)
    ]


def to_json(row: Row[Any]) -> dict[str, Any]:
    shown = {name: getattr(row, name) for name in ("name", "url", "audience", "category", "status", "failures")}
    shown |= {name: getattr(row, name) for name in ("last_error", "last_ok_at", "counts", "refusals")}
    return {
        "id": ids.format_id(ids.FEED, row.id),
        **shown,
        "interval": row.interval_s,
        "next_at": row.run_at if row.status == "active" else None,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }
