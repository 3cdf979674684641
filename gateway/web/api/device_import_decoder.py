"""Decode the lines of a device import, about five times as fast as the request model does.

msgspec decodes valid lines directly to the domain value. If this decoder refuses a line, the request model parses it
again: it accepts the line, or reports all its errors. So the decoder must not accept lines that the model refuses, nor
decode a line to another value. A test compares the results of both.
"""

from binascii import a2b_base64
from collections.abc import Callable
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.json import Decoder

from gateway.domain.device import TOPIC_NAME, ZONE_CODE, ClientDetails, Location, Registration, Subscription
from gateway.domain.schedule import find_zone
from gateway.service.audience.registration import MAX_ATTRIBUTES, MAX_TOPICS
from gateway.web.api.devices import MAX_ITEMS, MAX_ZONES, NewDevice
from gateway.web.http.parsing import MAX_NUMBER, read_body

# Translates base64url to base64. Characters that base64url does not have become an invalid character.
_TO_BASE64 = bytes.maketrans(b"-_+/=", b"+/***")

_Text = Annotated[str, Meta(max_length=1000)]
_Integer = Annotated[int, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER - 1)]
_Float = Annotated[float, Meta(ge=-MAX_NUMBER, lt=MAX_NUMBER)]
_Short = Annotated[str, Meta(min_length=1, max_length=100)]
_Scalar = _Text | _Integer | _Float | bool
_List = Annotated[list[_Scalar], Meta(max_length=MAX_ITEMS)]
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
    attributes: Annotated[dict[_Short, _Scalar | _List], Meta(max_length=MAX_ATTRIBUTES)] | None = None
    topics: _Topics | None = None
    zones: Annotated[list[str], Meta(max_length=MAX_ZONES)] | None = None
    muted: _Topics | None = None
    location: _Location | None = None
    vapid_public_key: _Point | None = None
    device_token: Annotated[str, Meta(max_length=128)] | None = None


_decode = Decoder(_Line).decode
_is_topic, _is_zone = TOPIC_NAME.fullmatch, ZONE_CODE.fullmatch


def read_line(raw: bytes) -> Registration:
    """Parse a line of a device import.

    Raises:
        MalformedBody: the line is not JSON.
        ValidationError: the line is not a valid registration.
    """
    registration = _decode_line(raw)
    return read_body(NewDevice, raw).value() if registration is None else registration


def _decode_line(raw: bytes) -> Registration | None:
    """Decode a line with msgspec; return None if the request model must parse it."""
    if b"\\u0000" in raw:  # Postgres cannot store U+0000
        return None
    try:
        line = _decode(raw)
        subscription, client, location = line.subscription, line.client, line.location
        keys, key = subscription.keys, line.vapid_public_key
        if client.timezone is not None and find_zone(client.timezone) is None:
            return None
        return Registration(
            Subscription(subscription.endpoint, _decode_octets(keys.p256dh, b"="), _decode_octets(keys.auth, b"==")),
            line.user_id,
            ClientDetails(client.platform, client.browser, client.locale, client.timezone, client.app_version),
            line.attributes,
            _unique_names(line.topics, _is_topic),
            _unique_names(line.zones, _is_zone),
            _unique_names(line.muted, _is_topic),
            None if location is None else Location(location.lat, location.lon, location.accuracy_m),
            None if key is None else _decode_octets(key, b"="),
        )
    except ValueError:  # msgspec's errors are ValueErrors
        return None


def _decode_octets(text: str, padding: bytes) -> bytes:
    """Decode base64url; raises ValueError."""
    return a2b_base64(text.encode("ascii").translate(_TO_BASE64) + padding, strict_mode=True)


def _unique_names(names: list[str] | None, is_name: Callable[[str], object]) -> tuple[str, ...] | None:
    """Return the names without duplicates; raises ValueError for an invalid name."""
    if names is None:
        return None
    if not all(map(is_name, names)):
        raise ValueError("is not a valid name")
    return tuple(dict.fromkeys(names))
