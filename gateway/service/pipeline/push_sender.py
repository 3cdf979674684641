"""Send one message to one device: encrypt, sign, POST, classify the response.

The worker calls this module for each message. The worker also claims jobs from the queue and writes results to the log.
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
from gateway.domain.delivery import Accepted, Cancelled, Deferred, Expired, Final, Gone, Outcome, Rejected, Retry
from gateway.domain.device import DeviceStatus
from gateway.domain.errors import EndpointNotAllowed, PayloadTooLarge, TemplateFailed
from gateway.domain.job_payload import Recipient, SigningKey
from gateway.domain.notification import Notification, Status, Urgency
from gateway.domain.retry import defer, next_attempt
from gateway.push.client import PushClient
from gateway.push.encryption import encrypt
from gateway.push.endpoints import EndpointPolicy
from gateway.push.responses import classify, retry_after
from gateway.push.vapid import VapidKey, VapidSigner
from gateway.service.access.secrets import Keyring
from gateway.service.notifications.rendering import NotificationRenderer

log = structlog.get_logger(__name__)

# If a host refuses a VAPID key for this many devices in a row, it refuses the key itself, because of a wrong
# configuration. Sending with the key to this host is then paused for KEY_PAUSE.
MAX_KEY_REFUSALS = 10
KEY_PAUSE = timedelta(minutes=5)
# If a host refuses a VAPID key this often for one device, but accepted the key for other devices within KEY_PAUSE, the
# device's subscription was created with another key.
MAX_DEVICE_REFUSALS = 4
# After a template has exceeded its time limit, no template of its application is rendered for this long. A rendering
# that times out blocks the event loop for 0.1 s, so the pause limits one application to a twentieth of the time.
RENDERING_PAUSE = timedelta(seconds=2)
# Maximum number of cached keys, and of cached states of keys at hosts. Claimed jobs need far fewer, so the entries that
# they need are not evicted. An evicted state starts anew.
MAX_CACHED = 10_000


class SendResult(NamedTuple):
    """The result of one attempt to send a message.

    `posted` is False if the attempt ended before a POST. Otherwise the POST was sent at `at` and took `duration_ms`.
    `retry_after_s` is the Retry-After of a push service that asks for fewer messages.
    """

    outcome: Outcome
    status: int | None = None
    at: datetime | None = None
    duration_ms: int = 0
    posted: bool = False
    retry_at: datetime | None = None
    variant: int | None = None
    retry_after_s: float | None = None


@dataclass(slots=True)
class _VapidKeyHealth:
    """The state of one VAPID key at one host.

    Keyed by (key, origin): refusals of one tenant's key never pause the sending of other tenants, nor this tenant's
    sending to other hosts.
    """

    consecutive_refusals: int = 0
    accepted_at: float = 0.0
    paused_until: float = 0.0


class PreparedNotification:
    """A notification with the values that all its messages share.

    `status` is the last known status, which the worker updates. `template_context` has the template variables of each
    device; it is empty if no template uses them.
    """

    def __init__(
        self,
        notification: Notification,
        renderer: NotificationRenderer,
        template_context: Mapping[UUID, Mapping[str, Any]],
    ) -> None:
        """Prepare a notification that was loaded with its job."""
        self.notification = notification
        self.status = notification.status
        self.renderer = renderer
        self.template_context = template_context
        self.ttl = int(notification.delivery.ttl.total_seconds())
        self.urgency: Urgency = notification.delivery.urgency
        self.expires = notification.delivery.expires_at.timestamp()


class PushSender:
    """Sends the messages of all tenants. A process has one sender."""

    def __init__(self, client: PushClient, keyring: Keyring, policy: EndpointPolicy) -> None:
        """Create a sender.

        Args:
            client: an open HTTP client for push services.
            keyring: decrypts VAPID keys.
            policy: decides which endpoints are allowed.
        """
        self._client = client
        self._keyring = keyring
        self._policy = policy
        self._signer = VapidSigner()
        self._keys: dict[UUID, tuple[VapidKey, str]] = {}
        self._key_health: dict[tuple[UUID, str], _VapidKeyHealth] = {}
        # Keyed by application, so slow templates of one application do not pause the rendering for others.
        self._rendering_paused_until: dict[UUID, float] = {}

    def load_keys(self, keys: Sequence[SigningKey]) -> None:
        """Decrypt and cache the VAPID keys of a job. Called for every job, so that a changed subject takes effect."""
        for key in keys:
            vapid_key = VapidKey.from_private_bytes(self._keyring.open(key.private_key, "vapid"))
            put(self._keys, key.id, (vapid_key, key.subject), MAX_CACHED)

    def cache_sizes(self) -> tuple[int, int]:
        """Return the number of cached keys, and the number of cached states of keys at hosts."""
        return len(self._keys), len(self._key_health)

    async def send(self, prepared: PreparedNotification, recipient: Recipient, attempts: int) -> SendResult:
        """Make one attempt to send the message of a notification to a device.

        Args:
            prepared: the notification.
            recipient: the device.
            attempts: the number of POSTs before this one.
        """
        now = clock.timestamp()
        if (terminal := terminal_outcome(prepared, recipient, now)) is not None:
            return SendResult(terminal)
        try:
            origin = self._policy.check_stored(recipient.endpoint)
        except EndpointNotAllowed as error:
            return SendResult(Rejected(error.detail))
        health_key = (recipient.vapid_key_id, origin)
        if (health := self._key_health.get(health_key)) is None:
            health = put(self._key_health, health_key, _VapidKeyHealth(), MAX_CACHED)
        if health.paused_until > now:
            pause = timedelta(seconds=health.paused_until - now)
            retry = Retry("the push service refuses the VAPID key; sending with it is paused", pause)
            return self._schedule_retry(prepared, retry, attempts, SendResult(retry))
        variant = prepared.notification.variant_for(recipient.bucket)
        application_id = prepared.notification.application_id
        if self._rendering_paused_until.get(application_id, 0.0) > now and prepared.notification.templating is not None:
            due = defer(RENDERING_PAUSE, clock.now(), prepared.notification.delivery.expires_at)
            return SendResult(Deferred(due), variant=variant)
        try:
            context = prepared.template_context.get(recipient.device_id, {}) if prepared.template_context else {}
            payload, topic = prepared.renderer.render_payload(recipient.device_id, recipient.locale, variant, context)
            body = encrypt(payload, recipient)
        except (PayloadTooLarge, TemplateFailed) as error:
            if isinstance(error, TemplateFailed) and error.timed_out:
                until = now + RENDERING_PAUSE.total_seconds()
                put(self._rendering_paused_until, application_id, until, MAX_CACHED)
            return SendResult(Rejected(error.detail), variant=variant)
        key, subject = self._keys[recipient.vapid_key_id]
        response = await self._client.post(
            recipient.endpoint,
            body,
            ttl=min(prepared.ttl, max(0, int(prepared.expires - now))),
            urgency=prepared.urgency,
            topic=topic,
            authorization=self._signer.authorization_header(key, subject, origin, now),
        )
        at = datetime.fromtimestamp(now, UTC)
        outcome = _classify_key_refusal(health, classify(response, at), recipient.refusals, now, origin)
        result = SendResult(outcome, response.status, at, response.duration_ms, posted=True, variant=variant)
        if isinstance(outcome, Retry):
            if outcome.slow_down and (wait := retry_after(response.headers.get("retry-after"), at)) is not None:
                result = result._replace(retry_after_s=wait.total_seconds())
            return self._schedule_retry(prepared, outcome, attempts + 1, result)
        return result

    def internal_error_result(self, prepared: PreparedNotification, attempts: int) -> SendResult:
        """Return the result of an attempt that raised an exception. It is retried until the notification expires."""
        retry = Retry("an internal error of the gateway")
        return self._schedule_retry(prepared, retry, attempts + 1, SendResult(retry))

    def _schedule_retry(
        self, prepared: PreparedNotification, retry: Retry, attempts: int, result: SendResult
    ) -> SendResult:
        due = next_attempt(retry, max(attempts, 1), clock.now(), prepared.notification.delivery.expires_at)
        return result._replace(outcome=due) if isinstance(due, Expired) else result._replace(retry_at=due)


def terminal_outcome(prepared: PreparedNotification, recipient: Recipient, now: float) -> Final | None:
    """Return the outcome of a message that needs no POST, or None if the message must be sent."""
    if prepared.status is Status.CANCELLED:
        return Cancelled("the notification was cancelled")
    if now >= prepared.expires:
        return Expired("the notification expired before it was sent")
    if recipient.status == DeviceStatus.GONE:
        return Gone("the device was gone before the message was sent")
    if recipient.status == DeviceStatus.QUARANTINED:
        return Rejected("the device is in quarantine: its key does not match, so it must subscribe again")
    return None


def _classify_key_refusal(health: _VapidKeyHealth, outcome: Outcome, refusals: int, now: float, origin: str) -> Outcome:
    """Decide whether the host refuses the VAPID key for all devices, or for this device only.

    In the first case, sending with the key to the host is paused. In the second case, the device is put into
    quarantine. `refusals` is the number of earlier refusals for this device.
    """
    if isinstance(outcome, Accepted):
        health.consecutive_refusals, health.accepted_at = 0, now
    if not isinstance(outcome, Retry) or not outcome.unauthorized:
        return outcome
    # Only the first refusal for a device counts. Retries of devices that were subscribed with another key are sent
    # together, and would look like a refusal of the key for all devices.
    health.consecutive_refusals += refusals == 0
    if health.consecutive_refusals >= MAX_KEY_REFUSALS:
        pause_s = KEY_PAUSE.total_seconds()
        health.consecutive_refusals, health.accepted_at, health.paused_until = 0, 0.0, now + pause_s
        metrics.KEY_REFUSED.inc()
        host = origin.partition("://")[2]
        log.error("host.refuses_our_key", host=host, cause=outcome.cause, paused_s=pause_s)
    elif refusals + 1 >= MAX_DEVICE_REFUSALS and now - health.accepted_at < KEY_PAUSE.total_seconds():
        return Rejected(f"{outcome.cause}; the push service accepts the key for other devices", quarantine=True)
    return outcome
