"""Which endpoints this gateway may post to.

An endpoint comes from a web page, so without a policy anyone could make the gateway post into the operator's
network. Hosts are matched as names, never by a regular expression or after resolving them, and the accepted
form is narrow enough that no two URL parsers can read it differently.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from gateway.domain.errors import EndpointNotAllowed

VENDORS = {
    "fcm.googleapis.com": "FCM",
    "updates.push.services.mozilla.com": "Mozilla",
    "web.push.apple.com": "Apple",
    "*.push.apple.com": "Apple",
    "*.notify.windows.com": "WNS",
}
MAX_LENGTH = 2048
_REMEMBERED = 10_000

# The characters of RFC 3986 and no others: no space, control character, backslash, quote, bracket or brace.
_PATH_CHARACTERS = r"[A-Za-z0-9\-._~:/@!$&'()*+,;=%?]*"
_URL = re.compile(rf"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>/{_PATH_CHARACTERS})")
_REST = re.compile(_PATH_CHARACTERS)
_AUTHORITY = re.compile(r"(?P<host>[^:\[\]]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# What URL parsers take for an IPv4 address: a last label that is a number, decimal or hexadecimal (WHATWG URL 3.5).
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_DEFAULT_PORTS = {"https": 443, "http": 80}


class Endpoint(NamedTuple):
    """`url` is canonical: store this one. `origin` is VAPID's `aud`; `host` names the push service in log and metrics,
    with the port when it is not the default one."""

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


class EndpointPolicy:
    """The four vendors' hosts, and what the operator adds.

    An addition is `push.example.org`, `*.example.org` (any name below it, not itself), or a whole origin such as
    `http://127.0.0.1:9090`, which allows exactly that origin, plain http and loopback included.
    Raises ValueError naming the first addition that is none of these.
    """

    def __init__(self, extra: Iterable[str] = ()) -> None:
        self._hosts: set[str] = set()
        self._suffixes: tuple[str, ...] = ()
        self._origins: set[str] = set()
        for entry in (*VENDORS, *extra):
            self._allow(entry.strip())
        self._known: dict[str, tuple[str, str]] = {}

    def check(self, endpoint: str) -> Endpoint:
        """The endpoint in canonical form. Raises EndpointNotAllowed, which says why but never repeats the endpoint."""
        if len(endpoint) > MAX_LENGTH:
            raise EndpointNotAllowed(f"the endpoint is longer than {MAX_LENGTH} characters")
        found = _URL.fullmatch(endpoint)
        if found is None:
            raise EndpointNotAllowed(_malformation(endpoint))
        scheme, authority, path = found.groups()
        asked = f"{scheme}://{authority}"
        known = self._known.get(asked)
        if known is None:
            server = self._admit(scheme.lower(), authority)
            known = (server.origin, server.host)
            if len(self._known) < _REMEMBERED:
                self._known[asked] = known
        return Endpoint(known[0] + path, *known)

    def check_again(self, endpoint: str) -> str:
        """The origin of an endpoint that was canonical when it was stored. Raises EndpointNotAllowed."""
        end = endpoint.find("/", 8)
        origin = endpoint[:end]
        if origin not in self._known or end < 0 or not _REST.fullmatch(endpoint, end) or len(endpoint) > MAX_LENGTH:
            return self.check(endpoint).origin
        return origin

    def only_by_suffix(self, origin: str) -> bool:
        """Whether this origin, which is allowed, is so only as one of many that a `*.suffix` allows."""
        return origin not in self._origins and origin.partition("://")[2] not in self._hosts

    def _admit(self, scheme: str, authority: str) -> _Server:
        server = _parse_server(scheme, authority)
        if server.origin in self._origins:
            return server
        if scheme != "https":
            raise EndpointNotAllowed("the endpoint must be an https: address")
        if fault := _name_fault(server.name):
            raise EndpointNotAllowed(fault)
        if server.name not in self._hosts and not server.name.endswith(self._suffixes):
            raise EndpointNotAllowed(f"{server.name} is not among the push services this gateway may call")
        if server.port != 443:
            raise EndpointNotAllowed(f"the endpoint's port must be 443, not {server.port}")
        return server

    def _allow(self, entry: str) -> None:
        if "://" in entry:
            scheme, _, authority = entry.lower().partition("://")
            try:
                self._origins.add(_parse_server(scheme, authority.removesuffix("/")).origin)
            except EndpointNotAllowed as refusal:
                raise ValueError(f"push host {entry!r}: {refusal.detail}") from None
            return
        name = entry.lower().removeprefix("*.")
        if fault := _name_fault(name):
            raise ValueError(f"push host {entry!r} is neither a host name, *.suffix nor an origin: {fault}")
        if not entry.startswith("*."):
            self._hosts.add(name)
        elif "." in name:
            self._suffixes += (f".{name}",)
        else:
            raise ValueError(f"push host {entry!r} would allow a whole top-level domain")


@lru_cache(maxsize=_REMEMBERED)
def vendor(host: str) -> str:
    """What people call a push service: FCM, Mozilla, Apple, WNS, or the host itself."""
    for pattern, name in VENDORS.items():
        if host == pattern or (pattern[0] == "*" and host.endswith(pattern[1:])):
            return name
    return host


def _parse_server(scheme: str, authority: str) -> _Server:
    if scheme not in _DEFAULT_PORTS:
        raise EndpointNotAllowed("the address must begin with https://")
    if "@" in authority:
        raise EndpointNotAllowed("the address must not carry a user name or password")
    found = _AUTHORITY.fullmatch(authority.lower())
    if found is None:
        raise EndpointNotAllowed("the address names no host, or a malformed one")
    name = found["host"]
    if name[0] != "[" and not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise EndpointNotAllowed("the address's host is not a plain DNS name")
    port = int(found["port"] or _DEFAULT_PORTS[scheme])
    if not 0 < port < 65536:
        raise EndpointNotAllowed("the address's port is out of range")
    return _Server(scheme, name, port)


def _name_fault(name: str) -> str | None:
    labels = name.split(".")
    if name.startswith("[") or _NUMBER.fullmatch(labels[-1]):
        return "an IP address is not a push service's name"
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return "it is not a plain DNS name"
    return None


def _malformation(endpoint: str) -> str:
    if not endpoint.isascii() or not endpoint.isprintable() or set(endpoint) & set(' \\"<>^`{|}'):
        return "the endpoint holds characters that no URL may hold"
    if "://" not in endpoint:
        return "the endpoint is not an absolute URL"
    if "#" in endpoint:
        return "the endpoint must not have a fragment"
    return "the endpoint has no path, or a malformed one"
