"""Determine the client address of a request, for the rate limit.

Without proxies it is the address of the connection. If the connection comes from a trusted proxy, X-Forwarded-For is
read from its end backwards. The first address that is not a trusted proxy is the client's. The addresses before it are
ignored, since a client can forge them.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp import web

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Number of entries of X-Forwarded-For that are read.
MAX_HOPS = 20
# Length of the network prefix that a provider assigns to a household (RFC 6177). All addresses of the network count as
# one client, since a client could use a new address for every request.
IPV6_PREFIX_LENGTH = 56
# Length of the network prefix that a provider assigns to a large site, such as a company or a customer of a hoster. It
# has the networks of 256 households.
IPV6_SITE_PREFIX_LENGTH = 48


class ClientAddressResolver:
    """Resolves client addresses behind trusted proxies."""

    def __init__(self, proxies: Sequence[str] = ()) -> None:
        """Create a resolver; `proxies` are the networks whose X-Forwarded-For is trusted, such as 10.0.0.0/8."""
        self._proxies: list[Network] = [ip_network(proxy, strict=False) for proxy in proxies]

    def resolve(self, request: web.Request) -> str:
        """Return the client address of a request, in the form of `rate_limit_key`."""
        peer = request.remote or ""
        if not self._proxies:
            return rate_limit_key(peer)
        client = parse(peer)
        hops = ",".join(request.headers.getall("X-Forwarded-For", ())).split(",")
        for hop in hops[: -MAX_HOPS - 1 : -1]:
            if client is None or not self._is_proxy(client):
                break
            if (forwarded := parse(hop)) is None:
                break
            client = forwarded
        return rate_limit_key(peer if client is None else str(client))

    def is_proxy(self, peer: str) -> bool:
        """Return whether the peer of a connection is a trusted proxy."""
        address = parse(peer)
        return address is not None and self._is_proxy(address)

    def _is_proxy(self, address: Address) -> bool:
        return any(address.version == network.version and address in network for network in self._proxies)


def parse(text: str) -> Address | None:
    """Parse an IP address with or without a port. Return IPv4 for an IPv4-mapped IPv6 address, None for other text."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


@lru_cache(maxsize=65_536)
def rate_limit_key(text: str) -> str:
    """Return an IPv4 address unchanged, and the /56 network of an IPv6 address."""
    address = parse(text)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, IPV6_PREFIX_LENGTH), strict=False))
    return text if address is None else str(address)


@lru_cache(maxsize=65_536)
def site_of(key: str) -> str:
    """Return the /48 network of a rate limit key of IPv6; other keys unchanged."""
    network, _, prefix = key.partition("/")
    if not prefix:
        return key
    return str(IPv6Network((network, IPV6_SITE_PREFIX_LENGTH), strict=False))
