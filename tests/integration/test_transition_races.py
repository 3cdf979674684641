"""A transition that meets the end of its notification takes the notification as ended, and is not lost.

Each test settles the last message of a notification in a transaction that is not committed yet, starts the transition,
waits until it waits for the lock, and commits.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from gateway.domain import ids
from gateway.domain.notification import Status
from gateway.sim import Vendor
from tests.support.api import Api
from tests.support.gateway_parts import TIMEOUT_S, Parts

ALERT = {
    "event": "Storm",
    "headline": "Storm over Vienna",
    "severity": "Severe",
    "urgency": "Immediate",
    "certainty": "Observed",
    "zones": ["AT-9"],
}
TRIGGER = {
    "name": "Abandoned cart",
    "event": "cart.abandoned",
    "content": {"title": "Still interested?"},
    "delay": 3600,
    "cancel_on": ["order.paid"],
}


async def finish_during(parts: Parts, id_: UUID, transition: Awaitable[Any]) -> Any:
    """Let the notification end while the transition waits for its row; return the transition's result."""
    conn, watcher = await asyncpg.connect(parts.url), await asyncpg.connect(parts.url)
    try:
        async with conn.transaction():
            await conn.execute("UPDATE notifications SET status = 'done', finished_at = now() WHERE id = $1", id_)
            pid = conn.get_server_pid()
            task = asyncio.ensure_future(transition)
            async with asyncio.timeout(TIMEOUT_S):
                blocked = "SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))"
                while not await watcher.fetchval(blocked, pid):  # noqa: ASYNC110 - a wait for a lock gives no event
                    await asyncio.sleep(0.01)
        return await task
    finally:
        await conn.close()
        await watcher.close()


def notification_id(body: Any) -> UUID:
    id_ = ids.parse(ids.NOTIFICATION, body["id"])
    assert id_ is not None
    return id_


@pytest.mark.parametrize("message_type", ["Update", "Cancel"])
async def test_alert_message_is_taken_when_its_alert_ends(api: Api, message_type: str) -> None:
    """An Update or a Cancel that meets the end of its alert is accepted."""
    await api.register(zones=["AT-9"])
    alert = await api.call_ok("POST", "/v1/alerts", ALERT | {"identifier": "storm-1"})
    follow_up = ALERT | {"identifier": "storm-2", "message_type": message_type, "references": ["storm-1"]}
    response = await finish_during(api.parts, notification_id(alert), api.call("POST", "/v1/alerts", follow_up))
    assert response.status == 201, response.body


async def test_event_is_taken_when_the_trigger_s_message_ends(api: Api) -> None:
    """An event that cancels a trigger's message is recorded when the message has just been sent."""
    await api.parts.register(api.parts.subscribe(Vendor.FCM, 1), user_id="anna")
    await api.call_ok("POST", "/v1/triggers", TRIGGER)
    event = await api.call_ok("POST", "/v1/events", {"name": "cart.abandoned", "user_id": "anna"})
    id_ = ids.parse(ids.NOTIFICATION, event["runs"][0]["notification_id"])
    assert id_ is not None
    paid = api.call("POST", "/v1/events", {"name": "order.paid", "user_id": "anna"})
    response = await finish_during(api.parts, id_, paid)
    assert response.status == 201, response.body
    assert (await api.parts.get_notification(id_))[0].status is Status.DONE


@pytest.mark.parametrize("transition", ["cancel", "pause"])
async def test_transition_of_an_ended_notification_conflicts(api: Api, transition: str) -> None:
    """A transition that a caller requests over the API gets 409 when the notification ends before it."""
    await api.register()
    body = {"content": {"title": "Sale"}, "audience": {"everyone": True}}
    sent = await api.call_ok("POST", "/v1/notifications", body)
    response = await finish_during(
        api.parts, notification_id(sent), api.call("POST", f"/v1/notifications/{sent['id']}/{transition}")
    )
    assert response.status == 409
    assert (await api.parts.get_notification(notification_id(sent)))[0].status is Status.DONE
