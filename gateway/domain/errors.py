"""The errors that the gateway returns to its callers.

Each has a stable `code`, which clients, logs and metrics use, a `title` for people, and an HTTP `status`. The error
page of the documentation is generated from these classes and their docstrings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


class OperatorError(Exception):
    """An error shown to the operator on the command line as a single line."""


class GatewayError(Exception):
    """An error whose details may be shown to the caller."""

    code: ClassVar[str] = "error"
    title: ClassVar[str] = "The request was refused"
    status: ClassVar[int] = 400

    def __init__(self, detail: str) -> None:
        """Create the error. `detail` describes this occurrence in one sentence."""
        super().__init__(detail)
        self.detail = detail


def pointer_step(token: object) -> str:
    """Return one step of a JSON pointer, with its leading `/` (RFC 6901 section 3)."""
    return "/" + str(token).replace("~", "~0").replace("/", "~1")


@dataclass(frozen=True, slots=True)
class FieldError:
    """One error in the input: the JSON pointer (RFC 6901) of the invalid value, and what is wrong with it."""

    pointer: str
    detail: str

    def with_prefix(self, prefix: str) -> "FieldError":
        """Return the error with `prefix` in front of its pointer."""
        return FieldError(prefix + self.pointer, self.detail)


class ValidationError(GatewayError):
    """The input is not valid. `errors` lists every error, not only the first."""

    code = "invalid"
    title = "The input is not valid"
    status = 422

    def __init__(self, errors: Sequence[FieldError]) -> None:
        """Create the error from the errors of the fields."""
        super().__init__("; ".join(f"{error.pointer or '/'}: {error.detail}" for error in errors))
        self.errors = list(errors)

    def __reduce__(self) -> tuple[type["ValidationError"], tuple[list[FieldError]]]:
        """Pickle the errors: the message that exceptions pickle by default is not what the constructor takes."""
        return type(self), (self.errors,)


class MalformedRequest(GatewayError):
    """The request is not valid HTTP."""

    code = "malformed_request"
    title = "The request is not valid HTTP"
    status = 400


class MalformedBody(GatewayError):
    """The request body is not valid JSON, or not valid in its content encoding."""

    code = "malformed_body"
    title = "The body could not be read"
    status = 400


class BodyTooLarge(GatewayError):
    """The request body exceeds the limit."""

    code = "body_too_large"
    title = "The body is too large"
    status = 413


class BodyTooSlow(GatewayError):
    """The request body did not arrive in time."""

    code = "body_too_slow"
    title = "The body was not received in time"
    status = 408


class UnsupportedMediaType(GatewayError):
    """The endpoint does not accept the content type of the request."""

    code = "unsupported_media_type"
    title = "The content type is not supported"
    status = 415


class Unauthenticated(GatewayError):
    """The request has no credential, or an unknown one."""

    code = "unauthenticated"
    title = "The credential is missing or unknown"
    status = 401


class Forbidden(GatewayError):
    """The credential does not have the scope that the endpoint requires."""

    code = "forbidden"
    title = "The credential does not permit this"
    status = 403


class OriginNotAllowed(Forbidden):
    """The publishable key may not be used from the web origin of the request."""

    code = "origin_not_allowed"
    title = "The key may not be used from this web origin"


class IdentityUnproven(Forbidden):
    """The application requires a proof of `user_id`, and the request has none or a wrong one."""

    code = "identity_unproven"
    title = "The user id is not proven"


class DeviceProofRequired(Forbidden):
    """The endpoint is registered with other keys, and the request has no token of that device."""

    code = "device_proof_required"
    title = "The endpoint is registered with other keys"


class NotFound(GatewayError):
    """The resource does not exist, or belongs to another application; the response does not reveal which."""

    code = "not_found"
    title = "The resource does not exist"
    status = 404


class Conflict(GatewayError):
    """The state of the resource does not allow the operation."""

    code = "conflict"
    title = "The state does not allow this"
    status = 409


class IdempotencyMismatch(GatewayError):
    """The idempotency key was used before with another request."""

    code = "idempotency_mismatch"
    title = "The idempotency key was used with another request"
    status = 422


class EndpointNotAllowed(GatewayError):
    """The host of the push endpoint is not among the push services that this gateway allows."""

    code = "endpoint_not_allowed"
    title = "The push endpoint is not allowed"
    status = 422


class AddressNotAllowed(GatewayError):
    """The URL of a webhook or feed has neither an origin that the operator allows nor a public address."""

    code = "address_not_allowed"
    title = "The address is not allowed"
    status = 422


class PayloadTooLarge(GatewayError):
    """The payload does not fit into one push message."""

    code = "payload_too_large"
    title = "The message is too large for one push"
    status = 422

    def __init__(self, size: int, limit: int) -> None:
        """Create the error from the size of the payload and its limit, both in bytes."""
        super().__init__(f"payload is {size} bytes; one push message holds at most {limit}")


class TemplateFailed(GatewayError):
    """A template could not be rendered, or its output cannot be sent."""

    code = "template_failed"
    title = "The template could not be rendered"
    status = 422

    def __init__(self, detail: str, *, timed_out: bool = False) -> None:
        """Create the error. `timed_out`: the template exceeded its time limit."""
        super().__init__(detail)
        self.timed_out = timed_out


class WorkLimitExceeded(GatewayError):
    """Processing the input takes more CPU time or memory than one request may use."""

    code = "work_limit_exceeded"
    title = "The input takes too long to process"
    status = 422


class ReceiptInvalid(GatewayError):
    """The receipt token was not issued by this gateway, or has expired."""

    code = "receipt_invalid"
    title = "The receipt token is not valid"
    status = 422


class Unavailable(GatewayError):
    """The gateway is overloaded, or its database is unavailable. Retry after the time in `Retry-After`."""

    code = "unavailable"
    title = "The gateway is temporarily unavailable"
    status = 503


class ShareExhausted(Unavailable):
    """The application's share of the database connections is in use. Retry after the time in `Retry-After`."""

    code = "share_exhausted"
    title = "The share of the application is in use"


class StatementTimeout(Unavailable):
    """A query needed more database time than its kind of request may use. Narrow it down, or retry later."""

    code = "statement_timeout"
    title = "The request needs too much database time"


class UpgradeRequired(GatewayError):
    """The endpoint accepts WebSocket connections only (RFC 9110 section 15.5.22)."""

    code = "upgrade_required"
    title = "This endpoint requires WebSocket"
    status = 426


class MethodNotAllowed(GatewayError):
    """The endpoint does not support the method of the request."""

    code = "method_not_allowed"
    title = "The method is not allowed"
    status = 405

    def __init__(self, method: str, allowed: str) -> None:
        """Create the error. `allowed` is the value of the `Allow` header."""
        super().__init__(f"{method} is not allowed here; use {allowed}")
        self.allowed = allowed


class RateLimited(GatewayError):
    """Too many requests. The response headers state when the next request is allowed."""

    code = "rate_limited"
    title = "Too many requests"
    status = 429

    def __init__(self, detail: str, headers: Mapping[str, str]) -> None:
        """Create the error. `headers` are added to the response."""
        super().__init__(detail)
        self.headers = headers


class InternalError(GatewayError):
    """A bug in the gateway. Its details are in the server's log only."""

    code = "internal_error"
    title = "Internal error"
    status = 500
