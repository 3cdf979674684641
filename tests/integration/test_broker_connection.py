"""Brokers that are down, refuse the credentials, are too old or close the connection cause a one-line error."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.queue.connection import BrokerIncompatible, BrokerUnavailable
from gateway.queue.nats import Broker
from tests.support.command import command, run_in_background
from tests.support.nats_server import start_nodes
from tests.support.tls import make_ca

SECOND = timedelta(seconds=1)
CONNECT_TIMEOUT = 10 * SECOND
# The time in which a command must exit.
EXIT_TIMEOUT_S = 20.0
MASTER_KEY = "a master key for tests that is long enough"
ACCOUNT = 'authorization { user: "me", password: "Hidden" }\n'
OTHER_ACCOUNT = 'authorization { user: "you", password: "Hidden" }\n'


def with_account(url: str, account: str = "me:Hidden") -> str:
    """Return a broker URL with a user and password."""
    return url.replace("nats://", f"nats://{account}@")


async def test_unreachable_broker_fails_within_the_timeout() -> None:
    """The error contains the broker's address, but not the password in the URL."""
    async with asyncio.timeout(10):
        with pytest.raises(BrokerUnavailable) as error:
            async with Broker.connect(["nats://me:Hidden@127.0.0.1:1"], timeout=SECOND):
                pass
    assert str(error.value).startswith("no NATS server responds at 127.0.0.1:1: ")
    assert "Hidden" not in str(error.value)


async def test_silent_server_fails_within_the_timeout() -> None:
    """A server that accepts the connection and sends nothing counts as unavailable."""
    silent_server = await asyncio.start_server(lambda *_: asyncio.sleep(0), "127.0.0.1", 0)
    async with silent_server, asyncio.timeout(10):
        port = silent_server.sockets[0].getsockname()[1]
        with pytest.raises(BrokerUnavailable, match="does not respond"):
            async with Broker.connect([f"nats://127.0.0.1:{port}"], timeout=SECOND):
                pass


async def test_broker_that_starts_later_is_reached(tmp_path: Path) -> None:
    """Connecting is retried until the timeout, so that a broker that starts in this time is reached."""
    async with start_nodes(1, tmp_path) as [node]:
        await node.stop()
        connecting = asyncio.ensure_future(Broker.connect([node.url]).__aenter__())
        await asyncio.wait({connecting}, timeout=0.5)
        assert not connecting.done()
        await node.start()
        async with asyncio.timeout(10):
            broker = await connecting
        assert broker.client.is_connected
        await broker.client.close()


async def test_wrong_password_error_omits_the_password(tmp_path: Path) -> None:
    """The command fails at once, and its last line has the error without the password."""
    async with start_nodes(1, tmp_path, ACCOUNT, account="me:Hidden") as [node]:
        result = await command("work", GATEWAY_QUEUE=with_account(node.url, "me:Wr0ng"), GATEWAY_MASTER_KEY=MASTER_KEY)
    last_line = result.err.splitlines()[-1]
    assert (result.code, last_line.partition(" at ")[0]) == (1, "gateway: GATEWAY_QUEUE: NATS")
    assert "refuses the user or password: Authorization Violation" in last_line
    assert "Wr0ng" not in result.err
    assert "Traceback" not in result.err


async def test_password_may_have_any_character(tmp_path: Path) -> None:
    """Credentials in the URL are percent-decoded."""
    settings, account = 'authorization { user: "me", password: "a/b@c%41" }\n', "me:a%2Fb%40c%2541"
    async with start_nodes(1, tmp_path, settings, account) as [node]:
        url = with_account(node.url, account)
        async with Broker.connect([url], timeout=SECOND) as broker:
            assert broker.client.is_connected


async def test_server_that_is_too_old_is_refused(tmp_path: Path) -> None:
    """The error contains the broker's version and the minimum version."""
    async with start_nodes(1, tmp_path) as [node], run_proxy(node.url, version="2.9.10") as proxy:
        with pytest.raises(BrokerIncompatible, match=r"is 2\.9; it must be 2\.10 or newer"):
            async with Broker.connect([proxy.url]):
                pass
        result = await command("work", GATEWAY_QUEUE=proxy.url, GATEWAY_MASTER_KEY=MASTER_KEY)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert result.err.startswith("gateway: GATEWAY_QUEUE: NATS at 127.0.0.1:")


async def test_relay_refuses_a_broker_without_jetstream(tmp_path: Path, database_url: str) -> None:
    """The command fails, and its last line has the error, without a traceback."""
    settings = 'accounts { A { users: [{ user: "me", password: "Hidden" }], jetstream: disabled } }\n'
    async with start_nodes(1, tmp_path, settings, account=None) as [node]:
        result = await command(
            "relay",
            GATEWAY_QUEUE=with_account(node.url),
            GATEWAY_MASTER_KEY=MASTER_KEY,
            GATEWAY_DATABASE_URL=database_url,
        )
    last_line = result.err.splitlines()[-1]
    assert result.code == 1
    assert last_line.startswith("gateway: GATEWAY_QUEUE: the streams cannot be created: ")
    assert "Traceback" not in result.err


