"""The dependencies of the service layer. The composition root (gateway.app) builds them once per process."""

from dataclasses import dataclass, field
from functools import cached_property

from gateway.domain.notification import Lane
from gateway.isolation import HelperProcesses
from gateway.outbound.policy import OutboundPolicy
from gateway.push.endpoints import EndpointPolicy
from gateway.records.postgres.connection_shares import ConnectionShare, ConnectionShares
from gateway.records.postgres.engine import DATABASE_ERRORS, Connection, Engine, is_refusal
from gateway.records.postgres.notifier import Notifier
from gateway.service.access.secrets import Keyring
from gateway.service.reporting.breakers import BreakerDirectory

# Types and errors of the database for the layers above, which must not import gateway.records.
__all__ = ["DATABASE_ERRORS", "Connection", "ConnectionShare", "Context", "Engine", "Notifier", "is_refusal"]


@dataclass(frozen=True)
class Context:
    """The dependencies that service functions share.

    `public_url` is the URL at which browsers reach the gateway, without a trailing slash; None if not configured.
    `urgent_engine` has the connections that are reserved for urgent jobs and alerts; with None these use `engine`. A
    server takes its connections through `connections`, which gives each application its share.
    `max_attributes` is the maximum size of a device's attributes, in octets of JSON; `application_share` the percentage
    of the connections for requests that one application may use.
    """

    engine: Engine
    keyring: Keyring
    policy: EndpointPolicy
    public_url: str | None = None
    outbound: OutboundPolicy = field(default_factory=OutboundPolicy)
    breakers: BreakerDirectory = field(default_factory=BreakerDirectory)
    max_attributes: int = 16 * 1024
    urgent_engine: Engine | None = None
    application_share: int = 50
    helpers: HelperProcesses = field(default_factory=HelperProcesses)

    @cached_property
    def connections(self) -> ConnectionShares:
        """The shares of the applications in the connections of a server."""
        return ConnectionShares(self.engine, self.urgent_engine, application_share=self.application_share)

    def engine_for(self, lane: Lane) -> Engine:
        """Return the engine for jobs of a lane."""
        return self.urgent_engine or self.engine if lane is Lane.URGENT else self.engine
