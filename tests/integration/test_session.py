"""Console sessions: the attributes and scopes of the cookie, and the CSRF token that each change requires."""

from dataclasses import replace
from datetime import timedelta
from http.cookies import Morsel, SimpleCookie
from typing import Any

import pytest
from sqlalchemy import text

from gateway.worker import maintenance
from gateway.worker.maintenance.retention_policy import RetentionPolicy
from tests.support.api import ADMIN, Api, ApiResponse, serve_api

COOKIE = "__Host-gateway"


class SignedInPage:
    """A page of the console with the cookie and the CSRF token of a session."""

    def __init__(self, api: Api, response: ApiResponse) -> None:
        self.api = api
        self.token = response.body["csrf_token"]
        self.cookie = read_cookie(response)

    async def call(self, method: str, path: str, body: Any = None, **headers: str | None) -> ApiResponse:
        """Send a request; `headers` have _ for -, and None omits a header that a page sends."""
        defaults: dict[str, str | None] = {"Cookie": f"{COOKIE}={self.cookie.value}", "X-CSRF-Token": self.token}
        defaults |= {name.replace("_", "-"): value for name, value in headers.items()}
        sent_headers = {name: value for name, value in defaults.items() if value is not None}
        return await self.api.call(method, path, body, key=None, headers=sent_headers)


def read_cookie(response: ApiResponse) -> "Morsel[str]":
    """Return the session cookie that a response sets."""
    cookies = SimpleCookie(response.headers["Set-Cookie"])
    return cookies[COOKIE]


@pytest.fixture
async def browser(api: Api) -> SignedInPage:
    """A page of the console that has signed in with the secret key."""
    return SignedInPage(api, await api.call("POST", "/v1/session", {"key": api.secret}, key=None))


async def test_cookie_is_secure_http_only_and_same_site(browser: SignedInPage) -> None:
    """The cookie is limited to this host, HTTPS, HTTP requests and the same site."""
    attributes = {name: browser.cookie[name] for name in ("secure", "httponly", "samesite", "path", "domain")}
    assert attributes == {"secure": True, "httponly": True, "samesite": "Strict", "path": "/", "domain": ""}


async def test_cookie_without_https_is_as_strict_as_possible(api: Api) -> None:
    """Without HTTPS, the cookie has all attributes except Secure and the __Host- prefix, which require HTTPS."""
    api.parts.context = replace(api.parts.context, public_url=None)
    async with serve_api(api.parts) as insecure:
        response = await insecure.call("POST", "/v1/session", {"key": api.secret}, key=None)
    assert response.headers["Set-Cookie"].endswith("; Path=/; HttpOnly; SameSite=Strict")
    assert response.headers["Set-Cookie"].startswith("gateway=ss_")


async def test_session_has_the_scopes_of_its_key(api: Api, browser: SignedInPage) -> None:
    """A session has the scopes of its key."""
    session = (await browser.call("GET", "/v1/session")).body
    assert (session["application_id"], session["csrf_token"]) == (api.parts.application["id"], browser.token)
    assert api.secret not in str(session)
    assert (await browser.call("GET", "/v1/devices")).status == 200
    assert (await browser.call("GET", "/v1/applications")).status == 403
    created = await browser.call("POST", "/v1/segments", {"name": "s", "audience": {"topic": "t"}})
    assert created.status == 201
    entries = (await browser.call("GET", "/v1/audit")).body["items"]
    assert [entry["action"] for entry in entries] == ["segments.create", "session.create"]
    assert len({entry["actor"] for entry in entries}) == 1


