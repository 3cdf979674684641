"""The gateway's requests as typed dicts: the keyword arguments of the client's methods.

Written by `ops/client` from the OpenAPI document.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NotRequired, TypedDict

# ruff: noqa: E501

Audience = Mapping[str, Any]
"""An audience: `{"topic": "weather"}`, `{"user_id": "u-1"}`, `{"all": [...]}`; see Audience in the OpenAPI document."""


class NewApplication(TypedDict):
    name: str
    subject: str
    """Where push services reach you: mailto: or https: (RFC 8292, section 2.1)."""
    allowed_origins: NotRequired[Sequence[str]]
    """Web origins that may use the publishable key: https://app.example.org"""
    vapid_private_key: NotRequired[str | None]
    """The key of before, so that browsers need not subscribe anew: 32 octets. Made when left out."""


class ApplicationChange(TypedDict):
    name: NotRequired[str | None]
    subject: NotRequired[str | None]
    allowed_origins: NotRequired[Sequence[str] | None]
    require_identity: NotRequired[bool | None]
    """Demand a proof (`user_hash`) for every `user_id`; true makes a new secret."""


class NewKey(TypedDict):
    name: str
    scopes: Sequence[Literal["send", "read", "manage", "register"]]
    """`register` alone makes a publishable key."""


class AuditSearch(TypedDict):
    action: NotRequired[str | None]
    """Only of this kind: `keys.remove`."""
    application_id: NotRequired[str | None]
    """For the operator: only of this one."""


class ImportSearch(TypedDict):
    dry_run: NotRequired[bool]
    """Check every line, and register nothing: the status is `valid`."""


class Keys(TypedDict):
    p256dh: str
    """A point on P-256, 65 octets uncompressed, base64url."""
    auth: str
    """16 octets, base64url."""


class Subscription(TypedDict):
    """What `PushSubscription.toJSON()` answers in the browser."""

    endpoint: str
    expirationTime: NotRequired[float | None]
    """Not used; browsers send it."""
    keys: Keys


class Client(TypedDict):
    platform: NotRequired[str | None]
    browser: NotRequired[str | None]
    locale: NotRequired[str | None]
    timezone: NotRequired[str | None]
    app_version: NotRequired[str | None]


class Location(TypedDict):
    lat: float
    lon: float
    accuracy_m: NotRequired[float | None]


class NewDevice(TypedDict):
    """A browser and what is known of it. What a refresh leaves out stays as it was."""

    subscription: Subscription
    user_id: NotRequired[str | None]
    user_hash: NotRequired[str | None]
    """The proof of `user_id`."""
    client: NotRequired[Client]
    attributes: NotRequired[Mapping[str, Any] | None]
    topics: NotRequired[Sequence[str] | None]
    zones: NotRequired[Sequence[str] | None]
    muted: NotRequired[Sequence[str] | None]
    """The categories it opted out of."""
    location: NotRequired[Location | None]
    vapid_public_key: NotRequired[str | None]
    """The key the browser subscribed with; the newest when left out."""


class DeviceSearch(TypedDict):
    user_id: NotRequired[str | None]
    topic: NotRequired[str | None]
    status: NotRequired[Literal["active", "gone", "quarantined"] | None]


class DeviceChange(TypedDict):
    """What is left out stays. Attributes are merged, and those that are null removed (RFC 7396)."""

    user_id: NotRequired[str | None]
    user_hash: NotRequired[str | None]
    client: NotRequired[Client | None]
    attributes: NotRequired[Mapping[str, Any] | None]
    topics: NotRequired[Sequence[str] | None]
    zones: NotRequired[Sequence[str] | None]
    location: NotRequired[Location | None]


class InboxSearch(TypedDict):
    after: NotRequired[int | None]
    """Only what is newer than this position, the oldest first."""
    wait: NotRequired[int]
    """Seconds to wait for something newer than `after`."""


class ReadUpTo(TypedDict):
    upto: int
    """The position of the newest that was read."""


class CategoryCap(TypedDict):
    """No more than `most` notifications of the category to one user within `window` seconds."""

    most: int
    window: int


