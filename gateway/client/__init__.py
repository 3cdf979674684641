"""Async, typed Python client of the gateway for back ends. It depends only on aiohttp.

The client does not import the server, so it loads quickly and needs no other dependency. The types of requests and
responses are in `requests` and `responses`, which are generated from the OpenAPI document.
"""

from gateway.client.errors import (
    AddressNotAllowed,
    ApiError,
    BodyTooLarge,
    Conflict,
    DecodeError,
    DeviceProofRequired,
    EndpointNotAllowed,
    FieldError,
    Forbidden,
    GatewayError,
    GatewayUnreachable,
    IdempotencyMismatch,
    IdentityUnproven,
    InternalError,
    MalformedBody,
    NotFound,
    OriginNotAllowed,
    PayloadTooLarge,
    RateLimited,
    ShareExhausted,
    StatementTimeout,
    TemplateFailed,
    Unauthenticated,
    Unavailable,
    ValidationError,
    WorkLimitExceeded,
)
from gateway.client.gateway import Gateway
from gateway.client.pagination import Listing, Page
from gateway.client.streams import ImportLineResult, ImportResults, Tail

__all__ = [
    "AddressNotAllowed",
    "ApiError",
    "BodyTooLarge",
    "Conflict",
    "DecodeError",
    "DeviceProofRequired",
    "EndpointNotAllowed",
    "FieldError",
    "Forbidden",
    "Gateway",
    "GatewayError",
    "GatewayUnreachable",
    "IdempotencyMismatch",
    "IdentityUnproven",
    "ImportLineResult",
    "ImportResults",
    "InternalError",
    "Listing",
    "MalformedBody",
    "NotFound",
    "OriginNotAllowed",
    "Page",
    "PayloadTooLarge",
    "RateLimited",
    "ShareExhausted",
    "StatementTimeout",
    "Tail",
    "TemplateFailed",
    "Unauthenticated",
    "Unavailable",
    "ValidationError",
    "WorkLimitExceeded",
]
