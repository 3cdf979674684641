"""Responses of each push service, as data.

A profile has the limits of a vendor, the texts of its errors, and the format of its responses. A fault that a profile
does not have is one that the vendor does not check.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum, auto
from http import HTTPStatus
from typing import NamedTuple
from uuid import uuid4

_DAY = 86_400

# RFC 8030 section 7.2: every push service must accept bodies of this size.
MAX_BODY_OCTETS = 4096


class Vendor(StrEnum):
    """The simulated push services."""

    FCM = "fcm"
    MOZILLA = "mozilla"
    APPLE = "apple"
    WNS = "wns"


class SimFault(StrEnum):
    """An error of a POST request.

    UNKNOWN: no subscription has the endpoint. GONE: the subscription was removed. CACHE_POLICY: WNS's cache policy
    contradicts the TTL. WRONG_KEY: the subscription was created with another VAPID key.
    """

    UNKNOWN = auto()
    GONE = auto()
    NO_TTL = auto()
    BAD_TTL = auto()
    BAD_TOPIC = auto()
    BAD_URGENCY = auto()
    TOO_LARGE = auto()
    BAD_ENCODING = auto()
    CACHE_POLICY = auto()
    NO_VAPID = auto()
    BAD_VAPID = auto()
    BAD_AUDIENCE = auto()
    BAD_EXPIRY = auto()
    BAD_SUBJECT = auto()
    WRONG_KEY = auto()


class SimResponse(NamedTuple):
    """A response to a POST request. `phrase` is HTTP/1.1's reason phrase; None for the usual one."""

    status: int
    headers: dict[str, str]
    body: str = ""
    phrase: str | None = None


@dataclass(frozen=True, slots=True)
class Profile:
    """Limits and responses of one push service.

    `path` is the path of endpoints, with `{token}`. `max_ttl` is in seconds, None if unknown. `faults` maps each error
    to the status and the vendor's reason: Mozilla's errno, Apple's reason, FCM's text, WNS's error description.
    `reasons` has the reasons for statuses that a `Rule` sets. `build_error` builds an error response from a status and
    a reason; `accepted_headers` returns the extra headers of a response to an accepted message, from the message's id.
    """

    vendor: Vendor
    path: str
    max_ttl: int | None
    topic: re.Pattern[str]
    faults: Mapping[SimFault, tuple[int, str]]
    reasons: Mapping[int, str]
    build_error: Callable[[int, str], SimResponse]
    accepted_headers: Callable[[str], dict[str, str]]

    def checks_for(self, fault: SimFault) -> bool:
        """Return whether the vendor checks for this error."""
        return fault in self.faults

    def refuse(self, fault: SimFault) -> SimResponse:
        """Return the response for an error."""
        return self.build_error(*self.faults[fault])

    def respond(self, status: int, reason: str | None = None) -> SimResponse:
        """Return a response with a status that a `Rule` sets. A 507 has the format of ntfy (UnifiedPush)."""
        if status == HTTPStatus.INSUFFICIENT_STORAGE:
            return _ntfy(status, reason or "cannot publish to UnifiedPush topic without previously active subscriber")
        return self.build_error(status, self.reasons.get(status, "") if reason is None else reason)

    def limit_ttl(self, ttl: int) -> int:
        """Return the TTL that the vendor grants for a requested TTL."""
        return ttl if self.max_ttl is None else min(ttl, self.max_ttl)


_PHRASES = {status.value: status.phrase for status in HTTPStatus}


def _phrase(status: int) -> str:
    return _PHRASES.get(status, "Unknown")


def _fcm(status: int, reason: str) -> SimResponse:
    """Return a response in plain text, or an HTML page for the one-word errors of FCM's older servers."""
    if reason in _FCM_PAGES:
        page = (
            f"<HTML>\n<HEAD>\n<TITLE>{reason}</TITLE>\n</HEAD>\n"
            f'<BODY BGCOLOR="#FFFFFF" TEXT="#000000">\n<H1>{reason}</H1>\n<H2>Error {status}</H2>\n</BODY>\n</HTML>\n'
        )
        return SimResponse(status, {"Content-Type": "text/html; charset=UTF-8"}, page, reason)
    return SimResponse(status, {"Content-Type": "text/plain; charset=utf-8"}, f"{reason or _phrase(status)}\n")