class QuietHours(TypedDict):
    """From one time of day to another, past midnight when that is the earlier one."""

    start: str
    end: str
    timezone: NotRequired[str]


class NewCategory(TypedDict):
    description: NotRequired[str | None]
    cap: NotRequired[CategoryCap | None]
    quiet_hours: NotRequired[QuietHours | None]
    name: str
    """What notifications name it by; it never changes."""
    title: str
    """What people read when they choose."""


class CategoryChange(TypedDict):
    """What is left out stays, null takes a rule away."""

    description: NotRequired[str | None]
    cap: NotRequired[CategoryCap | None]
    quiet_hours: NotRequired[QuietHours | None]
    title: NotRequired[str | None]


class Wanted(TypedDict):
    categories: Mapping[str, bool]
    """By name; what is left out stays as it was."""


class NewSegment(TypedDict):
    name: str
    audience: Audience


class SegmentChange(TypedDict):
    """What is left out stays."""

    name: NotRequired[str | None]
    audience: NotRequired[Audience | None]


class Action(TypedDict):
    """A button of the notification."""

    action: str
    title: str
    url: NotRequired[str | None]
    icon: NotRequired[str | None]


class PartialContent(TypedDict):
    """Content of which anything may be left out."""

    title: NotRequired[str | None]
    body: NotRequired[str | None]
    url: NotRequired[str | None]
    """Where a click leads; a path is one of the application's first origin."""
    icon: NotRequired[str | None]
    image: NotRequired[str | None]
    badge: NotRequired[str | None]
    tag: NotRequired[str | None]
    """A later notification with the same tag replaces this one."""
    actions: NotRequired[Sequence[Action] | None]
    data: NotRequired[Mapping[str, Any] | None]
    silent: NotRequired[bool | None]
    require_interaction: NotRequired[bool | None]
    app_badge: NotRequired[int | None]


class Content(TypedDict):
    """What the browser shows. At most 3,993 octets once it is rendered.

    Texts may be Liquid templates over `user`, `device`, `event` and `notification`.
    """

    title: str
    body: NotRequired[str | None]
    url: NotRequired[str | None]
    """Where a click leads; a path is one of the application's first origin."""
    icon: NotRequired[str | None]
    image: NotRequired[str | None]
    badge: NotRequired[str | None]
    tag: NotRequired[str | None]
    """A later notification with the same tag replaces this one."""
    actions: NotRequired[Sequence[Action] | None]
    data: NotRequired[Mapping[str, Any] | None]
    silent: NotRequired[bool | None]
    require_interaction: NotRequired[bool | None]
    app_badge: NotRequired[int | None]
    locales: NotRequired[Mapping[str, PartialContent] | None]
    """By language tag: `de` is shown to de-AT where there is no `de-AT`."""


class NewTemplate(TypedDict):
    name: str
    content: Content
    strict: NotRequired[bool]
    """A variable that is not known fails the message."""


class TemplateSearch(TypedDict):
    version: NotRequired[int | None]
    """The newest when left out."""


class TemplateChange(TypedDict):
    """What is left out stays. Other content or another `strict` is another version."""

    name: NotRequired[str | None]
    content: NotRequired[Content | None]
    strict: NotRequired[bool | None]


class TemplateRef(TypedDict):
    """A saved template, by its id; the newest version when none is named."""

    id: str
    version: NotRequired[int | None]


class Preview(TypedDict):
    """`locale` in place of the device's own."""

    template: NotRequired[TemplateRef | None]
    content: NotRequired[Content | None]
    strict: NotRequired[bool]
    """A variable that is not known fails the message; a saved template has its own."""
    event: NotRequired[Mapping[str, Any] | None]
    """What templates see as `event`."""
    device_id: NotRequired[str | None]
    locale: NotRequired[str | None]


Urgency = Literal["very-low", "low", "normal", "high"]


