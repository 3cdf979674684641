"""The gateway's Python client, for back ends: async, typed, and in need of aiohttp alone.

Nothing of the server is imported here, so that it is quick to load and may run anywhere. What is answered and told is
in `answers` and `bodies`, written from the OpenAPI document.
"""

from gateway.client.errors import (
    AddressNotAllowed,
    BodyTooLarge,
    Conflict,
    DecodeError,
    EndpointNotAllowed,
    FieldError,
    Forbidden,
    GatewayError,
    IdempotencyMismatch,
    IdentityUnproven,
    InternalError,
    MalformedBody,
    NotFound,
    OriginNotAllowed,
    PayloadTooLarge,
    RateLimited,
    Refused,
    TemplateFailed,
    Unauthenticated,
    Unavailable,
    Unreachable,
    ValidationError,
)
from gateway.client.gateway import Gateway
from gateway.client.pagination import Listing, Page
from gateway.client.streams import ImportLineResult, ImportResults, Tail

__all__ = [
    "AddressNotAllowed",
    "BodyTooLarge",
    "Conflict",
    "DecodeError",
    "EndpointNotAllowed",
    "FieldError",
    "Forbidden",
    "Gateway",
    "GatewayError",
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
    "Refused",
    "Tail",
    "TemplateFailed",
    "Unauthenticated",
    "Unavailable",
    "Unreachable",
    "ValidationError",
]
