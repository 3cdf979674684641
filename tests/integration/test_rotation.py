"""Rotation of the master key: all secrets are encrypted with the new key while processes run without interruption."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import LargeBinary, text

from gateway.domain.ids import new_id
from gateway.records.postgres.schema import metadata
from gateway.service.access import applications
from gateway.service.access.secrets import MIN_MASTER_KEY_LENGTH, DecryptionFailed, Keyring
from gateway.service.operations import key_rotation
from gateway.sim import Vendor
from tests.support.api import ADMIN, serve_api
from tests.support.command import command
from tests.support.gateway_parts import MASTER_KEY, Parts
from tests.support.worker_process import server_process, worker_process

NEW_KEY = b"the new master key for tests, 38 octets"
BOTH_KEYS = Keyring(NEW_KEY, MASTER_KEY)
# Binary columns whose values are not ciphertexts.
NOT_ENCRYPTED = {
    "api_keys.digest",
    "sessions.digest",
    "vapid_keys.public_key",
    "devices.endpoint_digest",
    "devices.p256dh",
    "devices.auth",
    "feeds.digest",
    "feed_entries.digest",
    "idempotency_keys.request_digest",
}
WEBHOOK = {"name": "Shop", "url": "https://shop.example/hooks", "events": ["*"]}


def ignore_progress(kind: str, count: int) -> None:
    pass


def with_keyring(keyring: Keyring, parts: Parts) -> Parts:
    """Return a copy of the parts whose context has the keyring."""
    return replace(parts, context=replace(parts.context, keyring=keyring))


async def read_progress(parts: Parts, keyring: Keyring = BOTH_KEYS) -> dict[str, tuple[int, int]]:
    """Return the progress of a rotation by kind of secret."""
    async with parts.engine.connect() as conn:
        return {name: tuple(counts) for name, counts in (await key_rotation.get_progress(conn, keyring)).items()}


async def create_secrets(parts: Parts, applications_: int = 1) -> str:
    """Create a secret of each kind and further applications; return the identity secret."""
    async with serve_api(parts) as api:
        app = f"/v1/applications/{parts.application['id']}"
        secret = await api.call_ok("PATCH", app, {"require_identity": True}, key=ADMIN)
        await api.call_ok("POST", "/v1/webhooks", WEBHOOK, headers={"Idempotency-Key": "once"})
    async with parts.engine.begin() as conn:
        for number in range(applications_):
            await applications.create(conn, parts.context.keyring, f"App {number}", "mailto:ops@example.org", [])
    return str(secret["identity_secret"])


def test_every_encrypted_column_is_rotated() -> None:
    """Each binary column of the schema is rotated, or is in NOT_ENCRYPTED."""
    binary_columns = {
        str(column)
        for table in metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, LargeBinary)
    }
    assert binary_columns == NOT_ENCRYPTED | {str(kind.column) for kind in key_rotation.KINDS}


async def test_rotated_secrets_work_with_the_new_key_alone(parts: Parts) -> None:
    """After a rotation, servers and workers with only the new key use all secrets of the old key."""
    secret = await create_secrets(parts)
    await key_rotation.rotate(parts.engine, BOTH_KEYS, ignore_progress)
    assert await read_progress(parts) == {
        "vapid keys": (2, 0),
        "identity secrets": (1, 0),
        "webhook secrets": (1, 0),
        "first answers": (1, 0),
    }
    new_key_only = with_keyring(Keyring(NEW_KEY), parts)
    async with parts.engine.connect() as conn:
        await key_rotation.check(conn, new_key_only.context.keyring)
        with pytest.raises(DecryptionFailed):
            await key_rotation.check(conn, parts.context.keyring)
    async with serve_api(new_key_only) as api:
        replayed = await api.call("POST", "/v1/webhooks", WEBHOOK, headers={"Idempotency-Key": "once"})
        assert replayed.headers["Idempotency-Replayed"] == "true"
        [webhook] = (await api.call_ok("GET", "/v1/webhooks"))["items"]
        assert (await api.call_ok("POST", f"/v1/webhooks/{webhook['id']}/rotate", {}))["secret"].startswith("whsec_")
    async with parts.engine.begin() as conn:
        encrypted = await parts.scalar("SELECT identity_secret FROM applications WHERE identity_secret IS NOT NULL")
        assert new_key_only.context.keyring.open(encrypted, "identity").decode() == secret
        await conn.execute(text("UPDATE applications SET identity_secret = NULL"))
    await new_key_only.register(parts.subscribe(Vendor.FCM, 3))
    async with new_key_only.run_worker():
        assert (await new_key_only.wait_until_done((await new_key_only.submit()).id)).accepted == 3


async def test_rotation_does_not_interrupt_the_service(parts: Parts, tmp_path: Path) -> None:
    """While `gateway secrets rotate` runs, a server and a worker with both keys accept and send notifications."""
    await parts.register(parts.subscribe(Vendor.FCM, 20))
    await create_applications(parts, 150)
    keys = {"master_key": NEW_KEY.decode(), "retired_master_keys": MASTER_KEY.decode()}
    settings = {f"GATEWAY_{name.upper()}": value for name, value in keys.items()}
    headers = {"Authorization": f"Bearer {parts.application['secret_key']}"}
    async with (
        server_process(parts, tmp_path, **keys) as (_, origin),
        worker_process(parts, tmp_path, **keys),
        aiohttp.ClientSession(origin, headers=headers) as http,
    ):
        rotation = asyncio.create_task(
            command("secrets", "rotate", "--json", GATEWAY_DATABASE_URL=parts.url, **settings)
        )
        sent = []
        while not rotation.done() or len(sent) < 3:
            body = {"content": {"title": "Hello"}, "audience": {"everyone": True}}
            async with http.post("/v1/notifications", json=body) as response:
                assert response.status == 201, await response.text()
                sent.append(str((await response.json())["id"]))
            await asyncio.sleep(0.2)
        report = (await rotation).json
        for id_ in sent:
            async with asyncio.timeout(45):
                while True:
                    async with http.get(f"/v1/notifications/{id_}") as response:
                        notification = await response.json()
                    if notification["status"] == "done":
                        break
                    await asyncio.sleep(0.1)
            assert notification["progress"]["accepted"] == 20
    assert report == {
        "reencrypted": {"vapid keys": 151, "identity secrets": 0, "webhook secrets": 0, "first answers": 0},
        "remaining": 0,
    }


async def create_applications(parts: Parts, count: int) -> None:
    """Create `count` applications, each with a VAPID key to rotate."""
    async with parts.engine.begin() as conn:
        for number in range(count):
            await applications.create(conn, parts.context.keyring, f"App {number}", "mailto:ops@example.org", [])


async def test_interrupted_rotation_resumes(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted rotation resumes where it stopped."""
    await create_applications(parts, 9)
    monkeypatch.setattr(key_rotation, "BATCH", 4)
    progress_calls = []

    def interrupt(kind: str, count: int) -> None:
        progress_calls.append((kind, count))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await key_rotation.rotate(parts.engine, BOTH_KEYS, interrupt)
    assert (await read_progress(parts))["vapid keys"] == (10, 6)
    async with parts.engine.connect() as conn:
        await key_rotation.check(conn, BOTH_KEYS)
    await key_rotation.rotate(parts.engine, BOTH_KEYS, lambda kind, count: progress_calls.append((kind, count)))
    assert progress_calls == [("vapid keys", 4), ("vapid keys", 4), ("vapid keys", 2)]
    assert (await read_progress(parts))["vapid keys"] == (10, 0)


