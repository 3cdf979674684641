"""Classification of push service responses, with the error texts of the four vendors."""

import json
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest

from gateway.domain.delivery import Accepted, Gone, Rejected, Retry
from gateway.push.responses import FaultKind, NetworkFault, PushResponse, classify, retry_after

NOW = datetime(2026, 12, 1, 9, 0, tzinfo=UTC)
ENDPOINT = "https://updates.push.services.mozilla.com/wpush/v2/gAAAAABk-secret-secret-secret-secret-secret-secret"


def autopush(status: int, errno: int, message: str, **headers: str) -> PushResponse:
    body = {"code": status, "errno": errno, "error": "Error", "message": message, "more_info": "http://autopush"}
    return PushResponse(
        status, {name.replace("_", "-"): value for name, value in headers.items()}, json.dumps(body).encode()
    )


def apple(status: int, reason: str, **headers: str) -> PushResponse:
    return PushResponse(
        status, {n.replace("_", "-"): v for n, v in headers.items()}, json.dumps({"reason": reason}).encode()
    )


def fcm(status: int, text: str) -> PushResponse:
    return PushResponse(status, {}, text.encode())


def wns(status: int, description: str = "", **headers: str) -> PushResponse:
    reason_headers = {"x-wns-error-description": description} if description else {}
    return PushResponse(status, reason_headers | {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize("status", [200, 201, 202])
def test_200_201_and_202_are_accepted(status: int) -> None:
    """RFC 8030 uses 201 and 202; a push service may respond with 200."""
    assert classify(PushResponse(status), NOW) == Accepted()


def test_accepted_outcome_has_location_and_granted_ttl() -> None:
    """The outcome has the message URL and the time to live that the push service granted."""
    response = PushResponse(201, {"location": "https://push.example/m/1", "ttl": "2592000"})
    assert classify(response, NOW) == Accepted("https://push.example/m/1", 2592000)


@pytest.mark.parametrize("ttl", ["", "-1", "soon", "1.5", "²", "9" * 40])
def test_invalid_granted_ttl_is_ignored(ttl: str) -> None:
    """The message is accepted, and the outcome has no granted time to live."""
    assert classify(PushResponse(201, {"ttl": ttl}), NOW) == Accepted(None, None)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (fcm(404, "A valid push subscription endpoint should be specified"), "404, A valid push"),
        (fcm(410, "push subscription has unsubscribed or expired."), "410, push subscription has"),
        (autopush(404, 102, "Invalid endpoint"), "404, errno 102, Invalid endpoint"),
        (autopush(410, 103, "Expired endpoint"), "410, errno 103, Expired endpoint"),
        (autopush(410, 105, "Endpoint gone"), "410, errno 105, Endpoint gone"),
        (autopush(410, 106, "Request did not validate"), "410, errno 106, Request did not validate"),
        (apple(410, "Unregistered"), "410, Unregistered"),
        (apple(404, "BadPath"), "404, BadPath"),
        (wns(404), "(404)"),
        (wns(410, "The channel expired"), "410, The channel expired"),
    ],
)
def test_404_and_410_mean_gone(response: PushResponse, expected: str) -> None:
    """The subscription has ended, and the cause quotes the status and text of the response."""
    outcome = classify(response, NOW)
    assert isinstance(outcome, Gone)
    assert outcome.cause.startswith("the push service reports that the subscription no longer exists (")
    assert expected in outcome.cause


@pytest.mark.parametrize(
    "response",
    [
        fcm(400, "UnauthorizedRegistration"),
        fcm(403, "the VAPID credentials in the authorization header do not correspond to the credentials used"),
        fcm(403, "MismatchSenderId"),
        fcm(403, '{"error": {"code": 403, "message": "SenderId mismatch", "status": "PERMISSION_DENIED"}}'),
        fcm(403, "SENDER_ID_MISMATCH"),
        fcm(
            403, "the key in the authorization header does not correspond to the sender ID used to subscribe this user."
        ),
        fcm(
            400,
            "<HTML>\n<HEAD>\n<TITLE>UnauthorizedRegistration</TITLE>\n</HEAD>\n<H2>Error 400</H2></HTML>",
        ),
        fcm(401, "<html><title>MismatchSenderId</title></html>"),
        autopush(401, 109, "VAPID public key mismatch"),
        PushResponse(401, {}, b'{"errno":109,"message":"VAPID public key mismatch"}'),
        apple(400, "VapidPkHashMismatch"),
        apple(403, "VapidPkHashMismatch"),
        wns(403, "VAPID public key mismatch"),
    ],
)
def test_key_mismatch_quarantines_the_device(response: PushResponse) -> None:
    """A message to a subscription of another VAPID key is rejected, and its device gets no more messages."""
    outcome = classify(response, NOW)
    assert isinstance(outcome, Rejected)
    assert outcome.quarantine
    assert "another VAPID key" in outcome.cause


