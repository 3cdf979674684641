"""Fixtures of the end-to-end tests."""

from tests.support.fixtures import parts, pool_size

__all__ = ["parts", "pool_size"]
