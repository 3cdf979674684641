"""HTTP transport with retries.

Requests that are safe to repeat are retried after a lost connection: reads, replacements, deletions, and creations,
which send the same Idempotency-Key in all attempts. Requests that the gateway did not process (429, 503) are always
retried. The pause before a retry is that of Retry-After, otherwise exponential with jitter.
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

from gateway.client.errors import ApiError, DecodeError, GatewayUnreachable, error_from_response

JSON = "application/json"
# Statuses of responses to requests that were not processed.
NOT_PROCESSED_STATUSES = (429, 503)
# Statuses after which the request may have been processed.
MAYBE_PROCESSED_STATUSES = (500, 502, 504)
FIRST_WAIT_S = 0.5
MAX_WAIT_S = 30.0

# Exceptions that mean that no response was received.
CONNECTION_ERRORS = (aiohttp.ClientError, TimeoutError, OSError)


class RawResponse(NamedTuple):
    """A response with its decoded JSON body."""

    status: int
    body: Any
    headers: Mapping[str, str]


def build_path(template: str, *values: str) -> str:
    """Fill a URL path template with percent-encoded values."""
    return template.format(*(quote(name, safe="") for name in values))


class Transport:
    """HTTP access to one gateway with one key.

    A request is attempted at most `max_attempts` times; no pause between attempts is longer than `max_wait` seconds.
    """

    def __init__(
        self,
        url: str,
        key: str | None,
        *,
        timeout: float,
        max_attempts: int,
        max_wait: float,
        tls: ssl.SSLContext | None,
    ) -> None:
        """Check the URL; the session is opened on first use."""
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is not the URL of a gateway, such as https://push.example.org")
        self.url = url.rstrip("/")
        self._headers = {"Accept": JSON} if key is None else {"Accept": JSON, "Authorization": f"Bearer {key}"}
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        # A stream has no total limit, but the gateway sends a keep-alive every 15 s.
        self._stream_timeout = aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=max(timeout, 45))
        self.max_attempts = max_attempts
        self._max_wait = max_wait
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(
        self,
        method: str,
        url_path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        raw: tuple[bytes, str] | None = None,
        creates: bool = False,
        key: str | None = None,
    ) -> RawResponse:
        """Send a request, with retries, and return the response.

        Args:
            method: HTTP method.
            url_path: percent-encoded path.
            query: query parameters.
            body: JSON body.
            raw: a body that is not JSON, and its content type.
            creates: whether the request creates a resource; it then has an Idempotency-Key.
            key: the Idempotency-Key, random if None.

        Raises:
            GatewayError: no response, or an error response.
        """
        headers = dict(self._headers)
        if creates:
            headers["Idempotency-Key"] = key or uuid4().hex
        data, kind = (encode_json(body), JSON) if raw is None and body is not None else raw or (None, None)
        if kind is not None:
            headers["Content-Type"] = kind
        repeatable = creates or method in ("GET", "PUT", "DELETE")
        last_error: Exception | None = None
        for attempt in range(1, self.max_attempts + 1):
            try:
                async with self._request(method, url_path, query, headers, data, self._timeout) as response:
                    return RawResponse(response.status, await _read(response), response.headers)
            except GatewayUnreachable as error:
                if attempt == self.max_attempts or not repeatable:
                    raise
                last_error, wait = error, back_off(attempt)
            except ApiError as error:
                if error.status == 404 and method == "DELETE" and last_error is not None:
                    return RawResponse(204, None, {})  # an earlier attempt has deleted the resource
                should_retry = error.status in NOT_PROCESSED_STATUSES or (
                    error.status in MAYBE_PROCESSED_STATUSES and repeatable
                )
                wait = parse_retry_after(error.retry_after) or back_off(attempt)
                if attempt == self.max_attempts or not should_retry or wait > self._max_wait:
                    raise
                last_error = error
            await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        url_path: str,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str],
        data: Any = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield a response whose body is read as it arrives. The request is not retried.

        Raises:
            GatewayError: no response, or an error response.
        """
        async with self._request(
            method, url_path, query, {**self._headers, **headers}, data, self._stream_timeout
        ) as response:
            yield response

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        url_path: str,
        query: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        data: Any,
        timeout: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request and yield its successful response."""
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._tls or True))
            # Otherwise aiohttp retries by itself, and this class would not know that a DELETE with 404 was repeated.
            self._session._retry_connection = False
        parameters = {name: _query_text(value) for name, value in (query or {}).items() if value is not None}
        url = URL(self.url + url_path, encoded=True).with_query(parameters)
        try:
            # Redirects are not followed: the key would be sent to another host.
            async with self._session.request(
                method, url, headers=headers, data=data, timeout=timeout, allow_redirects=False
            ) as response:
                if not 200 <= response.status < 300:
                    raise await _read_error(response)
                yield response
        except CONNECTION_ERRORS as error:
            raise GatewayUnreachable(f"{self.url} cannot be reached: {_reason(error, timeout)}") from error


def parse_retry_after(retry_after: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which holds seconds or a date."""
    if retry_after is None:
        return None
    if retry_after.isdigit():
        return float(retry_after)
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def back_off(attempt: int) -> float:
    """Return the pause in seconds after an attempt: 0.5, 1, 2 ... 30, times a random factor from 0.5 to 1."""
    max_pause: float = min(MAX_WAIT_S, FIRST_WAIT_S * 2 ** min(attempt - 1, 10))
    return random.uniform(max_pause / 2, max_pause)  # noqa: S311 - jitter, not a secret


def encode_json(value: Any) -> bytes:
    """Encode as compact JSON, with dates in ISO 8601."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_encode_value).encode()


def _encode_value(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot be encoded as JSON")


def _query_text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value).lower() if isinstance(value, bool) else str(value)


async def _read(response: aiohttp.ClientResponse) -> Any:
    raw = await response.read()
    if not raw:
        return None
    try:
        return json.loads(raw)
    except ValueError:
        raise DecodeError(f"{response.url.origin()} responds with {response.content_type}: is it a gateway?") from None


async def _read_error(response: aiohttp.ClientResponse) -> ApiError:
    """Return the exception of an error response, which may also be the HTML page of a proxy."""
    raw = await response.read()
    try:
        problem = json.loads(raw)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {
            "title": f"{response.url.origin()} responds with {response.status} {response.reason}: is it a gateway?"
        }
    return error_from_response(response.status, problem, response.headers)


def _reason(error: Exception, timeout: aiohttp.ClientTimeout) -> str:
    if isinstance(error, TimeoutError):
        return f"no response within {timeout.total or timeout.sock_read:g} s"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__
