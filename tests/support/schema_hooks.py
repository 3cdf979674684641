"""Serializers of the gateway's media types for schemathesis."""

from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson", "application/cap+xml", "application/geo+json")  # type: ignore[untyped-decorator]
def serialize_unchanged(_: Any, value: Any) -> bytes:
    """Send text unchanged: the OpenAPI document describes these bodies as text only."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
