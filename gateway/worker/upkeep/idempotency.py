"""Forget idempotency keys after their day."""

from datetime import timedelta

from sqlalchemy import delete, func
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.records.postgres.schema import idempotency_keys
from gateway.worker.upkeep.limits import Limits

EVERY = timedelta(minutes=10)


async def run(conn: AsyncConnection, limits: Limits) -> int:
    old = idempotency_keys.c.created_at < func.now() - limits.idempotency
    return (await conn.execute(delete(idempotency_keys).where(old))).rowcount
