"""Which message is sent next, and how many at once to one push service."""

import asyncio
import heapq
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain.job import CHUNK
from gateway.domain.notification import Lane
from gateway.worker import host_limiter
from gateway.worker.concurrency import START
from gateway.worker.host_limiter import Feedback
from gateway.worker.scheduler import PATIENCE_S, PUT_OFF_S, SendScheduler

ONE, OTHER = UUID(int=1), UUID(int=2)


@dataclass(frozen=True)
class Letter:
    lane: Lane
    host: str = "one.example"
    number: int = 0
    application: UUID = ONE
    off: list[float] = field(default_factory=list, compare=False)

    def defer(self, seconds: float) -> None:
        self.off.append(seconds)


def letters(lane: Lane, count: int, host: str = "one.example", application: UUID = ONE) -> list[Letter]:
    return [Letter(lane, host, number, application) for number in range(count)]


def is_waiting(task: "asyncio.Task[Letter]") -> bool:
    return not task.done()


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lanes(clock: Clock) -> SendScheduler[Letter]:
    return SendScheduler(most=1000, clock=clock)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host of which nothing is known is sent four at once."""
    monkeypatch.setattr(host_limiter, "START", 4)


async def take(lanes: SendScheduler[Letter], *, urgent_only: bool = False) -> Letter:
    return await asyncio.wait_for(lanes.next(urgent_only=urgent_only), 1)


async def take_all(lanes: SendScheduler[Letter], *, urgent_only: bool = False) -> list[Letter]:
    """Whatever may be taken now."""
    found = []
    while (letter := lanes._pop(urgent_only)) is not None:
        found.append(letter)
    return found


async def test_urgent_goes_before_normal_before_bulk_and_in_order_within(lanes: SendScheduler[Letter]) -> None:
    for lane in (Lane.BULK, Lane.URGENT, Lane.NORMAL):
        lanes.put(lane, ONE, letters(lane, 3))
    taken = [await take(lanes) for _ in range(9)]
    assert [(letter.lane, letter.number) for letter in taken] == [
        (lane, number) for lane in Lane for number in range(3)
    ]


async def test_an_urgent_sender_takes_nothing_else(lanes: SendScheduler[Letter]) -> None:
    lanes.put(Lane.BULK, ONE, letters(Lane.BULK, 1))
    lanes.put(Lane.NORMAL, ONE, letters(Lane.NORMAL, 1))
    reserved = asyncio.create_task(lanes.next(urgent_only=True))
    await settle()
    assert is_waiting(reserved)
    lanes.put(Lane.URGENT, ONE, letters(Lane.URGENT, 1))
    assert (await asyncio.wait_for(reserved, 1)).lane is Lane.URGENT


async def test_a_waiting_sender_wakes_for_what_comes(lanes: SendScheduler[Letter]) -> None:
    waiting = [asyncio.create_task(lanes.next(urgent_only=False)) for _ in range(3)]
    await settle()
    lanes.put(Lane.BULK, ONE, letters(Lane.BULK, 2))
    await settle()
    assert sorted(map(is_waiting, waiting)) == [False, False, True]
    lanes.put(Lane.URGENT, ONE, letters(Lane.URGENT, 1))
    assert {letter.lane for letter in await asyncio.gather(*waiting)} == {Lane.BULK, Lane.URGENT}


async def test_applications_take_turns_and_so_do_the_hosts_of_one(lanes: SendScheduler[Letter]) -> None:
    """One's four jobs, put here before, do not keep another's first message waiting."""
    for _ in range(4):
        lanes.put(Lane.BULK, ONE, letters(Lane.BULK, CHUNK, "a.example") + letters(Lane.BULK, CHUNK, "b.example"))
    lanes.put(Lane.BULK, OTHER, letters(Lane.BULK, 10, "a.example", OTHER))
    taken = [await take(lanes) for _ in range(20)]
    assert Counter(letter.application for letter in taken) == {ONE: 10, OTHER: 10}
    assert Counter(letter.host for letter in taken if letter.application == ONE) == {"a.example": 5, "b.example": 5}


@pytest.mark.usefixtures("small")
async def test_applications_take_turns_at_a_full_host(lanes: SendScheduler[Letter]) -> None:
    lanes.put(Lane.BULK, ONE, letters(Lane.BULK, 100))
    taken = [await take(lanes) for _ in range(4)]
    lanes.put(Lane.BULK, OTHER, letters(Lane.BULK, 100, application=OTHER))
    assert await take_all(lanes) == []
    served: Counter[UUID] = Counter()
    for _ in range(20):
        lanes.done(taken.pop(0))
        [letter] = await take_all(lanes)
        served[letter.application] += 1
        taken.append(letter)
    assert served == {ONE: 10, OTHER: 10}


@pytest.mark.usefixtures("small")
async def test_a_host_is_sent_no_more_at_once_than_it_bears(lanes: SendScheduler[Letter]) -> None:
    lanes.put(Lane.BULK, ONE, letters(Lane.BULK, 6))
    taken = [await take(lanes) for _ in range(4)]
    fifth = asyncio.create_task(lanes.next(urgent_only=False))
    await settle()
    assert is_waiting(fifth)
    lanes.done(taken[0])
    lanes._wake_all(1)  # as the sender that was done would look for itself
    assert (await asyncio.wait_for(fifth, 1)).number == 4


@pytest.mark.usefixtures("small")
async def test_a_full_host_holds_up_no_other(lanes: SendScheduler[Letter]) -> None:
    lanes.put(Lane.BULK, ONE, letters(Lane.BULK, 50, "slow.example"))
    lanes.put(Lane.BULK, ONE, letters(Lane.BULK, 2, "quick.example"))
    assert Counter(letter.host for letter in await take_all(lanes)) == {"slow.example": 4, "quick.example": 2}


@pytest.mark.usefixtures("small")
async def test_at_a_full_host_there_are_places_that_only_alerts_may_use(lanes: SendScheduler[Letter]) -> None:
    lanes.put(Lane.BULK, ONE, letters(Lane.BULK, 20))
    assert len(await take_all(lanes)) == 4
    lanes.put(Lane.URGENT, ONE, letters(Lane.URGENT, 2))
    [alert] = await take_all(lanes, urgent_only=True)
    assert alert.lane is Lane.URGENT


@pytest.mark.usefixtures("small")
async def test_at_a_full_host_the_next_free_place_is_the_alert_s(lanes: SendScheduler[Letter]) -> None:
    lanes.put(Lane.BULK, ONE, letters(Lane.BULK, 20))
    taken = [await take(lanes) for _ in range(4)]
    lanes.put(Lane.URGENT, ONE, letters(Lane.URGENT, 2))
    await take_all(lanes)
    lanes.done(taken[0])
    assert [letter.lane for letter in await take_all(lanes)] == [Lane.URGENT]


async def test_when_several_hosts_are_slow_some_places_stay_free(clock: Clock) -> None:
    lanes: SendScheduler[Letter] = SendScheduler(most=60, clock=clock)
    held: Counter[str] = Counter()
    for number in range(3):
        lanes.put(Lane.BULK, ONE, letters(Lane.BULK, 500, f"{number}.example"))
        held.update(letter.host for letter in await take_all(lanes))
    assert held["0.example"] == 40
    assert held.total() < 60
    lanes.put(Lane.BULK, ONE, letters(Lane.BULK, 500, "quick.example"))
    assert await take_all(lanes)


async def test_what_a_slow_host_holds_up_keeps_nobody_from_claiming(clock: Clock, lanes: SendScheduler[Letter]) -> None:
    lanes.put(Lane.BULK, ONE, letters(Lane.BULK, 500, "slow.example"))
    await take_all(lanes)
    claiming = asyncio.create_task(lanes.wait_until_below(tuple(Lane), 0))
    await settle()
    assert not claiming.done()
    clock.now += 5
    lanes.reassess_hosts()
    await asyncio.wait_for(claiming, 1)


async def test_whole_jobs_of_what_cannot_be_sent_are_not_claimed_as_fast_as_they_come(
    clock: Clock, lanes: SendScheduler[Letter], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    lanes.put(Lane.BULK, ONE, letters(Lane.BULK, CHUNK, "slow.example"))
    await take_all(lanes)
    clock.now += 5
    lanes.reassess_hosts()
    lanes.put(Lane.BULK, ONE, letters(Lane.BULK, CHUNK, "slow.example"))
    monkeypatch.setattr("gateway.worker.scheduler.asyncio.sleep", sleep)
    await lanes.wait_until_below((Lane.URGENT,), 0)
    assert slept == []
    await lanes.wait_until_below(tuple(Lane), 0)
    assert slept == [0.1]


async def test_what_would_wait_long_is_put_off_for_as_long_as_the_host_needs(
    clock: Clock, lanes: SendScheduler[Letter]
) -> None:
    """12 a second for five minutes: 500 need 39 seconds."""
    lanes.put(Lane.BULK, ONE, letters(Lane.BULK, 300 * 64 // 5 + 500))
    for _ in range(300 * 64 // 5):
        letter = await take(lanes)
        clock.now += 5 / 64
        lanes.done(letter, Feedback.SUCCESS, 5.0)
        lanes.reassess_hosts()
    more = [letters(Lane.BULK, CHUNK) for _ in range(30)]
    for job in more:
        lanes.put(Lane.BULK, ONE, job)
    pauses = [{pause for letter in job for pause in letter.off} for job in more]
    first, second, *_ = (pause for [pause] in pauses)
    assert first == PATIENCE_S / 2
    assert second == pytest.approx(first + CHUNK * 5 / 64, rel=0.4)
    assert max(pause for [pause] in pauses) <= PUT_OFF_S[Lane.BULK]
    waits = letters(Lane.BULK, 5, application=OTHER)
    lanes.put(Lane.BULK, OTHER, waits)
    assert not any(letter.off for letter in waits), "another application has a turn there all the same"


def idle_s(
    lanes: SendScheduler[Letter], clock: Clock, count: int, answer: Callable[[], tuple[float, Feedback]]
) -> float:
    """Seconds of a campaign in which its host has nothing to do, since all that is left has been put off."""
    order = itertools.count()
    due = [(clock.now, next(order), letters(Lane.BULK, CHUNK)) for _ in range(count // CHUNK)]
    sent: list[tuple[float, int, Letter, Feedback, float]] = []
    idle = 0.0
    while due or sent:
        while sent and sent[0][0] <= clock.now:
            _, _, letter, sign, seconds = heapq.heappop(sent)
            lanes.done(letter, sign, seconds)
            if sign is Feedback.BACKPRESSURE:
                heapq.heappush(due, (clock.now + 2, next(order), [letter]))
        if due and due[0][0] <= clock.now and sum(lanes._at_hand.values()) <= 3 * CHUNK:
            _, _, job = heapq.heappop(due)
            lanes.put(Lane.BULK, ONE, job)
            if job[0].off:
                [pause] = {letter.off.pop() for letter in job}
                heapq.heappush(due, (clock.now + pause, next(order), job))
        while (letter := lanes._pop(False)) is not None:
            seconds, sign = answer()
            heapq.heappush(sent, (clock.now + seconds, next(order), letter, sign, seconds))
        idle += 0 if sent else 0.01
        clock.now += 0.01
        lanes.reassess_hosts()
    return idle


@pytest.mark.parametrize("seed", range(3))
def test_a_bad_moment_of_a_host_does_not_put_off_what_it_can_soon_take(
    seed: int, clock: Clock, lanes: SendScheduler[Letter]
) -> None:
    """3 % of 429 keep its limit small, and 3 % of late answers then look like a host that hangs."""
    chance = random.Random(seed)  # noqa: S311 - a repeatable host

    def answer() -> tuple[float, Feedback]:
        return (0.4 if chance.random() < 0.03 else 0.02), (
            Feedback.BACKPRESSURE if chance.random() < 0.03 else Feedback.SUCCESS
        )

    assert idle_s(lanes, clock, 20_000, answer) < 10


def test_what_was_put_off_waits_no_longer_than_its_host_was_slow(clock: Clock, lanes: SendScheduler[Letter]) -> None:
    began = clock.now

    def answer() -> tuple[float, Feedback]:
        return (5.0 if clock.now < began + 20 else 0.02), Feedback.SUCCESS

    assert idle_s(lanes, clock, 20_000, answer) < 20 + 5


async def faults(lanes: SendScheduler[Letter], count: int) -> None:
    lanes.put(Lane.BULK, ONE, letters(Lane.BULK, count))
    for letter in await take_all(lanes):
        lanes.done(letter, Feedback.FAILURE, 1.0)


async def test_messages_for_a_host_that_does_not_answer_are_put_off_and_one_goes_ahead_to_see(
    clock: Clock, lanes: SendScheduler[Letter]
) -> None:
    waiting = letters(Lane.BULK, 100)
    lanes.put(Lane.BULK, ONE, waiting)
    taken = await take_all(lanes)
    for letter in taken:
        lanes.done(letter, Feedback.FAILURE, 1.0)
    put_off = [letter for letter in waiting if letter not in taken]
    assert {len(letter.off) for letter in put_off} == {1}
    assert await take_all(lanes) == []

    later = letters(Lane.NORMAL, 10)
    lanes.put(Lane.NORMAL, ONE, later)
    assert all(
        host_limiter.FIRST_PAUSE_S <= pause <= 2 * host_limiter.FIRST_PAUSE_S
        for letter in later
        for pause in letter.off
    )

    clock.now += host_limiter.FIRST_PAUSE_S
    lanes.put(Lane.BULK, ONE, letters(Lane.BULK, 10))
    [probe] = await take_all(lanes)
    lanes.done(probe, Feedback.SUCCESS, 0.1)
    assert len(await take_all(lanes)) == 2, "as many again in each round"


async def test_an_alert_does_not_wait_for_the_pause_to_end(clock: Clock, lanes: SendScheduler[Letter]) -> None:
    await faults(lanes, 20)
    alert = letters(Lane.URGENT, 5)
    lanes.put(Lane.URGENT, ONE, alert)
    assert await take_all(lanes, urgent_only=True) == alert[:1]
    assert all(1 <= pause <= host_limiter.FIRST_PAUSE_S for letter in alert[1:] for pause in letter.off)
    clock.now += host_limiter.URGENT_PROBE_S
    again = letters(Lane.URGENT, 4)
    lanes.put(Lane.URGENT, ONE, again)
    assert len(await take_all(lanes, urgent_only=True)) == 1, "though the first has not come back"


async def test_an_alert_is_not_behind_a_probe_that_hangs(clock: Clock, lanes: SendScheduler[Letter]) -> None:
    await faults(lanes, 20)
    clock.now += host_limiter.FIRST_PAUSE_S
    lanes.put(Lane.BULK, ONE, letters(Lane.BULK, 10))
    assert len(await take_all(lanes)) == 1
    clock.now += host_limiter.URGENT_PROBE_S
    lanes.put(Lane.URGENT, ONE, letters(Lane.URGENT, 1))
    assert len(await take_all(lanes, urgent_only=True)) == 1


@pytest.mark.parametrize("seed", range(3))
async def test_every_message_is_sent_once_or_put_off_whatever_hosts_answer(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hosts that slow down, fail and recover at random, urgent senders beside others: nothing is lost or stuck."""
    monkeypatch.setattr(host_limiter, "START", 5)
    monkeypatch.setattr(host_limiter, "FIRST_PAUSE_S", 0.01)
    chance = random.Random(seed)  # noqa: S311 - a repeatable crowd
    lanes: SendScheduler[Letter] = SendScheduler(most=9)
    names = ["a.example", "b.example", "c.example"]
    ended: Counter[Letter] = Counter()
    everything: list[Letter] = []
    all_ended = asyncio.Event()

    def end(letter: Letter) -> None:
        ended[letter] += 1
        if len(ended) == 3000:
            all_ended.set()

    class Off(list[float]):
        def __init__(self) -> None:
            self.letter: Letter

        def append(self, _: float) -> None:
            end(self.letter)

    for number in range(3000):
        off = Off()
        letter = Letter(chance.choice(list(Lane)), chance.choice(names), number, chance.choice([ONE, OTHER]), off)
        off.letter = letter
        everything.append(letter)

    async def sender(*, urgent_only: bool) -> None:
        while True:
            letter = await lanes.next(urgent_only=urgent_only)
            assert not urgent_only or letter.lane is Lane.URGENT
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
            end(letter)
            signs = [Feedback.SUCCESS, None, Feedback.BACKPRESSURE, Feedback.FAILURE]
            weights = [1, 1, 1, 20 if letter.number % 1000 > 900 else 0.5]
            lanes.done(letter, chance.choices(signs, weights)[0], 0.001)

    async def look() -> None:
        while True:
            await asyncio.sleep(0.005)
            lanes.reassess_hosts()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(sender(urgent_only=number < 3)) for number in range(12)]
        tasks.append(group.create_task(look()))
        for start in range(0, len(everything), 100):
            jobs: defaultdict[tuple[Lane, UUID], list[Letter]] = defaultdict(list)
            for letter in everything[start : start + 100]:
                jobs[letter.lane, letter.application].append(letter)
            for (lane, application), job in jobs.items():
                lanes.put(lane, application, job)
            await asyncio.sleep(0)
        await asyncio.wait_for(all_ended.wait(), 20)
        for task in tasks:
            task.cancel()
    assert ended == Counter(everything)
    assert sum(lanes._at_hand.values()) == 0
    assert not lanes._applications


