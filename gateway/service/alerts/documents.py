"""Parse documents, and ingest their alerts one by one, so that an invalid alert does not affect the other ones."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar
from uuid import UUID

from gateway.alerting.text import RefusedAlert
from gateway.domain.alert import AlertMessage
from gateway.domain.errors import ValidationError
from gateway.records.postgres.engine import Connection
from gateway.service import views
from gateway.service.alerts.ingestion import DEFAULT_OPTIONS, IngestOptions, ingest
from gateway.service.context import Context
from gateway.service.notifications import representations

T = TypeVar("T")

# The outcome of an alert that is not valid.
REFUSED = "refused"
# Documents up to this size are parsed in a thread: it takes milliseconds, whatever they contain. Most alerts are this
# small, and do not wait for a helper process.
MAX_SMALL_DOCUMENT = 32_768
# Limit of the CPU time for parsing a document in a helper process. All alerts in force in the United States, 5 MB, take
# a second.
DOCUMENT_CPU_S = 5.0


async def parse(
    context: Context, application_id: UUID | None, function: Callable[..., T], raw: bytes, *arguments: object
) -> T:
    """Parse a document in a thread, or a large document in a helper process, which is charged to the application.

    Args:
        context: the dependencies of the service layer.
        application_id: the application to which the parsing is charged.
        function: a parser of a module, called with the document and the arguments.
        raw: the document.
        arguments: further arguments of the parser.

    Raises:
        MalformedBody: the document is not valid.
        WorkLimitExceeded: parsing takes too much CPU time or memory.
        RateLimited: too many documents of the application are being parsed.
    """
    if len(raw) <= MAX_SMALL_DOCUMENT:
        return await asyncio.to_thread(function, raw, *arguments)
    return await context.helpers.run(application_id, DOCUMENT_CPU_S, function, raw, *arguments)


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
    """Ingest one alert in a savepoint; return the view of the result."""
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
