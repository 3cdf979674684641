"""A Postgres to be ill-treated: stopped without warning, and with a full disk under its log.

Root mounts a file system of its own for the log's partitions and fills it, so that Postgres meets the real ENOSPC. Who
may mount nothing gets a trigger that refuses each insert with the same SQLSTATE, 53100, at the same place.
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

# What the processes of Postgres wrote is with the kernel, and the kernel lives on: fsync would prove nothing here.
OPTIONS = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "64MB", "max_connections": "100"}
DISK_MB = 192
SPACE = "log_disk"
PARTITIONS = """
    SELECT c.relname, c.relkind::text FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid
    JOIN pg_class parent ON parent.oid = i.inhparent
    WHERE parent.relname IN (SELECT 'deliveries' UNION SELECT indexrelid::regclass::text FROM pg_index
        WHERE indrelid = 'deliveries'::regclass) AND c.relkind IN ('r', 'i')
"""
REFUSE = """
    CREATE OR REPLACE FUNCTION disk_is_full() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE 'no space left on device' USING ERRCODE = 'disk_full'; END $$;
    CREATE OR REPLACE TRIGGER disk_is_full BEFORE INSERT ON deliveries FOR EACH STATEMENT
    EXECUTE FUNCTION disk_is_full();
"""


class Cluster:
    """`disk`: where the log's file system is mounted; None without one."""

    def __init__(self, postgres: EmbeddedPostgres, disk: Path | None) -> None:
        self.disk = disk
        self._postgres = postgres
        self._template = ""

    @property
    def port(self) -> int:
        port = urlsplit(self._postgres.url).port
        assert port is not None
        return port

    def url(self, database: str, port: int | None = None) -> str:
        """By way of `port`, when that is not the cluster's own."""
        parts = urlsplit(self._postgres.url)
        place = f"{parts.netloc.rpartition(':')[0]}:{port or self.port}"
        return urlunsplit(parts._replace(netloc=place, path=f"/{database}"))

    async def run(self, statement: str, database: str = "postgres") -> None:
        conn = await asyncpg.connect(self.url(database))
        try:
            await conn.execute(statement)
        finally:
            await conn.close()

    async def prepare(self) -> None:
        self._template = f"template_{secrets.token_hex(4)}"
        await self.run(f"CREATE DATABASE {self._template}")
        await asyncio.to_thread(migrate.upgrade, self.url(self._template))
        if self.disk is not None:
            await self.run(f"CREATE TABLESPACE {SPACE} LOCATION '{self.disk / 'data'}'")

    @asynccontextmanager
    async def database(self) -> AsyncIterator[str]:
        """A migrated one for a run, by name."""
        name = f"faults_{secrets.token_hex(4)}"
        await self.run(f"CREATE DATABASE {name} TEMPLATE {self._template}")
        yield name
        await self.run(f"DROP DATABASE {name} WITH (FORCE)")

    async def put_log_on_disk(self, database: str) -> None:
        """Once there are partitions."""
        if self.disk is None:
            return
        conn = await asyncpg.connect(self.url(database))
        try:
            for name, kind in await conn.fetch(PARTITIONS):
                what = "TABLE" if kind == "r" else "INDEX"
                await conn.execute(f'ALTER {what} "{name}" SET TABLESPACE {SPACE}')
        finally:
            await conn.close()

    @asynccontextmanager
    async def disk_full(self, database: str) -> AsyncIterator[None]:
        if self.disk is None:
            await self.run(REFUSE, database)
            try:
                yield
            finally:
                await self.run("DROP TRIGGER disk_is_full ON deliveries", database)
            return
        ballast = self.disk / f"ballast-{secrets.token_hex(4)}"
        await asyncio.to_thread(_fill, ballast)
        try:
            yield
        finally:
            ballast.unlink()

    async def stop_at_once(self) -> None:
        """SIGQUIT to the postmaster, as `pg_ctl stop -m immediate` does: nobody finishes anything."""
        pid = int((self._postgres.data / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGQUIT)
        await asyncio.to_thread(self._postgres.stop)

    async def start(self) -> None:
        """Recover what was written. While its disk is full it cannot, so it is tried again."""
        while True:
            try:
                await asyncio.to_thread(self._postgres.start)
                return
            except EmbeddedUnavailable:
                await asyncio.sleep(0.5)


@asynccontextmanager
async def cluster() -> AsyncIterator[Cluster]:
    with _folder() as folder:
        postgres = EmbeddedPostgres(folder / "postgres", OPTIONS)
        await asyncio.to_thread(postgres.start)
        try:
            with _mounted(folder / "disk", postgres.data.stat().st_uid) as disk:
                made = Cluster(postgres, disk)
                await made.prepare()
                yield made
        finally:
            await asyncio.to_thread(postgres.stop)


@contextmanager
def _folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="gateway-faults-"))
    path.chmod(0o711)  # root's Postgres runs as somebody else
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def _mounted(place: Path, owner: int) -> Iterator[Path | None]:
    """A file system of DISK_MB, or None when we may mount none."""
    place.mkdir(mode=0o711)
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=711", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mounting, check=False, stderr=subprocess.DEVNULL).returncode:
        yield None
        return
    try:
        (place / "data").mkdir(mode=0o700)
        os.chown(place / "data", owner, -1)
        yield place
    finally:
        # Lazily: should Postgres live on, it goes with its last file.
        subprocess.run(["umount", "--lazy", place], check=True)


def _fill(ballast: Path) -> None:
    piece = bytes(1 << 20)
    with ballast.open("wb", buffering=0) as file:
        for size in (len(piece), 4096):
            try:
                while file.write(piece[:size]) == size:
                    pass
            except OSError:
                continue
