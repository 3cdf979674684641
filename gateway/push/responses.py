"""Maps push service responses to delivery outcomes.

The rules are those of RFC 8030 and the four vendors (FCM, Mozilla autopush, Apple, WNS). Error responses and network
failures are expected, so they are values: no function here raises. No cause contains an endpoint.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from gateway.domain.delivery import UNAUTHORIZED_STATUSES, Accepted, Gone, Outcome, Rejected, Retry

# Maximum octets of a body that are read, and maximum characters of a header that is used.
MAX_BODY_OCTETS = 4096
MAX_HEADER_LENGTH = 2048
_SUCCESS_HEADERS = ("location", "ttl")
_ERROR_HEADERS = ("retry-after", "x-wns-error-description", "x-wns-notificationstatus", "x-wns-status")
HEADERS = _SUCCESS_HEADERS + _ERROR_HEADERS
CREATED = 201
# ntfy (UnifiedPush) answers 507 for an endpoint without a connected subscriber, until the phone has come back.
NO_SUBSCRIBER = 507

MAX_RETRY_AFTER = timedelta(hours=24)
# WNS throttles a channel for an hour to a day, and its response does not say how long.
THROTTLED_WAIT = timedelta(hours=1)

# Error numbers (errno) of autopush, https://mozilla-push-service.readthedocs.io/en/latest/http.html
RETRY_NOW, BACK_OFF = 202, 201

# A subscription belongs to the VAPID key that it was created with (RFC 8292 section 4). With these words, Apple,
# Mozilla and FCM (in three generations) report a subscription of another key, in JSON, plain text or an HTML page. FCM
# repeats the words of a page in the reason phrase of HTTP/1.1, which is not read, because HTTP/2 has none.
_KEY_MISMATCH = re.compile(
    r"VapidPkHashMismatch|UnauthorizedRegistration|VAPID public key mismatch"
    r"|mismatch[\s_-]{0,4}sender|sender[\s_-]{0,4}(?:id[\s_-]{0,4})?mismatch"
    r"|do(?:es)? not (?:correspond to|match) the (?:credentials|sender[\s_-]{0,4}id)",
    re.IGNORECASE,
)
_REASONS = ("reason", "message", "error_description", "error", "detail", "title")
_WNS_REASONS = _ERROR_HEADERS[1:]
_ADDRESS_OR_TOKEN = re.compile(r"\S*(?:://|/wp/|/fcm/|/wpush/)\S*|[A-Za-z0-9_:.=-]{40,}")
_MAX_REASON_LENGTH = 200

FaultKind = Literal["timeout", "connect", "dns", "private", "tls", "reset", "protocol", "request"]

_FAULT_CAUSES: dict[FaultKind, str] = {
    "timeout": "the push service did not respond in time",
    "connect": "no connection to the push service could be made",
    "dns": "the push service's name could not be resolved",
    "private": "the push service's name resolves to an address outside the public internet",
    "tls": "no trusted TLS connection to the push service could be made",
    "reset": "the connection to the push service was closed before it responded",
    "protocol": "the push service's response is not valid HTTP",
    "request": "the request to the push service could not be built",
}


@dataclass(frozen=True, slots=True)
class NetworkFault:
    """No response was received. `detail` is the network library's message, without addresses."""

    kind: FaultKind
    detail: str = ""


class HttpReply(NamedTuple):
    """A response as received.

    `headers` has the headers that `relevant_headers` names, by lower-case name; `body` is the start of the body.
    """

    status: int
    headers: dict[str, str]
    body: bytes = b""


class PushResponse(NamedTuple):
    """Result of one POST: a status with the relevant headers (lower-case) and the start of the body, or a fault.

    `status` is None exactly when `fault` is set.
    """

    status: int | None
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes = b""
    duration_ms: int = 0
    fault: NetworkFault | None = None


def relevant_headers(status: int) -> tuple[str, ...]:
    """Return the names of the headers that matter for a response with this status."""
    return _SUCCESS_HEADERS if 200 <= status < 300 else _ERROR_HEADERS


