"""Devices: browsers register, say what they want and where they are, and leave."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints

from gateway.domain import device, ids
from gateway.domain.device import DeviceStatus
from gateway.domain.errors import FieldError, GatewayError, NotFound, ValidationError
from gateway.records import devices
from gateway.service.access.authentication import DEVICE, MANAGE, READ, REGISTER
from gateway.service.audience import registration
from gateway.service.operations import erasure
from gateway.web.http.pagination import PageQuery, page
from gateway.web.http.parsing import MAX_NUMBER, Body, Octets, Topic, Zone, example
from gateway.web.http.routing import Request, Response, Routes, TransactionalRequest
from gateway.web.schemas import responses

routes = Routes("devices")

MAX_ATTRIBUTES = 100
MAX_ITEMS = 100
MAX_ZONES = 100


def _attributes(values: dict[str, Any], *, removable: bool = False) -> dict[str, Any]:
    if len(values) > MAX_ATTRIBUTES:
        raise ValueError(f"has more than {MAX_ATTRIBUTES} attributes")
    for name, value in values.items():
        if not 0 < len(name) <= 100:
            raise ValueError(f"{name[:40]!r} is not an attribute's name of 1 to 100 characters")
        several = isinstance(value, list) and len(value) <= MAX_ITEMS and all(map(_is_scalar, value))
        if not (several or _is_scalar(value) or (removable and value is None)):
            raise ValueError(f"{name!r} must be text of at most 1000 characters, a number, a boolean or a list of them")
    return values


def _patch(values: dict[str, Any]) -> dict[str, Any]:
    return _attributes(values, removable=True)


def _is_scalar(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= 1000
    return isinstance(value, bool) or (isinstance(value, int | float) and -MAX_NUMBER <= value < MAX_NUMBER)


Short = Annotated[str, StringConstraints(min_length=1, max_length=100)]
UserId = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Topics = Annotated[list[Topic], Field(max_length=registration.MAX_TOPICS)]
Zones = Annotated[
    list[Zone],
    Field(max_length=MAX_ZONES, description="Codes of the areas it is in: UGC, SAME, EMMA_ID or any other."),
]
Attributes = Annotated[dict[str, Any], AfterValidator(_attributes)]


class Keys(Body):
    p256dh: Annotated[Octets, Field(description="A point on P-256, 65 octets uncompressed, base64url.")]
    auth: Annotated[Octets, Field(description="16 octets, base64url.")]


class Subscription(Body):
    """What `PushSubscription.toJSON()` answers in the browser."""

    endpoint: Annotated[str, StringConstraints(min_length=1, max_length=2048)]
    expirationTime: Annotated[float | None, Field(lt=MAX_NUMBER, description="Not used; browsers send it.")] = None  # noqa: N815 - the browser's name
    keys: Keys


class Client(Body):
    platform: Short | None = None
    browser: Short | None = None
    locale: Short | None = None
    timezone: Short | None = None
    app_version: Short | None = None


class Location(Body):
    model_config = example(lat=48.2, lon=16.37, accuracy_m=30)

    lat: Annotated[float, Field(ge=-90, le=90)]
    lon: Annotated[float, Field(ge=-180, le=180)]
    accuracy_m: Annotated[float | None, Field(ge=0, le=50_000_000)] = None

    def value(self) -> device.Location:
        return device.Location(self.lat, self.lon, self.accuracy_m)


class NewDevice(Body):
    """A browser and what is known of it. What a refresh leaves out stays as it was."""

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
    user_hash: Annotated[str | None, Field(max_length=128, description="The proof of `user_id`.")] = None
    client: Client = Client()
    attributes: Attributes | None = None
    topics: Topics | None = None
    zones: Zones | None = None
    muted: Annotated[Topics | None, Field(description="The categories it opted out of.")] = None
    location: Location | None = None
    vapid_public_key: Annotated[
        Octets | None, Field(description="The key the browser subscribed with; the newest when left out.")
    ] = None

    def value(self) -> device.Registration:
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
    """What is left out stays. Attributes are merged, and those that are null removed (RFC 7396)."""

    model_config = example(attributes={"plan": "team", "trial": None}, topics=["weather"])

    user_id: UserId | None = None
    user_hash: Annotated[str | None, Field(max_length=128)] = None
    client: Client | None = None
    attributes: Annotated[dict[str, Any], AfterValidator(_patch)] | None = None
    topics: Topics | None = None
    zones: Zones | None = None
    location: Location | None = None


class DeviceQuery(PageQuery):
    user_id: UserId | None = None
    topic: Topic | None = None
    status: DeviceStatus | None = None


async def device_in(call: TransactionalRequest[Any, Any]) -> device.Device:
    """The device in the path. A device token sees only its own."""
    id_ = call.id(ids.DEVICE, "device_id")
    if call.principal.device_id not in (None, id_):
        raise NotFound(f"there is no device {ids.format_id(ids.DEVICE, id_)}")
    return await registration.find(call.conn, call.application_id, id_)


async def _registered(request: Request[NewDevice]) -> Response:
    return _answer(request, await request.state.registrar.register(_asked(request)))


@routes.add(
    "POST",
    "/v1/devices",
    scopes=(REGISTER, MANAGE),
    body=NewDevice,
    browser=True,
    creates=True,
    responses={200: responses.Registered, 201: responses.Registered},
    batch_handler=_registered,
)
async def register(call: TransactionalRequest[NewDevice]) -> Response:
    """Register a browser (201), or refresh one whose endpoint is known (200)."""
    [done] = await registration.register(call.conn, call.context, [_asked(call)])
    if isinstance(done, GatewayError):
        raise done
    return _answer(call, done)


def _asked(request: Request[NewDevice]) -> registration.RegistrationRequest:
    new = request.body
    from_page = REGISTER in request.principal.scopes  # the application's own back end is believed
    return registration.RegistrationRequest(request.application_id, new.value(), from_page, new.user_hash)


def _answer(request: Request[NewDevice], done: registration.Registered) -> Response:
    shown = ids.format_id(ids.DEVICE, done.device_id)
    said = {"id": shown, "device_token": request.context.keyring.device_token(done.device_id)}
    return Response(said, 201, {"Location": f"/v1/devices/{shown}"}) if done.created else Response(said)


@routes.add(
    "GET", "/v1/devices", scopes=(READ, MANAGE), query=DeviceQuery, responses={200: responses.Page[responses.Device]}
)
async def listed(call: TransactionalRequest[None, DeviceQuery]) -> Response:
    """List the application's devices, the newest first."""
    asked = call.query
    filters = devices.DeviceFilters(asked.user_id, asked.topic, asked.status)
    found = await devices.list_page(call.conn, call.application_id, filters, before=asked.after_id(), limit=asked.limit)
    return page([registration.to_json(one) for one in found], asked.limit, found[-1].id if found else None)


