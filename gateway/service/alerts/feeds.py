"""Alert feeds: URLs that the gateway polls for alerts."""

from datetime import timedelta
from typing import Any, TypedDict
from uuid import UUID

from gateway.domain import ids
from gateway.records.feeds import FETCH_NOW
from gateway.records.postgres import notifier
from gateway.records.postgres.engine import Connection, Row
from gateway.records.postgres.schema import feeds as table
from gateway.service import views
from gateway.service.audience import segments
from gateway.service.context import Context
from gateway.service.named_resources import NamedResource, map_rows

# Minimum and default time between two fetches of a feed.
MIN_INTERVAL = timedelta(seconds=10)
DEFAULT_INTERVAL = timedelta(seconds=60)


class FeedChange(TypedDict, total=False):
    """Changed fields of a feed. `interval` is in seconds; None removes the audience or the category."""

    name: str
    url: str
    interval: int
    status: str
    audience: Any
    category: str | None


async def create(
    conn: Connection,
    context: Context,
    application_id: UUID,
    name: str,
    url: str,
    *,
    interval: timedelta = DEFAULT_INTERVAL,
    audience: Any = None,
    category: str | None = None,
) -> views.Feed:
    """Store a feed. The gateway fetches it at once, and then at the interval.

    Raises:
        ValidationError: the audience is not valid.
        AddressNotAllowed: the gateway must not send requests to the URL.
        Conflict: the application has a feed of this name.
    """
    if audience is not None:
        await segments.resolve_audience(conn, application_id, audience)
    columns = {
        "name": name,
        "url": context.outbound.check(url),
        "interval_s": int(interval.total_seconds()),
        "audience": audience,
        "category": category,
    }
    feed = await _feeds.create(conn, application_id, columns)
    await notifier.notify(conn, notifier.FEEDS)
    return feed


async def update(
    conn: Connection, context: Context, application_id: UUID, id_: UUID, changed: FeedChange
) -> views.Feed:
    """Change some fields of a feed, and have the whole feed fetched again at once.

    Raises:
        NotFound: the application has no such feed.
        ValidationError: the audience is not valid.
        AddressNotAllowed: the gateway must not send requests to the URL.
        Conflict: another feed has the new name.
    """
    await _feeds.find(conn, application_id, id_, lock=True)
    columns: dict[str, Any] = {**changed}
    if columns.get("audience") is not None:
        await segments.resolve_audience(conn, application_id, columns["audience"])
    if "url" in columns:
        columns["url"] = context.outbound.check(columns["url"])
    if "interval" in columns:
        columns["interval_s"] = columns.pop("interval")
    row = await _feeds.save(conn, id_, {**columns, **FETCH_NOW})
    await notifier.notify(conn, notifier.FEEDS)
    return to_view(row)


def to_view(row: Row[Any]) -> views.Feed:
    """Return the view of a feed."""
    return {
        "id": ids.format_id(ids.FEED, row.id),
        "name": row.name,
        "url": row.url,
        "interval": row.interval_s,
        "audience": row.audience,
        "category": row.category,
        "status": row.status,
        "next_at": row.run_at if row.status == "active" else None,
        "failures": row.failures,
        "last_error": row.last_error,
        "last_ok_at": row.last_ok_at,
        "counts": row.counts,
        "refusals": row.refusals,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


_feeds = NamedResource(table, map_rows(to_view))
get, list_page, delete = _feeds.get, _feeds.list_page, _feeds.delete
