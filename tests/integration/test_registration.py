"""Registering devices: validation, refreshes, batches and concurrency."""

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
from gateway.sim import DeviceKeys, Vendor
from tests.support.gateway_parts import Parts

KEYS = DeviceKeys.generate()
ENDPOINT = "https://fcm.googleapis.com/fcm/send/one"
CLIENT = ClientDetails("android", "chrome", "sv-SE", "Europe/Stockholm", "1.2")


def build_registration(
    endpoint: str = ENDPOINT, *, p256dh: bytes = KEYS.p256dh, auth: bytes = KEYS.auth, **details: Any
) -> Registration:
    return Registration(Subscription(endpoint, p256dh, auth), **details)


async def register(parts: Parts, new_registration: Registration) -> Registered:
    """Register one device."""
    [registered] = await register_all(parts, [new_registration])
    return registered


async def register_all(parts: Parts, registrations: Sequence[Registration]) -> list[Registered]:
    """Register in one batch, as an import does."""
    async with parts.engine.begin() as conn:
        registrar = await DeviceRegistrar.open(conn, parts.context, parts.application_id)
        return await registrar.register_all(conn, [registrar.check(item) for item in registrations])


def build_request(parts: Parts, new_registration: Registration, **proof: Any) -> RegistrationRequest:
    return RegistrationRequest(parts.application_id, new_registration, **proof)


async def register_concurrently(parts: Parts, *requests: RegistrationRequest) -> list[Registered | BaseException]:
    """Register with concurrent calls, as requests of pages do; return the results and errors."""
    registrar = BatchingRegistrar(parts.context)
    return await asyncio.gather(*map(registrar.register, requests), return_exceptions=True)


async def load_device(parts: Parts, device_id: UUID) -> Device:
    """Load a device from the database."""
    async with parts.engine.connect() as conn:
        return await registration.find_device(conn, parts.application_id, device_id)


async def count_devices(parts: Parts) -> int:
    """Return the number of devices of all applications."""
    number: int = await parts.scalar("SELECT count(*) FROM devices")
    return number


async def test_registration_stores_all_fields(parts: Parts) -> None:
    """A registration stores every field."""
    new_registration = build_registration(
        user_id="ada",
        client=CLIENT,
        attributes={"plan": "gold", "tags": ["a"]},
        topics=("weather",),
        location=Location(59.3, 18.1, 25.0),
    )
    registered = await register(parts, new_registration)
    assert registered.created
    device = await load_device(parts, registered.device_id)
    assert device.subscription == new_registration.subscription
    assert (device.user_id, device.client, device.topics) == ("ada", CLIENT, ("weather",))
    assert device.attributes == {"plan": "gold", "tags": ["a"]}
    assert device.location == Location(59.3, 18.1, 25.0)
    assert device.located_at is not None
    assert device.status is DeviceStatus.ACTIVE


async def test_refresh_keeps_omitted_fields(parts: Parts) -> None:
    """A refresh keeps the fields that it omits."""
    first = await register(
        parts,
        build_registration(
            user_id="ada", client=CLIENT, attributes={"plan": "gold"}, topics=("weather",), location=Location(1, 2, 3)
        ),
    )
    before = await load_device(parts, first.device_id)
    refreshed = await register(parts, build_registration())
    after = await load_device(parts, first.device_id)
    assert refreshed == (first.device_id, False)
    assert after == replace(before, updated_at=after.updated_at, last_seen_at=after.last_seen_at)
    assert after.last_seen_at > before.last_seen_at
    assert await count_devices(parts) == 1


async def test_refresh_changes_given_fields(parts: Parts) -> None:
    """A refresh changes the fields that it contains."""
    first = await register(
        parts, build_registration(user_id="ada", client=CLIENT, attributes={"plan": "gold"}, topics=("weather",))
    )
    new_keys = DeviceKeys.generate()
    await register(
        parts,
        build_registration(
            p256dh=new_keys.p256dh,
            auth=new_keys.auth,
            user_id="grace",
            client=ClientDetails(locale="en"),
            attributes={"age": 7},
            topics=("offers", "news"),
            location=Location(4, 5),
        ),
    )
    device = await load_device(parts, first.device_id)
    assert device.subscription == Subscription(ENDPOINT, new_keys.p256dh, new_keys.auth)
    assert (device.user_id, device.attributes, device.topics) == ("grace", {"age": 7}, ("offers", "news"))
    assert device.client == CLIENT._replace(locale="en")
    assert device.location == Location(4, 5)