@pytest.mark.parametrize(
    "response",
    [
        fcm(401, "missing authorization"),
        fcm(403, "invalid JWT provided"),
        fcm(403, "the audience in the JWT does not match the origin"),
        fcm(401, "<html><title>Unauthorized</title></html>"),
        autopush(401, 109, "Invalid authentication"),
        autopush(401, 109, "Request did not validate: invalid Authorization"),
        apple(403, "BadJwtToken"),
        apple(403, "ExpiredJwtToken"),
        wns(401),
        wns(403, "The token is not for this channel"),
    ],
)
def test_rejected_vapid_token_is_retried_as_unauthorized(response: PushResponse) -> None:
    """The message is sent again with a new token, without slowing the host down."""
    outcome = classify(response, NOW)
    assert isinstance(outcome, Retry)
    assert outcome.unauthorized
    assert not outcome.slow_down
    assert "VAPID" in outcome.cause


@pytest.mark.parametrize(
    ("response", "after"),
    [
        (fcm(429, "Too Many Requests"), None),
        (apple(429, "TooManyRequests"), None),
        (apple(429, "TooManyRequests", retry_after="30"), timedelta(seconds=30)),
        (autopush(503, 201, "Use exponential back-off", retry_after="120"), timedelta(seconds=120)),
        (autopush(503, 201, "Use exponential back-off"), None),
        (PushResponse(503, {"retry-after": "Tue, 01 Dec 2026 09:05:00 GMT"}), timedelta(minutes=5)),
        (wns(406), timedelta(hours=1)),
        (wns(406, retry_after="7200"), timedelta(hours=2)),
        (wns(406, retry_after="0"), timedelta(0)),
        (wns(406, x_wns_notificationstatus="channelthrottled"), timedelta(hours=1)),
    ],
)
def test_throttling_response_slows_the_host_down(response: PushResponse, after: timedelta | None) -> None:
    """The message is sent again after the time that the push service asks for."""
    outcome = classify(response, NOW)
    assert isinstance(outcome, Retry)
    assert outcome.slow_down
    assert outcome.after == after


def test_autopush_retry_now_is_retried_at_once() -> None:
    """The error 202 of autopush asks for another attempt without a wait."""
    outcome = classify(autopush(503, 202, "Retry immediately"), NOW)
    assert isinstance(outcome, Retry)
    assert (outcome.after, outcome.slow_down) == (timedelta(0), False)


@pytest.mark.parametrize(
    "response",
    [
        fcm(500, "Internal Server Error"),
        fcm(502, "<html><title>Bad gateway</title></html>"),
        fcm(503, ""),
        fcm(504, ""),
        *(autopush(502, errno, "Bad gateway") for errno in (900, 901, 902, 903)),
        autopush(503, 900, "Service unavailable"),
        apple(500, "InternalServerError"),
        apple(503, "ServiceUnavailable"),
        wns(500),
        wns(503),
        PushResponse(507, {}, b'{"code":50701,"http":507,"error":"topic without previously active subscriber"}'),
        PushResponse(408),
    ],
)
def test_temporary_error_is_retried_without_its_own_delay(response: PushResponse) -> None:
    """The outcome has no delay (`after`), so the retry rules determine it."""
    outcome = classify(response, NOW)
    assert isinstance(outcome, Retry)
    assert (outcome.after, outcome.slow_down, outcome.unauthorized) == (None, False, False)
    assert str(response.status) in outcome.cause


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (fcm(413, "Payload Too Large"), "too large for the push service (413"),
        (autopush(413, 104, "Data payload too large"), "413, errno 104, Data payload too large"),
        (apple(413, "PayloadTooLarge"), "413, PayloadTooLarge"),
        (wns(413), "(413)"),
        (fcm(400, "InvalidTokenFormat"), "400, InvalidTokenFormat"),
        (autopush(400, 111, "Missing TTL header"), "400, errno 111, Missing TTL header"),
        (autopush(400, 113, "Invalid Topic"), "400, errno 113, Invalid Topic"),
        (apple(400, "BadWebPushTopic"), "400, BadWebPushTopic"),
        (wns(400, "TTL must not be 0"), "400, TTL must not be 0"),
        (wns(400, x_wns_status="dropped"), "400, dropped"),
        (PushResponse(405), "(405)"),
        (PushResponse(418), "(418)"),
    ],
)
def test_invalid_request_is_rejected_without_quarantine(response: PushResponse, expected: str) -> None:
    """The message is rejected, and its device stays active."""
    outcome = classify(response, NOW)
    assert isinstance(outcome, Rejected)
    assert not outcome.quarantine
    assert expected in outcome.cause


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_redirect_is_rejected(status: int) -> None:
    """A message whose response is a redirect is not sent again."""
    outcome = classify(PushResponse(status, {"location": "http://169.254.169.254/"}), NOW)
    assert outcome == Rejected(f"the push service responded with a redirect, which is never followed ({status})")