def classify(response: PushResponse, now: datetime) -> Outcome:
    """Return the delivery outcome of a response. `now` (aware) is the reference for a Retry-After date."""
    status, headers = response.status, response.headers
    if status is None:
        return _outcome_of_fault(response.fault)
    if 200 <= status < 300:
        return Accepted(headers.get("location"), _seconds(headers.get("ttl")))
    errno, reason = _explanation(headers, response.body)
    after = retry_after(headers.get("retry-after"), now)

    def cause(summary: str) -> str:
        details = [str(status), *([f"errno {errno}"] if errno is not None else []), *([reason] if reason else [])]
        return f"{summary} ({', '.join(details)})"

    if status in (404, 410):
        return Gone(cause("the push service reports that the subscription no longer exists"))
    if status in (400, *UNAUTHORIZED_STATUSES) and (mismatch := _find_key_mismatch(response)):
        reason = reason or mismatch
        return Rejected(cause("the subscription was created with another VAPID key"), quarantine=True)
    if status in UNAUTHORIZED_STATUSES:
        return Retry(cause("the push service rejects the VAPID key or token"), after, unauthorized=True)
    if status == 406:
        wait = THROTTLED_WAIT if after is None else after
        return Retry(cause("the push service throttles this sender"), wait, slow_down=True)
    if status == 429:
        return Retry(cause("the push service limits the message rate"), after, slow_down=True)
    if status == 503 and (after is not None or errno == BACK_OFF):
        return Retry(cause("the push service is overloaded"), after, slow_down=True)
    if status == 503 and errno == RETRY_NOW:
        return Retry(cause("the push service requests an immediate retry"), timedelta(0))
    if status == NO_SUBSCRIBER:
        return Retry(cause("no subscriber is connected to the push service for this endpoint"), after)
    if status >= 500:
        return Retry(cause("the push service has a temporary error"), after)
    if status == 408:
        return Retry(cause("the push service did not receive the request in time"), after)
    if status == 413:
        return Rejected(cause("the message is too large for the push service"))
    if 300 <= status < 400:
        return Rejected(cause("the push service responded with a redirect, which is never followed"))
    return Rejected(cause("the push service rejects the request"))


def _outcome_of_fault(fault: NetworkFault | None) -> Retry:
    if fault is None:
        return Retry("the push service did not respond")
    return Retry(f"{_FAULT_CAUSES[fault.kind]} ({fault.detail})" if fault.detail else _FAULT_CAUSES[fault.kind])


def retry_after(value: str | None, now: datetime) -> timedelta | None:
    """Parse a Retry-After header (RFC 9110 section 10.2.3), limited to between zero and a day.

    Returns None when it is missing or invalid.
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return timedelta(seconds=min(int(value), MAX_RETRY_AFTER.total_seconds()))
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(moment - now, timedelta(0)), MAX_RETRY_AFTER)


def _seconds(value: str | None) -> int | None:
    return int(value) if value is not None and value.isascii() and value.isdigit() and len(value) < 10 else None


def _explanation(headers: Mapping[str, str], body: bytes) -> tuple[int | None, str]:
    """Return (autopush errno, the push service's reason or ''), from the body and WNS's headers."""
    text = body.decode("utf-8", "replace").strip()
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = text
    errno = document.get("errno") if isinstance(document, dict) else None
    reason = _reason(document) or next((headers[name] for name in _WNS_REASONS if headers.get(name)), "")
    return errno if type(errno) is int else None, _plain_text(reason)


def _find_key_mismatch(response: PushResponse) -> str:
    """Return the words of a response that report another VAPID key, or ''."""
    texts = (response.body.decode("utf-8", "replace"), *(response.headers.get(name, "") for name in _WNS_REASONS))
    return next((match[0] for match in map(_KEY_MISMATCH.search, texts) if match), "")


def _reason(document: Any) -> str:
    """Return Apple's `reason`, autopush's `message`, Google's `error.message`, or plain text that is not HTML."""
    if isinstance(document, dict):
        inner = document.get("error")
        objects = (document, inner) if isinstance(inner, dict) else (document,)
        candidates = (item.get(name) for item in objects for name in _REASONS)
        return next((reason for reason in candidates if isinstance(reason, str) and reason), "")
    return document if isinstance(document, str) and not document.startswith("<") else ""


def _plain_text(reason: str) -> str:
    text = " ".join("".join(char if char.isprintable() else " " for char in reason).split())
    text = _ADDRESS_OR_TOKEN.sub("...", text)
    return text if len(text) <= _MAX_REASON_LENGTH else text[: _MAX_REASON_LENGTH - 3] + "..."
