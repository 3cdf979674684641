"""Who is told: devices, users, topics, categories, segments, audiences."""

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
    async def register(self, *, idempotency_key: str | None = None, **device: Unpack[requests.NewDevice]) -> Registered:
        """Register a browser, or refresh what is known of it."""
        return await self._make(Registered, "/v1/devices", body=device, key=idempotency_key)

    def import_(
        self,
        devices: Iterable[requests.NewDevice | bytes] | AsyncIterable[requests.NewDevice | bytes],
        **how: Unpack[requests.ImportSearch],
    ) -> ImportResults:
        """Register any number at once; a refused one keeps no other from being registered.

        Octets are taken for the JSON of one, without a line break in it.
        """
        return ImportResults(self._transport, "/v1/devices/import", devices, how)

    def list(self, **search: Unpack[requests.DeviceSearch]) -> Listing[Device]:
        return self._list(Device, "/v1/devices", query=search)

    async def get(self, device_id: str, /) -> Device:
        return await self._get(Device, "/v1/devices/{}", device_id)

    async def update(self, device_id: str, /, **changes: Unpack[requests.DeviceChange]) -> Device:
        """Attributes are merged; what is left out stays."""
        return await self._order(Device, "PATCH", "/v1/devices/{}", device_id, body=changes)

    async def delete(self, device_id: str, /) -> None:
        await self._do("DELETE", "/v1/devices/{}", device_id)

    async def locate(self, device_id: str, /, **location: Unpack[requests.Location]) -> None:
        await self._do("PUT", "/v1/devices/{}/location", device_id, body=location)

    async def unlocate(self, device_id: str, /) -> None:
        await self._do("DELETE", "/v1/devices/{}/location", device_id)

    async def add_topic(self, device_id: str, topic: str, /) -> None:
        await self._do("PUT", "/v1/devices/{}/topics/{}", device_id, topic)

    async def remove_topic(self, device_id: str, topic: str, /) -> None:
        await self._do("DELETE", "/v1/devices/{}/topics/{}", device_id, topic)

    async def preferences(self, device_id: str, /) -> Preferences:
        """The categories it may opt out of, and whether it did."""
        return await self._get(Preferences, "/v1/devices/{}/preferences", device_id)

    async def prefer(self, device_id: str, /, **wanted: Unpack[requests.PreferencesChange]) -> Preferences:
        return await self._order(Preferences, "PATCH", "/v1/devices/{}/preferences", device_id, body=wanted)

    def inbox(self, device_id: str, /, **search: Unpack[requests.InboxSearch]) -> Listing[InboxItem]:
        """What was sent to it."""
        return self._list(InboxItem, "/v1/devices/{}/inbox", device_id, query=search)

    async def mark_read(self, device_id: str, delivery_id: str, /) -> None:
        await self._do("PUT", "/v1/devices/{}/inbox/{}/read", device_id, delivery_id)

    async def mark_all_read(self, device_id: str, /, **upto: Unpack[requests.ReadUpTo]) -> MarkedRead:
        return await self._order(MarkedRead, "POST", "/v1/devices/{}/inbox/read", device_id, body=upto)


class Users(Resource):
    async def forget(self, user_id: str, /) -> ErasureResult:
        """Remove a person: devices, inbox, and the personal part of the log."""
        return await self._order(ErasureResult, "DELETE", "/v1/users/{}", user_id)


class Topics(Resource):
    def list(self) -> Listing[Topic]:
        return self._list(Topic, "/v1/topics")

    async def publish(
        self, topic: str, /, *, idempotency_key: str | None = None, **message: Unpack[requests.Sendable]
    ) -> Notification:
        """Send to all devices that subscribe to it."""
        return await self._make(Notification, "/v1/topics/{}/publish", topic, body=message, key=idempotency_key)


class Categories(Resource):
    async def create(self, *, idempotency_key: str | None = None, **category: Unpack[requests.NewCategory]) -> Category:
        return await self._make(Category, "/v1/categories", body=category, key=idempotency_key)

    def list(self) -> Listing[Category]:
        return self._list(Category, "/v1/categories")

    async def get(self, category_id: str, /) -> Category:
        return await self._get(Category, "/v1/categories/{}", category_id)

    async def update(self, category_id: str, /, **changes: Unpack[requests.CategoryChange]) -> Category:
        return await self._order(Category, "PATCH", "/v1/categories/{}", category_id, body=changes)

    async def delete(self, category_id: str, /) -> None:
        await self._do("DELETE", "/v1/categories/{}", category_id)


class Segments(Resource):
    async def create(self, *, idempotency_key: str | None = None, **segment: Unpack[requests.NewSegment]) -> Segment:
        return await self._make(Segment, "/v1/segments", body=segment, key=idempotency_key)

    def list(self) -> Listing[Segment]:
        return self._list(Segment, "/v1/segments")

    async def get(self, segment_id: str, /) -> Segment:
        return await self._get(Segment, "/v1/segments/{}", segment_id)

    async def update(self, segment_id: str, /, **changes: Unpack[requests.SegmentChange]) -> Segment:
        return await self._order(Segment, "PATCH", "/v1/segments/{}", segment_id, body=changes)

    async def delete(self, segment_id: str, /) -> None:
        await self._do("DELETE", "/v1/segments/{}", segment_id)


class Audiences(Resource):
    async def preview(self, **asked: Unpack[requests.PreviewRequest]) -> Preview:
        """Whom an audience would reach now. Nothing is sent."""
        return await self._order(Preview, "POST", "/v1/audiences/preview", body=asked)
