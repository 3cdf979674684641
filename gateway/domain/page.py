"""One page of a list."""

from typing import Generic, NamedTuple, TypeVar
from uuid import UUID

Item = TypeVar("Item")


class Page(NamedTuple, Generic[Item]):
    """The items of one page, and the id after which the next page begins; None when this page is the last one."""

    items: list[Item]
    next_after: UUID | None
