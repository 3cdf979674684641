"""Delete devices that have been gone for long: until then a wave of wrong 404s can be undone."""

from datetime import timedelta

from sqlalchemy import delete, func
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.device import DeviceStatus
from gateway.records.postgres.schema import devices
from gateway.worker.upkeep.limits import Limits

EVERY = timedelta(hours=1)


async def run(conn: AsyncConnection, limits: Limits) -> int:
    gone = (devices.c.status == DeviceStatus.GONE, devices.c.updated_at < func.now() - limits.gone_devices)
    return (await conn.execute(delete(devices).where(*gone))).rowcount
