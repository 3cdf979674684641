"""Request models of a notification: its content, its delivery options and its schedule.

The models do not use the database. A reference to a saved template is resolved later, by
`gateway.service.notifications.submission`.
"""

import re
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from typing import Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from gateway.domain import audience, schedule, send_policy
from gateway.domain.errors import ValidationError
from gateway.domain.json_object import JsonObject
from gateway.domain.notification import MAX_TTL, Kind, Lane, Urgency
from gateway.domain.schedule import DEVICE_ZONE, find_zone, to_utc, zone_or_utc
from gateway.service.notifications.representations import encode_json
from gateway.service.notifications.spec_codec import DeliveryChange, DraftChange, PolicyChange
from gateway.service.notifications.submission import NotificationRequest
from gateway.service.notifications.templates import ContentSource, InlineContent, TemplateReference
from gateway.web.http.parsing import (
    COLLECT_ALL_ERRORS,
    MAX_YEAR,
    MIN_YEAR,
    Body,
    Moment,
    UrlOrTemplate,
    combine_errors,
    example,
)

# Maximum TTL of a notification.
MAX_TTL_S = int(MAX_TTL.total_seconds())
# Maximum size of the data of an event, in octets of JSON.
MAX_EVENT_OCTETS = 16_384

Text = Annotated[str, StringConstraints(max_length=4000)]
Title = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=255)]


def _check_data(values: JsonObject) -> JsonObject:
    if "gateway" in values:
        raise ValueError("must not use the name 'gateway', which is reserved")
    return values


def _check_locale(tag: str) -> str:
    if not re.fullmatch(r"[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8}){0,4}", tag):
        raise ValueError("must be a language tag such as de or de-AT (RFC 5646)")
    return tag


def _parse_local_or_absolute_time(value: object, info: ValidationInfo) -> datetime:
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) and "T" in value.upper() else None
    except ValueError:
        at = None
    if at is None:
        raise ValueError("must be a time such as 2026-12-01T09:00:00Z")
    if not MIN_YEAR <= at.year <= MAX_YEAR:
        raise ValueError(f"must be between the years {MIN_YEAR} and {MAX_YEAR}")
    if at.tzinfo is None and info.data.get("timezone") is None:
        raise ValueError("must have an offset, such as 2026-12-01T09:00:00Z, or come with a timezone")
    if at.tzinfo is not None and info.data.get("timezone") is not None:
        raise ValueError("must have either an offset or a timezone, not both")
    return at


def _check_zone_or_device(name: str) -> str:
    if name != DEVICE_ZONE and find_zone(name) is None:
        raise ValueError("must be an IANA time zone such as Europe/Vienna, or `device`")
    return name


def _parse_time_of_day(value: object) -> time:
    if not isinstance(value, str) or not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value):
        raise ValueError("must be a time of day such as 22:00")
    return time.fromisoformat(value)


Locale = Annotated[str, AfterValidator(_check_locale)]
ZoneOrDevice = Annotated[str, StringConstraints(max_length=100), AfterValidator(_check_zone_or_device)]
TimeOfDay = Annotated[
    time, PlainValidator(_parse_time_of_day), WithJsonSchema({"type": "string", "pattern": r"^\d\d:\d\d$"})
]


class Action(Body):
    """A button of the notification."""

    action: Label
    title: Title
    url: UrlOrTemplate | None = None
    icon: UrlOrTemplate | None = None


class PartialContent(Body):
    """Content whose fields are all optional."""

    title: Title | None = None
    body: Text | None = None
    url: Annotated[
        UrlOrTemplate | None,
        Field(description="The page that a click opens. A path is resolved against the application's first origin."),
    ] = None
    icon: UrlOrTemplate | None = None
    image: UrlOrTemplate | None = None
    badge: UrlOrTemplate | None = None
    tag: Annotated[Label | None, Field(description="A later notification with the same tag replaces this one.")] = None
    actions: Annotated[list[Action] | None, Field(max_length=10)] = None
    data: Annotated[JsonObject, AfterValidator(_check_data)] | None = None
    silent: bool | None = None
    require_interaction: bool | None = None
    app_badge: Annotated[int | None, Field(ge=0, le=2**53)] = None

    def value(self) -> JsonObject:
        """Return the content as the JSON object that is stored."""
        return self.model_dump(exclude_none=True)


