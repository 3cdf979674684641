"""Registering browsers: what is taken, what is refused, and what a refresh keeps."""

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from gateway.domain import ids
from gateway.domain.device import ClientDetails, Device, DeviceStatus, Location, Registration, Subscription
from gateway.domain.errors import (
    Conflict,
    EndpointNotAllowed,
    IdentityUnproven,
    NotFound,
    ValidationError,
)
from gateway.records import devices
from gateway.records.postgres.engine import DATABASE_ERRORS
from gateway.service.access import applications
from gateway.service.audience import registration
from gateway.service.audience.registration import (
    MAX_TOPICS,
    BatchingRegistrar,
    DeviceRegistrar,
    Registered,
    RegistrationRequest,
)
from gateway.service.operations import erasure
from gateway.sim import Keys, Vendor
from tests.support.gateway_parts import Parts

KEYS = Keys.generate()
ENDPOINT = "https://fcm.googleapis.com/fcm/send/one"
CLIENT = ClientDetails("android", "chrome", "sv-SE", "Europe/Stockholm", "1.2")


def said(
    endpoint: str = ENDPOINT, *, p256dh: bytes = KEYS.p256dh, auth: bytes = KEYS.auth, **details: Any
) -> Registration:
    return Registration(Subscription(endpoint, p256dh, auth), **details)


async def register(parts: Parts, what: Registration) -> Registered:
    [registered] = await register_all(parts, [what])
    return registered


async def register_all(parts: Parts, what: Sequence[Registration]) -> list[Registered]:
    """As an import does."""
    async with parts.engine.begin() as conn:
        desk = await DeviceRegistrar.open(conn, parts.context, parts.application_id)
        return await desk.register_all(conn, [desk.check(one) for one in what])


def asked(parts: Parts, what: Registration, **proof: Any) -> RegistrationRequest:
    return RegistrationRequest(parts.application_id, what, **proof)


async def at_once(parts: Parts, *what: RegistrationRequest) -> list[Registered | BaseException]:
    """As pages do that register at the same time."""
    reception = BatchingRegistrar(parts.context)
    return await asyncio.gather(*map(reception.register, what), return_exceptions=True)


async def load(parts: Parts, device_id: UUID) -> Device:
    async with parts.engine.connect() as conn:
        return await registration.find(conn, parts.application_id, device_id)


async def count(parts: Parts) -> int:
    found: int = await parts.scalar("SELECT count(*) FROM devices")
    return found


async def test_registration_stores_all_fields(parts: Parts) -> None:
    """A registration stores every field."""
    given = said(
        user_id="ada",
        client=CLIENT,
        attributes={"plan": "gold", "tags": ["a"]},
        topics=("weather",),
        location=Location(59.3, 18.1, 25.0),
    )
    registered = await register(parts, given)
    assert registered.created
    device = await load(parts, registered.device_id)
    assert device.subscription == given.subscription
    assert (device.user_id, device.client, device.topics) == ("ada", CLIENT, ("weather",))
    assert device.attributes == {"plan": "gold", "tags": ["a"]}
    assert device.location == Location(59.3, 18.1, 25.0)
    assert device.located_at is not None
    assert device.status is DeviceStatus.ACTIVE


async def test_refresh_keeps_omitted_fields(parts: Parts) -> None:
    """A refresh keeps the fields that it omits."""
    first = await register(
        parts,
        said(
            user_id="ada", client=CLIENT, attributes={"plan": "gold"}, topics=("weather",), location=Location(1, 2, 3)
        ),
    )
    before = await load(parts, first.device_id)
    again = await register(parts, said())
    after = await load(parts, first.device_id)
    assert again == (first.device_id, False)
    assert after == replace(before, updated_at=after.updated_at, last_seen_at=after.last_seen_at)
    assert after.last_seen_at > before.last_seen_at
    assert await count(parts) == 1


