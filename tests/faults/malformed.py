"""A push service over TLS that at first answers with what is not HTTP, or hardly: each device in its own way.

Every second device is answered well from the start, so that the host is not given up as a whole. Whether a whole
status line of success was said is kept: such a message was taken, whatever came after.
"""

import asyncio
import secrets
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

WELL = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nTTL: 60\r\n\r\n"
SAYINGS: dict[str, bytes] = {
    "half-a-status-line": b"HTTP/1.1 20",
    "half-a-header": b"HTTP/1.1 201 Created\r\nLoca",
    "half-a-body": b"HTTP/1.1 201 Created\r\nContent-Length: 50\r\n\r\nabc",
    "half-a-refusal": b"HTTP/1.1 503 Busy\r\nContent-Length: 50\r\n\r\nabc",
    "wrong-chunks": b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    "wrong-chunks-of-a-refusal": b"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc\r\n",
    "long-header": b"HTTP/1.1 201 Created\r\nLocation: /" + b"x" * 100_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "long-headers": b"HTTP/1.1 503 Busy\r\n" + b"X-Filler: y\r\n" * 8_000 + b"Content-Length: 0\r\n\r\n",
    "no-http": b"220 smtp.example.com ESMTP\r\n\r\n",
    "noise": bytes(range(256)) * 8,
    "nothing": b"",
    "two-lengths": b"HTTP/1.1 201 Created\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabc",
    "odd-status": b"HTTP/1.1 999 Hm\r\nContent-Length: 0\r\n\r\n",
    "old-http": b"HTTP/0.9 201\r\n\r\n",
}
ENDLESS = {"endless-body": b"HTTP/1.1 503 Busy\r\n\r\n", "endless-headers": b"HTTP/1.1 503 Busy\r\nX: "}
KINDS = (*SAYINGS, *ENDLESS)
HANDSHAKES = 5
"""Of so many connections one is closed in the handshake."""


class Malformed:
    def __init__(self, context: ssl.SSLContext) -> None:
        self.origin = ""
        self.took: Counter[str] = Counter()
        """How often each path was told of success."""
        self.tries: Counter[str] = Counter()
        self._context = context
        self._connections = 0

    def paths(self, count: int) -> list[str]:
        kinds = [KINDS[number // 2 % len(KINDS)] if number % 2 else "well" for number in range(count)]
        return [f"/{kind}/{secrets.token_urlsafe(32)}" for kind in kinds]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        if self._connections % HANDSHAKES == 0:
            await reader.read(1)
            writer.transport.abort()
            return
        await writer.start_tls(self._context)
        while True:
            path = await _request(reader)
            self.tries[path] += 1
            kind = path.split("/")[1]
            if self.tries[path] > 1 or kind == "well":
                self.took[path] += 1
                writer.write(WELL)
                await writer.drain()
                continue
            said = SAYINGS.get(kind) or ENDLESS.get(kind, b"")
            if said.startswith(b"HTTP/1.1 201 Created\r\n"):
                self.took[path] += 1
            writer.write(said)
            await writer.drain()
            while kind in ENDLESS:
                writer.write(b"x" * 65_536)
                await writer.drain()
            return


async def _request(reader: asyncio.StreamReader) -> str:
    """The path of the next request, once its body is read."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    [length] = [line.partition(":")[2] for line in head.split("\r\n") if line.lower().startswith("content-length:")]
    await reader.readexactly(int(length))
    return head.split(" ", 2)[1]


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def malformed(context: ssl.SSLContext) -> AsyncIterator[Malformed]:
    service = Malformed(context)
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await service.serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    service.origin = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield service
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