class DeliveryOptions(TypedDict):
    """How it travels; what is left out is the kind's default."""

    ttl: NotRequired[int | None]
    """Seconds a push service may hold it (RFC 8030)."""
    urgency: NotRequired[Urgency | None]
    collapse_key: NotRequired[str | None]
    """What is still undelivered under the same key is replaced."""
    lane: NotRequired[Literal["urgent", "normal", "bulk"] | None]
    expires_at: NotRequired[datetime | str | None]
    """Nothing is sent after this."""


class Schedule(TypedDict):
    """An instant (`at` with an offset), or a local time in a zone, or in each device's own zone."""

    timezone: NotRequired[str | None]
    """An IANA name such as `Europe/Vienna`, or `device` for each device's own local time."""
    at: str
    """When sending starts; at once when it is past."""


class NewNotification(TypedDict):
    template: NotRequired[TemplateRef | None]
    content: NotRequired[Content | None]
    strict: NotRequired[bool]
    """A variable that is not known fails the message; a saved template has its own."""
    delivery: NotRequired[DeliveryOptions]
    category: NotRequired[str | None]
    event: NotRequired[Mapping[str, Any] | None]
    """What templates see as `event`."""
    audience: Audience
    schedule: NotRequired[Schedule | None]


class NotificationSearch(TypedDict):
    kind: NotRequired[Literal["direct", "campaign", "alert", "event", "reminder"] | None]
    """Only of this kind."""
    status: NotRequired[Literal["scheduled", "sending", "paused", "done", "cancelled"] | None]


class Sendable(TypedDict):
    template: NotRequired[TemplateRef | None]
    content: NotRequired[Content | None]
    strict: NotRequired[bool]
    """A variable that is not known fails the message; a saved template has its own."""
    delivery: NotRequired[DeliveryOptions]
    category: NotRequired[str | None]
    event: NotRequired[Mapping[str, Any] | None]
    """What templates see as `event`."""


class PreviewRequest(TypedDict):
    audience: Audience


class Throttle(TypedDict):
    """At least one of them; with both, the slower one counts."""

    per_second: NotRequired[float | None]
    """Messages a second, at the most."""
    spread: NotRequired[int | None]
    """Seconds over which all of it is sent evenly."""


class LocalizedContent(TypedDict):
    """What is said instead, and what in other languages."""

    title: NotRequired[str | None]
    body: NotRequired[str | None]
    url: NotRequired[str | None]
    """Where a click leads; a path is one of the application's first origin."""
    icon: NotRequired[str | None]
    image: NotRequired[str | None]
    badge: NotRequired[str | None]
    tag: NotRequired[str | None]
    """A later notification with the same tag replaces this one."""
    actions: NotRequired[Sequence[Action] | None]
    data: NotRequired[Mapping[str, Any] | None]
    silent: NotRequired[bool | None]
    require_interaction: NotRequired[bool | None]
    app_badge: NotRequired[int | None]
    locales: NotRequired[Mapping[str, PartialContent] | None]
    """By language tag: `de` is shown to de-AT where there is no `de-AT`."""


class Variant(TypedDict):
    """`content` replaces what it names of the campaign's own."""

    name: str
    weight: NotRequired[float]
    """Its share, relative to the others'."""
    content: LocalizedContent


class Winner(TypedDict):
    """The variants go to a sample; the one that most of its receivers have clicked then goes to everybody else."""

    sample: float
    """The share of the audience that is the sample."""
    after: int
    """Seconds until the winner is decided."""


class PauseWhen(TypedDict):
    """Pause when too much of it fails: goes to devices that are gone, is rejected or expires."""

    failure_share: float
    """Of all deliveries that have ended."""
    after: NotRequired[int]
    """Only once this many have ended."""


class CampaignRequest(TypedDict):
    template: NotRequired[TemplateRef | None]
    content: NotRequired[Content | None]
    strict: NotRequired[bool]
    """A variable that is not known fails the message; a saved template has its own."""
    delivery: NotRequired[DeliveryOptions]
    category: NotRequired[str | None]
    event: NotRequired[Mapping[str, Any] | None]
    """What templates see as `event`."""
    throttle: NotRequired[Throttle | None]
    quiet_hours: NotRequired[QuietHours | None]
    """Held until they end; the category's own when left out."""
    variants: NotRequired[Sequence[Variant] | None]
    winner: NotRequired[Winner | None]
    pause_when: NotRequired[PauseWhen | None]
    name: str
    audience: Audience
    schedule: NotRequired[Schedule | None]


