"""Determine the client address that a request is charged to.

It is the address of the connection, unless that is a proxy that the operator trusts. Then X-Forwarded-For is read from
the last hop backwards, up to the first address that is not a trusted proxy: everything before it can be forged.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp import web

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_HOPS = 20
# The prefix that a household or a server gets (RFC 6177). A client could use a new address of it for every request.
IPV6_PREFIX_LENGTH = 64


class ClientAddressResolver:
    """Resolves client addresses behind trusted proxies."""

    def __init__(self, proxies: Sequence[str] = ()) -> None:
        """Create a resolver; `proxies` are the networks whose X-Forwarded-For is trusted, such as 10.0.0.0/8."""
        self._proxies: list[Network] = [ip_network(proxy, strict=False) for proxy in proxies]

    def of(self, request: web.Request) -> str:
        """Return the client address of a request, as `rate_limit_key` gives it."""
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

    def _is_proxy(self, address: Address) -> bool:
        return any(address.version == network.version and address in network for network in self._proxies)


def parse(text: str) -> Address | None:
    """Parse an IP address, with or without a port; an IPv4-mapped IPv6 address becomes IPv4."""
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
    """Return an IPv4 address unchanged, and the /64 network of an IPv6 address."""
    address = parse(text)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, IPV6_PREFIX_LENGTH), strict=False))
    return text if address is None else str(address)
