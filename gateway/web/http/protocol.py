"""Adapt aiohttp's connections: requests that are not valid HTTP get a problem document.

Such a request does not reach the application. aiohttp itself would answer it in plain text or HTML.
"""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from aiohttp import web

from gateway.domain import ids
from gateway.domain.errors import InternalError, MalformedRequest
from gateway.web.http import problems
from gateway.web.http.security_headers import add_security_headers, common_headers

# How long an idle connection stays open. It is longer than in common proxies: otherwise the server might close a
# connection just when a proxy sends a request on it.
KEEP_ALIVE_S = 75.0
# How long an unread body is discarded after the response. Closing the connection at once would reset it, and the client
# could lose the response (RFC 9112 section 9.6).
LINGERING_S = 5.0
MAX_FIELD_LENGTH = 16_384


class Connection(web.RequestHandler):
    """A connection that answers protocol errors with a problem document."""

    def __init__(self, server: web.Server, common: Mapping[str, str], **options: Any) -> None:
        """Create a connection; `common` are the headers of every response."""
        super().__init__(server, **options)
        self._common_headers = common

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

    def __init__(self, app: web.Application, public_url: str | None = None, *, shutdown_timeout: float = 60.0) -> None:
        """Create a runner. With an https `public_url`, responses include Strict-Transport-Security."""
        super().__init__(app, access_log=None, shutdown_timeout=shutdown_timeout)
        self._public_url = public_url

    @property
    def server(self) -> web.Server | None:
        """The factory of connections. A listening socket uses nothing else of a server."""
        server = super().server
        if server is None:
            return None
        factory = partial(
            Connection,
            server,
            common_headers(self._public_url),
            loop=asyncio.get_running_loop(),
            access_log=None,
            max_field_size=MAX_FIELD_LENGTH,
            keepalive_timeout=KEEP_ALIVE_S,
            lingering_time=LINGERING_S,
        )
        return cast(web.Server, factory)
