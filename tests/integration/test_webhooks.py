"""Webhooks: subscribed events are signed, sent in order, and repeated until they are accepted."""

import asyncio
import hashlib
import hmac
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from prometheus_client import REGISTRY
from sqlalchemy import text
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from gateway.domain import ids
from gateway.outbound.client import OutboundClient
from gateway.outbound.policy import OutboundPolicy
from gateway.records import outbox
from gateway.service.webhooks import batches
from gateway.sim import Vendor
from gateway.worker import maintenance
from gateway.worker.maintenance.retention_policy import RetentionPolicy
from gateway.worker.pollers import webhook_dispatcher
from tests.support.api import Api
from tests.support.gateway_parts import TIMEOUT_S, Parts
from tests.support.worker_process import worker_process

# A part of the receiver's URL that must not be logged.
SECRET_URL_PART = "a-part-that-only-the-receiver-knows-0123456789abcdef"


@dataclass
class Message:
    """A request to a receiver."""

    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def events(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = json.loads(self.body)["events"]
        return events


@dataclass
class Receiver:
    """A back end on loopback that responds with the statuses of `responses` in turn, the last one repeatedly.

    None means no response. While `may_respond` is not set, requests wait.
    """

    origin: str = ""
    responses: list[int | None] = field(default_factory=lambda: [204])
    response_headers: dict[str, str] = field(default_factory=dict)
    may_respond: asyncio.Event = field(default_factory=asyncio.Event)
    messages: list[Message] = field(default_factory=list)

    received: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        self.may_respond.set()

    @property
    def url(self) -> str:
        return f"{self.origin}/{SECRET_URL_PART}"

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        status = self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]
        async with self.received:
            self.messages.append(Message(headers, body))
            self.received.notify_all()
        await self.may_respond.wait()
        if status is None:
            await asyncio.Event().wait()
        return web.Response(status=status or 200, headers=self.response_headers)

    async def wait_until(self, condition: Callable[["Receiver"], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_S), self.received:
            await self.received.wait_for(lambda: condition(self))

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for message in self.messages for event in message.events]

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]