class RecurringDeliveryOptions(TypedDict):
    """How each of those travels that are sent again and again."""

    ttl: NotRequired[int | None]
    """Seconds a push service may hold it (RFC 8030)."""
    urgency: NotRequired[Urgency | None]
    collapse_key: NotRequired[str | None]
    """What is still undelivered under the same key is replaced."""
    lane: NotRequired[Literal["urgent", "normal", "bulk"] | None]
    expires_at: NotRequired[datetime | str | None]
    """Nothing is sent after this."""


class NewReminder(TypedDict):
    template: NotRequired[TemplateRef | None]
    content: NotRequired[Content | None]
    strict: NotRequired[bool]
    """A variable that is not known fails the message; a saved template has its own."""
    delivery: NotRequired[RecurringDeliveryOptions]
    category: NotRequired[str | None]
    event: NotRequired[Mapping[str, Any] | None]
    """What templates see as `event`."""
    throttle: NotRequired[Throttle | None]
    quiet_hours: NotRequired[QuietHours | None]
    """Held until they end; the category's own when left out."""
    variants: NotRequired[Sequence[Variant] | None]
    winner: NotRequired[Winner | None]
    pause_when: NotRequired[PauseWhen | None]
    name: str
    cron: str
    """Minute, hour, day of the month, month, day of the week: `0 9 * * 1-5`."""
    timezone: NotRequired[str]
    """On whose clocks; `device` for each device's own."""
    ends_at: NotRequired[datetime | str | None]
    """No occurrence starts after this."""
    missed: NotRequired[Literal["send", "skip"]]
    """What becomes of an occurrence that no worker could start within five minutes of its time."""
    audience: Audience


class ReminderChange(TypedDict):
    """What is left out stays; null takes ends_at, category, throttle, quiet_hours or all of delivery away.

    What has been started goes on as it was.
    """

    content: NotRequired[Content | None]
    audience: NotRequired[Audience | None]
    delivery: NotRequired[RecurringDeliveryOptions | None]
    category: NotRequired[str | None]
    name: NotRequired[str | None]
    cron: NotRequired[str | None]
    timezone: NotRequired[str | None]
    ends_at: NotRequired[datetime | str | None]
    missed: NotRequired[Literal["send", "skip"] | None]
    paused: NotRequired[bool | None]
    throttle: NotRequired[Throttle | None]
    quiet_hours: NotRequired[QuietHours | None]


Severity = Literal["Extreme", "Severe", "Moderate", "Minor", "Unknown"]


AlertUrgency = Literal["Immediate", "Expected", "Future", "Past", "Unknown"]


Certainty = Literal["Observed", "Likely", "Possible", "Unlikely", "Unknown"]


AlertStatus = Literal["Actual", "Exercise", "System", "Test", "Draft"]


MessageType = Literal["Alert", "Update", "Cancel"]


class NewAlert(TypedDict):
    """Whoever is in `area` or `zones`, and in `audience`, is told; at least one of them is needed."""

    event: str
    headline: NotRequired[str | None]
    description: NotRequired[str | None]
    instruction: NotRequired[str | None]
    severity: NotRequired[Severity]
    urgency: NotRequired[AlertUrgency]
    certainty: NotRequired[Certainty]
    status: NotRequired[AlertStatus]
    message_type: NotRequired[MessageType]
    identifier: NotRequired[str | None]
    """The same one twice is one alert. Made up when left out."""
    references: NotRequired[Sequence[str]]
    """Identifiers of what an Update or a Cancel is about."""
    sent: NotRequired[datetime | str | None]
    effective: NotRequired[datetime | str | None]
    onset: NotRequired[datetime | str | None]
    expires: NotRequired[datetime | str | None]
    """Nothing is sent or held after this."""
    ends: NotRequired[datetime | str | None]
    area: NotRequired[Any]
    """A GeoJSON Polygon or MultiPolygon (RFC 7946)."""
    zones: NotRequired[Sequence[str]]
    """Codes of named areas, such as TXC201."""
    audience: NotRequired[Audience | None]
    category: NotRequired[str | None]
    url: NotRequired[str | None]


