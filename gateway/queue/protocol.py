"""The few verbs every queue has. One contract suite (tests/contract) runs over each of them.

A job is held by lease. Whoever claims it raises `attempt`; every later verb names that attempt, so a worker
that was too slow finds its job taken and can settle nothing.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from gateway.domain.delivery import ResultBatch
from gateway.domain.job import Job
from gateway.domain.notification import Lane


class LeaseLost(Exception):
    """Another worker has claimed the job since; what was to be recorded is recorded by that one."""


class Queue(Protocol):
    async def claim(self, *, lanes: Sequence[Lane], limit: int, lease: timedelta, wait: timedelta) -> list[Job]:
        """Up to `limit` due jobs, the first lane's first; waits up to `wait` for one. Empty when there is none."""
        ...

    async def renew(self, jobs: Sequence[Job], lease: timedelta) -> set[int]:
        """Hold the jobs for another `lease`; answers with the ids of those still held."""
        ...

    async def settle(self, job: Job, settlement: ResultBatch, remaining: Sequence[UUID]) -> None:
        """Record results, put retries in the queue, and shrink the job to `remaining` or end it: all or nothing.

        Settling the same batch again records nothing twice, so that who never got the answer may ask again.
        Raises LeaseLost, also when the batch that ended the job is settled again.
        """
        ...

    async def release(self, job: Job) -> None:
        """Give the job back, due at once. Nothing happens when the lease was lost."""
        ...
