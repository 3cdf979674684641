"""Authentication with keys, device tokens and the admin token; management of applications and their keys."""

from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.domain import ids
from gateway.domain.errors import NotFound, Unauthenticated, ValidationError
from gateway.push.vapid import VapidKey
from gateway.records import devices, recipients
from gateway.service.access import applications, authentication
from gateway.service.access.authentication import Principal, identify
from gateway.sim import Vendor
from tests.support.gateway_parts import APP_ORIGIN, Parts

ADMIN_TOKEN = "operator-" + "x" * 32


async def identify_bearer(parts: Parts, bearer: str, admin_token: str | None = ADMIN_TOKEN) -> Principal:
    """Return the principal of a bearer value."""
    async with parts.engine.connect() as conn:
        return await identify(conn, parts.context.keyring, admin_token, bearer)


def key_id(parts: Parts, name: str) -> UUID | None:
    """Return the id of the application's key with this name."""
    [id_] = [key["id"] for key in parts.application["keys"] if key["name"] == name]
    return ids.parse(ids.KEY, id_)


async def test_secret_key_has_send_read_and_manage_scopes(parts: Parts) -> None:
    """A secret key of an application has the scopes `send`, `read` and `manage`."""
    caller = await identify_bearer(parts, parts.application["secret_key"])
    assert caller == Principal(
        frozenset(authentication.SCOPES), parts.application_id, key_id=key_id(parts, "secret key")
    )


async def test_publishable_key_registers_from_allowed_origins_only(parts: Parts) -> None:
    """A publishable key has the register scope, limited to the application's origins."""
    caller = await identify_bearer(parts, parts.application["publishable_key"])
    key = key_id(parts, "publishable key")
    assert caller == Principal(
        frozenset({authentication.REGISTER}), parts.application_id, key_id=key, origins=(APP_ORIGIN,)
    )


async def test_admin_token_is_the_operator(parts: Parts) -> None:
    """The admin token has the admin scope and belongs to no application."""
    assert await identify_bearer(parts, ADMIN_TOKEN) == Principal(frozenset({authentication.ADMIN}))


@pytest.mark.parametrize("admin_token", [None, ""])
async def test_missing_admin_token_authenticates_nobody(parts: Parts, admin_token: str | None) -> None:
    """Without an admin token no bearer value authenticates as the operator."""
    for bearer in ("", "None", "x"):
        with pytest.raises(Unauthenticated):
            await identify_bearer(parts, bearer, admin_token)


async def test_device_token_is_valid_until_its_device_is_removed(parts: Parts) -> None:
    """A device token authenticates one device for as long as the device exists."""
    [device_id] = await parts.register(parts.subscribe(Vendor.FCM, 1))
    token = parts.context.keyring.issue_device_token(device_id)
    assert await identify_bearer(parts, token) == Principal(
        frozenset({authentication.DEVICE}), parts.application_id, device_id
    )
    async with parts.engine.begin() as conn:
        await devices.remove(conn, device_id)
    with pytest.raises(Unauthenticated):
        await identify_bearer(parts, token)


async def test_removed_key_is_refused_immediately(parts: Parts) -> None:
    """The first request after the removal of an API key is refused."""
    async with parts.engine.begin() as conn:
        new_key = await applications.add_key(conn, parts.application_id, "reports", ["read"])
    assert (await identify_bearer(parts, new_key["key"])).scopes == {"read"}
    key_id = ids.parse(ids.KEY, new_key["id"])
    assert key_id is not None
    async with parts.engine.begin() as conn:
        await applications.remove_key(conn, parts.application_id, key_id)
        with pytest.raises(NotFound):
            await applications.remove_key(conn, parts.application_id, key_id)
    with pytest.raises(Unauthenticated):
        await identify_bearer(parts, new_key["key"])