class LocalizedContent(PartialContent):
    """Content whose fields are all optional, with translations."""

    locales: Annotated[
        dict[Locale, PartialContent] | None,
        Field(
            max_length=100,
            description="Translations by language tag. A device with de-AT gets `de` if there is no `de-AT`.",
        ),
    ] = None


class Content(LocalizedContent):
    """The content of a notification. Its rendered payload has at most 3,993 octets.

    Texts may be Liquid templates with the variables `user`, `device`, `event` and `notification`.
    """

    title: Title


class DeliveryOptions(Body):
    """How a notification is delivered. Each kind of notification has its own defaults."""

    ttl: Annotated[
        int | None,
        Field(ge=0, le=MAX_TTL_S, description="Seconds for which a push service may store the message (RFC 8030)."),
    ] = None
    urgency: Urgency | None = None
    collapse_key: Annotated[
        Label | None, Field(description="Replaces an undelivered message with the same key (Topic, RFC 8030).")
    ] = None
    lane: Literal["urgent", "normal", "bulk"] | None = None
    expires_at: Annotated[Moment | None, Field(description="No message is sent after this time.")] = None

    def draft_fields(self) -> DeliveryChange:
        """Return the fields of `Draft` for these options, except `expires_at`."""
        return {
            "lane": None if self.lane is None else Lane.from_label(self.lane),
            "urgency": self.urgency,
            "ttl": None if self.ttl is None else timedelta(seconds=self.ttl),
            "collapse_key": self.collapse_key,
        }


class RecurringDeliveryOptions(DeliveryOptions):
    """How each notification of a reminder or trigger is delivered."""

    @field_validator("expires_at")
    @classmethod
    def _refuse_expires_at(cls, expires_at: datetime | None) -> datetime | None:
        if expires_at is not None:
            raise ValueError("is not allowed here; use ttl, which applies to each occurrence")
        return expires_at


class Schedule(Body):
    """A start time: an instant (`at` with an offset), or a local time in `timezone`."""

    timezone: Annotated[
        ZoneOrDevice | None,
        Field(description="An IANA name such as `Europe/Vienna`, or `device` for the local time of each device."),
    ] = None
    at: Annotated[
        datetime,
        PlainValidator(_parse_local_or_absolute_time),
        WithJsonSchema({"type": "string", "description": "RFC 3339; without an offset if `timezone` is set."}),
        Field(description="When sending starts; immediately if the time has passed."),
    ]

    def start(self) -> datetime | None:
        """Return the time at which sending starts, or None if it depends on the time zone of the device."""
        if self.timezone is None:
            return self.at.astimezone(UTC)
        return None if self.timezone == DEVICE_ZONE else to_utc(self.at, zone_or_utc(self.timezone))

    def local_at(self) -> datetime | None:
        """Return the local time at which sending to each device starts, or None if it starts for all at once."""
        return self.at if self.timezone == DEVICE_ZONE else None


def _check_audience(value: Any, info: ValidationInfo) -> Any:
    """Validate the audience if the body has other errors, so that the response lists all errors.

    Without other errors, the service validates the audience later.
    """
    if info.context is COLLECT_ALL_ERRORS:
        try:
            audience.parse(value, "")
        except ValidationError as error:
            raise combine_errors(error.errors) from None
    return value


