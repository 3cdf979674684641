"""What the gateway refuses, and why: every refusal is one of these.

`code` is stable: clients, logs and metrics use it. `status` is the HTTP status it is told with,
kept here so that each refusal is described in one place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


class OperatorError(Exception):
    """What keeps the gateway from being run or asked, in one line for whoever sits at the machine."""


class GatewayError(Exception):
    """A refusal that may be shown to the caller as it is."""

    code: ClassVar[str] = "error"
    title: ClassVar[str] = "The request was refused"
    status: ClassVar[int] = 400

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


def pointer_step(token: object) -> str:
    """One step of a JSON pointer, `/` and all (RFC 6901 section 3)."""
    return "/" + str(token).replace("~", "~0").replace("/", "~1")


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with the input: where (RFC 6901 JSON pointer) and what."""

    pointer: str
    detail: str

    def with_prefix(self, prefix: str) -> "FieldError":
        return FieldError(prefix + self.pointer, self.detail)


class ValidationError(GatewayError):
    """The input is not what it should be; `faults` names every fault found, not just the first."""

    code = "invalid"
    title = "The input is not valid"
    status = 422

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__("; ".join(f"{f.pointer or '/'}: {f.detail}" for f in errors))
        self.errors = list(errors)


class MalformedRequest(GatewayError):
    """What came is no HTTP."""

    code = "malformed_request"
    title = "The request could not be read"
    status = 400


class MalformedBody(GatewayError):
    code = "malformed_body"
    title = "The body could not be read"
    status = 400


class BodyTooLarge(GatewayError):
    code = "body_too_large"
    title = "The body is too large"
    status = 413


class BodyTooSlow(GatewayError):
    code = "body_too_slow"
    title = "The body took too long to come"
    status = 408


class UnsupportedMediaType(GatewayError):
    code = "unsupported_media_type"
    title = "This content type is not understood here"
    status = 415


class Unauthenticated(GatewayError):
    code = "unauthenticated"
    title = "The credential is missing or unknown"
    status = 401


class Forbidden(GatewayError):
    code = "forbidden"
    title = "The credential may not do this"
    status = 403


class OriginNotAllowed(Forbidden):
    code = "origin_not_allowed"
    title = "This web origin may not use the key"


class IdentityUnproven(Forbidden):
    """The application demands a proof for `user_id` and got none that fits."""

    code = "identity_unproven"
    title = "The user id is not proven"


class NotFound(GatewayError):
    """Unknown, or another application's: the caller cannot tell which."""

    code = "not_found"
    title = "Nothing is here"
    status = 404


class Conflict(GatewayError):
    code = "conflict"
    title = "The state does not allow this"
    status = 409


class IdempotencyMismatch(GatewayError):
    code = "idempotency_mismatch"
    title = "The idempotency key was used with another request"
    status = 422


class EndpointNotAllowed(GatewayError):
    """The push endpoint's host is not among those this gateway may call."""

    code = "endpoint_not_allowed"
    title = "The push endpoint is not allowed"
    status = 422


class AddressNotAllowed(GatewayError):
    """An address to call for the application leads somewhere else than into the public web."""

    code = "address_not_allowed"
    title = "The address is not allowed"
    status = 422


class PayloadTooLarge(GatewayError):
    """The payload cannot fit in one push message."""

    code = "payload_too_large"
    title = "The message is too large for one push"
    status = 422

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"payload is {size} octets; one push message holds {limit}")


class TemplateFailed(GatewayError):
    """A template could not be rendered, or made something that cannot be sent."""

    code = "template_failed"
    title = "The template could not be rendered"
    status = 422

    def __init__(self, detail: str, *, over_budget: bool = False) -> None:
        """`greedy`: it wanted more time or room than a template has."""
        super().__init__(detail)
        self.over_budget = over_budget


class ReceiptInvalid(GatewayError):
    """The receipt token was not made by this gateway, or its time is over."""

    code = "receipt_invalid"
    title = "The receipt token is not valid"
    status = 422


class Unavailable(GatewayError):
    code = "unavailable"
    title = "The gateway cannot do this right now"
    status = 503


class UpgradeRequired(GatewayError):
    """The address speaks another protocol (RFC 9110 section 15.5.22)."""

    code = "upgrade_required"
    title = "This address speaks WebSocket"
    status = 426


class MethodNotAllowed(GatewayError):
    code = "method_not_allowed"
    title = "This address does not take that method"
    status = 405

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"{method} is not possible here; use {allowed}")
        self.allowed = allowed


class RateLimited(GatewayError):
    """`headers` tell when to come again."""

    code = "rate_limited"
    title = "Too many requests"
    status = 429

    def __init__(self, detail: str, headers: Mapping[str, str]) -> None:
        super().__init__(detail)
        self.headers = headers


class InternalError(GatewayError):
    """A fault of our own. What it was is in the log, and told to nobody."""

    code = "internal_error"
    title = "The gateway met a fault of its own"
    status = 500