async def test_private_ca_is_trusted_when_configured(tmp_path: Path) -> None:
    """A certificate of a private CA is refused unless GATEWAY_QUEUE_CA names the CA."""
    _, ca = make_ca(tmp_path / "tls")
    server = tmp_path / "tls" / "server.pem"
    settings = f'tls {{ cert_file: "{server}", key_file: "{server}" }}\n{ACCOUNT}'
    async with start_nodes(1, tmp_path, settings, account=None) as [node]:
        url = with_account(node.url).replace("nats:", "tls:")
        async with Broker.connect([url], ca=ca, timeout=CONNECT_TIMEOUT) as broker:
            await broker.prepare()
            assert await broker.is_prepared()
        with pytest.raises(BrokerUnavailable, match="its certificate is not trusted"):
            async with Broker.connect([url], timeout=SECOND):
                pass
        settings = {"GATEWAY_QUEUE": url, "GATEWAY_QUEUE_CA": str(ca), "GATEWAY_MASTER_KEY": MASTER_KEY}
        async with run_in_background("work", **settings) as work:
            await work.wait_for_output("worker.started")
            assert await work.stop() == 0


async def test_password_is_not_sent_without_tls() -> None:
    """With a tls:// URL, the client sends nothing to a server without TLS."""
    received = bytearray()

    async def serve_without_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"version":"2.12.0","auth_required":true,"max_payload":1048576}\r\n')
        with suppress(OSError):
            received.extend(await reader.read())
        writer.close()

    async with await asyncio.start_server(serve_without_tls, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BrokerUnavailable, match="secure connection not available"):
            async with Broker.connect([f"tls://me:Hidden@127.0.0.1:{port}"], timeout=SECOND):
                pass
    assert not received


async def test_worker_ends_when_its_credentials_are_revoked(tmp_path: Path) -> None:
    """The worker exits with 1 instead of running without a broker, so that its supervisor restarts it."""
    async with start_nodes(1, tmp_path, ACCOUNT, account="me:Hidden") as [node]:
        async with Broker.connect([with_account(node.url)]) as broker:
            await broker.prepare()
        settings = {"GATEWAY_QUEUE": with_account(node.url), "GATEWAY_MASTER_KEY": MASTER_KEY}
        async with run_in_background("work", **settings) as work:
            await work.wait_for_output("worker.started")
            node.configure(OTHER_ACCOUNT)
            await work.wait_for_output("gateway: GATEWAY_QUEUE: the connection has ended: ")
            assert await asyncio.wait_for(work.process.wait(), EXIT_TIMEOUT_S) == 1
        assert "Traceback" not in work.output
        assert "Hidden" not in work.output


async def test_worker_ends_when_the_client_closes_for_good(tmp_path: Path) -> None:
    """A protocol error makes the client close the connection without reconnecting."""
    async with start_nodes(1, tmp_path) as [node], run_proxy(node.url) as proxy:
        async with Broker.connect([node.url]) as broker:
            await broker.prepare()
        async with run_in_background("work", GATEWAY_QUEUE=proxy.url, GATEWAY_MASTER_KEY=MASTER_KEY) as work:
            await work.wait_for_output("worker.started")
            proxy.inject(b"-ERR 'Unknown Protocol Operation'\r\n")
            await work.wait_for_output("gateway: GATEWAY_QUEUE: the connection has ended: unknown protocol operation\n")
            assert await asyncio.wait_for(work.process.wait(), EXIT_TIMEOUT_S) == 1
        assert "Traceback" not in work.output


async def test_lost_connection_is_restored(tmp_path: Path) -> None:
    """An established connection is restored without a time limit."""
    async with start_nodes(1, tmp_path) as [node], Broker.connect([node.url], timeout=SECOND) as broker:
        await broker.prepare()
        await node.stop()
        closed = asyncio.ensure_future(broker.connection.wait_until_closed())
        await asyncio.wait({closed}, timeout=3)
        assert not closed.done()
        await node.start()
        async with asyncio.timeout(10):
            while not broker.client.is_connected:  # noqa: ASYNC110 - the broker uses the client's only callbacks
                await asyncio.sleep(0.02)
        assert await broker.is_prepared()
        closed.cancel()


class Proxy:
    """A TCP proxy to a server, which can change the server's version and inject lines."""

    def __init__(self, url: str, version: str | None) -> None:
        self.url = ""
        self._host, _, self._port = url.removeprefix("nats://").rpartition(":")
        self._version = version
        self._clients: list[asyncio.StreamWriter] = []

    def inject(self, line: bytes) -> None:
        for client in self._clients:
            client.write(line)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker_reader, broker_writer = await asyncio.open_connection(self._host, int(self._port))
        info = await broker_reader.readline()
        if self._version is not None:
            info = re.sub(rb'"version":"[^"]*"', f'"version":"{self._version}"'.encode(), info)
        writer.write(info)
        self._clients.append(writer)
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(reader, broker_writer))
            group.create_task(_copy(broker_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def run_proxy(url: str, version: str | None = None) -> AsyncIterator[Proxy]:
    """Run a proxy; `version` replaces the server's version."""
    proxy = Proxy(url, version)
    async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as server:
        proxy.url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield proxy