# An audience as JSON. `gateway.domain.audience` parses it. `gateway.web.schemas.openapi` contains its schema.
Audience = Annotated[
    Any, AfterValidator(_check_audience), WithJsonSchema({"allOf": [{"$ref": "#/components/schemas/Audience"}]})
]
Category = Annotated[
    Label,
    Field(description="The category's name. Devices that opted out are excluded, and the category's rules apply."),
]


class QuietHours(Body):
    """A daily period without messages. If `end` is earlier than `start`, the period ends on the next day."""

    start: TimeOfDay
    end: TimeOfDay
    timezone: ZoneOrDevice = DEVICE_ZONE

    @field_validator("end")
    @classmethod
    def _check_not_empty(cls, end: time, info: ValidationInfo) -> time:
        if end == info.data.get("start"):
            raise ValueError("must differ from the start")
        return end

    def value(self) -> schedule.QuietHours:
        """Return the domain value."""
        return schedule.QuietHours(self.start, self.end, self.timezone)


class Throttle(Body):
    """A limit on the sending rate. With both fields the slower rate applies."""

    per_second: Annotated[
        float | None, Field(ge=send_policy.MIN_PER_SECOND, le=100_000, description="Maximum messages per second.")
    ] = None
    spread: Annotated[
        int | None, Field(gt=0, le=MAX_TTL_S, description="Seconds over which the messages are spread evenly.")
    ] = None

    @model_validator(mode="after")
    def _check_any(self) -> "Throttle":
        if self.per_second is None and self.spread is None:
            raise ValueError("must have per_second or spread")
        return self

    def value(self) -> send_policy.Throttle:
        """Return the domain value."""
        spread = None if self.spread is None else timedelta(seconds=self.spread)
        return send_policy.Throttle(self.per_second, spread)


class Variant(Body):
    """One variant of an A/B test. Its `content` overrides fields of the campaign's content."""

    name: Label
    weight: Annotated[
        float, Field(gt=0, le=1_000_000, description="Share of the devices, relative to the other variants.")
    ] = 1.0
    content: LocalizedContent

    def value(self) -> send_policy.Variant:
        """Return the domain value."""
        return send_policy.Variant(self.name, self.weight, self.content.value())


class Winner(Body):
    """Send the variants to a sample first, then the variant with the highest click rate to the rest."""

    sample: Annotated[float, Field(gt=0, lt=1, description="Share of the audience in the sample.")]
    after: Annotated[int, Field(ge=1, le=MAX_TTL_S, description="Seconds until the winner is chosen.")]

    def value(self) -> send_policy.WinnerSelection:
        """Return the domain value."""
        return send_policy.WinnerSelection(self.sample, timedelta(seconds=self.after))


class PauseWhen(Body):
    """Pause the notification if too many deliveries fail: the device is gone, or the message is rejected or expires."""

    failure_share: Annotated[
        float, Field(gt=0, lt=1, description="Share of failed deliveries among the completed ones.")
    ]
    after: Annotated[int, Field(ge=1, le=1_000_000, description="Minimum number of completed deliveries.")] = 100

    def value(self) -> send_policy.FailureLimit:
        """Return the domain value."""
        return send_policy.FailureLimit(self.failure_share, self.after)


class TemplateRef(Body):
    """A reference to a saved template. Without `version` it refers to the newest version."""

    id: Annotated[str, StringConstraints(max_length=100)]
    version: Annotated[int | None, Field(ge=1, le=2**31 - 1)] = None


class ContentOrTemplate(Body):
    """Either content, or a reference to a saved template."""

    template: TemplateRef | None = None
    content: Annotated[Content | None, Field(validate_default=True)] = None
    strict: Annotated[
        bool,
        Field(description="Whether a message with an unknown variable fails. A saved template has its own setting."),
    ] = False

    @field_validator("content")
    @classmethod
    def _check_exclusive(cls, content: Content | None, info: ValidationInfo) -> Content | None:
        if "template" in info.data and (content is None) is (info.data["template"] is None):
            raise ValueError(
                "is missing; give content or a template" if content is None else "must not be combined with a template"
            )
        return content

    def content_source(self) -> ContentSource:
        """Return the content itself, or the reference to the saved template."""
        if self.content is not None:
            return InlineContent(self.content.value(), self.strict)
        assert self.template is not None  # noqa: S101 - guaranteed by `_check_exclusive`
        return TemplateReference(self.template.id, self.template.version)


