"""Triggers: what is sent, to whom and when, once something happens in the application.

A trigger is checked when it is made, with something in place of what its events will say, so that an event finds
nothing wrong with it but values that the event itself does not have.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from gateway.domain import audience, condition, event_binding, ids
from gateway.domain.errors import ValidationError
from gateway.domain.notification import Kind
from gateway.domain.send_policy import FrequencyCap
from gateway.records import events
from gateway.records.postgres import named_resources
from gateway.records.postgres.engine import Connection, Row
from gateway.records.postgres.schema import triggers as table
from gateway.service.context import Context
from gateway.service.notifications import spec_codec
from gateway.service.notifications.submission import Draft, prepare

WHO = {"user_id": {"from_event": "user_id"}}
"""The audience of a trigger that names none."""


async def create(
    conn: Connection,
    context: Context,
    application_id: UUID,
    name: str,
    event: str,
    draft: Draft,
    *,
    condition_: Any = None,
    delay: timedelta = timedelta(0),
    dedupe: timedelta | None = None,
    cap: FrequencyCap | None = None,
    cancel_on: Sequence[str] = (),
) -> dict[str, Any]:
    """Raises Invalid, PayloadTooLarge and Conflict."""
    await _check(conn, context, application_id, draft, condition_)
    row = await named_resources.add(
        conn,
        table,
        application_id=application_id,
        name=name,
        event=event,
        condition=condition_,
        draft=spec_codec.to_json(draft),
        delay_s=int(delay.total_seconds()),
        dedupe_s=None if dedupe is None else int(dedupe.total_seconds()),
        cap_most=None if cap is None else cap.limit,
        cap_window_s=None if cap is None else int(cap.window.total_seconds()),
        cancel_on=list(dict.fromkeys(cancel_on)),
    )
    return to_json(row)


async def change(
    conn: Connection,
    context: Context,
    application_id: UUID,
    id_: UUID,
    values: dict[str, Any],
    said: dict[str, Any],
    steered: dict[str, Any],
) -> dict[str, Any]:
    """`values` by column, `said` and `steered` by the fields of Draft and Steering. What was started goes on as it was.

    Raises NotFound, Invalid, PayloadTooLarge and Conflict.
    """
    row = await named_resources.find(conn, table, application_id, id_, lock=True)
    draft = spec_codec.changed(spec_codec.from_json(Kind.EVENT, row.draft), said, steered)
    await _check(conn, context, application_id, draft, values.get("condition", row.condition))
    return to_json(await named_resources.change(conn, table, id_, **values, draft=spec_codec.to_json(draft)))


async def remove(conn: Connection, application_id: UUID, id_: UUID) -> None:
    """Raises NotFound. What was started goes on."""
    await named_resources.find(conn, table, application_id, id_)
    await named_resources.remove(conn, table, id_)


async def get(conn: Connection, application_id: UUID, id_: UUID) -> dict[str, Any]:
    """Raises NotFound."""
    return to_json(await named_resources.find(conn, table, application_id, id_))


async def list_page(
    conn: Connection, application_id: UUID, *, before: UUID | None, limit: int
) -> Sequence[dict[str, Any]]:
    return [
        to_json(row) for row in await named_resources.list_page(conn, table, application_id, before=before, limit=limit)
    ]


async def runs(
    conn: Connection, application_id: UUID, id_: UUID, *, before: UUID | None, limit: int
) -> Sequence[dict[str, Any]]:
    """What its events came to, the newest first. Raises NotFound."""
    await named_resources.find(conn, table, application_id, id_)
    return [show_run(row) for row in await events.list_runs_of_trigger(conn, id_, before=before, limit=limit)]


def to_json(row: Row[Any]) -> dict[str, Any]:
    cap = None if row.cap_most is None else {"most": row.cap_most, "window": row.cap_window_s}
    return {
        "id": ids.format_id(ids.TRIGGER, row.id),
        **{name: getattr(row, name) for name in ("name", "event", "status", "condition", "cancel_on")},
        **spec_codec.show(row.draft),
        "delay": row.delay_s,
        "dedupe": row.dedupe_s,
        "cap": cap,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


def show_run(row: Row[Any]) -> dict[str, Any]:
    return {
        "event_id": ids.format_id(ids.EVENT, row.event_id),
        "trigger_id": ids.format_id(ids.TRIGGER, row.trigger_id),
        "trigger": row.name,
        "outcome": row.outcome,
        "cause": row.cause,
        "notification_id": None
        if row.notification_id is None
        else ids.format_id(ids.NOTIFICATION, row.notification_id),
        "at": row.at,
    }


async def _check(conn: Connection, context: Context, application_id: UUID, draft: Draft, condition_: Any) -> None:
    faults = []
    if condition_ is not None:
        try:
            condition.parse(condition_)
        except ValidationError as error:
            faults += error.errors
    try:
        await prepare(conn, context, application_id, replace(draft, audience=_supposed(draft.audience)))
    except ValidationError as error:
        faults += error.errors
    if faults:
        raise ValidationError(faults)


def _supposed(who: Any) -> Any:
    """The audience with some text, or where no text may stand a number, for what an event will say."""
    taken = set(event_binding.iter_references(who, "/audience"))
    try:
        audience.parse(event_binding.with_placeholders(who, "/audience", set()))
    except ValidationError as error:
        numbers = {fault.pointer for fault in error.errors} & taken
        return event_binding.with_placeholders(who, "/audience", numbers)
    return event_binding.with_placeholders(who, "/audience", set())
