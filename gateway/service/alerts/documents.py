"""Ingest the alerts of a document one by one, so that an invalid alert does not prevent the others."""

from collections.abc import Sequence
from uuid import UUID

from gateway.alerting.text import RefusedAlert
from gateway.domain.alert import AlertMessage
from gateway.domain.errors import ValidationError
from gateway.records.postgres.engine import Connection
from gateway.service import views
from gateway.service.alerts.ingestion import DEFAULT_OPTIONS, IngestOptions, ingest
from gateway.service.context import Context
from gateway.service.notifications import representations

REFUSED = "refused"


async def ingest_all(
    conn: Connection,
    context: Context,
    application_id: UUID,
    alerts: Sequence[AlertMessage | RefusedAlert],
    options: IngestOptions = DEFAULT_OPTIONS,
) -> list[views.IngestedAlert]:
    """Ingest the alerts of a document in order, and return the view of each result.

    An alert that is not valid is refused. Any other error ends the call, so that the document can be ingested again.
    """
    return [await _ingest(conn, context, application_id, alert, options) for alert in alerts]


async def _ingest(
    conn: Connection, context: Context, application_id: UUID, alert: AlertMessage | RefusedAlert, options: IngestOptions
) -> views.IngestedAlert:
    if isinstance(alert, RefusedAlert):
        return _view(alert.identifier, REFUSED, "; ".join(alert.reasons))
    try:
        async with conn.begin_nested():
            result = await ingest(conn, context, application_id, alert, options)
    except ValidationError as error:
        return _view(alert.identifier, REFUSED, error.detail, alert.ignored)
    notifications = [
        await representations.get_notification(conn, application_id, id_) for id_ in result.notification_ids
    ]
    return _view(alert.identifier, result.outcome, result.detail, alert.ignored, notifications)


def _view(
    identifier: str | None,
    outcome: str,
    detail: str | None,
    ignored: Sequence[str] = (),
    notifications: Sequence[views.Notification] = (),
) -> views.IngestedAlert:
    return {
        "identifier": identifier,
        "outcome": outcome,
        "detail": detail,
        "ignored": list(ignored),
        "notifications": list(notifications),
    }