async def test_refresh_changes_given_fields(parts: Parts) -> None:
    """A refresh changes the fields that it contains."""
    first = await register(parts, said(user_id="ada", client=CLIENT, attributes={"plan": "gold"}, topics=("weather",)))
    other = Keys.generate()
    await register(
        parts,
        said(
            p256dh=other.p256dh,
            auth=other.auth,
            user_id="grace",
            client=ClientDetails(locale="en"),
            attributes={"age": 7},
            topics=("offers", "news"),
            location=Location(4, 5),
        ),
    )
    device = await load(parts, first.device_id)
    assert device.subscription == Subscription(ENDPOINT, other.p256dh, other.auth)
    assert (device.user_id, device.attributes, device.topics) == ("grace", {"age": 7}, ("offers", "news"))
    assert device.client == CLIENT._replace(locale="en")
    assert device.location == Location(4, 5)


async def test_empty_topics_and_attributes_clear_stored_ones(parts: Parts) -> None:
    """Empty topics and attributes clear the stored ones."""
    first = await register(parts, said(attributes={"plan": "gold"}, topics=("weather",)))
    await register(parts, said(topics=()))
    device = await load(parts, first.device_id)
    assert (device.topics, device.attributes) == ((), {"plan": "gold"})
    await register(parts, said(attributes={}))
    assert (await load(parts, first.device_id)).attributes == {}


@pytest.mark.parametrize("status", [DeviceStatus.GONE, DeviceStatus.QUARANTINED])
async def test_registering_again_activates_the_device(parts: Parts, status: DeviceStatus) -> None:
    """A gone or quarantined device that registers again is active."""
    first = await register(parts, said())
    async with parts.engine.begin() as conn:
        await devices.change(conn, first.device_id, {"status": status})
    await register(parts, said())
    assert (await load(parts, first.device_id)).status is DeviceStatus.ACTIVE


async def test_new_location_without_accuracy_clears_the_old(parts: Parts) -> None:
    """A location without accuracy clears the stored accuracy."""
    first = await register(parts, said(location=Location(1, 2, 30.0)))
    await register(parts, said(location=Location(1.5, 2)))
    assert (await load(parts, first.device_id)).location == Location(1.5, 2, None)


OFF_CURVE = bytes([4]) + bytes(63) + b"\x01"


@pytest.mark.parametrize(
    ("keys", "pointer"),
    [
        ({"p256dh": OFF_CURVE}, "/subscription/keys/p256dh"),
        ({"p256dh": KEYS.p256dh[:-1]}, "/subscription/keys/p256dh"),
        ({"p256dh": b"\x02" + KEYS.p256dh[1:33]}, "/subscription/keys/p256dh"),
        ({"p256dh": b"\x05" + KEYS.p256dh[1:]}, "/subscription/keys/p256dh"),
        ({"auth": KEYS.auth[:-1]}, "/subscription/keys/auth"),
        ({"auth": b""}, "/subscription/keys/auth"),
    ],
)
async def test_keys_unusable_for_encryption_are_refused(parts: Parts, keys: dict[str, bytes], pointer: str) -> None:
    """Keys that no message could be encrypted for are refused."""
    with pytest.raises(ValidationError) as refused:
        await register(parts, said(**keys))
    assert [fault.pointer for fault in refused.value.errors] == [pointer]
    assert await count(parts) == 0


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://evil.example.org/send",
        "http://fcm.googleapis.com/fcm/send/x",
        "https://fcm.googleapis.com.evil.example.org/x",
        "https://127.0.0.1/x",
        "https://fcm.googleapis.com:8443/x",
        "https://user@fcm.googleapis.com/x",
        "file:///etc/passwd",
        "",
    ],
)
async def test_other_endpoint_is_refused(parts: Parts, endpoint: str) -> None:
    """An endpoint outside the allowed push services is refused."""
    with pytest.raises(EndpointNotAllowed):
        await register(parts, said(endpoint))
    assert await count(parts) == 0


async def test_equivalent_endpoints_are_one_device(parts: Parts) -> None:
    """Two spellings of one endpoint are one device."""
    first = await register(parts, said("https://fcm.googleapis.com/fcm/send/one"))
    again = await register(parts, said("HTTPS://FCM.googleapis.com:443/fcm/send/one"))
    assert again == (first.device_id, False)
    assert (await load(parts, first.device_id)).subscription.endpoint == ENDPOINT


