"""The gateway's requests as typed dicts: the keyword arguments of the client's methods.

Written by `ops/client` from the OpenAPI document.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NotRequired, TypedDict

# ruff: noqa: E501

# An audience: `{"topic": "weather"}`, `{"user_id": "u-1"}`, `{"all": [...]}`; see Audience in the OpenAPI document.
Audience = Mapping[str, Any]


class NewApplication(TypedDict):
    """A new application."""

    name: str
    subject: str
    """A contact for push services: a mailto: or https: URL (RFC 8292 section 2.1)."""
    allowed_origins: NotRequired[Sequence[str]]
    """Web origins that may use the publishable key: for example https://app.example.org"""
    vapid_private_key: NotRequired[str | None]
    """An existing VAPID key, 32 octets, so that browsers keep their subscriptions. Generated when omitted."""


class ApplicationChange(TypedDict):
    """Changed fields of an application. Omitted fields do not change."""

    name: NotRequired[str | None]
    subject: NotRequired[str | None]
    allowed_origins: NotRequired[Sequence[str] | None]
    require_identity: NotRequired[bool | None]
    """Whether `user_id` requires a proof (`user_hash`); true creates a new identity secret."""


class NewKey(TypedDict):
    """A new API key."""

    name: str
    scopes: Sequence[Literal["send", "read", "manage", "register"]]
    """`register` alone creates a publishable key."""


class AuditSearch(TypedDict):
    """Query parameters of GET /v1/audit."""

    action: NotRequired[str | None]
    """Only this action: `keys.remove`."""
    application_id: NotRequired[str | None]
    """Only this application; for the operator."""


class ImportSearch(TypedDict):
    """Query parameters of POST /v1/devices/import."""

    dry_run: NotRequired[bool]
    """Validate every line without registering devices; valid lines get the status `valid`."""


class Keys(TypedDict):
    """The keys of a push subscription."""

    p256dh: str
    """A point on P-256, 65 octets uncompressed, base64url."""
    auth: str
    """16 octets, base64url."""


class Subscription(TypedDict):
    """The result of `PushSubscription.toJSON()` in the browser."""

    endpoint: str
    expirationTime: NotRequired[float | None]
    """Not used; browsers send it."""
    keys: Keys


class Client(TypedDict):
    """Details of the browser or app."""

    platform: NotRequired[str | None]
    browser: NotRequired[str | None]
    locale: NotRequired[str | None]
    timezone: NotRequired[str | None]
    app_version: NotRequired[str | None]


class Location(TypedDict):
    """A position (WGS 84)."""

    lat: float
    lon: float
    accuracy_m: NotRequired[float | None]


class NewDevice(TypedDict):
    """A push subscription of a browser, with its details.

    If the device is registered already, omitted fields do not change.
    """

    subscription: Subscription
    user_id: NotRequired[str | None]
    user_hash: NotRequired[str | None]
    """HMAC-SHA256 of `user_id` under the identity secret, in hex."""
    client: NotRequired[Client]
    attributes: NotRequired[Mapping[str, Any] | None]
    topics: NotRequired[Sequence[str] | None]
    zones: NotRequired[Sequence[str] | None]
    muted: NotRequired[Sequence[str] | None]
    """Names of the categories that the device opted out of."""
    location: NotRequired[Location | None]
    vapid_public_key: NotRequired[str | None]
    """The VAPID key of the subscription. Defaults to the key of the registered device, or for a new device to the application's newest."""
    device_token: NotRequired[str | None]
    """The token of the registered device. A publishable key needs it to change the keys of the subscription."""


class DeviceSearch(TypedDict):
    """Query parameters of GET /v1/devices."""

    user_id: NotRequired[str | None]
    topic: NotRequired[str | None]
    status: NotRequired[Literal["active", "gone", "quarantined"] | None]


class DeviceChange(TypedDict):
    """Changed fields of a device. Omitted fields do not change. Attributes are merged; null removes one (RFC 7396)."""

    user_id: NotRequired[str | None]
    user_hash: NotRequired[str | None]
    client: NotRequired[Client | None]
    attributes: NotRequired[Mapping[str, Any] | None]
    topics: NotRequired[Sequence[str] | None]
    zones: NotRequired[Sequence[str] | None]
    location: NotRequired[Location | None]


