"""Which message is sent next, and how many at once to one push service."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass

import pytest

from gateway.domain.notification import Lane
from gateway.worker.lanes import Lanes


@dataclass(frozen=True)
class Letter:
    lane: Lane
    host: str = "one.example"
    number: int = 0


def letters(lane: Lane, count: int, host: str = "one.example") -> list[Letter]:
    return [Letter(lane, host, number) for number in range(count)]


def is_waiting(task: "asyncio.Task[Letter]") -> bool:
    return not task.done()


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def lanes() -> Lanes[Letter]:
    return Lanes(per_host=4)


async def take(lanes: Lanes[Letter], *, urgent_only: bool = False) -> Letter:
    return await asyncio.wait_for(lanes.take(urgent_only=urgent_only), 1)


async def test_urgent_goes_before_normal_before_bulk_and_in_order_within() -> None:
    lanes: Lanes[Letter] = Lanes(per_host=100)
    for lane in (Lane.BULK, Lane.URGENT, Lane.NORMAL):
        lanes.put(lane, letters(lane, 3))
    taken = [await take(lanes) for _ in range(9)]
    assert [(letter.lane, letter.number) for letter in taken] == [
        (lane, number) for lane in Lane for number in range(3)
    ]


async def test_an_urgent_sender_takes_nothing_else(lanes: Lanes[Letter]) -> None:
    lanes.put(Lane.BULK, letters(Lane.BULK, 1))
    lanes.put(Lane.NORMAL, letters(Lane.NORMAL, 1))
    reserved = asyncio.create_task(lanes.take(urgent_only=True))
    await settle()
    assert is_waiting(reserved)
    lanes.put(Lane.URGENT, letters(Lane.URGENT, 1))
    assert (await asyncio.wait_for(reserved, 1)).lane is Lane.URGENT


async def test_a_waiting_sender_wakes_for_what_comes(lanes: Lanes[Letter]) -> None:
    waiting = [asyncio.create_task(lanes.take(urgent_only=False)) for _ in range(3)]
    await settle()
    lanes.put(Lane.BULK, letters(Lane.BULK, 2))
    await settle()
    assert sorted(map(is_waiting, waiting)) == [False, False, True]
    lanes.put(Lane.URGENT, letters(Lane.URGENT, 1))
    assert {letter.lane for letter in await asyncio.gather(*waiting)} == {Lane.BULK, Lane.URGENT}


async def test_a_host_is_sent_no_more_at_once_than_it_bears(lanes: Lanes[Letter]) -> None:
    lanes.put(Lane.BULK, letters(Lane.BULK, 6))
    taken = [await take(lanes) for _ in range(4)]
    fifth = asyncio.create_task(lanes.take(urgent_only=False))
    await settle()
    assert is_waiting(fifth)
    lanes.done(taken[0], accepted=True)
    assert (await asyncio.wait_for(fifth, 1)).number == 4


async def test_a_full_host_holds_up_no_other(lanes: Lanes[Letter]) -> None:
    lanes.put(Lane.BULK, letters(Lane.BULK, 50, "slow.example"))
    lanes.put(Lane.BULK, letters(Lane.BULK, 2, "quick.example"))
    taken = [await take(lanes) for _ in range(6)]
    assert Counter(letter.host for letter in taken) == {"slow.example": 4, "quick.example": 2}


async def test_at_a_full_host_the_next_free_place_is_the_alert_s(lanes: Lanes[Letter]) -> None:
    lanes.put(Lane.BULK, letters(Lane.BULK, 20))
    taken = [await take(lanes) for _ in range(4)]
    bulk, alert = (asyncio.create_task(lanes.take(urgent_only=only)) for only in (False, True))
    await settle()
    lanes.put(Lane.URGENT, letters(Lane.URGENT, 1))
    await settle()
    assert is_waiting(bulk)
    assert is_waiting(alert)
    lanes.done(taken[0], accepted=True)
    await settle()
    lane = {task.result().lane for task in (bulk, alert) if task.done()}
    assert lane == {Lane.URGENT}
    for task in (bulk, alert):
        task.cancel()
    await asyncio.gather(bulk, alert, return_exceptions=True)


async def test_a_host_that_asks_for_less_is_given_half_and_never_less_than_one(lanes: Lanes[Letter]) -> None:
    lanes.put(Lane.BULK, letters(Lane.BULK, 4))
    taken = [await take(lanes) for _ in range(4)]
    limits = []
    for letter in taken:
        lanes.done(letter, slow_down=True)
        limits.append(lanes.limit("one.example"))
    assert limits == [2, 1, 1, 1]
    assert lanes.limit("other.example") == 4


async def test_a_host_s_limit_grows_again_slowly_and_no_further_than_before() -> None:
    lanes: Lanes[Letter] = Lanes(per_host=8)

    async def send(count: int, *, slow_down: bool = False) -> None:
        for _ in range(count):
            lanes.put(Lane.BULK, letters(Lane.BULK, 1))
            lanes.done(await take(lanes), slow_down=slow_down, accepted=not slow_down)

    await send(3, slow_down=True)
    assert lanes.limit("one.example") == 1
    await send(5)
    assert 1 < lanes.limit("one.example") < 8
    await send(200)
    assert lanes.limit("one.example") == 8


async def test_what_came_to_nothing_does_not_change_the_limit(lanes: Lanes[Letter]) -> None:
    lanes.put(Lane.BULK, letters(Lane.BULK, 2))
    for _ in range(2):
        lanes.done(await take(lanes))
    assert lanes.limit("one.example") == 4


async def test_every_message_is_sent_once_whatever_hosts_answer() -> None:
    """Hosts that slow down and recover at random, urgent senders beside others: nothing is lost or stuck."""
    chance = random.Random(7)  # noqa: S311 - a repeatable crowd
    lanes: Lanes[Letter] = Lanes(per_host=5)
    hosts = ["a.example", "b.example", "c.example"]
    everything = [Letter(chance.choice(list(Lane)), chance.choice(hosts), number) for number in range(3_000)]
    sent: list[Letter] = []
    in_flight: Counter[str] = Counter()
    all_sent = asyncio.Event()

    async def sender(*, urgent_only: bool) -> None:
        while True:
            letter = await lanes.take(urgent_only=urgent_only)
            assert not urgent_only or letter.lane is Lane.URGENT
            in_flight[letter.host] += 1
            assert in_flight[letter.host] <= 5
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
            in_flight[letter.host] -= 1
            sent.append(letter)
            lanes.done(letter, slow_down=chance.random() < 0.2, accepted=chance.random() < 0.8)
            if len(sent) == len(everything):
                all_sent.set()

    async with asyncio.TaskGroup() as group:
        senders = [group.create_task(sender(urgent_only=number < 3)) for number in range(12)]
        for start in range(0, len(everything), 100):
            for lane in Lane:
                lanes.put(lane, [letter for letter in everything[start : start + 100] if letter.lane is lane])
            await asyncio.sleep(0)
        await asyncio.wait_for(all_sent.wait(), 20)
        for task in senders:
            task.cancel()
    assert Counter(sent) == Counter(everything)
