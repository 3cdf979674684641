"""The gateway's responses as dataclasses. Written by `ops/client` from the OpenAPI document."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """An API key without the key itself; `hint` is its prefix and its last characters."""

    id: str
    name: str
    scopes: list[str]
    hint: str
    created_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class CreatedApplication:
    """A new application with its first API keys, which are not shown again."""

    id: str
    name: str
    subject: str
    allowed_origins: list[str]
    require_identity: bool
    vapid_public_key: str
    created_at: datetime
    keys: list[Key]
    identity_secret: str | None = None
    publishable_key: str
    secret_key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedApplication:
    """An application in a list."""

    id: str
    name: str
    subject: str
    allowed_origins: list[str]
    require_identity: bool
    vapid_public_key: str
    created_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Application:
    """An application with its API keys."""

    id: str
    name: str
    subject: str
    allowed_origins: list[str]
    require_identity: bool
    vapid_public_key: str
    created_at: datetime
    keys: list[Key]
    identity_secret: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CreatedKey:
    """A new API key. `key` is the key itself, which is not shown again."""

    id: str
    name: str
    scopes: list[str]
    hint: str
    created_at: datetime
    key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class VapidKey:
    """The public VAPID key of an application, in base64url."""

    vapid_public_key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditEntry:
    """One entry of the audit log.

    `details` has the fields of the request with their values, null if the value is not logged.
    """

    id: str
    at: datetime
    actor: str
    action: str
    target: str | None
    application_id: str | None
    details: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Registered:
    """A registered device; `device_token` authenticates the device and is not shown again."""

    id: str
    device_token: str


DeviceStatus = Literal["active", "gone", "quarantined"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Client:
    """The browser or app of a device."""

    platform: str | None
    browser: str | None
    locale: str | None
    timezone: str | None
    app_version: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """The last location that a device has reported."""

    lat: float
    lon: float
    accuracy_m: float | None
    located_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A registered device."""

    id: str
    status: DeviceStatus
    host: str
    user_id: str | None
    user_proven: bool
    client: Client
    attributes: dict[str, Any]
    topics: list[str]
    zones: list[str]
    muted: list[str]
    location: Location | None
    created_at: datetime
    updated_at: datetime
    last_seen_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Topic:
    """A topic, and the number of devices that subscribe to it."""

    topic: str
    devices: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ErasureResult:
    """The number of devices that were deleted when a user was erased."""

    devices: int


Kind = Literal["direct", "campaign", "alert", "event", "reminder"]


@dataclass(frozen=True, kw_only=True, slots=True)
class InboxItem:
    """One notification in the inbox of a device; `content` is null if its template can no longer be rendered."""

    id: str
    notification_id: str
    kind: Kind
    content: dict[str, Any] | None
    sent_at: datetime
    expires_at: datetime
    read_at: datetime | None
    position: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Inbox:
    """One page of an inbox.

    `position` is the position of the newest item, for the parameter `after` of the next request.
    """

    items: list[InboxItem]
    next_cursor: str | None
    unread: int
    position: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MarkedRead:
    """The number of items marked as read."""

    marked: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Cap:
    """A frequency cap: at most `limit` notifications to one user within `window` seconds."""

    limit: int
    window: float


@dataclass(frozen=True, kw_only=True, slots=True)
class QuietHours:
    """The local hours in which a notification is not sent."""

    start: str
    end: str
    timezone: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Category:
    """A kind of notification that devices can opt out of, and its rules."""

    id: str
    name: str
    title: str
    description: str | None
    cap: Cap | None
    quiet_hours: QuietHours | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Preference:
    """Whether a device receives the notifications of a category."""

    category: str
    title: str
    description: str | None
    enabled: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Preferences:
    """The preferences of a device for every category."""

    categories: list[Preference]


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """An audience stored under a name."""

    id: str
    name: str
    audience: Any
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """Content stored under a name, in one of its versions."""

    id: str
    name: str
    version: int
    newest_version: int
    content: dict[str, Any]
    strict: bool
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class NotificationContent:
    """Rendered content and the size of its payload."""

    content: dict[str, Any]
    octets: int


Status = Literal["scheduled", "sending", "paused", "done", "cancelled"]