async def test_key_of_another_application_cannot_be_removed(parts: Parts) -> None:
    """An application cannot remove the keys of another application."""
    async with parts.engine.begin() as conn:
        other_application = await applications.create(
            conn, parts.context.keyring, "Other", "mailto:ops@example.org", []
        )
        key_id = ids.parse(ids.KEY, other_application["keys"][0]["id"])
        assert key_id is not None
        with pytest.raises(NotFound):
            await applications.remove_key(conn, parts.application_id, key_id)
    assert (await identify_bearer(parts, other_application["secret_key"])).application_id != parts.application_id


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bearer=st.one_of(st.text(max_size=60), st.from_regex(r"(sk|pk|dt)_[A-Za-z0-9_-]{0,64}", fullmatch=True)))
async def test_unknown_bearer_is_unauthenticated(parts: Parts, bearer: str) -> None:
    """A bearer value that is no key, device token or admin token is unauthenticated."""
    with pytest.raises(Unauthenticated):
        await identify_bearer(parts, bearer)


async def test_keys_are_stored_as_digests(parts: Parts) -> None:
    """Keys are stored as digests; only their last characters can be read later."""
    secret, publishable = parts.application["secret_key"], parts.application["publishable_key"]
    async with parts.engine.connect() as conn:
        application = str(await applications.get(conn, parts.application_id))
    stored = await parts.scalar("SELECT string_agg(k::text, ' ') FROM api_keys k")
    for key in (secret, publishable):
        assert key not in application
        assert key not in stored
        assert key[-4:] in application


async def test_private_vapid_keys_are_stored_encrypted(parts: Parts) -> None:
    """The private VAPID key is stored encrypted; the decrypted key belongs to the published public key."""
    async with parts.engine.connect() as conn:
        [(key_id, public_key)] = (await applications.records.list_vapid_public_keys(conn, [parts.application_id]))[
            parts.application_id
        ]
        [signing_key] = await recipients.load_signing_keys(conn, [key_id])
    vapid_key = VapidKey.from_private_bytes(parts.context.keyring.open(signing_key.private_key, "vapid"))
    assert vapid_key.public_key == public_key == parts.vapid_public_key
    assert vapid_key.private_bytes() not in signing_key.private_key


async def test_new_application_reports_every_invalid_field(parts: Parts) -> None:
    """The error has the pointers of all invalid fields."""
    async with parts.engine.begin() as conn:
        with pytest.raises(ValidationError) as refused:
            await applications.create(
                conn,
                parts.context.keyring,
                "Bad",
                "mailto:ops@localhost",
                ["https://good.example.org", "ftp://x.example.org", "https://x.example.org/path", "nonsense"],
            )
    assert [fault.pointer for fault in refused.value.errors] == [
        "/subject",
        "/allowed_origins/1",
        "/allowed_origins/2",
        "/allowed_origins/3",
    ]
    assert await parts.scalar("SELECT count(*) FROM applications") == 1


async def test_origins_are_stored_as_browsers_send_them(parts: Parts) -> None:
    """Allowed origins are normalized to the form that browsers send, without duplicates."""
    origins = ["HTTPS://App.Example.org:443/", "https://app.example.org", "http://localhost:8080", "https://[::1]:8443"]
    async with parts.engine.begin() as conn:
        application = await applications.create(conn, parts.context.keyring, "App", "mailto:ops@example.org", origins)
    assert application["allowed_origins"] == ["https://app.example.org", "http://localhost:8080", "https://[::1]:8443"]


async def test_browsers_subscribe_with_the_newest_vapid_key(parts: Parts) -> None:
    """After a rotation, the API returns the newest VAPID key as the key to subscribe with."""
    async with parts.engine.begin() as conn:
        new_key = await applications.add_vapid_key(conn, parts.context.keyring, parts.application_id)
        assert await applications.get_vapid_public_key(conn, parts.application_id) == new_key.public_text


async def test_both_vapid_keys_are_used_for_sending(parts: Parts) -> None:
    """After a rotation, messages are signed with the VAPID key with which their device subscribed."""
    old_devices = await parts.register(parts.subscribe(Vendor.FCM, 2))
    async with parts.engine.begin() as conn:
        new_key = await applications.add_vapid_key(conn, parts.context.keyring, parts.application_id)
    new_devices = await parts.register(parts.sim.subscribe_many(Vendor.FCM, 2, new_key.public_key))
    async with parts.run_worker():
        progress = await parts.wait_until_done((await parts.submit()).id)
    assert progress.accepted == len(old_devices) + len(new_devices)
