"""Pagination of lists: `?limit=` and `?cursor=` in the query, `{"items", "next_cursor"}` in the response."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from gateway.domain.errors import FieldError, ValidationError
from gateway.domain.page import Page
from gateway.web.http.parsing import Query
from gateway.web.http.routing import Response

# Prefix of a cursor that contains a name, as opposed to an id or a position.
NAME_PREFIX = "="


class PageQuery(Query):
    """Query parameters of a list."""

    limit: Annotated[
        int, Field(ge=1, le=1000, description="Maximum number of items in the response, limited in size too.")
    ] = 100
    cursor: Annotated[str | None, Field(description="`next_cursor` of the previous page.")] = None

    def after_id(self) -> UUID | None:
        """Return the id in the cursor; None for the first page.

        Raises:
            ValidationError: the cursor is invalid.
        """
        try:
            return None if self.cursor is None else UUID(_decode(self.cursor))
        except ValueError:
            raise _invalid_cursor() from None

    def after_text(self) -> str | None:
        """Return the name in the cursor; None for the first page.

        Raises:
            ValidationError: the cursor is invalid.
        """
        if self.cursor is None:
            return None
        try:
            text = _decode(self.cursor)
        except ValueError:
            raise _invalid_cursor() from None
        if not text.startswith(NAME_PREFIX):
            raise _invalid_cursor()
        return text.removeprefix(NAME_PREFIX)

    def after_position(self) -> int | None:
        """Return the log position in the cursor; None for the first page.

        Raises:
            ValidationError: the cursor is invalid.
        """
        try:
            position = None if self.cursor is None else int(_decode(self.cursor))
        except ValueError:
            raise _invalid_cursor() from None
        if position is not None and not 0 <= position < 2**63:
            raise _invalid_cursor()
        return position


def page(items: Sequence[Any], limit: int, last: UUID | int | str | None) -> Response:
    """Return the response for one page.

    Args:
        items: the items of the page.
        limit: the maximum number of items. A page with fewer items is the last page.
        last: the id, name or position of the last item, after which the next page starts.
    """
    has_next = len(items) == limit and last is not None
    last = f"{NAME_PREFIX}{last}" if isinstance(last, str) else last
    return Response({"items": list(items), "next_cursor": _encode(str(last)) if has_next else None})


def bounded_page(page: Page[Any]) -> Response:
    """Return the response for a page that may have fewer items than its limit, because its size is limited too."""
    next_after = page.next_after
    return Response({"items": page.items, "next_cursor": None if next_after is None else _encode(str(next_after))})


def _encode(text: str) -> str:
    return urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def _decode(cursor: str) -> str:
    return urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")


def _invalid_cursor() -> ValidationError:
    return ValidationError([FieldError("/query/cursor", "is not a cursor of this list")])
