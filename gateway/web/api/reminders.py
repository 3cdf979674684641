"""Reminders: what is sent again and again, by a cron expression."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

from gateway.domain import ids
from gateway.domain.notification import Kind
from gateway.domain.schedule import Recurrence
from gateway.service.access.authentication import MANAGE, READ, SEND
from gateway.service.automation import reminders
from gateway.web.http.pagination import PageQuery, page
from gateway.web.http.parsing import Moment, example
from gateway.web.http.routing import Response, Routes, TransactionalRequest
from gateway.web.schemas import responses
from gateway.web.schemas.notification_requests import (
    Audience,
    CampaignOptions,
    Label,
    QuietHours,
    RecurringDeliveryOptions,
    SpecPatch,
    Throttle,
    ZoneOrDevice,
)

routes = Routes("reminders")


def _cron(text: str) -> str:
    if len(text.split()) != 5:
        raise ValueError("must have five fields: minute, hour, day of the month, month, day of the week")
    if (fault := Recurrence(text).find_error()) is not None:
        raise ValueError(fault)
    return text


Cron = Annotated[
    str,
    StringConstraints(max_length=200),
    AfterValidator(_cron),
    Field(description="Minute, hour, day of the month, month, day of the week: `0 9 * * 1-5`."),
]
Missed = Annotated[
    Literal["send", "skip"],
    Field(description="What becomes of an occurrence that no worker could start within five minutes of its time."),
]


class NewReminder(CampaignOptions):
    model_config = example(
        name="Weekly digest",
        cron="0 9 * * 1",
        timezone="Europe/Vienna",
        ends_at="2036-12-31T23:00:00Z",
        content={"title": "This week", "body": "What is on, {{ user.attributes.first_name }}.", "url": "/digest"},
        audience={"topic": "digest"},
    )

    name: Label
    cron: Cron
    timezone: Annotated[ZoneOrDevice, Field(description="On whose clocks; `device` for each device's own.")] = "UTC"
    ends_at: Annotated[Moment | None, Field(description="No occurrence starts after this.")] = None
    missed: Missed = "skip"
    audience: Audience
    delivery: RecurringDeliveryOptions = RecurringDeliveryOptions()


class ReminderChange(SpecPatch):
    """What is left out stays; null takes ends_at, category, throttle, quiet_hours or all of delivery away.

    What has been started goes on as it was.
    """

    model_config = example(cron="30 8 * * 1", paused=False)

    name: Label | None = None
    cron: Cron | None = None
    timezone: ZoneOrDevice | None = None
    ends_at: Moment | None = None
    missed: Missed | None = None
    paused: bool | None = None
    throttle: Throttle | None = None
    quiet_hours: QuietHours | None = None

    def steered(self) -> dict[str, Any]:
        said = {
            "throttle": self.throttle and self.throttle.value(),
            "quiet_hours": self.quiet_hours and self.quiet_hours.value(),
        }
        return super().steered() | {name: value for name, value in said.items() if name in self.model_fields_set}


@routes.add(
    "POST",
    "/v1/reminders",
    scopes=(SEND,),
    body=NewReminder,
    creates=True,
    conflicts=True,
    audit="reminders.create",
    responses={201: responses.Reminder},
)
async def create(call: TransactionalRequest[NewReminder]) -> Response:
    """Send a notification at every time that a cron expression names."""
    new = call.body
    draft = await new.draft(call.conn, call.application_id, Kind.REMINDER, new.audience)
    made = await reminders.create(
        call.conn,
        call.context,
        call.application_id,
        new.name,
        Recurrence(new.cron, new.timezone),
        ends_at=new.ends_at,
        missed=new.missed,
        draft=draft,
    )
    return Response(made, 201, {"Location": f"/v1/reminders/{made['id']}"})


@routes.add(
    "GET",
    "/v1/reminders",
    scopes=(READ, SEND, MANAGE),
    query=PageQuery,
    responses={200: responses.Page[responses.Reminder]},
)
async def listed(call: TransactionalRequest[None, PageQuery]) -> Response:
    """List the reminders, the newest first."""
    limit = call.query.limit
    items = await reminders.list_page(call.conn, call.application_id, before=call.query.after_id(), limit=limit)
    return page(items, limit, ids.parse(ids.REMINDER, items[-1]["id"]) if items else None)


@routes.add("GET", "/v1/reminders/{reminder_id}", scopes=(READ, SEND, MANAGE), responses={200: responses.Reminder})
async def show(call: TransactionalRequest) -> Response:
    """Show a reminder and when it comes next."""
    id_ = call.id(ids.REMINDER, "reminder_id")
    return Response(await reminders.get(call.conn, call.application_id, id_))


@routes.add(
    "PATCH",
    "/v1/reminders/{reminder_id}",
    scopes=(SEND,),
    body=ReminderChange,
    conflicts=True,
    audit="reminders.change",
    responses={200: responses.Reminder},
)
async def change(call: TransactionalRequest[ReminderChange]) -> Response:
    """Change a reminder, pause it, or let it go on: its next occurrence is made anew."""
    said, id_ = call.body, call.id(ids.REMINDER, "reminder_id")
    values = said.model_dump(include={"name", "cron", "timezone", "missed"}, exclude_none=True)
    if "ends_at" in said.model_fields_set:
        values["ends_at"] = said.ends_at
    if said.paused is not None:
        values["status"] = "paused" if said.paused else "active"
    drafted, steered = said.drafted(), said.steered()
    return Response(await reminders.change(call.conn, call.context, call.application_id, id_, values, drafted, steered))


@routes.add("DELETE", "/v1/reminders/{reminder_id}", scopes=(SEND,), audit="reminders.remove", responses={204: None})
async def remove(call: TransactionalRequest) -> Response:
    """Remove a reminder: nothing more comes of it. What has been started goes on."""
    await reminders.remove(call.conn, call.application_id, call.id(ids.REMINDER, "reminder_id"))
    return Response(status=204)
