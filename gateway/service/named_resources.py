"""Create, read, change and delete what an application stores under a name.

Segments, categories, templates, triggers, reminders, feeds and webhooks differ in their columns, checks and side
effects. Each of their modules keeps those and builds one `NamedResource`, whose `get`, `list_page` and `delete` become
the functions of the module.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar
from uuid import UUID

from gateway.records.postgres import named_resources as records
from gateway.records.postgres.engine import Connection, Row
from gateway.records.postgres.named_resources import Table

View = TypeVar("View")


class NamedResource(Generic[View]):
    """The resources in one table, each identified by an id and by a name that is unique in its application."""

    def __init__(
        self,
        table: Table,
        to_views: Callable[[Connection, Sequence[Row[Any]]], Awaitable[list[View]]],
        *,
        before_delete: Callable[[Connection, Row[Any]], Awaitable[None]] | None = None,
    ) -> None:
        """Describe a resource.

        Args:
            table: its table, with the columns id, application_id, name, created_at and updated_at.
            to_views: builds the views of rows, in their order.
            before_delete: is awaited with the locked row before the row is deleted, and may raise to keep it.
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
        """Change some columns of a row that `find` returned, and return the changed row.

        Raises:
            Conflict: another resource has the new name.
        """
        return await records.change(conn, self._table, id_, **columns)

    async def delete(self, conn: Connection, application_id: UUID, id_: UUID) -> None:
        """Delete a row.

        Raises:
            NotFound: the application has no such resource.
            Conflict: something still uses the resource.
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

    async def list_page(self, conn: Connection, application_id: UUID, *, before: UUID | None, limit: int) -> list[View]:
        """Return the views of one page, newest first; `before` is the last id of the previous page."""
        rows = await records.list_page(conn, self._table, application_id, before=before, limit=limit)
        return await self._to_views(conn, rows)

    async def find(self, conn: Connection, application_id: UUID, id_: UUID, *, lock: bool = False) -> Row[Any]:
        """Return a row; `lock` keeps other transactions from changing it.

        Raises:
            NotFound: the application has no such resource.
        """
        return await records.find(conn, self._table, application_id, id_, lock=lock)

    async def view(self, conn: Connection, row: Row[Any]) -> View:
        """Return the view of a row."""
        [view] = await self._to_views(conn, [row])
        return view


def each(to_view: Callable[[Row[Any]], View]) -> Callable[[Connection, Sequence[Row[Any]]], Awaitable[list[View]]]:
    """Return a `to_views` for resources whose view needs nothing but the row."""

    async def to_views(_: Connection, rows: Sequence[Row[Any]]) -> list[View]:
        return [to_view(row) for row in rows]

    return to_views
