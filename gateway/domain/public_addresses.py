"""Which IP addresses are of the public internet: those that a name given by a stranger may lead to."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

# What is handed out as global unicast (IANA); the rest of IPv6 is somebody's own or nobody's.
_GLOBAL_IPV6 = IPv6Network("2000::/3")
NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the IPv4 address is in the last 32 bits; DNS64 answers with these
# Beside what the standard library knows, which in older versions takes some of these for global.
_RESERVED_IPV4 = (
    IPv4Network("192.0.0.0/24"),  # protocol assignments (RFC 6890); 192.0.0.192 is a cloud's metadata
    IPv4Network("192.88.99.0/24"),  # 6to4 relays, given up (RFC 7526)
    IPv4Network("168.63.129.16/32"),  # a cloud's own services for its machines
)
_DOCUMENTATION = IPv6Network("3fff::/20")  # RFC 9637


def is_global(address: IPv4Address | IPv6Address) -> bool:
    """Whether it is a unicast address of the public internet, or NAT64's for one.

    IPv4 in any other IPv6 clothes (mapped, 6to4, Teredo) is not: nobody's name leads there for a good reason.
    """
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast and not any(address in one for one in _RESERVED_IPV4)
    if address in NAT64:
        return is_global(IPv4Address(int(address) & 0xFFFF_FFFF))
    return address.is_global and address in _GLOBAL_IPV6 and address.sixtofour is None and address not in _DOCUMENTATION
