"""The views of all resources: service functions return them, and the responses of the API contain them.

Views are TypedDicts, so a view is the JSON object itself. The OpenAPI document is generated from them. Tests compare
that document with all responses in the test suite, with the Python client, and with the type declarations of the SDK.
All times are in UTC.
"""

from datetime import datetime
from typing import Any, NotRequired

from typing_extensions import TypedDict  # pydantic accepts typing.TypedDict only from Python 3.12

from gateway.domain.delivery import OutcomeName
from gateway.domain.device import DeviceStatus
from gateway.domain.json_object import JsonObject
from gateway.domain.notification import Kind, Status, Urgency


class Key(TypedDict):
    """An API key without the key itself; `hint` is its prefix and its last characters."""

    id: str
    name: str
    scopes: list[str]
    hint: str
    created_at: datetime


class CreatedKey(Key):
    """A new API key. `key` is the key itself, which is not shown again."""

    key: str


class Session(TypedDict):
    """A console session, with the hint (`key`) and the scopes of the API key that opened it."""

    application_id: str
    application: str
    key: str
    scopes: list[str]
    csrf_token: str
    expires_at: datetime


class AuditEntry(TypedDict):
    """One entry of the audit log.

    `details` has the fields of the request with their values, null if the value is not logged.
    """

    id: str
    at: datetime
    actor: str
    action: str
    target: str | None
    application_id: str | None
    details: JsonObject


class ListedApplication(TypedDict):
    """An application in a list."""

    id: str
    name: str
    subject: str
    allowed_origins: list[str]
    require_identity: bool
    vapid_public_key: str
    created_at: datetime


class Application(ListedApplication):
    """An application with its API keys."""

    keys: list[Key]
    identity_secret: NotRequired[str]


class CreatedApplication(Application):
    """A new application with its first API keys, which are not shown again."""

    publishable_key: str
    secret_key: str


class VapidKey(TypedDict):
    """The public VAPID key of an application, in base64url."""

    vapid_public_key: str


class Registered(TypedDict):
    """A registered device; `device_token` authenticates the device and is not shown again."""

    id: str
    device_token: str


class Client(TypedDict):
    """The browser or app of a device."""

    platform: str | None
    browser: str | None
    locale: str | None
    timezone: str | None
    app_version: str | None


class Location(TypedDict):
    """The last location that a device has reported."""

    lat: float
    lon: float
    accuracy_m: float | None
    located_at: datetime


class Device(TypedDict):
    """A registered device."""

    id: str
    status: DeviceStatus
    host: str
    user_id: str | None
    user_proven: bool
    client: Client
    attributes: JsonObject
    topics: list[str]
    zones: list[str]
    muted: list[str]
    location: Location | None
    created_at: datetime
    updated_at: datetime
    last_seen_at: datetime


class InboxItem(TypedDict):
    """One notification in the inbox of a device; `content` is null if its template can no longer be rendered."""

    id: str
    notification_id: str
    kind: Kind
    content: JsonObject | None
    sent_at: datetime
    expires_at: datetime
    read_at: datetime | None
    position: int


class Inbox(TypedDict):
    """One page of an inbox.

    `position` is the position of the newest item, for the parameter `after` of the next request.
    """

    items: list[InboxItem]
    next_cursor: str | None
    unread: int
    position: int


class MarkedRead(TypedDict):
    """The number of items marked as read."""

    marked: int


class Topic(TypedDict):
    """A topic, and the number of devices that subscribe to it."""

    topic: str
    devices: int


class Segment(TypedDict):
    """An audience stored under a name."""

    id: str
    name: str
    audience: Any
    created_at: datetime
    updated_at: datetime


class Template(TypedDict):
    """Content stored under a name, in one of its versions."""

    id: str
    name: str
    version: int
    newest_version: int
    content: JsonObject
    strict: bool
    created_at: datetime
    updated_at: datetime


class NotificationContent(TypedDict):
    """Rendered content and the size of its payload."""

    content: JsonObject
    octets: int


class RecurringDelivery(TypedDict):
    """Delivery options of the notifications of a reminder or trigger; null stands for the default."""

    lane: str | None
    urgency: Urgency | None
    ttl: int | None
    collapse_key: str | None


