"""The fair queue without the scheduler: which queue is served next."""

from collections import Counter
from uuid import UUID

from gateway.domain.notification import Lane
from gateway.worker.scheduling.fair_queue import FairQueue

TENANT, OTHER_TENANT = UUID(int=1), UUID(int=2)
BULK = Lane.BULK


def pop_messages(queue: FairQueue[str], count: int) -> list[str]:
    """Pop messages and close empty queues, as the scheduler does."""
    messages = []
    for _ in range(count):
        head = queue.head(BULK)
        assert head is not None
        messages.append(queue.pop(BULK))
        if not head.messages:
            queue.close(head)
    return messages


def test_one_queue_is_first_in_first_out() -> None:
    """Messages of one tenant for one host keep their order."""
    queue: FairQueue[str] = FairQueue()
    queue.open(BULK, TENANT, "a.example", "123")
    assert pop_messages(queue, 3) == ["1", "2", "3"]
    assert queue.head(BULK) is None
    assert queue.is_empty


def test_tenants_and_their_hosts_take_turns() -> None:
    """Each tenant has every second message, and each of the first tenant's two hosts every fourth."""
    queue: FairQueue[str] = FairQueue()
    queue.open(BULK, TENANT, "a.example", "aaaaaaaa")
    queue.open(BULK, TENANT, "b.example", "bbbbbbbb")
    queue.open(BULK, OTHER_TENANT, "a.example", "cccccccc")
    assert Counter(pop_messages(queue, 8)) == {"a": 2, "b": 2, "c": 4}


def test_lanes_are_separate() -> None:
    """The head of a lane is not affected by other lanes."""
    queue: FairQueue[str] = FairQueue()
    queue.open(Lane.URGENT, TENANT, "a.example", "u")
    assert queue.head(BULK) is None
    assert queue.has_ready
    head = queue.head(Lane.URGENT)
    assert head is not None
    assert queue.pop(Lane.URGENT) == "u"


def test_skipped_queue_returns_when_made_ready() -> None:
    """A queue that waits at its host is skipped; the tenant's turn goes to its next queue."""
    queue: FairQueue[str] = FairQueue()
    full = queue.open(BULK, TENANT, "full.example", "ff")
    queue.open(BULK, TENANT, "a.example", "aa")
    queue.open(BULK, OTHER_TENANT, "a.example", "cc")
    queue.skip(BULK)
    assert pop_messages(queue, 4) == ["a", "c", "a", "c"]
    assert not queue.has_ready
    assert not queue.is_empty
    queue.make_ready(full)
    assert pop_messages(queue, 2) == ["f", "f"]
    assert queue.is_empty


def test_withdrawn_queue_takes_no_turn() -> None:
    """A queue can be removed from any position; removing it again returns False."""
    queue: FairQueue[str] = FairQueue()
    queue.open(BULK, TENANT, "a.example", "a")
    withdrawn = queue.open(BULK, OTHER_TENANT, "b.example", "b")
    assert queue.remove(withdrawn)
    assert not queue.remove(withdrawn)
    queue.close(withdrawn)
    assert pop_messages(queue, 1) == ["a"]
    assert queue.is_empty
