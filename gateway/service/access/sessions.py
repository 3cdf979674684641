"""Sessions of the console. A secret key opens a session, so that the browser does not have to store the key."""

import hmac
from datetime import timedelta
from typing import NamedTuple

from gateway.domain import clock, ids
from gateway.domain.errors import Forbidden, Unauthenticated
from gateway.records import sessions
from gateway.records.postgres.engine import Connection
from gateway.service import views
from gateway.service.access import audit
from gateway.service.access.authentication import SCOPES, SESSION_PREFIX, Principal
from gateway.service.access.secrets import digest, new_key

# Time from signing in to the end of the session.
SESSION_LIFETIME = timedelta(hours=12)
# Detail of the error for credentials that are not secret keys.
SIGN_IN_HINT = "sign in to the console with a secret key, sk_..."


class OpenedSession(NamedTuple):
    """A new session. `token` is the value of the session cookie, and must not appear anywhere else."""

    token: str
    view: views.Session


def csrf_token(token: str) -> str:
    """Return the CSRF token of a session; the session token cannot be derived from it."""
    return hmac.digest(token.encode("utf-8", "replace"), b"csrf token", "sha256").hex()


async def open_session(conn: Connection, principal: Principal) -> OpenedSession:
    """Open a session for the holder of a secret key.

    Raises:
        Forbidden: the credential is not a secret key.
    """
    if principal.key_id is None or not principal.scopes & set(SCOPES):
        raise Forbidden(SIGN_IN_HINT)
    token = new_key(SESSION_PREFIX.rstrip("_"))
    await sessions.add(conn, digest(token), principal.key_id, clock.now() + SESSION_LIFETIME)
    await audit.add_entry(conn, audit.actor_of(principal), "session.create", principal.application_id)
    return OpenedSession(token, await get(conn, token))


async def get(conn: Connection, token: str) -> views.Session:
    """Return the view of a session.

    Raises:
        Unauthenticated: the session does not exist or has expired.
    """
    session = await sessions.get(conn, digest(token))
    if session is None:
        raise Unauthenticated("the session does not exist or has expired")
    return {
        "application_id": ids.format_id(ids.APPLICATION, session.application_id),
        "application": session.application,
        "key": session.key,
        "scopes": session.scopes,
        "csrf_token": csrf_token(token),
        "expires_at": session.expires_at,
    }


async def close(conn: Connection, token: str) -> None:
    """Delete a session. Its token is no longer valid."""
    await sessions.remove(conn, digest(token))
