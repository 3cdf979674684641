"""What every answer tells browsers to keep from doing with it.

It is set as the headers are sent, so that no answer is without: not a stream, a file, an error, or one that nobody here
made.
"""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from urllib.parse import urlsplit

from aiohttp import web

# No page of ours runs, loads or asks for what is not ours, and no form of ours is sent anywhere but by our script.
PAGE = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data: https:",  # icons and images of notifications are wherever their authors say
        "worker-src 'self'",
        "manifest-src 'self'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)


def page_policy(map_tiles: str | None) -> str:
    """PAGE, and pictures from where maps get theirs: that may be a server without https beside this one."""
    if map_tiles is None:
        return PAGE
    server = urlsplit(map_tiles)
    return PAGE.replace("img-src 'self'", f"img-src 'self' {server.scheme}://{server.netloc}")


DATA = "default-src 'none'; frame-ancestors 'none'"
SCRIPTS = "/sdk/"
"""Other sites load these, and as a service worker they live by the policy that they come with."""

EVERY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Server": "gateway",  # and not which version of what
}
YEAR_S = 31_536_000
EXPOSED = "ETag, Location, Retry-After, X-Request-Id, Idempotency-Replayed, RateLimit, RateLimit-Policy"


def every(public_url: str | None) -> Mapping[str, str]:
    """What is on every answer. Browsers that came by https are told to come by nothing else."""
    if public_url is not None and public_url.startswith("https://"):
        return EVERY | {"Strict-Transport-Security": f"max-age={YEAR_S}"}
    return EVERY


def protect(headers: MutableMapping[str, str], path: str, always: Mapping[str, str]) -> None:
    headers.update(always)
    if path.startswith("/v1/"):
        headers.setdefault("Cache-Control", "private, no-cache" if "ETag" in headers else "no-store")
        # No cookie opens anything here: what a page may do it does with a key that it has to know.
        headers["Access-Control-Allow-Origin"] = "*"
        headers["Access-Control-Expose-Headers"] = EXPOSED
    if not path.startswith(SCRIPTS):
        headers.setdefault("Content-Security-Policy", DATA)
        headers.setdefault("Cross-Origin-Resource-Policy", "cross-origin" if path.startswith("/v1/") else "same-origin")


def protecting(public_url: str | None) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """For `on_response_prepare`."""
    always = every(public_url)

    async def prepared(request: web.Request, response: web.StreamResponse) -> None:
        protect(response.headers, request.path, always)

    return prepared