class InboxSearch(TypedDict):
    """Query parameters of GET /v1/devices/{device_id}/inbox."""

    after: NotRequired[int | None]
    """Only items after this position, oldest first."""
    wait: NotRequired[int]
    """Seconds to wait for an item after `after`."""


class ReadUpTo(TypedDict):
    """A position in the inbox, up to which items are marked as read."""

    upto: int
    """Position of the newest item that was read."""


class CategoryCap(TypedDict):
    """A frequency cap: at most `limit` notifications of the category to one user within `window` seconds."""

    limit: int
    window: int


class QuietHours(TypedDict):
    """A daily period without messages. If `end` is earlier than `start`, the period ends on the next day."""

    start: str
    end: str
    timezone: NotRequired[str]


class NewCategory(TypedDict):
    """A new category."""

    description: NotRequired[str | None]
    cap: NotRequired[CategoryCap | None]
    quiet_hours: NotRequired[QuietHours | None]
    name: str
    """The name by which notifications refer to the category; it cannot be changed."""
    title: str
    """The title that users see when they opt out."""


class CategoryChange(TypedDict):
    """Changed fields of a category. Omitted fields do not change; null removes a rule."""

    description: NotRequired[str | None]
    cap: NotRequired[CategoryCap | None]
    quiet_hours: NotRequired[QuietHours | None]
    title: NotRequired[str | None]


class PreferencesChange(TypedDict):
    """Opt-ins and opt-outs of a device."""

    categories: Mapping[str, bool]
    """By category name: false opts out. Omitted categories do not change."""


class NewSegment(TypedDict):
    """A new segment."""

    name: str
    audience: Audience


class SegmentChange(TypedDict):
    """Changed fields of a segment. Omitted fields do not change."""

    name: NotRequired[str | None]
    audience: NotRequired[Audience | None]


class Action(TypedDict):
    """A button of the notification."""

    action: str
    title: str
    url: NotRequired[str | None]
    icon: NotRequired[str | None]


class PartialContent(TypedDict):
    """Content whose fields are all optional."""

    title: NotRequired[str | None]
    body: NotRequired[str | None]
    url: NotRequired[str | None]
    """The page that a click opens. A path is resolved against the application's first origin."""
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
    """The content of a notification. Its rendered payload has at most 3,993 octets.

    Texts may be Liquid templates with the variables `user`, `device`, `event` and `notification`.
    """

    title: str
    body: NotRequired[str | None]
    url: NotRequired[str | None]
    """The page that a click opens. A path is resolved against the application's first origin."""
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
    """Translations by language tag. A device with de-AT gets `de` if there is no `de-AT`."""


class NewTemplate(TypedDict):
    """A new template."""

    name: str
    content: Content
    strict: NotRequired[bool]
    """Whether a message with an unknown variable fails."""


class TemplateSearch(TypedDict):
    """Query parameters of GET /v1/templates/{template_id}."""

    version: NotRequired[int | None]
    """Defaults to the newest."""


class TemplateChange(TypedDict):
    """Changed fields of a template. Omitted fields do not change. Changing `content` or `strict` creates a version."""

    name: NotRequired[str | None]
    content: NotRequired[Content | None]
    strict: NotRequired[bool | None]


class TemplateRef(TypedDict):
    """A reference to a saved template. Without `version` it refers to the newest version."""

    id: str
    version: NotRequired[int | None]


class TemplatePreview(TypedDict):
    """Content to render for a device. `locale` overrides the device's locale."""

    template: NotRequired[TemplateRef | None]
    content: NotRequired[Content | None]
    strict: NotRequired[bool]
    """Whether a message with an unknown variable fails. A saved template has its own setting."""
    event: NotRequired[Mapping[str, Any] | None]
    """The value of the template variable `event`."""
    device_id: NotRequired[str | None]
    locale: NotRequired[str | None]


Urgency = Literal["very-low", "low", "normal", "high"]


class DeliveryOptions(TypedDict):
    """How a notification is delivered. Each kind of notification has its own defaults."""

    ttl: NotRequired[int | None]
    """Seconds for which a push service may store the message (RFC 8030)."""
    urgency: NotRequired[Urgency | None]
    collapse_key: NotRequired[str | None]
    """Replaces an undelivered message with the same key (Topic, RFC 8030)."""
    lane: NotRequired[Literal["urgent", "normal", "bulk"] | None]
    expires_at: NotRequired[datetime | str | None]
    """No message is sent after this time."""


