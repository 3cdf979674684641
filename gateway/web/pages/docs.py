"""The documentation at `/docs/`: pages in Markdown, and tables of what the code itself knows.

A page says `{{errors}}` where the table of refusals comes, so that no fact of the code is written down a second time.
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

import gateway.metrics  # noqa: F401 - makes them known to the registry
from gateway.domain.errors import GatewayError
from gateway.web.http.security_headers import PAGE

FOLDER = Path(__file__).resolve().parents[2] / "static" / "docs"
# In the order in which a newcomer reads them; the first is the front page.
PAGES = (
    *("start", "tutorial", "sdk", "sending", "campaigns", "alerts", "events", "webhooks", "recipes", "moving"),
    *("errors", "metrics", "comparison"),
)
# Pages link to each other as files, so that the links also work in the repository.
PAGE_LINK = re.compile(rf"^({'|'.join(PAGES)})\.md(?=#|$)")
HEADERS = {"Content-Security-Policy": PAGE, "Cache-Control": "no-cache"}


# Of the series, as queries name them.
SUFFIXES = {"counter": "_total", "info": "_info"}


class Page(NamedTuple):
    title: str
    html: str


def add(app: web.Application) -> None:
    app.router.add_get("/docs/", _front)
    app.router.add_get(f"/docs/{{name:{'|'.join(PAGES)}}}", _page)
    app.router.add_get("/docs/api", _reference)


async def _front(_: web.Request) -> web.Response:
    return _answer(PAGES[0])


async def _page(request: web.Request) -> web.Response:
    return _answer(request.match_info["name"])


async def _reference(_: web.Request) -> web.StreamResponse:
    return web.FileResponse(FOLDER / "api.html", headers=HEADERS)


def _answer(name: str) -> web.Response:
    return web.Response(text=whole(name), content_type="text/html", charset="utf-8", headers=HEADERS)


@cache
def whole(name: str) -> str:
    """The page's HTML document."""
    shown = page(name)
    template = (FOLDER / "page.html").read_text("utf-8")
    for mark, html in (("title", escape(shown.title)), ("contents", _contents(name)), ("page", shown.html)):
        template = template.replace(f"{{{{{mark}}}}}", html)
    return template


@cache
def page(name: str) -> Page:
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
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


def _contents(here: str) -> str:
    links = [(f"/docs/{name if name != PAGES[0] else ''}", page(name).title, name == here) for name in PAGES]
    links.insert(PAGES.index("errors"), ("/docs/api", "API reference", False))
    return "".join(
        f'<a href="{path}"{" aria-current=page" if current else ""}>{escape(title)}</a>'
        for path, title, current in links
    )


def _errors() -> Iterator[str]:
    yield "<table><thead><tr><th>code</th><th>status</th><th>what it means</th></tr></thead><tbody>"
    for refusal in sorted(_refusals(GatewayError), key=lambda one: (one.status, one.code)):
        why = MarkdownIt().renderInline((refusal.__doc__ or "").strip())
        said = escape(refusal.title) + (f"<br>{why}" if why else "")
        yield f'<tr id="{refusal.code}"><td><code>{refusal.code}</code></td><td>{refusal.status}</td>'
        yield f"<td>{said}</td></tr>"
    yield "</tbody></table>"


def _refusals(kind: type[GatewayError]) -> Iterator[type[GatewayError]]:
    for below in kind.__subclasses__():
        yield below
        yield from _refusals(below)


def _metrics() -> Iterator[str]:
    yield "<table><thead><tr><th>metric</th><th>type</th><th>what it measures</th></tr></thead><tbody>"
    for family in sorted(REGISTRY.collect(), key=lambda one: one.name):
        if family.name.startswith("gateway_"):
            name = family.name + SUFFIXES.get(family.type, "")
            yield f"<tr><td><code>{name}</code></td><td>{family.type}</td><td>{escape(family.documentation)}</td></tr>"
    yield "</tbody></table>"


TABLES = {"errors": _errors, "metrics": _metrics}
