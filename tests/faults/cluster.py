"""A Postgres server that can be stopped without warning, and whose delivery log can run out of disk space.

As root, the partitions of the delivery log are on a small separate file system. Filling it gives Postgres a real
ENOSPC. Without the right to mount, a trigger refuses each insert with the same SQLSTATE, 53100.
"""

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from gateway.embedded import EmbeddedPostgres, EmbeddedUnavailable
from gateway.records.postgres import migrate

# Only processes are killed, not the kernel, so fsync would make no difference.
OPTIONS = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "64MB", "max_connections": "100"}
# The size of the file system for the delivery log.
DISK_MB = 192
# The tablespace on that file system.
TABLESPACE = "log_disk"
# (name, relkind) of each partition of the delivery log and of each index of a partition.
PARTITIONS = """
    SELECT c.relname, c.relkind::text FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid
    JOIN pg_class parent ON parent.oid = i.inhparent
    WHERE parent.relname IN (SELECT 'deliveries' UNION SELECT indexrelid::regclass::text FROM pg_index
        WHERE indrelid = 'deliveries'::regclass) AND c.relkind IN ('r', 'i')
"""
# Creates the trigger that refuses inserts into the delivery log.
REFUSE_INSERTS = """
    CREATE OR REPLACE FUNCTION disk_is_full() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE 'no space left on device' USING ERRCODE = 'disk_full'; END $$;
    CREATE OR REPLACE TRIGGER disk_is_full BEFORE INSERT ON deliveries FOR EACH STATEMENT
    EXECUTE FUNCTION disk_is_full();
"""


class Cluster:
    """The Postgres server. `disk` is the mount point of the delivery log's file system, or None without one."""

    def __init__(self, postgres: EmbeddedPostgres, disk: Path | None) -> None:
        self.disk = disk
        self._postgres = postgres
        self._template = ""

    @property
    def port(self) -> int:
        """Return the port of the server."""
        port = urlsplit(self._postgres.url).port
        assert port is not None
        return port

    def url(self, database: str, port: int | None = None) -> str:
        """Return the connection URL of a database; `port` is the port of a link, by default that of the server."""
        parts = urlsplit(self._postgres.url)
        netloc = f"{parts.netloc.rpartition(':')[0]}:{port or self.port}"
        return urlunsplit(parts._replace(netloc=netloc, path=f"/{database}"))

    async def run(self, statement: str, database: str = "postgres") -> None:
        """Execute a statement in a database on a new connection."""
        conn = await asyncpg.connect(self.url(database))
        try:
            await conn.execute(statement)
        finally:
            await conn.close()

    async def prepare(self) -> None:
        """Create the migrated database that `database` copies, and the tablespace on the small file system."""
        self._template = f"template_{secrets.token_hex(4)}"
        await self.run(f"CREATE DATABASE {self._template}")
        await asyncio.to_thread(migrate.upgrade, self.url(self._template))
        if self.disk is not None:
            await self.run(f"CREATE TABLESPACE {TABLESPACE} LOCATION '{self.disk / 'data'}'")

    @asynccontextmanager
    async def database(self) -> AsyncIterator[str]:
        """Create a migrated database until the context ends; yield its name."""
        name = f"faults_{secrets.token_hex(4)}"
        await self.run(f"CREATE DATABASE {name} TEMPLATE {self._template}")
        yield name
        await self.run(f"DROP DATABASE {name} WITH (FORCE)")

    async def put_log_on_disk(self, database: str) -> None:
        """Move the partitions of the delivery log, which must exist, to the small file system."""
        if self.disk is None:
            return
        conn = await asyncpg.connect(self.url(database))
        try:
            for name, kind in await conn.fetch(PARTITIONS):
                object_type = "TABLE" if kind == "r" else "INDEX"
                await conn.execute(f'ALTER {object_type} "{name}" SET TABLESPACE {TABLESPACE}')
        finally:
            await conn.close()

    @asynccontextmanager
    async def disk_full(self, database: str) -> AsyncIterator[None]:
        """Let inserts into the delivery log of a database fail for lack of disk space until the context ends."""
        if self.disk is None:
            await self.run(REFUSE_INSERTS, database)
            try:
                yield
            finally:
                await self.run("DROP TRIGGER disk_is_full ON deliveries", database)
            return
        ballast = self.disk / f"ballast-{secrets.token_hex(4)}"
        await asyncio.to_thread(_fill_disk, ballast)
        try:
            yield
        finally:
            ballast.unlink()

    async def stop_immediately(self) -> None:
        """Send SIGQUIT to the postmaster, as `pg_ctl stop -m immediate` does; no transaction finishes."""
        pid = int((self._postgres.data / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGQUIT)
        await asyncio.to_thread(self._postgres.stop)

    async def start(self) -> None:
        """Start the server. Its recovery fails while the disk is full, so retry until the start succeeds."""
        while True:
            try:
                await asyncio.to_thread(self._postgres.start)
                return
            except EmbeddedUnavailable:
                await asyncio.sleep(0.5)


@asynccontextmanager
async def start_cluster() -> AsyncIterator[Cluster]:
    """Run the server until the context ends."""
    with _temporary_folder() as folder:
        postgres = EmbeddedPostgres(folder / "postgres", OPTIONS)
        await asyncio.to_thread(postgres.start)
        try:
            with _mount_disk(folder / "disk", postgres.data.stat().st_uid) as disk:
                cluster = Cluster(postgres, disk)
                await cluster.prepare()
                yield cluster
        finally:
            await asyncio.to_thread(postgres.stop)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="gateway-faults-"))
    path.chmod(0o711)  # as root, the embedded Postgres runs as another user
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def _mount_disk(mount_point: Path, owner: int) -> Iterator[Path | None]:
    """Mount a file system of DISK_MB; yield its path, or None without the right to mount."""
    mount_point.mkdir(mode=0o711)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=711", "tmpfs", str(mount_point)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode:
        yield None
        return
    try:
        (mount_point / "data").mkdir(mode=0o700)
        os.chown(mount_point / "data", owner, -1)
        yield mount_point
    finally:
        # With --lazy, the file system of a server that still runs is removed when its last file is closed.
        subprocess.run(["umount", "--lazy", mount_point], check=True)


def _fill_disk(ballast: Path) -> None:
    """Write to the file until no block is free."""
    chunk = bytes(1 << 20)
    with ballast.open("wb", buffering=0) as file:
        for size in (len(chunk), 4096):
            try:
                while file.write(chunk[:size]) == size:
                    pass
            except OSError:
                continue
