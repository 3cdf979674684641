"""Fixtures of the integration tests."""

import aiohttp
import pytest
from sim_sender import Sender

from tests.support.fixtures import (
    api,
    http,
    own_clock,
    parts,
    pool_size,
    short_retry_delays,
    sim,
    today,
)
from tests.support.refused_connections import attempted_addresses

__all__ = [
    "api",
    "attempted_addresses",
    "http",
    "own_clock",
    "parts",
    "pool_size",
    "short_retry_delays",
    "sim",
    "today",
]


@pytest.fixture
def sender(http: aiohttp.ClientSession) -> Sender:
    """An application server that shares no code with the gateway, and sends to the simulated push services."""
    return Sender(http)
