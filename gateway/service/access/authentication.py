"""Who is calling, and what they may do.

A credential is looked up with every request, so that a key removed now is refused now.
"""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.domain.errors import Unauthenticated
from gateway.records import applications, devices, sessions
from gateway.records.applications import ApiKey
from gateway.service.access.secrets import Keyring, digest
from gateway.service.request_batcher import RequestBatcher

SEND, READ, MANAGE, REGISTER = "send", "read", "manage", "register"
SCOPES = (SEND, READ, MANAGE)
"""What a secret key may be given. A publishable key has `register` and nothing else."""

ADMIN, DEVICE = "admin", "device"
"""What the admin token and a device token may do: all for applications, all for this one device."""

KEY_PREFIXES = ("pk_", "sk_")
SESSION_PREFIX = "ss_"
MAX_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Principal:
    """`application_id` is None for the operator; `device_id` is set for one browser with its own token, `key_id` for
    whoever has a key.

    `origins`: the web origins a publishable key may be used from; None for every other credential.
    """

    scopes: frozenset[str]
    application_id: UUID | None = None
    device_id: UUID | None = None
    key_id: UUID | None = None
    origins: tuple[str, ...] | None = None
    name: str | None = None
    """What is noted of who is known by no key."""

    @property
    def owner(self) -> str:
        """Whose idempotency keys these are."""
        return str(self.device_id or self.application_id or ADMIN)


async def identify(conn: AsyncConnection, vault: Keyring, admin_token: str | None, bearer: str) -> Principal:
    """The caller behind a bearer token, or behind a session's. Raises Unauthenticated."""
    if _is_admin(admin_token, bearer):
        return Principal(frozenset({ADMIN}))
    if bearer.startswith("dt_"):
        device_id = vault.device_of(bearer)
        application_id = None if device_id is None else await devices.get_application_id(conn, device_id)
        if application_id is None:
            raise Unauthenticated("the device token is unknown, or its device is unregistered")
        return Principal(frozenset({DEVICE}), application_id, device_id)
    sought = digest(bearer)
    if bearer.startswith(SESSION_PREFIX):
        return _holder(await sessions.find_key(conn, sought))
    return _holder((await applications.find_keys(conn, [sought])).get(sought))


class Authenticator:
    """Lets in who comes with a key, those who come at once together. Other credentials are looked at one by one."""

    def __init__(
        self,
        engine: AsyncEngine,
        vault: Keyring,
        admin_token: str | None,
        in_process_keys: Mapping[str, Principal] = MappingProxyType({}),
    ) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")  # one statement, nothing to commit
        self._vault = vault
        self._admin_token = admin_token
        self._in_process_keys = {digest(key): caller for key, caller in in_process_keys.items()}
        self._rounds: RequestBatcher[bytes, ApiKey | None] = RequestBatcher(self._look_up, MAX_BATCH)

    async def identify(self, bearer: str, conn: AsyncConnection | None = None) -> Principal:
        """Return the principal behind a bearer token.

        Without `conn` the credential is valid as of now, and keys that arrive at the same time share one query. With
        `conn` it is looked up in that transaction, whatever an earlier lookup returned.

        Raises:
            Unauthenticated: the credential is unknown, or was removed.
        """
        if self._in_process_keys and (principal := self._in_process_keys.get(digest(bearer))) is not None:
            return principal
        if conn is not None:
            return await identify(conn, self._vault, self._admin_token, bearer)
        if bearer.startswith(KEY_PREFIXES) and not _is_admin(self._admin_token, bearer):
            return _holder(await self._rounds.submit(digest(bearer)))
        async with self._engine.connect() as own:
            return await identify(own, self._vault, self._admin_token, bearer)

    async def still_admits(self, caller: Principal) -> bool:
        """Whether the key they came with is still there: for answers that take long."""
        if caller.key_id is None:
            return True
        async with self._engine.connect() as conn:
            return await applications.has_key(conn, caller.key_id)

    async def _look_up(self, digests: Sequence[bytes]) -> Sequence[ApiKey | None]:
        async with self._engine.connect() as conn:
            found = await applications.find_keys(conn, list(set(digests)))
        return [found.get(one) for one in digests]


def _is_admin(admin_token: str | None, bearer: str) -> bool:
    if not admin_token:
        return False
    # Digests are as long as each other, so that not even the token's length shows in the time this takes.
    return hmac.compare_digest(digest(bearer), digest(admin_token))


def _holder(key: ApiKey | None) -> Principal:
    if key is None:
        raise Unauthenticated("the key is unknown or was removed, or the session is over")
    publishable = key.scopes == [REGISTER]
    return Principal(
        frozenset(key.scopes),
        key.application_id,
        key_id=key.id,
        origins=tuple(key.allowed_origins) if publishable else None,
    )
