"""Resources that send: notifications, campaigns, alerts, templates, reminders, triggers, events, feeds."""

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

FINAL_STATUSES = ("done", "cancelled")


class SubmittedNotifications(Resource):
    """Operations on a notification after its submission.

    `Notifications` has these operations for all kinds of notification, `Campaigns` for campaigns, `Alerts` for alerts.
    """

    def __init__(self, transport: Transport, collection: str) -> None:
        """Create the resource. `collection` is the first part of its paths, such as `campaigns`."""
        super().__init__(transport)
        self._template = f"/v1/{collection}/{{}}"

    async def get(self, notification_id: str, /) -> Notification:
        """Return status, counts by outcome, rate and estimated end."""
        return await self._get(Notification, self._template, notification_id)

    async def get_funnel(self, notification_id: str, /) -> Funnel:
        """Return how many recipients saw and clicked the notification."""
        return await self._get(Funnel, f"{self._template}/funnel", notification_id)

    async def pause(self, notification_id: str, /) -> Notification:
        """Pause delivery."""
        return await self._call(Notification, "POST", f"{self._template}/pause", notification_id)

    async def resume(self, notification_id: str, /) -> Notification:
        """Resume delivery."""
        return await self._call(Notification, "POST", f"{self._template}/resume", notification_id)

    async def cancel(self, notification_id: str, /) -> Notification:
        """Cancel delivery permanently."""
        return await self._call(Notification, "POST", f"{self._template}/cancel", notification_id)


class Notifications(SubmittedNotifications):
    """Notifications of all kinds."""

    def __init__(self, transport: Transport) -> None:
        """Use this transport."""
        super().__init__(transport, "notifications")

    async def send(
        self, *, idempotency_key: str | None = None, **notification: Unpack[requests.NewNotification]
    ) -> Notification:
        """Submit a notification to an audience.

        When this method returns, the gateway has stored the notification, and every delivery will get an outcome in the
        log.
        """
        return await self._create(Notification, "/v1/notifications", body=notification, key=idempotency_key)

    def list(self, **search: Unpack[requests.NotificationSearch]) -> Listing[Notification]:
        """List notifications, newest first."""
        return self._list(Notification, "/v1/notifications", query=search)


class Campaigns(SubmittedNotifications):
    """Campaigns: notifications with variants, throttling and caps."""

    def __init__(self, transport: Transport) -> None:
        """Use this transport."""
        super().__init__(transport, "campaigns")

    async def create(
        self, *, idempotency_key: str | None = None, **campaign: Unpack[requests.CampaignRequest]
    ) -> Notification:
        """Create a campaign."""
        return await self._create(Notification, "/v1/campaigns", body=campaign, key=idempotency_key)


class Alerts(SubmittedNotifications):
    """Alerts, and the rules that apply to them."""

    def __init__(self, transport: Transport) -> None:
        """Use this transport."""
        super().__init__(transport, "alerts")

    async def submit(self, *, idempotency_key: str | None = None, **alert: Unpack[requests.NewAlert]) -> Notification:
        """Issue, update or cancel an alert. An alert whose `identifier` was submitted before is not sent again."""
        return await self._create(Notification, "/v1/alerts", body=alert, key=idempotency_key)

    async def submit_document(
        self, document: bytes, content_type: str = "application/cap+xml", *, idempotency_key: str | None = None
    ) -> AlertIngestion:
        """Submit a CAP document, or GeoJSON of api.weather.gov (`application/geo+json`)."""
        response = await self._transport.call(
            "POST", "/v1/alerts", raw=(document, content_type), creates=True, key=idempotency_key
        )
        return decode(AlertIngestion, response.body)

    async def get_settings(self) -> AlertSettings:
        """Return the alert settings of the application."""
        return await self._get(AlertSettings, "/v1/alert-settings")

    async def replace_settings(self, **settings: Unpack[requests.AlertSettings]) -> AlertSettings:
        """Replace the alert settings; omitted fields get their defaults."""
        return await self._call(AlertSettings, "PUT", "/v1/alert-settings", body=settings)


class Templates(Resource):
    """Templates: content stored under a name, in versions."""

    async def create(self, *, idempotency_key: str | None = None, **template: Unpack[requests.NewTemplate]) -> Template:
        """Create a template."""
        return await self._create(Template, "/v1/templates", body=template, key=idempotency_key)

    def list(self) -> Listing[Template]:
        """List templates."""
        return self._list(Template, "/v1/templates")

    async def get(self, template_id: str, /, **search: Unpack[requests.TemplateSearch]) -> Template:
        """Return a template, in its newest version unless `version` is given."""
        return await self._get(Template, "/v1/templates/{}", template_id, query=search)

    async def update(self, template_id: str, /, **changes: Unpack[requests.TemplateChange]) -> Template:
        """Change a template; changed content creates a new version."""
        return await self._call(Template, "PATCH", "/v1/templates/{}", template_id, body=changes)

    async def delete(self, template_id: str, /) -> None:
        """Delete a template."""
        await self._execute("DELETE", "/v1/templates/{}", template_id)

    async def preview(self, **request: Unpack[requests.TemplatePreview]) -> NotificationContent:
        """Render content as it would be sent to one device."""
        return await self._call(NotificationContent, "POST", "/v1/templates/preview", body=request)


