"""The messages of a notification, ready to be filled in for each device.

Static content is composed once per notification and variant; only the receipt token differs from device to device.
"""

from datetime import timedelta
from uuid import UUID

from gateway.domain import ids
from gateway.domain.notification import Notification
from gateway.push.payload import Template, compose
from gateway.service.context import Context

# A receipt may come this long after the message has expired: people open their laptops late.
RECEIPT_GRACE = timedelta(days=7)


class Message:
    """One notification's payloads: `for_device` answers the plain text that one device gets."""

    def __init__(self, context: Context, notification: Notification) -> None:
        receipts = f"{context.public_url}/v1/receipts" if context.public_url else None

        def composed(content: dict[str, object]) -> Template:
            return compose(
                content,
                tag=notification.tag,
                notification_id=ids.show(ids.NOTIFICATION, notification.id),
                receipts_url=receipts,
            )

        self._templates = [composed(notification.content | v.content) for v in notification.steering.variants]
        self._templates = self._templates or [composed(notification.content)]
        self._vault = context.vault
        self._notification_id = notification.id
        self._receipts_until = int((notification.delivery.expires_at + RECEIPT_GRACE).timestamp())

    @property
    def size(self) -> int:
        """Octets of plain text of the largest variant; the same for every device."""
        return max(len(self.for_device(UUID(int=0), variant)) for variant in range(len(self._templates)))

    def for_device(self, device_id: UUID, variant: int | None) -> bytes:
        token = self._vault.receipt_token(self._notification_id, device_id, variant, self._receipts_until)
        return self._templates[variant or 0].fill(token)
