"""The shapes of answers, for OpenAPI. A test holds every answer of the suite to them."""

from typing import Any, Generic, NotRequired, TypeVar

from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from gateway.domain.delivery import OutcomeName
from gateway.domain.device import DeviceStatus
from gateway.domain.notification import Kind, Status, Urgency
from gateway.web.http.parsing import Moment

T = TypeVar("T")


class Page(TypedDict, Generic[T]):
    items: list[T]
    next_cursor: str | None


class Key(TypedDict):
    id: str
    name: str
    scopes: list[str]
    hint: str
    created_at: Moment


class CreatedKey(Key):
    key: str


class Session(TypedDict):
    application_id: str
    application: str
    key: str
    scopes: list[str]
    csrf_token: str
    expires_at: Moment


class AuditEntry(TypedDict):
    id: str
    at: Moment
    actor: str
    action: str
    target: str | None
    application_id: str | None
    details: dict[str, Any]


class ListedApplication(TypedDict):
    id: str
    name: str
    subject: str
    allowed_origins: list[str]
    require_identity: bool
    vapid_public_key: str
    created_at: Moment


class Application(ListedApplication):
    keys: list[Key]
    identity_secret: NotRequired[str]


class CreatedApplication(Application):
    publishable_key: str
    secret_key: str


class VapidKey(TypedDict):
    vapid_public_key: str


class Registered(TypedDict):
    id: str
    device_token: str


class Client(TypedDict):
    platform: str | None
    browser: str | None
    locale: str | None
    timezone: str | None
    app_version: str | None


class Location(TypedDict):
    lat: float
    lon: float
    accuracy_m: float | None
    located_at: Moment


class Device(TypedDict):
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
    created_at: Moment
    updated_at: Moment
    last_seen_at: Moment


class InboxItem(TypedDict):
    """`content` is null when its template can no longer be rendered."""

    id: str
    notification_id: str
    kind: Kind
    content: dict[str, Any] | None
    sent_at: Moment
    expires_at: Moment
    read_at: Moment | None
    position: int


class Inbox(TypedDict):
    """`position` is the newest's: ask for what comes `after` it."""

    items: list[InboxItem]
    next_cursor: str | None
    unread: int
    position: int


class MarkedRead(TypedDict):
    marked: int


class Topic(TypedDict):
    topic: str
    devices: int


class Segment(TypedDict):
    id: str
    name: str
    audience: Any
    created_at: Moment
    updated_at: Moment


class Template(TypedDict):
    id: str
    name: str
    version: int
    newest_version: int
    content: dict[str, Any]
    strict: bool
    created_at: Moment
    updated_at: Moment


class NotificationContent(TypedDict):
    content: dict[str, Any]
    octets: int


class RecurringDelivery(TypedDict):
    """Null is the kind's default."""

    lane: str | None
    urgency: Urgency | None
    ttl: int | None
    collapse_key: str | None


class Reminder(TypedDict):
    id: str
    name: str
    status: str
    cause: str | None
    cron: str
    explained: str
    timezone: str
    ends_at: Moment | None
    missed: str
    content: dict[str, Any]
    audience: Any
    delivery: RecurringDelivery
    category: str | None
    throttle: "Throttle | None"
    quiet_hours: "QuietHours | None"
    next_at: Moment | None
    next_notification_id: str | None
    last_at: Moment | None
    occurrences: int
    created_at: Moment
    updated_at: Moment


class Webhook(TypedDict):
    id: str
    name: str
    url: str
    events: list[str]
    status: str
    cause: str | None
    failures: int
    failing_since: Moment | None
    last_error: str | None
    last_ok_at: Moment | None
    next_try_at: Moment | None
    created_at: Moment
    updated_at: Moment


class CreatedWebhook(Webhook):
    secret: str


class WebhookTested(TypedDict):
    """Either `status`, which is the receiver's, or `error`."""

    status: int | None
    error: str | None
    duration_ms: int


class ErasureResult(TypedDict):
    devices: int


class DeliveryOptions(TypedDict):
    lane: str
    urgency: Urgency
    ttl: int
    expires_at: Moment
    collapse_key: str | None


class Progress(TypedDict):
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
    eta: Moment | None


class LocalSchedule(TypedDict):
    at: str
    timezone: str


class Throttle(TypedDict):
    per_second: float | None
    spread: float | None


class QuietHours(TypedDict):
    start: str
    end: str
    timezone: str


class Cap(TypedDict):
    most: int
    window: float


class Winner(TypedDict):
    sample: float
    after: float


class PauseWhen(TypedDict):
    failure_share: float
    after: int


class Variant(TypedDict):
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


class Category(TypedDict):
    id: str
    name: str
    title: str
    description: str | None
    cap: Cap | None
    quiet_hours: QuietHours | None
    created_at: Moment
    updated_at: Moment


class Preference(TypedDict):
    category: str
    title: str
    description: str | None
    enabled: bool


class Preferences(TypedDict):
    categories: list[Preference]


