"""Who did what: every administrative act, noted in the transaction that does it.

An act that is undone leaves no note, and a note tells of nothing that is not so. Of what an act was given, names are
kept, and values only where they can hold neither a secret nor a person.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from gateway.domain import ids
from gateway.records import audit
from gateway.records.postgres.engine import Connection
from gateway.service.access.authentication import ADMIN, Principal

COMMAND_LINE = "command line"
SHOWN = {"status", "events", "cron", "keep_old_hours", "since"}
SHOWN_OF = {
    "applications": {"name", "subject", "allowed_origins", "require_identity"},
    "keys": {"name", "scopes"},
}
"""Beside those. Whatever else has a name may be made for one person, and be called so."""


def actor_of(caller: Principal) -> str:
    """The id of the key, or `admin`. The key itself is nowhere but with its holder."""
    if caller.name is not None:
        return caller.name
    return ADMIN if caller.key_id is None else ids.format_id(ids.KEY, caller.key_id)


def visible_fields(action: str) -> set[str]:
    """The fields whose values are kept of such an act."""
    return SHOWN | SHOWN_OF.get(action.partition(".")[0], set())


async def note(
    conn: Connection,
    actor: str,
    action: str,
    application_id: UUID | None,
    target: str | None = None,
    given: Mapping[str, Any] | None = None,
) -> None:
    """`target` is the outside id of what was done to; of `given`, what may not be kept becomes null."""
    kept = visible_fields(action)
    details = {name: value if name in kept else None for name, value in (given or {}).items()}
    await audit.add(conn, ids.new_id(), application_id, actor, action, target, details)


async def page(
    conn: Connection,
    *,
    own: UUID | None,
    application_id: UUID | None = None,
    action: str | None = None,
    before: UUID | None = None,
    limit: int,
) -> list[dict[str, Any]]:
    """The newest first. `own`: the application that sees nothing but its own; None for the operator, who sees all."""
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
