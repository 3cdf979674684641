"""Register browsers: check the subscription, prove the user, write the device."""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain import ids
from gateway.domain.device import Device, Registration, Subscription
from gateway.domain.errors import Conflict, EndpointNotAllowed, Fault, GatewayError, IdentityUnproven, Invalid, NotFound
from gateway.push.encryption import check_keys
from gateway.records import applications, devices
from gateway.service.context import Context
from gateway.service.vault import Vault

MOST_TOPICS = 100


class Registered(NamedTuple):
    device_id: UUID
    created: bool


class Desk:
    """Registers devices of one application: what that needs to know of it is read once."""

    def __init__(self, context: Context, application_id: UUID, vapid_keys: Sequence[tuple[UUID, bytes]]) -> None:
        self._context = context
        self._application_id = application_id
        self._vapid_keys = {public_key: id_ for id_, public_key in vapid_keys}
        self._newest = vapid_keys[0][0]

    @classmethod
    async def open(cls, conn: AsyncConnection, context: Context, application_id: UUID) -> "Desk":
        keys = await applications.vapid_public_keys(conn, [application_id])
        return cls(context, application_id, keys[application_id])

    def check(self, registration: Registration) -> tuple[Registration, str, UUID]:
        """The registration with its endpoint in canonical form, its host, and its VAPID key.

        Raises Invalid and EndpointNotAllowed.
        """
        subscription = registration.subscription
        faults = [fault.below("/subscription/keys") for fault in check_keys(subscription.p256dh, subscription.auth)]
        key = registration.vapid_public_key
        vapid_key_id = self._newest if key is None else self._vapid_keys.get(key)
        if vapid_key_id is None:
            faults.append(Fault("/vapid_public_key", "is not a key of this application"))
        if len(registration.topics or ()) > MOST_TOPICS:
            faults.append(Fault("/topics", f"has more than {MOST_TOPICS} topics"))
        if faults or vapid_key_id is None:
            raise Invalid(faults)
        endpoint = self._context.policy.check(subscription.endpoint)
        canonical = Subscription(endpoint.url, subscription.p256dh, subscription.auth)
        return replace(registration, subscription=canonical), endpoint.host, vapid_key_id

    async def register(self, conn: AsyncConnection, registration: Registration) -> Registered:
        """Raises Invalid and EndpointNotAllowed."""
        [written] = await devices.register(conn, self._application_id, [self.check(registration)])
        return Registered(written.id, written.created)

    async def register_all(
        self, conn: AsyncConnection, registrations: Sequence[Registration]
    ) -> list[Registered | GatewayError]:
        """A verdict for each, in their order; of two with the same endpoint the later wins. What is refused
        keeps no other from being registered."""
        verdicts: list[Registered | GatewayError | None] = [None] * len(registrations)
        checked: dict[str, tuple[Registration, str, UUID]] = {}
        place: dict[int, str] = {}
        for index, registration in enumerate(registrations):
            try:
                sound = self.check(registration)
            except (Invalid, EndpointNotAllowed) as refusal:
                verdicts[index] = refusal
                continue
            place[index] = sound[0].subscription.endpoint
            checked[place[index]] = sound
        written = await devices.register(conn, self._application_id, list(checked.values()))
        by_endpoint = dict(zip(checked, written, strict=True))
        for index, endpoint in place.items():
            verdicts[index] = Registered(*by_endpoint[endpoint])
        return [verdict for verdict in verdicts if verdict is not None]


async def prove(
    conn: AsyncConnection, vault: Vault, application_id: UUID, user_id: str | None, user_hash: str | None
) -> None:
    """Raises IdentityUnproven when the application demands a proof for a user id and this is none."""
    application = await applications.get(conn, application_id)
    if user_id is None or application is None or application.identity_secret is None:
        return
    secret = vault.open(application.identity_secret, "identity")
    expected = hmac.digest(secret, user_id.encode(), hashlib.sha256).hex()
    if user_hash is None or not hmac.compare_digest(user_hash.encode("utf-8", "replace"), expected.encode()):
        raise IdentityUnproven("user_hash must be the hex HMAC-SHA256 of user_id under the identity secret")


async def find(conn: AsyncConnection, application_id: UUID, device_id: UUID) -> Device:
    """Raises NotFound, also for another application's."""
    device = await devices.get(conn, device_id)
    if device is None or device.application_id != application_id:
        raise NotFound(f"there is no device {ids.show(ids.DEVICE, device_id)}")
    return device


async def add_topic(conn: AsyncConnection, device: Device, topic: str) -> None:
    """Raises Conflict when the device has too many already."""
    if not await devices.subscribe(conn, device.id, topic, most=MOST_TOPICS):
        raise Conflict(f"a device has at most {MOST_TOPICS} topics")


def show(device: Device) -> dict[str, Any]:
    """The device as callers see it. Its endpoint and keys are a capability to push to it, so they stay inside."""
    location = device.location
    return {
        "id": ids.show(ids.DEVICE, device.id),
        "status": device.status,
        "host": device.subscription.endpoint.split("/")[2],
        "user_id": device.user_id,
        "client": {name: getattr(device.client, name) for name in device.client.__dataclass_fields__},
        "attributes": device.attributes,
        "topics": list(device.topics),
        "zones": list(device.zones),
        "muted": list(device.muted),
        "location": None
        if location is None
        else {
            "lat": location.lat,
            "lon": location.lon,
            "accuracy_m": location.accuracy_m,
            "located_at": device.located_at,
        },
        "created_at": device.created_at,
        "updated_at": device.updated_at,
        "last_seen_at": device.last_seen_at,
    }
