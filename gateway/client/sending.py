"""What is sent: notifications of every kind, templates, and what sets them off."""

from collections.abc import AsyncIterable, Iterable
from typing import Unpack

from gateway.client import requests
from gateway.client.decoding import decode
from gateway.client.pagination import Listing
from gateway.client.resource import Resource
from gateway.client.responses import (
    AlertIngestion,
    AlertSettings,
    Event,
    Feed,
    Funnel,
    Notification,
    NotificationContent,
    Reminder,
    Template,
    Trigger,
    TriggerRun,
)
from gateway.client.streams import ImportResults
from gateway.client.transport import Transport

ENDED = ("done", "cancelled")


class Accepted(Resource):
    """What may be done with what was accepted; alike for all kinds, but a campaign is found only among campaigns."""

    def __init__(self, transport: Transport, collection: str) -> None:
        super().__init__(transport)
        self._one = f"/v1/{collection}/{{}}"

    async def get(self, notification_id: str, /) -> Notification:
        """Its status, its counts by outcome, how fast it goes, and when it will be done."""
        return await self._get(Notification, self._one, notification_id)

    async def funnel(self, notification_id: str, /) -> Funnel:
        """How many saw and clicked it."""
        return await self._get(Funnel, f"{self._one}/funnel", notification_id)

    async def pause(self, notification_id: str, /) -> Notification:
        return await self._order(Notification, "POST", f"{self._one}/pause", notification_id)

    async def resume(self, notification_id: str, /) -> Notification:
        return await self._order(Notification, "POST", f"{self._one}/resume", notification_id)

    async def cancel(self, notification_id: str, /) -> Notification:
        return await self._order(Notification, "POST", f"{self._one}/cancel", notification_id)


class Notifications(Accepted):
    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "notifications")

    async def send(
        self, *, idempotency_key: str | None = None, **notification: Unpack[requests.NewNotification]
    ) -> Notification:
        """Send to an audience. With this answer it is accepted, and then delivered or accounted for."""
        return await self._make(Notification, "/v1/notifications", body=notification, key=idempotency_key)

    def list(self, **search: Unpack[requests.NotificationSearch]) -> Listing[Notification]:
        return self._list(Notification, "/v1/notifications", query=search)


class Campaigns(Accepted):
    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "campaigns")

    async def create(
        self, *, idempotency_key: str | None = None, **campaign: Unpack[requests.CampaignRequest]
    ) -> Notification:
        return await self._make(Notification, "/v1/campaigns", body=campaign, key=idempotency_key)


class Alerts(Accepted):
    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "alerts")

    async def raise_(self, *, idempotency_key: str | None = None, **alert: Unpack[requests.NewAlert]) -> Notification:
        """Raise, update or cancel an alert. The same `identifier` twice is one alert."""
        return await self._make(Notification, "/v1/alerts", body=alert, key=idempotency_key)

    async def raise_document(
        self, document: bytes, content_type: str = "application/cap+xml", *, idempotency_key: str | None = None
    ) -> AlertIngestion:
        """Raise the alerts of a CAP document, or with `application/geo+json` those of api.weather.gov."""
        answer = await self._transport.call(
            "POST", "/v1/alerts", raw=(document, content_type), creates=True, key=idempotency_key
        )
        return decode(AlertIngestion, answer.body)

    async def settings(self) -> AlertSettings:
        return await self._get(AlertSettings, "/v1/alert-settings")

    async def change_settings(self, **settings: Unpack[requests.AlertSettings]) -> AlertSettings:
        """Replace them; what is left out is as the gateway has it."""
        return await self._order(AlertSettings, "PUT", "/v1/alert-settings", body=settings)


