"""Connections as aiohttp keeps them, but that what cannot be read as HTTP is answered as everything else is.

Such a request comes to no application: aiohttp answers it where the connection is, in plain text or as a page.
"""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from aiohttp import web

from gateway.domain import ids
from gateway.domain.errors import InternalError, MalformedRequest
from gateway.web.http import problems
from gateway.web.http.security_headers import every, protect

# Longer than proxies keep theirs, which would otherwise ask just when we close.
KEEP_ALIVE_S = 75.0
MAX_FIELD_LENGTH = 16_384


class Connection(web.RequestHandler):
    def __init__(self, server: web.Server, always: Mapping[str, str], **more: Any) -> None:
        super().__init__(server, **more)
        self._always = always

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        super().handle_error(request, status, exc, message)  # which logs it, and raises when an answer has begun
        refusal = (
            MalformedRequest("this is not HTTP/1.1, or its address or headers are too long or not as they must be")
            if status < 500
            else InternalError("the fault was logged; the request can be tried again")
        )
        answer = problems.answer(refusal)
        answer.headers["X-Request-Id"] = ids.new_id().hex
        protect(answer.headers, request.path, self._always)
        answer.force_close()
        return answer


class Runner(web.AppRunner):
    def __init__(self, app: web.Application, public_url: str | None = None, *, shutdown_timeout: float = 60.0) -> None:
        super().__init__(app, access_log=None, shutdown_timeout=shutdown_timeout)
        self._public_url = public_url

    @property
    def server(self) -> web.Server | None:
        """What makes the connections of whatever listens: all that is asked of it there."""
        server = super().server
        if server is None:
            return None
        make = partial(
            Connection,
            server,
            every(self._public_url),
            loop=asyncio.get_running_loop(),
            access_log=None,
            max_field_size=MAX_FIELD_LENGTH,
            keepalive_timeout=KEEP_ALIVE_S,
        )
        return cast(web.Server, make)