Step = tuple[str, int, int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "take", "urgent", "taken", "less", "fault", "nothing", "time"]),
        st.integers(0, 2),
        st.integers(0, 2),
        st.integers(1, 30),
    ),
    max_size=120,
)


@given(steps)
@settings(max_examples=300, deadline=None)
def test_the_lanes_keep_their_rules_whatever_happens(script: list[Step]) -> None:
    """Never more in flight than a host bears and there are places; nothing lost or twice; urgent first, if it may."""

    async def play() -> None:
        clock = Clock()
        lanes: SendScheduler[Letter] = SendScheduler(most=20, clock=clock)
        every, out = [], []
        act: dict[str, Feedback | None] = {
            "taken": Feedback.SUCCESS,
            "less": Feedback.BACKPRESSURE,
            "fault": Feedback.FAILURE,
            "nothing": None,
        }
        for what, one, two, many in script:
            if what == "put":
                lane, application = Lane(list(Lane)[one]), UUID(int=two)
                job = [Letter(lane, f"{n % 3}.example", len(every) + n, application) for n in range(many)]
                every += job
                lanes.put(lane, application, job)
            elif what in ("take", "urgent"):
                letter = lanes._pop(what == "urgent")
                if letter is not None:
                    out.append(letter)
                    in_flight = [one.lane for one in out if one.host == letter.host]
                    limit = lanes.limit(letter.host)
                    host = lanes._stops[letter.host].host
                    assert letter.lane is Lane.URGENT or len(in_flight) <= limit or host.probe_at
                    assert len(in_flight) <= limit + max(1, limit // 4) or host.probe_at
                    assert what == "urgent" or len(out) <= 20
                    waiting = lanes._stops[letter.host].waiting
                    assert letter.lane is Lane.URGENT or host.probe_at or not waiting[Lane.URGENT]
            elif what == "time":
                clock.now += many / 5
                lanes.reassess_hosts()
            elif out:
                lanes.done(out.pop(many % len(out)), act[what], 0.1)
        # Whatever came to pass, good hosts take all that is left.
        for _ in range(10_000):
            while (letter := lanes._pop(False)) is not None:
                out.append(letter)
            if not out:
                break
            lanes.done(out.pop(0), Feedback.SUCCESS, 0.1)
            clock.now += 0.01
        left = sum(sum(stop.waiting.values()) for stop in lanes._stops.values())
        if left:  # an open breaker's alerts, whose time comes
            clock.now += 1000
            lanes.reassess_hosts()
            while left and (letter := lanes._pop(False)) is not None:
                lanes.done(letter, Feedback.SUCCESS, 0.1)
                left -= 1
        assert left == 0
        assert sum(lanes._at_hand.values()) == 0
        assert max((len(letter.off) for letter in every), default=0) <= 1

    asyncio.run(play())


def test_a_crew_starts_small(clock: Callable[[], float]) -> None:
    lanes: SendScheduler[Letter] = SendScheduler(most=1000, clock=clock)
    for number in range(8):
        lanes.put(Lane.BULK, ONE, letters(Lane.BULK, 100, f"{number}.example"))
    taken = 0
    while lanes._pop(False) is not None:
        taken += 1
    assert taken == START


async def test_nothing_but_urgent_messages_are_given_out_while_way_is_made(lanes: SendScheduler[Letter]) -> None:
    """A campaign's messages wait until the alert's have come, and go on behind them. None are asked for meanwhile."""
    lanes.put(Lane.BULK, ONE, letters(Lane.BULK, 3))
    making = asyncio.create_task(lanes.pause_non_urgent(10))
    await asyncio.sleep(0)
    sender = asyncio.create_task(take(lanes))
    claiming = asyncio.create_task(lanes.wait_until_below(tuple(Lane), 10))
    await lanes.wait_until_below((Lane.URGENT,), 10)
    await settle()
    assert not sender.done()
    assert not claiming.done()

    lanes.put(Lane.URGENT, ONE, letters(Lane.URGENT, 1))
    assert await making
    await claiming
    assert (await sender).lane is Lane.URGENT
    assert (await take(lanes)).lane is Lane.BULK


async def test_way_is_not_made_for_longer_than_asked(lanes: SendScheduler[Letter]) -> None:
    """An alert that another worker has taken holds up nobody here."""
    lanes.put(Lane.BULK, ONE, letters(Lane.BULK, 1))
    making = asyncio.create_task(lanes.pause_non_urgent(0.01))
    await asyncio.sleep(0)
    sender = asyncio.create_task(take(lanes))
    assert not await making
    assert (await sender).lane is Lane.BULK
