"""Requests written octet by octet, as an attacker sends them: stalled, dripping, or without an end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
# Connections that are opened concurrently, below the listen backlog of the server.
BATCH_SIZE = 100


def request_head(path: str, key: str | None = None, **headers: str) -> bytes:
    """Return the request line and headers of a POST; `_` in the name of a keyword stands for `-`."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", *(f"{name.replace('_', '-')}: {headers[name]}" for name in headers)]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    return "\r\n".join([*lines, "", ""]).encode()


@asynccontextmanager
async def open_connections(origin: str, count: int, octets: bytes = b"") -> AsyncIterator[list[Stream]]:
    """Open `count` connections that each send `octets` and then nothing; close them when the context ends."""
    streams: list[Stream] = []
    try:
        while len(streams) < count:
            opened = await asyncio.gather(
                *(_open(origin, octets) for _ in range(min(BATCH_SIZE, count - len(streams))))
            )
            streams.extend(opened)
        yield streams
    finally:
        for _, writer in streams:
            writer.close()


async def _open(origin: str, octets: bytes) -> Stream:
    address = urlsplit(origin)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(octets)
    return reader, writer


async def read_status(stream: Stream) -> int:
    """Return the status of the response that arrives on a connection."""
    async with asyncio.timeout(20):
        line = await stream[0].readuntil(b"\r\n")
    return int(line.split()[1])