async def test_rotation_skips_locked_rows_until_the_end(parts: Parts) -> None:
    """A rotation skips locked rows and waits for them at the end."""
    await create_applications(parts, 3)
    first_batch_done = asyncio.Event()
    async with parts.engine.connect() as locking:
        lock_query = "SELECT id FROM vapid_keys ORDER BY id LIMIT 1 FOR UPDATE"
        await locking.execute(text(lock_query))
        rotation = asyncio.create_task(key_rotation.rotate(parts.engine, BOTH_KEYS, lambda *_: first_batch_done.set()))
        await asyncio.wait_for(first_batch_done.wait(), 20)
        assert (await read_progress(parts))["vapid keys"] == (4, 1)
        assert not rotation.done()
        await locking.rollback()
    await asyncio.wait_for(rotation, 20)
    assert (await read_progress(parts))["vapid keys"] == (4, 0)


async def test_undecryptable_secret_is_kept_and_reported(parts: Parts) -> None:
    """A secret that no key decrypts is kept and reported."""
    unknown_keyring = Keyring(b"a key that is not in the configuration")
    async with parts.engine.begin() as conn:
        await applications.add_vapid_key(conn, unknown_keyring, parts.application_id)
    settings = {"GATEWAY_DATABASE_URL": parts.url, "GATEWAY_MASTER_KEY": NEW_KEY.decode()}
    result = await command("secrets", "rotate", **settings, GATEWAY_RETIRED_MASTER_KEYS=MASTER_KEY.decode())
    assert result.code == 1
    assert result.err.startswith("gateway: 1 secrets are still encrypted with another key")
    assert (await read_progress(parts))["vapid keys"] == (2, 1)
    assert (await command("secrets", "status", "--json", **settings)).json["vapid keys"] == {"total": 2, "remaining": 1}
    async with parts.engine.connect() as conn:
        with pytest.raises(DecryptionFailed):
            await key_rotation.check(conn, BOTH_KEYS)
    assert await parts.scalar("SELECT who FROM audit WHERE act = 'secrets.rotate'") == "command line"


