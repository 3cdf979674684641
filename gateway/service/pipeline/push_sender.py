"""Send one message to one device: encrypt, sign, POST, classify the response.

The worker calls this module for each message. The worker also claims jobs from the queue and writes results to the log.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import structlog

from gateway import metrics
from gateway.domain import clock, ids
from gateway.domain.bounded_cache import put
from gateway.domain.delivery import Cancelled, Deferred, Expired, Final, Gone, Outcome, Rejected, Retry
from gateway.domain.device import DeviceStatus
from gateway.domain.errors import EndpointNotAllowed, PayloadTooLarge, TemplateFailed
from gateway.domain.job_payload import Recipient, SigningKey
from gateway.domain.notification import Lane, Notification, Status, Urgency
from gateway.domain.retry import defer, next_attempt
from gateway.push.client import PushClient
from gateway.push.encryption import encrypt
from gateway.push.endpoints import EndpointPolicy, service_label, vendor_name
from gateway.push.responses import PushResponse, classify, retry_after
from gateway.push.vapid import VapidKey, VapidSigner
from gateway.service.access.secrets import Keyring
from gateway.service.notifications.rendering import NotificationRenderer
from gateway.service.pipeline.key_health import Evidence, KeyHealth, ServiceEvidence, classify_evidence

log = structlog.get_logger(__name__)

# A device is put into quarantine when its push service has refused it for QUARANTINE_AFTER, and MAX_DEVICE_REFUSALS
# times for one notification, while accepting the key for other devices. Refusals of some devices end within a day.
QUARANTINE_AFTER = timedelta(hours=24)
MAX_DEVICE_REFUSALS = 4
# After a template has exceeded its time limit, no template of its application is rendered for this long. A rendering
# that times out blocks the event loop for 0.1 s, so the pause limits one application to a twentieth of the loop's time.
RENDERING_PAUSE = timedelta(seconds=2)
# Maximum number of cached keys, and of cached states of keys at hosts. Claimed jobs need far fewer, so the entries that
# they need are not evicted. After an eviction, the state of the key starts without evidence.
MAX_CACHED = 10_000


class SendResult(NamedTuple):
    """The result of one attempt to send a message.

    `posted` is False if the attempt ended before a POST. Otherwise the POST was sent at `at` and took `duration_ms`.
    `slow_down`: the push service asks for fewer messages; `retry_after_s` is the Retry-After of this response.
    `host_failed`: the response is evidence against the push service, and not only against the device or the
    application.
    """

    outcome: Outcome
    status: int | None = None
    at: datetime | None = None
    duration_ms: int = 0
    posted: bool = False
    retry_at: datetime | None = None
    variant: int | None = None
    slow_down: bool = False
    retry_after_s: float | None = None
    host_failed: bool = False


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
        self.is_urgent = notification.delivery.lane is Lane.URGENT
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
        self._key_health: dict[tuple[UUID, str], KeyHealth] = {}
        self._service_evidence: dict[str, ServiceEvidence] = {}
        # By application, the end of the pause of its rendering. Slow templates of one application do not pause others.
        self._rendering_paused_until: dict[UUID, float] = {}

    def load_keys(self, keys: Sequence[SigningKey]) -> None:
        """Decrypt and cache the VAPID keys of a job. Called for every job, so that a changed subject takes effect."""
        for key in keys:
            vapid_key = VapidKey.from_private_bytes(self._keyring.open(key.private_key, "vapid"))
            put(self._keys, key.id, (vapid_key, key.subject), MAX_CACHED)

    def open_breakers(self, application_id: UUID) -> set[str]:
        """Return the push services with an open breaker of one of the application's keys."""
        return {vendor_name(host) for host, health in self._list_open() if health.application_id == application_id}

    @contextmanager
    def export_metrics(self) -> Iterator[None]:
        """Export the number of open breakers per push service until the context ends."""

        def count_open() -> metrics.Reading:
            counts: Counter[metrics.Labels] = Counter((service_label(host),) for host, _ in self._list_open())
            return dict(counts)

        with metrics.BREAKER_OPEN.set_callback(count_open):
            yield

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
        # Durations are measured by a clock that is never set.
        monotonic_now = time.monotonic()
        if (terminal := terminal_outcome(prepared, recipient, now)) is not None:
            return SendResult(terminal)
        try:
            origin = self._policy.check_stored(recipient.endpoint)
        except EndpointNotAllowed as error:
            return SendResult(Rejected(error.detail))
        health_key = (recipient.vapid_key_id, origin)
        if (health := self._key_health.get(health_key)) is None:
            health = KeyHealth(prepared.notification.application_id)
            put(self._key_health, health_key, health, MAX_CACHED)
        health.consider_device(was_accepted=recipient.was_accepted)
        if not health.admits(monotonic_now, urgent=prepared.is_urgent):
            metrics.DEFERRED.labels("paused").inc()
            pause = timedelta(seconds=health.deferral_s(monotonic_now, urgent=prepared.is_urgent))
            return SendResult(Deferred(defer(pause, clock.now(), prepared.notification.delivery.expires_at)))
        variant = prepared.notification.variant_for(recipient.bucket)
        application_id = prepared.notification.application_id
        if (
            self._rendering_paused_until.get(application_id, 0.0) > monotonic_now
            and prepared.notification.templating is not None
        ):
            due = defer(RENDERING_PAUSE, clock.now(), prepared.notification.delivery.expires_at)
            return SendResult(Deferred(due), variant=variant)
        try:
            context = prepared.template_context.get(recipient.device_id, {}) if prepared.template_context else {}
            payload, topic = prepared.renderer.render_payload(recipient.device_id, recipient.locale, variant, context)
            body = encrypt(payload, recipient)
        except (PayloadTooLarge, TemplateFailed) as error:
            if isinstance(error, TemplateFailed) and error.timed_out:
                until = monotonic_now + RENDERING_PAUSE.total_seconds()
                put(self._rendering_paused_until, application_id, until, MAX_CACHED)
            return SendResult(Rejected(error.detail), variant=variant)
        key, subject = self._keys[recipient.vapid_key_id]
        authorization = self._signer.authorization_header(key, subject, origin, now)
        sent_at = datetime.fromtimestamp(now, UTC)
        evidence: Evidence | None = None
        answered_at = monotonic_now
        is_probe = health.begin()
        try:
            response = await self._client.post(
                recipient.endpoint,
                body,
                ttl=min(prepared.ttl, max(0, int(prepared.expires - now))),
                urgency=prepared.urgency,
                topic=topic,
                authorization=authorization,
            )
            outcome = classify(response, sent_at)
            evidence = classify_evidence(response, outcome)
            answered_at += response.duration_ms / 1000
        finally:
            probe_at = health.probe_at
            health.end(
                evidence,
                answered_at,
                was_accepted=recipient.was_accepted,
                was_refused=recipient.refused_since is not None,
                is_probe=is_probe,
            )
        if health.probe_at != probe_at:
            cause = outcome.cause if isinstance(outcome, Retry) else ""
            _report_breaker_change(health, origin, cause, answered_at, was_open=probe_at > 0)
        host_failed = self._is_host_failure(health, origin, recipient, evidence, response, answered_at)
        if (
            isinstance(outcome, Retry)
            and evidence is Evidence.REFUSED
            and _is_refused_for_good(recipient, sent_at)
            and health.accepts_others(monotonic_now)
        ):
            cause = f"{outcome.cause}; the push service accepts the key for other devices"
            outcome = Rejected(cause, quarantine=True)
        result = SendResult(
            outcome,
            response.status,
            sent_at,
            response.duration_ms,
            posted=True,
            variant=variant,
            host_failed=host_failed,
        )
        if isinstance(outcome, Retry):
            if outcome.slow_down:
                delay = retry_after(response.headers.get("retry-after"), sent_at)
                result = result._replace(slow_down=True, retry_after_s=None if delay is None else delay.total_seconds())
            return self._schedule_retry(prepared, outcome, attempts + 1, result)
        return result

    def _list_open(self) -> list[tuple[str, KeyHealth]]:
        return [
            (origin.partition("://")[2], health) for (_, origin), health in self._key_health.items() if health.probe_at
        ]

    def _is_host_failure(
        self,
        health: KeyHealth,
        origin: str,
        recipient: Recipient,
        evidence: Evidence | None,
        response: PushResponse,
        now: float,
    ) -> bool:
        """Return whether a response is evidence against the push service itself, for all applications.

        A failed connection is evidence. Failures for devices that the push service never accepted are not. For other
        devices, a missing response is evidence, and an error status if the push service fails for several applications.
        """
        service = self._service_evidence.get(origin)
        if evidence is Evidence.FAILED and recipient.was_accepted:
            if response.status is None:
                return True
            if service is None:
                service = put(self._service_evidence, origin, ServiceEvidence(), MAX_CACHED)
            if health.probe_at:
                service.record(health.application_id, now, fails=True)
            return service.fails_for_several(now)
        if service is not None and evidence in (Evidence.ACCEPTED, Evidence.WORKS):
            service.record(health.application_id, now, fails=False)
        return evidence is Evidence.UNREACHABLE

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
        return Rejected("the device is in quarantine: its push service refuses the VAPID key")
    return None


def _is_refused_for_good(recipient: Recipient, at: datetime) -> bool:
    """Return whether a refusal at `at` is one of many refusals of the key over a long time for this device."""
    refused_since = recipient.refused_since
    return (
        refused_since is not None
        and at - refused_since >= QUARANTINE_AFTER
        and recipient.refusals + 1 >= MAX_DEVICE_REFUSALS
    )


def _report_breaker_change(health: KeyHealth, origin: str, cause: str, now: float, *, was_open: bool) -> None:
    """Log and count a breaker that opened, stays open for another pause, or closed."""
    host = origin.partition("://")[2]
    fields = {"host": host, "application_id": ids.format_id(ids.APPLICATION, health.application_id)}
    if not health.probe_at:
        log.warning("host.recovered_for_application", **fields, after_s=round(now - health.opened_at, 1))
    elif health.opened_by is Evidence.REFUSED:
        metrics.KEY_REFUSED.inc()
        log.error("host.refuses_our_key", **fields, cause=cause, paused_s=health.pause_s)
    elif not was_open:
        metrics.BREAKER_OPENED.labels(service_label(host)).inc()
        log.error("host.fails_for_application", **fields, cause=cause, paused_s=health.pause_s)
