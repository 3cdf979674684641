"""Record the events that applications report, and run the triggers that match them.

An event, the runs of its triggers and the notifications that the runs start are stored in one transaction. A batch of
events takes a few statements in total. The events of a batch are processed in order, so an event may cancel a
notification that a preceding event of the batch has started.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from gateway.domain import audience, clock, condition, event_binding, ids
from gateway.domain.errors import GatewayError, NotFound
from gateway.domain.json_object import JsonObject
from gateway.domain.notification import Kind, Notification, Templating, compute_expiry
from gateway.domain.page import Page
from gateway.records import events as records
from gateway.records.events import CANCELLED, STARTED
from gateway.records.postgres.engine import Connection, Row
from gateway.service import views
from gateway.service.automation.triggers import run_to_view
from gateway.service.context import Context
from gateway.service.notifications import lifecycle, spec_codec
from gateway.service.notifications.submission import prepare, save

# Outcomes of trigger runs that send nothing.
# deduplicated: the trigger has run for the user within its `dedupe` time.
# capped: the trigger has run for the user as often as its cap allows.
# unfilled: the event lacks a value to which the audience refers.
# refused: the notification is not valid.
DEDUPLICATED, CAPPED, UNFILLED, REFUSED = "deduplicated", "capped", "unfilled", "refused"


@dataclass(frozen=True, slots=True)
class Event:
    """A reported event. The application chooses `key`; a second event with the same key is a repetition."""

    name: str
    data: JsonObject
    user_id: str | None = None
    occurred_at: datetime | None = None
    key: str | None = None
    id: UUID = field(default_factory=ids.new_id)


@dataclass(slots=True)
class TriggerRun:
    """The result of one trigger for one event."""

    event: Event
    trigger_id: UUID
    outcome: str
    cause: str | None = None
    notification: Notification | None = None


@dataclass(frozen=True, slots=True)
class EventResult:
    """The result of recording an event.

    `runs` is the number of trigger runs. For a repetition, `id` is the id of the first event with the same key.
    """

    id: UUID
    repeated: bool
    runs: int


async def record(
    conn: Connection, context: Context, application_id: UUID, events: Sequence[Event]
) -> list[EventResult]:
    """Store events in order, and run the triggers that match them. Repeated events run no triggers."""
    now = clock.now()
    keys = {event.key for event in events if event.key is not None}
    new_ids = await records.add(conn, [_row(application_id, event, now) for event in events])
    ids_by_key = await records.find_by_keys(conn, application_id, keys) if keys else {}
    new_events = [event for event in events if event.id in new_ids]
    runs = await _run(conn, context, application_id, new_events, now) if new_events else []
    if started := [run.notification for run in runs if run.notification is not None and run.outcome == STARTED]:
        await save(conn, started)
    if runs:
        await records.add_runs(conn, [_run_row(run, now) for run in runs])
    counts: dict[UUID, int] = defaultdict(int)
    for run in runs:
        counts[run.event.id] += 1
    return [
        EventResult(event.id, repeated=False, runs=counts[event.id])
        if event.id in new_ids
        else EventResult(ids_by_key[str(event.key)], repeated=True, runs=0)
        for event in events
    ]


async def get(conn: Connection, application_id: UUID, id_: UUID) -> views.Event:
    """Return an event with its trigger runs.

    Raises:
        NotFound: the application has no such event.
    """
    row = await records.get(conn, application_id, id_)
    if row is None:
        raise NotFound(f"there is no event {ids.format_id(ids.EVENT, id_)}")
    [event] = await _to_views(conn, [row])
    return event


async def list_page(
    conn: Connection,
    application_id: UUID,
    *,
    name: str | None,
    user_id: str | None,
    before: UUID | None,
    limit: int,
) -> Page[views.Event]:
    """Return a page of events, newest first; `before` is the last id of the previous page."""
    page = await records.list_page(conn, application_id, name=name, user_id=user_id, before=before, limit=limit)
    return Page(await _to_views(conn, page.items), page.next_after)


async def _to_views(conn: Connection, rows: Sequence[Row[Any]]) -> list[views.Event]:
    runs = defaultdict(list)
    for run in await records.list_runs_of_events(conn, [row.id for row in rows]):
        runs[run.event_id].append(run_to_view(run))
    return [
        {
            "id": ids.format_id(ids.EVENT, row.id),
            "key": row.key,
            "name": row.name,
            "user_id": row.user_id,
            "data": row.data,
            "occurred_at": row.occurred_at,
            "created_at": row.created_at,
            "runs": runs[row.id],
        }
        for row in rows
    ]


async def _run(
    conn: Connection, context: Context, application_id: UUID, events: Sequence[Event], now: datetime
) -> list[TriggerRun]:
    """Run the triggers that match the events, event by event in order; return the runs."""
    names = {event.name for event in events}
    user_ids = sorted({event.user_id for event in events if event.user_id is not None})
    triggers = await records.list_triggers_for(conn, application_id, names)
    cancel_on_triggers = await records.list_triggers_cancelled_by(conn, application_id, names)
    if user_ids and (cancel_on_triggers or any(_needs_history(trigger) for trigger in triggers)):
        await records.lock_users(conn, application_id, user_ids)
    history = await _TriggerHistory.load(conn, triggers, cancel_on_triggers, user_ids, now)
    runners = {trigger.id: _TriggerRunner(context, application_id, trigger, now) for trigger in triggers}
    runs: list[TriggerRun] = []
    for event in events:
        for trigger in cancel_on_triggers:
            if event.name in trigger.cancel_on and event.user_id is not None:
                await history.cancel(conn, application_id, trigger.id, event)
        for trigger in triggers:
            if event.name == trigger.event and runners[trigger.id].matches(event):
                run = history.find_refusal(trigger, event) or await runners[trigger.id].start(conn, event)
                history.add(run)
                runs.append(run)
    return runs


def _needs_history(trigger: Row[Any]) -> bool:
    """Return whether the result of a trigger depends on its earlier runs for the same user."""
    return trigger.dedupe_s is not None or trigger.cap_most is not None or bool(trigger.cancel_on)


class _TriggerHistory:
    """The earlier runs of triggers, by trigger and user: start times, and runs whose notifications have not ended."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._started: dict[tuple[UUID, str], list[datetime]] = defaultdict(list)
        self._unfinished: dict[tuple[UUID, str], list[TriggerRun | Row[Any]]] = defaultdict(list)

    @classmethod
    async def load(
        cls,
        conn: Connection,
        triggers: Sequence[Row[Any]],
        cancel_on_triggers: Sequence[Row[Any]],
        user_ids: Sequence[str],
        now: datetime,
    ) -> "_TriggerHistory":
        """Load the runs that the caps, the deduplication and the cancellations of these triggers depend on."""
        history = cls(now)
        windows = [seconds for trigger in triggers for seconds in (trigger.dedupe_s, trigger.cap_window_s) if seconds]
        if windows and user_ids:
            since = now - timedelta(seconds=max(windows))
            for row in await records.list_started_since(conn, [trigger.id for trigger in triggers], user_ids, since):
                history._started[row.trigger_id, row.user_id].append(row.at)
        if cancel_on_triggers and user_ids:
            for row in await records.list_unfinished(conn, [trigger.id for trigger in cancel_on_triggers], user_ids):
                history._unfinished[row.trigger_id, row.user_id].append(row)
        return history

    def find_refusal(self, trigger: Row[Any], event: Event) -> TriggerRun | None:
        """Return a run with the outcome DEDUPLICATED or CAPPED, or None if the trigger may start for the event."""
        if event.user_id is None:
            return None
        started = self._started[trigger.id, event.user_id]
        if trigger.dedupe_s is not None and self._count_within(started, trigger.dedupe_s):
            return TriggerRun(
                event, trigger.id, DEDUPLICATED, f"the trigger ran for the user within {trigger.dedupe_s} seconds"
            )
        if trigger.cap_most is not None and self._count_within(started, trigger.cap_window_s) >= trigger.cap_most:
            cause = f"the trigger ran {trigger.cap_most} times for the user within {trigger.cap_window_s} seconds"
            return TriggerRun(event, trigger.id, CAPPED, cause)
        return None

    def add(self, run: TriggerRun) -> None:
        """Add a run of the current batch, so that later events of the batch see it."""
        if run.outcome == STARTED and run.event.user_id is not None:
            self._started[run.trigger_id, run.event.user_id].append(self._now)
            self._unfinished[run.trigger_id, run.event.user_id].append(run)

    async def cancel(self, conn: Connection, application_id: UUID, trigger_id: UUID, event: Event) -> None:
        """Cancel the unfinished notifications of a trigger for the user of an event."""
        cause = f"cancelled by the event {event.name}"
        for run in self._unfinished.pop((trigger_id, str(event.user_id)), ()):
            if isinstance(run, TriggerRun):
                run.outcome, run.cause, run.notification = CANCELLED, cause, None
                continue
            if await lifecycle.cancel_if(conn, application_id, run.notification_id):
                await records.end_runs(conn, [(run.event_id, trigger_id)], cause)

    def _count_within(self, started: Sequence[datetime], seconds: int) -> int:
        return sum(at > self._now - timedelta(seconds=seconds) for at in started)


