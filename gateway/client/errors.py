"""What can go wrong when the gateway is asked, each by the code that it names the fault with.

`except NotFound` is for one fault, `except Refused` for whatever the gateway answers, `except GatewayError` for all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


class GatewayError(Exception):
    """Whatever keeps the gateway from doing what it was asked."""


class Unreachable(GatewayError):
    """No answer came: wrong address, nobody listens, connection lost, time over."""


class DecodeError(GatewayError):
    """What answered is not a gateway, or one that this client does not understand."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with what was sent: where (RFC 6901 JSON pointer) and what."""

    pointer: str
    detail: str


class Refused(GatewayError):
    """The gateway answered that it did not do it (RFC 9457). `code` is stable, `faults` is of what was sent."""

    expects: ClassVar[str | None] = None

    def __init__(self, status: int, problem: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        self.status = status
        self.code = str(problem.get("code", "unknown"))
        self.title = str(problem.get("title", "")) or f"The answer was {status}"
        self.detail = str(problem.get("detail", "")) or self.title
        self.faults = [FieldError(one.get("pointer", ""), one.get("detail", "")) for one in problem.get("errors", ())]
        self.retry_after = headers.get("Retry-After")
        self.request_id = headers.get("X-Request-Id")
        super().__init__(f"{self.code}: {self.detail}")


class MalformedBody(Refused):
    """400"""

    expects = "malformed_body"


class Unauthenticated(Refused):
    """401: the key is missing, unknown or was removed."""

    expects = "unauthenticated"


class Forbidden(Refused):
    """403: the key has not the scope."""

    expects = "forbidden"


class IdentityUnproven(Forbidden):
    """403: the application demands a `user_hash` that fits the user id."""

    expects = "identity_unproven"


class OriginNotAllowed(Forbidden):
    """403: a publishable key is for the application's own pages."""

    expects = "origin_not_allowed"


class NotFound(Refused):
    """404: unknown, or another application's."""

    expects = "not_found"


class Conflict(Refused):
    """409: the state does not allow it."""

    expects = "conflict"


class BodyTooLarge(Refused):
    """413"""

    expects = "body_too_large"


class ValidationError(Refused):
    """422: `faults` names everything that is wrong."""

    expects = "invalid"


class IdempotencyMismatch(Refused):
    """422: the key came with another request before."""

    expects = "idempotency_mismatch"


class PayloadTooLarge(Refused):
    """422: more than one push message holds."""

    expects = "payload_too_large"


class TemplateFailed(Refused):
    """422: a template cannot be rendered."""

    expects = "template_failed"


class EndpointNotAllowed(Refused):
    """422: the push endpoint's host is none that this gateway may call."""

    expects = "endpoint_not_allowed"


class AddressNotAllowed(Refused):
    """422: an address of a webhook or a feed that leads somewhere else than into the public web."""

    expects = "address_not_allowed"


class RateLimited(Refused):
    """429: more than the key or the address may ask for, also after waiting."""

    expects = "rate_limited"


class InternalError(Refused):
    """500: a fault of the gateway's own; its log has it under `request_id`."""

    expects = "internal_error"


class Unavailable(Refused):
    """503: not now, also after waiting."""

    expects = "unavailable"


def _all(kind: type[Refused]) -> dict[str, type[Refused]]:
    found = {} if kind.expects is None else {kind.expects: kind}
    for below in kind.__subclasses__():
        found |= _all(below)
    return found


BY_CODE = _all(Refused)


def refusal(status: int, problem: Mapping[str, Any], headers: Mapping[str, str]) -> Refused:
    return BY_CODE.get(str(problem.get("code")), Refused)(status, problem, headers)
