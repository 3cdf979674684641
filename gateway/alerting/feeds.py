"""Read a feed of alerts: the alerts that it contains, or the URLs of the documents that contain them.

Each entry of an Atom (RFC 4287) or RSS 2.0 feed contains a CAP document or links to one. A feed may also be a CAP
document or NWS GeoJSON itself.
"""

import json
from dataclasses import dataclass, field
from urllib.parse import urljoin
from xml.etree.ElementTree import Element

from gateway.alerting import cap, nws
from gateway.alerting.text import RefusedAlert
from gateway.alerting.xml import child_text, children, local_name, parse
from gateway.domain.alert import AlertMessage
from gateway.domain.errors import MalformedBody

MAX_ENTRIES = 2000
CAP_TYPES = ("application/cap+xml", "application/common-alerting-protocol+xml")


@dataclass(frozen=True, slots=True)
class Entry:
    """A link to an alert document. `key` identifies the entry and its version: it changes with every update."""

    key: str
    url: str


@dataclass(frozen=True, slots=True)
class Feed:
    """The content of a feed: alerts, or entries that link to them."""

    alerts: list[AlertMessage | RefusedAlert] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)


def read(raw: bytes, url: str) -> Feed:
    """Read a feed that was fetched from `url`, against which its links are resolved.

    Raises:
        MalformedBody: the document is not a feed of alerts.
    """
    if raw.lstrip()[:1] in (b"{", b"["):
        return Feed(alerts=nws.read(_json(raw)))
    root = parse(raw)
    if alerts := cap.read_element(root):
        return Feed(alerts=alerts)
    match local_name(root):
        case "feed":
            entries = [_atom_entry(entry, url) for entry in children(root, "entry")]
        case "rss" | "RDF":
            entries = [_rss_entry(item, url) for item in root.iter() if local_name(item) == "item"]
        case name:
            raise MalformedBody(f"the feed is neither Atom, RSS, CAP nor GeoJSON; its root element is {name[:60]!r}")
    return Feed(entries=[entry for entry in entries if entry is not None][:MAX_ENTRIES])


def _atom_entry(entry: Element, base: str) -> Entry | None:
    links = [(link.get("type", ""), link.get("rel", "alternate"), link.get("href", "")) for link in entry.iter()
             if local_name(link) == "link"]  # fmt: skip
    links += [(content.get("type", ""), "content", content.get("src", "")) for content in children(entry, "content")]
    hrefs = [href for type_, _, href in links if href and type_ in CAP_TYPES]
    hrefs += [href for type_, _, href in links if href and type_.endswith("xml")]
    hrefs += [href for _, rel, href in links if href and rel in ("alternate", "related")]
    return _entry(hrefs, base, child_text(entry, "id"), child_text(entry, "updated"))


def _rss_entry(item: Element, base: str) -> Entry | None:
    hrefs = [part.get("url", "") for part in children(item, "enclosure") if part.get("type", "").endswith("xml")]
    hrefs += [child_text(item, "link")]
    return _entry([href for href in hrefs if href], base, child_text(item, "guid"), child_text(item, "pubDate"))


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
        raise MalformedBody("the feed is not JSON") from None
