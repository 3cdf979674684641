"""HTTP/2 connections to push services: opening, pooling, health checks and closing.

This module resolves names and opens TCP connections itself instead of through asyncio. So each step can fail with its
own kind of fault, and an address that does not respond does not delay the next address (Happy Eyeballs, RFC 8305).
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
from gateway.push.http2 import CONNECTION_CLOSED, NO_ERROR, Http2Session, ProtocolError, ResponseFuture
from gateway.push.responses import HttpReply, NetworkFault

# Below the idle timeouts of the push services' load balancers, so that a connection is rarely reused while it is being
# closed.
IDLE_TIMEOUT = timedelta(seconds=50)
# Send a PING when requests are in flight and nothing was received for this long.
PING_AFTER_S = 20.0
# Close the connection when nothing was received for this long after the PING.
PING_TIMEOUT_S = 10.0
# Maximum octets that are buffered for a peer that does not read. With more, the connection is aborted.
MAX_UNSENT_OCTETS = 1 << 20
# A timer checks deadlines and whether the peer is silent: this many times per request timeout, and at least once every
# MAX_TICK_S.
TICKS_PER_TIMEOUT = 20
MAX_TICK_S = 1.0
# Delay before the next resolved address is tried in parallel (RFC 8305 section 5).
HAPPY_EYEBALLS_DELAY_S = 0.25
# How long a graceful TLS close may take before the connection is aborted.
CLOSE_TIMEOUT_S = 1.0
# Connections per origin. Requests beyond their capacity wait for a stream, at most POOL_TIMEOUT_S.
MAX_CONNECTIONS = 16
POOL_TIMEOUT_S = 10.0
ALPN = ("h2", "http/1.1")


class ConnectFailed(Exception):
    """No connection could be made. `fault` is the reason."""

    def __init__(self, fault: NetworkFault) -> None:
        """Create the error for a fault, whose kind becomes the error message."""
        super().__init__(fault.kind)
        self.fault = fault


class Http2Connection(asyncio.Protocol):
    """One HTTP/2 connection. `timeout` is the limit in seconds for each response."""

    def __init__(self, timeout: float) -> None:
        """Start a session; the event loop attaches the transport."""
        self._session = Http2Session()
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._flushing = False
        self._received_at = self._used_at = self._loop.time()
        self._ping_sent = self._closing = False
        self._tick_s = min(MAX_TICK_S, timeout / TICKS_PER_TIMEOUT)
        self._timer: asyncio.TimerHandle | None = None
        # Whether ALPN selected HTTP/2.
        self.negotiated_http2 = False
        self.closed = self._loop.create_future()

    @property
    def is_closing(self) -> bool:
        """Whether the connection accepts no more requests."""
        return self._session.is_closing or self._transport is None or self._transport.is_closing()

    @property
    def is_available(self) -> bool:
        """Whether a request can be sent now."""
        return self._session.has_capacity and not self.is_closing

    async def post(
        self, path: bytes, fields: tuple[Field, ...], ttl: int, body: bytes
    ) -> HttpReply | NetworkFault | None:
        """Send one POST and return the response.

        Returns None when the push service certainly did not process the request, so that it may be sent again at once.
        """
        if self.is_closing:
            return None
        response: ResponseFuture = self._loop.create_future()
        self._used_at = now = self._loop.time()
        if not self._session.in_flight:
            self._received_at = now
        id_ = self._session.post(path, fields, ttl, body, response, now + self._timeout)
        self._flush_soon()
        try:
            return await response
        finally:
            if not response.done() or response.cancelled():
                self._session.cancel(id_)
                self._flush_soon()

    async def close(self) -> None:
        """Close the connection; requests in flight end with a fault."""
        self._end()
        await self.closed

    # asyncio.Protocol callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the connection preface, or close when HTTP/2 was not negotiated."""
        self._transport = cast("asyncio.Transport", transport)
        ssl_object = transport.get_extra_info("ssl_object")
        self.negotiated_http2 = ssl_object is not None and ssl_object.selected_alpn_protocol() == ALPN[0]
        if not self.negotiated_http2:
            self._close()
            return
        self._flush()
        self._timer = self._loop.call_later(self._tick_s, self._tick)

    def data_received(self, data: bytes) -> None:
        """Pass received octets to the session, and send the frames with which the session replies."""
        self._received_at, self._ping_sent = self._loop.time(), False
        try:
            self._session.receive(data)
        except ProtocolError as error:
            self._end(NetworkFault("protocol", error.detail), error.code)
            return
        if self._session.outgoing:
            self._flush_soon()
        if self._session.is_closing and not self._session.in_flight:
            self._end()

    def eof_received(self) -> None:
        """Stop accepting requests: the peer closed its side."""
        self._session.is_closing = True

    def connection_lost(self, _: Exception | None) -> None:
        """End all requests in flight."""
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._session.end()
        if not self.closed.done():
            self.closed.set_result(None)

    def _flush_soon(self) -> None:
        """Send all frames of one event-loop iteration in one write."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        out = self._session.outgoing
        if self._transport is not None and not self._closing and out:
            self._transport.write(b"".join(out))
            if self._transport.get_write_buffer_size() > MAX_UNSENT_OCTETS:
                self._abort()
        out.clear()

    def _end(self, fault: NetworkFault = CONNECTION_CLOSED, code: int = NO_ERROR) -> None:
        """End the session: fail the requests in flight with `fault`, send GOAWAY with `code`, and close."""
        self._session.end(fault, code)
        self._flush()
        self._close()

    def _close(self) -> None:
        """Close the transport once, with a time limit: a TLS close waits for the peer, which may never reply."""
        if self._transport is not None and not self._closing:
            self._closing = True
            self._transport.close()
            self._loop.call_later(CLOSE_TIMEOUT_S, self._abort)

    def _abort(self) -> None:
        """Abort the TCP connection without a TLS close."""
        if self._transport is not None:
            self._transport.abort()

    def _tick(self) -> None:
        """Expire requests, check a silent connection with a PING, and close an idle one."""
        now = self._loop.time()
        silent_s = now - self._received_at
        if self._session.expire(now) and silent_s >= self._timeout:
            self._session.is_closing = True  # the connection is dead: later requests use another one
        if self._session.in_flight:
            if silent_s > PING_AFTER_S + PING_TIMEOUT_S and self._ping_sent:
                self._end(NetworkFault("timeout"))
            elif silent_s > PING_AFTER_S and not self._ping_sent:
                self._ping_sent = True
                self._session.ping()
        elif self._session.is_closing or now - self._used_at > IDLE_TIMEOUT.total_seconds():
            self._end()
        self._flush()
        if self._transport is not None and not self._closing:
            self._timer = self._loop.call_later(self._tick_s, self._tick)


class ConnectionPool:
    """The HTTP/2 connections to one origin: as many as the requests in flight need, up to MAX_CONNECTIONS."""

    def __init__(self, open_: Callable[[], Coroutine[Any, Any, Http2Connection | None]]) -> None:
        """Create an empty pool; `open_` opens one connection."""
        self._open = open_
        self._connections: list[Http2Connection] = []
        self._open_task: asyncio.Task[Http2Connection | None] | None = None
        self._waiters: deque[asyncio.Future[None]] = deque()

    async def acquire(self) -> Http2Connection | None:
        """Return an available connection, opening one if necessary.

        The returned connection may already be closing. Returns None when the push service does not support HTTP/2.

        Raises:
            ConnectFailed: no connection could be established, or none was available in time.
        """
        while True:
            for connection in self._connections:
                if connection.is_available:
                    return connection
            self._connections = [connection for connection in self._connections if not connection.is_closing]
            if len(self._connections) >= MAX_CONNECTIONS:
                await self._wait_for_stream()
                continue
            if self._open_task is None:
                self._open_task = asyncio.create_task(self._open_connection())
            # Shielded, because other requests wait for the same connection attempt.
            new_connection = await asyncio.shield(self._open_task)
            if new_connection is None or new_connection.is_closing:
                return new_connection  # may be closing: `post` then returns None, and the caller tries again

    def release(self) -> None:
        """Wake one waiting request: a stream was freed."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def close(self) -> None:
        """Close all connections."""
        if self._open_task is not None:
            self._open_task.cancel()
        await asyncio.gather(*(connection.close() for connection in self._connections))

    async def _wait_for_stream(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(POOL_TIMEOUT_S):
                await waiter
        except TimeoutError:
            raise ConnectFailed(NetworkFault("timeout")) from None

    async def _open_connection(self) -> Http2Connection | None:
        try:
            connection = await self._open()
        finally:
            self._open_task = None
        if connection is not None:
            self._connections.append(connection)
        return connection


async def connect(
    name: str,
    port: int,
    context: ssl.SSLContext,
    address: str | None,
    *,
    connect_timeout_s: float,
    response_timeout_s: float,
) -> Http2Connection | None:
    """Open an HTTP/2 connection; return None when the push service supports only HTTP/1.1.

    Args:
        name: host name, for SNI and certificate verification.
        port: TCP port.
        context: TLS context with ALPN set.
        address: connect to this IP address instead of resolving `name`.
        connect_timeout_s: limit for resolution, TCP and TLS together.
        response_timeout_s: limit for each response on the connection.

    Raises:
        ConnectFailed: no connection could be established.
    """
    try:
        async with asyncio.timeout(connect_timeout_s):
            sock = await _open_tcp(name if address is None else address, port)
            return await _start_tls(sock, name, context, response_timeout_s)
    except TimeoutError:
        raise ConnectFailed(NetworkFault("connect", "timed out")) from None


async def _open_tcp(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    try:
        addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise ConnectFailed(NetworkFault("request")) from None
    except OSError as error:
        raise ConnectFailed(NetworkFault("dns", error.strerror or "")) from None
    try:
        return await aiohappyeyeballs.start_connection(
            addresses, happy_eyeballs_delay=HAPPY_EYEBALLS_DELAY_S, interleave=1, loop=loop
        )
    except OSError as error:
        # The message of asyncio contains the address, so use the message of the operating system.
        raise ConnectFailed(NetworkFault("connect", os.strerror(error.errno) if error.errno else "")) from None
    except RuntimeError:  # uvloop may raise this for a cancelled attempt
        raise ConnectFailed(NetworkFault("connect")) from None


async def _start_tls(
    sock: socket.socket, name: str, context: ssl.SSLContext, response_timeout_s: float
) -> Http2Connection | None:
    try:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Http2Connection(response_timeout_s), sock=sock, ssl=context, server_hostname=name
        )
    except ssl.SSLError as error:
        raise ConnectFailed(NetworkFault("tls", error.reason or "")) from None
    except OSError as error:
        raise ConnectFailed(NetworkFault("tls", os.strerror(error.errno) if error.errno else "")) from None
    return connection if connection.negotiated_http2 else None
