"""Helper processes: results, errors, and the end of calls that take too much."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.alerting import cap
from gateway.domain.errors import FieldError, MalformedBody, RateLimited, ValidationError, WorkLimitExceeded
from gateway.isolation import MAX_WAITING, HelperProcesses
from tests.support.helper_work import allocate, refuse, spin, wait

# CPU seconds that no call of these tests needs, and that a busy machine still gives.
ENOUGH_S = 60.0
TOO_LITTLE_S = 0.2


@pytest.fixture
async def helpers() -> AsyncIterator[HelperProcesses]:
    helpers = HelperProcesses(2)
    yield helpers
    await helpers.close()


async def test_result_and_error_of_a_call_are_returned(helpers: HelperProcesses) -> None:
    """Whatever a parser returns or raises comes back from the helper."""
    with pytest.raises(MalformedBody, match="no CAP alert"):
        await helpers.run("a", ENOUGH_S, cap.read, b"<x/>")
    with pytest.raises(ValidationError) as refused:
        await helpers.run("a", ENOUGH_S, refuse)
    assert refused.value.errors == [FieldError("/title", "is wrong")]
    assert await helpers.run("a", TOO_LITTLE_S, wait) == "waited"


@pytest.mark.parametrize("function", [spin, allocate])
async def test_call_beyond_its_limits_is_ended(helpers: HelperProcesses, function: object) -> None:
    """The helper is replaced, and the next call works."""
    with pytest.raises(WorkLimitExceeded):
        await helpers.run("a", TOO_LITTLE_S if function is spin else ENOUGH_S, function)  # type: ignore[arg-type]
    assert await helpers.run("a", ENOUGH_S, wait) == "waited"


async def test_owner_uses_half_of_the_helpers(helpers: HelperProcesses) -> None:
    """Calls of one owner that never end leave a helper to others, and too many of them are refused."""
    calls = [asyncio.create_task(helpers.run("greedy", ENOUGH_S, spin)) for _ in range(MAX_WAITING)]
    assert await helpers.run("other", ENOUGH_S, wait) == "waited"
    with pytest.raises(RateLimited):
        await helpers.run("greedy", ENOUGH_S, wait)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert await helpers.run("greedy", ENOUGH_S, wait) == "waited"
