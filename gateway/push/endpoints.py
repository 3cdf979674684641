"""Endpoint policy: which push service hosts this gateway may post to, and the canonical form of each endpoint.

An endpoint comes from a web page. Without a policy, anyone could make the gateway send requests into the operator's
network. The host of an endpoint is compared with allowed names, as text. The accepted syntax is so narrow that all URL
parsers interpret it alike.

The endpoint identifies a device, so each endpoint has one canonical form. Otherwise a second registration with `?x=1`
would send every message twice to one browser. At the hosts of the four vendors only the paths of push endpoints are
allowed, since other paths belong to APIs.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote

from gateway.domain.errors import EndpointNotAllowed

VENDORS = {
    "fcm.googleapis.com": "FCM",
    "updates.push.services.mozilla.com": "Mozilla",
    "web.push.apple.com": "Apple",
    "*.push.apple.com": "Apple",
    "*.notify.windows.com": "WNS",
}
MAX_ENDPOINT_LENGTH = 2048
_MAX_CACHED_ORIGINS = 10_000

# The characters that RFC 3986 allows in a path and query. Spaces, control characters, backslashes, quotes, brackets and
# braces are not among them.
_PATH_CHARACTERS = r"[A-Za-z0-9\-._~:/@!$&'()*+,;=%?]*"
_URL = re.compile(rf"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>/{_PATH_CHARACTERS})")
_REST = re.compile(_PATH_CHARACTERS)
_AUTHORITY = re.compile(r"(?P<host>[^:\[\]]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# URL parsers read a host as an IPv4 address if its last label is a decimal or hexadecimal number (WHATWG URL 3.5).
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_DEFAULT_PORTS = {"https": 443, "http": 80}

# A token of an endpoint, decoded. It is one path segment and no dot segment.
_SEGMENT = r"(?!\.{1,2}$)[A-Za-z0-9:._~=-]+"
# The canonical paths of each vendor's endpoints.
_PATHS = {
    "FCM": re.compile(rf"/(fcm/send|wp)/{_SEGMENT}"),
    "Mozilla": re.compile(rf"/wpush/v[12]/{_SEGMENT}"),
    "Apple": re.compile(rf"/{_SEGMENT}"),
    "WNS": re.compile(r"/w/\?token=([A-Za-z0-9._~-]|%2b|%2f|%3d)+"),
}
# Vendors whose paths are recognised at hosts of other names, such as a self-hosted autopush. A path of Apple has no
# form by which it could be recognised.
_RECOGNISED = ("FCM", "Mozilla", "WNS")
_WNS_QUERY = re.compile(r"(?:.*&)?token=(?P<token>[^&]+)(?:&.*)?")
# Chromium hands out endpoints at this host for subscriptions that it has removed.
REMOVED_HOST = "permanently-removed.invalid"


class Endpoint(NamedTuple):
    """A checked endpoint.

    `url` is the canonical form, in which endpoints are stored. `origin` is the audience (`aud`) of VAPID tokens. `host`
    names the push service in the log and metrics, with the port if it is not the default.
    """

    url: str
    origin: str
    host: str


class _Server(NamedTuple):
    scheme: str
    name: str
    port: int

    @property
    def host(self) -> str:
        return self.name if self.port == _DEFAULT_PORTS[self.scheme] else f"{self.name}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.host}"


# The hosts and suffixes that endpoint policies name, which is what operators configure.
_named_hosts: set[str] = set()
_named_suffixes: set[str] = set()


class EndpointPolicy:
    """Allows the push services of the four vendors, and those that the operator adds.

    An addition is a host (`push.example.org`), a wildcard for all names below a domain (`*.example.org`), or an origin.
    An added origin may have plain http and a loopback address, such as `http://127.0.0.1:9090`.

    Raises:
        ValueError: an addition has none of these forms; the message contains it.
    """

    def __init__(self, extra: Iterable[str] = ()) -> None:
        """Parse the additions."""
        self._hosts: set[str] = set()
        self._suffixes: tuple[str, ...] = ()
        self._origins: set[str] = set()
        for entry in (*VENDORS, *extra):
            self._add_entry(entry.strip())
        self._cached_origins: dict[str, tuple[str, str, str | None]] = {}
        _named_hosts.update(self._hosts, (origin.partition("://")[2] for origin in self._origins))
        _named_suffixes.update(self._suffixes)

    def check(self, endpoint: str) -> Endpoint:
        """Return the endpoint in canonical form.

        Raises:
            EndpointNotAllowed: the message says why and never contains the endpoint.
        """
        if len(endpoint) > MAX_ENDPOINT_LENGTH:
            raise EndpointNotAllowed(f"the endpoint is longer than {MAX_ENDPOINT_LENGTH} characters")
        match = _URL.fullmatch(endpoint)
        if match is None:
            raise EndpointNotAllowed(_describe_malformed(endpoint))
        scheme, authority, path = match.groups()
        authority_part = f"{scheme}://{authority}"
        cached = self._cached_origins.get(authority_part)
        if cached is None:
            server = self._check_server(scheme.lower(), authority)
            name = vendor_name(server.name)
            cached = (server.origin, server.host, name if name in _PATHS else None)
            if len(self._cached_origins) < _MAX_CACHED_ORIGINS:
                self._cached_origins[authority_part] = cached
        origin, host, vendor = cached
        return Endpoint(origin + canonical_path(vendor, path), origin, host)

    def check_stored(self, endpoint: str) -> str:
        """Return the origin of a stored (canonical) endpoint.

        Raises:
            EndpointNotAllowed: the policy no longer allows it.
        """
        end = endpoint.find("/", 8)
        origin = endpoint[:end]
        cached = self._cached_origins.get(origin)
        if cached is None or end < 0 or len(endpoint) > MAX_ENDPOINT_LENGTH:
            return self.check(endpoint).origin
        pattern = _REST if cached[2] is None else _PATHS[cached[2]]
        return origin if pattern.fullmatch(endpoint, end) else self.check(endpoint).origin

    def is_wildcard_only(self, origin: str) -> bool:
        """Return whether only a `*.suffix` entry allows this origin. The origin must be allowed."""
        return origin not in self._origins and origin.partition("://")[2] not in self._hosts

    def _check_server(self, scheme: str, authority: str) -> _Server:
        server = _parse_server(scheme, authority)
        if server.name == REMOVED_HOST:
            raise EndpointNotAllowed("the browser has removed this subscription; it must subscribe again")
        if server.origin in self._origins:
            return server
        if scheme != "https":
            raise EndpointNotAllowed("the endpoint must be an https: URL")
        if message := _name_error(server.name):
            raise EndpointNotAllowed(message)
        if server.name not in self._hosts and not server.name.endswith(self._suffixes):
            raise EndpointNotAllowed(f"{server.name} is not among the push services this gateway may call")
        if server.port != 443:
            raise EndpointNotAllowed(f"the endpoint's port must be 443, not {server.port}")
        return server

    def _add_entry(self, entry: str) -> None:
        if "://" in entry:
            scheme, _, authority = entry.lower().partition("://")
            try:
                self._origins.add(_parse_server(scheme, authority.removesuffix("/")).origin)
            except EndpointNotAllowed as error:
                raise ValueError(f"push host {entry!r}: {error.detail}") from None
            return
        name = entry.lower().removeprefix("*.")
        if message := _name_error(name):
            raise ValueError(f"push host {entry!r} is neither a host name, *.suffix nor an origin: {message}")
        if not entry.startswith("*."):
            self._hosts.add(name)
        elif "." in name:
            self._suffixes += (f".{name}",)
        else:
            raise ValueError(f"push host {entry!r} would allow a whole top-level domain")


def canonical_path(vendor: str | None, path: str) -> str:
    """Return the canonical form of the path and query of an endpoint.

    At WNS the query contains the token; endpoints of the other vendors have no query. At other push services
    (UnifiedPush) the query may be part of the endpoint, unless the path has the form of a vendor.

    Args:
        vendor: FCM, Mozilla, Apple, WNS, or None for other push services.
        path: the path with its query.

    Raises:
        EndpointNotAllowed: the vendor has no endpoints at this path.
    """
    base, _, query = path.partition("?")
    token_in_query = _WNS_QUERY.fullmatch(query)
    forms = {name: unquote(base) for name in ("FCM", "Mozilla", "Apple")}
    if token_in_query is not None:
        forms["WNS"] = f"{base}?token={_quote_lower(unquote(token_in_query['token']))}"
    for name in _RECOGNISED if vendor is None else (vendor,):
        if name in forms and _PATHS[name].fullmatch(forms[name]):
            return forms[name]
    if vendor is None:
        return path
    raise EndpointNotAllowed(f"{vendor} has no push endpoints at this path")


def _quote_lower(token: str) -> str:
    """Percent-encode a token as WNS does, with lower-case digits."""
    return re.sub("%..", lambda escape: escape[0].lower(), quote(token, safe=""))


@lru_cache(maxsize=_MAX_CACHED_ORIGINS)
def vendor_name(host: str) -> str:
    """Return the vendor of a push service (FCM, Mozilla, Apple, WNS), or the host itself."""
    for pattern, name in VENDORS.items():
        if host == pattern or (pattern[0] == "*" and host.endswith(pattern[1:])):
            return name
    return host


def service_label(host: str) -> str:
    """Return the label of a push service in metrics: its vendor, its host if a policy names it, or else a pattern.

    A wildcard allows any number of hosts, which a stranger may invent, so they share the wildcard's label
    (`*.example.org`).
    """
    name = vendor_name(host)
    if name != host or host in _named_hosts:
        return name
    return next((f"*{suffix}" for suffix in sorted(_named_suffixes) if host.endswith(suffix)), "other")


def _parse_server(scheme: str, authority: str) -> _Server:
    if scheme not in _DEFAULT_PORTS:
        raise EndpointNotAllowed("the URL must begin with https://")
    if "@" in authority:
        raise EndpointNotAllowed("the URL must not contain a user name or password")
    match = _AUTHORITY.fullmatch(authority.lower())
    if match is None:
        raise EndpointNotAllowed("the URL has no host, or a malformed one")
    name = match["host"]
    if name[0] != "[" and not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise EndpointNotAllowed("the host of the URL is not a plain DNS name")
    port = int(match["port"] or _DEFAULT_PORTS[scheme])
    if not 0 < port < 65536:
        raise EndpointNotAllowed("the port of the URL is out of range")
    return _Server(scheme, name, port)


def _name_error(name: str) -> str | None:
    labels = name.split(".")
    if name.startswith("[") or _NUMBER.fullmatch(labels[-1]):
        return "an IP address is not allowed as a push service"
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return "not a plain DNS name"
    return None


def _describe_malformed(endpoint: str) -> str:
    if not endpoint.isascii() or not endpoint.isprintable() or set(endpoint) & set(' \\"<>^`{|}'):
        return "the endpoint contains characters that are not valid in a URL"
    if "://" not in endpoint:
        return "the endpoint is not an absolute URL"
    if "#" in endpoint:
        return "the endpoint must not have a fragment"
    return "the endpoint has no path, or a malformed one"
