"""A backup that is taken while gateways run is consistent, and a gateway on the restored database serves and sends."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from sqlalchemy import text

from gateway.embedded.binaries import find_binaries
from gateway.records import outbox
from gateway.records.postgres import migrate, notifier
from gateway.records.postgres.engine import open_engine
from gateway.service.access.secrets import DecryptionFailed, Keyring
from gateway.service.operations import key_rotation
from gateway.sim import Vendor
from tests.support.api import serve_api
from tests.support.gateway_parts import Parts

PG_DUMP, PG_RESTORE = (find_binaries() / name for name in ("pg_dump", "pg_restore"))
pytestmark = pytest.mark.skipif(not (PG_DUMP.exists() and PG_RESTORE.exists()), reason="pg_dump is not installed")
# Selects the names of all tables and partitions.
TABLES = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"


async def run(program: Path, *arguments: str, url: str) -> None:
    """Run a program as ops/docs/backup.md does: the password is in the environment and not in the arguments."""
    password = urlsplit(url).password or ""
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        env={**os.environ, "PGPASSWORD": password},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, output.decode()


def without_password(url: str) -> str:
    """Return a database URL without its password, which the programs get in the environment."""
    return url.replace(f":{urlsplit(url).password}@", "@")


async def back_up(url: str, file: Path) -> None:
    """Write a backup of a database to a file with pg_dump."""
    await run(PG_DUMP, "--format=custom", f"--file={file}", without_password(url), url=url)


async def restore(file: Path, url: str) -> None:
    """Restore a backup into a database with pg_restore."""
    arguments = ("--no-owner", "--exit-on-error", "--single-transaction", f"--dbname={without_password(url)}")
    await run(PG_RESTORE, *arguments, str(file), url=url)


async def dump_rows(url: str) -> dict[str, list[str]]:
    """Return every row as text, by table or partition."""
    conn = await asyncpg.connect(url)
    try:
        tables = await conn.fetch(TABLES)
        return {
            name: sorted(row[0] for row in await conn.fetch(f'SELECT CAST(t AS text) FROM "{name}" AS t'))  # noqa: S608
            for (name,) in tables
        }
    finally:
        await conn.close()


async def test_restored_backup_equals_the_original(parts: Parts, empty_database_url: str, tmp_path: Path) -> None:
    """A restored backup has the same rows, partitions and migration state."""
    await parts.register(parts.subscribe(Vendor.FCM, 5), user_id="ada")
    async with parts.run_worker():
        await parts.wait_until_done((await parts.submit()).id)
    await back_up(parts.url, tmp_path / "gateway.dump")
    await restore(tmp_path / "gateway.dump", empty_database_url)
    before, after = await dump_rows(parts.url), await dump_rows(empty_database_url)
    assert after == before
    assert len(after[f"deliveries_{datetime.now(UTC):%Y%m%d}"]) == 5
    engine = open_engine(empty_database_url)
    async with engine.connect() as conn:
        assert await migrate.is_current(conn, empty_database_url)
    await engine.dispose()


async def test_backup_during_a_campaign_has_every_device(parts: Parts, empty_database_url: str, tmp_path: Path) -> None:
    """The backup has the settled deliveries, and all other devices in jobs that are due when their leases end."""
    devices = await parts.register(parts.subscribe(Vendor.FCM, 1_500, share_keys=True))
    async with parts.run_worker():
        sent = await parts.submit()
        await parts.wait_until(sent.id, lambda progress: progress.accepted > 0)
        await back_up(parts.url, tmp_path / "gateway.dump")
    await restore(tmp_path / "gateway.dump", empty_database_url)
    async with connect_parts(parts, empty_database_url) as restored:
        async with restored.engine.begin() as conn:
            await conn.execute(text("UPDATE jobs SET run_at = now()"))  # end all leases
        async with restored.run_worker():
            progress = await restored.wait_until_done(sent.id)
        assert progress.accepted == len(devices)
        assert len(await restored.list_deliveries(sent.id)) == len(devices)


async def test_webhooks_continue_after_restore_on_a_new_server(parts: Parts) -> None:
    """Cursors contain transaction ids; after a restore on a server with lower ids, the events are renumbered."""
    webhook = {"name": "All", "url": "https://shop.example/hooks", "events": ["*"]}
    async with serve_api(parts) as api:
        await api.call_ok("POST", "/v1/webhooks", webhook)
        for _ in range(3):
            await api.register()
    assert not await rebase_outbox(parts)
    async with parts.engine.begin() as conn:
        # Simulate a backup of a server with many more transactions, where one of the three events was sent.
        await conn.execute(text("UPDATE happenings SET txid = txid + 1000000000"))
        set_cursor = (
            "UPDATE webhooks SET (outbox_txid, outbox_id) = (SELECT txid, id FROM happenings ORDER BY id LIMIT 1)"
        )
        await conn.execute(text(set_cursor))
    assert await rebase_outbox(parts)
    assert not await rebase_outbox(parts)
    async with serve_api(parts) as api:
        await api.register()
    async with parts.engine.connect() as conn:
        cursor = (await conn.execute(text("SELECT outbox_txid, outbox_id FROM webhooks"))).one()
        events, _ = await outbox.read_after(
            conn, parts.application_id, outbox.Cursor(*cursor), ["device.registered"], limit=10
        )
    assert len(events) == 3
    assert [row.id for row in events] == sorted(row.id for row in events)


async def rebase_outbox(parts: Parts) -> bool:
    async with parts.engine.begin() as conn:
        return await outbox.rebase_restored_outbox(conn)


@asynccontextmanager
async def connect_parts(parts: Parts, url: str) -> AsyncIterator[Parts]:
    """Yield the parts on another database."""
    engine, notifier_ = open_engine(url), notifier.Notifier(url)
    async with notifier_.running():
        yield replace(parts, url=url, notifier=notifier_, context=replace(parts.context, engine=engine))
    await engine.dispose()


async def test_backup_without_the_master_key_decrypts_nothing(
    parts: Parts, empty_database_url: str, tmp_path: Path
) -> None:
    """The secrets of a backup can be decrypted only with the master key."""
    await back_up(parts.url, tmp_path / "gateway.dump")
    await restore(tmp_path / "gateway.dump", empty_database_url)
    engine = open_engine(empty_database_url)
    async with engine.connect() as conn:
        await key_rotation.check(conn, parts.context.keyring)
        with pytest.raises(DecryptionFailed):
            await key_rotation.check(conn, Keyring(b"another master key, of 32 octets or more"))
    await engine.dispose()