def check_event_size(data: JsonObject | None) -> JsonObject | None:
    """Return the data of an event unchanged.

    Raises:
        ValueError: the data has more than MAX_EVENT_OCTETS.
    """
    if data is not None and len(encode_json(data)) > MAX_EVENT_OCTETS:
        raise ValueError(f"must be at most {MAX_EVENT_OCTETS} octets of JSON")
    return data


EventData = Annotated[
    JsonObject | None,
    AfterValidator(check_event_size),
    Field(description="The value of the template variable `event`."),
]


class Deliverable(ContentOrTemplate):
    """Content and its delivery options."""

    delivery: DeliveryOptions = DeliveryOptions()
    category: Category | None = None

    def policy(self) -> send_policy.SendPolicy:
        """Return the send policy of the request."""
        return send_policy.SendPolicy(category=self.category)

    def event_data(self) -> JsonObject | None:
        """Return the value of the template variable `event`."""
        return None

    def to_request(
        self, kind: Kind, audience: Any, *, name: str | None = None, schedule: Schedule | None = None
    ) -> NotificationRequest:
        """Return the request for the service."""
        return NotificationRequest(
            kind=kind,
            content=self.content_source(),
            audience=audience,
            event=self.event_data(),
            name=name,
            expires_at=self.delivery.expires_at,
            **self.delivery.draft_fields(),
            start_at=None if schedule is None else schedule.start(),
            policy=replace(self.policy(), local_at=None if schedule is None else schedule.local_at()),
        )


class SpecPatch(Body):
    """A change of the notification of a reminder or trigger.

    Omitted fields do not change; null removes the category or the delivery options.
    """

    content: Content | None = None
    audience: Audience | None = None
    delivery: RecurringDeliveryOptions | None = None
    category: Category | None = None

    def draft_fields(self) -> DraftChange:
        """Return the changed fields of the draft."""
        fields = DraftChange()
        if "delivery" in self.model_fields_set:
            fields.update(cast("DraftChange", (self.delivery or DeliveryOptions()).draft_fields()))
        if self.content is not None:
            fields["content"] = self.content.value()
        if self.audience is not None:
            fields["audience"] = self.audience
        return fields

    def policy_fields(self) -> PolicyChange:
        """Return the changed fields of the send policy."""
        return {"category": self.category} if "category" in self.model_fields_set else {}


class Sendable(Deliverable):
    """A notification without its audience."""

    model_config = example(content={"title": "Goal!", "body": "2:1 in the 83rd minute", "tag": "match-4"})

    event: EventData = None

    def event_data(self) -> JsonObject | None:
        """Return the value of the template variable `event`."""
        return self.event


class CampaignOptions(Sendable):
    """A notification with the options of campaigns, without its audience."""

    throttle: Throttle | None = None
    quiet_hours: Annotated[
        QuietHours | None,
        Field(description="Messages are sent after the quiet hours. Defaults to the quiet hours of the category."),
    ] = None
    variants: Annotated[list[Variant] | None, Field(min_length=2, max_length=10)] = None
    winner: Winner | None = None
    pause_when: PauseWhen | None = None

    def policy(self) -> send_policy.SendPolicy:
        """Return the send policy of the request."""
        return replace(
            super().policy(),
            throttle=None if self.throttle is None else self.throttle.value(),
            quiet_hours=None if self.quiet_hours is None else self.quiet_hours.value(),
            variants=tuple(variant.value() for variant in self.variants or ()),
            winner=None if self.winner is None else self.winner.value(),
            pause_when=None if self.pause_when is None else self.pause_when.value(),
        )
