"""Devices: the push subscription of one browser, with its client details."""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, TypedDict
from uuid import UUID

from gateway.domain.json_object import JsonObject

# The name of a topic.
TOPIC_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:~-]{0,63}")
# The value of a CAP geocode, such as TXC201 (UGC), 048201 (SAME) or DE131 (EMMA_ID).
ZONE_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/~-]{0,63}")


class DeviceStatus(StrEnum):
    """Whether a device receives messages.

    `gone`: the push service reported that the subscription no longer exists. `quarantined`: the push service
    refuses the VAPID key for the subscription, which the browser must replace if it was created with another key.
    """

    ACTIVE = "active"
    GONE = "gone"
    QUARANTINED = "quarantined"


class Subscription(NamedTuple):
    """A push subscription (Push API, PushSubscription).

    `p256dh` is a P-256 point (65 bytes, uncompressed), `auth` a secret of 16 bytes (RFC 8291 section 2).
    """

    endpoint: str
    p256dh: bytes
    auth: bytes


class Location(NamedTuple):
    """A position in WGS 84 degrees; `accuracy_m` is the radius of uncertainty in metres."""

    lat: float
    lon: float
    accuracy_m: float | None = None


class ClientDetails(NamedTuple):
    """The details that a page reports of its browser: platform, name and version, locale, time zone, app version."""

    platform: str | None = None
    browser: str | None = None
    locale: str | None = None
    timezone: str | None = None
    app_version: str | None = None


class DeviceChange(TypedDict, total=False):
    """The changed fields of a device. Attributes are merged into the stored ones; null removes one (RFC 7396)."""

    user_id: str | None
    platform: str
    browser: str
    locale: str
    timezone: str
    app_version: str
    attributes: JsonObject
    topics: list[str]
    zones: list[str]
    muted: list[str]


class Registration(NamedTuple):
    """The fields with which a web page registers one browser.

    When the device exists already, the fields that are None stay as they are.
    """

    subscription: Subscription
    user_id: str | None = None
    client: ClientDetails = ClientDetails()
    attributes: JsonObject | None = None
    topics: tuple[str, ...] | None = None
    zones: tuple[str, ...] | None = None
    muted: tuple[str, ...] | None = None
    location: Location | None = None
    vapid_public_key: bytes | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """A registered device.

    `zones` are the codes of the named areas that the device is in, `muted` the categories that it opted out of.
    `located_at` is the time of `location`. `user_proven`: the registration had a proof of the user id, or came from the
    application's back end.
    """

    id: UUID
    application_id: UUID
    subscription: Subscription
    vapid_key_id: UUID
    status: DeviceStatus
    user_id: str | None
    client: ClientDetails
    attributes: JsonObject
    topics: tuple[str, ...]
    zones: tuple[str, ...]
    muted: tuple[str, ...]
    location: Location | None
    located_at: datetime | None
    created_at: datetime
    updated_at: datetime
    last_seen_at: datetime
    user_proven: bool = False
