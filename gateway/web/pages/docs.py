"""The documentation at `/docs/`: pages in Markdown, with tables that are generated from the code.

A mark such as `{{errors}}` in a page is replaced by the table of that name (`TABLES`).
"""

import re
from collections.abc import Iterator
from functools import cache
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from aiohttp import web
from markdown_it import MarkdownIt
from prometheus_client import REGISTRY

import gateway.metrics  # noqa: F401 - registers the metrics
from gateway.domain.errors import GatewayError
from gateway.web.http.security_headers import PAGE_POLICY

# Folder of the pages in Markdown.
FOLDER = Path(__file__).resolve().parents[2] / "static" / "docs"
# The pages in reading order. The first is the front page.
PAGES = (
    *("start", "tutorial", "sdk", "sending", "campaigns", "alerts", "events", "webhooks", "recipes", "moving"),
    *("errors", "metrics", "comparison"),
)
# A link from one page to another. Pages link to files, so that the links also work in the repository.
PAGE_LINK = re.compile(rf"^({'|'.join(PAGES)})\.md(?=#|$)")
# The headers of a documentation page.
HEADERS = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-cache"}
# The suffixes that the Prometheus client appends to a metric's name, by type.
SUFFIXES = {"counter": "_total", "info": "_info"}


class Page(NamedTuple):
    """A rendered page."""

    title: str
    html: str


def add_routes(app: web.Application) -> None:
    """Add the routes of the documentation to the application."""
    app.router.add_get("/docs/", _front_page)
    app.router.add_get(f"/docs/{{name:{'|'.join(PAGES)}}}", _page)
    app.router.add_get("/docs/api", _reference)


async def _front_page(_: web.Request) -> web.Response:
    return _answer(PAGES[0])


async def _page(request: web.Request) -> web.Response:
    return _answer(request.match_info["name"])


async def _reference(_: web.Request) -> web.StreamResponse:
    return web.FileResponse(FOLDER / "api.html", headers=HEADERS)


def _answer(name: str) -> web.Response:
    return web.Response(text=document(name), content_type="text/html", charset="utf-8", headers=HEADERS)


@cache
def document(name: str) -> str:
    """Return a page as an HTML document."""
    rendered = page(name)
    template = (FOLDER / "page.html").read_text("utf-8")
    for mark, html in (("title", escape(rendered.title)), ("contents", _contents(name)), ("page", rendered.html)):
        template = template.replace(f"{{{{{mark}}}}}", html)
    return template


@cache
def page(name: str) -> Page:
    """Render a page, without the surrounding document."""
    source = (FOLDER / f"{name}.md").read_text("utf-8")
    markdown = MarkdownIt("commonmark").enable("table")
    tokens = markdown.parse(source)
    title = ""
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open":
            title = title or inline.content
            opening.attrSet("id", slug(inline.content))
    for link in (part for token in tokens for part in token.children or () if part.type == "link_open"):
        link.attrSet("href", PAGE_LINK.sub(_served_path, str(link.attrGet("href"))))
    html = markdown.renderer.render(tokens, markdown.options, {})
    for mark, table in TABLES.items():
        html = html.replace(f"<p>{{{{{mark}}}}}</p>", "".join(table())) if f"{{{{{mark}}}}}" in html else html
    return Page(title, html.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>"))


def _served_path(link: re.Match[str]) -> str:
    """Return the path at which a linked page is served."""
    return f"/docs/{link[1] if link[1] != PAGES[0] else ''}"


def slug(heading: str) -> str:
    """Return the fragment identifier of a heading."""
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


def _contents(current_page: str) -> str:
    links = [(f"/docs/{name if name != PAGES[0] else ''}", page(name).title, name == current_page) for name in PAGES]
    links.insert(PAGES.index("errors"), ("/docs/api", "API reference", False))
    return "".join(
        f'<a href="{path}"{" aria-current=page" if current else ""}>{escape(title)}</a>'
        for path, title, current in links
    )


def _errors() -> Iterator[str]:
    yield "<table><thead><tr><th>code</th><th>status</th><th>meaning</th></tr></thead><tbody>"
    for error in sorted(_error_types(GatewayError), key=lambda error: (error.status, error.code)):
        explanation = MarkdownIt().renderInline((error.__doc__ or "").strip())
        description = escape(error.title) + (f"<br>{explanation}" if explanation else "")
        yield f'<tr id="{error.code}"><td><code>{error.code}</code></td><td>{error.status}</td>'
        yield f"<td>{description}</td></tr>"
    yield "</tbody></table>"


def _error_types(base: type[GatewayError]) -> Iterator[type[GatewayError]]:
    for error in base.__subclasses__():
        yield error
        yield from _error_types(error)


def _metrics() -> Iterator[str]:
    yield "<table><thead><tr><th>metric</th><th>type</th><th>description</th></tr></thead><tbody>"
    for family in sorted(REGISTRY.collect(), key=lambda family: family.name):
        if family.name.startswith("gateway_"):
            name = family.name + SUFFIXES.get(family.type, "")
            yield f"<tr><td><code>{name}</code></td><td>{family.type}</td><td>{escape(family.documentation)}</td></tr>"
    yield "</tbody></table>"


# The functions that generate the tables, by name of the table.
TABLES = {"errors": _errors, "metrics": _metrics}