class Reminder(TypedDict):
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
    content: JsonObject
    audience: Any
    delivery: RecurringDelivery
    category: str | None
    throttle: "Throttle | None"
    quiet_hours: "QuietHours | None"
    next_at: datetime | None
    next_notification_id: str | None
    last_at: datetime | None
    occurrences: int
    created_at: datetime
    updated_at: datetime


class Webhook(TypedDict):
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


class CreatedWebhook(Webhook):
    """A webhook with its new signing secret, which is not shown again."""

    secret: str


class WebhookTested(TypedDict):
    """The result of a test event: the receiver's HTTP `status`, or the `error` that prevented a response."""

    status: int | None
    error: str | None
    duration_ms: int


class ErasureResult(TypedDict):
    """The number of devices that were deleted when a user was erased."""

    devices: int


class DeliveryOptions(TypedDict):
    """How a notification is delivered."""

    lane: str
    urgency: Urgency
    ttl: int
    expires_at: datetime
    collapse_key: str | None


class Progress(TypedDict):
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


class LocalSchedule(TypedDict):
    """A start at the same local time in every time zone."""

    at: str
    timezone: str


class Throttle(TypedDict):
    """A limit on the sending rate: messages per second, or the seconds over which to spread all messages."""

    per_second: float | None
    spread: float | None


class QuietHours(TypedDict):
    """The local hours in which a notification is not sent."""

    start: str
    end: str
    timezone: str


class Cap(TypedDict):
    """A frequency cap: at most `limit` notifications to one user within `window` seconds."""

    limit: int
    window: float


class Winner(TypedDict):
    """The variant test: `sample` is the share of recipients that receive the variants.

    The other recipients receive the variant with the most clicks, `after` seconds later.
    """

    sample: float
    after: float


class PauseWhen(TypedDict):
    """When the gateway pauses the notification: the share of failed deliveries, and how many must have ended."""

    failure_share: float
    after: int


class Variant(TypedDict):
    """One variant of the content of a notification, with its results."""

    name: str
    weight: float
    content: JsonObject
    won: bool
    accepted: int
    gone: int
    rejected: int
    expired: int
    displayed: int
    clicked: int
    dismissed: int


class Category(TypedDict):
    """A kind of notification that devices can opt out of, and its rules."""

    id: str
    name: str
    title: str
    description: str | None
    cap: Cap | None
    quiet_hours: QuietHours | None
    created_at: datetime
    updated_at: datetime


class Preference(TypedDict):
    """Whether a device receives the notifications of a category."""

    category: str
    title: str
    description: str | None
    enabled: bool


class Preferences(TypedDict):
    """The preferences of a device for every category."""

    categories: list[Preference]


class Steps(TypedDict):
    """Counts and rates of a funnel.

    `display_rate` is displayed / accepted, `click_rate` is clicked / displayed. A rate is null if its divisor is 0.
    """

    accepted: int
    displayed: int
    clicked: int
    display_rate: float | None
    click_rate: float | None


class VariantSteps(Steps):
    """Counts and rates of one variant."""

    name: str
    won: bool


class Clicks(TypedDict):
    """The number of clicks on one action button; `action` is empty for clicks on the notification itself."""

    action: str
    clicked: int


class Funnel(Steps):
    """The number of recipients that each step of a notification reached, from targets to clicks."""

    targets: int
    dismissed: int
    actions: list[Clicks]
    variants: list[VariantSteps]


class Notification(TypedDict):
    """A notification of any kind with its progress."""

    id: str
    kind: Kind
    name: str | None
    status: Status
    content: JsonObject
    audience: Any
    delivery: DeliveryOptions
    details: JsonObject
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


class AlertRule(TypedDict):
    """A rule that routes or suppresses alerts."""

    when: dict[str, list[str]]
    tell: bool
    lane: NotRequired[str]
    urgency: NotRequired[Urgency]
    ttl: NotRequired[int]


