"""Network links between two processes of a run: the harness can cut and delay connections, and refuse new ones.

A link is a TCP proxy. Its clients connect to the link's port, so the target may be restarted on another port.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

# The socket option `struct linger`: enabled, with a linger time of 0 seconds.
LINGER_0 = struct.pack("ii", 1, 0)
CHUNK_OCTETS = 65_536


class Link:
    """A TCP proxy from `port` to `target`, a port on loopback; 0 means that there is no target.

    `delay_s` delays each chunk of a stream. While `refusing`, the link resets new connections.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.target = 0
        self.delay_s = 0.0
        self.refusing = False
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", 0, backlog=1024)

    @property
    def port(self) -> int:
        """Return the port that the link listens on."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def cut(self) -> None:
        """Reset every connection, which both ends notice at once; octets in transit are lost."""
        for writer in self._ends:
            _reset(writer)

    async def close(self) -> None:
        """Stop listening and reset every connection."""
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._ends.add(writer)
        try:
            if self.refusing or not self.target:
                _reset(writer)
                return
            with suppress(OSError, asyncio.CancelledError):
                target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self.target)
                self._ends.add(target_writer)
                try:
                    await asyncio.gather(self._forward(reader, target_writer), self._forward(target_reader, writer))
                finally:
                    self._ends.discard(target_writer)
                    target_writer.close()
        finally:
            self._ends.discard(writer)
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(CHUNK_OCTETS):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(chunk)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
        except OSError:
            _reset(writer)  # a reset of one end resets the other end


@asynccontextmanager
async def open_link(name: str) -> AsyncIterator[Link]:
    """Open a link until the context ends."""
    link = Link(name)
    await link.open()
    try:
        yield link
    finally:
        await link.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Reset a connection. With a linger time of 0, Linux sends RST instead of FIN."""
    raw_socket: socket.socket | None = writer.get_extra_info("socket")
    if raw_socket is not None and raw_socket.fileno() >= 0:
        raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
    writer.transport.abort()
