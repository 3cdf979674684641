"""Forget who was sent what, once no cap looks back that far."""

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain import clock
from gateway.domain.send_policy import LONGEST_CAP
from gateway.records import frequency_caps
from gateway.worker.upkeep.limits import Limits

EVERY = timedelta(hours=1)


async def run(conn: AsyncConnection, limits: Limits) -> int:
    del limits
    return await frequency_caps.forget(conn, clock.now() - LONGEST_CAP)
