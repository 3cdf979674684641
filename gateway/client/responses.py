"""What the gateway answers, as types. Written by `ops/client` from the OpenAPI document."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    id: str
    name: str
    scopes: list[str]
    hint: str
    created_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class CreatedApplication:
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
    id: str
    name: str
    subject: str
    allowed_origins: list[str]
    require_identity: bool
    vapid_public_key: str
    created_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Application:
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
    id: str
    name: str
    scopes: list[str]
    hint: str
    created_at: datetime
    key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class VapidKey:
    vapid_public_key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditEntry:
    id: str
    at: datetime
    actor: str
    action: str
    target: str | None
    application_id: str | None
    details: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Registered:
    id: str
    device_token: str


DeviceStatus = Literal["active", "gone", "quarantined"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Client:
    platform: str | None
    browser: str | None
    locale: str | None
    timezone: str | None
    app_version: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    lat: float
    lon: float
    accuracy_m: float | None
    located_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    id: str
    status: DeviceStatus
    host: str
    user_id: str | None
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
    topic: str
    devices: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ErasureResult:
    devices: int


Kind = Literal["direct", "campaign", "alert", "event", "reminder"]


@dataclass(frozen=True, kw_only=True, slots=True)
class InboxItem:
    """`content` is null when its template can no longer be rendered."""

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
    """`position` is the newest's: ask for what comes `after` it."""

    items: list[InboxItem]
    next_cursor: str | None
    unread: int
    position: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MarkedRead:
    marked: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Cap:
    most: int
    window: float


@dataclass(frozen=True, kw_only=True, slots=True)
class QuietHours:
    start: str
    end: str
    timezone: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Category:
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
    category: str
    title: str
    description: str | None
    enabled: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Preferences:
    categories: list[Preference]


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    id: str
    name: str
    audience: Any
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
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
    content: dict[str, Any]
    octets: int


Status = Literal["scheduled", "sending", "paused", "done", "cancelled"]


Urgency = Literal["very-low", "low", "normal", "high"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DeliveryOptions:
    lane: str
    urgency: Urgency
    ttl: int
    expires_at: datetime
    collapse_key: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalSchedule:
    at: str
    timezone: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Throttle:
    per_second: float | None
    spread: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Winner:
    sample: float
    after: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PauseWhen:
    failure_share: float
    after: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
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
    id: str
    user_id: str | None
    platform: str | None
    browser: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    devices: int
    users: int
    sample: list[SampledDevice]


@dataclass(frozen=True, kw_only=True, slots=True)
class Clicks:
    """`action` is empty for the notification itself."""

    action: str
    clicked: int


@dataclass(frozen=True, kw_only=True, slots=True)
class VariantSteps:
    accepted: int
    displayed: int
    clicked: int
    display_rate: float | None
    click_rate: float | None
    name: str
    won: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Funnel:
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
    """Null is the kind's default."""

    lane: str | None
    urgency: Urgency | None
    ttl: int | None
    collapse_key: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Reminder:
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
    """`outcome` is accepted, repeated, superseded, suppressed or refused; `ignored` is what of it could not be used."""

    identifier: str | None
    outcome: str
    detail: str | None
    ignored: list[str]
    notifications: list[Notification]


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertIngestion:
    items: list[IngestedAlert]


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertRule:
    when: dict[str, list[str]]
    tell: bool
    lane: str | None = None
    urgency: Urgency | None = None
    ttl: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertSettings:
    rules: list[AlertRule]
    audience: Any


OutcomeName = Literal["accepted", "gone", "rejected", "expired", "cancelled", "skipped"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
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
    number: int
    at: datetime
    duration_ms: int
    status: int | None
    cause: str
    retry_at: datetime | None
    next: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DeliveryDetail:
    """`outcome` is `pending` while it is still being tried; then only id, device, cause and attempts are known."""

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
    accepted: int
    gone: int
    rejected: int
    expired: int
    cancelled: int
    skipped: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Percentiles:
    p50: int
    p95: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """Times in milliseconds, null where nothing was accepted."""

    at: datetime
    settled: int
    outcomes: Outcomes
    answer_ms: Percentiles | None
    accept_ms: Percentiles | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceStatistics:
    """`breaker` is open while workers in the server's own process leave the push service alone, for it does not answer;
    closed when it has answered in the last two steps; else unknown.
    """

    push_service: str
    breaker: str
    outcomes: Outcomes


@dataclass(frozen=True, kw_only=True, slots=True)
class LaneDepth:
    """Jobs, of up to 500 devices each; `oldest_s` is how long the oldest that is due has waited."""

    lane: str
    due: int
    later: int
    paused: int
    oldest_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    since: datetime
    until: datetime
    estimated: bool
    steps: list[Step]
    push_services: list[ServiceStatistics]
    queue: list[LaneDepth]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trigger:
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
    """`outcome`: started, deduplicated, capped, cancelled, unfilled (the event lacks a value), refused."""

    event_id: str
    trigger_id: str
    trigger: str
    outcome: str
    cause: str | None
    notification_id: str | None
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
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
    """Either `status`, which is the receiver's, or `error`."""

    status: int | None
    error: str | None
    duration_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedAlert:
    identifier: str | None
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Feed:
    """`counts` are its alerts by what they came to; `refusals` the latest that could not be told."""

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
    application_id: str
    application: str
    key: str
    scopes: list[str]
    csrf_token: str
    expires_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    status: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Readiness:
    status: str
    checks: dict[str, str]
