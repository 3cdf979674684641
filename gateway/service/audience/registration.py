"""Register devices: check the push subscription, verify the user, store the device."""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from gateway.domain import ids
from gateway.domain.bounded_cache import put
from gateway.domain.database_work import REQUEST
from gateway.domain.device import Device, Registration, Subscription
from gateway.domain.errors import (
    Conflict,
    DeviceProofRequired,
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
from gateway.records.devices import Refusal
from gateway.records.devices import Registered as Registered
from gateway.records.postgres.engine import DATABASE_ERRORS, Connection, DatabaseError, is_refusal
from gateway.service import views
from gateway.service.access.secrets import Keyring
from gateway.service.context import Context
from gateway.service.request_batcher import RequestBatcher

# Maximum numbers of topics and of attributes of one device.
MAX_TOPICS = 100
MAX_ATTRIBUTES = 100
# Maximum number of registrations that one transaction stores.
MAX_BATCH = 200
# Maximum number of applications with a batcher: far more than the applications that register devices at the same time.
MAX_BATCHERS = 10_000

# The detail of the error for a registration with another `auth` secret than the stored one.
_OTHER_KEYS = "a device has this endpoint and another auth secret; send its device_token, or subscribe the browser anew"


class RegistrationRequest(NamedTuple):
    """A request to register a device.

    `needs_proof` is True if a web page sent the request: then the application's server must prove the user id, with
    `user_hash`, and only the `device_token` permits other keys for a registered device. `error_if_new` is the error for
    a device that is not registered; None if the request may create it.
    """

    application_id: UUID
    registration: Registration
    needs_proof: bool = False
    user_hash: str | None = None
    device_token: str | None = None
    error_if_new: GatewayError | None = None


class DeviceRegistrar:
    """Registers devices of one application. Loads the application's VAPID keys and identity secret only once."""

    def __init__(self, context: Context, application_id: UUID, registration_context: RegistrationContext) -> None:
        """Create a registrar from the VAPID keys and the identity secret of an application."""
        self._context = context
        self._application_id = application_id
        self._vapid_keys = {public_key: id_ for id_, public_key in registration_context.vapid_keys}
        self._newest_vapid_key_id = registration_context.vapid_keys[0][0]
        sealed = registration_context.identity_secret
        self._identity_secret = None if sealed is None else context.keyring.open(sealed, "identity")

    @classmethod
    async def open(cls, conn: Connection, context: Context, application_id: UUID) -> "DeviceRegistrar":
        """Create the registrar of an application from the database."""
        contexts = await applications.load_registration_contexts(conn, [application_id])
        return cls(context, application_id, contexts[application_id])

    def check_request(self, request: RegistrationRequest) -> CheckedRegistration:
        """Verify the user id of a request if it needs a proof, and check its registration.

        Raises:
            IdentityUnproven: the user id lacks a valid proof.
            ValidationError: the registration is not valid.
            EndpointNotAllowed: the endpoint does not belong to a push service.
        """
        if not request.needs_proof:
            return self.check(request.registration)
        user_proven = _check_user_hash(self._identity_secret, request.registration.user_id, request.user_hash)
        token = request.device_token
        return self.check(request.registration)._replace(
            user_proven=user_proven,
            trusted=False,
            proven_device_id=None if token is None else self._context.keyring.verify_device_token(token),
            may_create=request.error_if_new is None,
        )

    def check(self, registration: Registration) -> CheckedRegistration:
        """Check a registration; return it with its canonical endpoint, the host of the endpoint and its VAPID key.

        Raises:
            ValidationError: the registration is not valid.
            EndpointNotAllowed: the endpoint does not belong to a push service.
        """
        subscription = registration.subscription
        errors = [
            error.with_prefix("/subscription/keys") for error in check_keys(subscription.p256dh, subscription.auth)
        ]
        key = registration.vapid_public_key
        vapid_key_id = self._newest_vapid_key_id if key is None else self._vapid_keys.get(key)
        if vapid_key_id is None:
            errors.append(FieldError("/vapid_public_key", "is not a key of this application"))
        if len(registration.topics or ()) > MAX_TOPICS:
            errors.append(FieldError("/topics", f"has more than {MAX_TOPICS} topics"))
        if registration.attributes is not None:
            error = find_attributes_error(registration.attributes, self._context.max_attributes)
            errors += [] if error is None else [error]
        if errors or vapid_key_id is None:
            raise ValidationError(errors)
        endpoint = self._context.policy.check(subscription.endpoint)
        if endpoint.url != subscription.endpoint:
            canonical = Subscription(endpoint.url, subscription.p256dh, subscription.auth)
            registration = registration._replace(subscription=canonical)
        return CheckedRegistration(self._application_id, registration, endpoint.host, vapid_key_id)

    @staticmethod
    async def register_all(conn: Connection, registrations: Sequence[CheckedRegistration]) -> list[Registered]:
        """Store registrations of the back end, and return the result of each in order.

        If several registrations have the same endpoint, only the last of them is stored.
        """
        by_endpoint = {checked.registration.subscription.endpoint: checked for checked in registrations}
        stored = await devices.register(conn, list(by_endpoint.values()))
        registered = [result for result in stored if isinstance(result, Registered)]  # the back end is never refused
        if len(by_endpoint) == len(registrations):
            return registered
        results = dict(zip(by_endpoint, registered, strict=True))
        return [results[checked.registration.subscription.endpoint] for checked in registrations]


class BatchingRegistrar:
    """Registers devices; concurrent requests of one application share a transaction, in order of arrival.

    Each application has its own batches, so a batch that waits for locked rows, or fails, does not delay other
    applications.
    """

    def __init__(self, context: Context) -> None:
        """Create a registrar."""
        self._context = context
        self._batchers: dict[UUID, RequestBatcher[RegistrationRequest, Registered]] = {}

    async def register(self, request: RegistrationRequest) -> Registered:
        """Register a device. The transaction has committed when the method returns.

        Raises:
            DeviceProofRequired: the endpoint is registered with other keys.
            IdentityUnproven: the user id lacks a valid proof.
            ValidationError: the registration is not valid.
            EndpointNotAllowed: the endpoint does not belong to a push service.
        """
        if (batcher := self._batchers.get(request.application_id)) is None:
            batcher = RequestBatcher(self._register_batch, MAX_BATCH)
            put(self._batchers, request.application_id, batcher, MAX_BATCHERS)
        return await batcher.submit(request)

    def _begin(self, application_id: UUID) -> AbstractAsyncContextManager[Connection]:
        return self._context.connections.share(REQUEST, application_id).begin()

    async def _register_batch(self, requests: Sequence[RegistrationRequest]) -> Sequence[Registered | Exception]:
        """Register a batch in one transaction. If the database rejects the batch, register each request alone."""
        try:
            async with self._begin(requests[0].application_id) as conn:
                return await register(conn, self._context, requests)
        except DatabaseError as error:
            if len(requests) == 1 or not is_refusal(error):
                raise
        # The database rejected the whole batch because of one request. Execute each request alone, so that only the
        # rejected request fails.
        return [await self._register_one(request) for request in requests]

    async def _register_one(self, request: RegistrationRequest) -> Registered | Exception:
        try:
            async with self._begin(request.application_id) as conn:
                [result] = await register(conn, self._context, [request])
        except DATABASE_ERRORS as error:
            return error
        return result


async def register(
    conn: Connection, context: Context, requests: Sequence[RegistrationRequest]
) -> list[Registered | GatewayError]:
    """Register devices in order, and return the result or the error of each request."""
    application_ids = list({request.application_id for request in requests})
    contexts = await applications.load_registration_contexts(conn, application_ids)
    registrars = {id_: DeviceRegistrar(context, id_, loaded) for id_, loaded in contexts.items()}
    results: dict[int, Registered | GatewayError] = {}
    # A statement can store an endpoint only once, so a repeated endpoint is added to a later batch.
    batches: list[dict[tuple[UUID, str], tuple[int, CheckedRegistration]]] = []
    for number, request in enumerate(requests):
        try:
            if request.application_id not in registrars:
                raise Unauthenticated("the key is unknown or was removed")
            checked = registrars[request.application_id].check_request(request)
        except (IdentityUnproven, ValidationError, EndpointNotAllowed, Unauthenticated) as error:
            results[number] = error
            continue
        key = (checked.application_id, checked.registration.subscription.endpoint)
        batch = next((batch for batch in batches if key not in batch), None)
        if batch is None:
            batches.append(batch := {})
        batch[key] = (number, checked)
    for batch in batches:
        stored = await devices.register(conn, [checked for _, checked in batch.values()])
        for (number, _), result in zip(batch.values(), stored, strict=True):
            results[number] = _error_of(requests[number], result) if isinstance(result, Refusal) else result
    return [results[number] for number in range(len(requests))]


def _error_of(request: RegistrationRequest, refusal: Refusal) -> GatewayError:
    limited = request.error_if_new if refusal is Refusal.LIMITED else None
    return limited or DeviceProofRequired(_OTHER_KEYS)


async def verify_user(
    conn: Connection, keyring: Keyring, application_id: UUID, user_id: str | None, user_hash: str | None
) -> bool:
    """Verify a user id if the application requires proofs, and return whether it is proven.

    Raises:
        IdentityUnproven: the user id lacks a valid proof.
    """
    application = await applications.get(conn, application_id)
    if application is None or application.identity_secret is None:
        return False
    return _check_user_hash(keyring.open(application.identity_secret, "identity"), user_id, user_hash)


def _check_user_hash(identity_secret: bytes | None, user_id: str | None, user_hash: str | None) -> bool:
    """Return whether the user id is proven; False if no proof is required. Raises IdentityUnproven."""
    if user_id is None or identity_secret is None:
        return False
    expected = hmac.digest(identity_secret, user_id.encode(), hashlib.sha256).hex()
    if user_hash is None or not hmac.compare_digest(user_hash.encode("utf-8", "replace"), expected.encode()):
        raise IdentityUnproven("user_hash must be the hex HMAC-SHA256 of user_id under the identity secret")
    return True


def measure_attributes(attributes: Mapping[str, Any]) -> int:
    """Return the size of attributes as JSON, in octets."""
    return len(msgspec.json.encode(attributes))


def find_attributes_error(attributes: Mapping[str, Any], max_octets: int) -> FieldError | None:
    """Return an error if there are too many attributes or they are too large, otherwise None."""
    if len(attributes) > MAX_ATTRIBUTES:
        return FieldError("/attributes", f"has more than {MAX_ATTRIBUTES} attributes")
    if (octets := measure_attributes(attributes)) > max_octets:
        return FieldError("/attributes", f"has {octets} octets of JSON; a device may have {max_octets}")
    return None


async def find_device(conn: Connection, application_id: UUID, device_id: UUID) -> Device:
    """Return a device of an application.

    Raises:
        NotFound: the application has no such device.
    """
    device = await devices.get(conn, device_id)
    if device is None or device.application_id != application_id:
        raise NotFound(f"there is no device {ids.format_id(ids.DEVICE, device_id)}")
    return device


async def add_topic(conn: Connection, device: Device, topic: str) -> None:
    """Subscribe a device to a topic.

    Raises:
        Conflict: the device has MAX_TOPICS other topics.
    """
    if not await devices.subscribe(conn, device.id, topic, max_topics=MAX_TOPICS):
        raise Conflict(f"a device has at most {MAX_TOPICS} topics")


def to_view(device: Device) -> views.Device:
    """Return the view of a device.

    The view has no endpoint and no keys, since anyone who knows these can send messages to the device.
    """
    location, client = device.location, device.client
    return {
        "id": ids.format_id(ids.DEVICE, device.id),
        "status": device.status,
        "host": device.subscription.endpoint.split("/")[2],
        "user_id": device.user_id,
        "user_proven": device.user_proven,
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
