"""A Postgres that the gateway runs itself, for machines without a database."""

from gateway.embedded.binaries import EmbeddedUnavailable
from gateway.embedded.cluster import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "EmbeddedUnavailable"]
