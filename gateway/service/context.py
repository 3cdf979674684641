"""What every order needs at hand, made once by the composition root."""

from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.outbound.policy import OutboundPolicy
from gateway.push.endpoints import EndpointPolicy
from gateway.service.access.secrets import Keyring
from gateway.service.reporting.breakers import BreakerDirectory


@dataclass(frozen=True, slots=True)
class Context:
    """`public_url` is where browsers reach this gateway, without a trailing slash; None when nobody said."""

    engine: AsyncEngine
    keyring: Keyring
    policy: EndpointPolicy
    public_url: str | None = None
    outbound: OutboundPolicy = field(default_factory=OutboundPolicy)
    breakers: BreakerDirectory = field(default_factory=BreakerDirectory)
