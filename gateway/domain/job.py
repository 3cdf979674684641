"""A job: a chunk of one notification in the queue, held by whoever holds its lease."""

from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from gateway.domain import ids
from gateway.domain.job_payload import JobPayload
from gateway.domain.notification import Lane

MAX_CHUNK_SIZE = 500
"""Devices in one job at the most."""


class LeaseLost(Exception):
    """Another worker has claimed the job since; that worker records its results."""


class JobKind(StrEnum):
    """`plan`: resolve the audience and cut it into send jobs. `send`: deliver to `device_ids`."""

    PLAN = "plan"
    SEND = "send"


@dataclass(frozen=True, slots=True)
class Job:
    """`attempt` counts claims and guards the lease; `tries` counts the POSTs its devices have had.

    `day` is where their deliveries are kept; None before planning. `slot` is the time a throttle gave it.
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
    """What it takes to be sent, when the queue carries it along."""

    @property
    def log_fields(self) -> dict[str, Any]:
        """As every line of the log about it says, with the ids that the API shows."""
        return {"job_id": self.id, "notification_id": ids.format_id(ids.NOTIFICATION, self.notification_id)}


def chunk_size(rate: float | None) -> int:
    """Devices in one job: what goes out in about a second, so that a throttled notification flows evenly."""
    return MAX_CHUNK_SIZE if rate is None else max(1, min(MAX_CHUNK_SIZE, int(rate)))
