"""What came of it, and what the gateway itself is told: the log, webhooks, applications, keys, who did what."""

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
    def list(self, **search: Unpack[requests.DeliverySearch]) -> Listing[Delivery]:
        """Those that have come to their end, the newest first."""
        return self._list(Delivery, "/v1/deliveries", query=search)

    async def get(self, delivery_id: str, /) -> DeliveryDetail:
        """With every attempt: when, what the push service said, and what was done about it."""
        return await self._get(DeliveryDetail, "/v1/deliveries/{}", delivery_id)

    async def stats(self, **search: Unpack[requests.StatSearch]) -> Statistics:
        """What settled in each step by outcome and push service, how long it took, and what waits."""
        return await self._get(Statistics, "/v1/stats", query=search)

    def tail(self, **search: Unpack[requests.StreamSearch]) -> Tail:
        """Follow the log from now on, or from the `last_event_id` of another tail."""
        return Tail(self._transport, search)


class Webhooks(Resource):
    async def create(
        self, *, idempotency_key: str | None = None, **webhook: Unpack[requests.NewWebhook]
    ) -> CreatedWebhook:
        """Its secret is told this once."""
        return await self._make(CreatedWebhook, "/v1/webhooks", body=webhook, key=idempotency_key)

    def list(self) -> Listing[Webhook]:
        return self._list(Webhook, "/v1/webhooks")

    async def get(self, webhook_id: str, /) -> Webhook:
        return await self._get(Webhook, "/v1/webhooks/{}", webhook_id)

    async def update(self, webhook_id: str, /, **changes: Unpack[requests.WebhookChange]) -> Webhook:
        return await self._order(Webhook, "PATCH", "/v1/webhooks/{}", webhook_id, body=changes)

    async def delete(self, webhook_id: str, /) -> None:
        await self._do("DELETE", "/v1/webhooks/{}", webhook_id)

    async def rotate(self, webhook_id: str, /, **rotation: Unpack[requests.Rotation]) -> CreatedWebhook:
        """Another secret, which is told this once."""
        return await self._order(CreatedWebhook, "POST", "/v1/webhooks/{}/rotate", webhook_id, body=rotation)

    async def replay(self, webhook_id: str, /, **replay: Unpack[requests.Replay]) -> Webhook:
        """Send everything since a time again."""
        return await self._order(Webhook, "POST", "/v1/webhooks/{}/replay", webhook_id, body=replay)

    async def test(self, webhook_id: str, /) -> WebhookTested:
        return await self._order(WebhookTested, "POST", "/v1/webhooks/{}/test", webhook_id)


class Applications(Resource):
    """Needs the admin token for its key, except for reading the application that a key belongs to."""

    async def create(
        self, *, idempotency_key: str | None = None, **application: Unpack[requests.NewApplication]
    ) -> CreatedApplication:
        """Its keys are told this once."""
        return await self._make(CreatedApplication, "/v1/applications", body=application, key=idempotency_key)

    def list(self) -> Listing[ListedApplication]:
        return self._list(ListedApplication, "/v1/applications")

    async def get(self, application_id: str, /) -> Application:
        return await self._get(Application, "/v1/applications/{}", application_id)

    async def update(self, application_id: str, /, **changes: Unpack[requests.ApplicationChange]) -> Application:
        return await self._order(Application, "PATCH", "/v1/applications/{}", application_id, body=changes)

    async def create_key(
        self, application_id: str, /, *, idempotency_key: str | None = None, **key: Unpack[requests.NewKey]
    ) -> CreatedKey:
        """The key itself is told this once."""
        at = "/v1/applications/{}/keys"
        return await self._make(CreatedKey, at, application_id, body=key, key=idempotency_key)

    async def remove_key(self, application_id: str, key_id: str, /) -> None:
        await self._do("DELETE", "/v1/applications/{}/keys/{}", application_id, key_id)

    async def rotate_vapid(self, application_id: str, /) -> VapidKey:
        """Another key for browsers that subscribe from now on, beside the one before."""
        return await self._order(VapidKey, "POST", "/v1/applications/{}/vapid/rotate", application_id)


class Audit(Resource):
    def list(self, **search: Unpack[requests.AuditSearch]) -> Listing[AuditEntry]:
        """Administrative acts, the newest first."""
        return self._list(AuditEntry, "/v1/audit", query=search)
