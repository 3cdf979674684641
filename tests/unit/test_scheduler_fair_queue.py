"""The fair queue without the scheduler: which queue is served next."""

from collections import Counter
from uuid import UUID

from gateway.domain.notification import Lane
from gateway.worker.scheduling.fair_queue import FairQueue

TENANT, OTHER_TENANT = UUID(int=1), UUID(int=2)
BULK = Lane.BULK


def pop_messages(fair_queue: FairQueue[str], count: int) -> list[str]:
    """Pop messages and close empty queues, as the scheduler does."""
    messages = []
    for _ in range(count):
        head = fair_queue.head(BULK)
        assert head is not None
        messages.append(fair_queue.pop(BULK))
        if not head.messages:
            fair_queue.close(head)
    return messages


def test_one_queue_is_first_in_first_out() -> None:
    """Messages of one tenant for one host keep their order."""
    fair_queue: FairQueue[str] = FairQueue()
    fair_queue.open(BULK, TENANT, "a.example", "123")
    assert pop_messages(fair_queue, 3) == ["1", "2", "3"]
    assert fair_queue.head(BULK) is None
    assert fair_queue.is_empty


def test_tenants_and_their_hosts_take_turns() -> None:
    """Each tenant sends every second message; each of the first tenant's two hosts gets every fourth."""
    fair_queue: FairQueue[str] = FairQueue()
    fair_queue.open(BULK, TENANT, "a.example", "aaaaaaaa")
    fair_queue.open(BULK, TENANT, "b.example", "bbbbbbbb")
    fair_queue.open(BULK, OTHER_TENANT, "a.example", "cccccccc")
    assert Counter(pop_messages(fair_queue, 8)) == {"a": 2, "b": 2, "c": 4}


def test_lanes_are_separate() -> None:
    """An urgent message is not the head of the bulk lane."""
    fair_queue: FairQueue[str] = FairQueue()
    fair_queue.open(Lane.URGENT, TENANT, "a.example", "u")
    assert fair_queue.head(BULK) is None
    assert fair_queue.has_ready
    head = fair_queue.head(Lane.URGENT)
    assert head is not None
    assert fair_queue.pop(Lane.URGENT) == "u"


def test_skipped_queue_returns_when_made_ready() -> None:
    """A skipped queue passes the turn to the tenant's next queue, and is not served until it is made ready again."""
    fair_queue: FairQueue[str] = FairQueue()
    full = fair_queue.open(BULK, TENANT, "full.example", "ff")
    fair_queue.open(BULK, TENANT, "a.example", "aa")
    fair_queue.open(BULK, OTHER_TENANT, "a.example", "cc")
    fair_queue.skip(BULK)
    assert pop_messages(fair_queue, 4) == ["a", "c", "a", "c"]
    assert not fair_queue.has_ready
    assert not fair_queue.is_empty
    fair_queue.make_ready(full)
    assert pop_messages(fair_queue, 2) == ["f", "f"]
    assert fair_queue.is_empty


def test_removed_queue_takes_no_turn() -> None:
    """A removed queue is not served; a second removal returns False."""
    fair_queue: FairQueue[str] = FairQueue()
    fair_queue.open(BULK, TENANT, "a.example", "a")
    removed = fair_queue.open(BULK, OTHER_TENANT, "b.example", "b")
    assert fair_queue.remove(removed)
    assert not fair_queue.remove(removed)
    fair_queue.close(removed)
    assert pop_messages(fair_queue, 1) == ["a"]
    assert fair_queue.is_empty