async def test_empty_topics_and_attributes_clear_stored_ones(parts: Parts) -> None:
    """Empty topics and attributes replace the stored topics and attributes."""
    first = await register(parts, build_registration(attributes={"plan": "gold"}, topics=("weather",)))
    await register(parts, build_registration(topics=()))
    device = await load_device(parts, first.device_id)
    assert (device.topics, device.attributes) == ((), {"plan": "gold"})
    await register(parts, build_registration(attributes={}))
    assert (await load_device(parts, first.device_id)).attributes == {}


@pytest.mark.parametrize("status", [DeviceStatus.GONE, DeviceStatus.QUARANTINED])
async def test_registering_again_activates_the_device(parts: Parts, status: DeviceStatus) -> None:
    """A gone or quarantined device that registers again is active."""
    first = await register(parts, build_registration())
    async with parts.engine.begin() as conn:
        await devices.change(conn, first.device_id, {"status": status})
    await register(parts, build_registration())
    assert (await load_device(parts, first.device_id)).status is DeviceStatus.ACTIVE


async def test_new_location_without_accuracy_clears_the_old(parts: Parts) -> None:
    """A location without accuracy clears the stored accuracy."""
    first = await register(parts, build_registration(location=Location(1, 2, 30.0)))
    await register(parts, build_registration(location=Location(1.5, 2)))
    assert (await load_device(parts, first.device_id)).location == Location(1.5, 2, None)


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
    """Keys with which no message can be encrypted are refused."""
    with pytest.raises(ValidationError) as refused:
        await register(parts, build_registration(**keys))
    assert [fault.pointer for fault in refused.value.errors] == [pointer]
    assert await count_devices(parts) == 0


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
        await register(parts, build_registration(endpoint))
    assert await count_devices(parts) == 0


async def test_equivalent_endpoints_are_one_device(parts: Parts) -> None:
    """Two spellings of one endpoint are one device."""
    first = await register(parts, build_registration("https://fcm.googleapis.com/fcm/send/one"))
    refreshed = await register(parts, build_registration("HTTPS://FCM.googleapis.com:443/fcm/send/one"))
    assert refreshed == (first.device_id, False)
    assert (await load_device(parts, first.device_id)).subscription.endpoint == ENDPOINT


async def test_vapid_key_of_another_application_is_refused(parts: Parts) -> None:
    """The VAPID key of another application is refused."""
    with pytest.raises(ValidationError) as refused:
        await register(parts, build_registration(vapid_public_key=DeviceKeys.generate().p256dh))
    assert [fault.pointer for fault in refused.value.errors] == ["/vapid_public_key"]


async def test_device_keeps_its_vapid_key(parts: Parts) -> None:
    """A device keeps the VAPID key that it subscribed with."""
    async with parts.engine.begin() as conn:
        await applications.add_vapid_key(conn, parts.context.keyring, parts.application_id)
    with_old_key = await register(parts, build_registration(vapid_public_key=parts.vapid_public_key))
    with_new_key = await register(parts, build_registration(f"{ENDPOINT}-2"))
    assert (await load_device(parts, with_old_key.device_id)).vapid_key_id != (
        await load_device(parts, with_new_key.device_id)
    ).vapid_key_id


async def test_refresh_keeps_vapid_key_unless_it_names_one(parts: Parts) -> None:
    """After a rotation, a back end's refresh without a key does not change the key of the subscription."""
    old = await register(parts, build_registration())
    async with parts.engine.begin() as conn:
        new_key = await applications.add_vapid_key(conn, parts.context.keyring, parts.application_id)
    before = await load_device(parts, old.device_id)
    assert await register(parts, build_registration()) == (old.device_id, False)
    assert (await load_device(parts, old.device_id)).vapid_key_id == before.vapid_key_id
    await register(parts, build_registration(vapid_public_key=new_key.public_key))
    assert (await load_device(parts, old.device_id)).vapid_key_id != before.vapid_key_id


