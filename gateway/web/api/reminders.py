"""Reminders: notifications that are sent at every time of a cron expression."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from gateway.domain import ids
from gateway.domain.database_work import LIST
from gateway.domain.notification import Kind
from gateway.domain.schedule import Recurrence
from gateway.service import views
from gateway.service.access.authentication import MANAGE, READ, SEND
from gateway.service.automation import reminders
from gateway.service.notifications import submission
from gateway.service.notifications.spec_codec import PolicyChange
from gateway.web.http.pagination import PageQuery, bounded_page
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


def _check_cron(text: str) -> str:
    if len(text.split()) != 5:
        raise ValueError("must have five fields: minute, hour, day of the month, month, day of the week")
    if (error := Recurrence(text).find_error()) is not None:
        raise ValueError(error)
    return text


Cron = Annotated[
    str,
    StringConstraints(max_length=200),
    AfterValidator(_check_cron),
    Field(description="Minute, hour, day of the month, month, day of the week: `0 9 * * 1-5`."),
]
Missed = Annotated[
    Literal["send", "skip"],
    Field(description="Whether to send or skip an occurrence that no worker started within five minutes of its time."),
]


class NewReminder(CampaignOptions):
    """A new reminder."""

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
    timezone: Annotated[
        ZoneOrDevice, Field(description="Time zone of the cron expression; `device` for the local time of each device.")
    ] = "UTC"
    ends_at: Annotated[Moment | None, Field(description="No occurrence starts after this time.")] = None
    missed: Missed = "skip"
    audience: Audience
    delivery: RecurringDeliveryOptions = RecurringDeliveryOptions()


class ReminderChange(SpecPatch):
    """Changed fields of a reminder.

    Omitted fields do not change; null removes ends_at, category, throttle, quiet_hours or the delivery options.
    Occurrences that have started do not change.
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

    def policy_fields(self) -> PolicyChange:
        """Return the changed fields of the send policy."""
        fields = super().policy_fields()
        if "throttle" in self.model_fields_set:
            fields["throttle"] = None if self.throttle is None else self.throttle.value()
        if "quiet_hours" in self.model_fields_set:
            fields["quiet_hours"] = None if self.quiet_hours is None else self.quiet_hours.value()
        return fields


@routes.add(
    "POST",
    "/v1/reminders",
    scopes=(SEND,),
    body=NewReminder,
    creates=True,
    conflicts=True,
    audit="reminders.create",
    responses={201: views.Reminder},
)
async def create_reminder(request: TransactionalRequest[NewReminder]) -> Response:
    """Create a reminder: a notification at every time of a cron expression."""
    reminder = request.body
    draft = await submission.resolve(
        request.conn, request.application_id, reminder.to_request(Kind.REMINDER, reminder.audience)
    )
    created = await reminders.create(
        request.conn,
        request.context,
        request.application_id,
        reminder.name,
        Recurrence(reminder.cron, reminder.timezone),
        ends_at=reminder.ends_at,
        missed=reminder.missed,
        draft=draft,
    )
    return Response(created, 201, {"Location": f"/v1/reminders/{created['id']}"})


@routes.add(
    "GET",
    "/v1/reminders",
    scopes=(READ, SEND, MANAGE),
    query=PageQuery,
    work=LIST,
    responses={200: responses.Page[views.Reminder]},
)
async def list_reminders(request: TransactionalRequest[None, PageQuery]) -> Response:
    """List reminders, newest first."""
    query = request.query
    return bounded_page(
        await reminders.list_page(request.conn, request.application_id, before=query.after_id(), limit=query.limit)
    )


@routes.add("GET", "/v1/reminders/{reminder_id}", scopes=(READ, SEND, MANAGE), responses={200: views.Reminder})
async def get_reminder(request: TransactionalRequest) -> Response:
    """Get a reminder with the time of its next occurrence."""
    id_ = request.id(ids.REMINDER, "reminder_id")
    return Response(await reminders.get(request.conn, request.application_id, id_))


@routes.add(
    "PATCH",
    "/v1/reminders/{reminder_id}",
    scopes=(SEND,),
    body=ReminderChange,
    conflicts=True,
    audit="reminders.change",
    responses={200: views.Reminder},
)
async def change_reminder(request: TransactionalRequest[ReminderChange]) -> Response:
    """Change, pause or resume a reminder. Its next occurrence is scheduled again."""
    patch, id_ = request.body, request.id(ids.REMINDER, "reminder_id")
    values = patch.model_dump(include={"name", "cron", "timezone", "missed"}, exclude_none=True)
    if "ends_at" in patch.model_fields_set:
        values["ends_at"] = patch.ends_at
    if patch.paused is not None:
        values["status"] = "paused" if patch.paused else "active"
    return Response(
        await reminders.update(
            request.conn,
            request.context,
            request.application_id,
            id_,
            values,
            patch.draft_fields(),
            patch.policy_fields(),
        )
    )


@routes.add("DELETE", "/v1/reminders/{reminder_id}", scopes=(SEND,), audit="reminders.remove", responses={204: None})
async def remove_reminder(request: TransactionalRequest) -> Response:
    """Remove a reminder. Occurrences that have started are still sent."""
    await reminders.delete(request.conn, request.application_id, request.id(ids.REMINDER, "reminder_id"))
    return Response(status=204)
