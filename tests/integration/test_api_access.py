"""Authorization over HTTP: credentials, scopes, allowed origins, and the management of keys and applications."""

import json

import pytest

from gateway.push.encryption import encode_base64url
from gateway.push.vapid import VapidKey
from gateway.service.access.authentication import DEVICE, REGISTER
from gateway.web.server import ROUTES
from tests.support.api import ADMIN, Api, fill_path
from tests.support.gateway_parts import APP_ORIGIN

PROTECTED = [route for route in ROUTES if route.scopes]


async def test_protected_routes_refuse_missing_credentials(api: Api) -> None:
    """Every protected route responds with 401 without a valid bearer token."""
    for route in PROTECTED:
        for headers in (
            {},
            {"Authorization": "Bearer sk_unknown"},
            {"Authorization": "Basic eDp5"},
            {"Authorization": "Bearer"},
        ):
            response = await api.call(route.method, fill_path(route.path), key=None, headers=headers)
            assert (response.status, response.body["code"]) == (401, "unauthenticated"), (route.path, headers)
            assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_every_route_refuses_credentials_without_its_scope(api: Api) -> None:
    """Every route responds with 403 to a valid credential that lacks its scope."""
    device = await api.register()
    path = f"/v1/applications/{api.parts.application['id']}/keys"
    keys = {"admin": ADMIN, REGISTER: api.publishable, DEVICE: device["device_token"]}
    for scope in ("send", "read", "manage"):
        keys[scope] = (await api.call_ok("POST", path, {"name": scope, "scopes": [scope]}, key=ADMIN))["key"]
    for route in PROTECTED:
        for scope, key in keys.items():
            if scope in route.scopes and route.path.endswith("/stream"):
                continue  # the response does not end
            response = await api.call(route.method, fill_path(route.path), key=key, origin=APP_ORIGIN)
            if scope not in route.scopes:
                assert (response.status, response.body["code"]) == (403, "forbidden"), (route.path, scope)
            else:
                assert response.status != 403, (route.path, scope, response.body)


@pytest.mark.parametrize(
    "origin", [None, "https://evil.example", APP_ORIGIN + ".evil.example", APP_ORIGIN + ":8443", "null"]
)
async def test_publishable_key_is_refused_from_other_origins(api: Api, origin: str | None) -> None:
    """A publishable key is refused unless the Origin header is one of the application's allowed origins."""
    response = await api.call("POST", "/v1/devices", api.device(), key=api.publishable, origin=origin)
    assert (response.status, response.body["code"]) == (403, "origin_not_allowed")
    assert (await api.rows())["devices"] == 0


async def test_cross_origin_preflight_allows_browser_routes(api: Api) -> None:
    """Pages of other origins may call the routes for browsers and read the response."""
    for route in ROUTES:
        if not route.browser:
            continue
        async with api.http.options(
            fill_path(route.path), headers={"Origin": APP_ORIGIN, "Access-Control-Request-Method": route.method}
        ) as preflight:
            assert preflight.status == 204, route.path
            assert preflight.headers["Access-Control-Allow-Origin"] == "*"
            assert route.method in preflight.headers["Access-Control-Allow-Methods"]
    response = await api.call("GET", "/v1/vapid-public-key", key=api.publishable, origin=APP_ORIGIN)
    assert response.body == {"vapid_public_key": api.parts.application["vapid_public_key"]}
    assert response.headers["Access-Control-Allow-Origin"] == "*"


async def test_removed_key_gets_401_on_the_next_request(api: Api) -> None:
    """The first request after the removal of an API key is refused."""
    path = f"/v1/applications/{api.parts.application['id']}/keys"
    api_key = await api.call_ok("POST", path, {"name": "temporary", "scopes": ["read"]}, key=ADMIN)
    assert (await api.call("GET", "/v1/devices", key=api_key["key"])).status == 200
    assert (await api.call("DELETE", f"{path}/{api_key['id']}", key=ADMIN)).status == 204
    assert (await api.call("GET", "/v1/devices", key=api_key["key"])).status == 401
    assert (await api.call("DELETE", f"{path}/{api_key['id']}", key=ADMIN)).status == 404


async def test_keys_are_returned_once_and_stored_hashed(api: Api) -> None:
    """Keys appear only in the response that creates them; the database holds digests."""
    application = await api.call_ok("GET", f"/v1/applications/{api.parts.application['id']}", key=ADMIN)
    stored = await api.parts.scalar("SELECT string_agg(api_keys::text, ' ') FROM api_keys")
    private_key_hex = await api.parts.scalar("SELECT encode(private_key, 'hex') FROM vapid_keys")
    for key in (api.secret, api.publishable):
        assert key not in str(application)
        assert key not in stored
        assert key.encode().hex() not in stored
    assert len(private_key_hex) > 2 * 32  # the ciphertext is longer than the 32 octets of the key


async def test_application_accepts_an_existing_vapid_key(api: Api) -> None:
    """An application may be created with a VAPID key pair that it already uses."""
    key = VapidKey.generate()
    request = {"name": "Moved", "subject": "mailto:ops@example.org"}
    private_key = encode_base64url(key.private_bytes())
    application = await api.call_ok("POST", "/v1/applications", request | {"vapid_private_key": private_key}, key=ADMIN)
    assert application["vapid_public_key"] == key.public_text
    assert private_key not in json.dumps(await api.call_ok("GET", "/v1/audit", key=ADMIN))
    for invalid_key, text in (
        (private_key[:-3], "must be 32 octets"),
        ("A" * 43, "is not a private key"),
        ("?", "base64url"),
    ):
        refused = await api.call("POST", "/v1/applications", request | {"vapid_private_key": invalid_key}, key=ADMIN)
        [error] = refused.body["errors"]
        assert (refused.status, error["pointer"]) == (422, "/vapid_private_key")
        assert text in error["detail"]


async def test_operator_lists_and_changes_applications(api: Api) -> None:
    """The operator creates, changes and pages through applications."""
    request = {
        "name": " Shop ",
        "subject": "https://shop.example/contact",
        "allowed_origins": ["HTTPS://Shop.example:443/"],
    }
    application = await api.call_ok("POST", "/v1/applications", request, key=ADMIN)
    assert (application["name"], application["allowed_origins"]) == ("Shop", ["https://shop.example"])
    path = f"/v1/applications/{application['id']}"
    changed = await api.call_ok("PATCH", path, {"name": "Store"}, key=ADMIN)
    assert (changed["name"], changed["subject"]) == ("Store", "https://shop.example/contact")
    page = await api.call_ok("GET", "/v1/applications?limit=1", key=ADMIN)
    second_page = await api.call_ok("GET", f"/v1/applications?cursor={page['next_cursor']}", key=ADMIN)
    assert [application["name"] for application in page["items"] + second_page["items"]] == ["Weather", "Store"]
    assert (await api.call("GET", "/v1/devices", key=ADMIN)).status == 403
