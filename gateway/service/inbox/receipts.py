"""What the browser tells us later: displayed, clicked, dismissed."""

from typing import Literal

from gateway.domain import clock
from gateway.domain.errors import ReceiptInvalid
from gateway.records.delivery_log import reader
from gateway.records.postgres.engine import Connection
from gateway.service.access.secrets import Keyring

Event = Literal["displayed", "clicked", "dismissed"]


async def receive(conn: Connection, vault: Keyring, token: str, event: Event, action: str | None) -> None:
    """Note a receipt; the same event again changes nothing. Raises ReceiptInvalid."""
    named = vault.receipt_of(token, int(clock.timestamp()))
    if named is None:
        raise ReceiptInvalid("the token was not made by this gateway, or its time is over")
    if event != "displayed":
        # Nobody clicks or dismisses what is not displayed: that receipt was lost, or is still on its way.
        await reader.add_receipt(conn, *named, "displayed", None)
    await reader.add_receipt(conn, *named, event, action)
