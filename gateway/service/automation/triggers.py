"""Triggers: send a notification for each event that has a given name and meets a condition.

A trigger stores its notification as a `Draft`, whose audience may contain placeholders (`{"from_event": "data.team"}`).
When an event occurs, its values replace the placeholders. When the trigger is stored, sample values replace them, to
validate the draft.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from gateway.domain import audience, condition, event_binding, ids
from gateway.domain.errors import ValidationError
from gateway.domain.notification import Kind
from gateway.domain.send_policy import FrequencyCap
from gateway.records import events
from gateway.records.postgres.engine import Connection, Row
from gateway.records.postgres.schema import triggers as table
from gateway.service import views
from gateway.service.context import Context
from gateway.service.named_resources import NamedResource, map_rows
from gateway.service.notifications import spec_codec
from gateway.service.notifications.submission import Draft, prepare

# The default audience of a trigger: the user of the event.
DEFAULT_AUDIENCE = {"user_id": {"from_event": "user_id"}}


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
) -> views.Trigger:
    """Store a trigger. It applies to events that are recorded from now on.

    Raises:
        ValidationError: the draft or the condition is not valid.
        PayloadTooLarge: the content is too large for a push message.
        Conflict: the application has a trigger of this name.
    """
    await _check(conn, context, application_id, draft, condition_)
    columns = {
        "name": name,
        "event": event,
        "condition": condition_,
        "draft": spec_codec.to_json(draft),
        "delay_s": int(delay.total_seconds()),
        "dedupe_s": None if dedupe is None else int(dedupe.total_seconds()),
        "cap_most": None if cap is None else cap.limit,
        "cap_window_s": None if cap is None else int(cap.window.total_seconds()),
        "cancel_on": list(dict.fromkeys(cancel_on)),
    }
    return await _triggers.create(conn, application_id, columns)


async def update(
    conn: Connection,
    context: Context,
    application_id: UUID,
    id_: UUID,
    columns: Mapping[str, Any],
    draft_fields: spec_codec.DraftChange,
    policy_fields: spec_codec.PolicyChange,
) -> views.Trigger:
    """Change columns of a trigger, fields of its draft, and fields of the send policy of its draft.

    Notifications that the trigger has started do not change.

    Raises:
        NotFound: the application has no such trigger.
        ValidationError: the draft or the condition is not valid.
        PayloadTooLarge: the content is too large for a push message.
        Conflict: another trigger has the new name.
    """
    row = await _triggers.find(conn, application_id, id_, lock=True)
    draft = spec_codec.patch(spec_codec.from_json(Kind.EVENT, row.draft), draft_fields, policy_fields)
    await _check(conn, context, application_id, draft, columns.get("condition", row.condition))
    return to_view(await _triggers.save(conn, id_, {**columns, "draft": spec_codec.to_json(draft)}))


async def list_runs(
    conn: Connection, application_id: UUID, id_: UUID, *, before: UUID | None, limit: int
) -> list[views.TriggerRun]:
    """Return a page of the runs of a trigger, newest first.

    `before` is the event id of the last run of the previous page.

    Raises:
        NotFound: the application has no such trigger.
    """
    await _triggers.find(conn, application_id, id_)
    return [run_to_view(row) for row in await events.list_runs_of_trigger(conn, id_, before=before, limit=limit)]


def to_view(row: Row[Any]) -> views.Trigger:
    """Return the view of a trigger."""
    return {
        "id": ids.format_id(ids.TRIGGER, row.id),
        "name": row.name,
        "event": row.event,
        "status": row.status,
        "condition": row.condition,
        "cancel_on": row.cancel_on,
        **spec_codec.to_view(row.draft),
        "delay": row.delay_s,
        "dedupe": row.dedupe_s,
        "cap": None if row.cap_most is None else {"limit": row.cap_most, "window": row.cap_window_s},
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


def run_to_view(row: Row[Any]) -> views.TriggerRun:
    """Return the view of a trigger run."""
    notification_id = row.notification_id
    return {
        "event_id": ids.format_id(ids.EVENT, row.event_id),
        "trigger_id": ids.format_id(ids.TRIGGER, row.trigger_id),
        "trigger": row.name,
        "outcome": row.outcome,
        "cause": row.cause,
        "notification_id": None if notification_id is None else ids.format_id(ids.NOTIFICATION, notification_id),
        "at": row.at,
    }


async def _check(conn: Connection, context: Context, application_id: UUID, draft: Draft, condition_: Any) -> None:
    """Check the condition, and the draft with sample values; raises ValidationError with all errors."""
    errors = []
    if condition_ is not None:
        try:
            condition.parse(condition_)
        except ValidationError as error:
            errors += error.errors
    try:
        await prepare(conn, context, application_id, replace(draft, audience=_with_sample_values(draft.audience)))
    except ValidationError as error:
        errors += error.errors
    if errors:
        raise ValidationError(errors)


def _with_sample_values(audience_: Any) -> Any:
    """Replace each placeholder by a sample text, or by a sample number if the audience does not accept text there."""
    references = set(event_binding.iter_references(audience_, "/audience"))
    try:
        audience.parse(event_binding.replace_with_samples(audience_, "/audience", set()))
    except ValidationError as error:
        numeric_references = {field.pointer for field in error.errors} & references
        return event_binding.replace_with_samples(audience_, "/audience", numeric_references)
    return event_binding.replace_with_samples(audience_, "/audience", set())


_triggers = NamedResource(table, map_rows(to_view))
get, list_page, delete = _triggers.get, _triggers.list_page, _triggers.delete
