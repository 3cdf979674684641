"""Response bodies of the HTTP layer: pages and health. For resources, responses contain views of the service layer."""

from typing import Generic, TypeVar

from typing_extensions import TypedDict  # pydantic accepts typing.TypedDict only from Python 3.12

T = TypeVar("T")


class Page(TypedDict, Generic[T]):
    """One page of a list; `next_cursor` is null on the last page."""

    items: list[T]
    next_cursor: str | None


class Health(TypedDict):
    """The result of the liveness check."""

    status: str


class Readiness(TypedDict):
    """The result of the readiness check: the status, and the result of each check."""

    status: str
    checks: dict[str, str]
