"""The dependencies of the service layer. The composition root (gateway.app) builds them once per process."""

from dataclasses import dataclass, field

from gateway.outbound.policy import OutboundPolicy
from gateway.push.endpoints import EndpointPolicy
from gateway.records.postgres.engine import DATABASE_ERRORS, Connection, Engine, is_refusal
from gateway.records.postgres.notifier import Notifier
from gateway.service.access.secrets import Keyring
from gateway.service.reporting.breakers import BreakerDirectory

# Types and errors of the database for the layers above, which must not import gateway.records.
__all__ = ["DATABASE_ERRORS", "Connection", "Context", "Engine", "Notifier", "is_refusal"]


@dataclass(frozen=True, slots=True)
class Context:
    """The dependencies that service functions share.

    `public_url` is the URL at which browsers reach the gateway, without a trailing slash; None if not configured.
    """

    engine: Engine
    keyring: Keyring
    policy: EndpointPolicy
    public_url: str | None = None
    outbound: OutboundPolicy = field(default_factory=OutboundPolicy)
    breakers: BreakerDirectory = field(default_factory=BreakerDirectory)