async def test_topics_over_the_limit_are_refused(parts: Parts) -> None:
    """More topics than allowed are refused."""
    topics = tuple(f"t{number}" for number in range(MAX_TOPICS + 1))
    await register(parts, build_registration(topics=topics[:-1]))
    with pytest.raises(ValidationError):
        await register(parts, build_registration(topics=topics))
    device = await load_device(parts, (await register(parts, build_registration())).device_id)
    async with parts.engine.begin() as conn:
        await registration.add_topic(conn, device, topics[0])
        with pytest.raises(Conflict):
            await registration.add_topic(conn, device, topics[-1])
    assert set((await load_device(parts, device.id)).topics) == set(topics[:-1])


async def test_last_registration_of_an_endpoint_in_batch_wins(parts: Parts) -> None:
    """The later of two registrations with one endpoint in a batch wins."""
    results = await register_all(
        parts,
        [
            build_registration(user_id="first", topics=("a",)),
            build_registration("https://updates.push.services.mozilla.com/wpush/v2/two"),
            build_registration("HTTPS://fcm.googleapis.com/fcm/send/one", user_id="second", attributes={"x": 1}),
        ],
    )
    assert [type(result) for result in results] == [Registered] * 3
    assert results[0] == results[2]
    assert isinstance(results[0], Registered)
    assert (await load_device(parts, results[0].device_id)).user_id == "second"
    assert await count_devices(parts) == 2


async def test_refused_registration_does_not_fail_its_batch(parts: Parts) -> None:
    """The valid registrations of a batch succeed although another one is refused."""
    batch = [
        build_registration(f"{ENDPOINT}-1"),
        build_registration(p256dh=OFF_CURVE),
        build_registration("https://evil.example.org/x"),
        build_registration(f"{ENDPOINT}-2"),
    ]
    results = await register_concurrently(
        parts, *(build_request(parts, new_registration) for new_registration in batch)
    )
    assert [type(result) for result in results] == [Registered, ValidationError, EndpointNotAllowed, Registered]
    assert await count_devices(parts) == 2


async def test_batch_of_different_shapes_keeps_each_value(parts: Parts) -> None:
    """One statement inserts rows with topics, with attributes, with both and with neither."""
    shapes: list[dict[str, Any]] = [
        {"topics": ("a",), "attributes": {"n": 0}},
        {"topics": ("b",)},
        {"attributes": {"n": 2}},
        {},
    ]
    batch = [build_registration(f"{ENDPOINT}-{number}", **shapes[number % 4]) for number in range(40)]
    results = await register_all(parts, batch)
    refreshes = await register_all(
        parts, [build_registration(new_registration.subscription.endpoint) for new_registration in batch]
    )
    for number, (result, refreshed) in enumerate(zip(results, refreshes, strict=True)):
        assert isinstance(result, Registered)
        assert refreshed == (result.device_id, False)
        device = await load_device(parts, result.device_id)
        assert device.topics == shapes[number % 4].get("topics", ())
        assert device.attributes == shapes[number % 4].get("attributes", {})


async def test_empty_batch_registers_nothing(parts: Parts) -> None:
    """An empty batch registers nothing."""
    assert await register_all(parts, []) == []


async def test_concurrent_imports_create_each_device_once(parts: Parts) -> None:
    """Imports of the same devices in opposite orders do not deadlock, and each device is created once."""
    batch = [build_registration(f"{ENDPOINT}-{number}") for number in range(300)]
    results = await asyncio.gather(
        *(register_all(parts, part) for part in (batch, batch[::-1], batch[150:] + batch[:150], batch))
    )
    assert await count_devices(parts) == len(batch)
    assert sum(item.created for result in results for item in result if isinstance(item, Registered)) == 300