# Errors that FCM sends as an HTML page and as the reason phrase.
_FCM_PAGES = ("UnauthorizedRegistration", "MismatchSenderId")
# FCM's text for a key mismatch if the subscription was created with a sender ID, as before VAPID.
FCM_SENDER_ID_TEXT = (
    "the key in the authorization header does not correspond to the sender ID used to subscribe this user. Please "
    "ensure you are using the correct sender ID and server Key from the Firebase console."
)

_ERRNO = {
    "102": "Request did not validate: invalid token",
    "103": "UAID not found",
    "104": "Request payload too large",
    "105": "Endpoint became unavailable during the request",
    "106": "No such subscription",
    "109": "Request did not validate: invalid Authorization",
    "110": "Unknown Content-Encoding",
    "111": "Missing TTL value",
    "112": "Invalid TTL value",
    "113": "Invalid Topic value",
    "201": "Use exponential back-off for retries",
    "202": "Immediate retry is all right",
}


def _mozilla(status: int, reason: str) -> SimResponse:
    """Return a response with autopush's JSON. `reason` is an errno, an errno and a message, or a message."""
    errno, _, message = reason.partition(" ")
    if not errno.isdecimal():
        errno, message = "", reason
    problem = {
        "code": status,
        "errno": int(errno) if errno else None,
        "error": _phrase(status),
        "message": message or _ERRNO.get(errno, _phrase(status)),
        "more_info": "http://autopush.readthedocs.io/en/latest/http.html#error-codes",
    }
    headers = {"Content-Type": "application/json"}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "120"
    return SimResponse(status, headers, json.dumps(problem))


def _apple(status: int, reason: str) -> SimResponse:
    headers = {"Content-Type": "application/json", "apns-id": str(uuid4()).upper()}
    return SimResponse(status, headers, json.dumps({"reason": reason or _phrase(status).replace(" ", "")}))


def _wns(status: int, reason: str) -> SimResponse:
    throttled = status == HTTPStatus.NOT_ACCEPTABLE
    headers = {
        "X-WNS-Status": "throttled" if throttled else "dropped",
        "X-WNS-NotificationStatus": "channelthrottled" if throttled else "dropped",
        "X-WNS-Error-Description": reason or _phrase(status),
    }
    return SimResponse(status, headers)


def _ntfy(status: int, reason: str) -> SimResponse:
    problem = {"code": status * 100 + 1, "http": status, "error": reason}
    return SimResponse(status, {"Content-Type": "application/json"}, json.dumps(problem))


# RFC 8030 section 5.4.
_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}", re.ASCII)
# Apple decodes the topic, and base64 text never has a length of 1 modulo 4.
_DECODABLE_TOPIC = re.compile(r"(?!.{33})(?!\Z)(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-]{2,3})?", re.ASCII)

_KEY_MISMATCH_TEXT = (
    "the VAPID credentials in the authorization header do not correspond to the credentials used to create the "
    "subscriptions."
)

FCM = Profile(
    vendor=Vendor.FCM,
    path="/fcm/send/{token}",
    max_ttl=28 * _DAY,
    topic=_TOPIC,
    faults={
        SimFault.UNKNOWN: (404, "A valid push subscription endpoint should be specified in the URL."),
        SimFault.GONE: (410, "push subscription has unsubscribed or expired."),
        SimFault.NO_TTL: (400, "missing TTL header."),
        SimFault.BAD_TTL: (400, "invalid TTL header."),
        SimFault.BAD_TOPIC: (400, "invalid Topic header."),
        SimFault.BAD_URGENCY: (400, "invalid Urgency header."),
        SimFault.TOO_LARGE: (413, "message is larger than 4096 bytes."),
        SimFault.BAD_ENCODING: (400, "content-encoding header had invalid value."),
        SimFault.NO_VAPID: (400, "UnauthorizedRegistration"),
        SimFault.BAD_VAPID: (403, "invalid JWT provided"),
        SimFault.BAD_AUDIENCE: (403, "the audience in the JWT is not the origin of the push service."),
        SimFault.BAD_EXPIRY: (403, "invalid JWT provided"),
        SimFault.WRONG_KEY: (403, _KEY_MISMATCH_TEXT),
    },
    reasons={
        403: _KEY_MISMATCH_TEXT,
        404: "A valid push subscription endpoint should be specified in the URL.",
        410: "push subscription has unsubscribed or expired.",
    },
    build_error=_fcm,
    accepted_headers=lambda message_id: {},
)

