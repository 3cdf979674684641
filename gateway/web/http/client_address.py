"""Whose address a request counts for.

It is the one that the connection comes from. A proxy's own says nothing of who asks, but anybody can make up what is
forwarded: so it is believed of those proxies alone that the operator names, from the last hop back to the first that is
none of them.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp import web

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_HOPS = 20
# What one household or server is given (RFC 6177): counting single addresses would count nobody.
HOUSEHOLD = 64


class ClientAddressResolver:
    """`proxies`: networks whose X-Forwarded-For is believed, such as 10.0.0.0/8."""

    def __init__(self, proxies: Sequence[str] = ()) -> None:
        self._proxies: list[Network] = [ip_network(one, strict=False) for one in proxies]

    def of(self, request: web.Request) -> str:
        peer = request.remote or ""
        if not self._proxies:
            return counted(peer)
        believed = parse(peer)
        hops = ",".join(request.headers.getall("X-Forwarded-For", ())).split(",")
        for hop in hops[: -MAX_HOPS - 1 : -1]:
            if believed is None or not self._is_proxy(believed):
                break
            if (before := parse(hop)) is None:
                break
            believed = before
        return counted(peer if believed is None else str(believed))

    def _is_proxy(self, address: Address) -> bool:
        return any(address.version == network.version and address in network for network in self._proxies)


def parse(text: str) -> Address | None:
    """Also with a port, as some proxies write it, and an IPv4 address that is written as IPv6 as what it is."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


@lru_cache(maxsize=65_536)
def counted(text: str) -> str:
    """An IPv4 address, or the network that an IPv6 address is one of many in."""
    found = parse(text)
    if isinstance(found, IPv6Address):
        return str(IPv6Network((found, HOUSEHOLD), strict=False))
    return text if found is None else str(found)
