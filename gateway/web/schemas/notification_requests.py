"""What all front doors share: the content, how it travels, and when."""

import re
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

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
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain import audience, ids, schedule, send_policy
from gateway.domain.errors import FieldError, NotFound, ValidationError
from gateway.domain.notification import MAX_TTL, Kind, Lane, Urgency
from gateway.domain.schedule import DEVICE_ZONE, find_zone, to_utc, zone_or_utc
from gateway.service.notifications import templates
from gateway.service.notifications.submission import Draft
from gateway.web.http.parsing import EARLIEST, LATEST, THOROUGH, Body, Moment, UrlOrTemplate, example, several

MAX_TTL_S = int(MAX_TTL.total_seconds())

Text = Annotated[str, StringConstraints(max_length=4000)]
Title = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=255)]


def _data(values: dict[str, Any]) -> dict[str, Any]:
    if "gateway" in values:
        raise ValueError("must not use the name 'gateway', which is the gateway's own")
    return values


def _locale(tag: str) -> str:
    if not re.fullmatch(r"[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8}){0,4}", tag):
        raise ValueError("must be a language tag such as de or de-AT (RFC 5646)")
    return tag


def _at(value: object, info: ValidationInfo) -> datetime:
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) and "T" in value.upper() else None
    except ValueError:
        at = None
    if at is None:
        raise ValueError("must be a time such as 2026-12-01T09:00:00Z")
    if not EARLIEST <= at.year <= LATEST:
        raise ValueError(f"must lie between the years {EARLIEST} and {LATEST}")
    if at.tzinfo is None and info.data.get("timezone") is None:
        raise ValueError("must have an offset, such as 2026-12-01T09:00:00Z, or come with a timezone")
    if at.tzinfo is not None and info.data.get("timezone") is not None:
        raise ValueError("has an offset and a timezone; only one of them can be meant")
    return at


def _zone_or_device(name: str) -> str:
    if name != DEVICE_ZONE and find_zone(name) is None:
        raise ValueError("must be an IANA time zone such as Europe/Vienna, or `device`")
    return name


def _clock(value: object) -> time:
    if not isinstance(value, str) or not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value):
        raise ValueError("must be a time of day such as 22:00")
    return time.fromisoformat(value)


Locale = Annotated[str, AfterValidator(_locale)]
ZoneOrDevice = Annotated[str, StringConstraints(max_length=100), AfterValidator(_zone_or_device)]
Clock = Annotated[time, PlainValidator(_clock), WithJsonSchema({"type": "string", "pattern": r"^\d\d:\d\d$"})]


class Action(Body):
    """A button of the notification."""

    action: Label
    title: Title
    url: UrlOrTemplate | None = None
    icon: UrlOrTemplate | None = None


