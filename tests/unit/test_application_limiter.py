"""The pace of an application at a host that refuses it, against push services that limit senders in several ways."""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.worker import application_limiter
from gateway.worker.application_limiter import ApplicationLimiter
from gateway.worker.host_limiter import Feedback

# The step of the virtual clock.
STEP_S = 0.01
# The interval at which a limited application is allowed to send again.
POLL_S = 0.1


class TokenBucket:
    """A push service with a token bucket of `messages` tokens, which refills evenly within `window_s`."""

    def __init__(self, messages: int, window_s: float) -> None:
        self.messages, self.window_s = messages, window_s
        self.tokens, self.refilled_at = float(messages), 0.0

    def accepts(self, now: float) -> bool:
        refill = (now - self.refilled_at) * self.messages / self.window_s
        self.tokens = min(self.messages, self.tokens + refill)
        self.refilled_at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class FixedWindow:
    """A push service that accepts `messages` in each period of `window_s`."""

    def __init__(self, messages: int, window_s: float) -> None:
        self.messages, self.window_s = messages, window_s
        self.window, self.count = -1, 0

    def accepts(self, now: float) -> bool:
        if int(now / self.window_s) != self.window:
            self.window, self.count = int(now / self.window_s), 0
        self.count += 1
        return self.count <= self.messages


@dataclass
class Campaign:
    """An application with an endless campaign, on a virtual clock.

    `window` is the maximum number of messages in flight, `urgent` the number of urgent messages that wait. The lists
    `accepted`, `refused` and `urgent_accepted` have the times of the responses.
    """

    accepts: Callable[[float], bool]
    window: int = 8
    latency_s: float = 0.05
    retry_after_s: float | None = None
    now: float = 0.0
    urgent: int = 0
    limiter: ApplicationLimiter | None = None
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    urgent_accepted: list[float] = field(default_factory=list)
    in_flight: list[tuple[float, int, bool, bool]] = field(default_factory=list)
    order: "itertools.count[int]" = field(default_factory=itertools.count)
    hold_count: int = 0

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        next_poll = self.now
        while self.now < end:
            while self.in_flight and self.in_flight[0][0] <= self.now:
                self.complete(*heapq.heappop(self.in_flight))
            if self.limiter is not None and self.now >= next_poll:
                next_poll = self.now + POLL_S
                if not self.limiter.update(self.now):
                    self.limiter = None
                while self.urgent and self.send(urgent=True):
                    self.urgent -= 1
                while not self.urgent and self.send(urgent=False):
                    pass
            elif self.limiter is None or not self.limiter.is_limited:
                while self.send(urgent=False):
                    pass
            self.now += STEP_S

    def send(self, *, urgent: bool) -> bool:
        if len(self.in_flight) >= self.window:
            return False
        if self.limiter is not None:
            if not self.limiter.admits(self.now, urgent=urgent):
                return False
            self.limiter.begin(self.now, urgent=urgent)
        item = (self.now + self.latency_s, next(self.order), self.accepts(self.now), urgent)
        heapq.heappush(self.in_flight, item)
        return True

    def complete(self, _: float, __: int, accepted: bool, urgent: bool) -> None:
        if accepted:
            self.accepted.append(self.now)
            if urgent:
                self.urgent_accepted.append(self.now)
        else:
            self.refused.append(self.now)
            self.urgent += urgent
            self.limiter = self.limiter or ApplicationLimiter()
        if self.limiter is not None:
            feedback = Feedback.SUCCESS if accepted else Feedback.REFUSAL
            self.hold_count += self.limiter.end(self.now, feedback, self.latency_s, self.retry_after_s)
            if self.limiter.is_clear:
                self.limiter = None


def count_since(times: list[float], start: float) -> int:
    return sum(time >= start for time in times)


def test_host_with_a_budget_of_60_refuses_few_messages() -> None:
    """A host accepts 60 messages and then one per 5 s; it refuses fewer than 20 in 90 s, and its budget is used."""
    campaign = Campaign(TokenBucket(60, 300).accepts)
    campaign.run(90)
    assert len(campaign.refused) < 20
    assert len(campaign.accepted) >= 60 + 5


def test_retry_after_holds_the_application() -> None:
    """With `Retry-After: 30`, nothing is sent for 30 s, and few messages are refused after each hold."""
    campaign = Campaign(TokenBucket(60, 300).accepts, retry_after_s=30)
    campaign.run(90)
    assert len(campaign.refused) < 20
    assert not [time for time in campaign.accepted + campaign.refused if 5 < time < 30], (
        "messages were sent in the hold"
    )


def test_long_retry_after_is_obeyed() -> None:
    """With a Retry-After of 900 s (WNS, 406), nothing is posted after the messages in flight."""
    campaign = Campaign(TokenBucket(60, 900).accepts, retry_after_s=900)
    campaign.run(120)
    assert len(campaign.refused) <= campaign.window


@pytest.mark.parametrize("service", [TokenBucket, FixedWindow])
@pytest.mark.parametrize("latency_s", [0.02, 0.2])
@pytest.mark.parametrize("window", [10, 200])
def test_budget_of_a_host_is_used_with_few_refusals(
    service: type[TokenBucket | FixedWindow], latency_s: float, window: int
) -> None:
    """Of a budget of 1,000 messages a minute, over 60 % is used, with under 3 % refusals after the first minute."""
    campaign = Campaign(service(1000, 60).accepts, window, latency_s)
    campaign.run(900)
    accepted, refused = count_since(campaign.accepted, 60), count_since(campaign.refused, 60)
    assert refused < 0.03 * (accepted + refused)
    assert accepted > 0.6 * 14 * 1000


