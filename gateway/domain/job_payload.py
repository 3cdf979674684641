"""The payload of a send job: the notification, the recipients and the keys, as a value that a queue can transport."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from gateway.domain.delivery import Accepted, Deferred, Expired, Skipped
from gateway.domain.notification import Notification

# Outcomes of deliveries for which no message is sent.
PreSendOutcome = Skipped | Deferred | Expired | Accepted


class Recipient(NamedTuple):
    """The device of one delivery, with the fields that a worker needs to send to it.

    `live`: the device has an open page that receives notifications instead of the push service. `was_accepted`: the
    push service has accepted a message for the device before. `refused_since`: when the push service first refused the
    VAPID key for the device, if it has not accepted a message since. `bucket` is a number below BUCKETS, computed from
    the user or device; it selects the variant. `refusals` counts how often the device's push service has refused the
    VAPID key for this notification. The fields from `timezone` on are loaded only for notifications that need them.
    """

    device_id: UUID
    endpoint: str
    host: str
    p256dh: bytes
    auth: bytes
    vapid_key_id: UUID
    status: str
    user_id: str | None
    live: bool = False
    was_accepted: bool = False
    refused_since: datetime | None = None
    timezone: str | None = None
    locale: str | None = None
    muted: Sequence[str] = ()
    bucket: int = 0
    refusals: int = 0

    @property
    def person_key(self) -> str:
        """The key by which frequency caps and variants identify a person: the user id, or else the device id."""
        return self.user_id or str(self.device_id)


class SigningKey(NamedTuple):
    """A VAPID key. `private_key` is encrypted with the master key."""

    id: UUID
    private_key: bytes
    subject: str


@dataclass(frozen=True, slots=True)
class JobPayload:
    """Everything that a worker needs to send the messages of a job.

    `default_origin` is the web origin against which relative URLs resolve. `recipients` are the devices that still
    exist, in no particular order. `pre_send_outcomes` has the outcomes of devices to which nothing is sent.
    `template_context` holds the template variables of each device.
    """

    notification: Notification
    default_origin: str | None
    recipients: Sequence[Recipient]
    keys: Sequence[SigningKey]
    pre_send_outcomes: Mapping[UUID, PreSendOutcome]
    template_context: Mapping[UUID, Mapping[str, Any]]
