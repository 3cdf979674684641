"""Register browsers: check the subscription, prove the user, write the device."""

import hashlib
import hmac
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from gateway.domain import ids
from gateway.domain.device import Device, Registration, Subscription
from gateway.domain.errors import (
    Conflict,
    EndpointNotAllowed,
    FieldError,
    GatewayError,
    IdentityUnproven,
    NotFound,
    Unauthenticated,
    ValidationError,
)
from gateway.push.encryption import check_keys
from gateway.records import applications, devices
from gateway.records.applications import RegistrationContext
from gateway.records.devices import CheckedRegistration as CheckedRegistration
from gateway.records.devices import Registered as Registered
from gateway.records.postgres.engine import DATABASE_ERRORS, Connection, DatabaseError, is_refusal
from gateway.service import views
from gateway.service.access.secrets import Keyring
from gateway.service.context import Context
from gateway.service.request_batcher import RequestBatcher

MAX_TOPICS = 100
MAX_BATCH = 200


class RegistrationRequest(NamedTuple):
    """`unproven`: the registration comes from a page, which is believed about a user only with a proof."""

    application_id: UUID
    registration: Registration
    unproven: bool = False
    user_hash: str | None = None


class DeviceRegistrar:
    """Registers devices of one application: what that needs to know of it is read once."""

    def __init__(self, context: Context, application_id: UUID, lobby: RegistrationContext) -> None:
        self._context = context
        self._application_id = application_id
        self._vapid_keys = {public_key: id_ for id_, public_key in lobby.vapid_keys}
        self._newest = lobby.vapid_keys[0][0]
        sealed = lobby.identity_secret
        self._secret = None if sealed is None else context.keyring.open(sealed, "identity")

    @classmethod
    async def open(cls, conn: Connection, context: Context, application_id: UUID) -> "DeviceRegistrar":
        lobbies = await applications.load_registration_contexts(conn, [application_id])
        return cls(context, application_id, lobbies[application_id])

    def check_admission(self, asked: RegistrationRequest) -> CheckedRegistration:
        """Raises IdentityUnproven, Invalid and EndpointNotAllowed."""
        if asked.unproven:
            _prove(self._secret, asked.registration.user_id, asked.user_hash)
        return self.check(asked.registration)

    def check(self, registration: Registration) -> CheckedRegistration:
        """The registration with its endpoint in canonical form, its host, and its VAPID key.

        Raises Invalid and EndpointNotAllowed.
        """
        subscription = registration.subscription
        faults = [
            fault.with_prefix("/subscription/keys") for fault in check_keys(subscription.p256dh, subscription.auth)
        ]
        key = registration.vapid_public_key
        vapid_key_id = self._newest if key is None else self._vapid_keys.get(key)
        if vapid_key_id is None:
            faults.append(FieldError("/vapid_public_key", "is not a key of this application"))
        if len(registration.topics or ()) > MAX_TOPICS:
            faults.append(FieldError("/topics", f"has more than {MAX_TOPICS} topics"))
        if faults or vapid_key_id is None:
            raise ValidationError(faults)
        endpoint = self._context.policy.check(subscription.endpoint)
        if endpoint.url != subscription.endpoint:
            canonical = Subscription(endpoint.url, subscription.p256dh, subscription.auth)
            registration = registration._replace(subscription=canonical)
        return CheckedRegistration(self._application_id, registration, endpoint.host, vapid_key_id)

    @staticmethod
    async def register_all(conn: Connection, new: Sequence[CheckedRegistration]) -> list[Registered]:
        """In their order; of two with the same endpoint the later wins."""
        last = {one.registration.subscription.endpoint: one for one in new}
        registered = await devices.register(conn, list(last.values()))
        if len(last) == len(new):
            return registered
        written = dict(zip(last, registered, strict=True))
        return [written[one.registration.subscription.endpoint] for one in new]


