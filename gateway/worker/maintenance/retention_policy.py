"""The retention policy: how long each kind of data is stored."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """The minimum age at which each kind of data is deleted.

    Attributes:
        log: the delivery log, in whole days. It must be longer than the maximum lifetime of a notification (28 days),
            since a partition must exist until the last delivery of its day has ended.
        gone_devices: devices that the push service has reported as gone. Until they are deleted, an operator can
            restore devices after an incident in which a push service wrongly responded with 404.
        idempotency: idempotency keys with their stored responses.
        audit: the audit log.
        outbox: webhook events in the outbox.
    """

    log: timedelta = timedelta(days=90)
    gone_devices: timedelta = timedelta(days=30)
    idempotency: timedelta = timedelta(hours=24)
    audit: timedelta = timedelta(days=400)
    outbox: timedelta = timedelta(days=3)
