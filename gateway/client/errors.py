"""Exceptions of the client. Each error code of the API has a class.

Catch a class such as `NotFound` for one error code, `ApiError` for every error response, and `GatewayError` for every
failure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


class GatewayError(Exception):
    """Base class of all exceptions of this client."""


class GatewayUnreachable(GatewayError):
    """No response was received: wrong address, connection refused or lost, or timeout."""


class DecodeError(GatewayError):
    """The response does not come from a gateway, or is not as this version of the client expects."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One error in the request: the JSON pointer (RFC 6901) of the invalid value, and what is wrong with it."""

    pointer: str
    detail: str


class ApiError(GatewayError):
    """An error response (RFC 9457).

    Attributes:
        status: HTTP status.
        code: stable error code.
        title: summary of the code.
        detail: explanation of this occurrence.
        errors: what is wrong with the request, by field.
        retry_after: the Retry-After header, if any.
        request_id: identifies the request in the gateway's log.
    """

    # The error code that the class stands for.
    error_code: ClassVar[str | None] = None

    def __init__(self, status: int, problem: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        """Read the problem document."""
        self.status = status
        self.code = str(problem.get("code", "unknown"))
        self.title = str(problem.get("title", "")) or f"The response status was {status}"
        self.detail = str(problem.get("detail", "")) or self.title
        self.errors = [
            FieldError(item.get("pointer", ""), item.get("detail", "")) for item in problem.get("errors", ())
        ]
        self.retry_after = headers.get("Retry-After")
        self.request_id = headers.get("X-Request-Id")
        super().__init__(f"{self.code}: {self.detail}")


class MalformedBody(ApiError):
    """400: the body is not valid JSON, or not of the expected content type."""

    error_code = "malformed_body"


class Unauthenticated(ApiError):
    """401: the key is missing, unknown or was removed."""

    error_code = "unauthenticated"


class Forbidden(ApiError):
    """403: the key does not have the required scope."""

    error_code = "forbidden"


class IdentityUnproven(Forbidden):
    """403: the application requires a `user_hash` that matches the user id."""

    error_code = "identity_unproven"


class DeviceProofRequired(Forbidden):
    """403: the endpoint is registered with other keys; send the `device_token` of its device."""

    error_code = "device_proof_required"


class OriginNotAllowed(Forbidden):
    """403: the page's web origin is not one of the origins at which the publishable key is allowed."""

    error_code = "origin_not_allowed"


class NotFound(ApiError):
    """404: the resource does not exist, or belongs to another application."""

    error_code = "not_found"


class Conflict(ApiError):
    """409: the current state of the resource does not allow the operation."""

    error_code = "conflict"


class BodyTooLarge(ApiError):
    """413: the request body is too large."""

    error_code = "body_too_large"


class ValidationError(ApiError):
    """422: the request is invalid; `errors` lists every reason."""

    error_code = "invalid"


class IdempotencyMismatch(ApiError):
    """422: the idempotency key was used with another request before."""

    error_code = "idempotency_mismatch"


class PayloadTooLarge(ApiError):
    """422: the content does not fit into a push message."""

    error_code = "payload_too_large"


class TemplateFailed(ApiError):
    """422: a template cannot be rendered."""

    error_code = "template_failed"


class WorkLimitExceeded(ApiError):
    """422: processing the request takes more CPU time or memory than one request may use."""

    error_code = "work_limit_exceeded"


class EndpointNotAllowed(ApiError):
    """422: the push endpoint's host is not one that this gateway may call."""

    error_code = "endpoint_not_allowed"


class AddressNotAllowed(ApiError):
    """422: the URL of a webhook or feed is not on the public internet."""

    error_code = "address_not_allowed"


class RateLimited(ApiError):
    """429: the rate limit of the key or address is exceeded, after all retries."""

    error_code = "rate_limited"


class InternalError(ApiError):
    """500: an error inside the gateway; its log contains the `request_id`."""

    error_code = "internal_error"


class Unavailable(ApiError):
    """503: the gateway is temporarily unavailable, after all retries."""

    error_code = "unavailable"


class ShareExhausted(Unavailable):
    """503: the application's share of the gateway's database connections is in use, after all retries."""

    error_code = "share_exhausted"


class StatementTimeout(Unavailable):
    """503: the request needs more database time than its kind of request may use."""

    error_code = "statement_timeout"


def _classes_by_code(kind: type[ApiError]) -> dict[str, type[ApiError]]:
    classes = {} if kind.error_code is None else {kind.error_code: kind}
    for subclass in kind.__subclasses__():
        classes |= _classes_by_code(subclass)
    return classes


# Exception class by error code.
BY_CODE = _classes_by_code(ApiError)


def error_from_response(status: int, problem: Mapping[str, Any], headers: Mapping[str, str]) -> ApiError:
    """Return the exception for an error response."""
    return BY_CODE.get(str(problem.get("code")), ApiError)(status, problem, headers)