@routes.add(
    "GET", "/v1/devices/{device_id}", scopes=(DEVICE, READ, MANAGE), browser=True, responses={200: responses.Device}
)
async def show(call: TransactionalRequest) -> Response:
    """Show one device. Its endpoint and keys, with which anyone could push to it, are never shown."""
    return Response(registration.to_json(await device_in(call)))


@routes.add(
    "PATCH",
    "/v1/devices/{device_id}",
    scopes=(DEVICE, MANAGE),
    body=DeviceChange,
    browser=True,
    responses={200: responses.Device},
)
async def change(call: TransactionalRequest[DeviceChange]) -> Response:
    """Change what is known of a device. With null as its `user_id` nobody is signed in there any more."""
    found, said = await device_in(call), call.body
    if DEVICE in call.principal.scopes:
        await registration.prove(call.conn, call.context.keyring, call.application_id, said.user_id, said.user_hash)
    values: dict[str, Any] = said.model_dump(include={"user_id", "attributes", "topics", "zones"}, exclude_none=True)
    if said.user_id is None and "user_id" in said.model_fields_set:
        values["user_id"] = None
    if said.client is not None:
        values |= said.client.model_dump(exclude_none=True)
    for name in values.keys() & {"topics", "zones"}:
        values[name] = list(dict.fromkeys(values[name]))
    await devices.change(call.conn, found.id, values)
    if said.location is not None:
        await devices.set_location(call.conn, found.id, said.location.value())
    return Response(registration.to_json(await device_in(call)))


