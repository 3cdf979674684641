"""What all front doors share: the content, how it travels, and when."""

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, WithJsonSchema

from gateway.domain.notification import LONGEST_TTL, Kind, Lane, Urgency
from gateway.service.submission import Draft
from gateway.web.reading import Address, Body, Moment

LONGEST_TTL_S = int(LONGEST_TTL.total_seconds())

Text = Annotated[str, StringConstraints(max_length=4000)]
Title = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=255)]


def _data(values: dict[str, Any]) -> dict[str, Any]:
    if "gateway" in values:
        raise ValueError("must not use the name 'gateway', which is the gateway's own")
    return values


class Action(Body):
    """A button of the notification."""

    action: Label
    title: Title
    url: Address | None = None
    icon: Address | None = None


class Content(Body):
    """What the browser shows. At most 3,993 octets once it is rendered."""

    title: Title
    body: Text | None = None
    url: Annotated[
        Address | None, Field(description="Where a click leads; a path is one of the application's first origin.")
    ] = None
    icon: Address | None = None
    image: Address | None = None
    badge: Address | None = None
    tag: Annotated[Label | None, Field(description="A later notification with the same tag replaces this one.")] = None
    actions: Annotated[list[Action] | None, Field(max_length=10)] = None
    data: Annotated[dict[str, Any], AfterValidator(_data)] | None = None
    silent: bool | None = None
    require_interaction: bool | None = None
    app_badge: Annotated[int | None, Field(ge=0, le=2**53)] = None

    def value(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


class Travel(Body):
    """How it travels; what is left out is the kind's default."""

    ttl: Annotated[
        int | None, Field(ge=0, le=LONGEST_TTL_S, description="Seconds a push service may hold it (RFC 8030).")
    ] = None
    urgency: Urgency | None = None
    collapse_key: Annotated[
        Label | None, Field(description="What is still undelivered under the same key is replaced.")
    ] = None
    lane: Literal["urgent", "normal", "bulk"] | None = None
    expires_at: Annotated[Moment | None, Field(description="Nothing is sent after this.")] = None


class Schedule(Body):
    at: Annotated[Moment, Field(description="When sending starts; at once when it is past.")]


Audience = Annotated[Any, WithJsonSchema({"allOf": [{"$ref": "#/components/schemas/Audience"}]})]
"""Read by `gateway.domain.audience`, which names every fault; its schema is in `gateway.web.openapi`."""


class Sendable(Body):
    content: Content
    delivery: Travel = Travel()

    def draft(self, kind: Kind, audience: Any, *, name: str | None = None, schedule: Schedule | None = None) -> Draft:
        travel = self.delivery
        return Draft(
            kind=kind,
            name=name,
            content=self.content.value(),
            audience=audience,
            lane=None if travel.lane is None else Lane.labelled(travel.lane),
            urgency=travel.urgency,
            ttl=None if travel.ttl is None else timedelta(seconds=travel.ttl),
            expires_at=travel.expires_at,
            collapse_key=travel.collapse_key,
            start_at=None if schedule is None else schedule.at,
        )
