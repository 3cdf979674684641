"""How long things are kept."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Limits:
    """`log`: the delivery log, by day. `gone_devices`: devices whose push service said they are gone.

    The log is kept longer than a notification can live (28 days), so that no delivery outlives its partition.
    """

    log: timedelta = timedelta(days=90)
    gone_devices: timedelta = timedelta(days=30)
    idempotency: timedelta = timedelta(hours=24)
    audit: timedelta = timedelta(days=400)
    happenings: timedelta = timedelta(days=3)