class Schedule(TypedDict):
    """A start time: an instant (`at` with an offset), or a local time in `timezone`."""

    timezone: NotRequired[str | None]
    """An IANA name such as `Europe/Vienna`, or `device` for the local time of each device."""
    at: str
    """When sending starts; immediately if the time has passed."""


class NewNotification(TypedDict):
    """A notification to an audience."""

    template: NotRequired[TemplateRef | None]
    content: NotRequired[Content | None]
    strict: NotRequired[bool]
    """Whether a message with an unknown variable fails. A saved template has its own setting."""
    delivery: NotRequired[DeliveryOptions]
    category: NotRequired[str | None]
    event: NotRequired[Mapping[str, Any] | None]
    """The value of the template variable `event`."""
    audience: Audience
    schedule: NotRequired[Schedule | None]


class NotificationSearch(TypedDict):
    """Query parameters of GET /v1/notifications."""

    kind: NotRequired[Literal["direct", "campaign", "alert", "event", "reminder"] | None]
    """Only this kind."""
    status: NotRequired[Literal["scheduled", "sending", "paused", "done", "cancelled"] | None]


class Sendable(TypedDict):
    """A notification without its audience."""

    template: NotRequired[TemplateRef | None]
    content: NotRequired[Content | None]
    strict: NotRequired[bool]
    """Whether a message with an unknown variable fails. A saved template has its own setting."""
    delivery: NotRequired[DeliveryOptions]
    category: NotRequired[str | None]
    event: NotRequired[Mapping[str, Any] | None]
    """The value of the template variable `event`."""


class PreviewRequest(TypedDict):
    """An audience to preview."""

    audience: Audience


class Throttle(TypedDict):
    """A limit on the sending rate. With both fields the slower rate applies."""

    per_second: NotRequired[float | None]
    """Maximum messages per second."""
    spread: NotRequired[int | None]
    """Seconds over which the messages are spread evenly."""


class LocalizedContent(TypedDict):
    """Content whose fields are all optional, with translations."""

    title: NotRequired[str | None]
    body: NotRequired[str | None]
    url: NotRequired[str | None]
    """The page that a click opens. A path is resolved against the application's first origin."""
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
    """Translations by language tag. A device with de-AT gets `de` if there is no `de-AT`."""


class Variant(TypedDict):
    """One variant of an A/B test. Its `content` overrides fields of the campaign's content."""

    name: str
    weight: NotRequired[float]
    """Share of the devices, relative to the other variants."""
    content: LocalizedContent


class Winner(TypedDict):
    """Send the variants to a sample first, then the variant with the highest click rate to the rest."""

    sample: float
    """Share of the audience in the sample."""
    after: int
    """Seconds until the winner is chosen."""


class PauseWhen(TypedDict):
    """Pause the notification if too many deliveries fail: the device is gone, or the message is rejected or expires."""

    failure_share: float
    """Share of failed deliveries among the completed ones."""
    after: NotRequired[int]
    """Minimum number of completed deliveries."""


class CampaignRequest(TypedDict):
    """A campaign."""

    template: NotRequired[TemplateRef | None]
    content: NotRequired[Content | None]
    strict: NotRequired[bool]
    """Whether a message with an unknown variable fails. A saved template has its own setting."""
    delivery: NotRequired[DeliveryOptions]
    category: NotRequired[str | None]
    event: NotRequired[Mapping[str, Any] | None]
    """The value of the template variable `event`."""
    throttle: NotRequired[Throttle | None]
    quiet_hours: NotRequired[QuietHours | None]
    """Messages are sent after the quiet hours. Defaults to the quiet hours of the category."""
    variants: NotRequired[Sequence[Variant] | None]
    winner: NotRequired[Winner | None]
    pause_when: NotRequired[PauseWhen | None]
    name: str
    audience: Audience
    schedule: NotRequired[Schedule | None]


