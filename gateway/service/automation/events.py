"""Events: something happened in the application, and what it has been told to send for that is sent.

An event, what its triggers come to and the notifications they start are one transaction: whoever was answered may
forget the event. Many events at once take a handful of statements together; the order among them counts, so that the
second of two may cancel what the first one started.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from gateway.domain import audience, clock, condition, event_binding, ids
from gateway.domain.errors import Conflict, GatewayError, NotFound
from gateway.domain.notification import Kind, Notification, Templating, compute_expiry
from gateway.records import events as records
from gateway.records.events import CANCELLED, STARTED
from gateway.records.postgres.engine import Connection, Row
from gateway.service.automation.triggers import run_to_view
from gateway.service.context import Context
from gateway.service.notifications import lifecycle, spec_codec
from gateway.service.notifications.submission import prepare, save

DEDUPLICATED, CAPPED, UNFILLED, REFUSED = "deduplicated", "capped", "unfilled", "refused"


@dataclass(frozen=True, slots=True)
class Event:
    """`key` is the caller's own id for it: the same one twice is one event."""

    name: str
    data: dict[str, Any]
    user_id: str | None = None
    occurred_at: datetime | None = None
    key: str | None = None
    id: UUID = field(default_factory=ids.new_id)


@dataclass(slots=True)
class TriggerRun:
    """What one trigger came to with one event."""

    event: Event
    trigger_id: UUID
    outcome: str
    cause: str | None = None
    notification: Notification | None = None


@dataclass(frozen=True, slots=True)
class EventResult:
    """What an event came to; `id` is that of the first when it is a repeated one."""

    id: UUID
    repeated: bool
    runs: int


async def record(
    conn: Connection, context: Context, application_id: UUID, events: Sequence[Event]
) -> list[EventResult]:
    """Store events and run the triggers they meet, in their order."""
    now = clock.now()
    keys = {event.key for event in events if event.key is not None}
    new = await records.add(conn, [_row(application_id, event, now) for event in events])
    known = await records.find_by_keys(conn, application_id, keys) if keys else {}
    fresh = [event for event in events if event.id in new]
    runs = await _run(conn, context, application_id, fresh, now) if fresh else []
    if started := [run.notification for run in runs if run.notification is not None and run.outcome == STARTED]:
        await save(conn, started)
    if runs:
        await records.add_runs(conn, [_run_row(run, now) for run in runs])
    counts: dict[UUID, int] = defaultdict(int)
    for run in runs:
        counts[run.event.id] += 1
    return [
        EventResult(event.id, repeated=False, runs=counts[event.id])
        if event.id in new
        else EventResult(known[str(event.key)], repeated=True, runs=0)
        for event in events
    ]


async def get(conn: Connection, application_id: UUID, id_: UUID) -> dict[str, Any]:
    """Raises NotFound."""
    row = await records.get(conn, application_id, id_)
    if row is None:
        raise NotFound(f"there is no event {ids.format_id(ids.EVENT, id_)}")
    [shown] = await _shown(conn, [row])
    return shown


async def list_page(
    conn: Connection,
    application_id: UUID,
    *,
    name: str | None,
    user_id: str | None,
    before: UUID | None,
    limit: int,
) -> list[dict[str, Any]]:
    return await _shown(
        conn, await records.list_page(conn, application_id, name=name, user_id=user_id, before=before, limit=limit)
    )


async def _shown(conn: Connection, rows: Sequence[Row[Any]]) -> list[dict[str, Any]]:
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
    names = {event.name for event in events}
    people = sorted({event.user_id for event in events if event.user_id is not None})
    triggers = await records.list_triggers_for(conn, application_id, names)
    ending = await records.list_triggers_cancelled_by(conn, application_id, names)
    if people and (ending or any(_remembers(trigger) for trigger in triggers)):
        await records.lock_users(conn, application_id, people)
    past = await _TriggerHistory.load(conn, triggers, ending, people, now)
    starters = {trigger.id: _TriggerRunner(context, application_id, trigger, now) for trigger in triggers}
    made: list[TriggerRun] = []
    for event in events:
        for trigger in ending:
            if event.name in trigger.cancel_on and event.user_id is not None:
                await past.cancel(conn, application_id, trigger.id, event)
        for trigger in triggers:
            if event.name == trigger.event and starters[trigger.id].concerns(event):
                run = past.refusal(trigger, event) or await starters[trigger.id].start(conn, event)
                past.remember(run)
                made.append(run)
    return made


def _remembers(trigger: Row[Any]) -> bool:
    """Whether what it did for a user before matters."""
    return trigger.dedupe_s is not None or trigger.cap_most is not None or bool(trigger.cancel_on)


