"""Brokers that are down, refuse us, are too old, or close the connection for good: each is one clear line."""

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
EXIT_TIMEOUT_S = 20.0
MASTER_KEY = "a master key for tests that is long enough"
ACCOUNT = 'authorization { user: "me", password: "Hidden" }\n'
OTHERS = 'authorization { user: "you", password: "Hidden" }\n'


def with_account(url: str, account: str = "me:Hidden") -> str:
    return url.replace("nats://", f"nats://{account}@")


async def test_a_broker_that_is_down_is_waited_for_in_bounded_time() -> None:
    async with asyncio.timeout(10):
        with pytest.raises(BrokerUnavailable) as refusal:
            async with Broker.connected(["nats://me:Hidden@127.0.0.1:1"], timeout=SECOND):
                pass
    assert str(refusal.value).startswith("no NATS server answers at 127.0.0.1:1: ")
    assert "Hidden" not in str(refusal.value)


async def test_a_server_that_accepts_and_says_nothing_is_waited_for_in_bounded_time() -> None:
    silent = await asyncio.start_server(lambda *_: asyncio.sleep(0), "127.0.0.1", 0)
    async with silent, asyncio.timeout(10):
        port = silent.sockets[0].getsockname()[1]
        with pytest.raises(BrokerUnavailable, match="does not answer"):
            async with Broker.connected([f"nats://127.0.0.1:{port}"], timeout=SECOND):
                pass


async def test_a_broker_that_starts_a_little_later_is_found(tmp_path: Path) -> None:
    async with start_nodes(1, tmp_path) as [node]:
        await node.stop()
        connecting = asyncio.ensure_future(Broker.connected([node.url]).__aenter__())
        await asyncio.wait({connecting}, timeout=0.5)
        assert not connecting.done()
        await node.start()
        async with asyncio.timeout(10):
            broker = await connecting
        assert broker.client.is_connected
        await broker.client.close()


async def test_a_wrong_password_is_said_at_once_in_one_line_without_it(tmp_path: Path) -> None:
    async with start_nodes(1, tmp_path, ACCOUNT, account="me:Hidden") as [node]:
        said = await command("work", GATEWAY_QUEUE=with_account(node.url, "me:Wr0ng"), GATEWAY_MASTER_KEY=MASTER_KEY)
    last = said.err.splitlines()[-1]
    assert (said.code, last.partition(" at ")[0]) == (1, "gateway: GATEWAY_QUEUE: NATS")
    assert "refuses our user or password: Authorization Violation" in last
    assert "Wr0ng" not in said.err
    assert "Traceback" not in said.err


async def test_a_password_may_have_any_character(tmp_path: Path) -> None:
    settings, account = 'authorization { user: "me", password: "a/b@c%41" }\n', "me:a%2Fb%40c%2541"
    async with start_nodes(1, tmp_path, settings, account) as [node]:
        url = with_account(node.url, account)
        async with Broker.connected([url], timeout=SECOND) as broker:
            assert broker.client.is_connected


async def test_a_server_that_is_too_old_is_refused_in_one_line(tmp_path: Path) -> None:
    async with start_nodes(1, tmp_path) as [node], between(node.url, version="2.9.10") as way:
        with pytest.raises(BrokerIncompatible, match=r"is 2\.9; it must be 2\.10 or newer"):
            async with Broker.connected([way.url]):
                pass
        said = await command("work", GATEWAY_QUEUE=way.url, GATEWAY_MASTER_KEY=MASTER_KEY)
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert said.err.startswith("gateway: GATEWAY_QUEUE: NATS at 127.0.0.1:")


async def test_a_broker_without_jetstream_is_refused_by_the_relay_in_one_line(
    tmp_path: Path, database_url: str
) -> None:
    settings = 'accounts { A { users: [{ user: "me", password: "Hidden" }], jetstream: disabled } }\n'
    async with start_nodes(1, tmp_path, settings, account=None) as [node]:
        said = await command(
            "relay",
            GATEWAY_QUEUE=with_account(node.url),
            GATEWAY_MASTER_KEY=MASTER_KEY,
            GATEWAY_DATABASE_URL=database_url,
        )
    last = said.err.splitlines()[-1]
    assert said.code == 1
    assert last.startswith("gateway: GATEWAY_QUEUE: the streams cannot be made: ")
    assert "Traceback" not in said.err


