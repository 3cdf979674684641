"""Resources for operators: the delivery log, webhooks, applications with their keys, and the audit log."""

from typing import Unpack

from gateway.client import requests
from gateway.client.pagination import Listing
from gateway.client.resource import Resource
from gateway.client.responses import (
    Application,
    AuditEntry,
    CreatedApplication,
    CreatedKey,
    CreatedWebhook,
    Delivery,
    DeliveryDetail,
    ListedApplication,
    Statistics,
    VapidKey,
    Webhook,
    WebhookTested,
)
from gateway.client.streams import Tail


class Deliveries(Resource):
    """The delivery log: one entry per notification and device."""

    def list(self, **search: Unpack[requests.DeliverySearch]) -> Listing[Delivery]:
        """List finished deliveries, newest first."""
        return self._list(Delivery, "/v1/deliveries", query=search)

    async def get(self, delivery_id: str, /) -> DeliveryDetail:
        """Return a delivery and its attempts: the time, the response of the push service, and the next step of each."""
        return await self._get(DeliveryDetail, "/v1/deliveries/{}", delivery_id)

    async def get_statistics(self, **search: Unpack[requests.StatSearch]) -> Statistics:
        """Return outcomes and latencies by time interval and push service, and the queue depth."""
        return await self._get(Statistics, "/v1/stats", query=search)

    def tail(self, **search: Unpack[requests.StreamSearch]) -> Tail:
        """Follow the log from now on, or resume after the `last_event_id` of an earlier tail."""
        return Tail(self._transport, search)


class Webhooks(Resource):
    """Webhooks: URLs that the gateway sends events to."""

    async def create(
        self, *, idempotency_key: str | None = None, **webhook: Unpack[requests.NewWebhook]
    ) -> CreatedWebhook:
        """Create a webhook. The response contains the signing secret; it is not shown again."""
        return await self._create(CreatedWebhook, "/v1/webhooks", body=webhook, key=idempotency_key)

    def list(self) -> Listing[Webhook]:
        """List webhooks."""
        return self._list(Webhook, "/v1/webhooks")

    async def get(self, webhook_id: str, /) -> Webhook:
        """Return a webhook."""
        return await self._get(Webhook, "/v1/webhooks/{}", webhook_id)

    async def update(self, webhook_id: str, /, **changes: Unpack[requests.WebhookChange]) -> Webhook:
        """Change a webhook; omitted fields are unchanged."""
        return await self._call(Webhook, "PATCH", "/v1/webhooks/{}", webhook_id, body=changes)

    async def delete(self, webhook_id: str, /) -> None:
        """Delete a webhook."""
        await self._execute("DELETE", "/v1/webhooks/{}", webhook_id)

    async def rotate_secret(self, webhook_id: str, /, **rotation: Unpack[requests.Rotation]) -> CreatedWebhook:
        """Create a new signing secret. The response contains the secret; it is not shown again."""
        return await self._call(CreatedWebhook, "POST", "/v1/webhooks/{}/rotate", webhook_id, body=rotation)

    async def replay(self, webhook_id: str, /, **replay: Unpack[requests.Replay]) -> Webhook:
        """Resend all events that occurred since a given time."""
        return await self._call(Webhook, "POST", "/v1/webhooks/{}/replay", webhook_id, body=replay)

    async def send_test_event(self, webhook_id: str, /) -> WebhookTested:
        """Send a test event."""
        return await self._call(WebhookTested, "POST", "/v1/webhooks/{}/test", webhook_id)


class Applications(Resource):
    """Applications: the tenants of the gateway.

    All methods need the admin token in place of an API key. Only `get` also accepts an API key, for the key's own
    application.
    """

    async def create(
        self, *, idempotency_key: str | None = None, **application: Unpack[requests.NewApplication]
    ) -> CreatedApplication:
        """Create an application. The response contains its keys; they are not shown again."""
        return await self._create(CreatedApplication, "/v1/applications", body=application, key=idempotency_key)

    def list(self) -> Listing[ListedApplication]:
        """List applications."""
        return self._list(ListedApplication, "/v1/applications")

    async def get(self, application_id: str, /) -> Application:
        """Return an application with its keys."""
        return await self._get(Application, "/v1/applications/{}", application_id)

    async def update(self, application_id: str, /, **changes: Unpack[requests.ApplicationChange]) -> Application:
        """Change an application; omitted fields are unchanged."""
        return await self._call(Application, "PATCH", "/v1/applications/{}", application_id, body=changes)

    async def create_key(
        self, application_id: str, /, *, idempotency_key: str | None = None, **key: Unpack[requests.NewKey]
    ) -> CreatedKey:
        """Create an API key. The response contains the key; it is not shown again."""
        path = "/v1/applications/{}/keys"
        return await self._create(CreatedKey, path, application_id, body=key, key=idempotency_key)

    async def remove_key(self, application_id: str, key_id: str, /) -> None:
        """Remove an API key. Later requests with the key fail."""
        await self._execute("DELETE", "/v1/applications/{}/keys/{}", application_id, key_id)

    async def rotate_vapid_key(self, application_id: str, /) -> VapidKey:
        """Create another VAPID key for future subscriptions; existing ones keep their key."""
        return await self._call(VapidKey, "POST", "/v1/applications/{}/vapid/rotate", application_id)


class Audit(Resource):
    """The audit log."""

    def list(self, **search: Unpack[requests.AuditSearch]) -> Listing[AuditEntry]:
        """List administrative actions, newest first."""
        return self._list(AuditEntry, "/v1/audit", query=search)
