"""One page of a list."""

from typing import Generic, NamedTuple, TypeVar
from uuid import UUID

Item = TypeVar("Item")


class Page(NamedTuple, Generic[Item]):
    """The items of one page.

    The next page begins after the id or the log position `next_after`; None: this page is the last one.
    """

    items: list[Item]
    next_after: UUID | int | None
