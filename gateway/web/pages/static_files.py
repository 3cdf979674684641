"""Static files: the SDK, the console, the sample app and the OpenAPI document."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from gateway.web.http.security_headers import PAGE_POLICY, page_policy
from gateway.web.pages import docs

# Folder of the static files.
STATIC = Path(__file__).resolve().parents[2] / "static"

# Time for which browsers may cache a file.
CACHE_S = 3600
# Content types by suffix. The module `mimetypes` is not used, since its table depends on the machine, and browsers run
# a script only if its type is right.
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ts": "text/plain; charset=utf-8",
}


def add_routes(app: web.Application, openapi: bytes, map_tiles: str | None = None) -> None:
    """Add the routes of static files, of the documentation and of the OpenAPI document.

    `map_tiles` is the URL template of the console's map tiles, with {z}, {x} and {y}.
    """
    policies = {"console": page_policy(map_tiles)}

    async def document(_: web.Request) -> web.Response:
        return web.Response(body=openapi, content_type="application/json", charset="utf-8")

    async def settings(_: web.Request) -> web.Response:
        return web.json_response({"map_tiles": map_tiles}, headers={"Cache-Control": "no-cache"})

    app.router.add_get("/openapi.json", document)
    app.router.add_get("/console/settings.json", settings)
    app.router.add_get("/", _redirect("/console/"))
    docs.add_routes(app)
    for name in ("console", "sample", "docs"):
        app.router.add_get(f"/{name}", _redirect(f"/{name}/"))
        app.router.add_get(
            f"/{name}/{{file:[\\w./-]*}}",
            _files(STATIC / name, {"Content-Security-Policy": policies.get(name, PAGE_POLICY)}),
        )
    sdk_headers = {"Access-Control-Allow-Origin": "*", "Cache-Control": f"public, max-age={CACHE_S}"}
    app.router.add_get("/sdk/{file:[\\w.-]+}", _files(STATIC / "sdk", sdk_headers))


def _redirect(path: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def redirect(_: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": path})

    return redirect


def _files(folder: Path, headers: dict[str, str]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    paths = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}

    async def serve(request: web.Request) -> web.StreamResponse:
        path = request.match_info["file"] or "index.html"
        if path not in paths:
            raise web.HTTPNotFound
        file = folder / path
        content_type = {"Content-Type": TYPES.get(file.suffix, "application/octet-stream")}
        return web.FileResponse(file, headers={"Cache-Control": "no-cache"} | headers | content_type)

    return serve
