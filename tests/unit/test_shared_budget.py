"""The budget that requests share: a greedy key leaves something to others, and sending requests have a reserve."""

import pytest

from gateway.domain.errors import RateLimited, Unavailable
from gateway.web.http.load_shedding import SEND_RESERVE, RequestLimiter, SharedBudget

LIMIT = 1000


def take_all(budget: SharedBudget, key: str, multiple: float, *, sends: bool = False) -> int:
    """Take one at a time until the budget refuses; return how many it gave."""
    taken = 0
    try:
        while True:
            budget.acquire({key: multiple}, 1, sends=sends)
            taken += 1
    except (RateLimited, Unavailable):
        return taken


@pytest.mark.parametrize("multiple", [0.5, 1.0, 4.0])
def test_greedy_key_leaves_a_share_to_the_next(multiple: float) -> None:
    """However much the first key takes, each later one finds something free."""
    budget = SharedBudget(LIMIT, "full")
    shares = [take_all(budget, f"key {number}", multiple) for number in range(3)]
    assert all(shares)
    assert shares == sorted(shares, reverse=True)


def test_reserve_is_left_to_requests_that_send() -> None:
    """Others leave the reserve, whatever their number."""
    budget = SharedBudget(LIMIT, "full")
    for number in range(100):
        take_all(budget, f"page {number}", 1.0)
    assert budget.in_use <= LIMIT * (100 - SEND_RESERVE) // 100
    with pytest.raises((RateLimited, Unavailable)):
        budget.acquire({"newcomer": 1.0}, LIMIT * SEND_RESERVE // 100, sends=False)
    assert take_all(budget, "sender", 4.0, sends=True) >= LIMIT * SEND_RESERVE // 100 // 2


def test_released_amount_is_free_again() -> None:
    """After a release the budget is as before."""
    budget = SharedBudget(LIMIT, "full")
    first = take_all(budget, "key", 1.0)
    for _ in range(first):
        budget.release({"key": 1.0}, 1)
    assert budget.in_use == 0
    assert take_all(budget, "key", 1.0) == first


def test_refused_body_reserves_only_what_it_got() -> None:
    """A chunk that is refused is not counted, and the end of the body releases the others."""
    limiter = RequestLimiter(10, max_octets=100)
    with limiter.body({"key": 1.0}, sends=True) as reserve:
        reserve(40)
        with pytest.raises(RateLimited):
            reserve(60)
        with pytest.raises(Unavailable):
            reserve(200)
        assert limiter.octets_in_use == 40
    assert limiter.octets_in_use == 0
