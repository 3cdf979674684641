"""Which IP addresses are of the public internet: those that a name given by a stranger may lead to."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network

# What is handed out as global unicast (IANA); the rest of IPv6 is somebody's own or nobody's.
_GLOBAL_IPV6 = IPv6Network("2000::/3")
NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the IPv4 address is in the last 32 bits; DNS64 answers with these


def is_global(address: IPv4Address | IPv6Address) -> bool:
    """Whether it is a unicast address of the public internet, or NAT64's for one.

    IPv4 in any other IPv6 clothes (mapped, 6to4, Teredo) is not: nobody's name leads there for a good reason.
    """
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast
    if address in NAT64:
        return is_global(IPv4Address(int(address) & 0xFFFF_FFFF))
    return address.is_global and address in _GLOBAL_IPV6 and address.sixtofour is None
