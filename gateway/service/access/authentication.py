"""Authenticate a request by its credential, and return the caller with the caller's scopes.

The credential is looked up for every request, so a removed key is refused from the next request on.
"""

import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from uuid import UUID

from gateway.domain.bounded_cache import put
from gateway.domain.database_work import LOOKUP
from gateway.domain.errors import Unauthenticated
from gateway.records import applications, devices, sessions
from gateway.records.applications import ApiKey
from gateway.records.postgres.connection_shares import ConnectionShares
from gateway.records.postgres.engine import Connection
from gateway.service.access.secrets import Keyring, digest
from gateway.service.request_batcher import RequestBatcher

# The scopes of API keys.
SEND, READ, MANAGE, REGISTER = "send", "read", "manage", "register"
# The scopes of secret keys. A publishable key has the scope `register` only.
SCOPES = (SEND, READ, MANAGE)
# The scope of the admin token, for every application, and the scope of a device token, for its device.
ADMIN, DEVICE = "admin", "device"

# Prefix of session tokens.
SESSION_PREFIX = "ss_"
# Maximum number of API keys that one query looks up.
MAX_BATCH = 1000
# Maximum number of digests that are stored of credentials whose last lookup succeeded.
MAX_PROVEN = 20_000

# Details of the error Unauthenticated.
UNKNOWN_KEY = "the key is unknown or was removed, or the session has expired"
UNKNOWN_DEVICE = "the device token is unknown, or its device is unregistered"