async def test_vapid_key_of_another_application_is_refused(parts: Parts) -> None:
    """The VAPID key of another application is refused."""
    with pytest.raises(ValidationError) as refused:
        await register(parts, said(vapid_public_key=Keys.generate().p256dh))
    assert [fault.pointer for fault in refused.value.errors] == ["/vapid_public_key"]


async def test_device_keeps_its_vapid_key(parts: Parts) -> None:
    """A device keeps the VAPID key that it subscribed with."""
    async with parts.engine.begin() as conn:
        await applications.add_vapid_key(conn, parts.context.keyring, parts.application_id)
    old = await register(parts, said(vapid_public_key=parts.vapid_public_key))
    new = await register(parts, said(f"{ENDPOINT}-2"))
    assert (await load(parts, old.device_id)).vapid_key_id != (await load(parts, new.device_id)).vapid_key_id


async def test_topics_over_the_limit_are_refused(parts: Parts) -> None:
    """More topics than allowed are refused."""
    topics = tuple(f"t{number}" for number in range(MAX_TOPICS + 1))
    await register(parts, said(topics=topics[:-1]))
    with pytest.raises(ValidationError):
        await register(parts, said(topics=topics))
    device = await load(parts, (await register(parts, said())).device_id)
    async with parts.engine.begin() as conn:
        await registration.add_topic(conn, device, topics[0])
        with pytest.raises(Conflict):
            await registration.add_topic(conn, device, topics[-1])
    assert set((await load(parts, device.id)).topics) == set(topics[:-1])


async def test_later_registration_of_one_endpoint_in_batch_wins(parts: Parts) -> None:
    """The later of two registrations with one endpoint in a batch wins."""
    verdicts = await register_all(
        parts,
        [
            said(user_id="first", topics=("a",)),
            said("https://updates.push.services.mozilla.com/wpush/v2/two"),
            said("HTTPS://fcm.googleapis.com/fcm/send/one", user_id="second", attributes={"x": 1}),
        ],
    )
    assert [type(verdict) for verdict in verdicts] == [Registered] * 3
    assert verdicts[0] == verdicts[2]
    assert isinstance(verdicts[0], Registered)
    assert (await load(parts, verdicts[0].device_id)).user_id == "second"
    assert await count(parts) == 2


async def test_refused_registration_does_not_fail_its_batch(parts: Parts) -> None:
    """A refused registration does not fail the others of its batch."""
    batch = [said(f"{ENDPOINT}-1"), said(p256dh=OFF_CURVE), said("https://evil.example.org/x"), said(f"{ENDPOINT}-2")]
    verdicts = await at_once(parts, *(asked(parts, one) for one in batch))
    assert [type(verdict) for verdict in verdicts] == [Registered, ValidationError, EndpointNotAllowed, Registered]
    assert await count(parts) == 2


async def test_batch_of_different_shapes_keeps_each_value(parts: Parts) -> None:
    """Some have topics, some attributes, some both or neither; one statement serves all rows."""
    shapes: list[dict[str, Any]] = [
        {"topics": ("a",), "attributes": {"n": 0}},
        {"topics": ("b",)},
        {"attributes": {"n": 2}},
        {},
    ]
    batch = [said(f"{ENDPOINT}-{number}", **shapes[number % 4]) for number in range(40)]
    verdicts = await register_all(parts, batch)
    again = await register_all(parts, [said(one.subscription.endpoint) for one in batch])
    for number, (verdict, refreshed) in enumerate(zip(verdicts, again, strict=True)):
        assert isinstance(verdict, Registered)
        assert refreshed == (verdict.device_id, False)
        device = await load(parts, verdict.device_id)
        assert device.topics == shapes[number % 4].get("topics", ())
        assert device.attributes == shapes[number % 4].get("attributes", {})


async def test_empty_batch_registers_nothing(parts: Parts) -> None:
    """An empty batch registers nothing."""
    assert await register_all(parts, []) == []


