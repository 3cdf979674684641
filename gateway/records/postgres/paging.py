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
    key: Column[Any],
    *,
    limit: int,
    ascending: bool = False,
    other_octets: ColumnElement[int] | None = None,
) -> Page[Row[Any]]:
    """Return the first rows of a query by descending key, with at most `limit` rows and about MAX_PAGE_OCTETS.

    Args:
        conn: the connection.
        query: selects the rows, without order and limit.
        key: the column of the id or the log position, which the query selects by its name.
        limit: the maximum number of rows.
        ascending: return the first rows by ascending key instead.
        other_octets: the size of the data that is loaded from other tables for a row.
    """
    octets_column = (literal(0) if other_octets is None else other_octets).label("other_octets")
    page = query.add_columns(octets_column).order_by(_order(key, ascending)).limit(limit).cte("page")
    octets = func.octet_length(cast(page.table_valued(), Text)) + page.c.other_octets
    preceding = func.sum(octets).over(order_by=_order(page.c[key.name], ascending), rows=(None, -1))
    sized = select(
        page, func.coalesce(preceding, 0).label("preceding_octets"), func.count().over().label("page_rows")
    ).subquery("sized")
    bounded = select(sized).where(sized.c.preceding_octets < MAX_PAGE_OCTETS)
    rows = list((await conn.execute(bounded.order_by(_order(sized.c[key.name], ascending)))).all())
    is_last = not rows or (len(rows) < limit and len(rows) == rows[0].page_rows)
    return Page(rows, None if is_last else getattr(rows[-1], key.name))


def _order(key: ColumnElement[Any], ascending: bool) -> ColumnElement[Any]:
    return key.asc() if ascending else key.desc()