class Steps(TypedDict):
    """`display_rate` is of the accepted, `click_rate` of the displayed; null while there are none."""

    accepted: int
    displayed: int
    clicked: int
    display_rate: float | None
    click_rate: float | None


class VariantSteps(Steps):
    name: str
    won: bool


class Clicks(TypedDict):
    """`action` is empty for the notification itself."""

    action: str
    clicked: int


class Funnel(Steps):
    targets: int
    dismissed: int
    actions: list[Clicks]
    variants: list[VariantSteps]


class Notification(TypedDict):
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
    created_at: Moment
    start_at: Moment
    finished_at: Moment | None
    progress: Progress


class AlertRule(TypedDict):
    when: dict[str, list[str]]
    tell: bool
    lane: NotRequired[str]
    urgency: NotRequired[Urgency]
    ttl: NotRequired[int]


class Trigger(TypedDict):
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
    created_at: Moment
    updated_at: Moment


class TriggerRun(TypedDict):
    """`outcome`: started, deduplicated, capped, cancelled, unfilled (the event lacks a value), refused."""

    event_id: str
    trigger_id: str
    trigger: str
    outcome: str
    cause: str | None
    notification_id: str | None
    at: Moment


class Event(TypedDict):
    id: str
    key: str | None
    name: str
    user_id: str | None
    data: dict[str, Any]
    occurred_at: Moment
    created_at: Moment
    runs: list[TriggerRun]


class RefusedAlert(TypedDict):
    identifier: str | None
    detail: str


class Feed(TypedDict):
    """`counts` are its alerts by what they came to; `refusals` the latest that could not be told."""

    id: str
    name: str
    url: str
    interval: int
    audience: Any
    category: str | None
    status: str
    next_at: Moment | None
    failures: int
    last_error: str | None
    last_ok_at: Moment | None
    counts: dict[str, int]
    refusals: list[RefusedAlert]
    created_at: Moment
    updated_at: Moment


class AlertSettings(TypedDict):
    rules: list[AlertRule]
    audience: Any


class IngestedAlert(TypedDict):
    """`outcome` is accepted, repeated, superseded, suppressed or refused; `ignored` is what of it could not be used."""

    identifier: str | None
    outcome: str
    detail: str | None
    ignored: list[str]
    notifications: list[Notification]


class AlertIngestion(TypedDict):
    items: list[IngestedAlert]


class SampledDevice(TypedDict):
    id: str
    user_id: str | None
    platform: str | None
    browser: str | None


class Preview(TypedDict):
    devices: int
    users: int
    sample: list[SampledDevice]


class Attempt(TypedDict):
    number: int
    at: Moment
    duration_ms: int
    status: int | None
    cause: str
    retry_at: Moment | None
    next: str


class Delivery(TypedDict):
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
    attempted_at: Moment | None
    duration_ms: int
    settled_at: Moment
    displayed_at: Moment | None
    clicked_at: Moment | None
    dismissed_at: Moment | None
    action: str | None


class DeliveryDetail(TypedDict):
    """`outcome` is `pending` while it is still being tried; then only id, device, cause and attempts are known."""

    id: str
    notification_id: str
    device_id: str
    outcome: str
    cause: str
    attempts: list[Attempt]
    user_id: NotRequired[str | None]
    host: NotRequired[str]
    push_service: NotRequired[str | None]
    variant: NotRequired[int | None]
    status: NotRequired[int | None]
    attempted_at: NotRequired[Moment | None]
    duration_ms: NotRequired[int]
    settled_at: NotRequired[Moment]
    displayed_at: NotRequired[Moment | None]
    clicked_at: NotRequired[Moment | None]
    dismissed_at: NotRequired[Moment | None]
    action: NotRequired[str | None]
    message: NotRequired[str | None]
    granted_ttl: NotRequired[int | None]


class Percentiles(TypedDict):
    p50: int
    p95: int


class Outcomes(TypedDict):
    accepted: int
    gone: int
    rejected: int
    expired: int
    cancelled: int
    skipped: int


class Step(TypedDict):
    """Times in milliseconds, null where nothing was accepted."""

    at: Moment
    settled: int
    outcomes: Outcomes
    answer_ms: Percentiles | None
    accept_ms: Percentiles | None


class ServiceStatistics(TypedDict):
    """`breaker` is open while workers in the server's own process leave the push service alone, for it does not answer;
    closed when it has answered in the last two steps; else unknown."""

    push_service: str
    breaker: str
    outcomes: Outcomes


class LaneDepth(TypedDict):
    """Jobs, of up to 500 devices each; `oldest_s` is how long the oldest that is due has waited."""

    lane: str
    due: int
    later: int
    paused: int
    oldest_s: float


class Statistics(TypedDict):
    since: Moment
    until: Moment
    estimated: bool
    steps: list[Step]
    push_services: list[ServiceStatistics]
    queue: list[LaneDepth]


class Health(TypedDict):
    status: str


class Readiness(TypedDict):
    status: str
    checks: dict[str, str]
