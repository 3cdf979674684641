"""Idempotency keys: nobody takes the key of another credential."""

from typing import Any

from tests.support.api import ADMIN, Api
from tests.support.bystander import Bystander
from tests.support.gateway_parts import APP_ORIGIN

# An order number, which a stranger guesses.
GUESSED = "order-1043"
WITH_KEY = {"Idempotency-Key": GUESSED}
ORDER: dict[str, Any] = {"audience": {"user_id": "anna"}, "content": {"title": "Your order was sent"}}


async def take_key(api: Api, idempotency_key: str = GUESSED) -> None:
    """Use the guessed key as a visitor of the page does, with the publishable key."""
    response = await api.call(
        "POST",
        "/v1/devices",
        api.device(),
        key=api.publishable,
        origin=APP_ORIGIN,
        headers={"Idempotency-Key": idempotency_key},
    )
    assert response.status == 201


async def test_page_cannot_take_key_of_back_end(api: Api) -> None:
    """The back end's request is accepted although a page has used its key."""
    await take_key(api)
    accepted = await api.call("POST", "/v1/notifications", ORDER, headers=WITH_KEY)
    assert accepted.status == 201, accepted.body
    repeated = await api.call("POST", "/v1/notifications", ORDER, headers=WITH_KEY)
    assert (repeated.body, repeated.headers.get("Idempotency-Replayed")) == (accepted.body, "true")
    changed = await api.call("POST", "/v1/notifications", {**ORDER, "delivery": {"ttl": 60}}, headers=WITH_KEY)
    assert changed.status == 422


async def test_secret_keys_do_not_share_idempotency_keys(api: Api) -> None:
    """Two back ends of one application use the same key for their own requests."""
    first = await api.call("POST", "/v1/notifications", ORDER, headers=WITH_KEY)
    path = f"/v1/applications/{api.parts.application['id']}/keys"
    other = (await api.call_ok("POST", path, {"name": "billing", "scopes": ["send"]}, key=ADMIN))["key"]
    second = await api.call(
        "POST", "/v1/notifications", {**ORDER, "delivery": {"ttl": 60}}, key=other, headers=WITH_KEY
    )
    assert (first.status, second.status) == (201, 201)
    assert first.body["id"] != second.body["id"]


async def test_key_of_previous_version_replays_its_response(api: Api) -> None:
    """A request that the previous version answered is not done again after the upgrade."""
    first = await api.call("POST", "/v1/notifications", ORDER, headers=WITH_KEY)
    async with api.parts.engine.begin() as conn:
        await conn.exec_driver_sql("UPDATE idempotency_keys SET owner = split_part(owner, '/', 1)")
    repeated = await api.call("POST", "/v1/notifications", ORDER, headers=WITH_KEY)
    assert (repeated.status, repeated.body) == (first.status, first.body)
    await take_key(api)


async def test_erasure_reaches_the_responses_of_every_key(api: Api) -> None:
    """An erasure deletes the responses that name the user, also those to a removed key."""
    path = f"/v1/applications/{api.parts.application['id']}/keys"
    other = await api.call_ok("POST", path, {"name": "billing", "scopes": ["send"]}, key=ADMIN)
    await api.call_ok("POST", "/v1/notifications", ORDER, key=other["key"], headers=WITH_KEY)
    await api.call_ok("DELETE", f"{path}/{other['id']}", key=ADMIN)
    await api.call_ok("DELETE", "/v1/users/anna")
    assert await api.parts.scalar("SELECT count(*) FROM idempotency_keys") == 0


async def test_guessed_keys_do_not_delay_alerts(api: Api, bystander: Bystander) -> None:
    """A page that takes many keys delays no alert of another application."""
    for number in range(3):
        await take_key(api, f"order-{number}")
    await bystander.check_alert()