class RecurringDeliveryOptions(TypedDict):
    """How each notification of a reminder or trigger is delivered."""

    ttl: NotRequired[int | None]
    """Seconds for which a push service may store the message (RFC 8030)."""
    urgency: NotRequired[Urgency | None]
    collapse_key: NotRequired[str | None]
    """Replaces an undelivered message with the same key (Topic, RFC 8030)."""
    lane: NotRequired[Literal["urgent", "normal", "bulk"] | None]
    expires_at: NotRequired[datetime | str | None]
    """No message is sent after this time."""


class NewReminder(TypedDict):
    """A new reminder."""

    template: NotRequired[TemplateRef | None]
    content: NotRequired[Content | None]
    strict: NotRequired[bool]
    """Whether a message with an unknown variable fails. A saved template has its own setting."""
    delivery: NotRequired[RecurringDeliveryOptions]
    category: NotRequired[str | None]
    event: NotRequired[Mapping[str, Any] | None]
    """The value of the template variable `event`."""
    throttle: NotRequired[Throttle | None]
    quiet_hours: NotRequired[QuietHours | None]
    """Messages are sent after the quiet hours. Defaults to the quiet hours of the category."""
    variants: NotRequired[Sequence[Variant] | None]
    winner: NotRequired[Winner | None]
    pause_when: NotRequired[PauseWhen | None]
    name: str
    cron: str
    """Minute, hour, day of the month, month, day of the week: `0 9 * * 1-5`."""
    timezone: NotRequired[str]
    """Time zone of the cron expression; `device` for the local time of each device."""
    ends_at: NotRequired[datetime | str | None]
    """No occurrence starts after this time."""
    missed: NotRequired[Literal["send", "skip"]]
    """Whether to send or skip an occurrence that no worker started within five minutes of its time."""
    audience: Audience


class ReminderChange(TypedDict):
    """Changed fields of a reminder.

    Omitted fields do not change; null removes ends_at, category, throttle, quiet_hours or the delivery options.
    Occurrences that have started do not change.
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
    """An alert to the devices in `area` or `zones`, and in `audience`; at least one of the three is required."""

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
    """A second alert with the same identifier is not sent. Generated when omitted."""
    references: NotRequired[Sequence[str]]
    """Identifiers of the alerts that an Update or a Cancel refers to."""
    sent: NotRequired[datetime | str | None]
    effective: NotRequired[datetime | str | None]
    onset: NotRequired[datetime | str | None]
    expires: NotRequired[datetime | str | None]
    """No message is sent after this time."""
    ends: NotRequired[datetime | str | None]
    area: NotRequired[Any]
    """A GeoJSON Polygon or MultiPolygon (RFC 7946)."""
    zones: NotRequired[Sequence[str]]
    """Codes of named areas, such as TXC201."""
    audience: NotRequired[Audience | None]
    category: NotRequired[str | None]
    url: NotRequired[str | None]


class AlertMatcherModel(TypedDict):
    """Matches alerts by their fields. An omitted field matches all alerts. Event names are case-insensitive."""

    severity: NotRequired[Sequence[Severity] | None]
    urgency: NotRequired[Sequence[AlertUrgency] | None]
    certainty: NotRequired[Sequence[Certainty] | None]
    event: NotRequired[Sequence[str] | None]


class AlertRule(TypedDict):
    """How matching alerts are sent. The default of a field depends on the severity and the urgency of the alert."""

    when: AlertMatcherModel
    tell: NotRequired[bool]
    """False suppresses matching alerts."""
    lane: NotRequired[Literal["urgent", "normal"] | None]
    urgency: NotRequired[Urgency | None]
    """The Urgency header (RFC 8030)."""
    ttl: NotRequired[int | None]
    """Lifetime in seconds of alerts without `expires`."""


class AlertSettings(TypedDict):
    """How an application sends its alerts."""

    rules: NotRequired[Sequence[AlertRule]]
    """The first matching rule applies, before the gateway's defaults."""
    audience: NotRequired[Audience | None]
    """Restricts alerts that have no audience of their own."""


class DeliverySearch(TypedDict):
    """Query parameters of GET /v1/deliveries."""

    notification_id: NotRequired[str | None]
    device_id: NotRequired[str | None]
    user_id: NotRequired[str | None]
    outcome: NotRequired[Literal["accepted", "gone", "rejected", "expired", "cancelled", "skipped"] | None]
    host: NotRequired[str | None]
    since: NotRequired[datetime | str | None]
    """Completed at this time or later."""
    until: NotRequired[datetime | str | None]
    """Completed before this time."""


