"""Connections to push services: opened, shared by the messages that are in flight, watched, and closed.

Names are resolved and connected to here and not by asyncio, so that each step's fault has its own name, and an
address that does not answer does not hold up one that does (RFC 8305).
"""

import asyncio
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, cast

import aiohappyeyeballs

from gateway.push.header_block import Field
from gateway.push.http2 import ENDED, NO_ERROR, Answered, Session, Violation
from gateway.push.responses import HttpReply, NetworkFault

# Below the idle limits of the services' load balancers, so that a reused connection is seldom one being closed.
IDLE = timedelta(seconds=50)
# With messages in flight and nothing heard for so long, the push service is asked whether it is still there.
SILENT_S = 20.0
PING_S = 10.0
# A push service that takes nothing and wants to be answered all the time is not waited for.
MAX_UNSENT_OCTETS = 1 << 20
TICKS = 20
MAX_TICK_S = 1.0
NEXT_ADDRESS_S = 0.25
CLOSING_S = 1.0
# More messages than these take at once wait until others are answered.
MAX_CONNECTIONS = 16
ROOM_S = 10.0
ALPN = ("h2", "http/1.1")


class Unreachable(Exception):
    """No connection could be made, for `fault`."""

    def __init__(self, fault: NetworkFault) -> None:
        super().__init__(fault.kind)
        self.fault = fault