async def test_a_broker_with_a_certificate_of_our_own_ca_is_trusted_by_that_alone(tmp_path: Path) -> None:
    _, ca = make_ca(tmp_path / "tls")
    server = tmp_path / "tls" / "server.pem"
    settings = f'tls {{ cert_file: "{server}", key_file: "{server}" }}\n{ACCOUNT}'
    async with start_nodes(1, tmp_path, settings, account=None) as [node]:
        url = with_account(node.url).replace("nats:", "tls:")
        async with Broker.connected([url], ca=ca, timeout=CONNECT_TIMEOUT) as broker:
            await broker.prepare()
            assert await broker.is_prepared()
        with pytest.raises(BrokerUnavailable, match="its certificate is not to be trusted"):
            async with Broker.connected([url], timeout=SECOND):
                pass
        given = {"GATEWAY_QUEUE": url, "GATEWAY_QUEUE_CA": str(ca), "GATEWAY_MASTER_KEY": MASTER_KEY}
        async with run_in_background("work", **given) as work:
            await work.wait_for_output("worker.started")
            assert await work.stop() == 0


async def test_where_tls_is_demanded_a_server_without_it_hears_no_password() -> None:
    heard = bytearray()

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"version":"2.12.0","auth_required":true,"max_payload":1048576}\r\n')
        with suppress(OSError):
            heard.extend(await reader.read())
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BrokerUnavailable, match="secure connection not available"):
            async with Broker.connected([f"tls://me:Hidden@127.0.0.1:{port}"], timeout=SECOND):
                pass
    assert not heard


async def test_a_worker_whom_the_broker_throws_out_ends_with_one_line(tmp_path: Path) -> None:
    """Its supervisor starts it again, perhaps with the new password; it does not run on without a broker."""
    async with start_nodes(1, tmp_path, ACCOUNT, account="me:Hidden") as [node]:
        async with Broker.connected([with_account(node.url)]) as broker:
            await broker.prepare()
        settings = {"GATEWAY_QUEUE": with_account(node.url), "GATEWAY_MASTER_KEY": MASTER_KEY}
        async with run_in_background("work", **settings) as work:
            await work.wait_for_output("worker.started")
            node.configure(OTHERS)
            await work.wait_for_output("gateway: GATEWAY_QUEUE: the connection has ended: ")
            assert await asyncio.wait_for(work.process.wait(), EXIT_TIMEOUT_S) == 1
        assert "Traceback" not in work.output
        assert "Hidden" not in work.output


async def test_a_worker_whose_connection_the_client_closed_for_good_ends_with_one_line(tmp_path: Path) -> None:
    async with start_nodes(1, tmp_path) as [node], between(node.url) as way:
        async with Broker.connected([node.url]) as broker:
            await broker.prepare()
        async with run_in_background("work", GATEWAY_QUEUE=way.url, GATEWAY_MASTER_KEY=MASTER_KEY) as work:
            await work.wait_for_output("worker.started")
            way.say(b"-ERR 'Unknown Protocol Operation'\r\n")
            await work.wait_for_output("gateway: GATEWAY_QUEUE: the connection has ended: unknown protocol operation\n")
            assert await asyncio.wait_for(work.process.wait(), EXIT_TIMEOUT_S) == 1
        assert "Traceback" not in work.output


async def test_a_connection_that_was_there_is_made_again_however_long_it_takes(tmp_path: Path) -> None:
    async with start_nodes(1, tmp_path) as [node], Broker.connected([node.url], timeout=SECOND) as broker:
        await broker.prepare()
        await node.stop()
        closed = asyncio.ensure_future(broker.connection.ended())
        await asyncio.wait({closed}, timeout=3)
        assert not closed.done()
        await node.start()
        async with asyncio.timeout(10):
            while not broker.client.is_connected:  # noqa: ASYNC110 - the client's events are taken
                await asyncio.sleep(0.02)
        assert await broker.is_prepared()
        closed.cancel()


class Way:
    """A way to a server, on which other things are said than the server does."""

    def __init__(self, url: str, version: str | None) -> None:
        self.url = ""
        self._host, _, self._port = url.removeprefix("nats://").rpartition(":")
        self._version = version
        self._clients: list[asyncio.StreamWriter] = []

    def say(self, line: bytes) -> None:
        for client in self._clients:
            client.write(line)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        their_reader, their_writer = await asyncio.open_connection(self._host, int(self._port))
        told = await their_reader.readline()
        if self._version is not None:
            told = re.sub(rb'"version":"[^"]*"', f'"version":"{self._version}"'.encode(), told)
        writer.write(told)
        self._clients.append(writer)
        async with asyncio.TaskGroup() as group:
            group.create_task(_pass_on(reader, their_writer))
            group.create_task(_pass_on(their_reader, writer))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def between(url: str, version: str | None = None) -> AsyncIterator[Way]:
    """`version`: what the server says it is."""
    way = Way(url, version)
    async with await asyncio.start_server(way.serve, "127.0.0.1", 0) as server:
        way.url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield way