async def test_concurrent_imports_create_each_device_once(parts: Parts) -> None:
    """The imports have opposite orders and do not deadlock."""
    batch = [said(f"{ENDPOINT}-{number}") for number in range(300)]
    results = await asyncio.gather(
        *(register_all(parts, part) for part in (batch, batch[::-1], batch[150:] + batch[:150], batch))
    )
    assert await count(parts) == len(batch)
    assert sum(verdict.created for result in results for verdict in result if isinstance(verdict, Registered)) == 300


async def test_concurrent_registrations_of_one_browser_merge(parts: Parts) -> None:
    """Each keeps the fields of the previous ones that it omits, although they share a transaction."""
    said_by_each = ({"user_id": "ada", "topics": ("a",)}, {"attributes": {"n": 1}}, {"topics": ()})
    first, *again = await at_once(parts, *(asked(parts, said(**details)) for details in said_by_each))
    assert isinstance(first, Registered)
    assert (first.created, again) == (True, [Registered(first.device_id, False)] * 2)
    device = await load(parts, first.device_id)
    assert (device.user_id, device.topics, device.attributes) == ("ada", (), {"n": 1})
    assert await count(parts) == 1


async def test_batched_registrations_keep_applications_apart(parts: Parts) -> None:
    """Concurrent registrations of two applications stay separate."""
    async with parts.engine.begin() as conn:
        made = await applications.create(conn, parts.context.keyring, "Other", "mailto:ops@example.org", [])
    other = ids.parse(ids.APPLICATION, made["id"])
    assert other is not None
    one, two = await at_once(
        parts, asked(parts, said(user_id="ada")), RegistrationRequest(other, said(user_id="grace"))
    )
    assert isinstance(one, Registered)
    assert isinstance(two, Registered)
    assert (one.created, two.created) == (True, True)
    assert (await load(parts, one.device_id)).user_id == "ada"
    with pytest.raises(NotFound):
        await load(parts, two.device_id)


async def test_database_error_does_not_fail_its_batch(parts: Parts) -> None:
    """A registration that the database refuses does not fail the others."""
    details: list[dict[str, Any]] = [{}, {"user_id": "nul\0"}, {"topics": ("a",)}]
    batch = [said(f"{ENDPOINT}-{number}", **each) for number, each in enumerate(details)]
    results = await at_once(parts, *(asked(parts, one) for one in batch))
    assert [type(result) for result in results] == [Registered, DBAPIError, Registered]
    assert await count(parts) == 2


async def test_only_unproven_registration_of_batch_is_refused(parts: Parts) -> None:
    """Only the registration without a proof is refused."""
    async with parts.engine.begin() as conn:
        changed = await applications.change(
            conn, parts.context.keyring, parts.application_id, {"require_identity": True}
        )
    proof = hmac.digest(changed["identity_secret"].encode(), b"ada", hashlib.sha256).hex()
    believed = asked(parts, said(f"{ENDPOINT}-3", user_id="eve"))
    results = await at_once(
        parts,
        asked(parts, said(f"{ENDPOINT}-1", user_id="ada"), unproven=True, user_hash=proof),
        asked(parts, said(f"{ENDPOINT}-2", user_id="eve"), unproven=True, user_hash=proof),
        believed,
    )
    assert [type(result) for result in results] == [Registered, IdentityUnproven, Registered]


async def test_lost_connection_fails_the_batch_and_the_next_works(parts: Parts) -> None:
    """All registrations of the batch fail with a database error, and the next one succeeds."""
    known = await register(parts, said())
    reception = BatchingRegistrar(parts.context)
    async with parts.engine.connect() as holding:
        held = text("SELECT pg_backend_pid() FROM devices WHERE id = :id FOR UPDATE")
        ours = (await holding.execute(held, {"id": known.device_id})).scalar_one()
        waiting = [asyncio.create_task(reception.register(asked(parts, said()))) for _ in range(3)]
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE :ours = ANY(pg_blocking_pids(pid))"
        async with asyncio.timeout(30):
            while not await parts.scalar(ended.replace(":ours", str(ours))):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
            results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, DATABASE_ERRORS) for result in results), results
    assert await reception.register(asked(parts, said())) == (known.device_id, False)