@pytest.mark.parametrize("start", [30, 90, 200])
def test_alert_during_own_campaign_is_out_within_30_s(start: float) -> None:
    """An alert to 500 devices shares the budget of the host with a campaign of the same application."""
    campaign = Campaign(TokenBucket(1000, 60).accepts, window=64)
    campaign.run(start)
    campaign.urgent = 500
    campaign.run(60)
    assert campaign.urgent == 0
    assert max(campaign.urgent_accepted) - start < 30


def test_urgent_messages_probe_during_a_hold() -> None:
    """Urgent messages probe the host during a hold, few at a time, and all are sent once the host accepts one."""
    campaign = Campaign(lambda now: now < 1 or now > 40, retry_after_s=900)
    campaign.run(2)
    refused_before = len(campaign.refused)
    campaign.urgent = 5
    campaign.run(38)
    assert 3 <= len(campaign.refused) - refused_before <= 8
    campaign.run(45)
    assert len(campaign.urgent_accepted) == 5
    assert count_since(campaign.accepted, 40) == 5, "messages of the campaign were sent in its hold"


@pytest.mark.parametrize("share", [0.01, 0.05])
@pytest.mark.parametrize("seed", range(3))
def test_refusals_of_some_devices_do_not_hold_application(share: float, seed: int) -> None:
    """While a host refuses a share of the devices, the application has no hold and over 80 % of its speed."""
    rng = random.Random(seed)  # noqa: S311 - repeatable
    campaign, unrefused_campaign = (
        Campaign(lambda _: rng.random() >= share, 64, 0.02),
        Campaign(lambda _: True, 64, 0.02),
    )
    campaign.run(10)
    unrefused_campaign.run(10)
    assert campaign.hold_count == 0
    assert len(campaign.accepted) > 0.8 * len(unrefused_campaign.accepted)


def test_ten_refused_devices_in_a_row_cause_no_hold() -> None:
    """Ten consecutive devices are refused, all in flight together; the probes after them are accepted."""
    numbers = itertools.count()
    campaign = Campaign(lambda _: not 200 <= next(numbers) < 210, 64, 0.02)
    campaign.run(5)
    assert campaign.hold_count == 0


def test_repeated_refusals_of_devices_cause_no_hold() -> None:
    """Devices that were refused before are retried together; their refusals are no evidence of the host's limit."""
    limiter = ApplicationLimiter()
    for number in range(1000):
        limiter.begin(number, urgent=False)
        assert not limiter.end(number, Feedback.REFUSAL, 0.0, repeated=True)


def test_limiter_is_dropped_when_the_host_lifts_its_limit() -> None:
    """The push service refuses nothing after 600 s; 900 s later the application has no limiter."""
    bucket = TokenBucket(1000, 60)
    campaign = Campaign(lambda now: now > 600 or bucket.accepts(now), window=4)
    campaign.run(600)
    assert campaign.limiter is not None
    campaign.run(900)
    assert campaign.limiter is None


def test_short_outage_limits_the_application_for_seconds() -> None:
    """A host that refuses everything for 5 s gets more than 500 messages per second again within 20 s."""
    campaign = Campaign(lambda now: not 5 < now < 10, 64)
    campaign.run(30)
    assert campaign.limiter is None or campaign.limiter.rate > 500


def test_unsent_message_costs_no_budget() -> None:
    """When a message that began ends without a POST, another message is admitted in its place."""
    limiter = ApplicationLimiter()
    now = 100.0
    while not limiter.is_limited:
        limiter.begin(now, urgent=False)
        limiter.end(now, Feedback.REFUSAL, 0.0)
        now += 1
    now = limiter.held_until
    assert limiter.admits(now, urgent=False)
    limiter.begin(now, urgent=False)
    assert not limiter.admits(now, urgent=False)
    limiter.end(now, None, 0.0)
    assert limiter.admits(now, urgent=False)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*Feedback, None, "time"]), st.floats(0, 60), st.booleans(), st.none() | st.floats(0, 86400)
        ),
        max_size=200,
    )
)
@settings(deadline=None)
def test_limiter_stays_within_bounds(script: list[tuple[Feedback | str | None, float, bool, float | None]]) -> None:
    """For any responses, the rate stays between MIN_RATE and MAX_RATE, and a held application is admitted again."""
    limiter, now = ApplicationLimiter(), 1000.0
    for event, seconds, urgent, retry_after_s in script:
        now += seconds
        limiter.update(now)
        if event == "time" or not limiter.admits(now, urgent=urgent):
            continue
        limiter.begin(now, urgent=urgent)
        now += seconds / 10
        assert isinstance(event, Feedback | None)
        limiter.end(now, event, seconds / 10, retry_after_s)
        if limiter.is_limited:
            assert application_limiter.MIN_RATE <= limiter.rate <= application_limiter.MAX_RATE
    now = max(now, limiter.held_until) + 1000
    limiter.update(now)
    assert limiter.admits(now, urgent=False)
    assert limiter.admits(now, urgent=True)
