"""Record administrative actions in the audit log.

An entry is written in the same transaction as the action, so both commit or roll back together. Of the fields of a
request the log contains the names, and the values only of fields that contain neither a secret nor personal data.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from gateway.domain import ids
from gateway.records import audit
from gateway.records.postgres.engine import Connection
from gateway.service import views
from gateway.service.access.authentication import ADMIN, Principal

COMMAND_LINE = "command line"
# The fields whose values are logged, of all resources and in addition of some. Other resources may be named after a
# person, so their names are not logged.
LOGGED_FIELDS = {"status", "events", "cron", "keep_old_hours", "since"}
LOGGED_FIELDS_OF = {
    "applications": {"name", "subject", "allowed_origins", "require_identity"},
    "keys": {"name", "scopes"},
}


def actor_of(principal: Principal) -> str:
    """Return the actor in the audit log: the id of the API key, `admin`, or the name of the principal."""
    if principal.name is not None:
        return principal.name
    return ADMIN if principal.key_id is None else ids.format_id(ids.KEY, principal.key_id)


def visible_fields(action: str) -> set[str]:
    """Return the fields whose values are logged for an action."""
    return LOGGED_FIELDS | LOGGED_FIELDS_OF.get(action.partition(".")[0], set())


async def note(
    conn: Connection,
    actor: str,
    action: str,
    application_id: UUID | None,
    target: str | None = None,
    fields: Mapping[str, Any] | None = None,
) -> None:
    """Add an entry; `target` is the public id of the resource, and `fields` are those of the request."""
    visible = visible_fields(action)
    details = {name: value if name in visible else None for name, value in (fields or {}).items()}
    await audit.add(conn, ids.new_id(), application_id, actor, action, target, details)


async def page(
    conn: Connection,
    *,
    own: UUID | None,
    application_id: UUID | None = None,
    action: str | None = None,
    before: UUID | None = None,
    limit: int,
) -> list[views.AuditEntry]:
    """Return one page, newest first; `own` is the application of the caller, None for the operator, who sees all."""
    applications = [id_ for id_ in (own, application_id) if id_ is not None]
    return [
        {
            "id": ids.format_id(ids.AUDIT, row.id),
            "at": row.at,
            "actor": row.actor,
            "action": row.action,
            "target": row.target,
            "application_id": row.application_id and ids.format_id(ids.APPLICATION, row.application_id),
            "details": row.details,
        }
        for row in await audit.list_page(conn, applications, action, before=before, limit=limit)
    ]