MOZILLA = Profile(
    vendor=Vendor.MOZILLA,
    path="/wpush/v2/{token}",
    max_ttl=30 * _DAY,
    topic=_TOPIC,
    faults={
        SimFault.UNKNOWN: (404, "102"),
        SimFault.GONE: (410, "106"),
        SimFault.NO_TTL: (400, "111"),
        SimFault.BAD_TTL: (400, "112"),
        SimFault.BAD_TOPIC: (400, "113"),
        SimFault.BAD_URGENCY: (400, "Invalid Urgency value"),
        SimFault.TOO_LARGE: (413, "104"),
        SimFault.BAD_ENCODING: (400, "110"),
        SimFault.NO_VAPID: (401, "109"),
        SimFault.BAD_VAPID: (401, "109"),
        SimFault.BAD_AUDIENCE: (401, "109"),
        SimFault.BAD_EXPIRY: (401, "109"),
        SimFault.WRONG_KEY: (401, "109 VAPID public key mismatch"),
    },
    reasons={401: "109", 404: "102", 410: "103", 413: "104", 429: "201", 502: "902", 503: "201"},
    build_error=_mozilla,
    accepted_headers=lambda message_id: {},
)

APPLE = Profile(
    vendor=Vendor.APPLE,
    path="/{token}",
    max_ttl=30 * _DAY,
    topic=_DECODABLE_TOPIC,
    faults={
        SimFault.UNKNOWN: (404, "BadDeviceToken"),
        SimFault.GONE: (410, "Unregistered"),
        SimFault.NO_TTL: (400, "BadTtl"),
        SimFault.BAD_TTL: (400, "BadTtl"),
        SimFault.BAD_TOPIC: (400, "BadWebPushTopic"),
        SimFault.BAD_URGENCY: (400, "BadUrgency"),
        SimFault.TOO_LARGE: (413, "PayloadTooLarge"),
        SimFault.BAD_ENCODING: (400, "BadContentEncoding"),
        SimFault.NO_VAPID: (403, "BadJwtToken"),
        SimFault.BAD_VAPID: (403, "BadJwtToken"),
        SimFault.BAD_AUDIENCE: (403, "BadJwtToken"),
        SimFault.BAD_EXPIRY: (403, "BadJwtToken"),
        SimFault.BAD_SUBJECT: (403, "BadJwtToken"),
        SimFault.WRONG_KEY: (400, "VapidPkHashMismatch"),
    },
    reasons={403: "BadJwtToken", 404: "BadDeviceToken", 410: "Unregistered", 413: "PayloadTooLarge"},
    build_error=_apple,
    accepted_headers=lambda message_id: {"apns-id": str(uuid4()).upper()},
)

WNS = Profile(
    vendor=Vendor.WNS,
    path="/w/?token={token}",
    max_ttl=None,
    topic=_TOPIC,
    faults={
        SimFault.UNKNOWN: (404, "The channel URI is not valid or is not recognized by WNS."),
        SimFault.GONE: (410, "The channel expired."),
        SimFault.NO_TTL: (400, "Missing TTL header."),
        SimFault.BAD_TTL: (400, "Invalid TTL header."),
        SimFault.BAD_TOPIC: (400, "Invalid Topic header."),
        SimFault.BAD_URGENCY: (400, "Invalid Urgency header."),
        SimFault.TOO_LARGE: (413, "The notification payload exceeds the size limit."),
        SimFault.BAD_ENCODING: (400, "Invalid Content-Encoding header."),
        SimFault.CACHE_POLICY: (400, "Ttl value conflicts with X-WNS-Cache-Policy."),
        SimFault.NO_VAPID: (401, "The Authorization header is missing."),
        SimFault.BAD_VAPID: (401, "The JWT is not valid."),
        SimFault.BAD_AUDIENCE: (401, "The JWT has the wrong audience."),
        SimFault.BAD_EXPIRY: (401, "The JWT expired or lives too long."),
        SimFault.WRONG_KEY: (403, "The key is not the one of the subscription."),
    },
    reasons={406: "The channel is throttled.", 410: "The channel expired."},
    build_error=_wns,
    accepted_headers=lambda message_id: {
        "X-WNS-Status": "received",
        "X-WNS-NotificationStatus": "received",
        "X-WNS-Msg-ID": message_id.upper(),
    },
)

PROFILES = {profile.vendor: profile for profile in (FCM, MOZILLA, APPLE, WNS)}