class PartialContent(Body):
    """Content of which anything may be left out."""

    title: Title | None = None
    body: Text | None = None
    url: Annotated[
        UrlOrTemplate | None, Field(description="Where a click leads; a path is one of the application's first origin.")
    ] = None
    icon: UrlOrTemplate | None = None
    image: UrlOrTemplate | None = None
    badge: UrlOrTemplate | None = None
    tag: Annotated[Label | None, Field(description="A later notification with the same tag replaces this one.")] = None
    actions: Annotated[list[Action] | None, Field(max_length=10)] = None
    data: Annotated[dict[str, Any], AfterValidator(_data)] | None = None
    silent: bool | None = None
    require_interaction: bool | None = None
    app_badge: Annotated[int | None, Field(ge=0, le=2**53)] = None

    def value(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


class LocalizedContent(PartialContent):
    """What is said instead, and what in other languages."""

    locales: Annotated[
        dict[Locale, PartialContent] | None,
        Field(max_length=100, description="By language tag: `de` is shown to de-AT where there is no `de-AT`."),
    ] = None


class Content(LocalizedContent):
    """What the browser shows. At most 3,993 octets once it is rendered.

    Texts may be Liquid templates over `user`, `device`, `event` and `notification`.
    """

    title: Title


class DeliveryOptions(Body):
    """How it travels; what is left out is the kind's default."""

    ttl: Annotated[
        int | None, Field(ge=0, le=MAX_TTL_S, description="Seconds a push service may hold it (RFC 8030).")
    ] = None
    urgency: Urgency | None = None
    collapse_key: Annotated[
        Label | None, Field(description="What is still undelivered under the same key is replaced.")
    ] = None
    lane: Literal["urgent", "normal", "bulk"] | None = None
    expires_at: Annotated[Moment | None, Field(description="Nothing is sent after this.")] = None

    def drafted(self) -> dict[str, Any]:
        """All but the end, by Draft's fields."""
        return {
            "lane": None if self.lane is None else Lane.from_label(self.lane),
            "urgency": self.urgency,
            "ttl": None if self.ttl is None else timedelta(seconds=self.ttl),
            "collapse_key": self.collapse_key,
        }


class RecurringDeliveryOptions(DeliveryOptions):
    """How each of those travels that are sent again and again."""

    @field_validator("expires_at")
    @classmethod
    def _lives_by_ttl(cls, expires_at: datetime | None) -> datetime | None:
        if expires_at is not None:
            raise ValueError("must be left out in favour of a ttl, since more are sent at other times")
        return expires_at


class Schedule(Body):
    """An instant (`at` with an offset), or a local time in a zone, or in each device's own zone."""

    timezone: Annotated[
        ZoneOrDevice | None,
        Field(description="An IANA name such as `Europe/Vienna`, or `device` for each device's own local time."),
    ] = None
    at: Annotated[
        datetime,
        PlainValidator(_at),
        WithJsonSchema({"type": "string", "description": "RFC 3339; without an offset when there is a timezone."}),
        Field(description="When sending starts; at once when it is past."),
    ]

    def start(self) -> datetime | None:
        """The instant; None when every device has its own."""
        if self.timezone is None:
            return self.at.astimezone(UTC)
        return None if self.timezone == DEVICE_ZONE else to_utc(self.at, zone_or_utc(self.timezone))

    def local_at(self) -> datetime | None:
        return self.at if self.timezone == DEVICE_ZONE else None


def _audience(value: Any, info: ValidationInfo) -> Any:
    """Looked into here only beside other faults, so that all are named at once; else that is the service's."""
    if info.context is THOROUGH:
        try:
            audience.parse(value, "")
        except ValidationError as error:
            raise several(error.errors) from None
    return value


Audience = Annotated[
    Any, AfterValidator(_audience), WithJsonSchema({"allOf": [{"$ref": "#/components/schemas/Audience"}]})
]
"""Read by `gateway.domain.audience`, which names every fault; its schema is in `gateway.web.schemas.openapi`."""


Category = Annotated[
    Label, Field(description="What kind of message it is: who opted out of it is left out, and its rules apply.")
]


class QuietHours(Body):
    """From one time of day to another, past midnight when that is the earlier one."""

    start: Clock
    end: Clock
    timezone: ZoneOrDevice = DEVICE_ZONE

    @field_validator("end")
    @classmethod
    def _not_empty(cls, end: time, info: ValidationInfo) -> time:
        if end == info.data.get("start"):
            raise ValueError("must differ from the start")
        return end

    def value(self) -> schedule.QuietHours:
        return schedule.QuietHours(self.start, self.end, self.timezone)


class Throttle(Body):
    """At least one of them; with both, the slower one counts."""

    per_second: Annotated[float | None, Field(gt=0, le=100_000, description="Messages a second, at the most.")] = None
    spread: Annotated[
        int | None, Field(gt=0, le=MAX_TTL_S, description="Seconds over which all of it is sent evenly.")
    ] = None

    @model_validator(mode="after")
    def _some(self) -> "Throttle":
        if self.per_second is None and self.spread is None:
            raise ValueError("must have per_second or spread")
        return self

    def value(self) -> send_policy.Throttle:
        spread = None if self.spread is None else timedelta(seconds=self.spread)
        return send_policy.Throttle(self.per_second, spread)


class Variant(Body):
    """`content` replaces what it names of the campaign's own."""

    name: Label
    weight: Annotated[float, Field(gt=0, le=1_000_000, description="Its share, relative to the others'.")] = 1.0
    content: LocalizedContent

    def value(self) -> send_policy.Variant:
        return send_policy.Variant(self.name, self.weight, self.content.value())


class Winner(Body):
    """The variants go to a sample; the one that most of its receivers have clicked then goes to everybody else."""

    sample: Annotated[float, Field(gt=0, lt=1, description="The share of the audience that is the sample.")]
    after: Annotated[int, Field(ge=1, le=MAX_TTL_S, description="Seconds until the winner is decided.")]

    def value(self) -> send_policy.WinnerSelection:
        return send_policy.WinnerSelection(self.sample, timedelta(seconds=self.after))


class PauseWhen(Body):
    """Pause when too much of it fails: goes to devices that are gone, is rejected or expires."""

    failure_share: Annotated[float, Field(gt=0, lt=1, description="Of all deliveries that have ended.")]
    after: Annotated[int, Field(ge=1, le=1_000_000, description="Only once this many have ended.")] = 100

    def value(self) -> send_policy.FailureLimit:
        return send_policy.FailureLimit(self.failure_share, self.after)


class TemplateRef(Body):
    """A saved template, by its id; the newest version when none is named."""

    id: Annotated[str, StringConstraints(max_length=100)]
    version: Annotated[int | None, Field(ge=1, le=2**31 - 1)] = None


class ContentOrTemplate(Body):
    """Content, or a saved template."""

    template: TemplateRef | None = None
    content: Annotated[Content | None, Field(validate_default=True)] = None
    strict: Annotated[
        bool, Field(description="A variable that is not known fails the message; a saved template has its own.")
    ] = False

    @field_validator("content")
    @classmethod
    def _one_of_both(cls, content: Content | None, info: ValidationInfo) -> Content | None:
        if "template" in info.data and (content is None) is (info.data["template"] is None):
            raise ValueError("must be given, or a template" if content is None else "must not be beside a template")
        return content

    async def resolve_content(self, conn: AsyncConnection, application_id: UUID) -> tuple[dict[str, Any], bool]:
        """(content, strict). Raises Invalid for a template that is not there."""
        if self.content is not None:
            return self.content.value(), self.strict
        assert self.template is not None  # noqa: S101 - as `_one_of_both` has seen to
        id_ = ids.parse(ids.TEMPLATE, self.template.id)
        try:
            if id_ is None:
                raise NotFound("is not a template's id; it would begin with tpl_")
            return await templates.resolve(conn, application_id, id_, self.template.version)
        except NotFound as error:
            raise ValidationError([FieldError("/template", error.detail)]) from None


Seen = Annotated[dict[str, Any] | None, Field(description="What templates see as `event`.")]


class Rendered(ContentOrTemplate):
    event: Seen = None


class Deliverable(ContentOrTemplate):
    """What is said, and how it travels."""

    delivery: DeliveryOptions = DeliveryOptions()
    category: Category | None = None

    def steered(self) -> send_policy.SendPolicy:
        return send_policy.SendPolicy(category=self.category)

    def seen(self) -> dict[str, Any] | None:
        """What templates see as `event`."""
        return None

    async def draft(
        self,
        conn: AsyncConnection,
        application_id: UUID,
        kind: Kind,
        audience: Any,
        *,
        name: str | None = None,
        schedule: Schedule | None = None,
    ) -> Draft:
        """Raises Invalid for a template that is not there."""
        travel, steered = self.delivery, self.steered()
        content, strict = await self.resolve_content(conn, application_id)
        said = {"content": content, "variants": [variant.content for variant in steered.variants]}
        return Draft(
            kind=kind,
            name=name,
            content=content,
            audience=audience,
            expires_at=travel.expires_at,
            **travel.drafted(),
            start_at=None if schedule is None else schedule.start(),
            steering=replace(steered, local_at=None if schedule is None else schedule.local_at()),
            templating=templates.templating_of(said, strict, self.seen()),
        )


class SpecPatch(Body):
    """A change of what is sent again and again. What is left out stays; null takes category or all of delivery away."""

    content: Content | None = None
    audience: Audience | None = None
    delivery: RecurringDeliveryOptions | None = None
    category: Category | None = None

    def drafted(self) -> dict[str, Any]:
        """By Draft's fields."""
        said: dict[str, Any] = {}
        if self.content is not None:
            said["content"] = self.content.value()
        if self.audience is not None:
            said["audience"] = self.audience
        if "delivery" in self.model_fields_set:
            said |= (self.delivery or DeliveryOptions()).drafted()
        return said

    def steered(self) -> dict[str, Any]:
        """By Steering's fields."""
        return {"category": self.category} if "category" in self.model_fields_set else {}


class Sendable(Deliverable):
    model_config = example(content={"title": "Goal!", "body": "2:1 in the 83rd minute", "tag": "match-4"})

    event: Seen = None

    def seen(self) -> dict[str, Any] | None:
        return self.event


class CampaignOptions(Sendable):
    """What marketers steer by."""

    throttle: Throttle | None = None
    quiet_hours: Annotated[
        QuietHours | None, Field(description="Held until they end; the category's own when left out.")
    ] = None
    variants: Annotated[list[Variant] | None, Field(min_length=2, max_length=10)] = None
    winner: Winner | None = None
    pause_when: PauseWhen | None = None

    def steered(self) -> send_policy.SendPolicy:
        return replace(
            super().steered(),
            throttle=None if self.throttle is None else self.throttle.value(),
            quiet_hours=None if self.quiet_hours is None else self.quiet_hours.value(),
            variants=tuple(variant.value() for variant in self.variants or ()),
            winner=None if self.winner is None else self.winner.value(),
            pause_when=None if self.pause_when is None else self.pause_when.value(),
        )