class Reminders(Resource):
    """Reminders: notifications on a recurring schedule."""

    async def create(self, *, idempotency_key: str | None = None, **reminder: Unpack[requests.NewReminder]) -> Reminder:
        """Create a reminder."""
        return await self._create(Reminder, "/v1/reminders", body=reminder, key=idempotency_key)

    def list(self) -> Listing[Reminder]:
        """List reminders."""
        return self._list(Reminder, "/v1/reminders")

    async def get(self, reminder_id: str, /) -> Reminder:
        """Return a reminder."""
        return await self._get(Reminder, "/v1/reminders/{}", reminder_id)

    async def update(self, reminder_id: str, /, **changes: Unpack[requests.ReminderChange]) -> Reminder:
        """Change a reminder; omitted fields are unchanged."""
        return await self._call(Reminder, "PATCH", "/v1/reminders/{}", reminder_id, body=changes)

    async def delete(self, reminder_id: str, /) -> None:
        """Delete a reminder."""
        await self._execute("DELETE", "/v1/reminders/{}", reminder_id)


class Triggers(Resource):
    """Triggers: notifications that events start."""

    async def create(self, *, idempotency_key: str | None = None, **trigger: Unpack[requests.NewTrigger]) -> Trigger:
        """Create a trigger."""
        return await self._create(Trigger, "/v1/triggers", body=trigger, key=idempotency_key)

    def list(self) -> Listing[Trigger]:
        """List triggers."""
        return self._list(Trigger, "/v1/triggers")

    async def get(self, trigger_id: str, /) -> Trigger:
        """Return a trigger."""
        return await self._get(Trigger, "/v1/triggers/{}", trigger_id)

    def list_runs(self, trigger_id: str, /) -> Listing[TriggerRun]:
        """List the runs of a trigger with their outcomes."""
        return self._list(TriggerRun, "/v1/triggers/{}/runs", trigger_id)

    async def update(self, trigger_id: str, /, **changes: Unpack[requests.TriggerChange]) -> Trigger:
        """Change a trigger; omitted fields are unchanged."""
        return await self._call(Trigger, "PATCH", "/v1/triggers/{}", trigger_id, body=changes)

    async def delete(self, trigger_id: str, /) -> None:
        """Delete a trigger."""
        await self._execute("DELETE", "/v1/triggers/{}", trigger_id)


class Events(Resource):
    """Events of the application's users."""

    async def track(self, *, idempotency_key: str | None = None, **event: Unpack[requests.NewEvent]) -> Event:
        """Record an event and run the triggers that match. An event whose `key` was recorded before is ignored."""
        return await self._create(Event, "/v1/events", body=event, key=idempotency_key)

    def track_many(self, events: Iterable[requests.NewEvent] | AsyncIterable[requests.NewEvent]) -> ImportResults:
        """Record any number of events in one request."""
        return ImportResults(self._transport, "/v1/events/batch", events)

    def list(self, **search: Unpack[requests.EventSearch]) -> Listing[Event]:
        """List events, newest first."""
        return self._list(Event, "/v1/events", query=search)

    async def get(self, event_id: str, /) -> Event:
        """Return an event."""
        return await self._get(Event, "/v1/events/{}", event_id)


class Feeds(Resource):
    """Feeds: URLs that alerts are fetched from."""

    async def create(self, *, idempotency_key: str | None = None, **feed: Unpack[requests.NewFeed]) -> Feed:
        """Create a feed."""
        return await self._create(Feed, "/v1/feeds", body=feed, key=idempotency_key)

    def list(self) -> Listing[Feed]:
        """List feeds."""
        return self._list(Feed, "/v1/feeds")

    async def get(self, feed_id: str, /) -> Feed:
        """Return a feed."""
        return await self._get(Feed, "/v1/feeds/{}", feed_id)

    async def update(self, feed_id: str, /, **changes: Unpack[requests.FeedChange]) -> Feed:
        """Change a feed; omitted fields are unchanged."""
        return await self._call(Feed, "PATCH", "/v1/feeds/{}", feed_id, body=changes)

    async def delete(self, feed_id: str, /) -> None:
        """Delete a feed."""
        await self._execute("DELETE", "/v1/feeds/{}", feed_id)