class AlertMatcherModel(TypedDict):
    """Which alerts are meant; what is left out fits all. An event's name is compared whatever its case."""

    severity: NotRequired[Sequence[Severity] | None]
    urgency: NotRequired[Sequence[AlertUrgency] | None]
    certainty: NotRequired[Sequence[Certainty] | None]
    event: NotRequired[Sequence[str] | None]


class AlertRule(TypedDict):
    """How some alerts are told. What is left out is as the gateway's own table has it."""

    when: AlertMatcherModel
    tell: NotRequired[bool]
    """False: they are not sent."""
    lane: NotRequired[Literal["urgent", "normal"] | None]
    urgency: NotRequired[Urgency | None]
    """The Urgency header (RFC 8030)."""
    ttl: NotRequired[int | None]
    """Seconds, for those that do not say when they expire."""


class AlertSettings(TypedDict):
    """What an application says of all its alerts."""

    rules: NotRequired[Sequence[AlertRule]]
    """The first that fits counts, before the gateway's table."""
    audience: NotRequired[Audience | None]
    """Narrows the alerts that name no audience themselves."""


class DeliverySearch(TypedDict):
    notification_id: NotRequired[str | None]
    device_id: NotRequired[str | None]
    user_id: NotRequired[str | None]
    outcome: NotRequired[Literal["accepted", "gone", "rejected", "expired", "cancelled", "skipped"] | None]
    host: NotRequired[str | None]
    since: NotRequired[datetime | str | None]
    """Settled at this time or later."""
    until: NotRequired[datetime | str | None]
    """Settled before this time."""


class StreamSearch(TypedDict):
    notification_id: NotRequired[str | None]
    device_id: NotRequired[str | None]
    user_id: NotRequired[str | None]
    outcome: NotRequired[Literal["accepted", "gone", "rejected", "expired", "cancelled", "skipped"] | None]
    host: NotRequired[str | None]
    since: NotRequired[datetime | str | None]
    """Settled at this time or later."""
    until: NotRequired[datetime | str | None]
    """Settled before this time."""
    last_event_id: NotRequired[str | None]
    """For clients that cannot send the header Last-Event-ID."""


class StatSearch(TypedDict):
    by: NotRequired[Literal["minute", "hour", "day"]]
    """How long a step is."""
    since: NotRequired[datetime | str | None]
    """Begin of the first step; 60 steps ago when left out."""
    until: NotRequired[datetime | str | None]
    """End of the last step; now when left out."""


class Receipt(TypedDict):
    token: str
    event: Literal["displayed", "clicked", "dismissed"]
    action: NotRequired[str | None]


class TriggerCap(TypedDict):
    """At most `most` times for a user within `window` seconds."""

    most: int
    window: int


class NewTrigger(TypedDict):
    template: NotRequired[TemplateRef | None]
    content: NotRequired[Content | None]
    strict: NotRequired[bool]
    """A variable that is not known fails the message; a saved template has its own."""
    delivery: NotRequired[RecurringDeliveryOptions]
    category: NotRequired[str | None]
    name: str
    event: str
    """The name of the events that it is about."""
    condition: NotRequired[Mapping[str, Any] | None]
    audience: NotRequired[Audience | None]
    delay: NotRequired[int]
    """Seconds from the event to the sending."""
    dedupe: NotRequired[int | None]
    cap: NotRequired[TriggerCap | None]
    cancel_on: NotRequired[Sequence[str]]
    """Events of the same user that cancel what still waits or is being sent."""


