"""Lists: `?limit=` and `?cursor=` in, `{"items", "next_cursor"}` out."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from gateway.domain.errors import FieldError, ValidationError
from gateway.web.http.parsing import Query
from gateway.web.http.routing import Response

NAMED = "="
"""Before a name in a cursor, which is neither an id nor a position."""


class PageQuery(Query):
    limit: Annotated[int, Field(ge=1, le=1000, description="Items in one answer.")] = 100
    cursor: Annotated[str | None, Field(description="`next_cursor` of the page before.")] = None

    def after_id(self) -> UUID | None:
        """Raises Invalid."""
        try:
            return None if self.cursor is None else UUID(_opened(self.cursor))
        except ValueError:
            raise _unknown() from None

    def after_text(self) -> str | None:
        """Raises Invalid."""
        if self.cursor is None:
            return None
        try:
            mark, name = _opened(self.cursor)[:1], _opened(self.cursor)[1:]
        except ValueError:
            raise _unknown() from None
        if mark != NAMED:
            raise _unknown()
        return name

    def after_position(self) -> int | None:
        """Raises Invalid."""
        try:
            position = None if self.cursor is None else int(_opened(self.cursor))
        except ValueError:
            raise _unknown() from None
        if position is not None and not 0 <= position < 2**63:
            raise _unknown()
        return position


def page(items: Sequence[Any], limit: int, last: UUID | int | str | None) -> Response:
    """`last` is where the next page begins; a page that is not full is the last one."""
    more = len(items) == limit and last is not None
    last = f"{NAMED}{last}" if isinstance(last, str) else last
    return Response({"items": list(items), "next_cursor": _sealed(str(last)) if more else None})


def _sealed(text: str) -> str:
    return urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def _opened(cursor: str) -> str:
    return urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")


def _unknown() -> ValidationError:
    return ValidationError([FieldError("/query/cursor", "is not a cursor of ours")])