class _TriggerHistory:
    """What was started for these users before, and what of it has not ended."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._started: dict[tuple[UUID, str], list[datetime]] = defaultdict(list)
        self._waiting: dict[tuple[UUID, str], list[TriggerRun | Row[Any]]] = defaultdict(list)

    @classmethod
    async def load(
        cls,
        conn: Connection,
        triggers: Sequence[Row[Any]],
        ending: Sequence[Row[Any]],
        people: Sequence[str],
        now: datetime,
    ) -> "_TriggerHistory":
        past = cls(now)
        windows = [seconds for trigger in triggers for seconds in (trigger.dedupe_s, trigger.cap_window_s) if seconds]
        if windows and people:
            since = now - timedelta(seconds=max(windows))
            for row in await records.list_started_since(conn, [trigger.id for trigger in triggers], people, since):
                past._started[row.trigger_id, row.user_id].append(row.at)
        if ending and people:
            for row in await records.list_unfinished(conn, [trigger.id for trigger in ending], people):
                past._waiting[row.trigger_id, row.user_id].append(row)
        return past

    def refusal(self, trigger: Row[Any], event: Event) -> TriggerRun | None:
        """Why it is not run for this user now; None when it is."""
        if event.user_id is None:
            return None
        started = self._started[trigger.id, event.user_id]
        if trigger.dedupe_s is not None and self._within(started, trigger.dedupe_s):
            return TriggerRun(event, trigger.id, DEDUPLICATED, f"it ran for the user within {trigger.dedupe_s} seconds")
        if trigger.cap_most is not None and self._within(started, trigger.cap_window_s) >= trigger.cap_most:
            cause = f"it ran {trigger.cap_most} times for the user within {trigger.cap_window_s} seconds"
            return TriggerRun(event, trigger.id, CAPPED, cause)
        return None

    def remember(self, run: TriggerRun) -> None:
        if run.outcome == STARTED and run.event.user_id is not None:
            self._started[run.trigger_id, run.event.user_id].append(self._now)
            self._waiting[run.trigger_id, run.event.user_id].append(run)

    async def cancel(self, conn: Connection, application_id: UUID, trigger_id: UUID, event: Event) -> None:
        """End what has not ended of a trigger for the event's user."""
        cause = f"{event.name} came"
        for waiting in self._waiting.pop((trigger_id, str(event.user_id)), ()):
            if isinstance(waiting, TriggerRun):
                waiting.outcome, waiting.cause, waiting.notification = CANCELLED, cause, None
                continue
            try:
                await lifecycle.cancel(conn, application_id, waiting.notification_id)
            except Conflict:  # it has ended since
                continue
            await records.end_runs(conn, [(waiting.event_id, trigger_id)], cause)

    def _within(self, started: Sequence[datetime], seconds: int) -> int:
        return sum(at > self._now - timedelta(seconds=seconds) for at in started)


class _TriggerRunner:
    """Makes a trigger's notifications; what they have in common is checked once."""

    def __init__(self, context: Context, application_id: UUID, trigger: Row[Any], now: datetime) -> None:
        self._context = context
        self._application_id = application_id
        self._trigger = trigger
        self._now = now
        self._fits = condition.parse(trigger.condition) if trigger.condition is not None else None
        self._draft = spec_codec.from_json(Kind.EVENT, trigger.draft)
        self._fixed = not any(event_binding.iter_references(self._draft.audience, ""))
        self._first: Notification | None = None

    def concerns(self, event: Event) -> bool:
        return self._fits is None or self._fits(event.data)

    async def start(self, conn: Connection, event: Event) -> TriggerRun:
        try:
            notification = await self._made(conn, event)
        except event_binding.MissingEventValue as missing:
            return TriggerRun(event, self._trigger.id, UNFILLED, f"the event has no {missing.path}"[:500])
        except GatewayError as refusal:
            return TriggerRun(event, self._trigger.id, REFUSED, refusal.detail[:500])
        return TriggerRun(event, self._trigger.id, STARTED, notification=notification)

    async def _made(self, conn: Connection, event: Event) -> Notification:
        said = seen(event, self._now)
        who = self._draft.audience if self._fixed else event_binding.bind(self._draft.audience, said)
        if self._first is None:
            draft = replace(self._draft, audience=who, name=self._trigger.name)
            self._first = await prepare(conn, self._context, self._application_id, draft)
        elif not self._fixed:
            # Segments were looked up with the first: values of an event never name one.
            audience.parse(who)
        common = self._first
        start_at = max(self._now, min(event.occurred_at or self._now, self._now) + self._delay)
        templating = common.templating and Templating(common.templating.strict, said)
        return replace(
            common,
            id=ids.new_id(),
            audience=who,
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


def seen(event: Event, now: datetime) -> dict[str, Any]:
    """The event as templates and audiences see it."""
    return {
        "id": ids.format_id(ids.EVENT, event.id),
        "name": event.name,
        "user_id": event.user_id,
        "data": event.data,
        "occurred_at": (event.occurred_at or now).isoformat(),
    }


def _row(application_id: UUID, event: Event, now: datetime) -> dict[str, Any]:
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


def _run_row(run: TriggerRun, now: datetime) -> dict[str, Any]:
    return {
        "event_id": run.event.id,
        "trigger_id": run.trigger_id,
        "user_id": run.event.user_id,
        "outcome": run.outcome,
        "cause": run.cause,
        "notification_id": None if run.notification is None else run.notification.id,
        "at": now,
    }