async def test_concurrent_registrations_of_one_browser_merge(parts: Parts) -> None:
    """Registrations of one device in one batch are applied one after another; each keeps the fields that it omits."""
    details_in_order = ({"user_id": "ada", "topics": ("a",)}, {"attributes": {"n": 1}}, {"topics": ()})
    first, *refreshed = await register_concurrently(
        parts, *(build_request(parts, build_registration(**details)) for details in details_in_order)
    )
    assert isinstance(first, Registered)
    assert (first.created, refreshed) == (True, [Registered(first.device_id, False)] * 2)
    device = await load_device(parts, first.device_id)
    assert (device.user_id, device.topics, device.attributes) == ("ada", (), {"n": 1})
    assert await count_devices(parts) == 1


async def test_batched_registrations_keep_applications_apart(parts: Parts) -> None:
    """Concurrent registrations of two applications stay separate."""
    async with parts.engine.begin() as conn:
        application = await applications.create(conn, parts.context.keyring, "Other", "mailto:ops@example.org", [])
    other = ids.parse(ids.APPLICATION, application["id"])
    assert other is not None
    first, second = await register_concurrently(
        parts,
        build_request(parts, build_registration(user_id="ada")),
        RegistrationRequest(other, build_registration(user_id="grace")),
    )
    assert isinstance(first, Registered)
    assert isinstance(second, Registered)
    assert (first.created, second.created) == (True, True)
    assert (await load_device(parts, first.device_id)).user_id == "ada"
    with pytest.raises(NotFound):
        await load_device(parts, second.device_id)


async def test_database_error_does_not_fail_its_batch(parts: Parts) -> None:
    """The other registrations of a batch succeed although the database refuses one."""
    details: list[dict[str, Any]] = [{}, {"user_id": "nul\0"}, {"topics": ("a",)}]
    batch = [build_registration(f"{ENDPOINT}-{number}", **fields) for number, fields in enumerate(details)]
    results = await register_concurrently(
        parts, *(build_request(parts, new_registration) for new_registration in batch)
    )
    assert [type(result) for result in results] == [Registered, DBAPIError, Registered]
    assert await count_devices(parts) == 2


async def test_only_unproven_registration_of_batch_is_refused(parts: Parts) -> None:
    """In a batch, only the registration with a wrong proof is refused; a trusted one needs no proof."""
    async with parts.engine.begin() as conn:
        changed = await applications.change(
            conn, parts.context.keyring, parts.application_id, {"require_identity": True}
        )
    proof = hmac.digest(changed["identity_secret"].encode(), b"ada", hashlib.sha256).hex()
    trusted = build_request(parts, build_registration(f"{ENDPOINT}-3", user_id="eve"))
    results = await register_concurrently(
        parts,
        build_request(parts, build_registration(f"{ENDPOINT}-1", user_id="ada"), needs_proof=True, user_hash=proof),
        build_request(parts, build_registration(f"{ENDPOINT}-2", user_id="eve"), needs_proof=True, user_hash=proof),
        trusted,
    )
    assert [type(result) for result in results] == [Registered, IdentityUnproven, Registered]


async def test_lost_connection_fails_the_batch_and_the_next_works(parts: Parts) -> None:
    """All registrations of the batch fail with a database error, and a later registration succeeds."""
    device = await register(parts, build_registration())
    registrar = BatchingRegistrar(parts.context)
    async with parts.engine.connect() as locking:
        lock_device = text("SELECT pg_backend_pid() FROM devices WHERE id = :id FOR UPDATE")
        backend_pid = (await locking.execute(lock_device, {"id": device.device_id})).scalar_one()
        request = build_request(parts, build_registration())
        tasks = [asyncio.create_task(registrar.register(request)) for _ in range(3)]
        # Terminate the connection of the batch, which waits for the lock of this connection.
        terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE :pid = ANY(pg_blocking_pids(pid))"
        async with asyncio.timeout(30):
            while not await parts.scalar(terminate, pid=backend_pid):  # noqa: ASYNC110 - a blocked query raises no event
                await asyncio.sleep(0.01)
            results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, DATABASE_ERRORS) for result in results), results
    assert await registrar.register(build_request(parts, build_registration())) == (device.device_id, False)