class StreamSearch(TypedDict):
    """Query parameters of GET /v1/deliveries/stream."""

    notification_id: NotRequired[str | None]
    device_id: NotRequired[str | None]
    user_id: NotRequired[str | None]
    outcome: NotRequired[Literal["accepted", "gone", "rejected", "expired", "cancelled", "skipped"] | None]
    host: NotRequired[str | None]
    since: NotRequired[datetime | str | None]
    """Completed at this time or later."""
    until: NotRequired[datetime | str | None]
    """Completed before this time."""
    last_event_id: NotRequired[str | None]
    """Replaces the Last-Event-ID header, for clients that cannot send it."""


class StatSearch(TypedDict):
    """Query parameters of GET /v1/stats."""

    by: NotRequired[Literal["minute", "hour", "day"]]
    """Length of a step."""
    since: NotRequired[datetime | str | None]
    """Start of the first step; defaults to 60 steps ago."""
    until: NotRequired[datetime | str | None]
    """End of the last step; defaults to now."""


class Receipt(TypedDict):
    """A receipt for a message."""

    token: str
    event: Literal["displayed", "clicked", "dismissed"]
    action: NotRequired[str | None]


class TriggerCap(TypedDict):
    """A frequency cap: the trigger runs at most `limit` times for one user within `window` seconds."""

    limit: int
    window: int


class NewTrigger(TypedDict):
    """A new trigger."""

    template: NotRequired[TemplateRef | None]
    content: NotRequired[Content | None]
    strict: NotRequired[bool]
    """Whether a message with an unknown variable fails. A saved template has its own setting."""
    delivery: NotRequired[RecurringDeliveryOptions]
    category: NotRequired[str | None]
    name: str
    event: str
    """Name of the events that start the trigger."""
    condition: NotRequired[Mapping[str, Any] | None]
    audience: NotRequired[Audience | None]
    delay: NotRequired[int]
    """Seconds between the event and the notification."""
    dedupe: NotRequired[int | None]
    cap: NotRequired[TriggerCap | None]
    cancel_on: NotRequired[Sequence[str]]
    """Names of events that cancel unfinished notifications to the same user."""


class TriggerChange(TypedDict):
    """Changed fields of a trigger.

    Omitted fields do not change; null removes condition, dedupe, cap, category or the delivery options. Runs that have
    started do not change.
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
    """A new event."""

    name: str
    """Such as `cart.abandoned`."""
    data: NotRequired[Mapping[str, Any]]
    user_id: NotRequired[str | None]
    occurred_at: NotRequired[datetime | str | None]
    """Defaults to now. The delay of a trigger begins at this time."""
    key: NotRequired[str | None]
    """Your own id of the event; a second event with the same key is ignored."""


class EventSearch(TypedDict):
    """Query parameters of GET /v1/events."""

    name: NotRequired[str | None]
    user_id: NotRequired[str | None]


class NewWebhook(TypedDict):
    """A new webhook."""

    name: str
    url: str
    """An https URL on a public address."""
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
    """Changed fields of a webhook. Omitted fields do not change. `"status": "active"` enables a disabled webhook."""

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
    """Options of a secret rotation."""

    keep_old_hours: NotRequired[float]
    """Hours for which messages also carry a signature of the old secret."""


class Replay(TypedDict):
    """The start of a replay."""

    since: datetime | str


class NewFeed(TypedDict):
    """A new feed."""

    name: str
    url: str
    """An https URL of an Atom or RSS feed of CAP alerts, a CAP document, or alerts of api.weather.gov."""
    interval: NotRequired[int]
    """Polling interval in seconds."""
    audience: NotRequired[Audience | None]
    category: NotRequired[str | None]


class FeedChange(TypedDict):
    """Changed fields of a feed. Omitted fields do not change; null removes audience or category."""

    name: NotRequired[str | None]
    url: NotRequired[str | None]
    interval: NotRequired[int | None]
    status: NotRequired[Literal["active", "paused"] | None]
    audience: NotRequired[Audience | None]
    category: NotRequired[str | None]


class SignIn(TypedDict):
    """The secret key to sign in with."""

    key: str