class TriggerChange(TypedDict):
    """What is left out stays; null takes condition, dedupe, cap, category or all of delivery away.

    What was started goes on as it was.
    """

    content: NotRequired[Content | None]
    audience: NotRequired[Audience | None]
    delivery: NotRequired[RecurringDeliveryOptions | None]
    category: NotRequired[str | None]
    name: NotRequired[str | None]
    event: NotRequired[str | None]
    status: NotRequired[Literal["active", "paused"] | None]
    condition: NotRequired[Mapping[str, Any] | None]
    delay: NotRequired[int | None]
    dedupe: NotRequired[int | None]
    cap: NotRequired[TriggerCap | None]
    cancel_on: NotRequired[Sequence[str] | None]


class NewEvent(TypedDict):
    name: str
    """Such as `cart.abandoned`."""
    data: NotRequired[Mapping[str, Any]]
    user_id: NotRequired[str | None]
    occurred_at: NotRequired[datetime | str | None]
    """Now, when left out. Delays count from here."""
    key: NotRequired[str | None]
    """Your own id for it: the same one twice is one event."""


class EventSearch(TypedDict):
    name: NotRequired[str | None]
    user_id: NotRequired[str | None]


class NewWebhook(TypedDict):
    name: str
    url: str
    """https, and of the public web."""
    events: Sequence[
        Literal[
            "*",
            "delivery.*",
            "device.*",
            "notification.*",
            "delivery.accepted",
            "delivery.gone",
            "delivery.rejected",
            "delivery.expired",
            "delivery.cancelled",
            "delivery.skipped",
            "delivery.displayed",
            "delivery.clicked",
            "delivery.dismissed",
            "device.registered",
            "device.changed",
            "device.gone",
            "device.unregistered",
            "notification.accepted",
            "notification.started",
            "notification.done",
            "notification.cancelled",
            "notification.paused",
            "notification.resumed",
        ]
    ]
    """Any of `*`, `delivery.*`, `device.*`, `notification.*`, `delivery.accepted`, `delivery.gone`, `delivery.rejected`, `delivery.expired`, `delivery.cancelled`, `delivery.skipped`, `delivery.displayed`, `delivery.clicked`, `delivery.dismissed`, `device.registered`, `device.changed`, `device.gone`, `device.unregistered`, `notification.accepted`, `notification.started`, `notification.done`, `notification.cancelled`, `notification.paused`, `notification.resumed`."""


class WebhookChange(TypedDict):
    """What is left out stays. `"status": "active"` takes one that was disabled into service again."""

    name: NotRequired[str | None]
    url: NotRequired[str | None]
    events: NotRequired[
        Sequence[
            Literal[
                "*",
                "delivery.*",
                "device.*",
                "notification.*",
                "delivery.accepted",
                "delivery.gone",
                "delivery.rejected",
                "delivery.expired",
                "delivery.cancelled",
                "delivery.skipped",
                "delivery.displayed",
                "delivery.clicked",
                "delivery.dismissed",
                "device.registered",
                "device.changed",
                "device.gone",
                "device.unregistered",
                "notification.accepted",
                "notification.started",
                "notification.done",
                "notification.cancelled",
                "notification.paused",
                "notification.resumed",
            ]
        ]
        | None
    ]
    status: NotRequired[Literal["active", "disabled"] | None]


class Rotation(TypedDict):
    keep_old_hours: NotRequired[float]
    """How long the secret before signs beside the new one."""


class Replay(TypedDict):
    since: datetime | str


class NewFeed(TypedDict):
    name: str
    url: str
    """An Atom or RSS feed of CAP alerts, a CAP document, or alerts of api.weather.gov; https."""
    interval: NotRequired[int]
    """Seconds between two looks."""
    audience: NotRequired[Audience | None]
    category: NotRequired[str | None]


class FeedChange(TypedDict):
    """What is left out stays; null takes audience or category away."""

    name: NotRequired[str | None]
    url: NotRequired[str | None]
    interval: NotRequired[int | None]
    status: NotRequired[Literal["active", "paused"] | None]
    audience: NotRequired[Audience | None]
    category: NotRequired[str | None]


class SignIn(TypedDict):
    key: str
