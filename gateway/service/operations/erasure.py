"""Erase the personal data of one user, in one transaction (GDPR article 17).

Notifications to this user alone lose their content and keep only their counts; if they are not finished, they are
cancelled. Reminders for this user alone are deleted. In notifications to several users, a pseudonym replaces the user
id. Segments and triggers stay as they are, since the application maintains them.
"""

import secrets
from collections.abc import Collection
from typing import Any
from uuid import UUID

from gateway.records import personal_data
from gateway.records.postgres.engine import Connection
from gateway.service.access import idempotency
from gateway.service.access.secrets import Keyring
from gateway.service.notifications import lifecycle


async def erase_user(conn: Connection, keyring: Keyring, application_id: UUID, user_id: str) -> int:
    """Erase a user; return the number of deleted devices."""
    device_ids = await personal_data.remove_devices(conn, application_id, user_id)
    pseudonym = f"forgotten-{secrets.token_hex(8)}"
    exclusive_ids: list[UUID] = []
    for notification in await personal_data.find_notifications_to(conn, application_id, user_id, device_ids):
        if notification.exclusive:
            exclusive_ids.append(notification.id)
            await _cancel(conn, application_id, [notification.id])
            await personal_data.erase_notification(conn, notification.id, {"user_id": pseudonym})
        else:
            await personal_data.replace_audience(
                conn, notification.id, replace_user(notification.audience, user_id, pseudonym)
            )
    triggered_ids = await personal_data.find_notifications_triggered_by(conn, application_id, user_id)
    await _cancel(conn, application_id, triggered_ids)
    await personal_data.erase_template_variables(conn, triggered_ids)
    await personal_data.remove_reminders(conn, application_id, user_id)
    await personal_data.remove_traces(conn, application_id, user_id, pseudonym, device_ids, exclusive_ids)
    await idempotency.erase_user(conn, keyring, application_id, user_id, device_ids)
    return len(device_ids)


def replace_user(audience: Any, user_id: str, pseudonym: str) -> Any:
    """Return the audience with a user id replaced by a pseudonym, at any depth."""
    match audience:
        case {"user_id": str() as id_}:
            return {**audience, "user_id": pseudonym if id_ == user_id else id_}
        case {"user_id": list() as ids}:
            return {**audience, "user_id": [pseudonym if id_ == user_id else id_ for id_ in ids]}
        case dict():
            return {name: replace_user(nested, user_id, pseudonym) for name, nested in audience.items()}
        case list():
            return [replace_user(nested, user_id, pseudonym) for nested in audience]
    return audience


async def _cancel(conn: Connection, application_id: UUID, ids: Collection[UUID]) -> None:
    for id_ in ids:
        await lifecycle.cancel_if(conn, application_id, id_)