@pytest.mark.parametrize("kind", get_args(FaultKind))
def test_network_fault_is_always_retried(kind: FaultKind) -> None:
    """A message without a response is sent again, and the cause quotes the detail of the fault."""
    outcome = classify(PushResponse(None, fault=NetworkFault(kind, "os error 104")), NOW)
    assert isinstance(outcome, Retry)
    assert (outcome.after, outcome.slow_down, outcome.unauthorized) == (None, False, False)
    assert outcome.cause.endswith("(os error 104)")


def test_each_network_fault_has_its_own_cause() -> None:
    """No two kinds of fault have the same text."""
    causes = {classify(PushResponse(None, fault=NetworkFault(kind)), NOW).cause for kind in get_args(FaultKind)}
    assert len(causes) == len(get_args(FaultKind))


@pytest.mark.parametrize(
    ("value", "after"),
    [
        ("0", timedelta(0)),
        ("120", timedelta(minutes=2)),
        ("000000000000120", timedelta(minutes=2)),
        (" 120 ", timedelta(minutes=2)),
        ("999999999999999999999", timedelta(hours=24)),
        ("Tue, 01 Dec 2026 10:00:00 GMT", timedelta(hours=1)),
        ("Tuesday, 01-Dec-26 10:00:00 GMT", timedelta(hours=1)),
        ("Tue Dec  1 10:00:00 2026", timedelta(hours=1)),
        ("Tue, 01 Dec 2026 08:00:00 GMT", timedelta(0)),
        ("Tue, 01 Dec 2036 08:00:00 GMT", timedelta(hours=24)),
        (None, None),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("²", None),
        ("Tue, 99 Dec 2026 08:00:00 GMT", None),
        ("Tue, 01 Dec 99999999999 08:00:00 GMT", None),
        ("Tue, 01 Dec 2026 08:00:00 +99999999999999", None),
    ],
)
def test_retry_after_accepts_seconds_and_dates(value: str | None, after: timedelta | None) -> None:
    """Retry-After may be a number of seconds or an HTTP date; other values are ignored."""
    assert retry_after(value, NOW) == after


@pytest.mark.parametrize("status", [400, 401, 404, 413, 500, 503])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00\xff\xfe\x1b[31mred",
        b"[" * 4096,
        b'{"error":' * 450,
        b'{"error":' * 400 + b'"x"' + b"}" * 400,
        b'{"errno": "106", "message": 17}',
        b'{"errno": true, "reason": ["x"]}',
        b'{"errno": 1e999}',
        b"null",
        b"x" * 4096,
        ("no such subscription: " + ENDPOINT).encode(),
        b'{"message": "/wpush/v2/gAAAAABk-secret is unknown"}',
        b"<!DOCTYPE html><title>Not found</title>",
    ],
)
def test_hostile_body_gives_short_cause_without_endpoint(status: int, body: bytes) -> None:
    """A cause that quotes the response is short and printable, and has no URL, secret or markup."""
    cause = classify(PushResponse(status, {}, body), NOW).cause
    assert cause.isprintable()
    assert len(cause) < 320
    assert "secret" not in cause
    assert "://" not in cause
    assert "<" not in cause
