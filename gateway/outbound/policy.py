"""Which addresses of the web this gateway may call for its applications.

Webhook receivers and feeds are named by whoever holds an application's key, and must not lead into the operator's own
network. An address is looked at twice: its text here, before anything is sent, and what its host resolves to by the
client, which connects to the very addresses that were looked at. The accepted form is narrow enough that no two URL
parsers can read it differently.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

from gateway.domain.errors import AddressNotAllowed

LONGEST = 2048

# The characters of RFC 3986 without the fragment: no space, control character, backslash, quote or brace.
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>[/?][A-Za-z0-9\-._~:/@!$&'()*+,;=%?\[\]]*)?"
)
_AUTHORITY = re.compile(r"(?P<host>[^:\[\]]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?")
# What URL parsers take for an IPv4 address: a last label that is a number, decimal or hexadecimal (WHATWG URL 3.5).
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_DEFAULT_PORTS = {"https": 443, "http": 80}
# Names that are nobody's on the web (RFC 6761, RFC 6762, ICANN's reserved `internal`).
_LOCAL = ("localhost", ".localhost", ".local", ".internal")

# What is handed out as global unicast (IANA); the rest of IPv6 is somebody's own or nobody's.
_GLOBAL_IPV6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the IPv4 address is in the last 32 bits


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
        if len(url) > LONGEST:
            raise AddressNotAllowed(f"the address is longer than {LONGEST} characters")
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


def is_global(address: IPv4Address | IPv6Address) -> bool:
    """Whether it is a unicast address of the public internet, also by way of a translation that leads to one."""
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast
    if address.ipv4_mapped is not None:
        return is_global(address.ipv4_mapped)
    if address in _NAT64:
        return is_global(IPv4Address(int(address) & 0xFFFF_FFFF))
    if address.sixtofour is not None:
        return is_global(address.sixtofour)
    return address.is_global and address in _GLOBAL_IPV6


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
        if not is_global(literal):
            raise AddressNotAllowed(f"{host} is not an address of the public web")


def _malformation(url: str) -> str:
    if "://" not in url:
        return "the address is not an absolute URL"
    if "#" in url:
        return "the address must not have a fragment"
    return "the address holds characters that no URL may hold"
