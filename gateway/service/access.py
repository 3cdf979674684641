"""Who is calling, and what they may do.

A credential is looked up with every request, so that a key removed now is refused now.
"""

import hmac
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.domain.errors import Unauthenticated
from gateway.records import applications, devices
from gateway.service.vault import Vault, digest

SEND, READ, MANAGE, REGISTER = "send", "read", "manage", "register"
SCOPES = (SEND, READ, MANAGE)
"""What a secret key may be given. A publishable key has `register` and nothing else."""

ADMIN, DEVICE = "admin", "device"
"""What the admin token and a device token may do: all for applications, all for this one device."""


@dataclass(frozen=True, slots=True)
class Caller:
    """`application_id` is None for the operator; `device_id` is set for one browser with its own token.

    `origins`: the web origins a publishable key may be used from; None for every other credential.
    """

    scopes: frozenset[str]
    application_id: UUID | None = None
    device_id: UUID | None = None
    origins: tuple[str, ...] | None = None

    @property
    def owner(self) -> str:
        """Whose idempotency keys these are."""
        return str(self.device_id or self.application_id or ADMIN)


async def identify(conn: AsyncConnection, vault: Vault, admin_token: str | None, bearer: str) -> Caller:
    """The caller behind a bearer token. Raises Unauthenticated."""
    if admin_token and hmac.compare_digest(bearer.encode("utf-8", "replace"), admin_token.encode()):
        return Caller(frozenset({ADMIN}))
    if bearer.startswith("dt_"):
        device_id = vault.device_of(bearer)
        device = None if device_id is None else await devices.get(conn, device_id)
        if device is None:
            raise Unauthenticated("the device token is unknown, or its device is unregistered")
        return Caller(frozenset({DEVICE}), device.application_id, device.id)
    key = await applications.key_by_digest(conn, digest(bearer))
    if key is None:
        raise Unauthenticated("the key is unknown or was removed")
    publishable = key.scopes == [REGISTER]
    return Caller(
        frozenset(key.scopes), key.application_id, origins=tuple(key.allowed_origins) if publishable else None
    )
