"""Outbound policy: which URLs the gateway may request for its applications.

Any holder of an API key can configure webhooks and feeds. Their URLs must not give access to the operator's own
network. A URL is checked twice: its text before a request, and the addresses of its host after they are resolved; the
client connects only to checked addresses. The accepted syntax is so narrow that all URL parsers interpret it alike.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from gateway.domain.errors import AddressNotAllowed
from gateway.domain.public_addresses import NAT64, is_global

MAX_URL_LENGTH = 2048

# The syntax of RFC 3986 without a fragment. It excludes spaces, control characters, backslashes, quotes and braces.
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>[/?][A-Za-z0-9\-._~:/@!$&'()*+,;=%?\[\]]*)?"
)
_AUTHORITY = re.compile(r"(?P<host>[^:\[\]]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?")
# URL parsers read a host as an IPv4 address if its last label is a decimal or hexadecimal number (WHATWG URL 3.5).
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_DEFAULT_PORTS = {"https": 443, "http": 80}
# Other ports are refused: a request to one could reach a mail server or a database.
ALLOWED_PORTS = (443, 8443)
# Top-level names that do not exist on the public internet (RFC 6761, RFC 6762 with its appendix G, RFC 8375, RFC 9476,
# ICANN's `internal`).
_LOCAL_SUFFIXES = tuple(
    f".{name}"
    for name in (
        *("localhost", "local", "internal", "test", "invalid", "onion", "alt", "arpa"),
        *("intranet", "private", "corp", "home", "lan"),
    )
)


class OutboundServer(NamedTuple):
    """The scheme, host and port of a URL. An IPv6 address in `host` is in brackets."""

    scheme: str
    host: str
    port: int

    @property
    def origin(self) -> str:
        """Return the origin, with the port if it is not the default."""
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}"


class OutboundPolicy:
    """Allows https URLs of hosts on the public internet, and the origins that the operator adds.

    An added origin is allowed regardless of the addresses to which its host resolves. Examples are
    `http://127.0.0.1:9000` and `https://hooks.lan`.

    Raises:
        ValueError: an addition is not an origin; the message contains it.
    """

    def __init__(self, extra: Iterable[str] = ()) -> None:
        """Parse the added origins."""
        self._trusted: set[OutboundServer] = set()
        for entry in extra:
            scheme, _, authority = entry.strip().lower().partition("://")
            try:
                self._trusted.add(_parse_server(scheme, authority.removesuffix("/")))
            except AddressNotAllowed as error:
                raise ValueError(f"outbound host {entry!r} is not an origin: {error.detail}") from None

    def check(self, url: str) -> str:
        """Return the URL in canonical form.

        Raises:
            AddressNotAllowed: the message says why and never contains the URL.
        """
        if len(url) > MAX_URL_LENGTH:
            raise AddressNotAllowed(f"the URL is longer than {MAX_URL_LENGTH} characters")
        match = _URL.fullmatch(url)
        if match is None:
            raise AddressNotAllowed(_describe_malformed(url))
        server = _parse_server(match["scheme"].lower(), match["authority"].lower())
        if server not in self._trusted:
            _check_public(server)
        rest = match["rest"] or "/"
        return server.origin + (rest if rest[0] == "/" else f"/{rest}")

    def check_resolved(self, host: str, port: int, addresses: Iterable[str]) -> None:
        """Check the resolved addresses of a host that was allowed by its name.

        Raises:
            AddressNotAllowed: an address is not public.
        """
        if any(trusted.host == host and trusted.port == port for trusted in self._trusted):
            return
        for address in addresses:
            if not is_global(ip_address(address)):
                raise AddressNotAllowed(f"{host} resolves to an address outside the public internet")


def _parse_server(scheme: str, authority: str) -> OutboundServer:
    if scheme not in _DEFAULT_PORTS:
        raise AddressNotAllowed("the URL must begin with https://")
    if "@" in authority:
        raise AddressNotAllowed("the URL must not contain a user name or password")
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise AddressNotAllowed("the URL has no host, or a malformed one")
    host = match["host"]
    if host[0] == "[" or _NUMBER.fullmatch(host.rpartition(".")[2]):
        host = _canonical_ip(host)
    elif len(host) > 253 or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise AddressNotAllowed("the host of the URL is not a plain DNS name")
    port = int(match["port"] or _DEFAULT_PORTS[scheme])
    if not 0 < port < 65536:
        raise AddressNotAllowed("the port of the URL is out of range")
    return OutboundServer(scheme, host, port)


def _canonical_ip(host: str) -> str:
    try:
        return f"[{IPv6Address(host[1:-1])}]" if host[0] == "[" else str(IPv4Address(host))
    except ValueError:
        # Examples are 127.1, 0x7f.1 and 2130706433, which only some parsers read as an IPv4 address.
        raise AddressNotAllowed("the host of the URL is a number that is not a plain IP address") from None


def _check_public(server: OutboundServer) -> None:
    if server.scheme != "https":
        raise AddressNotAllowed("the URL must begin with https://")
    host = server.host
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        if "." not in host or host.endswith(_LOCAL_SUFFIXES):
            raise AddressNotAllowed(f"{host} is not a name on the public internet") from None
    else:
        if address in NAT64 or not is_global(address):
            raise AddressNotAllowed(f"{host} is not an address on the public internet")
    if server.port not in ALLOWED_PORTS:
        raise AddressNotAllowed(
            f"the port of the URL must be {' or '.join(map(str, ALLOWED_PORTS))}, not {server.port}"
        )


def _describe_malformed(url: str) -> str:
    if "://" not in url:
        return "the URL is not absolute"
    if "#" in url:
        return "the URL must not have a fragment"
    return "the URL contains characters that are not valid in a URL"
