"""What responses are evidence of, and the circuit breaker of one VAPID key at one push service."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.push.responses import NetworkFault, PushResponse, classify
from gateway.service.pipeline import key_health
from gateway.service.pipeline.key_health import Evidence, KeyHealth, ServiceEvidence, classify_evidence

NOW = datetime(2026, 12, 1, 9, 0, tzinfo=UTC)
APPLICATION, OTHER_APPLICATION = UUID(int=1), UUID(int=2)


@dataclass
class KeyAtService:
    """One VAPID key at one push service, and the time (`now`) that the tests set."""

    health: KeyHealth = field(default_factory=lambda: KeyHealth(APPLICATION))
    now: float = 1000.0

    def send(
        self,
        evidence: Evidence | None,
        count: int = 1,
        *,
        was_accepted: bool = True,
        was_refused: bool = False,
        urgent: bool = False,
    ) -> int:
        """Send `count` messages, each to another device, and end each with `evidence`; return how many were admitted.

        `was_accepted` and `was_refused` say whether earlier messages to these devices were accepted or refused.
        """
        admitted = 0
        for _ in range(count):
            self.health.consider_device(was_accepted=was_accepted)
            if self.health.admits(self.now, urgent=urgent):
                admitted += 1
                is_probe = self.health.begin()
                self.health.end(
                    evidence, self.now, was_accepted=was_accepted, was_refused=was_refused, is_probe=is_probe
                )
        return admitted

    @property
    def is_open(self) -> bool:
        return bool(self.health.probe_at)


@pytest.fixture
def key() -> KeyAtService:
    return KeyAtService()


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (PushResponse(201), Evidence.ACCEPTED),
        (PushResponse(410), Evidence.WORKS),
        (PushResponse(413), Evidence.WORKS),
        (PushResponse(429), Evidence.WORKS),
        (PushResponse(503, {"retry-after": "120"}), Evidence.WORKS),
        (PushResponse(401, {}, b'{"errno":109,"message":"VAPID public key mismatch"}'), Evidence.WORKS),
        (PushResponse(401, {}, b'{"errno":109,"message":"Invalid authentication"}'), Evidence.REFUSED),
        (PushResponse(403), Evidence.REFUSED),
        (PushResponse(500), Evidence.FAILED),
        (PushResponse(503), Evidence.FAILED),
        (PushResponse(507), None),
        (PushResponse(None, fault=NetworkFault("timeout")), Evidence.FAILED),
        (PushResponse(None, fault=NetworkFault("reset")), Evidence.FAILED),
        (PushResponse(None, fault=NetworkFault("connect")), Evidence.UNREACHABLE),
        (PushResponse(None, fault=NetworkFault("tls")), Evidence.UNREACHABLE),
        (PushResponse(None, fault=NetworkFault("request")), None),
    ],
)
def test_evidence_of_a_response(response: PushResponse, expected: Evidence | None) -> None:
    """A response is evidence about the push service or the key; None if it concerns only the device or request."""
    assert classify_evidence(response, classify(response, NOW)) is expected


@pytest.mark.parametrize("evidence", [Evidence.REFUSED, Evidence.FAILED])
def test_failures_of_known_devices_open_breaker(key: KeyAtService, evidence: Evidence) -> None:
    """Failures of devices with an earlier accepted message open the breaker; each pause admits one probe."""
    assert key.send(evidence, 100) == key_health.FAILURES_TO_OPEN
    pauses = []
    for _ in range(9):
        pauses.append(key.health.probe_at - key.now)
        key.now = key.health.probe_at
        assert key.send(evidence, 100) == 1
    assert pytest.approx(pauses) == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    key.now = key.health.probe_at
    assert key.send(Evidence.ACCEPTED, 100) == 100


@pytest.mark.parametrize("evidence", [Evidence.REFUSED, Evidence.FAILED])
def test_failures_of_new_devices_do_not_pause_working_key(key: KeyAtService, evidence: Evidence) -> None:
    """After a success, failures of 1,000 devices without an accepted message do not open the key's breaker."""
    key.send(Evidence.ACCEPTED)
    key.now += 10
    assert key.send(evidence, 1000, was_accepted=False) == 1000


@pytest.mark.parametrize("evidence", [Evidence.REFUSED, Evidence.FAILED])
def test_success_of_known_device_closes_new_key_breaker(key: KeyAtService, evidence: Evidence) -> None:
    """Failures of new devices open the breaker of a new key; the next success of a known device closes it."""
    assert key.send(evidence, 100, was_accepted=False) == key_health.FAILURES_TO_OPEN
    assert key.send(Evidence.ACCEPTED, 20) == 20
    assert key.send(evidence, 100, was_accepted=False) == 100


@pytest.mark.parametrize("evidence", [Evidence.REFUSED, Evidence.FAILED])
def test_failures_between_successes_open_no_breaker(key: KeyAtService, evidence: Evidence) -> None:
    """Within SUCCESS_WINDOW_S of a success, MAX_CONSECUTIVE_FAILURES failures open the breaker, but not fewer."""
    for _ in range(20):
        key.send(Evidence.ACCEPTED)
        key.now += 0.5
        assert key.send(evidence, key_health.MAX_CONSECUTIVE_FAILURES - 1) == key_health.MAX_CONSECUTIVE_FAILURES - 1
    key.send(evidence)
    assert key.is_open


def test_gone_device_closes_breaker_opened_by_failures(key: KeyAtService) -> None:
    """A 410 shows that the push service works, not that it accepts the key: a breaker opened by refusals stays open."""
    key.send(Evidence.FAILED, 10)
    assert key.is_open
    key.send(Evidence.WORKS, urgent=True)
    assert not key.is_open
    key.send(Evidence.REFUSED, 10)
    key.send(Evidence.WORKS, urgent=True)
    assert key.is_open


