"""Helper processes: results, errors, and the end of calls that use too much time or memory."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.alerting import cap
from gateway.domain.errors import FieldError, MalformedBody, RateLimited, ValidationError, WorkLimitExceeded
from gateway.isolation import MAX_WAITING, HelperProcesses
from tests.support.helper_work import allocate, refuse, spin, wait

# A limit of CPU seconds that no call of these tests reaches; `wait` uses none.
ENOUGH_S = 60.0
# A limit of CPU seconds that `spin` exceeds soon.
TOO_LITTLE_S = 0.2


@pytest.fixture
async def helpers() -> AsyncIterator[HelperProcesses]:
    helpers = HelperProcesses(2)
    yield helpers
    await helpers.close()


async def test_result_and_error_of_a_call_are_returned(helpers: HelperProcesses) -> None:
    """The caller gets the result or the error of the function that ran in the helper process."""
    with pytest.raises(MalformedBody, match="no CAP alert"):
        await helpers.run("a", ENOUGH_S, cap.read, b"<x/>")
    with pytest.raises(ValidationError) as refused:
        await helpers.run("a", ENOUGH_S, refuse)
    assert refused.value.errors == [FieldError("/title", "is wrong")]
    assert await helpers.run("a", TOO_LITTLE_S, wait) == "waited"


@pytest.mark.parametrize("function", [spin, allocate])
async def test_call_beyond_its_limits_is_ended(helpers: HelperProcesses, function: object) -> None:
    """A call that exceeds its CPU time or memory is ended with its helper, and the next call gets a new helper."""
    with pytest.raises(WorkLimitExceeded):
        await helpers.run("a", TOO_LITTLE_S if function is spin else ENOUGH_S, function)  # type: ignore[arg-type]
    assert await helpers.run("a", ENOUGH_S, wait) == "waited"


async def test_owner_uses_half_of_the_helpers(helpers: HelperProcesses) -> None:
    """Calls of one owner that never end leave one of two helpers to other owners; MAX_WAITING calls may wait."""
    calls = [asyncio.create_task(helpers.run("greedy", ENOUGH_S, spin)) for _ in range(MAX_WAITING)]
    assert await helpers.run("other", ENOUGH_S, wait) == "waited"
    with pytest.raises(RateLimited):
        await helpers.run("greedy", ENOUGH_S, wait)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert await helpers.run("greedy", ENOUGH_S, wait) == "waited"