async def test_concurrent_batches_of_processes_do_not_deadlock(parts: Parts) -> None:
    """Several processes register the same browsers in different orders without a deadlock."""
    batch = [build_registration(f"{ENDPOINT}-{number}", topics=("a",) if number % 2 else None) for number in range(100)]
    await register_all(parts, batch[:50])
    results = await asyncio.gather(
        *(
            register_concurrently(parts, *(build_request(parts, new_registration) for new_registration in part))
            for part in (batch, batch[::-1], batch[50:] + batch[:50])
        )
    )
    registered = [item for result in results for item in result if isinstance(item, Registered)]
    assert (len(registered), sum(item.created for item in registered)) == (300, 50)
    assert await count_devices(parts) == 100


async def test_database_error_reveals_no_endpoint_or_key(parts: Parts) -> None:
    """Errors are logged, so they must not contain the endpoint and keys, with which anyone can push to a browser."""
    with pytest.raises(DBAPIError) as failed:
        await register(parts, build_registration(user_id="nul\0"))
    assert "fcm/send/one" not in str(failed.value)
    assert repr(KEYS.auth) not in str(failed.value)


async def test_concurrent_registrations_create_one_device(parts: Parts) -> None:
    """A browser that registers eight times at once becomes one device."""
    results = await asyncio.gather(*(register(parts, build_registration(user_id="ada")) for _ in range(8)))
    assert len({result.device_id for result in results}) == 1
    assert sum(result.created for result in results) == 1


async def test_user_id_needs_proof_if_required(parts: Parts) -> None:
    """A user id needs its HMAC when the application requires one."""
    keyring = parts.context.keyring
    async with parts.engine.begin() as conn:
        await registration.verify_user(conn, keyring, parts.application_id, "ada", None)
        changed = await applications.change(conn, keyring, parts.application_id, {"require_identity": True})
        proof = hmac.new(changed["identity_secret"].encode(), b"ada", hashlib.sha256).hexdigest()
        await registration.verify_user(conn, keyring, parts.application_id, "ada", proof)
        await registration.verify_user(conn, keyring, parts.application_id, None, None)
        for user_id, user_hash in (("ada", None), ("ada", ""), ("ada", "é"), ("ada", proof.upper()), ("grace", proof)):
            with pytest.raises(IdentityUnproven):
                await registration.verify_user(conn, keyring, parts.application_id, user_id, user_hash)


async def test_device_of_another_application_is_not_found(parts: Parts) -> None:
    """A device of another application is not found."""
    registered = await register(parts, build_registration())
    async with parts.engine.begin() as conn:
        other = await applications.create(conn, parts.context.keyring, "Other", "mailto:ops@example.org", [])
        other_id = ids.parse(ids.APPLICATION, other["id"])
        assert other_id is not None
        with pytest.raises(NotFound):
            await registration.find_device(conn, other_id, registered.device_id)


async def test_device_json_has_no_endpoint_or_keys(parts: Parts) -> None:
    """The JSON of a device contains the host of its endpoint, but neither the endpoint nor its keys."""
    registered = await register(parts, build_registration(location=Location(1, 2)))
    device_json = str(registration.to_view(await load_device(parts, registered.device_id)))
    for secret in (KEYS.p256dh, KEYS.auth):
        assert base64.urlsafe_b64encode(secret).decode().rstrip("=") not in device_json
        assert repr(secret) not in device_json
    assert "fcm/send/one" not in device_json
    assert "fcm.googleapis.com" in device_json


async def test_erasing_a_user_removes_devices_and_log_names(parts: Parts) -> None:
    """Erasing a user deletes their devices and removes their id from the log."""
    erased = await parts.register(parts.subscribe(Vendor.FCM, 2), user_id="ada")
    remaining = await parts.register(parts.subscribe(Vendor.FCM, 1), user_id="grace")
    async with parts.run_worker():
        sent = await parts.submit()
        await parts.wait_until_done(sent.id)
    async with parts.engine.begin() as conn:
        assert await erasure.erase_user(conn, parts.context.keyring, parts.application_id, "ada") == 2
    assert await count_devices(parts) == len(remaining)
    rows = await parts.list_deliveries(sent.id)
    assert {device_id: row.user_id for device_id, row in rows.items()} == {
        **dict.fromkeys(erased, None),
        **dict.fromkeys(remaining, "grace"),
    }
    assert all(row.settled_at < datetime.now(UTC) for row in rows.values())
