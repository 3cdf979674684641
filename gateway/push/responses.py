"""One table from what a push service answered to what it means for the delivery.

The rules are RFC 8030's and the four vendors' (FCM, Mozilla autopush, Apple, WNS). An answer is a value and
so is a network failure, because both are expected; nothing here raises, and no cause ever repeats an endpoint.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from gateway.domain.delivery import UNAUTHORIZED, Accepted, Gone, Outcome, Rejected, Retry

# What is read of an answer: so many octets of its body, and of headers no longer than this.
MAX_BODY_OCTETS = 4096
MAX_HEADER_LENGTH = 2048
_ACCEPTED_HEADERS = ("location", "ttl")
_REFUSED_HEADERS = ("retry-after", "x-wns-error-description", "x-wns-notificationstatus", "x-wns-status")
HEADERS = _ACCEPTED_HEADERS + _REFUSED_HEADERS
CREATED = 201

MAX_WAIT = timedelta(hours=24)
# WNS throttles a channel for an hour to a day and does not say how long.
THROTTLED_WAIT = timedelta(hours=1)

# autopush error numbers, https://mozilla-push-service.readthedocs.io/en/latest/http.html
RETRY_NOW, BACK_OFF = 202, 201

# A subscription belongs to the key it was made with. These say that ours is another, in the words of FCM and Apple.
_KEY_MISMATCH = re.compile(
    r"VapidPkHashMismatch|UnauthorizedRegistration|mismatch[\s_-]*sender|sender[\s_-]*(?:id[\s_-]*)?mismatch"
    r"|do(?:es)? not correspond to the credentials",
    re.IGNORECASE,
)
_REASONS = ("reason", "message", "error_description", "error", "detail", "title")
_WNS_REASONS = _REFUSED_HEADERS[1:]
_ADDRESS_OR_TOKEN = re.compile(r"\S*(?:://|/wp/|/fcm/|/wpush/)\S*|[A-Za-z0-9_:.=-]{40,}")
_MAX_REASON_LENGTH = 200

FaultKind = Literal["timeout", "connect", "dns", "private", "tls", "reset", "protocol", "request"]

_FAULTS: dict[FaultKind, str] = {
    "timeout": "the push service did not answer in time",
    "connect": "no connection to the push service could be made",
    "dns": "the push service's name could not be resolved",
    "private": "the push service's name leads to an address that is not of the public internet",
    "tls": "no trusted TLS connection to the push service could be made",
    "reset": "the connection to the push service broke before it answered",
    "protocol": "the push service's answer could not be understood",
    "request": "the request to the push service could not be made",
}


@dataclass(frozen=True, slots=True)
class NetworkFault:
    """No answer came. `detail` is the network's own words, never with an address in them."""

    kind: FaultKind
    detail: str = ""


class HttpReply(NamedTuple):
    """What a push service said: `headers` are those of `headers_of`, by lower-case name, `body` is its start."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


class PushResponse(NamedTuple):
    """What one POST came to: a status with the headers that matter (lower-case) and the start of the body, or a fault.

    `status` is None exactly when `fault` is set.
    """

    status: int | None
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes = b""
    duration_ms: int = 0
    fault: NetworkFault | None = None


def headers_of(status: int) -> tuple[str, ...]:
    """Those that matter of such an answer."""
    return _ACCEPTED_HEADERS if 200 <= status < 300 else _REFUSED_HEADERS


def classify(answer: PushResponse, now: datetime) -> Outcome:
    """What the answer means for this delivery. `now` (aware) is what a Retry-After date is measured against."""
    status, headers = answer.status, answer.headers
    if status is None:
        return _unanswered(answer.fault)
    if 200 <= status < 300:
        return Accepted(headers.get("location"), _seconds(headers.get("ttl")))
    errno, reason = _explanation(headers, answer.body)
    after = retry_after(headers.get("retry-after"), now)

    def cause(what: str) -> str:
        known = [str(status), *([f"errno {errno}"] if errno is not None else []), *([reason] if reason else [])]
        return f"{what} ({', '.join(known)})"

    if status in (404, 410):
        return Gone(cause("the push service says the subscription no longer exists"))
    if status in (400, *UNAUTHORIZED) and _KEY_MISMATCH.search(reason):
        return Rejected(cause("the subscription was made with another VAPID key"), quarantine=True)
    if status in UNAUTHORIZED:
        return Retry(cause("the push service refuses our VAPID key or token"), after, unauthorized=True)
    if status == 406:
        wait = THROTTLED_WAIT if after is None else after
        return Retry(cause("the push service throttles this sender"), wait, slow_down=True)
    if status == 429:
        return Retry(cause("the push service asks for fewer messages"), after, slow_down=True)
    if status == 503 and (after is not None or errno == BACK_OFF):
        return Retry(cause("the push service is overloaded"), after, slow_down=True)
    if status == 503 and errno == RETRY_NOW:
        return Retry(cause("the push service asks to try again at once"), timedelta(0))
    if status >= 500:
        return Retry(cause("the push service has a passing fault"), after)
    if status == 408:
        return Retry(cause("the push service did not receive the request in time"), after)
    if status == 413:
        return Rejected(cause("the message is too large for the push service"))
    if 300 <= status < 400:
        return Rejected(cause("the push service answered with a redirect, which is never followed"))
    return Rejected(cause("the push service refuses the request"))


def _unanswered(fault: NetworkFault | None) -> Retry:
    if fault is None:
        return Retry("the push service did not answer")
    return Retry(f"{_FAULTS[fault.kind]} ({fault.detail})" if fault.detail else _FAULTS[fault.kind])


def retry_after(value: str | None, now: datetime) -> timedelta | None:
    """The wish in a Retry-After header (RFC 9110 section 10.2.3), between zero and a day; None when it is not one."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return timedelta(seconds=min(int(value), MAX_WAIT.total_seconds()))
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(moment - now, timedelta(0)), MAX_WAIT)


def _seconds(value: str | None) -> int | None:
    return int(value) if value is not None and value.isascii() and value.isdigit() and len(value) < 10 else None


def _explanation(headers: Mapping[str, str], body: bytes) -> tuple[int | None, str]:
    """(autopush errno, the service's own reason or ''), from the body and WNS's headers."""
    text = body.decode("utf-8", "replace").strip()
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        told = text
    errno = told.get("errno") if isinstance(told, dict) else None
    reason = _reason(told) or next((headers[name] for name in _WNS_REASONS if headers.get(name)), "")
    return errno if type(errno) is int else None, _plain(reason)


def _reason(told: Any) -> str:
    """Apple's `reason`, autopush's `message`, Google's `error.message`, or plain text that is not a page of HTML."""
    if isinstance(told, dict):
        inner = told.get("error")
        places = (told, inner) if isinstance(inner, dict) else (told,)
        found = (place.get(name) for place in places for name in _REASONS)
        return next((reason for reason in found if isinstance(reason, str) and reason), "")
    return told if isinstance(told, str) and not told.startswith("<") else ""


def _plain(reason: str) -> str:
    words = " ".join("".join(char if char.isprintable() else " " for char in reason).split())
    words = _ADDRESS_OR_TOKEN.sub("...", words)
    return words if len(words) <= _MAX_REASON_LENGTH else words[: _MAX_REASON_LENGTH - 3] + "..."
