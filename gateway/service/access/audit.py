"""Record administrative actions in the audit log.

An entry is written in the same transaction as the action, so both commit or roll back together. The log contains the
names of all fields of a request. It contains the values only of fields that hold neither secrets nor personal data.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from gateway.domain import ids
from gateway.records import audit
from gateway.records.postgres.engine import Connection
from gateway.service import views
from gateway.service.access.authentication import ADMIN, Principal

# The actor of actions of the gateway's command line.
COMMAND_LINE = "command line"
# The fields whose values are logged, for every resource.
LOGGED_FIELDS = {"status", "events", "cron", "keep_old_hours", "since"}
# Further fields whose values are logged, by resource. The names of other resources may be names of persons, so they are
# not logged.
LOGGED_FIELDS_OF = {
    "applications": {"name", "subject", "allowed_origins", "require_identity"},
    "keys": {"name", "scopes"},
}


def actor_of(principal: Principal) -> str:
    """Return the actor for the audit log: the id of the API key, `admin`, or the name of the principal."""
    if principal.name is not None:
        return principal.name
    return ADMIN if principal.key_id is None else ids.format_id(ids.KEY, principal.key_id)


def visible_fields(action: str) -> set[str]:
    """Return the fields whose values are logged for an action."""
    return LOGGED_FIELDS | LOGGED_FIELDS_OF.get(action.partition(".")[0], set())


async def add_entry(
    conn: Connection,
    actor: str,
    action: str,
    application_id: UUID | None,
    target: str | None = None,
    fields: Mapping[str, Any] | None = None,
) -> None:
    """Add an entry; `target` is the public id of the resource, `fields` are the fields of the request."""
    visible = visible_fields(action)
    details = {name: value if name in visible else None for name, value in (fields or {}).items()}
    await audit.add(conn, ids.new_id(), application_id, actor, action, target, details)


async def list_page(
    conn: Connection,
    *,
    caller_application_id: UUID | None,
    application_id: UUID | None = None,
    action: str | None = None,
    before: UUID | None = None,
    limit: int,
) -> list[views.AuditEntry]:
    """Return a page of entries, newest first.

    `caller_application_id` is the application of the caller, who sees only the entries of this application. It is None
    for the operator, who sees all entries, or those of `application_id`.
    """
    applications = [id_ for id_ in (caller_application_id, application_id) if id_ is not None]
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
