"""Which addresses of the web this gateway may call for its applications.

Webhook receivers and feeds are named by whoever holds an application's key, and must not lead into the operator's own
network. An address is looked at twice: its text here, before anything is sent, and what its host resolves to by the
client, which connects to the very addresses that were looked at. The accepted form is narrow enough that no two URL
parsers can read it differently.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from gateway.domain.errors import AddressNotAllowed
from gateway.domain.public_addresses import NAT64, is_global

MAX_LENGTH = 2048

# The characters of RFC 3986 without the fragment: no space, control character, backslash, quote or brace.
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>[/?][A-Za-z0-9\-._~:/@!$&'()*+,;=%?\[\]]*)?"
)
_AUTHORITY = re.compile(r"(?P<host>[^:\[\]]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?")
# What URL parsers take for an IPv4 address: a last label that is a number, decimal or hexadecimal (WHATWG URL 3.5).
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_DEFAULT_PORTS = {"https": 443, "http": 80}
# TLS to any other port would be a knock at somebody's mail server or database.
PORTS = (443, 8443)
# Names that are nobody's on the web (RFC 6761, RFC 6762 with its appendix G, RFC 8375, RFC 9476, ICANN's `internal`).
_LOCAL = tuple(
    f".{name}"
    for name in (
        *("localhost", "local", "internal", "test", "invalid", "onion", "alt", "arpa"),
        *("intranet", "private", "corp", "home", "lan"),
    )
)


class Server(NamedTuple):
    """`host` as it stands in a URL, an IPv6 address in brackets."""

    scheme: str
    host: str
    port: int

    @property
    def origin(self) -> str:
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}"


class OutboundPolicy:
    """https to hosts of the public web, and what the operator adds.

    An addition is a whole origin such as `http://127.0.0.1:9000` or `https://hooks.lan`, which allows exactly that
    origin, whatever its host resolves to. Raises ValueError naming the first addition that is none.
    """

    def __init__(self, extra: Iterable[str] = ()) -> None:
        self._trusted: set[Server] = set()
        for entry in extra:
            scheme, _, authority = entry.strip().lower().partition("://")
            try:
                self._trusted.add(_parse_server(scheme, authority.removesuffix("/")))
            except AddressNotAllowed as refusal:
                raise ValueError(f"outbound host {entry!r} is not an origin: {refusal.detail}") from None

    def check(self, url: str) -> str:
        """The address in canonical form. Raises AddressNotAllowed, which says why but never repeats the address."""
        if len(url) > MAX_LENGTH:
            raise AddressNotAllowed(f"the address is longer than {MAX_LENGTH} characters")
        found = _URL.fullmatch(url)
        if found is None:
            raise AddressNotAllowed(_malformation(url))
        server = _parse_server(found["scheme"].lower(), found["authority"].lower())
        if server not in self._trusted:
            _refuse_unpublic(server)
        rest = found["rest"] or "/"
        return server.origin + (rest if rest[0] == "/" else f"/{rest}")

    def check_resolved(self, host: str, port: int, addresses: Iterable[str]) -> None:
        """What a host that was allowed by its name resolves to. Raises AddressNotAllowed unless all of it is global."""
        if any(trusted.host == host and trusted.port == port for trusted in self._trusted):
            return
        for address in addresses:
            if not is_global(ip_address(address)):
                raise AddressNotAllowed(f"{host} resolves to an address that is not of the public web")


def _parse_server(scheme: str, authority: str) -> Server:
    if scheme not in _DEFAULT_PORTS:
        raise AddressNotAllowed("the address must begin with https://")
    if "@" in authority:
        raise AddressNotAllowed("the address must not carry a user name or password")
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        raise AddressNotAllowed("the address names no host, or a malformed one")
    host = found["host"]
    if host[0] == "[" or _NUMBER.fullmatch(host.rpartition(".")[2]):
        host = _canonical_ip(host)
    elif len(host) > 253 or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise AddressNotAllowed("the address's host is not a plain DNS name")
    port = int(found["port"] or _DEFAULT_PORTS[scheme])
    if not 0 < port < 65536:
        raise AddressNotAllowed("the address's port is out of range")
    return Server(scheme, host, port)


def _canonical_ip(host: str) -> str:
    try:
        return f"[{IPv6Address(host[1:-1])}]" if host[0] == "[" else str(IPv4Address(host))
    except ValueError:
        # Such as 127.1, 0x7f.1 and 2130706433, which some take for an address and others do not.
        raise AddressNotAllowed("the address's host is a number that is not a plain IP address") from None


def _refuse_unpublic(server: Server) -> None:
    if server.scheme != "https":
        raise AddressNotAllowed("the address must begin with https://")
    host = server.host
    try:
        literal = ip_address(host.strip("[]"))
    except ValueError:
        if "." not in host or host.endswith(_LOCAL):
            raise AddressNotAllowed(f"{host} is not a name of the public web") from None
    else:
        if literal in NAT64 or not is_global(literal):
            raise AddressNotAllowed(f"{host} is not an address of the public web")
    if server.port not in PORTS:
        raise AddressNotAllowed(f"the address's port must be {' or '.join(map(str, PORTS))}, not {server.port}")


def _malformation(url: str) -> str:
    if "://" not in url:
        return "the address is not an absolute URL"
    if "#" in url:
        return "the address must not have a fragment"
    return "the address holds characters that no URL may hold"
