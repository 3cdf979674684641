"""The console's sign-in: a secret key is told once, and a cookie that no script can read stands for it from then on.

The cookie is sent to nobody else and from no page of others (`SameSite=Strict`). As a second lock, what changes
something must also carry a token that only a page of ours can have read, and what a browser says of where a request
comes from is believed when it says that it was elsewhere.
"""

import hmac
from typing import Annotated
from urllib.parse import urlsplit

from aiohttp import web
from pydantic import StringConstraints

from gateway.domain.errors import Forbidden, Unauthenticated
from gateway.service.access import sessions
from gateway.service.access.authentication import MANAGE, READ, SEND, SESSION_PREFIX
from gateway.web.http.parsing import Body, example
from gateway.web.http.routing import Response, Routes, TransactionalRequest, WebState
from gateway.web.schemas import responses

routes = Routes("operation")

CSRF = "X-CSRF-Token"
SAFE = ("GET", "HEAD")


class SignIn(Body):
    model_config = example(key="sk_...")

    key: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


def token_of(front: WebState, http: web.Request) -> str | None:
    """What the cookie holds, when the request comes from a page of ours; None without a cookie. Raises Forbidden."""
    token = http.cookies.get(_cookie(front))
    if not token:
        return None
    _check_source(http)
    if http.method not in SAFE and not hmac.compare_digest(
        http.headers.get(CSRF, "").encode("utf-8", "replace"), sessions.csrf_token(token).encode()
    ):
        raise Forbidden(f"with the session's cookie, what changes something must carry its {CSRF}")
    return token


@routes.add("POST", "/v1/session", body=SignIn, responses={201: responses.Session})
async def sign_in(call: TransactionalRequest[SignIn]) -> Response:
    """Sign in to the console with a secret key: the answer sets a cookie that stands for it, for 12 hours at the most.

    What changes something by the cookie must carry the `csrf_token` as X-CSRF-Token.
    """
    _check_source(call.http)
    if call.body.key.startswith(SESSION_PREFIX):
        raise Forbidden(sessions.SIGN_IN_HINT)
    # On the connection that is ours already: asking for a second one, many at once would wait for each other for ever.
    caller = await call.state.authenticator.identify(call.body.key, call.conn)
    opened = await sessions.open_(call.conn, caller)
    return Response(opened.view, 201, {"Set-Cookie": _set(call.state, opened.token)})


@routes.add("GET", "/v1/session", scopes=(READ, SEND, MANAGE), responses={200: responses.Session})
async def show(call: TransactionalRequest) -> Response:
    """Who is signed in with this cookie."""
    return Response(await sessions.get(call.conn, _token(call)))


@routes.add("DELETE", "/v1/session", scopes=(READ, SEND, MANAGE), responses={204: None})
async def sign_out(call: TransactionalRequest) -> Response:
    """Sign out: the cookie opens nothing from now on, wherever it is."""
    await sessions.close(call.conn, _token(call))
    return Response(status=204, headers={"Set-Cookie": _set(call.state, "", "; Max-Age=0")})


def _token(call: TransactionalRequest) -> str:
    """Raises Unauthenticated for who came with a key."""
    token = call.http.cookies.get(_cookie(call.state))
    if token is None or "Authorization" in call.http.headers:
        raise Unauthenticated("nobody is signed in with a cookie")
    return token


def _check_source(http: web.Request) -> None:
    """Raises Forbidden."""
    if _is_elsewhere(http.headers.get("Origin"), http.host) or http.headers.get(
        "Sec-Fetch-Site", "same-origin"
    ) not in ("same-origin", "none"):
        raise Forbidden("the console's session is for its own pages")


def _is_elsewhere(origin: str | None, host: str) -> bool:
    try:
        return origin is not None and urlsplit(origin).netloc != host
    except ValueError:  # such as http://[
        return True


def _is_https(front: WebState) -> bool:
    return (front.context.public_url or "").startswith("https://")


def _cookie(front: WebState) -> str:
    # Browsers take this prefix from https alone, for the whole of one host and no other (RFC 6265bis, section 4.1.3.2).
    return "__Host-gateway" if _is_https(front) else "gateway"


def _set(front: WebState, token: str, beside: str = "") -> str:
    secure = "; Secure" if _is_https(front) else ""
    return f"{_cookie(front)}={token}; Path=/; HttpOnly; SameSite=Strict{secure}{beside}"