class Templates(Resource):
    async def create(self, *, idempotency_key: str | None = None, **template: Unpack[requests.NewTemplate]) -> Template:
        return await self._make(Template, "/v1/templates", body=template, key=idempotency_key)

    def list(self) -> Listing[Template]:
        return self._list(Template, "/v1/templates")

    async def get(self, template_id: str, /, **search: Unpack[requests.TemplateSearch]) -> Template:
        """The newest version, when none is named."""
        return await self._get(Template, "/v1/templates/{}", template_id, query=search)

    async def update(self, template_id: str, /, **changes: Unpack[requests.TemplateChange]) -> Template:
        """Other content makes another version."""
        return await self._order(Template, "PATCH", "/v1/templates/{}", template_id, body=changes)

    async def delete(self, template_id: str, /) -> None:
        await self._do("DELETE", "/v1/templates/{}", template_id)

    async def preview(self, **asked: Unpack[requests.TemplatePreview]) -> NotificationContent:
        """What a browser would be sent."""
        return await self._order(NotificationContent, "POST", "/v1/templates/preview", body=asked)


class Reminders(Resource):
    async def create(self, *, idempotency_key: str | None = None, **reminder: Unpack[requests.NewReminder]) -> Reminder:
        return await self._make(Reminder, "/v1/reminders", body=reminder, key=idempotency_key)

    def list(self) -> Listing[Reminder]:
        return self._list(Reminder, "/v1/reminders")

    async def get(self, reminder_id: str, /) -> Reminder:
        return await self._get(Reminder, "/v1/reminders/{}", reminder_id)

    async def update(self, reminder_id: str, /, **changes: Unpack[requests.ReminderChange]) -> Reminder:
        return await self._order(Reminder, "PATCH", "/v1/reminders/{}", reminder_id, body=changes)

    async def delete(self, reminder_id: str, /) -> None:
        await self._do("DELETE", "/v1/reminders/{}", reminder_id)


class Triggers(Resource):
    async def create(self, *, idempotency_key: str | None = None, **trigger: Unpack[requests.NewTrigger]) -> Trigger:
        return await self._make(Trigger, "/v1/triggers", body=trigger, key=idempotency_key)

    def list(self) -> Listing[Trigger]:
        return self._list(Trigger, "/v1/triggers")

    async def get(self, trigger_id: str, /) -> Trigger:
        return await self._get(Trigger, "/v1/triggers/{}", trigger_id)

    def runs(self, trigger_id: str, /) -> Listing[TriggerRun]:
        """What the events that it heard came to."""
        return self._list(TriggerRun, "/v1/triggers/{}/runs", trigger_id)

    async def update(self, trigger_id: str, /, **changes: Unpack[requests.TriggerChange]) -> Trigger:
        return await self._order(Trigger, "PATCH", "/v1/triggers/{}", trigger_id, body=changes)

    async def delete(self, trigger_id: str, /) -> None:
        await self._do("DELETE", "/v1/triggers/{}", trigger_id)


class Events(Resource):
    async def track(self, *, idempotency_key: str | None = None, **event: Unpack[requests.NewEvent]) -> Event:
        """Tell what happened; the triggers that match are run. The same `key` twice is one event."""
        return await self._make(Event, "/v1/events", body=event, key=idempotency_key)

    def track_many(self, events: Iterable[requests.NewEvent] | AsyncIterable[requests.NewEvent]) -> ImportResults:
        """Tell any number at once."""
        return ImportResults(self._transport, "/v1/events/batch", events)

    def list(self, **search: Unpack[requests.EventSearch]) -> Listing[Event]:
        return self._list(Event, "/v1/events", query=search)

    async def get(self, event_id: str, /) -> Event:
        return await self._get(Event, "/v1/events/{}", event_id)


class Feeds(Resource):
    """The addresses that alerts are fetched from."""

    async def create(self, *, idempotency_key: str | None = None, **feed: Unpack[requests.NewFeed]) -> Feed:
        return await self._make(Feed, "/v1/feeds", body=feed, key=idempotency_key)

    def list(self) -> Listing[Feed]:
        return self._list(Feed, "/v1/feeds")

    async def get(self, feed_id: str, /) -> Feed:
        return await self._get(Feed, "/v1/feeds/{}", feed_id)

    async def update(self, feed_id: str, /, **changes: Unpack[requests.FeedChange]) -> Feed:
        return await self._order(Feed, "PATCH", "/v1/feeds/{}", feed_id, body=changes)

    async def delete(self, feed_id: str, /) -> None:
        await self._do("DELETE", "/v1/feeds/{}", feed_id)
