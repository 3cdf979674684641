"""Delete rows whose retention has ended."""

from datetime import timedelta

from gateway.domain import clock
from gateway.domain.notification import MAX_TTL
from gateway.domain.send_policy import MAX_CAP_WINDOW
from gateway.records import (
    audit,
    bound_deliveries,
    devices,
    events,
    frequency_caps,
    idempotency,
    live_handoffs,
    outbox,
    personal_data,
    sessions,
)
from gateway.records.delivery_log import inbox
from gateway.records.postgres.engine import Connection
from gateway.worker.maintenance.retention_policy import RetentionPolicy
from gateway.worker.maintenance.task import MaintenanceTask


async def prune_gone_devices(conn: Connection, policy: RetentionPolicy) -> int:
    """Delete devices that have been gone for longer than the policy allows."""
    return await devices.prune_gone(conn, policy.gone_devices)


async def prune_frequency_caps(conn: Connection, _: RetentionPolicy) -> int:
    """Delete records of sends that are older than the longest window of a frequency cap."""
    return await frequency_caps.prune(conn, clock.now() - MAX_CAP_WINDOW)


async def prune_bound_deliveries(conn: Connection, _: RetentionPolicy) -> int:
    """Delete the users for whom deliveries of ended notifications were planned; the log has them."""
    return await bound_deliveries.prune(conn)


async def prune_events(conn: Connection, policy: RetentionPolicy) -> int:
    """Delete events and their trigger runs, at the same age as the delivery log."""
    return await events.prune(conn, clock.now() - policy.log)


async def prune_inbox(conn: Connection, policy: RetentionPolicy) -> int:
    """Delete read marks whose deliveries are no longer in the log, and offers to open pages after MAX_TTL."""
    now = clock.now()
    return await inbox.prune(conn, now - policy.log) + await live_handoffs.prune(conn, now - MAX_TTL)


async def prune_outbox(conn: Connection, policy: RetentionPolicy) -> int:
    """Delete webhook events that are too old to be retried or replayed."""
    return await outbox.prune(conn, clock.now() - policy.outbox)


async def prune_idempotency_keys(conn: Connection, policy: RetentionPolicy) -> int:
    """Delete idempotency keys whose period of validity has ended."""
    return await idempotency.prune(conn, policy.idempotency)


async def prune_audit_log(conn: Connection, policy: RetentionPolicy) -> int:
    """Delete old entries of the audit log."""
    return await audit.prune(conn, clock.now() - policy.audit)


async def prune_erasure_tombstones(conn: Connection, _: RetentionPolicy) -> int:
    """Delete erasure tombstones when deliveries from before the erasure can no longer be in flight."""
    return await personal_data.prune(conn)


async def prune_sessions(conn: Connection, _: RetentionPolicy) -> int:
    """Delete expired console sessions."""
    return await sessions.prune(conn, clock.now())


# The pruning tasks with their intervals.
TASKS = (
    MaintenanceTask("gone_devices", timedelta(hours=1), prune_gone_devices),
    MaintenanceTask("frequency_caps", timedelta(hours=1), prune_frequency_caps),
    MaintenanceTask("bound_deliveries", timedelta(minutes=10), prune_bound_deliveries),
    MaintenanceTask("events", timedelta(minutes=10), prune_events),
    MaintenanceTask("inbox", timedelta(hours=6), prune_inbox),
    MaintenanceTask("outbox", timedelta(hours=1), prune_outbox),
    MaintenanceTask("idempotency_keys", timedelta(minutes=10), prune_idempotency_keys),
    MaintenanceTask("audit_log", timedelta(hours=1), prune_audit_log),
    MaintenanceTask("erasure_tombstones", timedelta(hours=1), prune_erasure_tombstones),
    MaintenanceTask("sessions", timedelta(hours=1), prune_sessions),
)
