"""What schemathesis has to be told of our media types."""

from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson", "application/cap+xml", "application/geo+json")  # type: ignore[untyped-decorator]
def as_it_is(_: Any, value: Any) -> bytes:
    """Documents that the OpenAPI document says no more of than that they are text."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
