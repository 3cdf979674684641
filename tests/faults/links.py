"""TCP links that break on demand: each stands between two processes of a run.

A link passes octets both ways until it is told otherwise. Who connects to it never learns where it leads, so what
lies behind may come back on another port.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

LINGER_0 = struct.pack("ii", 1, 0)
PIECE = 65_536


class Link:
    """`port` leads to `target`, a port on loopback; 0 while nothing is there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.target = 0
        self.delay_s = 0.0
        """How long each piece of a stream is held up."""
        self.refusing = False
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=1024)

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def cut(self) -> None:
        """Reset every connection: both ends hear it at once, and what was on its way is lost."""
        for writer in self._ends:
            _reset(writer)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
                there, onward = await asyncio.open_connection("127.0.0.1", self.target)
                self._ends.add(onward)
                try:
                    await asyncio.gather(self._pass(reader, onward), self._pass(there, writer))
                finally:
                    self._ends.discard(onward)
                    onward.close()
        finally:
            self._ends.discard(writer)
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(PIECE):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(piece)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
        except OSError:
            _reset(writer)  # the other end shall hear of it as this one did


@asynccontextmanager
async def link(name: str) -> AsyncIterator[Link]:
    made = Link(name)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """With a linger of no seconds, Linux sends RST instead of FIN."""
    bare: socket.socket | None = writer.get_extra_info("socket")
    if bare is not None and bare.fileno() >= 0:
        bare.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
    writer.transport.abort()
