"""Read one page of a list, bounded in rows and in octets.

A row may have a megabyte (an audience of many user ids), and a thousand such rows would exhaust the memory of a server.
So the database sums the sizes of the rows, and returns only the first rows up to MAX_PAGE_OCTETS.
"""

from typing import Any

from sqlalchemy import Column, ColumnElement, Row, Select, cast, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import Text

from gateway.domain.page import Page

# A page ends with the row at which the total size of its rows, as text, reaches this limit.
MAX_PAGE_OCTETS = 2 * 1024 * 1024


async def fetch_page(
    conn: AsyncConnection,
    query: Select[Any],
    id_: Column[Any],
    *,
    limit: int,
    other_octets: ColumnElement[int] | None = None,
) -> Page[Row[Any]]:
    """Return the first rows of a query by descending id, with at most `limit` rows and about MAX_PAGE_OCTETS.

    Args:
        conn: the connection.
        query: selects the rows, without order and limit.
        id_: the column of the id, which the query selects as `id`.
        limit: the maximum number of rows.
        other_octets: the size of the data that is loaded from other tables for a row.
    """
    octets_column = (literal(0) if other_octets is None else other_octets).label("other_octets")
    page = query.add_columns(octets_column).order_by(id_.desc()).limit(limit).cte("page")
    octets = func.octet_length(cast(page.table_valued(), Text)) + page.c.other_octets
    preceding = func.sum(octets).over(order_by=page.c.id.desc(), rows=(None, -1))
    sized = select(
        page, func.coalesce(preceding, 0).label("preceding_octets"), func.count().over().label("page_rows")
    ).subquery("sized")
    bounded = select(sized).where(sized.c.preceding_octets < MAX_PAGE_OCTETS).order_by(sized.c.id.desc())
    rows = list((await conn.execute(bounded)).all())
    is_last = not rows or (len(rows) < limit and len(rows) == rows[0].page_rows)
    return Page(rows, None if is_last else rows[-1].id)