def test_repeated_refusals_of_a_device_are_no_evidence(key: KeyAtService) -> None:
    """Refusals of devices that were refused before count only if no device has accepted for ACCEPTANCE_WINDOW_S."""
    key.send(Evidence.ACCEPTED)
    key.now += 60
    key.send(Evidence.REFUSED, 1000, was_refused=True)
    assert not key.is_open
    key.now += key_health.ACCEPTANCE_WINDOW_S
    key.send(Evidence.REFUSED, 1000, was_refused=True)
    assert key.is_open


def test_urgent_messages_probe_a_few_at_a_time(key: KeyAtService) -> None:
    """MAX_URGENT_PROBES urgent messages may be in flight during a pause, and their failures do not extend the pause."""
    key.send(Evidence.FAILED, 10)
    probe_at = key.health.probe_at
    probes = 0
    while key.health.admits(key.now, urgent=True):
        assert key.health.begin()
        probes += 1
    assert probes == key_health.MAX_URGENT_PROBES
    assert not key.health.admits(key.now, urgent=False)
    key.health.end(Evidence.FAILED, key.now, was_accepted=True, was_refused=False, is_probe=True)
    assert key.health.admits(key.now, urgent=True)
    assert key.health.probe_at == probe_at
    key.health.end(Evidence.ACCEPTED, key.now, was_accepted=True, was_refused=False, is_probe=True)
    assert not key.is_open


def test_late_failures_do_not_extend_the_pause(key: KeyAtService) -> None:
    """Failures of messages that were in flight when the breaker opened are not failures of probes."""
    in_flight = [key.health.begin() for _ in range(64)]
    for is_probe in in_flight:
        key.health.end(Evidence.FAILED, key.now + 30, was_accepted=True, was_refused=False, is_probe=is_probe)
    assert key.health.pause_s == key_health.INITIAL_PAUSE_S


@pytest.mark.parametrize("urgent", [True, False])
def test_deferral_ends_soon_after_the_pause(key: KeyAtService, urgent: bool) -> None:
    """A deferred message is tried again soon after the pause, an urgent one within MAX_URGENT_DEFERRAL_S."""
    key.send(Evidence.FAILED, 10)
    for _ in range(100):
        seconds = key.health.deferral_s(key.now, urgent=urgent)
        if urgent:
            assert 1 <= seconds <= key_health.MAX_URGENT_DEFERRAL_S
        else:
            assert key.health.pause_s <= seconds <= 2 * key.health.pause_s + 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*Evidence, None]),
            st.integers(1, 80),
            st.booleans(),
            st.booleans(),
            st.booleans(),
            st.floats(0, 400),
        ),
        max_size=60,
    )
)
@settings(deadline=None)
def test_breaker_never_stays_open_after_a_success(
    script: list[tuple[Evidence | None, int, bool, bool, bool, float]],
) -> None:
    """After any responses, the number of probes is bounded and one accepted message closes the breaker."""
    key = KeyAtService()
    for evidence, count, was_accepted, was_refused, urgent, seconds in script:
        key.send(evidence, count, was_accepted=was_accepted, was_refused=was_refused, urgent=urgent)
        assert 0 <= key.health.probes <= key_health.MAX_URGENT_PROBES
        assert key.health.probe_at <= key.now + key_health.MAX_PAUSE_S
        key.now += seconds
    assert key.send(Evidence.ACCEPTED, urgent=True) == 1
    assert key.send(Evidence.ACCEPTED, 10) == 10


def test_service_fails_only_if_it_fails_two_applications() -> None:
    """A push service counts as failing only while it fails for at least two applications."""
    service = ServiceEvidence()
    for second in range(100):
        service.record(APPLICATION, second, fails=True)
    assert not service.fails_for_several(100)
    service.record(OTHER_APPLICATION, 100, fails=True)
    assert service.fails_for_several(100)
    assert not service.fails_for_several(100 + key_health.MAX_EVIDENCE_AGE_S)
    service.record(OTHER_APPLICATION, 101, fails=False)
    assert not service.fails_for_several(101)


@pytest.mark.parametrize("evidence", [Evidence.REFUSED, Evidence.FAILED])
def test_probe_to_invented_device_does_not_extend_pause(key: KeyAtService, evidence: Evidence) -> None:
    """While the breaker is open, too, only devices that were accepted before count."""
    key.send(Evidence.ACCEPTED)
    key.now += key_health.SUCCESS_WINDOW_S
    key.send(evidence, key_health.FAILURES_TO_OPEN)
    assert key.is_open
    key.now = key.health.probe_at
    assert key.send(evidence, 20, was_accepted=False) == 20
    assert key.health.pause_s == key_health.INITIAL_PAUSE_S
    assert key.send(Evidence.ACCEPTED) == 1
    assert not key.is_open


def test_probes_in_flight_are_counted_over_a_reopening(key: KeyAtService) -> None:
    """A breaker that closes and opens again while probes are in flight still counts them."""
    key.send(Evidence.FAILED, key_health.FAILURES_TO_OPEN)
    probes = [key.health.begin() for _ in range(key_health.MAX_URGENT_PROBES)]
    assert all(probes)
    key.now += key_health.SUCCESS_WINDOW_S
    key.health.end(Evidence.ACCEPTED, key.now, was_accepted=True, was_refused=False, is_probe=True)
    key.now += key_health.SUCCESS_WINDOW_S
    key.send(Evidence.FAILED, key_health.FAILURES_TO_OPEN)
    assert key.is_open
    assert key.health.probes == key_health.MAX_URGENT_PROBES - 1
