"""Fixtures of the outbound client's tests."""

from tests.support.refused_connections import attempted_addresses

__all__ = ["attempted_addresses"]
