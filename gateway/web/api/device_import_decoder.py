"""A line of an import, read in a fifth of the time that its model takes.

Most lines are as they should be. Those are decoded by msgspec straight into what they must be, and no object is made
that is not kept. Whatever is refused here is read again by the model, which may take it after all, and otherwise names
every fault. So this must take nothing that the model refuses, and read nothing otherwise; a test holds it to that.
"""

from binascii import a2b_base64
from collections.abc import Callable
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.json import Decoder

from gateway.domain.device import TOPIC_NAME, ZONE_CODE, ClientDetails, Location, Registration, Subscription
from gateway.service.audience.registration import MAX_TOPICS
from gateway.web.api.devices import MAX_ATTRIBUTES, MAX_ITEMS, MAX_ZONES, NewDevice
from gateway.web.http.parsing import MAX_NUMBER, read_body

# Base64url in base64's letters. What is only in base64, and padding, is made what is in neither.
_IN_BASE64 = bytes.maketrans(b"-_+/=", b"+/***")

_Text = Annotated[str, Meta(max_length=1000)]
_Whole = Annotated[int, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER - 1)]
_Broken = Annotated[float, Meta(ge=-MAX_NUMBER, lt=MAX_NUMBER)]
_Short = Annotated[str, Meta(min_length=1, max_length=100)]
_Scalar = _Text | _Whole | _Broken | bool
_Several = Annotated[list[_Scalar], Meta(max_length=MAX_ITEMS)]
_Topics = Annotated[list[str], Meta(max_length=MAX_TOPICS)]
_Point = Annotated[str, Meta(min_length=87, max_length=87)]  # 65 octets
_Secret = Annotated[str, Meta(min_length=22, max_length=22)]  # 16 octets


class _Keys(Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    p256dh: _Point
    auth: _Secret


class _Subscription(Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    endpoint: Annotated[str, Meta(min_length=1, max_length=2048)]
    keys: _Keys
    expirationTime: Annotated[float, Meta(lt=MAX_NUMBER)] | None = None  # noqa: N815 - the browser's name


class _Client(Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    platform: _Short | None = None
    browser: _Short | None = None
    locale: _Short | None = None
    timezone: _Short | None = None
    app_version: _Short | None = None


class _Location(Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    lat: Annotated[float, Meta(ge=-90, le=90)]
    lon: Annotated[float, Meta(ge=-180, le=180)]
    accuracy_m: Annotated[float, Meta(ge=0, le=50_000_000)] | None = None


class _Line(Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    subscription: _Subscription
    client: _Client = _Client()
    user_id: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    user_hash: Annotated[str, Meta(max_length=128)] | None = None
    attributes: Annotated[dict[_Short, _Scalar | _Several], Meta(max_length=MAX_ATTRIBUTES)] | None = None
    topics: _Topics | None = None
    zones: Annotated[list[str], Meta(max_length=MAX_ZONES)] | None = None
    muted: _Topics | None = None
    location: _Location | None = None
    vapid_public_key: _Point | None = None


_decode = Decoder(_Line).decode
_is_topic, _is_zone = TOPIC_NAME.fullmatch, ZONE_CODE.fullmatch


def read_line(raw: bytes) -> Registration:
    """Raises MalformedBody and Invalid."""
    registration = _read_quickly(raw)
    return read_body(NewDevice, raw).value() if registration is None else registration


def _read_quickly(raw: bytes) -> Registration | None:
    if b"\\u0000" in raw:  # which Postgres cannot keep
        return None
    try:
        line = _decode(raw)
        subscription, client, at = line.subscription, line.client, line.location
        keys, key = subscription.keys, line.vapid_public_key
        return Registration(
            Subscription(subscription.endpoint, _octets(keys.p256dh, b"="), _octets(keys.auth, b"==")),
            line.user_id,
            ClientDetails(client.platform, client.browser, client.locale, client.timezone, client.app_version),
            line.attributes,
            _names(line.topics, _is_topic),
            _names(line.zones, _is_zone),
            _names(line.muted, _is_topic),
            None if at is None else Location(at.lat, at.lon, at.accuracy_m),
            None if key is None else _octets(key, b"="),
        )
    except ValueError:  # msgspec's own are such
        return None


def _octets(text: str, padding: bytes) -> bytes:
    """Raises ValueError."""
    return a2b_base64(text.encode("ascii").translate(_IN_BASE64) + padding, strict_mode=True)


def _names(names: list[str] | None, is_name: Callable[[str], object]) -> tuple[str, ...] | None:
    """Each once. Raises ValueError."""
    if names is None:
        return None
    if not all(map(is_name, names)):
        raise ValueError("is no name")
    return tuple(dict.fromkeys(names))
