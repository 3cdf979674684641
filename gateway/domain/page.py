"""One page of a list."""

from typing import Generic, NamedTuple, TypeVar
from uuid import UUID

Item = TypeVar("Item")


class Page(NamedTuple, Generic[Item]):
    """The items of one page.

    The next page begins after `next_after`, the id or log position of this page's last item; None: this is the last
    page.
    """

    items: list[Item]
    next_after: UUID | int | None
