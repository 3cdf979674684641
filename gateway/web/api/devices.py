"""Devices: register, list, change and unregister devices; set their topics and locations; erase a user."""

from typing import Annotated, Any, cast

from pydantic import AfterValidator, Field, StringConstraints

from gateway.domain import device, ids
from gateway.domain.database_work import ERASURE, LIST
from gateway.domain.device import DeviceStatus
from gateway.domain.errors import FieldError, GatewayError, NotFound, RateLimited, ValidationError
from gateway.domain.json_object import JsonObject
from gateway.domain.schedule import find_zone
from gateway.service import views
from gateway.service.access.authentication import DEVICE, MANAGE, READ, REGISTER
from gateway.service.audience import devices, registration
from gateway.service.operations import erasure
from gateway.web.http.pagination import PageQuery, bounded_page, page
from gateway.web.http.parsing import MAX_NUMBER, Body, Octets, Topic, Zone, example
from gateway.web.http.routing import Request, Response, Routes, TransactionalRequest
from gateway.web.schemas import responses

routes = Routes("devices")

# Limits of one device: the items of an attribute that is a list, and the zones.
MAX_ITEMS = 100
MAX_ZONES = 100


def _check_attributes(values: JsonObject, *, allow_null: bool = False) -> JsonObject:
    if len(values) > registration.MAX_ATTRIBUTES:
        raise ValueError(f"has more than {registration.MAX_ATTRIBUTES} attributes")
    for name, value in values.items():
        if not 0 < len(name) <= 100:
            raise ValueError(f"{name[:40]!r} is not an attribute's name of 1 to 100 characters")
        is_list = isinstance(value, list) and len(value) <= MAX_ITEMS and all(map(_is_scalar, value))
        if not (is_list or _is_scalar(value) or (allow_null and value is None)):
            raise ValueError(f"{name!r} must be text of at most 1000 characters, a number, a boolean or a list of them")
    return values


def _check_attribute_patch(values: JsonObject) -> JsonObject:
    return _check_attributes(values, allow_null=True)


