"""Take every alert of a document for itself: what is wrong with one keeps no other from being told."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from gateway.alerting.text import RefusedAlert
from gateway.domain.alert import AlertMessage
from gateway.domain.errors import GatewayError
from gateway.records.postgres.engine import Connection
from gateway.service.alerts.ingestion import BARE, IngestOptions, ingest
from gateway.service.context import Context
from gateway.service.notifications import representations

REFUSED = "refused"


async def ingest_all(
    conn: Connection,
    context: Context,
    application_id: UUID,
    found: Sequence[AlertMessage | RefusedAlert],
    door: IngestOptions = BARE,
) -> list[dict[str, Any]]:
    """What became of each, in the shape that POST /v1/alerts answers with."""
    return [await _taken(conn, context, application_id, alert, door) for alert in found]


async def _taken(
    conn: Connection, context: Context, application_id: UUID, alert: AlertMessage | RefusedAlert, door: IngestOptions
) -> dict[str, Any]:
    if isinstance(alert, RefusedAlert):
        return _item(alert.identifier, REFUSED, "; ".join(alert.reasons))
    try:
        async with conn.begin_nested():
            taken = await ingest(conn, context, application_id, alert, door)
    except GatewayError as refusal:
        return _item(alert.identifier, REFUSED, refusal.detail, alert.ignored)
    shown = [await representations.one_notification(conn, application_id, id_) for id_ in taken.notification_ids]
    return _item(alert.identifier, taken.outcome, taken.detail, alert.ignored, shown)


def _item(
    identifier: str | None,
    outcome: str,
    detail: str | None,
    ignored: Sequence[str] = (),
    shown: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    said = {"identifier": identifier, "outcome": outcome, "detail": detail}
    return said | {"ignored": list(ignored), "notifications": list(shown)}
