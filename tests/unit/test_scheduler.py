"""The send scheduler with all parts: which message is next, how many are in flight, and which are deferred."""

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

from gateway.domain.job import MAX_CHUNK_SIZE
from gateway.domain.notification import Lane
from gateway.service.pipeline.key_health import SUCCESS_WINDOW_S
from gateway.worker import application_limiter, host_limiter
from gateway.worker.application_limiter import PROBES, SUSPECT_CONSECUTIVE
from gateway.worker.concurrency import INITIAL_LIMIT
from gateway.worker.host_limiter import Feedback
from gateway.worker.scheduler import SendScheduler
from gateway.worker.scheduling.host_gate import MAX_DEFERRAL_S, MAX_HOST_WAIT_S, HostGate

TENANT, OTHER_TENANT = UUID(int=1), UUID(int=2)
# Refusals that limit an application.
MAX_REFUSED = SUSPECT_CONSECUTIVE + PROBES


@dataclass(frozen=True)
class Message:
    """A message that records for how many seconds the scheduler defers it."""

    lane: Lane
    host: str = "one.example"
    number: int = 0
    application_id: UUID = TENANT
    deferrals: list[float] = field(default_factory=list, compare=False)
    repeated: bool = False

    def defer(self, seconds: float) -> None:
        self.deferrals.append(seconds)


def make_messages(lane: Lane, count: int, host: str = "one.example", application: UUID = TENANT) -> list[Message]:
    return [Message(lane, host, number, application) for number in range(count)]


def is_waiting(task: "asyncio.Task[Message]") -> bool:
    return not task.done()


async def run_ready_tasks() -> None:
    """Run the event loop until every task that can proceed has done so."""
    for _ in range(5):
        await asyncio.sleep(0)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _no_first_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a new host INITIAL_LIMIT at once; by default it gets FIRST_LIMIT until it has accepted some messages."""
    monkeypatch.setattr(host_limiter, "FIRST_LIMIT", 1000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def scheduler(clock: Clock) -> SendScheduler[Message]:
    return SendScheduler(max_in_flight=1000, clock=clock)


@pytest.fixture
def small_host_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the initial limit of a new host to four messages."""
    monkeypatch.setattr(host_limiter, "INITIAL_LIMIT", 4)


async def next_message(scheduler: SendScheduler[Message], *, urgent_only: bool = False) -> Message:
    return await asyncio.wait_for(scheduler.next(urgent_only=urgent_only), 1)


def drain(scheduler: SendScheduler[Message], *, urgent_only: bool = False) -> list[Message]:
    """Return all messages that may be sent now."""
    messages = []
    while (message := scheduler.next_nowait(urgent_only=urgent_only)) is not None:
        messages.append(message)
    return messages


async def test_lanes_are_served_in_order_of_priority(scheduler: SendScheduler[Message]) -> None:
    """Urgent messages come first, then normal ones, then bulk; the messages of a lane keep their order."""
    for lane in (Lane.BULK, Lane.URGENT, Lane.NORMAL):
        scheduler.put(lane, TENANT, make_messages(lane, 3))
    taken = [await next_message(scheduler) for _ in range(9)]
    assert [(message.lane, message.number) for message in taken] == [
        (lane, number) for lane in Lane for number in range(3)
    ]


async def test_urgent_sender_takes_urgent_messages_only(scheduler: SendScheduler[Message]) -> None:
    """A sender that is reserved for urgent messages takes no message of another lane."""
    scheduler.put(Lane.BULK, TENANT, make_messages(Lane.BULK, 1))
    scheduler.put(Lane.NORMAL, TENANT, make_messages(Lane.NORMAL, 1))
    reserved = asyncio.create_task(scheduler.next(urgent_only=True))
    await run_ready_tasks()
    assert is_waiting(reserved)
    scheduler.put(Lane.URGENT, TENANT, make_messages(Lane.URGENT, 1))
    assert (await asyncio.wait_for(reserved, 1)).lane is Lane.URGENT


