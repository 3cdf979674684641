"""The budget that requests share: one key cannot use it up, and requests that send have a reserve."""

import pytest

from gateway.domain.errors import RateLimited, Unavailable
from gateway.web.http.load_shedding import SEND_RESERVE, RequestLimiter, SharedBudget

# The amount of the budget.
LIMIT = 1000


def take_all(budget: SharedBudget, key: str, multiple: float, *, sends: bool = False) -> int:
    """Acquire 1 for the key again and again until the budget refuses; return the acquired amount."""
    taken = 0
    try:
        while True:
            budget.acquire({key: multiple}, 1, sends=sends)
            taken += 1
    except (RateLimited, Unavailable):
        return taken


@pytest.mark.parametrize("multiple", [0.5, 1.0, 4.0])
def test_greedy_key_leaves_a_share_to_the_next(multiple: float) -> None:
    """Each of three keys that take all they can get gets a part, and no key gets more than the one before."""
    budget = SharedBudget(LIMIT, "full")
    shares = [take_all(budget, f"key {number}", multiple) for number in range(3)]
    assert all(shares)
    assert shares == sorted(shares, reverse=True)


def test_reserve_is_left_to_requests_that_send() -> None:
    """A hundred keys whose requests do not send leave SEND_RESERVE percent of the budget free."""
    budget = SharedBudget(LIMIT, "full")
    for number in range(100):
        take_all(budget, f"page {number}", 1.0)
    assert budget.in_use <= LIMIT * (100 - SEND_RESERVE) // 100
    with pytest.raises((RateLimited, Unavailable)):
        budget.acquire({"newcomer": 1.0}, LIMIT * SEND_RESERVE // 100, sends=False)
    assert take_all(budget, "sender", 4.0, sends=True) >= LIMIT * SEND_RESERVE // 100 // 2


def test_released_amount_is_free_again() -> None:
    """After all of it is released, a key can acquire the same amount again."""
    budget = SharedBudget(LIMIT, "full")
    first = take_all(budget, "key", 1.0)
    for _ in range(first):
        budget.release({"key": 1.0}, 1)
    assert budget.in_use == 0
    assert take_all(budget, "key", 1.0) == first


def test_refused_chunk_of_a_body_is_not_reserved() -> None:
    """A refused chunk does not count; the end of the body releases the chunks that were reserved."""
    limiter = RequestLimiter(10, max_octets=100)
    with limiter.body({"key": 1.0}, sends=True) as reserve:
        reserve(40)
        with pytest.raises(RateLimited):
            reserve(60)
        with pytest.raises(Unavailable):
            reserve(200)
        assert limiter.octets_in_use == 40
    assert limiter.octets_in_use == 0
