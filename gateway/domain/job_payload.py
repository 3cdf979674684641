"""What sending a job takes: the message, the devices, the keys. A value, so that it may travel with the job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from gateway.domain.delivery import Accepted, Deferred, Expired, Skipped
from gateway.domain.notification import Notification

PreSendOutcome = Skipped | Deferred | Expired | Accepted
"""What a delivery comes to without a message being sent."""


class Recipient(NamedTuple):
    device_id: UUID
    endpoint: str
    host: str
    p256dh: bytes
    auth: bytes
    vapid_key_id: UUID
    status: str
    user_id: str | None
    live: bool = False
    """An open page takes its notifications instead of the push service."""
    # What follows is loaded only when it is asked for.
    timezone: str | None = None
    locale: str | None = None
    muted: Sequence[str] = ()
    bucket: int = 0
    """One of BUCKETS: which share of this notification's audience the person is in."""
    refusals: int = 0
    """How often its push service has refused our key for this notification."""

    @property
    def person_key(self) -> str:
        """Who is behind it: the user, or nobody but the device itself."""
        return self.user_id or str(self.device_id)


class SigningKey(NamedTuple):
    """`private_key` is sealed."""

    id: UUID
    private_key: bytes
    subject: str


@dataclass(frozen=True, slots=True)
class JobPayload:
    """`home` is the web origin that a path in an address belongs to. A device with a verdict is not sent to.

    `targets` are the devices that still exist, in no order; `known` is what templates may say of each.
    """

    notification: Notification
    default_origin: str | None
    recipients: Sequence[Recipient]
    keys: Sequence[SigningKey]
    pre_send_outcomes: Mapping[UUID, PreSendOutcome]
    template_context: Mapping[UUID, Mapping[str, Any]]
