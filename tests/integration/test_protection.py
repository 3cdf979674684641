"""Security headers on every response, and a content security policy that allows only the gateway's own scripts."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from gateway.web.http.security_headers import PAGE_POLICY
from gateway.web.pages import static_files
from gateway.web.server import ROUTES, build
from tests.support.api import Api, fill_path, serve_api
from tests.support.gateway_parts import APP_ORIGIN

EXPECTED_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Strict-Transport-Security": "max-age=31536000",
    "Server": "gateway",
}
HTML_FILES = sorted(static_files.STATIC.rglob("*.html"))


async def test_every_response_has_security_headers(api: Api) -> None:
    """Every response has the security headers."""
    requests = [(route.method, fill_path(route.path)) for route in ROUTES]
    requests += [(method, "/v1/nothing") for method in ("GET", "POST", "DELETE", "PUT")]
    requests += [
        ("GET", path) for path in ("/", "/console", "/console/", "/docs/", "/sample/", "/openapi.json", "/nothing")
    ]
    requests += [("GET", path) for path in ("/console/console.js", "/sdk/webpush.js", "/sdk/nothing.js", "/.env")]
    requests += [("OPTIONS", "/v1/devices"), ("OPTIONS", "/v1/applications"), ("HEAD", "/console/")]
    for method, path in requests:
        async with api.http.request(method, path, allow_redirects=False) as response:
            assert EXPECTED_HEADERS.items() <= response.headers.items(), (method, path, response.status)
            assert len(response.headers["X-Request-Id"]) == 32, (method, path)
            if not path.startswith("/sdk/"):
                assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"], (method, path)
            if path.startswith("/v1/"):
                assert "no-" in response.headers["Cache-Control"], (method, path)


async def test_streams_and_successes_have_security_headers(api: Api) -> None:
    """Streams and successful responses have the security headers as well."""
    authorization = {"Authorization": f"Bearer {api.secret}"}
    for path in ("/v1/deliveries/stream", "/v1/devices"):
        async with api.http.get(path, headers=authorization) as response:
            assert response.status == 200
            assert EXPECTED_HEADERS.items() <= response.headers.items(), path
            assert response.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"


async def test_hsts_is_absent_without_https(api: Api) -> None:
    """Without HTTPS there is no Strict-Transport-Security header."""
    api.parts.context = replace(api.parts.context, public_url="http://127.0.0.1:8080")
    async with serve_api(api.parts) as insecure, insecure.http.get("/console/") as response:
        assert "Strict-Transport-Security" not in response.headers


async def test_no_response_allows_credentialed_requests(api: Api) -> None:
    """No response lets pages of other origins use cookies."""
    for route in ROUTES:
        async with api.http.request(route.method, fill_path(route.path), headers={"Origin": APP_ORIGIN}) as response:
            assert "Access-Control-Allow-Credentials" not in response.headers, route.path
            allowed_origin = response.headers.get("Access-Control-Allow-Origin")
            assert allowed_origin == ("*" if route.path.startswith("/v1/") else None), route.path


def test_page_policy_allows_only_own_files() -> None:
    """The policy of pages allows scripts, styles, connections and workers from the gateway only."""
    sources = dict(directive.split(" ", 1) for directive in PAGE_POLICY.split("; "))
    assert sources["default-src"] == "'none'"
    assert {sources[name] for name in ("script-src", "style-src", "connect-src", "worker-src")} == {"'self'"}
    assert {sources[name] for name in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}


async def test_only_the_console_may_load_map_tiles(api: Api) -> None:
    """Only the console may load images from the configured tile server."""
    api.state.map_tiles = "http://127.0.0.1:9000/{z}/{x}/{y}.png"
    app = build(api.state)
    async with TestClient(TestServer(app)) as client:
        policies = {
            name: (await client.get(f"/{name}/")).headers["Content-Security-Policy"] for name in ("console", "sample")
        }
        settings = await (await client.get("/console/settings.json")).json()
    assert "img-src 'self' http://127.0.0.1:9000 data: https:" in policies["console"]
    assert policies["console"].replace(" http://127.0.0.1:9000", "") == policies["sample"] == PAGE_POLICY
    assert settings == {"map_tiles": "http://127.0.0.1:9000/{z}/{x}/{y}.png"}


@pytest.mark.parametrize("page", HTML_FILES, ids=lambda page: page.parent.name)
def test_pages_comply_with_the_policy(page: Path) -> None:
    """The HTML files have no inline scripts, handlers or styles and load no files of other hosts."""
    text = page.read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|<style|javascript:", text)
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", text)