async def test_concurrent_batches_of_processes_do_not_deadlock(parts: Parts) -> None:
    """Several processes register the same browsers in different orders without a deadlock."""
    batch = [said(f"{ENDPOINT}-{number}", topics=("a",) if number % 2 else None) for number in range(100)]
    await register_all(parts, batch[:50])
    results = await asyncio.gather(
        *(
            at_once(parts, *(asked(parts, one) for one in part))
            for part in (batch, batch[::-1], batch[50:] + batch[:50])
        )
    )
    registered = [one for result in results for one in result if isinstance(one, Registered)]
    assert (len(registered), sum(one.created for one in registered)) == (300, 50)
    assert await count(parts) == 100


async def test_database_error_reveals_no_endpoint_or_key(parts: Parts) -> None:
    """Errors reach the logs, and an endpoint with its keys suffices to push to a browser."""
    with pytest.raises(DBAPIError) as failed:
        await register(parts, said(user_id="nul\0"))
    assert "fcm/send/one" not in str(failed.value)
    assert repr(KEYS.auth) not in str(failed.value)


async def test_concurrent_registrations_create_one_device(parts: Parts) -> None:
    """A browser that registers eight times at once becomes one device."""
    results = await asyncio.gather(*(register(parts, said(user_id="ada")) for _ in range(8)))
    assert len({result.device_id for result in results}) == 1
    assert sum(result.created for result in results) == 1


async def test_user_id_needs_proof_if_required(parts: Parts) -> None:
    """A user id needs its HMAC when the application requires one."""
    vault = parts.context.keyring
    async with parts.engine.begin() as conn:
        await registration.prove(conn, vault, parts.application_id, "ada", None)
        changed = await applications.change(conn, vault, parts.application_id, {"require_identity": True})
        proof = hmac.new(changed["identity_secret"].encode(), b"ada", hashlib.sha256).hexdigest()
        await registration.prove(conn, vault, parts.application_id, "ada", proof)
        await registration.prove(conn, vault, parts.application_id, None, None)
        for user_id, user_hash in (("ada", None), ("ada", ""), ("ada", "é"), ("ada", proof.upper()), ("grace", proof)):
            with pytest.raises(IdentityUnproven):
                await registration.prove(conn, vault, parts.application_id, user_id, user_hash)


async def test_device_of_another_application_is_not_found(parts: Parts) -> None:
    """A device of another application is not found."""
    registered = await register(parts, said())
    async with parts.engine.begin() as conn:
        other = await applications.create(conn, parts.context.keyring, "Other", "mailto:ops@example.org", [])
        other_id = ids.parse(ids.APPLICATION, other["id"])
        assert other_id is not None
        with pytest.raises(NotFound):
            await registration.find(conn, other_id, registered.device_id)


async def test_device_json_has_no_endpoint_or_keys(parts: Parts) -> None:
    """The JSON of a device does not allow anyone to push to it."""
    registered = await register(parts, said(location=Location(1, 2)))
    shown = str(registration.to_json(await load(parts, registered.device_id)))
    for secret in (KEYS.p256dh, KEYS.auth):
        assert base64.urlsafe_b64encode(secret).decode().rstrip("=") not in shown
        assert repr(secret) not in shown
    assert "fcm/send/one" not in shown
    assert "fcm.googleapis.com" in shown


async def test_erasing_a_user_removes_devices_and_log_names(parts: Parts) -> None:
    """Erasing a user deletes their devices and removes their id from the log."""
    theirs = await parts.register(parts.subscribe(Vendor.FCM, 2), user_id="ada")
    others = await parts.register(parts.subscribe(Vendor.FCM, 1), user_id="grace")
    async with parts.run_worker():
        sent = await parts.submit()
        await parts.wait_until_done(sent.id)
    async with parts.engine.begin() as conn:
        assert await erasure.forget(conn, parts.context.keyring, parts.application_id, "ada") == 2
    assert await count(parts) == len(others)
    rows = await parts.list_deliveries(sent.id)
    assert {device_id: row.user_id for device_id, row in rows.items()} == {
        **dict.fromkeys(theirs, None),
        **dict.fromkeys(others, "grace"),
    }
    assert all(row.settled_at < datetime.now(UTC) for row in rows.values())
