"""Security headers of every response.

They are set when the headers are sent, so that no response lacks them: streams, files, errors, and the responses of
aiohttp itself.
"""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from urllib.parse import urlsplit

from aiohttp import web

# Pages load scripts, styles and data from this host only, and forms are submitted by scripts only.
PAGE = "; ".join(
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
    """Return PAGE, extended by the server of the map tiles, which may lack https."""
    if map_tiles is None:
        return PAGE
    server = urlsplit(map_tiles)
    return PAGE.replace("img-src 'self'", f"img-src 'self' {server.scheme}://{server.netloc}")


DATA = "default-src 'none'; frame-ancestors 'none'"
# Other sites load these scripts. A service worker takes its policy from the response, so they must have none.
SCRIPTS = "/sdk/"

COMMON_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Server": "gateway",  # aiohttp would send its name and version
}
HSTS_MAX_AGE_S = 31_536_000
EXPOSED = "ETag, Location, Retry-After, X-Request-Id, Idempotency-Replayed, RateLimit, RateLimit-Policy"


def common_headers(public_url: str | None) -> Mapping[str, str]:
    """Return the headers of every response; with an https URL they include Strict-Transport-Security."""
    if public_url is not None and public_url.startswith("https://"):
        return COMMON_HEADERS | {"Strict-Transport-Security": f"max-age={HSTS_MAX_AGE_S}"}
    return COMMON_HEADERS


def protect(headers: MutableMapping[str, str], path: str, always: Mapping[str, str]) -> None:
    """Add the security headers for a path to a response; `always` are those of `common_headers`."""
    headers.update(always)
    if path.startswith("/v1/"):
        headers.setdefault("Cache-Control", "private, no-cache" if "ETag" in headers else "no-store")
        # Cross-origin requests carry no cookie: a page needs a key, which it must know.
        headers["Access-Control-Allow-Origin"] = "*"
        headers["Access-Control-Expose-Headers"] = EXPOSED
    if not path.startswith(SCRIPTS):
        headers.setdefault("Content-Security-Policy", DATA)
        headers.setdefault("Cross-Origin-Resource-Policy", "cross-origin" if path.startswith("/v1/") else "same-origin")


def header_hook(public_url: str | None) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Return the function for `on_response_prepare` that adds the security headers."""
    always = common_headers(public_url)

    async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
        protect(response.headers, request.path, always)

    return add_headers