class _TriggerRunner:
    """Builds the notifications of a trigger. Checks their common parts once, with the first notification."""

    def __init__(self, context: Context, application_id: UUID, trigger: Row[Any], now: datetime) -> None:
        self._context = context
        self._application_id = application_id
        self._trigger = trigger
        self._now = now
        self._condition = condition.parse(trigger.condition) if trigger.condition is not None else None
        self._draft = spec_codec.from_json(Kind.EVENT, trigger.draft)
        self._audience_is_fixed = not any(event_binding.iter_references(self._draft.audience, ""))
        self._first: Notification | None = None

    def matches(self, event: Event) -> bool:
        """Return whether the event meets the condition of the trigger."""
        return self._condition is None or self._condition(event.data)

    async def start(self, conn: Connection, event: Event) -> TriggerRun:
        """Run the trigger for an event."""
        try:
            notification = await self._build(conn, event)
        except event_binding.MissingEventValue as missing:
            return TriggerRun(event, self._trigger.id, UNFILLED, f"the event has no {missing.path}"[:500])
        except GatewayError as refusal:
            return TriggerRun(event, self._trigger.id, REFUSED, refusal.detail[:500])
        return TriggerRun(event, self._trigger.id, STARTED, notification=notification)

    async def _build(self, conn: Connection, event: Event) -> Notification:
        """Return the notification of the trigger for an event. Only the first one is checked completely."""
        values = event_values(event, self._now)
        recipients = (
            self._draft.audience if self._audience_is_fixed else event_binding.bind(self._draft.audience, values)
        )
        if self._first is None:
            draft = replace(self._draft, audience=recipients, name=self._trigger.name)
            self._first = await prepare(conn, self._context, self._application_id, draft)
        elif not self._audience_is_fixed:
            # Segments need no check: values of an event cannot refer to one, and the first notification has checked
            # those in the draft.
            audience.parse(recipients)
        common = self._first
        start_at = max(self._now, min(event.occurred_at or self._now, self._now) + self._delay)
        templating = common.templating and Templating(common.templating.strict, values)
        return replace(
            common,
            id=ids.new_id(),
            audience=recipients,
            start_at=start_at,
            created_at=self._now,
            delivery=replace(common.delivery, expires_at=compute_expiry(start_at, common.delivery.ttl)),
            templating=templating,
            details={
                "event": event.name,
                "event_id": ids.format_id(ids.EVENT, event.id),
                "trigger_id": ids.format_id(ids.TRIGGER, self._trigger.id),
            },
        )

    @property
    def _delay(self) -> timedelta:
        return timedelta(seconds=self._trigger.delay_s)


def event_values(event: Event, now: datetime) -> JsonObject:
    """Return the values of an event to which templates and audiences may refer."""
    return {
        "id": ids.format_id(ids.EVENT, event.id),
        "name": event.name,
        "user_id": event.user_id,
        "data": event.data,
        "occurred_at": (event.occurred_at or now).isoformat(),
    }


def _row(application_id: UUID, event: Event, now: datetime) -> records.EventRow:
    return {
        "id": event.id,
        "application_id": application_id,
        "key": event.key,
        "name": event.name,
        "user_id": event.user_id,
        "data": event.data,
        "occurred_at": event.occurred_at or now,
        "created_at": now,
    }


def _run_row(run: TriggerRun, now: datetime) -> records.TriggerRunRow:
    return {
        "event_id": run.event.id,
        "trigger_id": run.trigger_id,
        "user_id": run.event.user_id,
        "outcome": run.outcome,
        "cause": run.cause,
        "notification_id": None if run.notification is None else run.notification.id,
        "at": now,
    }
