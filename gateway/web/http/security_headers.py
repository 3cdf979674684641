"""Security headers of every response.

A hook adds them just before the headers are sent. So every response has them: also streams, files, errors, and the
responses of aiohttp itself.
"""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from urllib.parse import urlsplit

from aiohttp import web

# Content-Security-Policy of pages. They load scripts, styles and data from this host only. Forms are not submitted by
# the browser, only by scripts.
PAGE_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data: https:",  # icons and images of notifications may be on any host
        "worker-src 'self'",
        "manifest-src 'self'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)


def page_policy(map_tiles: str | None) -> str:
    """Return PAGE_POLICY, extended by the server of the map tiles, whose URL may be http."""
    if map_tiles is None:
        return PAGE_POLICY
    server = urlsplit(map_tiles)
    return PAGE_POLICY.replace("img-src 'self'", f"img-src 'self' {server.scheme}://{server.netloc}")


# Content-Security-Policy of all other responses.
DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"
# Path prefix of the scripts for other sites. They have no Content-Security-Policy: a service worker would apply it to
# the site.
SDK_PREFIX = "/sdk/"

# Headers of every response.
COMMON_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Server": "gateway",  # aiohttp would send its name and version
}
# Time for which browsers use only https after a response with Strict-Transport-Security: one year.
HSTS_MAX_AGE_S = 31_536_000
# The response headers that scripts of other origins may read (CORS).
EXPOSED_HEADERS = "ETag, Location, Retry-After, X-Request-Id, Idempotency-Replayed, RateLimit, RateLimit-Policy"


def common_headers(public_url: str | None) -> Mapping[str, str]:
    """Return the headers of every response. With an https URL they include Strict-Transport-Security."""
    if public_url is not None and public_url.startswith("https://"):
        return COMMON_HEADERS | {"Strict-Transport-Security": f"max-age={HSTS_MAX_AGE_S}"}
    return COMMON_HEADERS


def add_security_headers(headers: MutableMapping[str, str], path: str, common: Mapping[str, str]) -> None:
    """Add the security headers for a path to the headers of a response; `common` is the result of `common_headers`."""
    headers.update(common)
    if path.startswith("/v1/"):
        headers.setdefault("Cache-Control", "private, no-cache" if "ETag" in headers else "no-store")
        # Any origin is allowed: browsers send no cookie with such a request, so a page can only use a key that it has.
        headers["Access-Control-Allow-Origin"] = "*"
        headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
    if not path.startswith(SDK_PREFIX):
        headers.setdefault("Content-Security-Policy", DATA_POLICY)
        headers.setdefault("Cross-Origin-Resource-Policy", "cross-origin" if path.startswith("/v1/") else "same-origin")


def header_hook(public_url: str | None) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Return a function for aiohttp's signal `on_response_prepare` that adds the security headers."""
    common = common_headers(public_url)

    async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
        add_security_headers(response.headers, request.path, common)

    return add_headers
