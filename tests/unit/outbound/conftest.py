"""Fixtures of the outbound client's tests."""

from tests.support.refused_connections import connections

__all__ = ["connections"]
