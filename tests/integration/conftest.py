"""The API on a database of the test's own."""

from collections.abc import AsyncIterator

import pytest

from tests.support.api import Api, serving
from tests.support.gateway_parts import gateway


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    async with gateway(database_url) as parts, serving(parts) as api:
        yield api