Urgency = Literal["very-low", "low", "normal", "high"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DeliveryOptions:
    """How a notification is delivered."""

    lane: str
    urgency: Urgency
    ttl: int
    expires_at: datetime
    collapse_key: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalSchedule:
    """A start at the same local time in every time zone."""

    at: str
    timezone: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Throttle:
    """A limit on the sending rate: messages per second, or the seconds over which to spread all messages."""

    per_second: float | None
    spread: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Winner:
    """The variant test: `sample` is the share of recipients that receive the variants.

    The other recipients receive the variant with the most clicks, `after` seconds later.
    """

    sample: float
    after: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PauseWhen:
    """When the gateway pauses the notification: the share of failed deliveries, and how many must have ended."""

    failure_share: float
    after: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One variant of the content of a notification, with its results."""

    name: str
    weight: float
    content: dict[str, Any]
    won: bool
    accepted: int
    gone: int
    rejected: int
    expired: int
    displayed: int
    clicked: int
    dismissed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Delivery counts of a notification; `per_second` and `eta` are estimates from the current rate."""

    targets: int
    pending: int
    accepted: int
    gone: int
    rejected: int
    expired: int
    cancelled: int
    skipped: int
    retries: int
    displayed: int
    clicked: int
    dismissed: int
    per_second: float
    eta: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Notification:
    """A notification of any kind with its progress."""

    id: str
    kind: Kind
    name: str | None
    status: Status
    content: dict[str, Any]
    audience: Any
    delivery: DeliveryOptions
    details: dict[str, Any]
    schedule: LocalSchedule | None
    category: str | None
    throttle: Throttle | None
    quiet_hours: QuietHours | None
    cap: Cap | None
    winner: Winner | None
    pause_when: PauseWhen | None
    variants: list[Variant]
    auto_paused: str | None
    created_at: datetime
    start_at: datetime
    finished_at: datetime | None
    progress: Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledDevice:
    """A device in the sample of an audience."""

    id: str
    user_id: str | None
    platform: str | None
    browser: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """The size of an audience and a sample of its devices."""

    devices: int
    users: int
    sample: list[SampledDevice]


@dataclass(frozen=True, kw_only=True, slots=True)
class Clicks:
    """The number of clicks on one action button; `action` is empty for clicks on the notification itself."""

    action: str
    clicked: int


@dataclass(frozen=True, kw_only=True, slots=True)
class VariantSteps:
    """Counts and rates of one variant."""

    accepted: int
    displayed: int
    clicked: int
    display_rate: float | None
    click_rate: float | None
    name: str
    won: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Funnel:
    """The number of recipients that each step of a notification reached, from targets to clicks."""

    accepted: int
    displayed: int
    clicked: int
    display_rate: float | None
    click_rate: float | None
    targets: int
    dismissed: int
    actions: list[Clicks]
    variants: list[VariantSteps]


@dataclass(frozen=True, kw_only=True, slots=True)
class RecurringDelivery:
    """Delivery options of the notifications of a reminder or trigger; null stands for the default."""

    lane: str | None
    urgency: Urgency | None
    ttl: int | None
    collapse_key: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Reminder:
    """A notification that is sent at every time of a cron expression."""

    id: str
    name: str
    status: str
    cause: str | None
    cron: str
    explained: str
    timezone: str
    ends_at: datetime | None
    missed: str
    content: dict[str, Any]
    audience: Any
    delivery: RecurringDelivery
    category: str | None
    throttle: Throttle | None
    quiet_hours: QuietHours | None
    next_at: datetime | None
    next_notification_id: str | None
    last_at: datetime | None
    occurrences: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestedAlert:
    """The result of one alert.

    `outcome` is accepted, repeated, superseded, suppressed or refused. `ignored` lists parts that were not understood.
    """

    identifier: str | None
    outcome: str
    detail: str | None
    ignored: list[str]
    notifications: list[Notification]


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertIngestion:
    """The results of all alerts of a document."""

    items: list[IngestedAlert]


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertRule:
    """A rule that routes or suppresses alerts."""

    when: dict[str, list[str]]
    tell: bool
    lane: str | None = None
    urgency: Urgency | None = None
    ttl: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertSettings:
    """An application's alert rules, and the audience of alerts that have none of their own."""

    rules: list[AlertRule]
    audience: Any


OutcomeName = Literal["accepted", "gone", "rejected", "expired", "cancelled", "skipped"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """The result of one notification for one device."""

    id: str
    notification_id: str
    device_id: str
    user_id: str | None
    host: str
    push_service: str | None
    outcome: OutcomeName
    variant: int | None
    status: int | None
    cause: str
    attempts: int
    attempted_at: datetime | None
    duration_ms: int
    settled_at: datetime
    displayed_at: datetime | None
    clicked_at: datetime | None
    dismissed_at: datetime | None
    action: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One POST to a push service."""

    number: int
    at: datetime
    duration_ms: int
    status: int | None
    cause: str
    retry_at: datetime | None
    next: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DeliveryDetail:
    """One delivery with its attempts.

    While `outcome` is `pending`, only the ids, the cause and the attempts are present.
    """

    id: str
    notification_id: str
    device_id: str
    outcome: str
    cause: str
    attempts: list[Attempt]
    user_id: str | None = None
    host: str | None = None
    push_service: str | None = None
    variant: int | None = None
    status: int | None = None
    attempted_at: datetime | None = None
    duration_ms: int | None = None
    settled_at: datetime | None = None
    displayed_at: datetime | None = None
    clicked_at: datetime | None = None
    dismissed_at: datetime | None = None
    action: str | None = None
    message: str | None = None
    granted_ttl: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcomes:
    """Deliveries by outcome."""

    accepted: int
    gone: int
    rejected: int
    expired: int
    cancelled: int
    skipped: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Percentiles:
    """The 50th and 95th percentile."""

    p50: int
    p95: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One interval of the statistics; percentiles are in milliseconds, null when nothing was accepted."""

    at: datetime
    settled: int
    outcomes: Outcomes
    answer_ms: Percentiles | None
    accept_ms: Percentiles | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PushServiceLimit:
    """A limit that a push service puts on the application: messages per second; nothing is sent until `held_until`."""

    per_second: float
    held_until: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceStatistics:
    """Deliveries to one push service by outcome, and the state of its circuit breaker.

    `breaker` is `open` while workers in the server's own process have paused sending to the push service. It is
    `closed` if the push service has responded in the last two intervals. Otherwise it is `unknown`. `limit` is the
    limit on the application that these workers have learnt from refusals, null if there is none.
    """

    push_service: str
    breaker: str
    limit: PushServiceLimit | None
    outcomes: Outcomes


@dataclass(frozen=True, kw_only=True, slots=True)
class LaneDepth:
    """The number of queued jobs in one lane. A job has up to 500 devices.

    `due` jobs can be claimed now, `later` jobs are not due yet. `oldest_s` is how long the oldest due job has waited.
    """

    lane: str
    due: int
    later: int
    paused: int
    oldest_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """Delivery statistics over time, by push service, and the state of the queue."""

    since: datetime
    until: datetime
    estimated: bool
    steps: list[Step]
    push_services: list[ServiceStatistics]
    queue: list[LaneDepth]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trigger:
    """A trigger: the notification that it sends for each matching event."""

    id: str
    name: str
    event: str
    status: str
    condition: Any
    audience: Any
    content: dict[str, Any]
    delivery: RecurringDelivery
    category: str | None
    delay: int
    dedupe: int | None
    cap: Cap | None
    cancel_on: list[str]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class TriggerRun:
    """One run of a trigger.

    `outcome` is started, deduplicated, capped, cancelled, unfilled (the event lacks a value) or refused.
    """

    event_id: str
    trigger_id: str
    trigger: str
    outcome: str
    cause: str | None
    notification_id: str | None
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """An event that an application has reported, with the trigger runs that it started."""

    id: str
    key: str | None
    name: str
    user_id: str | None
    data: dict[str, Any]
    occurred_at: datetime
    created_at: datetime
    runs: list[TriggerRun]


@dataclass(frozen=True, kw_only=True, slots=True)
class CreatedWebhook:
    """A webhook with its new signing secret, which is not shown again."""

    id: str
    name: str
    url: str
    events: list[str]
    status: str
    cause: str | None
    failures: int
    failing_since: datetime | None
    last_error: str | None
    last_ok_at: datetime | None
    next_try_at: datetime | None
    created_at: datetime
    updated_at: datetime
    secret: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhook:
    """A subscription of a URL to events of the gateway."""

    id: str
    name: str
    url: str
    events: list[str]
    status: str
    cause: str | None
    failures: int
    failing_since: datetime | None
    last_error: str | None
    last_ok_at: datetime | None
    next_try_at: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class WebhookTested:
    """The result of a test event: the receiver's HTTP `status`, or the `error` that prevented a response."""

    status: int | None
    error: str | None
    duration_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedAlert:
    """An alert that was refused, with the reason."""

    identifier: str | None
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Feed:
    """A feed of alerts. `counts` has the number of its alerts by outcome, `refusals` the latest refused alerts."""

    id: str
    name: str
    url: str
    interval: int
    audience: Any
    category: str | None
    status: str
    next_at: datetime | None
    failures: int
    last_error: str | None
    last_ok_at: datetime | None
    counts: dict[str, int]
    refusals: list[RefusedAlert]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A console session, with the hint (`key`) and the scopes of the API key that opened it."""

    application_id: str
    application: str
    key: str
    scopes: list[str]
    csrf_token: str
    expires_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """The result of the liveness check."""

    status: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Readiness:
    """The result of the readiness check: the status, and the result of each check."""

    status: str
    checks: dict[str, str]
