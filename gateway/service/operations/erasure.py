"""Erase the personal data of one user, in one transaction (GDPR article 17).

What other users were sent stays. A notification to this user alone keeps nothing but its counts; notifications and
reminders that wait for this user are cancelled. Segments and triggers are lists that the application maintains, and
stay.
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


async def forget(conn: Connection, keyring: Keyring, application_id: UUID, user_id: str) -> int:
    """Erase a user and return the number of deleted devices."""
    device_ids = await personal_data.remove_devices(conn, application_id, user_id)
    pseudonym = f"forgotten-{secrets.token_hex(8)}"
    sole_recipient: list[UUID] = []
    for notification in await personal_data.find_notifications_to(conn, application_id, user_id, device_ids):
        if notification.exclusive:
            sole_recipient.append(notification.id)
            await _cancel(conn, application_id, [notification.id])
            await personal_data.erase_notification(conn, notification.id, {"user_id": pseudonym})
        else:
            await personal_data.replace_audience(
                conn, notification.id, replace_user(notification.audience, user_id, pseudonym)
            )
    caused = await personal_data.find_notifications_triggered_by(conn, application_id, user_id)
    await _cancel(conn, application_id, caused)
    await personal_data.erase_template_variables(conn, caused)
    await personal_data.remove_reminders(conn, application_id, user_id)
    await personal_data.remove_traces(conn, application_id, user_id, device_ids, sole_recipient)
    await idempotency.forget(conn, keyring, application_id, user_id, device_ids)
    return len(device_ids)


def replace_user(audience: Any, user_id: str, pseudonym: str) -> Any:
    """Return an audience in which a pseudonym stands for a user id."""
    match audience:
        case {"user_id": str() as name}:
            return {**audience, "user_id": pseudonym if name == user_id else name}
        case {"user_id": list() as names}:
            return {**audience, "user_id": [pseudonym if name == user_id else name for name in names]}
        case dict():
            return {name: replace_user(nested, user_id, pseudonym) for name, nested in audience.items()}
        case list():
            return [replace_user(nested, user_id, pseudonym) for nested in audience]
    return audience


async def _cancel(conn: Connection, application_id: UUID, ids: Collection[UUID]) -> None:
    for id_ in ids:
        with suppress(Conflict):  # the notification has ended
            await lifecycle.cancel(conn, application_id, id_)