class BatchingRegistrar:
    """Registers browsers of any application: those that come at once in one transaction, as if one after another."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._rounds: RequestBatcher[RegistrationRequest, Registered] = RequestBatcher(self._together, MAX_BATCH)

    async def register(self, asked: RegistrationRequest) -> Registered:
        """It is kept when this returns. Raises IdentityUnproven, Invalid and EndpointNotAllowed."""
        return await self._rounds.submit(asked)

    async def _together(self, asked: Sequence[RegistrationRequest]) -> Sequence[Registered | Exception]:
        try:
            async with self._context.engine.begin() as conn:
                return await register(conn, self._context, asked)
        except DatabaseError as error:
            if len(asked) == 1 or not is_refusal(error):
                raise
        # The database refused one of them, and with it all: each is asked for alone, so that only that one hears it.
        return [await self._alone(one) for one in asked]

    async def _alone(self, asked: RegistrationRequest) -> Registered | Exception:
        try:
            async with self._context.engine.begin() as conn:
                [result] = await register(conn, self._context, [asked])
        except DATABASE_ERRORS as error:
            return error
        return result


async def register(
    conn: Connection, context: Context, asked: Sequence[RegistrationRequest]
) -> list[Registered | GatewayError]:
    """Each as if the ones before it had come before it. What is refused keeps no other from being registered."""
    lobbies = await applications.load_registration_contexts(conn, list({one.application_id for one in asked}))
    desks = {id_: DeviceRegistrar(context, id_, lobby) for id_, lobby in lobbies.items()}
    results: dict[int, Registered | GatewayError] = {}
    turns: list[dict[tuple[UUID, str], tuple[int, CheckedRegistration]]] = []
    for number, one in enumerate(asked):
        try:
            if one.application_id not in desks:
                raise Unauthenticated("the key is unknown or was removed")
            new = desks[one.application_id].check_admission(one)
        except (IdentityUnproven, ValidationError, EndpointNotAllowed, Unauthenticated) as refusal:
            results[number] = refusal
            continue
        name = (new.application_id, new.registration.subscription.endpoint)
        turn = next((turn for turn in turns if name not in turn), None)  # the same browser again waits for its turn
        if turn is None:
            turns.append(turn := {})
        turn[name] = (number, new)
    for turn in turns:
        written = await devices.register(conn, [new for _, new in turn.values()])
        for (number, _), done in zip(turn.values(), written, strict=True):
            results[number] = done
    return [results[number] for number in range(len(asked))]


async def prove(
    conn: Connection, vault: Keyring, application_id: UUID, user_id: str | None, user_hash: str | None
) -> None:
    """Raises IdentityUnproven when the application demands a proof for a user id and this is none."""
    application = await applications.get(conn, application_id)
    if application is not None and application.identity_secret is not None:
        _prove(vault.open(application.identity_secret, "identity"), user_id, user_hash)


def _prove(secret: bytes | None, user_id: str | None, user_hash: str | None) -> None:
    if user_id is None or secret is None:
        return
    expected = hmac.digest(secret, user_id.encode(), hashlib.sha256).hex()
    if user_hash is None or not hmac.compare_digest(user_hash.encode("utf-8", "replace"), expected.encode()):
        raise IdentityUnproven("user_hash must be the hex HMAC-SHA256 of user_id under the identity secret")


async def find(conn: Connection, application_id: UUID, device_id: UUID) -> Device:
    """Raises NotFound, also for another application's."""
    device = await devices.get(conn, device_id)
    if device is None or device.application_id != application_id:
        raise NotFound(f"there is no device {ids.format_id(ids.DEVICE, device_id)}")
    return device


async def add_topic(conn: Connection, device: Device, topic: str) -> None:
    """Raises Conflict when the device has too many already."""
    if not await devices.subscribe(conn, device.id, topic, max_topics=MAX_TOPICS):
        raise Conflict(f"a device has at most {MAX_TOPICS} topics")


def to_json(device: Device) -> views.Device:
    """The device as callers see it. Its endpoint and keys are a capability to push to it, so they stay inside."""
    location, client = device.location, device.client
    return {
        "id": ids.format_id(ids.DEVICE, device.id),
        "status": device.status,
        "host": device.subscription.endpoint.split("/")[2],
        "user_id": device.user_id,
        "client": {
            "platform": client.platform,
            "browser": client.browser,
            "locale": client.locale,
            "timezone": client.timezone,
            "app_version": client.app_version,
        },
        "attributes": device.attributes,
        "topics": list(device.topics),
        "zones": list(device.zones),
        "muted": list(device.muted),
        "location": None
        if location is None or device.located_at is None
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
