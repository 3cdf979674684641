"""The host gates without the scheduler: which messages wait at a host, and which are deferred."""

from uuid import UUID

import pytest

from gateway.domain.notification import Lane
from gateway.service.pipeline import key_health
from gateway.worker import host_limiter
from gateway.worker.host_limiter import Feedback, HostLimiter
from gateway.worker.scheduling import host_gate
from gateway.worker.scheduling.fair_queue import FairQueue, MessageQueue
from gateway.worker.scheduling.host_gate import MAX_DEFERRAL_S, MAX_HOST_WAIT_S, SLOW_S, HostGate, HostGates

TENANT, OTHER_TENANT = UUID(int=1), UUID(int=2)
HOST = "one.example"


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> HostGate[int]:
    monkeypatch.setattr(host_limiter, "INITIAL_LIMIT", 4)
    return HostGate(HostLimiter(HOST, 1000))


def add_waiting(gate: HostGate[int], lane: Lane, count: int, tenant: UUID = TENANT) -> MessageQueue[int]:
    """Add a queue of `count` messages that wait at the gate."""
    queue = FairQueue[int]().open(lane, tenant, gate.limiter.name, range(count))
    gate.queues[lane, tenant] = queue
    gate.waiting[lane] += count
    return queue


def fill(gate: HostGate[int]) -> None:
    """Begin as many non-urgent messages as the host's limit allows."""
    while gate.limiter.has_room(0, urgent=False):
        gate.limiter.begin(0)


def open_breaker(gate: HostGate[int]) -> None:
    for _ in range(key_health.FAILURES_TO_OPEN):
        gate.limiter.begin(0)
        gate.limiter.end(0, Feedback.FAILURE)


def test_full_host_unblocks_urgent_queues_first(gate: HostGate[int]) -> None:
    """A freed slot goes to the blocked queue of the most urgent lane."""
    fill(gate)
    gates: HostGates[int] = HostGates(1000)
    bulk = add_waiting(gate, Lane.BULK, 1)
    assert not gates.admits(gate, bulk, 0)
    urgent = add_waiting(gate, Lane.URGENT, 1)
    gate.blocked[Lane.URGENT].append(urgent)
    gate.limiter.begin(0)  # the slot reserved for urgent messages
    assert gate.unblock(0) is None
    gate.limiter.end(0, None)
    gate.limiter.end(0, None)
    unblocked = gate.unblock(0)
    assert unblocked is not None
    assert (unblocked.lane, unblocked.queues) == (Lane.URGENT, [urgent])
    unblocked = gate.unblock(0)
    assert unblocked is not None
    assert unblocked.queues == [bulk]
    assert gate.unblock(0) is None


def test_slow_state_has_hysteresis(gate: HostGate[int]) -> None:
    """A host becomes slow when its messages have waited for more than SLOW_S, and is slow until they wait for half."""
    fill(gate)
    add_waiting(gate, Lane.BULK, 4)
    assert not gate.update_slow_state(SLOW_S)
    assert gate.update_slow_state(SLOW_S + 0.1)
    assert gate.slow_since == SLOW_S + 0.1
    gate.limiter.progress_at = SLOW_S
    assert not gate.update_slow_state(SLOW_S + SLOW_S * 0.6)
    assert gate.update_slow_state(SLOW_S + SLOW_S * 0.4)
    assert gate.slow_since == 0


def test_only_the_tenant_with_a_long_queue_is_deferred(gate: HostGate[int]) -> None:
    """A tenant is deferred when its queue has waited for MAX_HOST_WAIT_S, for at most the maximum of the lane."""
    fill(gate)
    add_waiting(gate, Lane.BULK, 4)
    assert gate.deferral_s(Lane.BULK, TENANT, 4, MAX_HOST_WAIT_S - 1) == 0
    now = MAX_HOST_WAIT_S + 1
    first = gate.deferral_s(Lane.BULK, TENANT, 4, now)
    assert first == MAX_HOST_WAIT_S / 2
    assert first < gate.deferral_s(Lane.BULK, TENANT, 4, now) <= MAX_DEFERRAL_S[Lane.BULK]
    assert gate.deferral_s(Lane.BULK, OTHER_TENANT, 4, now) == 0


