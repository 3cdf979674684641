"""The interface of the job queues. The same tests (tests/contract) run for each implementation.

A claimed job has a lease. Each claim increments the job's `lease_generation`, and every later call passes it as a
fencing token. So a worker whose lease has expired can settle nothing after another worker has claimed the job.
"""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from gateway.domain.delivery import ResultBatch
from gateway.domain.job import Job, LeaseLost
from gateway.domain.notification import Lane

__all__ = ["LeaseLost", "Queue"]


class Queue(Protocol):
    """A queue from which workers claim jobs, and to which they report results."""

    async def claim(
        self,
        *,
        lanes: Sequence[Lane],
        limit: int,
        lease: timedelta,
        wait: timedelta,
        excluded: Collection[UUID] = (),
    ) -> list[Job]:
        """Return up to `limit` due jobs, in the order of `lanes`. If none is due, wait up to `wait` for one.

        Applications take turns within a lane. The list is empty if no job came due. Jobs of the `excluded` applications
        are left in the queue; a queue whose jobs are loaded already may ignore that.
        """
        ...

    async def renew(self, jobs: Sequence[Job], lease: timedelta) -> set[int]:
        """Extend the leases of jobs to `lease` from now; return the ids of the jobs whose lease was not lost."""
        ...

    async def settle(self, job: Job, settlement: ResultBatch, remaining: Sequence[UUID]) -> None:
        """Record results, enqueue retries, and reduce the job to its `remaining` devices, in one transaction.

        The job ends when no devices remain. A repeated call with the same batch records nothing twice, so a caller that
        got no response may repeat the call.

        Raises:
            LeaseLost: another worker has claimed the job, or it has ended, possibly by an earlier call with this batch.
        """
        ...

    async def release(self, job: Job) -> None:
        """Return the job to the queue, due at once. Does nothing when the lease was lost."""
        ...