class Trigger(TypedDict):
    """A trigger: the notification that it sends for each matching event."""

    id: str
    name: str
    event: str
    status: str
    condition: Any
    audience: Any
    content: JsonObject
    delivery: RecurringDelivery
    category: str | None
    delay: int
    dedupe: int | None
    cap: Cap | None
    cancel_on: list[str]
    created_at: datetime
    updated_at: datetime


class TriggerRun(TypedDict):
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


class Event(TypedDict):
    """An event that an application has reported, with the trigger runs that it started."""

    id: str
    key: str | None
    name: str
    user_id: str | None
    data: JsonObject
    occurred_at: datetime
    created_at: datetime
    runs: list[TriggerRun]


class RefusedAlert(TypedDict):
    """An alert that was refused, with the reason."""

    identifier: str | None
    detail: str


class Feed(TypedDict):
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


class AlertSettings(TypedDict):
    """An application's alert rules, and the audience of alerts that have none of their own."""

    rules: list[AlertRule]
    audience: Any


class IngestedAlert(TypedDict):
    """The result of one alert.

    `outcome` is accepted, repeated, superseded, suppressed or refused. `ignored` lists parts that were not understood.
    """

    identifier: str | None
    outcome: str
    detail: str | None
    ignored: list[str]
    notifications: list[Notification]


class AlertIngestion(TypedDict):
    """The results of all alerts of a document."""

    items: list[IngestedAlert]


class SampledDevice(TypedDict):
    """A device in the sample of an audience."""

    id: str
    user_id: str | None
    platform: str | None
    browser: str | None


class Preview(TypedDict):
    """The size of an audience and a sample of its devices."""

    devices: int
    users: int
    sample: list[SampledDevice]


class Attempt(TypedDict):
    """One POST to a push service."""

    number: int
    at: datetime
    duration_ms: int
    status: int | None
    cause: str
    retry_at: datetime | None
    next: str


class Delivery(TypedDict):
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


class DeliveryDetail(TypedDict):
    """One delivery with its attempts.

    While `outcome` is `pending`, only the ids, the cause and the attempts are present.
    """

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
    attempted_at: NotRequired[datetime | None]
    duration_ms: NotRequired[int]
    settled_at: NotRequired[datetime]
    displayed_at: NotRequired[datetime | None]
    clicked_at: NotRequired[datetime | None]
    dismissed_at: NotRequired[datetime | None]
    action: NotRequired[str | None]
    message: NotRequired[str | None]
    granted_ttl: NotRequired[int | None]


class Percentiles(TypedDict):
    """The 50th and 95th percentile."""

    p50: int
    p95: int


class Outcomes(TypedDict):
    """Deliveries by outcome."""

    accepted: int
    gone: int
    rejected: int
    expired: int
    cancelled: int
    skipped: int


class Step(TypedDict):
    """One interval of the statistics; percentiles are in milliseconds, null when nothing was accepted."""

    at: datetime
    settled: int
    outcomes: Outcomes
    answer_ms: Percentiles | None
    accept_ms: Percentiles | None


class PushServiceLimit(TypedDict):
    """A limit that a push service puts on the application: messages per second; nothing is sent until `held_until`."""

    per_second: float
    held_until: datetime | None


class ServiceStatistics(TypedDict):
    """Deliveries to one push service by outcome, and the state of its circuit breaker.

    `breaker` is `open` while workers in the server's own process have paused sending to the push service. It is
    `closed` if the push service has responded in the last two intervals. Otherwise it is `unknown`. `limit` is the
    limit on the application that these workers have learnt from refusals, null if there is none.
    """

    push_service: str
    breaker: str
    limit: PushServiceLimit | None
    outcomes: Outcomes


class LaneDepth(TypedDict):
    """The number of queued jobs in one lane. A job has up to 500 devices.

    `due` jobs can be claimed now, `later` jobs are not due yet. `oldest_s` is how long the oldest due job has waited.
    """

    lane: str
    due: int
    later: int
    paused: int
    oldest_s: float


class Statistics(TypedDict):
    """Delivery statistics over time, by push service, and the state of the queue."""

    since: datetime
    until: datetime
    estimated: bool
    steps: list[Step]
    push_services: list[ServiceStatistics]
    queue: list[LaneDepth]
