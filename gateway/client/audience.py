"""Resources that select recipients: devices, users, topics, categories, segments, audiences."""

from collections.abc import AsyncIterable, Iterable
from typing import Unpack

from gateway.client import requests
from gateway.client.pagination import Listing
from gateway.client.resource import Resource
from gateway.client.responses import (
    Category,
    Device,
    ErasureResult,
    InboxItem,
    MarkedRead,
    Notification,
    Preferences,
    Preview,
    Registered,
    Segment,
    Topic,
)
from gateway.client.streams import ImportResults


class Devices(Resource):
    """Devices: browsers and apps that are registered for push messages."""

    async def register(self, *, idempotency_key: str | None = None, **device: Unpack[requests.NewDevice]) -> Registered:
        """Register a device, or refresh the stored registration of its endpoint."""
        return await self._create(Registered, "/v1/devices", body=device, key=idempotency_key)

    def import_many(
        self,
        devices: Iterable[requests.NewDevice | bytes] | AsyncIterable[requests.NewDevice | bytes],
        **options: Unpack[requests.ImportSearch],
    ) -> ImportResults:
        """Register any number of devices in one request.

        An invalid registration does not prevent the others. A `bytes` item is sent unchanged and must be the JSON of
        one registration on one line.
        """
        return ImportResults(self._transport, "/v1/devices/import", devices, options)

    def list(self, **search: Unpack[requests.DeviceSearch]) -> Listing[Device]:
        """List devices."""
        return self._list(Device, "/v1/devices", query=search)

    async def get(self, device_id: str, /) -> Device:
        """Return a device."""
        return await self._get(Device, "/v1/devices/{}", device_id)

    async def update(self, device_id: str, /, **changes: Unpack[requests.DeviceChange]) -> Device:
        """Change a device. Attributes are merged; omitted fields are unchanged."""
        return await self._call(Device, "PATCH", "/v1/devices/{}", device_id, body=changes)

    async def delete(self, device_id: str, /) -> None:
        """Delete a device."""
        await self._execute("DELETE", "/v1/devices/{}", device_id)

    async def set_location(self, device_id: str, /, **location: Unpack[requests.Location]) -> None:
        """Set the location of a device."""
        await self._execute("PUT", "/v1/devices/{}/location", device_id, body=location)

    async def remove_location(self, device_id: str, /) -> None:
        """Remove the location of a device."""
        await self._execute("DELETE", "/v1/devices/{}/location", device_id)

    async def add_topic(self, device_id: str, topic: str, /) -> None:
        """Subscribe a device to a topic."""
        await self._execute("PUT", "/v1/devices/{}/topics/{}", device_id, topic)

    async def remove_topic(self, device_id: str, topic: str, /) -> None:
        """Unsubscribe a device from a topic."""
        await self._execute("DELETE", "/v1/devices/{}/topics/{}", device_id, topic)

    async def get_preferences(self, device_id: str, /) -> Preferences:
        """Return the categories that a device may opt out of, and whether it has opted out of each."""
        return await self._get(Preferences, "/v1/devices/{}/preferences", device_id)

    async def update_preferences(self, device_id: str, /, **choices: Unpack[requests.PreferencesChange]) -> Preferences:
        """Opt a device in to or out of categories."""
        return await self._call(Preferences, "PATCH", "/v1/devices/{}/preferences", device_id, body=choices)

    def list_inbox(self, device_id: str, /, **search: Unpack[requests.InboxSearch]) -> Listing[InboxItem]:
        """List what was sent to a device."""
        return self._list(InboxItem, "/v1/devices/{}/inbox", device_id, query=search)

    async def mark_read(self, device_id: str, delivery_id: str, /) -> None:
        """Mark one inbox item as read."""
        await self._execute("PUT", "/v1/devices/{}/inbox/{}/read", device_id, delivery_id)

    async def mark_all_read(self, device_id: str, /, **position: Unpack[requests.ReadUpTo]) -> MarkedRead:
        """Mark all inbox items as read, or those up to a position."""
        return await self._call(MarkedRead, "POST", "/v1/devices/{}/inbox/read", device_id, body=position)


class Users(Resource):
    """Users, by the ids that the application gives them."""

    async def erase(self, user_id: str, /) -> ErasureResult:
        """Erase a user's personal data: devices, inbox, and the user's part of the delivery log."""
        return await self._call(ErasureResult, "DELETE", "/v1/users/{}", user_id)


class Topics(Resource):
    """Topics that devices subscribe to."""

    def list(self) -> Listing[Topic]:
        """List topics with their numbers of devices."""
        return self._list(Topic, "/v1/topics")

    async def publish(
        self, topic: str, /, *, idempotency_key: str | None = None, **message: Unpack[requests.Sendable]
    ) -> Notification:
        """Send a notification to all devices subscribed to a topic."""
        return await self._create(Notification, "/v1/topics/{}/publish", topic, body=message, key=idempotency_key)


class Categories(Resource):
    """Categories: kinds of messages that users can opt out of."""

    async def create(self, *, idempotency_key: str | None = None, **category: Unpack[requests.NewCategory]) -> Category:
        """Create a category."""
        return await self._create(Category, "/v1/categories", body=category, key=idempotency_key)

    def list(self) -> Listing[Category]:
        """List categories."""
        return self._list(Category, "/v1/categories")

    async def get(self, category_id: str, /) -> Category:
        """Return a category."""
        return await self._get(Category, "/v1/categories/{}", category_id)

    async def update(self, category_id: str, /, **changes: Unpack[requests.CategoryChange]) -> Category:
        """Change a category; omitted fields are unchanged."""
        return await self._call(Category, "PATCH", "/v1/categories/{}", category_id, body=changes)

    async def delete(self, category_id: str, /) -> None:
        """Delete a category."""
        await self._execute("DELETE", "/v1/categories/{}", category_id)


class Segments(Resource):
    """Segments: audiences stored under a name."""

    async def create(self, *, idempotency_key: str | None = None, **segment: Unpack[requests.NewSegment]) -> Segment:
        """Create a segment."""
        return await self._create(Segment, "/v1/segments", body=segment, key=idempotency_key)

    def list(self) -> Listing[Segment]:
        """List segments."""
        return self._list(Segment, "/v1/segments")

    async def get(self, segment_id: str, /) -> Segment:
        """Return a segment."""
        return await self._get(Segment, "/v1/segments/{}", segment_id)

    async def update(self, segment_id: str, /, **changes: Unpack[requests.SegmentChange]) -> Segment:
        """Change a segment; omitted fields are unchanged."""
        return await self._call(Segment, "PATCH", "/v1/segments/{}", segment_id, body=changes)

    async def delete(self, segment_id: str, /) -> None:
        """Delete a segment."""
        await self._execute("DELETE", "/v1/segments/{}", segment_id)


class Audiences(Resource):
    """Audiences: filters that select devices."""

    async def preview(self, **request: Unpack[requests.PreviewRequest]) -> Preview:
        """Count the devices that an audience selects now. Nothing is sent."""
        return await self._call(Preview, "POST", "/v1/audiences/preview", body=request)
