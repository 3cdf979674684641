"""A Postgres of our own, for a machine that has none."""

from gateway.embedded.binaries import EmbeddedUnavailable
from gateway.embedded.cluster import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "EmbeddedUnavailable"]
