"""A push service over TLS that answers the first request for a device with one of many malformed responses.

Every second device gets only valid responses, so that the gateway does not consider the host as failed. The service
counts a message as accepted once it has sent a complete status line of success, whatever follows it.
"""

import asyncio
import secrets
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

VALID_RESPONSE = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nTTL: 60\r\n\r\n"
MALFORMED_RESPONSES: dict[str, bytes] = {
    "half-a-status-line": b"HTTP/1.1 20",
    "half-a-header": b"HTTP/1.1 201 Created\r\nLoca",
    "half-a-body": b"HTTP/1.1 201 Created\r\nContent-Length: 50\r\n\r\nabc",
    "half-a-503-body": b"HTTP/1.1 503 Busy\r\nContent-Length: 50\r\n\r\nabc",
    "wrong-chunks": b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    "wrong-chunks-of-a-500": b"HTTP/1.1 500 Error\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc\r\n",
    "long-header": b"HTTP/1.1 201 Created\r\nLocation: /" + b"x" * 100_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "long-headers": b"HTTP/1.1 503 Busy\r\n" + b"X-Filler: y\r\n" * 8_000 + b"Content-Length: 0\r\n\r\n",
    "no-http": b"220 smtp.example.com ESMTP\r\n\r\n",
    "noise": bytes(range(256)) * 8,
    "nothing": b"",
    "two-lengths": b"HTTP/1.1 201 Created\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabc",
    "status-999": b"HTTP/1.1 999 Unknown\r\nContent-Length: 0\r\n\r\n",
    "old-http": b"HTTP/0.9 201\r\n\r\n",
}
ENDLESS_RESPONSES = {"endless-body": b"HTTP/1.1 503 Busy\r\n\r\n", "endless-headers": b"HTTP/1.1 503 Busy\r\nX: "}
KINDS = (*MALFORMED_RESPONSES, *ENDLESS_RESPONSES)
# One connection in this many is closed during the TLS handshake.
FAILED_HANDSHAKE_EVERY = 5


class MalformedService:
    """The push service. `requests` and `accepted` count the requests and the accepted messages by path."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.origin = ""
        self.accepted: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self._context = context
        self._connections = 0

    def paths(self, count: int) -> list[str]:
        """Return `count` endpoint paths: every second path gets valid responses, the others one of KINDS each."""
        kinds = [KINDS[number // 2 % len(KINDS)] if number % 2 else "valid" for number in range(count)]
        return [f"/{kind}/{secrets.token_urlsafe(32)}" for kind in kinds]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self._connections += 1
        if self._connections % FAILED_HANDSHAKE_EVERY == 0:
            await reader.read(1)
            writer.transport.abort()
            return
        await writer.start_tls(self._context)
        while True:
            path = await _read_request(reader)
            self.requests[path] += 1
            kind = path.split("/")[1]
            if self.requests[path] > 1 or kind == "valid":
                self.accepted[path] += 1
                writer.write(VALID_RESPONSE)
                await writer.drain()
                continue
            response = MALFORMED_RESPONSES.get(kind) or ENDLESS_RESPONSES.get(kind, b"")
            if response.startswith(b"HTTP/1.1 201 Created\r\n"):
                self.accepted[path] += 1
            writer.write(response)
            await writer.drain()
            while kind in ENDLESS_RESPONSES:
                writer.write(b"x" * 65_536)
                await writer.drain()
            return


async def _read_request(reader: asyncio.StreamReader) -> str:
    """Read a request and return its path."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    [length] = [line.partition(":")[2] for line in head.split("\r\n") if line.lower().startswith("content-length:")]
    await reader.readexactly(int(length))
    return head.split(" ", 2)[1]


@asynccontextmanager
async def serve_malformed(context: ssl.SSLContext) -> AsyncIterator[MalformedService]:
    """Run the service on a free port until the context ends."""
    service = MalformedService(context)
    tasks: set[asyncio.Task[None]] = set()

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await service.serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0)
    service.origin = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield service
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
