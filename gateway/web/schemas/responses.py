"""Response bodies: the typed views of the service layer, and what only HTTP adds to them (pages, health)."""

from typing import Generic, TypeVar

from typing_extensions import TypedDict  # pydantic accepts typing.TypedDict only from Python 3.12

from gateway.service.views import (
    AlertIngestion,
    AlertRule,
    AlertSettings,
    Application,
    Attempt,
    AuditEntry,
    Cap,
    Category,
    Clicks,
    Client,
    CreatedApplication,
    CreatedKey,
    CreatedWebhook,
    Delivery,
    DeliveryDetail,
    DeliveryOptions,
    Device,
    ErasureResult,
    Event,
    Feed,
    Funnel,
    Inbox,
    InboxItem,
    IngestedAlert,
    Key,
    LaneDepth,
    ListedApplication,
    LocalSchedule,
    Location,
    MarkedRead,
    Notification,
    NotificationContent,
    Outcomes,
    PauseWhen,
    Percentiles,
    Preference,
    Preferences,
    Preview,
    Progress,
    QuietHours,
    RecurringDelivery,
    RefusedAlert,
    Registered,
    Reminder,
    SampledDevice,
    Segment,
    ServiceStatistics,
    Session,
    Statistics,
    Step,
    Steps,
    Template,
    Throttle,
    Topic,
    Trigger,
    TriggerRun,
    VapidKey,
    Variant,
    VariantSteps,
    Webhook,
    WebhookTested,
    Winner,
)

__all__ = [
    "AlertIngestion",
    "AlertRule",
    "AlertSettings",
    "Application",
    "Attempt",
    "AuditEntry",
    "Cap",
    "Category",
    "Clicks",
    "Client",
    "CreatedApplication",
    "CreatedKey",
    "CreatedWebhook",
    "Delivery",
    "DeliveryDetail",
    "DeliveryOptions",
    "Device",
    "ErasureResult",
    "Event",
    "Feed",
    "Funnel",
    "Health",
    "Inbox",
    "InboxItem",
    "IngestedAlert",
    "Key",
    "LaneDepth",
    "ListedApplication",
    "LocalSchedule",
    "Location",
    "MarkedRead",
    "Notification",
    "NotificationContent",
    "Outcomes",
    "Page",
    "PauseWhen",
    "Percentiles",
    "Preference",
    "Preferences",
    "Preview",
    "Progress",
    "QuietHours",
    "Readiness",
    "RecurringDelivery",
    "RefusedAlert",
    "Registered",
    "Reminder",
    "SampledDevice",
    "Segment",
    "ServiceStatistics",
    "Session",
    "Statistics",
    "Step",
    "Steps",
    "Template",
    "Throttle",
    "Topic",
    "Trigger",
    "TriggerRun",
    "VapidKey",
    "Variant",
    "VariantSteps",
    "Webhook",
    "WebhookTested",
    "Winner",
]

T = TypeVar("T")


class Page(TypedDict, Generic[T]):
    """One page of a list; `next_cursor` is null on the last page."""

    items: list[T]
    next_cursor: str | None


class Health(TypedDict):
    """The result of the liveness check."""

    status: str


class Readiness(TypedDict):
    """The result of the readiness check, with the result of each of its parts."""

    status: str
    checks: dict[str, str]
