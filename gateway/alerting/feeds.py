"""Read what a feed of alerts gives: alerts themselves, or the addresses of documents that hold them.

Atom (RFC 4287) and RSS 2.0 feeds name a CAP document by entry, or hold it; others are CAP or NWS GeoJSON outright.
"""

import json
from dataclasses import dataclass, field
from urllib.parse import urljoin
from xml.etree.ElementTree import Element

from gateway.alerting import cap, nws
from gateway.alerting.text import Refused
from gateway.alerting.xml import children, local, parsed, text_of
from gateway.domain.alert import AlertMessage
from gateway.domain.errors import MalformedBody

MAX_ENTRIES = 2000
CAP_TYPES = ("application/cap+xml", "application/common-alerting-protocol+xml")


@dataclass(frozen=True, slots=True)
class Entry:
    """`key` changes when the entry does."""

    key: str
    url: str


@dataclass(frozen=True, slots=True)
class Feed:
    alerts: list[AlertMessage | Refused] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)


def read(raw: bytes, url: str) -> Feed:
    """`url` is where it came from. Raises MalformedBody for what is no feed of alerts."""
    if raw.lstrip()[:1] in (b"{", b"["):
        return Feed(alerts=nws.read(_json(raw)))
    root = parsed(raw)
    if alerts := cap.alerts_in(root):
        return Feed(alerts=alerts)
    match local(root):
        case "feed":
            found = [_atom(entry, url) for entry in children(root, "entry")]
        case "rss" | "RDF":
            found = [_rss(item, url) for item in root.iter() if local(item) == "item"]
        case name:
            raise MalformedBody(f"it is neither Atom, RSS, CAP nor GeoJSON; its root element is {name[:60]!r}")
    return Feed(entries=[entry for entry in found if entry is not None][:MAX_ENTRIES])


def _atom(entry: Element, base: str) -> Entry | None:
    links = [(link.get("type", ""), link.get("rel", "alternate"), link.get("href", "")) for link in entry.iter()
             if local(link) == "link"]  # fmt: skip
    links += [(content.get("type", ""), "content", content.get("src", "")) for content in children(entry, "content")]
    named = [href for type_, _, href in links if href and type_ in CAP_TYPES]
    named += [href for type_, _, href in links if href and type_.endswith("xml")]
    named += [href for _, rel, href in links if href and rel in ("alternate", "related")]
    return _entry(named, base, text_of(entry, "id"), text_of(entry, "updated"))


def _rss(item: Element, base: str) -> Entry | None:
    named = [part.get("url", "") for part in children(item, "enclosure") if part.get("type", "").endswith("xml")]
    named += [text_of(item, "link")]
    return _entry([url for url in named if url], base, text_of(item, "guid"), text_of(item, "pubDate"))


def _entry(urls: list[str], base: str, id_: str, updated: str) -> Entry | None:
    if not urls:
        return None
    try:
        url = urljoin(base, urls[0])
    except ValueError:
        return None
    return Entry("\n".join((id_ or url, updated, url))[:2000], url)


def _json(raw: bytes) -> object:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise MalformedBody("it is not JSON") from None
