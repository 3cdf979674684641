"""Run one NATS server or a cluster on loopback; a test can stop, kill and reconfigure each server."""

import asyncio
import signal
import socket
import sysconfig
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import unquote

import nats
import nats.errors
from nats.aio.client import Client

# The upper bound of the time in which all servers become ready.
START_S = 30.0


class Node:
    """One NATS server.

    `port` is its client port, `routes` the cluster ports of all servers, and `settings` lines of its configuration.
    """

    def __init__(self, number: int, port: int, routes: list[int], directory: Path, settings: str = "") -> None:
        self.number = number
        self.url = f"nats://127.0.0.1:{port}"
        self._settings = directory.with_suffix(".conf")
        self._write(settings)
        self._arguments = ["-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(directory)]
        self._arguments += ["-c", str(self._settings)]
        if len(routes) > 1:
            self._arguments += ["--cluster_name", "gateway", "--cluster", f"nats://127.0.0.1:{routes[number]}"]
            self._arguments += ["--routes", ",".join(f"nats://127.0.0.1:{route}" for route in routes)]
        self._log = directory.with_suffix(".log")
        self._process: asyncio.subprocess.Process | None = None

    def _write(self, settings: str) -> None:
        # The name is in the file, because a server with a name on the command line ignores the file.
        self._settings.write_text(f"server_name: n{self.number}\n{settings}")

    async def start(self) -> None:
        binary = Path(sysconfig.get_path("scripts"), "nats-server")
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(binary, *self._arguments, stdout=log, stderr=log)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def is_listening(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", int(self.url.rpartition(":")[2]))
        except OSError:
            return False
        writer.close()
        return True

    def configure(self, settings: str) -> None:
        """Replace the settings of the server, which reloads them on SIGHUP."""
        assert self._process is not None
        self._write(settings)
        self._process.send_signal(signal.SIGHUP)

    async def stop(self) -> None:
        """Send SIGTERM and wait until the server has exited."""
        assert self._process is not None
        self._process.terminate()
        await self._process.wait()

    async def kill(self) -> None:
        """Send SIGKILL, if the server is running, and wait until it has exited."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def start_nodes(
    count: int, directory: Path, settings: str = "", account: str | None = ""
) -> AsyncIterator[list[Node]]:
    """Run servers until the context ends; yield them once JetStream is ready.

    Args:
        count: the number of servers; more than one form a cluster.
        directory: parent of the servers' data, logs and settings files.
        settings: lines of the configuration file.
        account: user and password of the readiness check; None skips the check.
    """
    with _reserve_ports(2 * count) as ports:
        pass  # the context releases the ports for the servers
    servers = [
        Node(number, ports[number], ports[count:], directory / f"n{number}", settings) for number in range(count)
    ]
    async with AsyncExitStack() as stack:
        for node in servers:
            stack.push_async_callback(node.kill)
            await node.start()
        await _wait_until_ready(servers, account)
        yield servers


async def _wait_until_ready(servers: list[Node], account: str | None) -> None:
    user, _, password = (unquote(part) for part in (account or "").partition(":"))
    async with asyncio.timeout(START_S):
        for node in servers:
            while not await node.is_listening():  # noqa: ASYNC110 - the server process raises no event
                await asyncio.sleep(0.02)
        if account is None:
            return
        credentials = {"user": user, "password": password} if account else {}
        async with await nats.connect([node.url for node in servers], **credentials) as client:
            while not await _replicates(client, len(servers)):  # noqa: ASYNC110 - the cluster signals no readiness
                await asyncio.sleep(0.1)


async def _replicates(client: Client, count: int) -> bool:
    """Return whether JetStream accepts a stream with a replica on each server."""
    try:
        jetstream = client.jetstream(timeout=2)
        await jetstream.add_stream(name="READY", subjects=["ready"], num_replicas=count)
        await jetstream.delete_stream("READY")
    except (nats.errors.Error, TimeoutError):
        return False
    return True


@contextmanager
def _reserve_ports(count: int) -> Iterator[list[int]]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        yield [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()
