"""Console sessions: signing in with a secret key sets a cookie that scripts cannot read.

Browsers send the cookie to this host only, and not with requests from other sites (`SameSite=Strict`). There is a
second defence against forged requests (CSRF): a request that changes something needs a CSRF token, and a request from
another site, by its Origin or Sec-Fetch-Site header, is refused.
"""

import hmac
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlsplit

from aiohttp import web
from pydantic import StringConstraints

from gateway.domain.errors import Forbidden, Unauthenticated
from gateway.service import views
from gateway.service.access import sessions
from gateway.service.access.authentication import MANAGE, READ, SEND, SESSION_PREFIX
from gateway.web.http import credentials
from gateway.web.http.parsing import Body, example
from gateway.web.http.routing import Request, Response, Routes, TransactionalRequest, WebState

routes = Routes("operation")

# The request header with the CSRF token, and the methods of requests that need none.
CSRF_HEADER = "X-CSRF-Token"
SAFE_METHODS = ("GET", "HEAD")


class SignIn(Body):
    """The secret key to sign in with."""

    model_config = example(key="sk_...")

    key: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


def find_token(state: WebState, http: web.Request) -> str | None:
    """Return the session token in the cookie of a request, None without a cookie.

    Raises:
        Forbidden: the request comes from another site, or lacks the CSRF token that it needs.
    """
    token = http.cookies.get(_cookie_name(state))
    if not token:
        return None
    _check_same_site(http)
    if http.method not in SAFE_METHODS and not hmac.compare_digest(
        http.headers.get(CSRF_HEADER, "").encode("utf-8", "replace"), sessions.csrf_token(token).encode()
    ):
        raise Forbidden(f"a request with the session cookie that changes something must carry its {CSRF_HEADER}")
    return token


async def check_sign_in(request: Request[SignIn]) -> Mapping[str, str]:
    """Check the key before a transaction is opened.

    Raises:
        Forbidden: the request comes from another site, or the key is a session token.
        RateLimited: the client address has sent too many unknown keys.
        Unauthenticated: the key is unknown.
    """
    _check_same_site(request.http)
    if request.body.key.startswith(SESSION_PREFIX):
        raise Forbidden(sessions.SIGN_IN_HINT)
    await credentials.identify(request.state, request.state.client_addresses.resolve(request.http), request.body.key)
    return {}


@routes.add("POST", "/v1/session", body=SignIn, precondition=check_sign_in, responses={201: views.Session})
async def sign_in(request: TransactionalRequest[SignIn]) -> Response:
    """Sign in to the console with a secret key. The response sets a session cookie, valid for at most 12 hours.

    A request with the cookie that changes something needs the `csrf_token` of the response as X-CSRF-Token.
    """
    # Uses the connection of the transaction: if each of many concurrent requests needed a second connection, they could
    # wait for each other forever.
    principal = await request.state.authenticator.identify(request.body.key, request.conn)
    opened = await sessions.open_session(request.conn, principal)
    return Response(opened.view, 201, {"Set-Cookie": _set_cookie(request.state, opened.token)})


@routes.add("GET", "/v1/session", scopes=(READ, SEND, MANAGE), responses={200: views.Session})
async def get_session(request: TransactionalRequest) -> Response:
    """Get the session of the cookie."""
    return Response(await sessions.get(request.conn, _token(request)))


@routes.add("DELETE", "/v1/session", scopes=(READ, SEND, MANAGE), responses={204: None})
async def sign_out(request: TransactionalRequest) -> Response:
    """Sign out. The session ends, and its cookie is no longer accepted."""
    await sessions.close(request.conn, _token(request))
    return Response(status=204, headers={"Set-Cookie": _set_cookie(request.state, "", "; Max-Age=0")})


def _token(request: TransactionalRequest) -> str:
    """Return the session token; raises Unauthenticated if the request has no cookie, or has a key."""
    token = request.http.cookies.get(_cookie_name(request.state))
    if token is None or "Authorization" in request.http.headers:
        raise Unauthenticated("the request has no session cookie")
    return token


def _check_same_site(http: web.Request) -> None:
    """Check that the request comes from a page of this host; raises Forbidden otherwise."""
    if _is_cross_origin(http.headers.get("Origin"), http.host) or http.headers.get(
        "Sec-Fetch-Site", "same-origin"
    ) not in ("same-origin", "none"):
        raise Forbidden("the console session may only be used from the console's own pages")


def _is_cross_origin(origin: str | None, host: str) -> bool:
    try:
        return origin is not None and urlsplit(origin).netloc != host
    except ValueError:  # such as http://[
        return True


def _is_https(state: WebState) -> bool:
    return (state.context.public_url or "").startswith("https://")


def _cookie_name(state: WebState) -> str:
    # Browsers accept a cookie with this prefix only over https, and send it to one host only (RFC 6265bis section
    # 4.1.3.2).
    return "__Host-gateway" if _is_https(state) else "gateway"


def _set_cookie(state: WebState, token: str, attributes: str = "") -> str:
    secure = "; Secure" if _is_https(state) else ""
    return f"{_cookie_name(state)}={token}; Path=/; HttpOnly; SameSite=Strict{secure}{attributes}"
