"""Deliver one message to one device: encrypt, sign, post, and say what it came to.

Nothing here waits for the queue or writes to the log; the worker around it does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import structlog

from gateway import metrics
from gateway.domain import clock
from gateway.domain.bounded_cache import put
from gateway.domain.delivery import Accepted, Cancelled, Expired, Final, Gone, Outcome, Rejected, Retry
from gateway.domain.device import DeviceStatus
from gateway.domain.errors import EndpointNotAllowed, PayloadTooLarge, TemplateFailed
from gateway.domain.job_payload import Recipient, SigningKey
from gateway.domain.notification import Notification, Status, Urgency
from gateway.domain.retry import next_attempt
from gateway.push.client import PushClient
from gateway.push.encryption import encrypt
from gateway.push.endpoints import EndpointPolicy
from gateway.push.responses import classify
from gateway.push.vapid import VapidKey, VapidSigner
from gateway.service.access.secrets import Keyring
from gateway.service.notifications.rendering import NotificationRenderer

log = structlog.get_logger(__name__)

# Our key refused for this many devices in a row by one host, with nothing accepted between: that is our configuration.
REFUSALS = 10
BREAK = timedelta(minutes=5)
# Refused this often by a host that takes others' messages (within BREAK), it is this one subscription's key that does
# not fit.
PATIENCE = 4
# Of keys, and of what hosts think of them: far more than the jobs at hand have, so that no job's own is forgotten.
# What a host that was forgotten thinks of a key is learnt again.
MAX_CACHED = 10_000


class SendResult(NamedTuple):
    """What one delivery came to this time. `posted`: a POST was made; `at` and `duration_ms` are about it."""

    outcome: Outcome
    status: int | None = None
    at: datetime | None = None
    duration_ms: int = 0
    posted: bool = False
    retry_at: datetime | None = None
    variant: int | None = None


@dataclass(slots=True)
class _VapidKeyHealth:
    """What a host thinks of one VAPID key."""

    refusals: int = 0
    accepted_at: float = 0.0
    closed_until: float = 0.0


class PreparedNotification:
    """A notification ready to be sent to any number of devices.

    `status` is what was last heard of it. `known`: what templates may say of each device, when they do.
    """

    def __init__(
        self, notification: Notification, messages: NotificationRenderer, known: Mapping[UUID, Mapping[str, Any]]
    ) -> None:
        self.notification = notification
        self.status = notification.status
        self.messages = messages
        self.known = known
        self.ttl = int(notification.delivery.ttl.total_seconds())
        self.urgency: Urgency = notification.delivery.urgency
        self.expires = notification.delivery.expires_at.timestamp()


class PushSender:
    def __init__(self, client: PushClient, vault: Keyring, policy: EndpointPolicy) -> None:
        self._client = client
        self._vault = vault
        self._policy = policy
        self._signer = VapidSigner()
        self._keys: dict[UUID, tuple[VapidKey, str]] = {}
        self._trust: dict[tuple[UUID, str], _VapidKeyHealth] = {}

    def load_keys(self, keys: Sequence[SigningKey]) -> None:
        """Have the signing keys of a job at hand. Once a job, so that a changed subject is seen."""
        for key in keys:
            held = VapidKey.from_private_bytes(self._vault.open(key.private_key, "vapid")), key.subject
            put(self._keys, key.id, held, MAX_CACHED)

    async def send(self, post: PreparedNotification, target: Recipient, tries: int) -> SendResult:
        """One try. `tries` counts the POSTs before this one."""
        now = clock.timestamp()
        if (end := terminal_outcome(post, target, now)) is not None:
            return SendResult(end)
        try:
            origin = self._policy.check_stored(target.endpoint)
        except EndpointNotAllowed as refusal:
            return SendResult(Rejected(refusal.detail))
        place = (target.vapid_key_id, origin)
        if (trust := self._trust.get(place)) is None:
            trust = put(self._trust, place, _VapidKeyHealth(), MAX_CACHED)
        if trust.closed_until > now:
            pause = timedelta(seconds=trust.closed_until - now)
            held = Retry("the push service refuses our key; sending to it is paused", pause)
            return self._retry(post, held, tries, SendResult(held))
        variant = post.notification.variant_for(target.bucket)
        try:
            known = post.known.get(target.device_id, {}) if post.known else {}
            payload, topic = post.messages.for_device(target.device_id, target.locale, variant, known)
            body = encrypt(payload, target)
        except (PayloadTooLarge, TemplateFailed) as refusal:
            return SendResult(Rejected(refusal.detail), variant=variant)
        key, subject = self._keys[target.vapid_key_id]
        answer = await self._client.post(
            target.endpoint,
            body,
            ttl=min(post.ttl, max(0, int(post.expires - now))),
            urgency=post.urgency,
            topic=topic,
            authorization=self._signer.authorization_header(key, subject, origin, now),
        )
        at = datetime.fromtimestamp(now, UTC)
        outcome = _classify_key_refusal(trust, classify(answer, at), target.refusals, now, origin)
        sent = SendResult(outcome, answer.status, at, answer.duration_ms, posted=True, variant=variant)
        if isinstance(outcome, Retry):
            return self._retry(post, outcome, tries + 1, sent)
        return sent

    def internal_error_result(self, post: PreparedNotification, tries: int) -> SendResult:
        """A fault of our own met this delivery: it is tried again, and accounted for when its time runs out."""
        fault = Retry("the gateway met an internal fault")
        return self._retry(post, fault, tries + 1, SendResult(fault))

    def _retry(self, post: PreparedNotification, retry: Retry, tries: int, sent: SendResult) -> SendResult:
        due = next_attempt(retry, max(tries, 1), clock.now(), post.notification.delivery.expires_at)
        return sent._replace(outcome=due) if isinstance(due, Expired) else sent._replace(retry_at=due)


def terminal_outcome(post: PreparedNotification, target: Recipient, now: float) -> Final | None:
    """What is settled without asking the push service."""
    if post.status is Status.CANCELLED:
        return Cancelled("the notification was cancelled")
    if now >= post.expires:
        return Expired("the notification's time ran out before it was sent")
    if target.status == DeviceStatus.GONE:
        return Gone("the device was found gone before this was sent")
    if target.status == DeviceStatus.QUARANTINED:
        return Rejected("the device must subscribe anew: its key does not fit")
    return None


def _classify_key_refusal(trust: _VapidKeyHealth, outcome: Outcome, refusals: int, now: float, origin: str) -> Outcome:
    """A refused key is our fault when the host refuses it for everyone, and the device's when only for this one.

    `refusals`: how often it refused this one before.
    """
    if isinstance(outcome, Accepted):
        trust.refusals, trust.accepted_at = 0, now
    if not isinstance(outcome, Retry) or not outcome.unauthorized:
        return outcome
    # The retries of those whose own key does not fit come together, and are no news of ours.
    trust.refusals += refusals == 0
    if trust.refusals >= REFUSALS:
        trust.refusals, trust.accepted_at, trust.closed_until = 0, 0.0, now + BREAK.total_seconds()
        metrics.KEY_REFUSED.inc()
        log.error(
            "host.refuses_our_key", host=origin.partition("://")[2], cause=outcome.cause, paused_s=BREAK.total_seconds()
        )
    elif refusals + 1 >= PATIENCE and now - trust.accepted_at < BREAK.total_seconds():
        return Rejected(f"{outcome.cause}; other devices of this push service are fine", quarantine=True)
    return outcome
