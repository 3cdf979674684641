"""Read a feed of alerts: the alerts it contains, or the URLs of the documents that contain them.

Atom (RFC 4287) and RSS 2.0 feeds link to a CAP document in each entry, or contain it. Other feeds are CAP or NWS
GeoJSON themselves.
"""

import json
from dataclasses import dataclass, field
from urllib.parse import urljoin
from xml.etree.ElementTree import Element

from gateway.alerting import cap, nws
from gateway.alerting.text import RefusedAlert
from gateway.alerting.xml import children, local_name, parse, text_of
from gateway.domain.alert import AlertMessage
from gateway.domain.errors import MalformedBody

MAX_ENTRIES = 2000
CAP_TYPES = ("application/cap+xml", "application/common-alerting-protocol+xml")


@dataclass(frozen=True, slots=True)
class Entry:
    """A link to an alert document; `key` changes when the entry is updated."""

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
        MalformedBody: the document is no feed of alerts.
    """
    if raw.lstrip()[:1] in (b"{", b"["):
        return Feed(alerts=nws.read(_json(raw)))
    root = parse(raw)
    if alerts := cap.alerts_in(root):
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
    return _entry(hrefs, base, text_of(entry, "id"), text_of(entry, "updated"))


def _rss_entry(item: Element, base: str) -> Entry | None:
    hrefs = [part.get("url", "") for part in children(item, "enclosure") if part.get("type", "").endswith("xml")]
    hrefs += [text_of(item, "link")]
    return _entry([href for href in hrefs if href], base, text_of(item, "guid"), text_of(item, "pubDate"))


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
