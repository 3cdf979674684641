"""Adapt aiohttp's connections: close silent connections, and answer invalid HTTP with a problem document.

A request that is not valid HTTP does not reach the application. aiohttp itself would answer it in plain text or HTML.
"""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from aiohttp import web

from gateway.domain import ids
from gateway.domain.errors import InternalError, MalformedRequest
from gateway.web.http import problems
from gateway.web.http.connections import ConnectionTable
from gateway.web.http.security_headers import add_security_headers, common_headers

# How long an idle connection stays open. It is longer than in common proxies: otherwise the server might close a
# connection just when a proxy sends a request on it.
KEEP_ALIVE_S = 75.0
# How long an unread body is discarded after the response. Closing the connection at once would reset it, and the client
# could lose the response (RFC 9112 section 9.6).
LINGERING_S = 5.0
# Maximum length of a header field.
MAX_FIELD_LENGTH = 16_384
# Time for a new connection to send the head of its first request, however slowly the octets arrive.
FIRST_REQUEST_TIMEOUT_S = 10.0


class Connection(web.RequestHandler):
    """A connection that answers protocol errors with a problem document, and is closed if no request arrives."""

    def __init__(
        self, server: web.Server, connections: ConnectionTable, common: Mapping[str, str], **options: Any
    ) -> None:
        """Create a connection that adds itself to the table; `common` are the headers of every response."""
        super().__init__(server, **options)
        self._connections = connections
        self._common_headers = common
        self._silence: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Add the connection to the table, and start the timeout for its first request."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self._silence = asyncio.get_running_loop().call_later(FIRST_REQUEST_TIMEOUT_S, self.force_close)
        self._connections.add(self, peer[0] if isinstance(peer, tuple) else "")

    def data_received(self, data: bytes) -> None:
        """Process data; the head of a request ends the timeout for the first request."""
        count_before = self._request_count
        super().data_received(data)
        if self._request_count > count_before:
            self._end_silence()
            self._connections.begin_request(self)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Complete a response; record that the connection is kept alive, unless another request waits."""
        result = await super().finish_response(request, resp, start_time)
        if not self._messages:
            self._connections.end_request(self)
        return result

    def connection_lost(self, exc: BaseException | None) -> None:
        """Remove the connection from the table."""
        self._end_silence()
        self._connections.remove(self)
        super().connection_lost(exc)

    def _end_silence(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Return the response to a request that is not valid HTTP, or whose handler failed."""
        super().handle_error(request, status, exc, message)  # logs the error; raises if a response has begun
        error = (
            MalformedRequest("the request is not valid HTTP/1.1, or its URL or headers are malformed or too long")
            if status < 500
            else InternalError("the error was logged; the request can be tried again")
        )
        response = problems.to_response(error)
        response.headers["X-Request-Id"] = ids.new_id().hex
        add_security_headers(response.headers, request.path, self._common_headers)
        response.force_close()
        return response


class Runner(web.AppRunner):
    """Runs an application, with `Connection` for its connections."""

    def __init__(
        self,
        app: web.Application,
        public_url: str | None = None,
        *,
        shutdown_timeout: float = 60.0,
        connections: ConnectionTable | None = None,
    ) -> None:
        """Create a runner.

        Args:
            app: the application.
            public_url: with an https URL, responses include Strict-Transport-Security.
            shutdown_timeout: seconds that requests in progress have to complete.
            connections: the table of the open connections; None uses a new table that trusts no proxy.
        """
        super().__init__(app, access_log=None, shutdown_timeout=shutdown_timeout)
        self._public_url = public_url
        self._connections = connections or ConnectionTable()

    @property
    def server(self) -> web.Server | None:
        """The factory of connections. A listening socket uses nothing else of a server."""
        server = super().server
        if server is None:
            return None
        factory = partial(
            Connection,
            server,
            self._connections,
            common_headers(self._public_url),
            loop=asyncio.get_running_loop(),
            access_log=None,
            max_field_size=MAX_FIELD_LENGTH,
            keepalive_timeout=KEEP_ALIVE_S,
            lingering_time=LINGERING_S,
        )
        return cast(web.Server, factory)