@routes.add("DELETE", "/v1/devices/{device_id}", scopes=(DEVICE, MANAGE), browser=True, responses={204: None})
async def remove(call: TransactionalRequest) -> Response:
    """Unregister a device: nothing more is sent to it."""
    await devices.remove(call.conn, (await device_in(call)).id)
    return Response(status=204)


@routes.add(
    "PUT",
    "/v1/devices/{device_id}/location",
    scopes=(DEVICE, MANAGE),
    body=Location,
    browser=True,
    responses={204: None},
)
async def locate(call: TransactionalRequest[Location]) -> Response:
    """Say where a device is."""
    await devices.set_location(call.conn, (await device_in(call)).id, call.body.value())
    return Response(status=204)


@routes.add("DELETE", "/v1/devices/{device_id}/location", scopes=(DEVICE, MANAGE), browser=True, responses={204: None})
async def unlocate(call: TransactionalRequest) -> Response:
    """Forget where a device is."""
    await devices.set_location(call.conn, (await device_in(call)).id, None)
    return Response(status=204)


@routes.add(
    "PUT",
    "/v1/devices/{device_id}/topics/{topic}",
    scopes=(DEVICE, MANAGE),
    browser=True,
    conflicts=True,
    responses={204: None},
)
async def subscribe(call: TransactionalRequest) -> Response:
    """Subscribe a device to a topic."""
    await registration.add_topic(call.conn, await device_in(call), topic_in(call))
    return Response(status=204)


@routes.add(
    "DELETE", "/v1/devices/{device_id}/topics/{topic}", scopes=(DEVICE, MANAGE), browser=True, responses={204: None}
)
async def unsubscribe(call: TransactionalRequest) -> Response:
    """Unsubscribe a device from a topic."""
    await devices.unsubscribe(call.conn, (await device_in(call)).id, topic_in(call))
    return Response(status=204)


@routes.add(
    "GET", "/v1/topics", scopes=(READ, MANAGE), query=PageQuery, responses={200: responses.Page[responses.Topic]}
)
async def topics(call: TransactionalRequest[None, PageQuery]) -> Response:
    """List the topics that devices subscribe to, with how many of them can be reached."""
    limit = call.query.limit
    found = await devices.list_topics(call.conn, call.application_id, after=call.query.after_text(), limit=limit)
    items = [{"topic": topic, "devices": count} for topic, count in found]
    return page(items, limit, found[-1][0] if found else None)


@routes.add(
    "DELETE", "/v1/users/{user_id}", scopes=(MANAGE,), audit="users.remove", responses={200: responses.ErasureResult}
)
async def forget(call: TransactionalRequest) -> Response:
    """Forget a person: their devices, what was sent to them alone, their events, and their name in the log."""
    removed = await erasure.forget(call.conn, call.context.keyring, call.application_id, call.path("user_id"))
    return Response({"devices": removed})


def topic_in(call: TransactionalRequest[Any, Any]) -> str:
    """The topic in the path. Raises Invalid."""
    topic = call.path("topic")
    if not device.TOPIC_NAME.fullmatch(topic):
        raise ValidationError(
            [FieldError("/path/topic", "must be 1 to 64 letters, digits or _.:~- and begin with a letter or digit")]
        )
    return topic