async def test_idle_senders_wake_for_new_messages(scheduler: SendScheduler[Message]) -> None:
    """As many idle senders wake as there are messages."""
    waiting = [asyncio.create_task(scheduler.next(urgent_only=False)) for _ in range(3)]
    await run_ready_tasks()
    scheduler.put(Lane.BULK, TENANT, make_messages(Lane.BULK, 2))
    await run_ready_tasks()
    assert sorted(map(is_waiting, waiting)) == [False, False, True]
    scheduler.put(Lane.URGENT, TENANT, make_messages(Lane.URGENT, 1))
    assert {message.lane for message in await asyncio.gather(*waiting)} == {Lane.BULK, Lane.URGENT}


async def test_tenants_take_turns_and_so_do_their_hosts(scheduler: SendScheduler[Message]) -> None:
    """Each of two tenants sends every second message, although the first added four jobs before the second."""
    for _ in range(4):
        scheduler.put(
            Lane.BULK,
            TENANT,
            make_messages(Lane.BULK, MAX_CHUNK_SIZE, "a.example")
            + make_messages(Lane.BULK, MAX_CHUNK_SIZE, "b.example"),
        )
    scheduler.put(Lane.BULK, OTHER_TENANT, make_messages(Lane.BULK, 10, "a.example", OTHER_TENANT))
    taken = [await next_message(scheduler) for _ in range(20)]
    assert Counter(message.application_id for message in taken) == {TENANT: 10, OTHER_TENANT: 10}
    assert Counter(message.host for message in taken if message.application_id == TENANT) == {
        "a.example": 5,
        "b.example": 5,
    }


@pytest.mark.usefixtures("small_host_limit")
async def test_tenants_take_turns_at_a_full_host(scheduler: SendScheduler[Message]) -> None:
    """Each slot that a full host frees goes to the next tenant."""
    scheduler.put(Lane.BULK, TENANT, make_messages(Lane.BULK, 100))
    taken = [await next_message(scheduler) for _ in range(4)]
    scheduler.put(Lane.BULK, OTHER_TENANT, make_messages(Lane.BULK, 100, application=OTHER_TENANT))
    assert drain(scheduler) == []
    served: Counter[UUID] = Counter()
    for _ in range(20):
        scheduler.complete(taken.pop(0))
        [message] = drain(scheduler)
        served[message.application_id] += 1
        taken.append(message)
    assert served == {TENANT: 10, OTHER_TENANT: 10}


@pytest.mark.usefixtures("small_host_limit")
async def test_host_has_no_more_in_flight_than_its_limit(scheduler: SendScheduler[Message]) -> None:
    """With a limit of four, the fifth message waits until one of the four completes."""
    scheduler.put(Lane.BULK, TENANT, make_messages(Lane.BULK, 6))
    taken = [await next_message(scheduler) for _ in range(4)]
    fifth = asyncio.create_task(scheduler.next(urgent_only=False))
    await run_ready_tasks()
    assert is_waiting(fifth)
    scheduler.complete(taken[0])
    scheduler.senders.wake(1)  # in production, the sender that called `complete` takes the next message itself
    assert (await asyncio.wait_for(fifth, 1)).number == 4


@pytest.mark.usefixtures("small_host_limit")
async def test_full_host_does_not_delay_other_hosts(scheduler: SendScheduler[Message]) -> None:
    """Messages for another host overtake the messages that wait at a full host."""
    scheduler.put(Lane.BULK, TENANT, make_messages(Lane.BULK, 50, "slow.example"))
    scheduler.put(Lane.BULK, TENANT, make_messages(Lane.BULK, 2, "fast.example"))
    assert Counter(message.host for message in drain(scheduler)) == {"slow.example": 4, "fast.example": 2}


@pytest.mark.usefixtures("small_host_limit")
async def test_full_host_has_slots_reserved_for_urgent(scheduler: SendScheduler[Message]) -> None:
    """An urgent message is sent although bulk messages fill the host's limit."""
    scheduler.put(Lane.BULK, TENANT, make_messages(Lane.BULK, 20))
    assert len(drain(scheduler)) == 4
    scheduler.put(Lane.URGENT, TENANT, make_messages(Lane.URGENT, 2))
    [alert] = drain(scheduler, urgent_only=True)
    assert alert.lane is Lane.URGENT


