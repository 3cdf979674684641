"""The gateway's Python client, for back ends: async, typed, and in need of aiohttp alone.

Nothing of the server is imported here, so that it is quick to load and may run anywhere. What is answered and told is
in `answers` and `bodies`, written from the OpenAPI document.
"""

from gateway.client.errors import (
    AddressNotAllowed,
    BodyTooLarge,
    Conflict,
    EndpointNotAllowed,
    Fault,
    Forbidden,
    GatewayError,
    IdempotencyMismatch,
    IdentityUnproven,
    InternalFault,
    Invalid,
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
    Unreadable,
)
from gateway.client.gateway import Gateway
from gateway.client.listing import Listing, Page
from gateway.client.streams import Tail, Verdict, Verdicts

__all__ = [
    "AddressNotAllowed",
    "BodyTooLarge",
    "Conflict",
    "EndpointNotAllowed",
    "Fault",
    "Forbidden",
    "Gateway",
    "GatewayError",
    "IdempotencyMismatch",
    "IdentityUnproven",
    "InternalFault",
    "Invalid",
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
    "Unreadable",
    "Verdict",
    "Verdicts",
]
