"""Idempotency keys: a page cannot use up a key that the back end will use."""

from typing import Any

from tests.support.api import ADMIN, Api
from tests.support.bystander import Bystander
from tests.support.gateway_parts import APP_ORIGIN

# An idempotency key that contains an order number, which a stranger can guess.
GUESSED = "order-1043"
WITH_KEY = {"Idempotency-Key": GUESSED}
ORDER: dict[str, Any] = {"audience": {"user_id": "anna"}, "content": {"title": "Your order was sent"}}


async def use_key_from_page(api: Api, idempotency_key: str = GUESSED) -> None:
    """Register a device with the idempotency key and the publishable key, as a page can."""
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
    """A request of the back end is accepted although a page has used its idempotency key before."""
    await use_key_from_page(api)
    accepted = await api.call("POST", "/v1/notifications", ORDER, headers=WITH_KEY)
    assert accepted.status == 201, accepted.body
    repeated = await api.call("POST", "/v1/notifications", ORDER, headers=WITH_KEY)
    assert (repeated.body, repeated.headers.get("Idempotency-Replayed")) == (accepted.body, "true")
    changed = await api.call("POST", "/v1/notifications", {**ORDER, "delivery": {"ttl": 60}}, headers=WITH_KEY)
    assert changed.status == 422


async def test_secret_keys_do_not_share_idempotency_keys(api: Api) -> None:
    """Two secret keys of one application may use the same idempotency key for different requests."""
    first = await api.call("POST", "/v1/notifications", ORDER, headers=WITH_KEY)
    path = f"/v1/applications/{api.parts.application['id']}/keys"
    billing_key = (await api.call_ok("POST", path, {"name": "billing", "scopes": ["send"]}, key=ADMIN))["key"]
    second = await api.call(
        "POST", "/v1/notifications", {**ORDER, "delivery": {"ttl": 60}}, key=billing_key, headers=WITH_KEY
    )
    assert (first.status, second.status) == (201, 201)
    assert first.body["id"] != second.body["id"]


async def test_key_of_previous_version_replays_its_response(api: Api) -> None:
    """A response that the previous version stored, without the credential, is replayed after the upgrade."""
    first = await api.call("POST", "/v1/notifications", ORDER, headers=WITH_KEY)
    async with api.parts.engine.begin() as conn:
        await conn.exec_driver_sql("UPDATE idempotency_keys SET owner = split_part(owner, '/', 1)")
    repeated = await api.call("POST", "/v1/notifications", ORDER, headers=WITH_KEY)
    assert (repeated.status, repeated.body) == (first.status, first.body)
    await use_key_from_page(api)


async def test_erasure_reaches_the_responses_of_every_key(api: Api) -> None:
    """An erasure deletes the stored responses that name the user, also those to requests of a removed API key."""
    path = f"/v1/applications/{api.parts.application['id']}/keys"
    billing_key = await api.call_ok("POST", path, {"name": "billing", "scopes": ["send"]}, key=ADMIN)
    await api.call_ok("POST", "/v1/notifications", ORDER, key=billing_key["key"], headers=WITH_KEY)
    await api.call_ok("DELETE", f"{path}/{billing_key['id']}", key=ADMIN)
    await api.call_ok("DELETE", "/v1/users/anna")
    assert await api.parts.scalar("SELECT count(*) FROM idempotency_keys") == 0


async def test_guessed_keys_do_not_delay_alerts(api: Api, bystander: Bystander) -> None:
    """A page that uses guessed idempotency keys delays no alert of another application."""
    for number in range(3):
        await use_key_from_page(api, f"order-{number}")
    await bystander.check_alert()