def test_queue_without_probes_blocks_no_other_application(gate: HostGate[int]) -> None:
    """After the pause, an application that has used its urgent probe does not block the probe of another."""
    open_breaker(gate)
    now = gate.limiter.probe_at
    gates: HostGates[int] = HostGates(1000)
    first, second = add_waiting(gate, Lane.URGENT, 9), add_waiting(gate, Lane.URGENT, 1, OTHER_TENANT)
    assert gates.admits(gate, first, now)
    gate.limiter.begin(now, TENANT)
    assert not gates.admits(gate, first, now)
    assert gate.unblock(now) is None
    assert gates.admits(gate, second, now)
    gate.blocked[Lane.URGENT].append(second)
    unblocked = gate.unblock(now)
    assert unblocked is not None
    assert unblocked.queues == [second]


def test_open_breaker_admits_one_urgent_probe(gate: HostGate[int]) -> None:
    """During the pause, each application may send one urgent probe; bulk messages are deferred to its end."""
    open_breaker(gate)
    assert gate.admits_probe(Lane.URGENT, TENANT, 0)
    assert not gate.admits_probe(Lane.BULK, TENANT, 0)
    assert host_limiter.INITIAL_PAUSE_S <= gate.breaker_deferral_s(Lane.BULK, 0) <= 2 * host_limiter.INITIAL_PAUSE_S
    assert 1 <= gate.breaker_deferral_s(Lane.URGENT, 0) <= host_limiter.INITIAL_PAUSE_S
    add_waiting(gate, Lane.URGENT, 1)
    assert not gate.admits_probe(Lane.URGENT, TENANT, 0)
    assert gate.admits_probe(Lane.URGENT, OTHER_TENANT, 0)


def test_host_over_its_share_waits_for_a_free_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host may have twice as many messages in flight as the worker has free slots; urgent ones may exceed that."""
    monkeypatch.setattr(host_limiter, "FIRST_LIMIT", 60)
    gates: HostGates[int] = HostGates(60)
    gate = gates.get_or_create(HOST)
    bulk, urgent = add_waiting(gate, Lane.BULK, 1), add_waiting(gate, Lane.URGENT, 1)
    for _ in range(39):
        gate.limiter.begin(0)
        gates.in_flight += 1
    assert gates.admits(gate, bulk, 0)
    gate.limiter.begin(0)
    gates.in_flight += 1
    assert not gates.admits(gate, bulk, 0)
    assert list(gates.over_share) == [bulk]
    assert gates.admits(gate, urgent, 0)


def test_only_gates_without_messages_are_evicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """At MAX_HOSTS, gates with messages stay; gates with an open breaker are evicted only if no idle gate is left."""
    monkeypatch.setattr(host_gate, "MAX_HOSTS", 4)
    gates: HostGates[int] = HostGates(10)
    add_waiting(gates.get_or_create("waiting.example"), Lane.BULK, 1)
    gates.get_or_create("sending.example").limiter.begin(0)
    open_breaker(gates.get_or_create("open.example"))
    gates.get_or_create("idle.example")
    gates.get_or_create("new.example")
    assert set(gates.by_host) == {"waiting.example", "sending.example", "open.example", "new.example"}
    open_breaker(gates.by_host["new.example"])
    gates.get_or_create("newer.example")
    assert set(gates.by_host) == {"waiting.example", "sending.example", "newer.example"}


def test_refused_applications_are_bounded(gate: HostGate[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """At MAX_REFUSED_APPLICATIONS, the limiters of applications without waiting messages are dropped."""
    monkeypatch.setattr(host_gate, "MAX_REFUSED_APPLICATIONS", 2)
    first = gate.get_or_create_application(TENANT)
    first.queues[Lane.BULK] = add_waiting(gate, Lane.BULK, 1)
    gate.get_or_create_application(OTHER_TENANT)
    gate.get_or_create_application(UUID(int=3))
    assert set(gate.applications) == {TENANT, UUID(int=3)}
