"""Create, read, update and delete resources that an application stores under a name.

The named resources are segments, categories, templates, triggers, reminders, feeds and webhooks. The module of each
resource contains its columns, checks and side effects. It builds one `NamedResource`, and exports the methods that need
no further checks (`get`, `list_page`, `delete`) as its own functions.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar
from uuid import UUID

from gateway.domain.page import Page
from gateway.records.postgres import named_resources as records
from gateway.records.postgres.engine import Connection, Row
from gateway.records.postgres.named_resources import Table

View = TypeVar("View")


class NamedResource(Generic[View]):
    """The operations on one table of resources. The names of resources are unique in an application."""

    def __init__(
        self,
        table: Table,
        to_views: Callable[[Connection, Sequence[Row[Any]]], Awaitable[list[View]]],
        *,
        before_delete: Callable[[Connection, Row[Any]], Awaitable[None]] | None = None,
    ) -> None:
        """Define the operations on a table.

        Args:
            table: a table with the columns id, application_id, name, created_at and updated_at.
            to_views: returns the views of rows, in the order of the rows.
            before_delete: is awaited with the locked row before the row is deleted; an exception prevents the deletion.
        """
        self._table = table
        self._to_views = to_views
        self._before_delete = before_delete

    async def create(self, conn: Connection, application_id: UUID, columns: Mapping[str, Any]) -> View:
        """Insert a row and return its view.

        Raises:
            Conflict: the application has a resource of this name.
        """
        return await self.view(conn, await self.insert(conn, application_id, columns))

    async def insert(self, conn: Connection, application_id: UUID, columns: Mapping[str, Any]) -> Row[Any]:
        """Insert a row and return it.

        Raises:
            Conflict: the application has a resource of this name.
        """
        return await records.add(conn, self._table, application_id=application_id, **columns)

    async def update(self, conn: Connection, application_id: UUID, id_: UUID, columns: Mapping[str, Any]) -> View:
        """Change some columns of a row and return its view.

        Raises:
            NotFound: the application has no such resource.
            Conflict: another resource has the new name.
        """
        await self.find(conn, application_id, id_, lock=True)
        return await self.view(conn, await self.save(conn, id_, columns))

    async def save(self, conn: Connection, id_: UUID, columns: Mapping[str, Any]) -> Row[Any]:
        """Change some columns of an existing row, and return the changed row.

        Raises:
            Conflict: another resource has the new name.
        """
        return await records.change(conn, self._table, id_, **columns)

    async def delete(self, conn: Connection, application_id: UUID, id_: UUID) -> None:
        """Delete a row.

        Raises:
            NotFound: the application has no such resource.
            Conflict: another resource refers to this one.
        """
        row = await self.find(conn, application_id, id_, lock=True)
        if self._before_delete is not None:
            await self._before_delete(conn, row)
        await records.remove(conn, self._table, id_)

    async def get(self, conn: Connection, application_id: UUID, id_: UUID) -> View:
        """Return the view of one resource.

        Raises:
            NotFound: the application has no such resource.
        """
        return await self.view(conn, await self.find(conn, application_id, id_))

    async def list_page(self, conn: Connection, application_id: UUID, *, before: UUID | None, limit: int) -> Page[View]:
        """Return a page of views, newest first; `before` is the last id of the previous page."""
        page = await records.list_page(conn, self._table, application_id, before=before, limit=limit)
        return Page(await self._to_views(conn, page.items), page.next_after)

    async def find(self, conn: Connection, application_id: UUID, id_: UUID, *, lock: bool = False) -> Row[Any]:
        """Return the row of a resource; `lock` locks it until the transaction ends.

        Raises:
            NotFound: the application has no such resource.
        """
        return await records.find(conn, self._table, application_id, id_, lock=lock)

    async def view(self, conn: Connection, row: Row[Any]) -> View:
        """Return the view of a row."""
        [view] = await self._to_views(conn, [row])
        return view


def map_rows(to_view: Callable[[Row[Any]], View]) -> Callable[[Connection, Sequence[Row[Any]]], Awaitable[list[View]]]:
    """Return a `to_views` function that applies `to_view` to each row, for views that need no further query."""

    async def to_views(_: Connection, rows: Sequence[Row[Any]]) -> list[View]:
        return [to_view(row) for row in rows]

    return to_views