@asynccontextmanager
async def run_receiver() -> AsyncIterator[Receiver]:
    """Run a back end that receives webhook messages until the context ends."""
    receiver = Receiver()
    app = web.Application(client_max_size=1 << 24)
    app.router.add_post("/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield receiver
    finally:
        await runner.cleanup()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A running receiver."""
    async with run_receiver() as receiver:
        yield receiver


@pytest.fixture
async def other() -> AsyncIterator[Receiver]:
    """A second running receiver."""
    async with run_receiver() as receiver:
        yield receiver


@pytest.fixture
async def parts(parts: Parts, receiver: Receiver, other: Receiver) -> Parts:
    """A gateway that may post to the two receivers."""
    parts.context = replace(parts.context, outbound=OutboundPolicy([receiver.origin, other.origin]))
    return parts


@asynccontextmanager
async def run_dispatcher(parts: Parts) -> AsyncIterator[asyncio.Task[None]]:
    """Run a dispatcher, and stop it at the end of the context unless the test has cancelled its task."""
    stop = asyncio.Event()
    async with OutboundClient(parts.context.outbound) as client:
        task = asyncio.create_task(
            webhook_dispatcher.WebhookDispatcher(parts.context, parts.notifier, client).run(stop)
        )
        try:
            yield task
        finally:
            stop.set()
            await asyncio.wait([task], timeout=TIMEOUT_S)
            if not task.cancelled():
                task.result()


async def create_webhook(api: Api, receiver: Receiver, *events: str, name: str = "w") -> dict[str, Any]:
    """Create a webhook for these event types, by default for all."""
    webhook: dict[str, Any] = await api.call_ok(
        "POST", "/v1/webhooks", {"name": name, "url": receiver.url, "events": list(events or ["*"])}
    )
    return webhook


async def get_webhook(api: Api, webhook: dict[str, Any]) -> dict[str, Any]:
    """Return the current state of a webhook."""
    body: dict[str, Any] = await api.call_ok("GET", f"/v1/webhooks/{webhook['id']}")
    return body


async def wait_for_webhook(
    api: Api, webhook: dict[str, Any], condition: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """Poll the webhook until the condition on its JSON holds, and return the JSON."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            if condition(body := await get_webhook(api, webhook)):
                return body
            await asyncio.sleep(0.02)  # the dispatcher raises no event


async def execute(parts: Parts, sql: str, **values: Any) -> None:
    """Execute a statement and wake the dispatchers."""
    async with parts.engine.begin() as conn:
        await conn.execute(text(sql), values)
    await notify_dispatchers(parts)


async def notify_dispatchers(parts: Parts) -> None:
    """Wake the dispatchers, as a new event does."""
    async with parts.engine.begin() as conn:
        await conn.execute(text("SELECT pg_notify('gateway_happenings', '')"))


async def make_due(parts: Parts) -> None:
    """Make all webhooks due, as at the end of a lease or a back-off."""
    await execute(parts, "UPDATE webhooks SET run_at = now()")


def is_verified(message: Message, secret: str) -> bool:
    """Return whether the Standard Webhooks library accepts the signature of a message."""
    try:
        Webhook(secret).verify(message.body, message.headers)
    except WebhookVerificationError:
        return False
    return True


async def test_every_event_is_sent_in_order(api: Api, receiver: Receiver) -> None:
    """A webhook for all events receives them in order and once."""
    webhook = await create_webhook(api, receiver)
    device = await api.register(user_id="u-1")
    async with api.parts.run_worker(), run_dispatcher(api.parts):
        sent = await api.parts.submit()
        await api.parts.wait_until_done(sent.id)
        await receiver.wait_until(
            lambda receiver: "notification.done" in receiver.types and "delivery.accepted" in receiver.types
        )
        token = api.parts.context.keyring.issue_receipt_token(sent.id, UUID(device["id"][4:]), None, 2**31)
        await api.call_ok("POST", "/v1/receipts", {"token": token, "event": "clicked", "action": "open"}, key=None)
        await api.call_ok("DELETE", f"/v1/devices/{device['id']}")
        await receiver.wait_until(lambda receiver: "device.unregistered" in receiver.types)
    event_types = [event_type for event_type in receiver.types if event_type != "delivery.accepted"]
    assert event_types == [
        "device.registered",
        "notification.accepted",
        "notification.started",
        "notification.done",
        "delivery.displayed",
        "delivery.clicked",
        "device.unregistered",
    ]
    by_type = {event["type"]: event for event in receiver.events}
    assert len({event["id"] for event in receiver.events}) == len(receiver.events) == 8
    [body] = (await api.call_ok("GET", "/v1/deliveries"))["items"]
    accepted = by_type["delivery.accepted"]
    receipt_fields = ("displayed_at", "clicked_at", "action")  # set after the event
    assert accepted["data"] == {**body, **dict.fromkeys(receipt_fields)}
    assert accepted["at"] == body["settled_at"]
    assert by_type["device.registered"]["data"] == {
        "id": device["id"],
        "user_id": "u-1",
        "status": "active",
        "push_service": body["host"],
    }
    clicked = by_type["delivery.clicked"]["data"]
    assert (clicked["id"], clicked["user_id"], clicked["action"]) == (body["id"], "u-1", "open")
    done = by_type["notification.done"]["data"]
    assert (done["id"], done["targets"], done["accepted"], done["status"]) == (body["notification_id"], 1, 1, "done")
    assert (await get_webhook(api, webhook))["failures"] == 0


async def test_webhook_gets_subscribed_events_since_creation(api: Api, receiver: Receiver, other: Receiver) -> None:
    """A webhook receives the types it subscribes to, from its creation on."""
    await api.register()
    async with api.parts.run_worker():
        before = await api.parts.submit()
        await api.parts.wait_until_done(before.id)
        await create_webhook(api, receiver, "delivery.*", name="a")
        await create_webhook(api, other, "device.gone", "notification.done", "delivery.rejected", name="b")
        [gone] = await api.parts.register(api.parts.subscribe(Vendor.FCM, 1))
        await execute(api.parts, "UPDATE devices SET endpoint = endpoint || 'x' WHERE id = :id", id=gone)
        after = await api.parts.submit()
        async with run_dispatcher(api.parts):
            await api.parts.wait_until_done(after.id)
            await receiver.wait_until(lambda receiver: len(receiver.events) == 2)
            await other.wait_until(lambda receiver: "notification.done" in receiver.types)
    assert sorted(receiver.types) == ["delivery.accepted", "delivery.gone"]
    assert {event["data"]["notification_id"] for event in receiver.events} == {
        ids.format_id(ids.NOTIFICATION, after.id)
    }
    assert other.types == ["device.gone", "notification.done"]
    assert other.events[0]["data"] | {"push_service": ""} == {
        "id": ids.format_id(ids.DEVICE, gone),
        "user_id": None,
        "status": "gone",
        "push_service": "",
    }


async def test_events_without_subscriber_are_not_stored(api: Api, receiver: Receiver) -> None:
    """Events that no webhook subscribes to are not stored."""
    await create_webhook(api, receiver, "delivery.*", "device.gone")
    device = await api.register()
    async with api.parts.run_worker():
        sent = await api.parts.submit()
        await api.parts.wait_until_done(sent.id)
    await api.call_ok("DELETE", f"/v1/devices/{device['id']}")
    assert (await api.rows())["happenings"] == 0


async def test_pause_resume_and_cancel_are_sent(api: Api, receiver: Receiver) -> None:
    """The webhook receives an event for each pause, resume and cancellation of a notification."""
    await create_webhook(api, receiver, "notification.*")
    start = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    body = {"content": {"title": "T"}, "audience": {"everyone": True}, "schedule": {"at": start}}
    notification = await api.call_ok("POST", "/v1/notifications", body)
    for transition in ("pause", "resume", "cancel"):
        await api.call_ok("POST", f"/v1/notifications/{notification['id']}/{transition}")
    async with run_dispatcher(api.parts):
        await receiver.wait_until(lambda receiver: len(receiver.events) == 4)
    steps = [(event["type"].partition(".")[2], event["data"]["status"]) for event in receiver.events]
    assert steps == [
        ("accepted", "scheduled"),
        ("paused", "paused"),
        ("resumed", "scheduled"),
        ("cancelled", "cancelled"),
    ]


async def test_messages_verify_with_the_published_library(api: Api, receiver: Receiver) -> None:
    """The signature verifies with the Standard Webhooks library, and equals the one that the test computes."""
    webhook = await create_webhook(api, receiver)
    async with run_dispatcher(api.parts):
        await api.register()
        await receiver.wait_until(lambda receiver: receiver.messages != [])
    [message] = receiver.messages
    assert is_verified(message, webhook["secret"])
    assert not is_verified(Message(message.headers, message.body.replace(b"active", b"gone..")), webhook["secret"])
    assert not is_verified(Message({**message.headers, "webhook-id": "msg_other"}, message.body), webhook["secret"])
    scheme, _, encoded = webhook["secret"].partition("_")
    signed = f"{message.id}.{message.headers['webhook-timestamp']}.".encode() + message.body
    expected = b64encode(hmac.new(b64decode(encoded), signed, hashlib.sha256).digest()).decode()
    assert (scheme, message.headers["webhook-signature"]) == ("whsec", f"v1,{expected}")
    assert len(b64decode(encoded)) == 32
    assert message.headers["content-type"] == "application/json"


async def test_failed_message_is_repeated_unchanged(api: Api, receiver: Receiver) -> None:
    """A message that is not accepted is repeated with the same id and body."""
    webhook = await create_webhook(api, receiver, "device.*", "delivery.*")
    receiver.responses = [500, 302, 404, 204]
    await api.register(user_id="u-1")
    async with api.parts.run_worker():
        sent = await api.parts.submit()
        await api.parts.wait_until_done(sent.id)
    async with run_dispatcher(api.parts):
        for count, status in ((1, 500), (2, 302), (3, 404)):
            failing = await wait_for_webhook(api, webhook, lambda body, count=count: body["failures"] == count)
            assert failing["last_error"] == f"the receiver responded with status {status}"
            assert failing["next_try_at"] > datetime.now(UTC).isoformat()
            await api.register()  # this event is sent with the next message
            await make_due(api.parts)
        await receiver.wait_until(lambda receiver: len(receiver.messages) == 5)
    first, *repeats, last = receiver.messages
    assert {(message.id, message.body) for message in repeats} == {(first.id, first.body)}
    assert all(is_verified(message, webhook["secret"]) for message in receiver.messages)
    assert last.id != first.id
    assert [event["type"] for event in last.events] == ["device.registered"] * 3
    body = await wait_for_webhook(api, webhook, lambda body: body["failures"] == 0)
    assert (body["failing_since"], body["last_error"], body["next_try_at"]) == (None, None, None)
    assert body["last_ok_at"] is not None


async def test_repeated_batch_ignores_later_receipts(api: Api, receiver: Receiver) -> None:
    """A repeated batch equals the first one, although a receipt changed its delivery in between."""
    webhook = await create_webhook(api, receiver, "delivery.accepted")
    receiver.responses = [503, 204]
    device = await api.register()
    async with api.parts.run_worker():
        sent = await api.parts.submit()
        await api.parts.wait_until_done(sent.id)
    async with run_dispatcher(api.parts):
        await wait_for_webhook(api, webhook, lambda body: body["failures"] == 1)
        token = api.parts.context.keyring.issue_receipt_token(sent.id, UUID(device["id"][4:]), None, 2**31)
        await api.call_ok("POST", "/v1/receipts", {"token": token, "event": "clicked"}, key=None)
        await make_due(api.parts)
        await receiver.wait_until(lambda receiver: len(receiver.messages) == 2)
    first, second = receiver.messages
    assert (first.id, first.body) == (second.id, second.body)


async def test_message_of_a_killed_sender_is_repeated(api: Api, receiver: Receiver, tmp_path: Path) -> None:
    """When a dispatcher is killed while it sends a message, another process repeats the message unchanged."""
    webhook = await create_webhook(api, receiver)
    receiver.responses = [None, 204]
    await api.register()
    async with worker_process(api.parts, tmp_path, outbound_hosts=receiver.origin) as worker:
        await receiver.wait_until(lambda receiver: len(receiver.messages) == 1)
        await worker.kill()
    await api.register()
    async with run_dispatcher(api.parts):
        await make_due(api.parts)
        await receiver.wait_until(lambda receiver: len(receiver.messages) == 3)
    first, repeated, next_message = receiver.messages
    assert (first.id, first.body) == (repeated.id, repeated.body)
    assert [event["type"] for event in next_message.events] == ["device.registered"]
    assert is_verified(repeated, webhook["secret"])
    assert webhook["secret"] not in worker.log
    assert SECRET_URL_PART not in worker.log


async def test_overtaken_sender_settles_nothing(api: Api, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender whose lease expires before the response does not settle; another sender repeats the batch."""
    monkeypatch.setattr(webhook_dispatcher, "TIMEOUT", timedelta(seconds=2))
    webhook = await create_webhook(api, receiver, "device.registered")
    receiver.responses = [None, 204]
    await api.register()
    async with run_dispatcher(api.parts):
        await receiver.wait_until(lambda receiver: len(receiver.messages) == 1)
        await make_due(api.parts)
        await receiver.wait_until(lambda receiver: len(receiver.messages) == 2)
        await wait_for_webhook(api, webhook, lambda body: body["last_ok_at"] is not None)
    # The dispatcher has ended, so the first request has timed out, and its failure is not counted.
    assert (await get_webhook(api, webhook))["failures"] == 0
    assert receiver.messages[0].body == receiver.messages[1].body


async def test_many_events_are_sent_in_batches_of_100(api: Api, receiver: Receiver) -> None:
    """Many events are sent in order, in batches of 100."""
    await create_webhook(api, receiver, "delivery.*")
    await api.parts.register(api.parts.subscribe(Vendor.FCM, 250, share_keys=True))
    async with api.parts.run_worker():
        sent = await api.parts.submit()
        await api.parts.wait_until_done(sent.id)
    async with run_dispatcher(api.parts):
        await receiver.wait_until(lambda receiver: len(receiver.events) == 250)
    assert [len(message.events) for message in receiver.messages] == [100, 100, 50]
    log = await api.call_ok("GET", "/v1/deliveries?limit=250")
    assert [event["data"]["id"] for event in receiver.events] == [delivery["id"] for delivery in reversed(log["items"])]
    assert max(len(message.body) for message in receiver.messages) <= batches.MAX_OCTETS + 20 * batches.MAX_EVENTS


async def test_batch_is_split_by_size_without_loss(
    api: Api, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch is split at its maximum size, and no event is lost."""
    monkeypatch.setattr(batches, "MAX_OCTETS", 1000)
    receiver.responses = [500, 204]
    webhook = await create_webhook(api, receiver, "device.*", "delivery.*")
    await api.parts.register(api.parts.subscribe(Vendor.FCM, 7))
    async with api.parts.run_worker():
        sent = await api.parts.submit()
        await api.parts.wait_until_done(sent.id)
    async with run_dispatcher(api.parts):
        await wait_for_webhook(api, webhook, lambda body: body["failures"] == 1)
        await make_due(api.parts)
        await receiver.wait_until(lambda receiver: len({event["id"] for event in receiver.events}) == 14)
    first, second, *_ = receiver.messages
    assert (first.id, first.body) == (second.id, second.body)
    assert all(len(message.body) <= 1000 or len(message.events) == 1 for message in receiver.messages)
    event_types = [event["type"] for message in receiver.messages[1:] for event in message.events]
    assert event_types == ["device.registered"] * 7 + ["delivery.accepted"] * 7


async def test_late_commit_is_not_skipped(api: Api, receiver: Receiver) -> None:
    """Events are sent in the order of their transactions: an event waits for an earlier one that is not committed."""
    await create_webhook(api, receiver, "device.*")
    [early, late] = await api.parts.register(api.parts.subscribe(Vendor.FCM, 2))
    async with run_dispatcher(api.parts):
        await receiver.wait_until(lambda receiver: len(receiver.events) == 2)
        async with api.parts.engine.begin() as slow:
            await outbox.append_device_events(slow, "device.changed", text("devices.id = :id").bindparams(id=early))
            async with api.parts.engine.begin() as quick:
                await outbox.append_device_events(quick, "device.gone", text("devices.id = :id").bindparams(id=late))
            await asyncio.sleep(1.2)  # an event that does not wait would be sent in this time
            assert len(receiver.events) == 2
        await receiver.wait_until(lambda receiver: len(receiver.events) == 4)
    assert receiver.types[2:] == ["device.changed", "device.gone"]


async def test_dead_receiver_does_not_delay_others(api: Api, receiver: Receiver, other: Receiver) -> None:
    """A receiver that does not respond delays no other receiver."""
    receiver.responses = [None]
    dead = await create_webhook(api, receiver, name="dead")
    await create_webhook(api, other, name="alive")
    async with api.parts.run_worker(), run_dispatcher(api.parts):
        await api.register()
        await receiver.wait_until(lambda receiver: len(receiver.messages) == 1)
        for count in (1, 2, 3):
            sent = await api.parts.submit()
            assert (await api.parts.wait_until_done(sent.id)).accepted == 1
            await other.wait_until(lambda receiver, count=count: receiver.types.count("delivery.accepted") == count)
        # The first request to the dead receiver still waits for its response.
        assert len(receiver.messages) == 1
        assert (await get_webhook(api, dead))["failures"] == 0


async def test_stop_does_not_wait_for_a_dead_receiver(
    api: Api, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopping sender does not wait for a receiver that does not respond."""
    monkeypatch.setattr(webhook_dispatcher, "SHUTDOWN_TIMEOUT_S", 0.2)
    receiver.responses = [None, 204]
    webhook = await create_webhook(api, receiver)
    await api.register()
    async with run_dispatcher(api.parts):
        await receiver.wait_until(lambda receiver: len(receiver.messages) == 1)
        stopping_at = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - stopping_at < webhook_dispatcher.TIMEOUT.total_seconds() / 2
    async with run_dispatcher(api.parts):
        await make_due(api.parts)
        await wait_for_webhook(api, webhook, lambda body: body["last_ok_at"] is not None)
    assert receiver.messages[0].id == receiver.messages[1].id


async def test_dead_receivers_release_their_slots(
    api: Api, receiver: Receiver, other: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dead receivers release their slots when the timeout ends."""
    monkeypatch.setattr(webhook_dispatcher, "MAX_CONCURRENT", 2)
    monkeypatch.setattr(webhook_dispatcher, "TIMEOUT", timedelta(seconds=0.3))
    receiver.responses = [None]
    for number in range(4):
        await create_webhook(api, receiver, name=f"dead {number}")
    await create_webhook(api, other, name="alive")
    async with run_dispatcher(api.parts):
        await api.register()
        await other.wait_until(lambda receiver: receiver.types == ["device.registered"])


async def test_retry_after_is_respected(api: Api, receiver: Receiver) -> None:
    """A Retry-After header of the receiver is respected."""
    receiver.responses, receiver.response_headers = [429], {"Retry-After": "3000"}
    webhook = await create_webhook(api, receiver)
    await api.register()
    async with run_dispatcher(api.parts):
        body = await wait_for_webhook(api, webhook, lambda body: body["failures"] == 1)
    wait = datetime.fromisoformat(body["next_try_at"]) - datetime.now(UTC)
    assert timedelta(seconds=2900) < wait <= timedelta(seconds=3000)


async def test_failing_webhook_is_disabled_after_a_day(
    api: Api, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a day of failures a webhook is disabled, logged and counted; it can be activated again."""
    before = REGISTRY.get_sample_value("gateway_webhooks_disabled_total") or 0.0
    receiver.responses = [500]
    webhook = await create_webhook(api, receiver)
    await api.register()
    async with run_dispatcher(api.parts):
        await wait_for_webhook(api, webhook, lambda body: body["failures"] == 1)
        for hours, failures in ((23, 2), (25, 3)):
            await execute(
                api.parts,
                "UPDATE webhooks SET run_at = now(), failing_since = now() - CAST(:h AS int) * interval '1 hour'",
                h=hours,
            )
            body = await wait_for_webhook(api, webhook, lambda body, failures=failures: body["failures"] == failures)
            assert body["status"] == ("active" if hours == 23 else "disabled")
        assert body["cause"] == "the receiver accepted nothing for 24 hours: the receiver responded with status 500"
        await make_due(api.parts)
        await api.register()
        assert len(receiver.messages) == 3
        assert REGISTRY.get_sample_value("gateway_webhooks_disabled_total") == before + 1
        output = capsys.readouterr()
        assert "webhook.disabled" in output.out + output.err
        assert SECRET_URL_PART not in output.out + output.err
        # After the activation, the failed message is repeated, and the event from the disabled time follows.
        receiver.responses = [204]
        activated = await api.call_ok("PATCH", f"/v1/webhooks/{webhook['id']}", {"status": "active"})
        assert (activated["status"], activated["cause"], activated["failures"]) == ("active", None, 0)
        await receiver.wait_until(lambda receiver: len(receiver.messages) == 5)
    *attempts, next_message = receiver.messages
    assert len({(message.id, message.body) for message in attempts}) == 1
    assert next_message.events[0]["id"] != attempts[0].events[0]["id"]


async def test_status_410_disables_at_once(api: Api, receiver: Receiver) -> None:
    """A receiver that responds with 410 disables its webhook at once."""
    receiver.responses = [410]
    webhook = await create_webhook(api, receiver)
    await api.register()
    async with run_dispatcher(api.parts):
        body = await wait_for_webhook(api, webhook, lambda body: body["status"] == "disabled")
    assert "410" in body["cause"]


async def test_disabled_webhook_receives_nothing(api: Api, receiver: Receiver) -> None:
    """A disabled webhook receives nothing."""
    webhook = await create_webhook(api, receiver)
    await api.call_ok("PATCH", f"/v1/webhooks/{webhook['id']}", {"status": "disabled"})
    async with run_dispatcher(api.parts):
        await api.register()
        await make_due(api.parts)
        await asyncio.sleep(1.2)
    assert receiver.messages == []


async def test_message_accepted_while_disabled_is_not_repeated(api: Api, receiver: Receiver) -> None:
    """A message that was accepted while the webhook was disabled is not repeated."""
    webhook = await create_webhook(api, receiver)
    receiver.may_respond.clear()
    await api.register()
    async with run_dispatcher(api.parts):
        await receiver.wait_until(lambda receiver: len(receiver.messages) == 1)
        await api.call_ok("PATCH", f"/v1/webhooks/{webhook['id']}", {"status": "disabled"})
        receiver.may_respond.set()
        await wait_for_webhook(api, webhook, lambda body: body["last_ok_at"] is not None)
        await api.register()
        await api.call_ok("PATCH", f"/v1/webhooks/{webhook['id']}", {"status": "active"})
        await receiver.wait_until(lambda receiver: len(receiver.messages) == 2)
    assert len({event["id"] for event in receiver.events}) == len(receiver.events) == 2


async def test_old_and_new_secret_both_sign_during_rotation(api: Api, receiver: Receiver) -> None:
    """While a rotation's overlap lasts, messages are signed with the old and the new secret."""
    webhook = await create_webhook(api, receiver)
    path = f"/v1/webhooks/{webhook['id']}"
    second = await api.call_ok("POST", f"{path}/rotate", {"keep_old_hours": 24})
    async with run_dispatcher(api.parts):
        await api.register()
        await receiver.wait_until(lambda receiver: len(receiver.messages) == 1)
        third = await api.call_ok("POST", f"{path}/rotate", {"keep_old_hours": 0})
        await api.register()
        await receiver.wait_until(lambda receiver: len(receiver.messages) == 2)
    secrets = [webhook["secret"], second["secret"], third["secret"]]
    assert [is_verified(receiver.messages[0], secret) for secret in secrets] == [True, True, False]
    assert [is_verified(receiver.messages[1], secret) for secret in secrets] == [False, False, True]
    assert len(set(secrets)) == 3


async def test_replay_sends_past_events_again(api: Api, receiver: Receiver) -> None:
    """A replay sends the events since a time again, with the same ids."""
    webhook = await create_webhook(api, receiver)
    async with api.parts.run_worker(), run_dispatcher(api.parts):
        await api.register()
        sent = await api.parts.submit()
        await api.parts.wait_until_done(sent.id)
        await receiver.wait_until(lambda receiver: len(receiver.events) == 5)
        first = {event["id"]: event for event in receiver.events}
        receiver.messages.clear()
        since = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
        await api.call_ok("POST", f"/v1/webhooks/{webhook['id']}/replay", {"since": since})
        await receiver.wait_until(lambda receiver: len(receiver.events) == 5)
        assert {event["id"]: event for event in receiver.events} == first
        receiver.messages.clear()
        # Replay from the time of the planning.
        since = next(event["at"] for event in first.values() if event["type"] == "notification.started")
        await api.call_ok("POST", f"/v1/webhooks/{webhook['id']}/replay", {"since": since})
        await receiver.wait_until(lambda receiver: len(receiver.events) == 3)
        assert set(receiver.types) == {"notification.started", "delivery.accepted", "notification.done"}
        receiver.messages.clear()
        await api.call_ok("PATCH", f"/v1/webhooks/{webhook['id']}", {"status": "disabled"})
        future = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        body = await api.call_ok("POST", f"/v1/webhooks/{webhook['id']}/replay", {"since": future})
        assert body["status"] == "active"
        await api.register()
        await receiver.wait_until(lambda receiver: len(receiver.events) == 1)
    assert receiver.types == ["device.registered"]


async def test_added_event_types_are_sent_from_then_on(api: Api, receiver: Receiver) -> None:
    """Events of an added type are sent from the time of the change of the webhook on."""
    webhook = await create_webhook(api, receiver, "device.gone")
    await api.register()
    async with api.parts.run_worker(), run_dispatcher(api.parts):
        await api.parts.wait_until_done((await api.parts.submit()).id)
        await api.call_ok("PATCH", f"/v1/webhooks/{webhook['id']}", {"events": ["delivery.*"]})
        after = await api.parts.submit()
        await api.parts.wait_until_done(after.id)
        await receiver.wait_until(lambda receiver: receiver.events != [])
    assert [event["data"]["notification_id"] for event in receiver.events] == [
        ids.format_id(ids.NOTIFICATION, after.id)
    ]


async def test_test_event_reports_the_response(api: Api, receiver: Receiver) -> None:
    """The test event reports the receiver's status or the error."""
    webhook = await create_webhook(api, receiver, "device.gone")
    path = f"/v1/webhooks/{webhook['id']}/test"
    response = await api.call_ok("POST", path)
    assert (response["status"], response["error"]) == (204, None)
    [message] = receiver.messages
    assert is_verified(message, webhook["secret"])
    assert (message.events[0]["type"], message.events[0]["data"]) == ("webhook.test", {"webhook_id": webhook["id"]})
    receiver.responses = [500]
    assert (await api.call_ok("POST", path))["status"] == 500
    await execute(api.parts, "UPDATE webhooks SET url = 'http://10.0.0.1/'")
    response = await api.call_ok("POST", path)
    assert (response["status"], response["error"]) == (None, "the URL must begin with https://")


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.org/",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://0x7f.1/",
        "https://2130706433/",
        "https://[::ffff:10.0.0.1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://localhost/",
        "https://user:word@hooks.example.org/",
        "https://hooks.example.org/#x",
        "ftp://hooks.example.org/",
        "nonsense",
    ],
)
async def test_internal_addresses_are_refused(api: Api, receiver: Receiver, url: str) -> None:
    """URLs with private addresses, without HTTPS, or with other invalid parts are refused."""
    response = await api.call("POST", "/v1/webhooks", {"name": "w", "url": url, "events": ["*"]})
    assert (response.status, response.body["code"]) == (422, "address_not_allowed")
    assert (await api.rows())["webhooks"] == 0
    webhook = await create_webhook(api, receiver)
    response = await api.call("PATCH", f"/v1/webhooks/{webhook['id']}", {"url": url})
    assert (response.status, response.body["code"]) == (422, "address_not_allowed")


async def test_allowed_address_is_checked_on_every_request(api: Api, receiver: Receiver, other: Receiver) -> None:
    """The URL of a stored webhook is checked again for each request."""
    webhook = await create_webhook(api, receiver)
    api.parts.context = replace(api.parts.context, outbound=OutboundPolicy([other.origin]))
    await api.register()
    async with run_dispatcher(api.parts):
        body = await wait_for_webhook(api, webhook, lambda body: body["failures"] == 1)
    assert body["last_error"] == "the URL must begin with https://"
    assert receiver.messages == []


@pytest.mark.parametrize("events", [[], ["nothing"], ["delivery"], ["device.*", "*.gone"], ["webhook.test"], "*"])
async def test_unknown_event_types_are_refused(api: Api, receiver: Receiver, events: Any) -> None:
    """Unknown event types are refused."""
    response = await api.call("POST", "/v1/webhooks", {"name": "w", "url": receiver.url, "events": events})
    assert response.status == 422
    assert response.pointers[0].startswith("/events")


async def test_secret_is_returned_once_and_stored_encrypted(api: Api, receiver: Receiver) -> None:
    """The secret is returned once and stored encrypted."""
    webhook = await create_webhook(api, receiver)
    key = b64decode(webhook["secret"].removeprefix("whsec_"))
    stored = await api.parts.scalar("SELECT encode(secrets, 'hex') FROM webhooks")
    assert key.hex() not in stored
    assert webhook["secret"].encode().hex() not in stored
    for method, path, body in (
        ("GET", "", None),
        ("PATCH", "", {"name": "other"}),
        ("POST", "/replay", {"since": "2026-01-01T00:00:00Z"}),
        ("POST", "/test", None),
    ):
        assert "whsec_" not in json.dumps(await api.call_ok(method, f"/v1/webhooks/{webhook['id']}{path}", body))
    assert "whsec_" not in json.dumps(await api.call_ok("GET", "/v1/webhooks"))


async def test_events_contain_no_endpoint_or_key(api: Api, receiver: Receiver) -> None:
    """Events contain neither endpoints nor keys of devices."""
    await create_webhook(api, receiver)
    [subscriber] = api.parts.subscribe(Vendor.FCM, 1)
    await api.parts.register([subscriber])
    async with api.parts.run_worker(), run_dispatcher(api.parts):
        await api.parts.wait_until_done((await api.parts.submit()).id)
        await receiver.wait_until(
            lambda receiver: "notification.done" in receiver.types and "delivery.accepted" in receiver.types
        )
    keys = subscriber.to_json()
    sent_text = b"".join(message.body for message in receiver.messages).decode()
    for secret in (keys["endpoint"], keys["endpoint"].rpartition("/")[2], *keys["keys"].values()):
        assert secret not in sent_text


async def test_pending_events_do_not_name_an_erased_user(api: Api, receiver: Receiver) -> None:
    """Events that were not sent before an erasure have no user id."""
    await create_webhook(api, receiver, "device.*")
    await api.register(user_id="u-1")
    assert (await api.call_ok("DELETE", "/v1/users/u-1")) == {"devices": 1}
    async with run_dispatcher(api.parts):
        await receiver.wait_until(lambda receiver: len(receiver.events) == 2)
    assert receiver.types == ["device.registered", "device.unregistered"]
    assert [event["data"]["user_id"] for event in receiver.events] == [None, None]


async def test_events_are_deleted_after_three_days(api: Api, receiver: Receiver) -> None:
    """Events are deleted from the outbox after three days."""
    await create_webhook(api, receiver)
    for days in (2, 4):
        await api.register()
        await execute(
            api.parts,
            "UPDATE happenings SET at = now() - CAST(:days AS int) * interval '1 day' WHERE at > now() - interval '1h'",
            days=days,
        )
    assert (await maintenance.run_once(api.parts.engine, RetentionPolicy()))["outbox"] == 1
    assert (await api.rows())["happenings"] == 1