async def test_help_describes_all_steps_of_a_rotation() -> None:
    """The help text has the settings, the check of the progress, and the advice for interruptions and stolen keys."""
    result = (await command("secrets", "rotate", "--help")).out
    for word in ("GATEWAY_MASTER_KEY", "GATEWAY_RETIRED_MASTER_KEYS", "Interrupted", "secrets status", "stolen"):
        assert word in result


async def test_doctor_reports_an_unfinished_rotation(parts: Parts) -> None:
    """The doctor reports an unfinished rotation."""
    keys = {"GATEWAY_MASTER_KEY": NEW_KEY.decode(), "GATEWAY_RETIRED_MASTER_KEYS": MASTER_KEY.decode()}
    result = await command("doctor", "--offline", GATEWAY_DATABASE_URL=parts.url, GATEWAY_ADMIN_TOKEN="x" * 32, **keys)
    assert result.code == 0, result.out
    assert "1 of 1 secrets are encrypted with another key" in result.out
    assert "run `gateway secrets rotate`" in result.out


def test_tokens_of_a_retired_key_stay_valid() -> None:
    """Tokens of the old key are valid while it is configured as a retired key, and not with the new key alone."""
    old_keyring, new_keyring, device = Keyring(MASTER_KEY), Keyring(NEW_KEY), new_id()
    expires = int((datetime.now(UTC) + timedelta(days=1)).timestamp())
    token, receipt = (
        old_keyring.issue_device_token(device),
        old_keyring.issue_receipt_token(device, device, None, expires),
    )
    assert BOTH_KEYS.verify_device_token(token) == device
    assert BOTH_KEYS.verify_receipt_token(receipt, expires) == (device, device, None)
    assert BOTH_KEYS.issue_device_token(device) == new_keyring.issue_device_token(device) != token
    assert new_keyring.verify_device_token(token) is None
    assert new_keyring.verify_receipt_token(receipt, expires) is None


def test_secret_without_key_id_still_decrypts() -> None:
    """A ciphertext without a key id, as earlier versions stored it, can still be decrypted."""
    key = HKDF(SHA256(), 32, b"webpush-gateway", b"seal vapid").derive(MASTER_KEY)
    encrypted = b"n" * 12 + AESGCM(key).encrypt(b"n" * 12, b"secret", None)
    assert Keyring(MASTER_KEY).open(encrypted, "vapid") == BOTH_KEYS.open(encrypted, "vapid") == b"secret"
    with pytest.raises(DecryptionFailed):
        Keyring(NEW_KEY).open(encrypted, "vapid")


def test_short_retired_key_is_refused() -> None:
    """A retired key that is too short is refused."""
    with pytest.raises(ValueError, match="32 octets"):
        Keyring(NEW_KEY, b"x" * (MIN_MASTER_KEY_LENGTH - 1))