@pytest.mark.usefixtures("small_host_limit")
async def test_full_host_gives_its_next_slot_to_urgent(scheduler: SendScheduler[Message]) -> None:
    """A freed slot goes to an urgent message, although bulk messages have waited longer."""
    scheduler.put(Lane.BULK, TENANT, make_messages(Lane.BULK, 20))
    taken = [await next_message(scheduler) for _ in range(4)]
    scheduler.put(Lane.URGENT, TENANT, make_messages(Lane.URGENT, 2))
    drain(scheduler)
    scheduler.complete(taken[0])
    assert [message.lane for message in drain(scheduler)] == [Lane.URGENT]


async def test_slow_hosts_leave_slots_for_other_hosts(clock: Clock) -> None:
    """A host may have at most twice as many messages in flight as the worker has free slots: 40 of 60."""
    scheduler: SendScheduler[Message] = SendScheduler(max_in_flight=60, clock=clock)
    by_host: Counter[str] = Counter()
    for number in range(3):
        scheduler.put(Lane.BULK, TENANT, make_messages(Lane.BULK, 500, f"{number}.example"))
        by_host.update(message.host for message in drain(scheduler))
    assert by_host["0.example"] == 40
    assert by_host.total() < 60
    scheduler.put(Lane.BULK, TENANT, make_messages(Lane.BULK, 500, "fast.example"))
    assert drain(scheduler)


async def test_backlog_excludes_messages_of_slow_hosts(clock: Clock, scheduler: SendScheduler[Message]) -> None:
    """Messages of a host without a response for 5 s do not keep the claim loop waiting."""
    scheduler.put(Lane.BULK, TENANT, make_messages(Lane.BULK, 500, "slow.example"))
    drain(scheduler)
    claiming = asyncio.create_task(scheduler.wait_until_below(tuple(Lane), 0))
    await run_ready_tasks()
    assert not claiming.done()
    clock.now += 5
    scheduler.reassess_hosts()
    await asyncio.wait_for(claiming, 1)


