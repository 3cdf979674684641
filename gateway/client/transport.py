"""One request and its answer, and when it is made again.

What changes nothing a second time is made again after a lost connection: reading, replacing, removing, and whatever is
created with an Idempotency-Key, which is kept for all tries. What the gateway says it has not done (429, 503) is made
again whatever it was. In between it waits as Retry-After says, else longer and longer, and never all callers at once.
"""

import asyncio
import json
import os
import random
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import uuid4

import aiohttp
from yarl import URL

from gateway.client.errors import DecodeError, Refused, Unreachable, refusal

JSON = "application/json"
NOT_DONE = (429, 503)
MAYBE_DONE = (500, 502, 504)
FIRST_WAIT_S = 0.5
MAX_WAIT_S = 30.0

LOST = (aiohttp.ClientError, TimeoutError, OSError)


class RawResponse(NamedTuple):
    status: int
    body: Any
    headers: Mapping[str, str]


def path(template: str, *named: str) -> str:
    """The address of what is named, whatever characters its name has."""
    return template.format(*(quote(name, safe="") for name in named))


class Transport:
    """Speaks with one gateway by one key. `tries` and `patience` (seconds) bound how long a request is made again."""

    def __init__(
        self, url: str, key: str | None, *, timeout: float, tries: int, patience: float, tls: ssl.SSLContext | None
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is not the address of a gateway, such as https://push.example.org")
        self.url = url.rstrip("/")
        self._headers = {"Accept": JSON} if key is None else {"Accept": JSON, "Authorization": f"Bearer {key}"}
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        # A stream has no end, but the gateway says something every 15 s.
        self._no_end = aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=max(timeout, 45))
        self.tries = tries
        self._patience = patience
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(
        self,
        method: str,
        at: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        raw: tuple[bytes, str] | None = None,
        creates: bool = False,
        key: str | None = None,
    ) -> RawResponse:
        """`creates`: with an Idempotency-Key, `key` or one of its own. `raw`: a body that is not JSON, and its type.

        Raises GatewayError.
        """
        headers = dict(self._headers)
        if creates:
            headers["Idempotency-Key"] = key or uuid4().hex
        data, kind = (to_json(body), JSON) if raw is None and body is not None else raw or (None, None)
        if kind is not None:
            headers["Content-Type"] = kind
        repeatable = creates or method in ("GET", "PUT", "DELETE")
        lost: Exception | None = None
        for tried in range(1, self.tries + 1):
            try:
                async with self._request(method, at, query, headers, data, self._timeout) as answer:
                    return RawResponse(answer.status, await _read(answer), answer.headers)
            except Unreachable as error:
                if tried == self.tries or not repeatable:
                    raise
                lost, wait = error, back_off(tried)
            except Refused as refused:
                if refused.status == 404 and method == "DELETE" and lost is not None:
                    return RawResponse(204, None, {})  # it was there when it was asked for first
                again = refused.status in NOT_DONE or (refused.status in MAYBE_DONE and repeatable)
                wait = asked_wait(refused.retry_after) or back_off(tried)
                if tried == self.tries or not again or wait > self._patience:
                    raise
                lost = refused
            await asyncio.sleep(wait)
        raise AssertionError("the last try answers or raises")

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        at: str,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str],
        data: Any = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer to be read as it comes. It is not asked for again. Raises GatewayError."""
        async with self._request(method, at, query, {**self._headers, **headers}, data, self._no_end) as answer:
            yield answer

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        at: str,
        query: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        data: Any,
        timeout: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._tls or True))
            # It would ask again at once and say nothing of it; then a DELETE that was done is told as 404.
            self._session._retry_connection = False
        said = {name: _text(value) for name, value in (query or {}).items() if value is not None}
        url = URL(self.url + at, encoded=True).with_query(said)
        try:
            # A redirect would take the key along to wherever it leads.
            async with self._session.request(
                method, url, headers=headers, data=data, timeout=timeout, allow_redirects=False
            ) as answer:
                if not 200 <= answer.status < 300:
                    raise await _refused(answer)
                yield answer
        except LOST as error:
            raise Unreachable(f"{self.url} cannot be reached: {_reason(error, timeout)}") from error


def asked_wait(retry_after: str | None) -> float | None:
    """Seconds to wait by a Retry-After header, which says seconds or a date."""
    if retry_after is None:
        return None
    if retry_after.isdigit():
        return float(retry_after)
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def back_off(tried: int) -> float:
    """Seconds, between half and all of 0.5, 1, 2 ... 30."""
    longest: float = min(MAX_WAIT_S, FIRST_WAIT_S * 2 ** min(tried - 1, 10))
    return random.uniform(longest / 2, longest)  # noqa: S311 - spreads callers out, keeps no secret


def to_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_plain).encode()


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value).lower() if isinstance(value, bool) else str(value)


async def _read(answer: aiohttp.ClientResponse) -> Any:
    raw = await answer.read()
    if not raw:
        return None
    try:
        return json.loads(raw)
    except ValueError:
        raise DecodeError(f"{answer.url.origin()} answers {answer.content_type}: is it a gateway?") from None


async def _refused(answer: aiohttp.ClientResponse) -> Refused:
    """Also of a proxy's page before the gateway, which is no problem of ours but has a status."""
    raw = await answer.read()
    try:
        problem = json.loads(raw)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"title": f"{answer.url.origin()} answers {answer.status} {answer.reason}: is it a gateway?"}
    return refusal(answer.status, problem, answer.headers)


def _reason(error: Exception, timeout: aiohttp.ClientTimeout) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout.total or timeout.sock_read:g} s"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__
