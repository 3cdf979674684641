"""Store the receipts that service workers send: displayed, clicked, dismissed."""

from typing import Literal
from uuid import UUID

from gateway.domain import clock
from gateway.domain.errors import ReceiptInvalid
from gateway.records.delivery_log import reader
from gateway.records.postgres.engine import Connection
from gateway.service.access.secrets import Keyring

Event = Literal["displayed", "clicked", "dismissed"]


def verify(keyring: Keyring, token: str) -> tuple[UUID, UUID, int | None]:
    """Return (notification id, device id, index of the variant or None) of a receipt token.

    Raises:
        ReceiptInvalid: the token is not valid, or has expired.
    """
    delivery = keyring.verify_receipt_token(token, int(clock.timestamp()))
    if delivery is None:
        raise ReceiptInvalid("the token was not issued by this gateway, or has expired")
    return delivery


async def receive(conn: Connection, keyring: Keyring, token: str, event: Event, action: str | None) -> None:
    """Store a receipt; a repeated receipt changes nothing.

    Raises:
        ReceiptInvalid: the token is not valid, or has expired.
    """
    delivery = verify(keyring, token)
    if event != "displayed":
        # A click or a dismissal implies that the notification was displayed. The receipt for this may have been lost,
        # or may arrive later.
        await reader.add_receipt(conn, *delivery, "displayed", None)
    await reader.add_receipt(conn, *delivery, event, action)