# The form of API keys and session tokens (`secrets.new_key`): a prefix, and 256 bits in base64url.
_STORED_CREDENTIAL = re.compile(r"(?:pk|sk|ss)_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Principal:
    """The authenticated caller of a request.

    Attributes:
        scopes: what the caller may do.
        application_id: the application of the caller, None for the operator.
        device_id: the device of a device token.
        key_id: the id of an API key.
        origins: the web origins from which a publishable key may be used, None for other credentials.
        name: the actor in the audit log, for a caller that has no API key.
    """

    scopes: frozenset[str]
    application_id: UUID | None = None
    device_id: UUID | None = None
    key_id: UUID | None = None
    origins: tuple[str, ...] | None = None
    name: str | None = None

    @property
    def owner(self) -> str:
        """The owner of this credential's idempotency keys: keys of different owners are independent."""
        if self.device_id is not None:
            return str(self.device_id)
        if self.application_id is None:
            return ADMIN
        return str(self.application_id) if self.key_id is None else f"{self.application_id}/{self.key_id}"


async def identify(conn: Connection, keyring: Keyring, admin_token: str | None, bearer: str) -> Principal:
    """Return the principal of a bearer token or a session token.

    Raises:
        Unauthenticated: the credential is unknown, or was removed.
    """
    credential = _verify(keyring, admin_token, bearer)
    if isinstance(credential, Principal):
        return credential
    if isinstance(credential, UUID):
        return _to_device(credential, await devices.get_application_id(conn, credential))
    if bearer.startswith(SESSION_PREFIX):
        return _to_principal(await sessions.find_key(conn, credential))
    return _to_principal((await applications.find_keys(conn, [credential])).get(credential))


class Authenticator:
    """Authenticates requests; concurrent requests with API keys share one query."""

    def __init__(
        self,
        connections: ConnectionShares,
        keyring: Keyring,
        admin_token: str | None,
        in_process_keys: Mapping[str, Principal] = MappingProxyType({}),
    ) -> None:
        """Create an authenticator.

        Args:
            connections: the database connections of the process.
            keyring: verifies device tokens.
            admin_token: the token of the operator, if there is one.
            in_process_keys: keys that are valid in this process only, with their principals.
        """
        self._key_lookups = connections.share(LOOKUP, "keys")
        self._token_lookups = connections.share(LOOKUP, "tokens")
        self._keyring = keyring
        self._admin_token = admin_token
        self._in_process_keys = {digest(key): principal for key, principal in in_process_keys.items()}
        self._batcher: RequestBatcher[bytes, ApiKey | None] = RequestBatcher(self._find_keys, MAX_BATCH)
        # Digests of credentials whose last lookup succeeded.
        self._proven: dict[bytes, None] = {}

    async def identify(self, bearer: str, conn: Connection | None = None) -> Principal:
        """Return the principal of a bearer token or a session token.

        With `conn` the credential is looked up in that transaction. Without `conn` it is looked up on another
        connection, where the API keys of concurrent requests share one query.

        Raises:
            Unauthenticated: the credential is unknown, or was removed.
        """
        if self._in_process_keys and (principal := self._in_process_keys.get(digest(bearer))) is not None:
            return principal
        if conn is not None:
            return await identify(conn, self._keyring, self._admin_token, bearer)
        credential = _verify(self._keyring, self._admin_token, bearer)
        if isinstance(credential, Principal):
            return credential
        if isinstance(credential, UUID):
            async with self._token_lookups.connect() as connection:
                return _to_device(credential, await devices.get_application_id(connection, credential))
        if bearer.startswith(SESSION_PREFIX):
            async with self._token_lookups.connect() as connection:
                key = await sessions.find_key(connection, credential)
        else:
            key = await self._batcher.submit(credential)
        if key is None:
            self._proven.pop(credential, None)
        else:
            put(self._proven, credential, None, MAX_PROVEN)
        return _to_principal(key)

    def may_fail_lookup(self, bearer: str) -> bool:
        """Return whether the credential may be invented and needs a database lookup.

        Device tokens and the admin token are verified without the database. A credential whose last lookup in this
        process succeeded is not invented.
        """
        return _STORED_CREDENTIAL.fullmatch(bearer) is not None and digest(bearer) not in self._proven

    async def is_still_valid(self, principal: Principal) -> bool:
        """Return whether the API key of a principal still exists. Long-lived responses check it at intervals."""
        if principal.key_id is None:
            return True
        async with self._token_lookups.connect() as conn:
            return await applications.has_key(conn, principal.key_id)

    async def _find_keys(self, digests: Sequence[bytes]) -> Sequence[ApiKey | None]:
        async with self._key_lookups.connect() as conn:
            keys = await applications.find_keys(conn, list(set(digests)))
        return [keys.get(key_digest) for key_digest in digests]


def _verify(keyring: Keyring, admin_token: str | None, bearer: str) -> Principal | UUID | bytes:
    """Verify a credential as far as possible without the database.

    Returns:
        The principal of the operator for the admin token, or the device id for a device token. Otherwise the digest by
        which to look up the API key or the session.

    Raises:
        Unauthenticated: the device token is not valid, or no credential has this form.
    """
    if _is_admin(admin_token, bearer):
        return Principal(frozenset({ADMIN}))
    if bearer.startswith("dt_"):
        if (device_id := keyring.verify_device_token(bearer)) is None:
            raise Unauthenticated(UNKNOWN_DEVICE)
        return device_id
    if not _STORED_CREDENTIAL.fullmatch(bearer):
        raise Unauthenticated(UNKNOWN_KEY)
    return digest(bearer)


def _is_admin(admin_token: str | None, bearer: str) -> bool:
    if not admin_token:
        return False
    # Digests have equal lengths, so the duration of the comparison does not reveal the length of the token.
    return hmac.compare_digest(digest(bearer), digest(admin_token))


def _to_device(device_id: UUID, application_id: UUID | None) -> Principal:
    if application_id is None:
        raise Unauthenticated(UNKNOWN_DEVICE)
    return Principal(frozenset({DEVICE}), application_id, device_id)


def _to_principal(key: ApiKey | None) -> Principal:
    if key is None:
        raise Unauthenticated(UNKNOWN_KEY)
    publishable = key.scopes == [REGISTER]
    return Principal(
        frozenset(key.scopes),
        key.application_id,
        key_id=key.id,
        origins=tuple(key.allowed_origins) if publishable else None,
    )