class Connection(asyncio.Protocol):
    """HTTP/2 on one connection. `timeout` is for each message's answer."""

    def __init__(self, timeout: float) -> None:
        self._session = Session()
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._flushing = False
        self._heard_at = self._used_at = self._loop.time()
        self._asked = self._closing = False
        self._tick_s = min(MAX_TICK_S, timeout / TICKS)
        self._timer: asyncio.TimerHandle | None = None
        self.speaks = False
        """Whether it came to HTTP/2."""
        self.lost = self._loop.create_future()

    @property
    def is_over(self) -> bool:
        """It takes no more messages."""
        return self._session.ending or self._transport is None or self._transport.is_closing()

    @property
    def has_room(self) -> bool:
        return self._session.has_room and not self.is_over

    async def post(
        self, path: bytes, fields: tuple[Field, ...], ttl: int, body: bytes
    ) -> HttpReply | NetworkFault | None:
        """None when the push service has certainly not looked at it."""
        if self.is_over:
            return None
        answered: Answered = self._loop.create_future()
        self._used_at = now = self._loop.time()
        if not self._session.in_flight:
            self._heard_at = now
        id_ = self._session.post(path, fields, ttl, body, answered, now + self._timeout)
        self._flush_soon()
        try:
            return await answered
        finally:
            if not answered.done() or answered.cancelled():
                self._session.cancel(id_)
                self._flush_soon()

    async def close(self) -> None:
        self._end()
        await self.lost

    # What the event loop tells us.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        secured = transport.get_extra_info("ssl_object")
        self.speaks = secured is not None and secured.selected_alpn_protocol() == ALPN[0]
        if not self.speaks:
            self._close()
            return
        self._flush()
        self._timer = self._loop.call_later(self._tick_s, self._tick)

    def data_received(self, data: bytes) -> None:
        self._heard_at, self._asked = self._loop.time(), False
        try:
            self._session.receive(data)
        except Violation as violation:
            self._end(NetworkFault("protocol", violation.detail), violation.code)
            return
        if self._session.out:
            self._flush_soon()
        if self._session.ending and not self._session.in_flight:
            self._end()

    def eof_received(self) -> None:
        self._session.ending = True

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._session.end()
        if not self.lost.done():
            self.lost.set_result(None)

    def _flush_soon(self) -> None:
        """All that is said in this round of the event loop is one write."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        out = self._session.out
        if self._transport is not None and not self._closing and out:
            self._transport.write(b"".join(out))
            if self._transport.get_write_buffer_size() > MAX_UNSENT_OCTETS:
                self._abort()
        out.clear()

    def _end(self, fault: NetworkFault = ENDED, code: int = NO_ERROR) -> None:
        self._session.end(fault, code)
        self._flush()
        self._close()

    def _close(self) -> None:
        """Once: TLS waits for the other to close as well, which it may never do."""
        if self._transport is not None and not self._closing:
            self._closing = True
            self._transport.close()
            self._loop.call_later(CLOSING_S, self._abort)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _tick(self) -> None:
        now = self._loop.time()
        silent = now - self._heard_at
        if self._session.expire(now) and silent >= self._timeout:
            self._session.ending = True  # nobody is there any more: the next messages go over another
        if self._session.in_flight:
            if silent > SILENT_S + PING_S and self._asked:
                self._end(NetworkFault("timeout"))
            elif silent > SILENT_S and not self._asked:
                self._asked = True
                self._session.ping()
        elif self._session.ending or now - self._used_at > IDLE.total_seconds():
            self._end()
        self._flush()
        if self._transport is not None and not self._closing:
            self._timer = self._loop.call_later(self._tick_s, self._tick)


class Pool:
    """The connections to one origin that speaks HTTP/2: as many as the messages in flight need, up to a limit."""

    def __init__(self, open_: Callable[[], Coroutine[Any, Any, Connection | None]]) -> None:
        self._open = open_
        self._connections: list[Connection] = []
        self._opening: asyncio.Task[Connection | None] | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def connection(self) -> Connection | None:
        """One with room, or one that ended at once; None when the push service speaks no HTTP/2. Raises Unreachable."""
        while True:
            for connection in self._connections:
                if connection.has_room:
                    return connection
            self._connections = [one for one in self._connections if not one.is_over]
            if len(self._connections) >= MAX_CONNECTIONS:
                await self._room()
                continue
            if self._opening is None:
                self._opening = asyncio.create_task(self._open_one())
            # One may give up waiting while others still want it.
            made = await asyncio.shield(self._opening)
            if made is None or made.is_over:
                return made

    def left(self) -> None:
        """A message has been answered, or given up: there is room for one more."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def close(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
        await asyncio.gather(*(connection.close() for connection in self._connections))

    async def _room(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(ROOM_S):
                await waiter
        except TimeoutError:
            raise Unreachable(NetworkFault("timeout")) from None

    async def _open_one(self) -> Connection | None:
        try:
            made = await self._open()
        finally:
            self._opening = None
        if made is not None:
            self._connections.append(made)
        return made


async def connect(
    name: str, port: int, context: ssl.SSLContext, address: str | None, *, connect_s: float, answer_s: float
) -> Connection | None:
    """A connection that speaks HTTP/2; None when the push service speaks only HTTP/1.1. Raises Unreachable.

    `address`: the one to connect to, instead of what the name leads to.
    """
    try:
        async with asyncio.timeout(connect_s):
            return await _tls(await _tcp(name if address is None else address, port), name, context, answer_s)
    except TimeoutError:
        raise Unreachable(NetworkFault("connect", "timed out")) from None


async def _tcp(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise Unreachable(NetworkFault("request")) from None
    except OSError as error:
        raise Unreachable(NetworkFault("dns", error.strerror or "")) from None
    try:
        return await aiohappyeyeballs.start_connection(
            found, happy_eyeballs_delay=NEXT_ADDRESS_S, interleave=1, loop=loop
        )
    except OSError as error:
        # Not in asyncio's words, which name the address.
        raise Unreachable(NetworkFault("connect", os.strerror(error.errno) if error.errno else "")) from None
    except RuntimeError:  # what uvloop may make of an attempt that was called off
        raise Unreachable(NetworkFault("connect")) from None


async def _tls(sock: socket.socket, name: str, context: ssl.SSLContext, answer_s: float) -> Connection | None:
    try:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(answer_s), sock=sock, ssl=context, server_hostname=name
        )
    except ssl.SSLError as error:
        raise Unreachable(NetworkFault("tls", error.reason or "")) from None
    except OSError as error:
        raise Unreachable(NetworkFault("tls", os.strerror(error.errno) if error.errno else "")) from None
    return connection if connection.speaks else None
