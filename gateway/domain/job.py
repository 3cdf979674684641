"""Jobs: the units of work in the queue. A job belongs to one notification and to the worker with its lease."""

from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from uuid import UUID

from gateway.domain import ids
from gateway.domain.job_payload import JobPayload
from gateway.domain.notification import Lane

# Maximum number of devices in one job.
MAX_CHUNK_SIZE = 500


class LeaseLost(Exception):
    """The lease of a job expired and another worker claimed the job, whose results only that worker may record."""


class JobKind(StrEnum):
    """`plan`: resolve the audience and split it into send jobs. `send`: send to `device_ids`."""

    PLAN = "plan"
    SEND = "send"


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed job.

    `lease_generation` counts the claims of the job. It is the fencing token by which a worker proves that it still has
    the lease. `attempts` is the number of POSTs so far to each of the devices. `day` selects the log partition of the
    deliveries; it is None before planning. `slot` is the send time that a throttle assigned to the job. `payload` is
    set when the job comes from a broker, and has everything that a worker needs to send the job.
    """

    id: int
    kind: JobKind
    notification_id: UUID
    application_id: UUID
    lane: Lane
    lease_generation: int
    attempts: int
    day: date | None
    device_ids: tuple[UUID, ...]
    slot: datetime | None = None
    payload: JobPayload | None = field(default=None, repr=False, compare=False)

    @property
    def log_fields(self) -> dict[str, str | int]:
        """The fields of every log event about the job, with the notification's id in the form of the API."""
        return {"job_id": self.id, "notification_id": ids.format_id(ids.NOTIFICATION, self.notification_id)}


def chunk_size(rate: float | None) -> int:
    """Return the number of devices per job.

    With a throttle of `rate` messages per second, a job has about as many devices as may be sent to in one second, so
    that the sending is spread evenly.
    """
    return MAX_CHUNK_SIZE if rate is None else max(1, min(MAX_CHUNK_SIZE, int(rate)))