def _is_scalar(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= 1000
    return isinstance(value, bool) or (isinstance(value, int | float) and -MAX_NUMBER <= value < MAX_NUMBER)


def _check_time_zone(name: str) -> str:
    if find_zone(name) is None:
        raise ValueError("must be an IANA time zone such as Europe/Vienna")
    return name


Short = Annotated[str, StringConstraints(min_length=1, max_length=100)]
UserId = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Topics = Annotated[list[Topic], Field(max_length=registration.MAX_TOPICS)]
Zones = Annotated[
    list[Zone],
    Field(max_length=MAX_ZONES, description="Codes of the areas that contain the device: UGC, SAME, EMMA_ID or other."),
]
Attributes = Annotated[JsonObject, AfterValidator(_check_attributes)]


class Keys(Body):
    """The keys of a push subscription."""

    p256dh: Annotated[Octets, Field(description="A point on P-256, 65 octets uncompressed, base64url.")]
    auth: Annotated[Octets, Field(description="16 octets, base64url.")]


class Subscription(Body):
    """The result of `PushSubscription.toJSON()` in the browser."""

    endpoint: Annotated[str, StringConstraints(min_length=1, max_length=2048)]
    expirationTime: Annotated[float | None, Field(lt=MAX_NUMBER, description="Not used; browsers send it.")] = None  # noqa: N815 - the browser's name
    keys: Keys


class Client(Body):
    """Details of the browser or app."""

    platform: Short | None = None
    browser: Short | None = None
    locale: Short | None = None
    timezone: Annotated[Short, AfterValidator(_check_time_zone)] | None = None
    app_version: Short | None = None


class Location(Body):
    """A position (WGS 84)."""

    model_config = example(lat=48.2, lon=16.37, accuracy_m=30)

    lat: Annotated[float, Field(ge=-90, le=90)]
    lon: Annotated[float, Field(ge=-180, le=180)]
    accuracy_m: Annotated[float | None, Field(ge=0, le=50_000_000)] = None

    def value(self) -> device.Location:
        """Return the domain value."""
        return device.Location(self.lat, self.lon, self.accuracy_m)


class NewDevice(Body):
    """A push subscription of a browser, with its details.

    If the device is registered already, omitted fields do not change.
    """

    bounds_numbers = True
    model_config = example(
        subscription={
            "endpoint": "https://fcm.googleapis.com/fcm/send/cQz1",
            "expirationTime": None,
            "keys": {
                "p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
                "auth": "BTBZMqHH6r4Tts7J_aSIgg",
            },
        },
        user_id="u-42",
        client={"platform": "android", "browser": "Chrome 141", "locale": "de-AT", "timezone": "Europe/Vienna"},
        attributes={"plan": "pro", "age": 31},
        topics=["weather", "offers"],
        location={"lat": 48.2, "lon": 16.37, "accuracy_m": 30},
    )

    subscription: Subscription
    user_id: UserId | None = None
    user_hash: Annotated[
        str | None, Field(max_length=128, description="HMAC-SHA256 of `user_id` under the identity secret, in hex.")
    ] = None
    client: Client = Client()
    attributes: Attributes | None = None
    topics: Topics | None = None
    zones: Zones | None = None
    muted: Annotated[Topics | None, Field(description="Names of the categories that the device opted out of.")] = None
    location: Location | None = None
    vapid_public_key: Annotated[
        Octets | None,
        Field(
            description="The VAPID key of the subscription. Defaults to the key of the registered device, or for a new "
            "device to the application's newest."
        ),
    ] = None
    device_token: Annotated[
        str | None,
        Field(
            max_length=128,
            description="The token of the registered device. A publishable key needs it to change the keys of the "
            "subscription.",
        ),
    ] = None

    def value(self) -> device.Registration:
        """Return the domain value."""
        keys, client = self.subscription.keys, self.client
        return device.Registration(
            subscription=device.Subscription(self.subscription.endpoint, keys.p256dh, keys.auth),
            user_id=self.user_id,
            client=device.ClientDetails(
                client.platform, client.browser, client.locale, client.timezone, client.app_version
            ),
            attributes=self.attributes,
            topics=None if self.topics is None else tuple(dict.fromkeys(self.topics)),
            zones=None if self.zones is None else tuple(dict.fromkeys(self.zones)),
            muted=None if self.muted is None else tuple(dict.fromkeys(self.muted)),
            location=None if self.location is None else self.location.value(),
            vapid_public_key=self.vapid_public_key,
        )


class DeviceChange(Body):
    """Changed fields of a device. Omitted fields do not change. Attributes are merged; null removes one (RFC 7396)."""

    model_config = example(attributes={"plan": "team", "trial": None}, topics=["weather"])

    user_id: UserId | None = None
    user_hash: Annotated[str | None, Field(max_length=128)] = None
    client: Client | None = None
    attributes: Annotated[JsonObject, AfterValidator(_check_attribute_patch)] | None = None
    topics: Topics | None = None
    zones: Zones | None = None
    location: Location | None = None


class DeviceQuery(PageQuery):
    """Filters of the device list."""

    user_id: UserId | None = None
    topic: Topic | None = None
    status: DeviceStatus | None = None


async def find_device(request: TransactionalRequest[Any, Any]) -> device.Device:
    """Return the device in the path.

    Raises:
        NotFound: the application has no such device, or the device token belongs to another device.
    """
    id_ = request.id(ids.DEVICE, "device_id")
    if request.principal.device_id not in (None, id_):
        raise NotFound(f"there is no device {ids.format_id(ids.DEVICE, id_)}")
    return await registration.find_device(request.conn, request.application_id, id_)


async def _register_in_batch(request: Request[NewDevice]) -> Response:
    new = _to_registration(request)
    return _to_response(request, new, await request.state.registrar.register(new))


@routes.add(
    "POST",
    "/v1/devices",
    scopes=(REGISTER, MANAGE),
    body=NewDevice,
    browser=True,
    creates=True,
    responses={200: views.Registered, 201: views.Registered},
    batch_handler=_register_in_batch,
)
async def register_device(request: TransactionalRequest[NewDevice]) -> Response:
    """Register a device (201), or update the device with the same endpoint (200)."""
    new = _to_registration(request)
    [result] = await registration.register(request.conn, request.context, [new])
    if isinstance(result, GatewayError):
        raise result
    return _to_response(request, new, result)


def _to_registration(request: Request[NewDevice]) -> registration.RegistrationRequest:
    body = request.body
    # The user id of a request from a web page needs a proof. A request from the application's back end needs none.
    needs_proof = REGISTER in request.principal.scopes
    return registration.RegistrationRequest(
        request.application_id,
        body.value(),
        needs_proof,
        body.user_hash,
        body.device_token,
        _acquire_new_device(request) if needs_proof else None,
    )


def _acquire_new_device(request: Request[NewDevice]) -> RateLimited | None:
    """Take a token for a new device from the buckets of the client address and of the application.

    Returns:
        The error of an empty bucket, or None.
    """
    limits, address = request.state.limits, request.client_address
    try:
        limits.new_device_address_buckets.acquire(address)
        limits.new_device_buckets.acquire(request.application_id, address)
    except RateLimited as error:
        return error
    return None


def _to_response(
    request: Request[NewDevice], new: registration.RegistrationRequest, result: registration.Registered
) -> Response:
    if new.needs_proof and not result.created and new.error_if_new is None:
        limits, address = request.state.limits, request.client_address
        limits.new_device_address_buckets.refund(address)
        limits.new_device_buckets.refund(request.application_id, address)
    id_ = ids.format_id(ids.DEVICE, result.device_id)
    body = {"id": id_, "device_token": request.context.keyring.issue_device_token(result.device_id)}
    return Response(body, 201, {"Location": f"/v1/devices/{id_}"}) if result.created else Response(body)


@routes.add(
    "GET",
    "/v1/devices",
    scopes=(READ, MANAGE),
    query=DeviceQuery,
    work=LIST,
    responses={200: responses.Page[views.Device]},
)
async def list_devices(request: TransactionalRequest[None, DeviceQuery]) -> Response:
    """List devices, newest first."""
    query = request.query
    filters = devices.DeviceFilters(query.user_id, query.topic, query.status)
    return bounded_page(
        await devices.list_page(
            request.conn, request.application_id, filters, before=query.after_id(), limit=query.limit
        )
    )


@routes.add(
    "GET", "/v1/devices/{device_id}", scopes=(DEVICE, READ, MANAGE), browser=True, responses={200: views.Device}
)
async def get_device(request: TransactionalRequest) -> Response:
    """Get a device. The response has no endpoint and no keys, since they allow sending messages to the device."""
    return Response(registration.to_view(await find_device(request)))


@routes.add(
    "PATCH",
    "/v1/devices/{device_id}",
    scopes=(DEVICE, MANAGE),
    body=DeviceChange,
    browser=True,
    responses={200: views.Device},
)
async def change_device(request: TransactionalRequest[DeviceChange]) -> Response:
    """Change a device. A `user_id` of null signs the user out.

    Topics and attributes stay for the same user. Another user starts without them.
    """
    target, patch, user_proven = await find_device(request), request.body, True
    if DEVICE in request.principal.scopes:
        user_proven = await registration.verify_user(
            request.conn, request.context.keyring, request.application_id, patch.user_id, patch.user_hash
        )
    changed = patch.model_dump(include={"user_id", "attributes", "topics", "zones"}, exclude_none=True)
    if patch.user_id is None and "user_id" in patch.model_fields_set:
        changed["user_id"] = None
    if patch.client is not None:
        changed |= patch.client.model_dump(exclude_none=True)
    for name in changed.keys() & {"topics", "zones"}:
        changed[name] = list(dict.fromkeys(changed[name]))
    await devices.change(
        request.conn, request.context, target, cast("device.DeviceChange", changed), user_proven=user_proven
    )
    if patch.location is not None:
        await devices.set_location(request.conn, target, patch.location.value())
    return Response(registration.to_view(await find_device(request)))


@routes.add("DELETE", "/v1/devices/{device_id}", scopes=(DEVICE, MANAGE), browser=True, responses={204: None})
async def remove_device(request: TransactionalRequest) -> Response:
    """Unregister a device. It receives no further notifications."""
    await devices.remove(request.conn, await find_device(request))
    return Response(status=204)


@routes.add(
    "PUT",
    "/v1/devices/{device_id}/location",
    scopes=(DEVICE, MANAGE),
    body=Location,
    browser=True,
    responses={204: None},
)
async def set_location(request: TransactionalRequest[Location]) -> Response:
    """Set the location of a device."""
    await devices.set_location(request.conn, await find_device(request), request.body.value())
    return Response(status=204)


@routes.add("DELETE", "/v1/devices/{device_id}/location", scopes=(DEVICE, MANAGE), browser=True, responses={204: None})
async def remove_location(request: TransactionalRequest) -> Response:
    """Remove the location of a device."""
    await devices.set_location(request.conn, await find_device(request), None)
    return Response(status=204)


@routes.add(
    "PUT",
    "/v1/devices/{device_id}/topics/{topic}",
    scopes=(DEVICE, MANAGE),
    browser=True,
    conflicts=True,
    responses={204: None},
)
async def add_topic(request: TransactionalRequest) -> Response:
    """Subscribe a device to a topic."""
    await registration.add_topic(request.conn, await find_device(request), parse_topic(request))
    return Response(status=204)


@routes.add(
    "DELETE", "/v1/devices/{device_id}/topics/{topic}", scopes=(DEVICE, MANAGE), browser=True, responses={204: None}
)
async def remove_topic(request: TransactionalRequest) -> Response:
    """Unsubscribe a device from a topic."""
    await devices.unsubscribe(request.conn, await find_device(request), parse_topic(request))
    return Response(status=204)


@routes.add(
    "GET", "/v1/topics", scopes=(READ, MANAGE), query=PageQuery, work=LIST, responses={200: responses.Page[views.Topic]}
)
async def list_topics(request: TransactionalRequest[None, PageQuery]) -> Response:
    """List topics with their numbers of active devices, ordered by name."""
    limit = request.query.limit
    items = await devices.list_topics(
        request.conn, request.application_id, after=request.query.after_text(), limit=limit
    )
    return page(items, limit, items[-1]["topic"] if items else None)


@routes.add(
    "DELETE",
    "/v1/users/{user_id}",
    scopes=(MANAGE,),
    audit="users.remove",
    work=ERASURE,
    responses={200: views.ErasureResult},
)
async def erase_user(request: TransactionalRequest) -> Response:
    """Erase a user: devices, notifications to this user only, events, and the user id in the delivery log."""
    removed = await erasure.erase_user(
        request.conn, request.context.keyring, request.application_id, request.path("user_id")
    )
    return Response({"devices": removed})


def parse_topic(request: TransactionalRequest[Any, Any]) -> str:
    """Return the topic in the path.

    Raises:
        ValidationError: the name of the topic is invalid.
    """
    topic = request.path("topic")
    if not device.TOPIC_NAME.fullmatch(topic):
        raise ValidationError(
            [FieldError("/path/topic", "must be 1 to 64 letters, digits or _.:~- and begin with a letter or digit")]
        )
    return topic
