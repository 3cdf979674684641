"""Signing in to the console with a secret key, which the browser then need not keep."""

import hmac
from datetime import timedelta
from typing import Any, NamedTuple

from gateway.domain import clock, ids
from gateway.domain.errors import Forbidden, Unauthenticated
from gateway.records import sessions
from gateway.records.postgres.engine import Connection
from gateway.service.access import audit
from gateway.service.access.authentication import SCOPES, SESSION_PREFIX, Principal
from gateway.service.access.secrets import digest, new_key

LIFE = timedelta(hours=12)
WANTED = "the console is signed in to with a secret key, sk_..."


class OpenedSession(NamedTuple):
    """`token` goes into the cookie, and nowhere else."""

    token: str
    shown: dict[str, Any]


def csrf_token(token: str) -> str:
    """What a page of ours knows beside the cookie that it cannot read. Nothing of the cookie follows from it."""
    return hmac.digest(token.encode("utf-8", "replace"), b"csrf token", "sha256").hex()


async def open_(conn: Connection, caller: Principal) -> OpenedSession:
    """Raises Forbidden for what is no secret key."""
    if caller.key_id is None or not caller.scopes & set(SCOPES):
        raise Forbidden(WANTED)
    token = new_key(SESSION_PREFIX.rstrip("_"))
    await sessions.add(conn, digest(token), caller.key_id, clock.now() + LIFE)
    await audit.note(conn, audit.actor_of(caller), "session.create", caller.application_id)
    return OpenedSession(token, await get(conn, token))


async def get(conn: Connection, token: str) -> dict[str, Any]:
    """Raises Unauthenticated."""
    session = await sessions.get(conn, digest(token))
    if session is None:
        raise Unauthenticated("nobody is signed in")
    return {
        "application_id": ids.format_id(ids.APPLICATION, session.application_id),
        "application": session.application,
        "key": session.key,
        "scopes": session.scopes,
        "csrf_token": csrf_token(token),
        "expires_at": session.expires_at,
    }


async def close(conn: Connection, token: str) -> None:
    """Whoever still has the cookie is nobody from now on."""
    await sessions.remove(conn, digest(token))