@pytest.mark.parametrize(
    "forged",
    [
        {"X_CSRF_Token": None},
        {"X_CSRF_Token": "another"},
        {"X_CSRF_Token": ""},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
async def test_session_is_useless_to_pages_of_other_origins(
    api: Api, browser: SignedInPage, forged: dict[str, str]
) -> None:
    """A request without the CSRF token, or with the headers of a page of another origin, is refused."""
    before = await api.rows()
    response = await browser.call("POST", "/v1/segments", {"name": "s", "audience": {"topic": "t"}}, **forged)
    assert (response.status, response.body["code"]) == (403, "forbidden")
    assert (await browser.call("DELETE", "/v1/session", **forged)).status == 403
    assert await api.rows() == before
    own_headers = {"Origin": api.origin, "Sec_Fetch_Site": "same-origin"}
    assert (
        await browser.call("POST", "/v1/audiences/preview", {"audience": {"topic": "t"}}, **own_headers)
    ).status == 200


async def test_csrf_token_of_another_session_is_refused(api: Api, browser: SignedInPage) -> None:
    """The CSRF token of another session is refused."""
    other_page = SignedInPage(api, await api.call("POST", "/v1/session", {"key": api.secret}, key=None))
    assert other_page.token != browser.token
    body = {"audience": {"topic": "t"}}
    assert (await browser.call("POST", "/v1/audiences/preview", body, X_CSRF_Token=other_page.token)).status == 403


async def test_only_a_secret_key_signs_in(api: Api) -> None:
    """Only a secret key signs in."""
    device = await api.register()
    signed_in = await api.call("POST", "/v1/session", {"key": api.secret}, key=None)
    for key, status in (
        ("sk_unknown", 401),
        (api.publishable, 403),
        (ADMIN, 403),
        (device["device_token"], 403),
        (read_cookie(signed_in).value, 403),
    ):
        response = await api.call("POST", "/v1/session", {"key": key}, key=None)
        assert (response.status, "Set-Cookie" in response.headers) == (status, False), key
    foreign = await api.call("POST", "/v1/session", {"key": api.secret}, key=None, origin="https://evil.example")
    assert foreign.status == 403


async def test_cookie_value_is_not_a_key(api: Api, browser: SignedInPage) -> None:
    """The value of the cookie is not accepted as a key."""
    assert (await api.call("GET", "/v1/devices", key=browser.cookie.value)).status == 401
    stored = await api.parts.scalar("SELECT string_agg(sessions::text, ' ') FROM sessions")
    assert browser.cookie.value.encode().hex() not in stored
    assert browser.cookie.value not in stored


async def test_signing_out_ends_every_copy_of_the_session(browser: SignedInPage) -> None:
    """Signing out ends the session for every copy of the cookie."""
    signed_out = await browser.call("DELETE", "/v1/session")
    assert (signed_out.status, read_cookie(signed_out)["max-age"]) == (204, "0")
    assert (await browser.call("GET", "/v1/devices")).status == 401
    assert (await browser.call("GET", "/v1/session")).status == 401


async def test_session_ends_with_its_key(api: Api) -> None:
    """Removing an API key ends the sessions that signed in with the key."""
    path = f"/v1/applications/{api.parts.application['id']}/keys"
    api_key = await api.call_ok("POST", path, {"name": "c", "scopes": ["read"]}, key=ADMIN)
    browser = SignedInPage(api, await api.call("POST", "/v1/session", {"key": api_key["key"]}, key=None))
    assert (await browser.call("GET", "/v1/devices")).status == 200
    await api.call_ok("DELETE", f"{path}/{api_key['id']}", key=ADMIN)
    assert (await browser.call("GET", "/v1/devices")).status == 401


async def test_session_ends_after_twelve_hours(api: Api, browser: SignedInPage) -> None:
    """A session ends after twelve hours and is deleted."""
    async with api.parts.engine.begin() as conn:
        expire = text("UPDATE sessions SET expires_at = expires_at - CAST(:by AS interval)")
        await conn.execute(expire, {"by": timedelta(hours=12)})
    assert (await browser.call("GET", "/v1/devices")).status == 401
    assert (await maintenance.run_once(api.parts.engine, RetentionPolicy()))["sessions"] == 1
