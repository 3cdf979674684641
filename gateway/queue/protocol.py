"""The interface of every queue of jobs. One contract suite (tests/contract) runs over each implementation.

A claimed job has a lease. Claiming raises its `lease_generation`, and every later call names that generation (a fencing
token), so a worker whose lease expired cannot settle anything once another has claimed the job.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from gateway.domain.delivery import ResultBatch
from gateway.domain.job import Job, LeaseLost
from gateway.domain.notification import Lane

__all__ = ["LeaseLost", "Queue"]


class Queue(Protocol):
    """Where workers claim jobs and settle results."""

    async def claim(self, *, lanes: Sequence[Lane], limit: int, lease: timedelta, wait: timedelta) -> list[Job]:
        """Return up to `limit` due jobs, those of the first lane first; waits up to `wait` for one.

        Applications take turns within a lane. The list is empty when no job came due.
        """
        ...

    async def renew(self, jobs: Sequence[Job], lease: timedelta) -> set[int]:
        """Extend the leases to `lease` from now; return the ids of the jobs whose lease was not lost."""
        ...

    async def settle(self, job: Job, settlement: ResultBatch, remaining: Sequence[UUID]) -> None:
        """Record results, enqueue retries, and shrink the job to the `remaining` devices or end it, atomically.

        Settling the same batch again records nothing twice, so a caller that got no response may repeat the call.

        Raises:
            LeaseLost: another worker has claimed the job, or the batch that ended the job is settled again.
        """
        ...

    async def release(self, job: Job) -> None:
        """Return the job to the queue, due at once. Does nothing when the lease was lost."""
        ...