async def test_claim_is_delayed_after_an_undeliverable_job(
    clock: Clock, scheduler: SendScheduler[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bulk job whose messages are all deferred delays the next claim of bulk jobs by 0.1 s, not that of alerts."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    scheduler.put(Lane.BULK, TENANT, make_messages(Lane.BULK, MAX_CHUNK_SIZE, "slow.example"))
    drain(scheduler)
    clock.now += 5
    scheduler.reassess_hosts()
    scheduler.put(Lane.BULK, TENANT, make_messages(Lane.BULK, MAX_CHUNK_SIZE, "slow.example"))
    monkeypatch.setattr("gateway.worker.scheduling.wakeups.asyncio.sleep", sleep)
    await scheduler.wait_until_below((Lane.URGENT,), 0)
    assert slept == []
    await scheduler.wait_until_below(tuple(Lane), 0)
    assert slept == [0.1]


async def test_job_is_deferred_for_as_long_as_the_host_needs(clock: Clock, scheduler: SendScheduler[Message]) -> None:
    """A host that completed 12.8 messages per second for five minutes needs 39 seconds for 500 messages."""
    scheduler.put(Lane.BULK, TENANT, make_messages(Lane.BULK, 300 * 64 // 5 + 500))
    for _ in range(300 * 64 // 5):
        message = await next_message(scheduler)
        clock.now += 5 / 64
        scheduler.complete(message, Feedback.SUCCESS, 5.0)
        scheduler.reassess_hosts()
    jobs = [make_messages(Lane.BULK, MAX_CHUNK_SIZE) for _ in range(30)]
    for job in jobs:
        scheduler.put(Lane.BULK, TENANT, job)
    pauses = [{pause for message in job for pause in message.deferrals} for job in jobs]
    first, second, *_ = (pause for [pause] in pauses)
    assert first == MAX_HOST_WAIT_S / 2
    assert second == pytest.approx(first + MAX_CHUNK_SIZE * 5 / 64, rel=0.4)
    assert max(pause for [pause] in pauses) <= MAX_DEFERRAL_S[Lane.BULK]
    other_messages = make_messages(Lane.BULK, 5, application=OTHER_TENANT)
    scheduler.put(Lane.BULK, OTHER_TENANT, other_messages)
    assert not any(message.deferrals for message in other_messages), "the other tenant lost its turn at the host"


def simulate_idle_s(
    scheduler: SendScheduler[Message], clock: Clock, count: int, respond: Callable[[], tuple[float, Feedback]]
) -> float:
    """Simulate a campaign of `count` messages to one host, and return the seconds without a message in flight.

    The host is idle while all remaining messages are deferred. `respond` returns the response time and the feedback
    of a message; refused messages are sent again two seconds later.
    """
    order = itertools.count()
    due = [(clock.now, next(order), make_messages(Lane.BULK, MAX_CHUNK_SIZE)) for _ in range(count // MAX_CHUNK_SIZE)]
    sent: list[tuple[float, int, Message, Feedback, float]] = []
    idle = 0.0
    while due or sent:
        while sent and sent[0][0] <= clock.now:
            _, _, message, feedback, seconds = heapq.heappop(sent)
            scheduler.complete(message, feedback, seconds)
            if feedback is Feedback.REFUSAL:
                heapq.heappush(due, (clock.now + 2, next(order), [message]))
        if due and due[0][0] <= clock.now and sum(scheduler.backlog.ready.values()) <= 3 * MAX_CHUNK_SIZE:
            _, _, job = heapq.heappop(due)
            scheduler.put(Lane.BULK, TENANT, job)
            if job[0].deferrals:
                [pause] = {message.deferrals.pop() for message in job}
                heapq.heappush(due, (clock.now + pause, next(order), job))
        while (message := scheduler.next_nowait(urgent_only=False)) is not None:
            seconds, feedback = respond()
            heapq.heappush(sent, (clock.now + seconds, next(order), message, feedback, seconds))
        idle += 0 if sent else 0.01
        clock.now += 0.01
        scheduler.reassess_hosts()
    return idle


@pytest.mark.parametrize("seed", range(3))
def test_short_disturbance_does_not_defer_for_long(seed: int, clock: Clock, scheduler: SendScheduler[Message]) -> None:
    """3 % refusals lower the limit; 3 % slow responses in addition must not make the host appear stalled."""
    rng = random.Random(seed)  # noqa: S311 - repeatable

    def respond() -> tuple[float, Feedback]:
        return (0.4 if rng.random() < 0.03 else 0.02), (Feedback.REFUSAL if rng.random() < 0.03 else Feedback.SUCCESS)

    assert simulate_idle_s(scheduler, clock, 20_000, respond) < 10


def test_deferral_is_capped_at_the_slow_period(clock: Clock, scheduler: SendScheduler[Message]) -> None:
    """A host responds in 5 s for the first 20 s; in all it is idle for less than those 20 s and 5 s more."""
    started_at = clock.now

    def respond() -> tuple[float, Feedback]:
        return (5.0 if clock.now < started_at + 20 else 0.02), Feedback.SUCCESS

    assert simulate_idle_s(scheduler, clock, 20_000, respond) < 20 + 5


async def test_limited_application_delays_no_other_at_its_host(clock: Clock, scheduler: SendScheduler[Message]) -> None:
    """While a host refuses one application, no message of another application for that host is deferred."""
    scheduler.put(Lane.BULK, TENANT, make_messages(Lane.BULK, MAX_CHUNK_SIZE))
    limit = scheduler.host_limit("one.example")
    refused = drain(scheduler)
    for message in refused:
        scheduler.complete(message, Feedback.REFUSAL, 0.1)
    assert scheduler.host_limit("one.example") == limit
    assert drain(scheduler) == []
    assert sum(scheduler.backlog.ready.values()) == 0, "held messages count in the backlog and stop the claims"

    others = make_messages(Lane.BULK, 200, application=OTHER_TENANT)
    scheduler.put(Lane.BULK, OTHER_TENANT, others)
    while taken := drain(scheduler):
        assert {message.application_id for message in taken} == {OTHER_TENANT}
        clock.now += 0.1
        for message in taken:
            scheduler.complete(message, Feedback.SUCCESS, 0.1)
        scheduler.reassess_hosts()
    assert not any(message.deferrals for message in others)


def refuse_until_held(
    clock: Clock, scheduler: SendScheduler[Message], application: UUID = TENANT, retry_after_s: float | None = None
) -> None:
    """Complete messages of an application with a refusal until the host's gate limits the application."""
    scheduler.put(Lane.BULK, application, make_messages(Lane.BULK, MAX_REFUSED, application=application))
    while gate_of(scheduler).limited(application) is None:
        if (message := scheduler.next_nowait(urgent_only=False)) is not None:
            scheduler.complete(message, Feedback.REFUSAL, 0.0, retry_after_s)
        else:
            clock.now += application_limiter.SUSPECT_INTERVAL_S
            scheduler.reassess_hosts()
    assert scheduler.fair_queue.is_empty


def gate_of(scheduler: SendScheduler[Message]) -> HostGate[Message]:
    return scheduler.gates.get_or_create("one.example")


async def test_held_application_defers_until_retry_after(clock: Clock, scheduler: SendScheduler[Message]) -> None:
    """Messages of an application with a long hold are deferred to its end; then few messages probe the host."""
    refuse_until_held(clock, scheduler, retry_after_s=600)
    job = make_messages(Lane.BULK, MAX_CHUNK_SIZE)
    scheduler.put(Lane.BULK, TENANT, job)
    assert all(600 <= pause <= 700 for message in job for pause in message.deferrals)
    assert all(message.deferrals for message in job)
    clock.now += 660
    scheduler.reassess_hosts()
    scheduler.put(Lane.BULK, TENANT, make_messages(Lane.BULK, MAX_CHUNK_SIZE))
    assert len(drain(scheduler)) == 1
    assert scheduler.fair_queue.is_empty is False


async def test_limited_application_sends_at_its_pace(clock: Clock, scheduler: SendScheduler[Message]) -> None:
    """A host accepts 20 messages a second of an application; most of them are used, first for the alert.

    The simulation takes steps of 10 ms. `tokens` is the number of messages that the host accepts at once.
    """
    refuse_until_held(clock, scheduler)
    tokens, sent, refused = 0.0, 0, 0
    alert: list[Message] = []
    due = [(0.0, make_messages(Lane.BULK, MAX_CHUNK_SIZE)) for _ in range(8)]
    for step in range(6000):
        clock.now += 0.01
        tokens = min(100.0, tokens + 0.2)
        if step % 10 == 0:
            scheduler.reassess_hosts()
        if due and due[0][0] <= clock.now:
            _, job = due.pop(0)
            scheduler.put(Lane.BULK, TENANT, job)
            deferred = [message for message in job if message.deferrals]
            if deferred:
                due.append((clock.now + deferred[0].deferrals[-1], deferred))
                due.sort(key=lambda item: item[0])
                for message in deferred:
                    message.deferrals.clear()
        if step == 4500:
            alert = make_messages(Lane.URGENT, 20)
            scheduler.put(Lane.URGENT, TENANT, alert)
        for message in drain(scheduler):
            assert message.lane is Lane.URGENT or not alert, "a bulk message was sent before the alert"
            accepted = tokens >= 1
            tokens -= accepted
            sent += accepted
            refused += not accepted
            alert = [waiting for waiting in alert if waiting is not message]
            scheduler.complete(message, Feedback.SUCCESS if accepted else Feedback.REFUSAL, 0.0)
    assert alert == []
    assert sent > 0.6 * 60 * 20
    assert refused < 0.05 * sent


async def test_host_that_refuses_two_tenants_halves_limit(clock: Clock, scheduler: SendScheduler[Message]) -> None:
    """When a host refuses two applications and accepts nothing in between, its limit is halved."""
    limit = scheduler.host_limit("one.example")
    refuse_until_held(clock, scheduler)
    assert scheduler.host_limit("one.example") == limit
    refuse_until_held(clock, scheduler, OTHER_TENANT)
    assert scheduler.host_limit("one.example") == limit // 2


async def test_held_application_is_deferred_at_an_open_breaker(clock: Clock, scheduler: SendScheduler[Message]) -> None:
    """When the breaker of the host opens, the waiting messages of a held application are deferred too."""
    refuse_until_held(clock, scheduler, retry_after_s=5)
    clock.now += SUCCESS_WINDOW_S
    waiting = make_messages(Lane.BULK, 5)
    scheduler.put(Lane.BULK, TENANT, waiting)
    scheduler.put(Lane.BULK, OTHER_TENANT, make_messages(Lane.BULK, 20, application=OTHER_TENANT))
    for message in drain(scheduler):
        scheduler.complete(message, Feedback.FAILURE, 1.0)
    assert all(message.deferrals for message in waiting)
    assert scheduler.fair_queue.is_empty


async def fail_messages(scheduler: SendScheduler[Message], count: int) -> None:
    scheduler.put(Lane.BULK, TENANT, make_messages(Lane.BULK, count))
    for message in drain(scheduler):
        scheduler.complete(message, Feedback.FAILURE, 1.0)


async def test_open_breaker_defers_messages_and_sends_a_probe(clock: Clock, scheduler: SendScheduler[Message]) -> None:
    """All waiting messages are deferred; after the pause, one message probes the host."""
    waiting = make_messages(Lane.BULK, 100)
    scheduler.put(Lane.BULK, TENANT, waiting)
    taken = drain(scheduler)
    for message in taken:
        scheduler.complete(message, Feedback.FAILURE, 1.0)
    deferred = [message for message in waiting if message not in taken]
    assert {len(message.deferrals) for message in deferred} == {1}
    assert drain(scheduler) == []

    later = make_messages(Lane.NORMAL, 10)
    scheduler.put(Lane.NORMAL, TENANT, later)
    assert all(
        host_limiter.INITIAL_PAUSE_S <= pause <= 2 * host_limiter.INITIAL_PAUSE_S
        for message in later
        for pause in message.deferrals
    )

    clock.now += host_limiter.INITIAL_PAUSE_S
    scheduler.put(Lane.BULK, TENANT, make_messages(Lane.BULK, 10))
    [probe] = drain(scheduler)
    scheduler.complete(probe, Feedback.SUCCESS, 0.1)
    assert len(drain(scheduler)) == 2, "the limit did not double after the successful probe"


async def test_urgent_message_probes_before_the_pause_ends(clock: Clock, scheduler: SendScheduler[Message]) -> None:
    """An open breaker admits one urgent message at once, and the next after URGENT_PROBE_INTERVAL_S."""
    await fail_messages(scheduler, 20)
    alerts = make_messages(Lane.URGENT, 5)
    scheduler.put(Lane.URGENT, TENANT, alerts)
    assert drain(scheduler, urgent_only=True) == alerts[:1]
    assert all(1 <= pause <= host_limiter.INITIAL_PAUSE_S for message in alerts[1:] for pause in message.deferrals)
    clock.now += host_limiter.URGENT_PROBE_INTERVAL_S
    more_alerts = make_messages(Lane.URGENT, 4)
    scheduler.put(Lane.URGENT, TENANT, more_alerts)
    assert len(drain(scheduler, urgent_only=True)) == 1, "the second probe waits for the response to the first"


async def test_urgent_probe_does_not_wait_for_a_stalled_probe(clock: Clock, scheduler: SendScheduler[Message]) -> None:
    """An urgent message is sent while a bulk probe has no response yet."""
    await fail_messages(scheduler, 20)
    clock.now += host_limiter.INITIAL_PAUSE_S
    scheduler.put(Lane.BULK, TENANT, make_messages(Lane.BULK, 10))
    assert len(drain(scheduler)) == 1
    clock.now += host_limiter.URGENT_PROBE_INTERVAL_S
    scheduler.put(Lane.URGENT, TENANT, make_messages(Lane.URGENT, 1))
    assert len(drain(scheduler, urgent_only=True)) == 1


@pytest.mark.parametrize("seed", range(3))
async def test_every_message_is_sent_once_or_deferred(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts refuse_until_held, fail and recover at random; each of 3,000 messages is sent or deferred exactly once."""
    monkeypatch.setattr(host_limiter, "INITIAL_LIMIT", 5)
    monkeypatch.setattr(host_limiter, "INITIAL_PAUSE_S", 0.01)
    for pause in ("INITIAL_PAUSE_S", "MAX_PAUSE_S", "INITIAL_URGENT_PAUSE_S", "MAX_URGENT_PAUSE_S"):
        monkeypatch.setattr(application_limiter, pause, 0.01)
    for rate in ("PROBE_RATE", "FIRST_RATE", "MIN_RATE"):
        monkeypatch.setattr(application_limiter, rate, 1000.0)
    rng = random.Random(seed)  # noqa: S311 - repeatable
    scheduler: SendScheduler[Message] = SendScheduler(max_in_flight=9)
    names = ["a.example", "b.example", "c.example"]
    ended: Counter[Message] = Counter()
    messages: list[Message] = []
    all_ended = asyncio.Event()

    def end(message: Message) -> None:
        ended[message] += 1
        if len(ended) == 3000:
            all_ended.set()

    class EndingDeferrals(list[float]):
        """Deferrals of which the first ends the message."""

        def __init__(self) -> None:
            self.message: Message

        def append(self, _: float) -> None:
            end(self.message)

    for number in range(3000):
        deferrals = EndingDeferrals()
        message = Message(
            rng.choice(list(Lane)), rng.choice(names), number, rng.choice([TENANT, OTHER_TENANT]), deferrals
        )
        deferrals.message = message
        messages.append(message)

    async def sender(*, urgent_only: bool) -> None:
        while True:
            message = await scheduler.next(urgent_only=urgent_only)
            assert not urgent_only or message.lane is Lane.URGENT
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(0)
            end(message)
            feedbacks = [Feedback.SUCCESS, None, Feedback.REFUSAL, Feedback.FAILURE]
            # Most of the last 99 messages of each thousand fail, so that breakers open.
            weights = [1, 1, 1, 20 if message.number % 1000 > 900 else 0.5]
            scheduler.complete(message, rng.choices(feedbacks, weights)[0], 0.001)

    async def reassess() -> None:
        while True:
            await asyncio.sleep(0.005)
            scheduler.reassess_hosts()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(sender(urgent_only=number < 3)) for number in range(12)]
        tasks.append(group.create_task(reassess()))
        for start in range(0, len(messages), 100):
            jobs: defaultdict[tuple[Lane, UUID], list[Message]] = defaultdict(list)
            for message in messages[start : start + 100]:
                jobs[message.lane, message.application_id].append(message)
            for (lane, application), job in jobs.items():
                scheduler.put(lane, application, job)
            await asyncio.sleep(0)
        await asyncio.wait_for(all_ended.wait(), 20)
        for task in tasks:
            task.cancel()
    assert ended == Counter(messages)
    assert sum(scheduler.backlog.ready.values()) == 0
    assert scheduler.fair_queue.is_empty


Action = tuple[str, int, int, int]
scripts = st.lists(
    st.tuples(
        st.sampled_from(["put", "take", "urgent", "success", "refusal", "failure", "unsent", "time"]),
        st.integers(0, 2),
        st.integers(0, 2),
        st.integers(1, 30),
    ),
    max_size=120,
)


@given(scripts)
@settings(max_examples=300)
def test_scheduler_keeps_its_invariants(script: list[Action]) -> None:
    """The limits hold, no message is lost or sent twice, and urgent messages that may be sent go first.

    Each action of the script is (name, lane, tenant, count); `time` advances the clock by a fifth of `count` seconds.
    """

    async def play() -> None:
        clock = Clock()
        scheduler: SendScheduler[Message] = SendScheduler(max_in_flight=20, clock=clock)
        messages, in_flight = [], []
        feedbacks: dict[str, Feedback | None] = {
            "success": Feedback.SUCCESS,
            "refusal": Feedback.REFUSAL,
            "failure": Feedback.FAILURE,
            "unsent": None,
        }
        for action, lane_index, tenant_index, count in script:
            if action == "put":
                lane, application = Lane(list(Lane)[lane_index]), UUID(int=tenant_index)
                job = [Message(lane, f"{n % 3}.example", len(messages) + n, application) for n in range(count)]
                messages += job
                scheduler.put(lane, application, job)
            elif action in ("take", "urgent"):
                message = scheduler.next_nowait(urgent_only=action == "urgent")
                if message is not None:
                    in_flight.append(message)
                    at_host = sum(sent.host == message.host for sent in in_flight)
                    limit = scheduler.host_limit(message.host)
                    host = scheduler.gates.by_host[message.host].limiter
                    assert message.lane is Lane.URGENT or at_host <= limit or host.probe_at
                    assert at_host <= limit + max(1, limit // 4) or host.probe_at
                    assert action == "urgent" or len(in_flight) <= 20
                    waiting = scheduler.gates.by_host[message.host].waiting
                    assert message.lane is Lane.URGENT or host.probe_at or not waiting[Lane.URGENT]
            elif action == "time":
                clock.now += count / 5
                scheduler.reassess_hosts()
            elif in_flight:
                scheduler.complete(in_flight.pop(count % len(in_flight)), feedbacks[action], 0.1)
        # At the end the hosts recover and take all remaining messages.
        for _ in range(10_000):
            while (message := scheduler.next_nowait(urgent_only=False)) is not None:
                in_flight.append(message)
            if not in_flight:
                break
            scheduler.complete(in_flight.pop(0), Feedback.SUCCESS, 0.1)
            clock.now += 0.01
        waiting_count = sum(sum(gate.waiting.values()) for gate in scheduler.gates.by_host.values())
        if waiting_count:  # urgent messages at an open breaker, until its next probe
            clock.now += 1000
            scheduler.reassess_hosts()
            while waiting_count and (message := scheduler.next_nowait(urgent_only=False)) is not None:
                scheduler.complete(message, Feedback.SUCCESS, 0.1)
                waiting_count -= 1
        assert waiting_count == 0
        assert sum(scheduler.backlog.ready.values()) == 0
        assert max((len(message.deferrals) for message in messages), default=0) <= 1

    asyncio.run(play())


def test_concurrency_starts_at_its_initial_limit(clock: Callable[[], float]) -> None:
    """A new worker has at most INITIAL_LIMIT messages in flight over all hosts."""
    scheduler: SendScheduler[Message] = SendScheduler(max_in_flight=1000, clock=clock)
    for number in range(8):
        scheduler.put(Lane.BULK, TENANT, make_messages(Lane.BULK, 100, f"{number}.example"))
    count = 0
    while scheduler.next_nowait(urgent_only=False) is not None:
        count += 1
    assert count == INITIAL_LIMIT


async def test_pause_non_urgent_ends_with_urgent_messages(scheduler: SendScheduler[Message]) -> None:
    """Bulk messages are neither sent nor claimed until urgent messages arrive, and are sent after the urgent ones."""
    scheduler.put(Lane.BULK, TENANT, make_messages(Lane.BULK, 3))
    pausing = asyncio.create_task(scheduler.pause_non_urgent(10))
    await asyncio.sleep(0)
    sender = asyncio.create_task(next_message(scheduler))
    claiming = asyncio.create_task(scheduler.wait_until_below(tuple(Lane), 10))
    await scheduler.wait_until_below((Lane.URGENT,), 10)
    await run_ready_tasks()
    assert not sender.done()
    assert not claiming.done()

    scheduler.put(Lane.URGENT, TENANT, make_messages(Lane.URGENT, 1))
    assert await pausing
    await claiming
    assert (await sender).lane is Lane.URGENT
    assert (await next_message(scheduler)).lane is Lane.BULK


async def test_pause_non_urgent_ends_after_its_timeout(scheduler: SendScheduler[Message]) -> None:
    """If another worker claims the urgent job, this worker's pause ends after its timeout."""
    scheduler.put(Lane.BULK, TENANT, make_messages(Lane.BULK, 1))
    pausing = asyncio.create_task(scheduler.pause_non_urgent(0.01))
    await asyncio.sleep(0)
    sender = asyncio.create_task(next_message(scheduler))
    assert not await pausing
    assert (await sender).lane is Lane.BULK
