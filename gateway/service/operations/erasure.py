"""Forget a person: whatever is kept of them, in one transaction.

What others were sent stays. What was sent to this person alone keeps nothing but its counts, and what still waits for
them is called off, also as a reminder. Lists that the application keeps by itself, segments and triggers, are its own.
"""

import secrets
from collections.abc import Collection
from contextlib import suppress
from typing import Any
from uuid import UUID

from gateway.domain.errors import Conflict
from gateway.records import personal_data
from gateway.records.postgres.engine import Connection
from gateway.service.access import idempotency
from gateway.service.access.secrets import Keyring
from gateway.service.notifications import lifecycle


async def forget(conn: Connection, vault: Keyring, application_id: UUID, user_id: str) -> int:
    """Answers how many devices they had."""
    device_ids = await personal_data.remove_devices(conn, application_id, user_id)
    nobody = f"forgotten-{secrets.token_hex(8)}"
    alone: list[UUID] = []
    for found in await personal_data.find_notifications_to(conn, application_id, user_id, device_ids):
        if found.alone:
            alone.append(found.id)
            await _call_off(conn, application_id, [found.id])
            await personal_data.erase_notification(conn, found.id, {"user_id": nobody})
        else:
            await personal_data.replace_audience(conn, found.id, without(found.audience, user_id, nobody))
    caused = await personal_data.find_notifications_triggered_by(conn, application_id, user_id)
    await _call_off(conn, application_id, caused)
    await personal_data.erase_template_variables(conn, caused)
    await personal_data.remove_reminders(conn, application_id, user_id)
    await personal_data.remove_traces(conn, application_id, user_id, device_ids, alone)
    await idempotency.forget(conn, vault, application_id, user_id, device_ids)
    return len(device_ids)


def without(audience: Any, user_id: str, nobody: str) -> Any:
    """The filter with another name where it says the user's id."""
    match audience:
        case {"user_id": str() | list() as named}:
            one = isinstance(named, str)
            names = [nobody if name == user_id else name for name in ([named] if one else named)]
            return {**audience, "user_id": names[0] if one else names}
        case dict():
            return {name: without(inner, user_id, nobody) for name, inner in audience.items()}
        case list():
            return [without(inner, user_id, nobody) for inner in audience]
    return audience


async def _call_off(conn: Connection, application_id: UUID, ids: Collection[UUID]) -> None:
    for id_ in ids:
        with suppress(Conflict):  # it has ended
            await lifecycle.cancel(conn, application_id, id_)
