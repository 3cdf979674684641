"""How long data is kept."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """Minimum age at which each kind of data is deleted.

    `log`: the delivery log, by whole days. It is longer than a notification can live (28 days), so no delivery outlives
    its partition. `gone_devices`: devices that the push service reported as gone; until then a wave of wrong 404s can
    be undone.
    """

    log: timedelta = timedelta(days=90)
    gone_devices: timedelta = timedelta(days=30)
    idempotency: timedelta = timedelta(hours=24)
    audit: timedelta = timedelta(days=400)
    outbox: timedelta = timedelta(days=3)
