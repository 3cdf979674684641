"""A new master key: everything is sealed anew beside running processes, and nothing works less meanwhile."""

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

NEW = b"the master key that is next: a new one"
BOTH = Keyring(NEW, MASTER_KEY)
NOT_SEALED = {
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


def told_nobody(kind: str, count: int) -> None:
    pass


def known(vault: Keyring, parts: Parts) -> Parts:
    """The same parts with these keys."""
    return replace(parts, context=replace(parts.context, vault=vault))


async def standing(parts: Parts, vault: Keyring = BOTH) -> dict[str, tuple[int, int]]:
    async with parts.engine.connect() as conn:
        return {name: tuple(counts) for name, counts in (await key_rotation.standing(conn, vault)).items()}


async def with_secrets(parts: Parts, applications_: int = 1) -> str:
    """One of each kind of what is sealed, and so many applications more; answers the identity secret."""
    async with serve_api(parts) as api:
        app = f"/v1/applications/{parts.application['id']}"
        secret = await api.call_ok("PATCH", app, {"require_identity": True}, key=ADMIN)
        await api.call_ok("POST", "/v1/webhooks", WEBHOOK, headers={"Idempotency-Key": "once"})
    async with parts.engine.begin() as conn:
        for number in range(applications_):
            await applications.create(conn, parts.context.keyring, f"App {number}", "mailto:ops@example.org", [])
    return str(secret["identity_secret"])


def test_every_encrypted_column_is_rotated() -> None:
    """A new binary column must be rotated or be listed as not encrypted."""
    octets = {str(c) for table in metadata.tables.values() for c in table.columns if isinstance(c.type, LargeBinary)}
    assert octets == NOT_SEALED | {str(kind.column) for kind in key_rotation.KINDS}


async def test_rotated_secrets_work_with_the_new_key_alone(parts: Parts) -> None:
    """After a rotation everything works with the new key alone."""
    secret = await with_secrets(parts)
    await key_rotation.rotate(parts.engine, BOTH, told_nobody)
    assert await standing(parts) == {
        "vapid keys": (2, 0),
        "identity secrets": (1, 0),
        "webhook secrets": (1, 0),
        "first answers": (1, 0),
    }
    alone = known(Keyring(NEW), parts)
    async with parts.engine.connect() as conn:
        await key_rotation.check(conn, alone.context.keyring)
        with pytest.raises(DecryptionFailed):
            await key_rotation.check(conn, parts.context.keyring)
    async with serve_api(alone) as api:
        again = await api.call("POST", "/v1/webhooks", WEBHOOK, headers={"Idempotency-Key": "once"})
        assert again.headers["Idempotency-Replayed"] == "true"
        [webhook] = (await api.call_ok("GET", "/v1/webhooks"))["items"]
        assert (await api.call_ok("POST", f"/v1/webhooks/{webhook['id']}/rotate", {}))["secret"].startswith("whsec_")
    async with parts.engine.begin() as conn:
        sealed = await parts.scalar("SELECT identity_secret FROM applications WHERE identity_secret IS NOT NULL")
        assert alone.context.keyring.open(sealed, "identity").decode() == secret
        await conn.execute(text("UPDATE applications SET identity_secret = NULL"))
    await alone.register(parts.subscribe(Vendor.FCM, 3))
    async with alone.run_worker():
        assert (await alone.wait_until_done((await alone.submit()).id)).accepted == 3


async def test_rotation_does_not_interrupt_the_service(parts: Parts, tmp_path: Path) -> None:
    """A server and a worker that have both keys run beside `gateway secrets rotate`."""
    await parts.register(parts.subscribe(Vendor.FCM, 20))
    await with_secrets_of_many(parts, 150)
    keys = {"master_key": NEW.decode(), "retired_master_keys": MASTER_KEY.decode()}
    given = {f"GATEWAY_{name.upper()}": value for name, value in keys.items()}
    headers = {"Authorization": f"Bearer {parts.application['secret_key']}"}
    async with (
        server_process(parts, tmp_path, **keys) as (_, origin),
        worker_process(parts, tmp_path, **keys),
        aiohttp.ClientSession(origin, headers=headers) as http,
    ):
        rotating = asyncio.create_task(command("secrets", "rotate", "--json", GATEWAY_DATABASE_URL=parts.url, **given))
        sent = []
        while not rotating.done() or len(sent) < 3:
            body = {"content": {"title": "Hello"}, "audience": {"everyone": True}}
            async with http.post("/v1/notifications", json=body) as answer:
                assert answer.status == 201, await answer.text()
                sent.append(str((await answer.json())["id"]))
            await asyncio.sleep(0.2)
        done = (await rotating).json
        for id_ in sent:
            async with asyncio.timeout(45):
                while True:
                    async with http.get(f"/v1/notifications/{id_}") as answer:
                        said = await answer.json()
                    if said["status"] == "done":
                        break
                    await asyncio.sleep(0.1)
            assert said["progress"]["accepted"] == 20
    assert done == {
        "sealed_anew": {"vapid keys": 151, "identity secrets": 0, "webhook secrets": 0, "first answers": 0},
        "left": 0,
    }


async def with_secrets_of_many(parts: Parts, count: int) -> None:
    async with parts.engine.begin() as conn:
        for number in range(count):
            await applications.create(conn, parts.context.keyring, f"App {number}", "mailto:ops@example.org", [])


async def test_interrupted_rotation_resumes(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted rotation resumes where it stopped."""
    await with_secrets_of_many(parts, 9)
    monkeypatch.setattr(key_rotation, "BATCH", 4)
    seen = []

    def interrupt(kind: str, count: int) -> None:
        seen.append((kind, count))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await key_rotation.rotate(parts.engine, BOTH, interrupt)
    assert (await standing(parts))["vapid keys"] == (10, 6)
    async with parts.engine.connect() as conn:
        await key_rotation.check(conn, BOTH)
    await key_rotation.rotate(parts.engine, BOTH, lambda kind, count: seen.append((kind, count)))
    assert seen == [("vapid keys", 4), ("vapid keys", 4), ("vapid keys", 2)]
    assert (await standing(parts))["vapid keys"] == (10, 0)


async def test_rotation_skips_locked_rows_until_the_end(parts: Parts) -> None:
    """A rotation skips locked rows and waits for them at the end."""
    await with_secrets_of_many(parts, 3)
    first = asyncio.Event()
    async with parts.engine.connect() as holding:
        held = "SELECT id FROM vapid_keys ORDER BY id LIMIT 1 FOR UPDATE"
        await holding.execute(text(held))
        rotating = asyncio.create_task(key_rotation.rotate(parts.engine, BOTH, lambda *_: first.set()))
        await asyncio.wait_for(first.wait(), 20)
        assert (await standing(parts))["vapid keys"] == (4, 1)
        assert not rotating.done()
        await holding.rollback()
    await asyncio.wait_for(rotating, 20)
    assert (await standing(parts))["vapid keys"] == (4, 0)


async def test_undecryptable_secret_is_kept_and_reported(parts: Parts) -> None:
    """A secret that no key decrypts is kept and reported."""
    foreign = Keyring(b"a key that nobody gave to the rotation")
    async with parts.engine.begin() as conn:
        await applications.add_vapid_key(conn, foreign, parts.application_id)
    given = {"GATEWAY_DATABASE_URL": parts.url, "GATEWAY_MASTER_KEY": NEW.decode()}
    said = await command("secrets", "rotate", **given, GATEWAY_RETIRED_MASTER_KEYS=MASTER_KEY.decode())
    assert said.code == 1
    assert said.err.startswith("gateway: 1 are still sealed with another key")
    assert (await standing(parts))["vapid keys"] == (2, 1)
    assert (await command("secrets", "status", "--json", **given)).json["vapid keys"] == {"whole": 2, "others": 1}
    async with parts.engine.connect() as conn:
        with pytest.raises(DecryptionFailed):
            await key_rotation.check(conn, BOTH)
    assert await parts.scalar("SELECT who FROM audit WHERE act = 'secrets.rotate'") == "command line"


async def test_help_describes_the_whole_procedure() -> None:
    """The help text describes the whole rotation."""
    said = (await command("secrets", "rotate", "--help")).out
    for word in ("GATEWAY_MASTER_KEY", "GATEWAY_RETIRED_MASTER_KEYS", "Interrupted", "secrets status", "stolen"):
        assert word in said


async def test_doctor_reports_an_unfinished_rotation(parts: Parts) -> None:
    """The doctor reports an unfinished rotation."""
    keys = {"GATEWAY_MASTER_KEY": NEW.decode(), "GATEWAY_RETIRED_MASTER_KEYS": MASTER_KEY.decode()}
    said = await command("doctor", "--offline", GATEWAY_DATABASE_URL=parts.url, GATEWAY_ADMIN_TOKEN="x" * 32, **keys)
    assert said.code == 0, said.out
    assert "1 of 1 are sealed with another one" in said.out
    assert "run `gateway secrets rotate`" in said.out


def test_tokens_of_a_retired_key_stay_valid() -> None:
    """Tokens of a retired key are valid while the key is configured."""
    old, new, device = Keyring(MASTER_KEY), Keyring(NEW), new_id()
    expires = int((datetime.now(UTC) + timedelta(days=1)).timestamp())
    token, receipt = old.device_token(device), old.receipt_token(device, device, None, expires)
    assert BOTH.device_of(token) == device
    assert BOTH.receipt_of(receipt, expires) == (device, device, None)
    assert BOTH.device_token(device) == new.device_token(device) != token
    assert new.device_of(token) is None
    assert new.receipt_of(receipt, expires) is None


def test_secret_without_key_id_still_decrypts() -> None:
    """Secrets from before keys had ids still decrypt."""
    key = HKDF(SHA256(), 32, b"webpush-gateway", b"seal vapid").derive(MASTER_KEY)
    sealed = b"n" * 12 + AESGCM(key).encrypt(b"n" * 12, b"secret", None)
    assert Keyring(MASTER_KEY).open(sealed, "vapid") == BOTH.open(sealed, "vapid") == b"secret"
    with pytest.raises(DecryptionFailed):
        Keyring(NEW).open(sealed, "vapid")


def test_short_retired_key_is_refused() -> None:
    """A retired key that is too short is refused."""
    with pytest.raises(ValueError, match="32 octets"):
        Keyring(NEW, b"x" * (MIN_MASTER_KEY_LENGTH - 1))
