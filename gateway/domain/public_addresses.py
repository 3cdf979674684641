"""Public IP addresses: those to which a host name from an application or device may resolve."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

# The global unicast range assigned by IANA; all other IPv6 addresses are private or unassigned.
_GLOBAL_IPV6 = IPv6Network("2000::/3")
NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the IPv4 address is in the last 32 bits; DNS64 returns such addresses
# Networks that are not public, in addition to the standard library's: older versions treat some of them as global.
_RESERVED_IPV4 = (
    IPv4Network("192.0.0.0/24"),  # protocol assignments (RFC 6890); 192.0.0.192 is the metadata service of a cloud
    IPv4Network("192.88.99.0/24"),  # 6to4 relays, deprecated (RFC 7526)
    IPv4Network("168.63.129.16/32"),  # services of a cloud for its virtual machines
)
_DOCUMENTATION = IPv6Network("3fff::/20")  # RFC 9637


def is_global(address: IPv4Address | IPv6Address) -> bool:
    """Return whether the address is a public unicast address, or the NAT64 form of one.

    IPv6 addresses that embed an IPv4 address otherwise (mapped, 6to4, Teredo) are not public: no service uses them.
    """
    if isinstance(address, IPv4Address):
        return (
            address.is_global and not address.is_multicast and not any(address in network for network in _RESERVED_IPV4)
        )
    if address in NAT64:
        return is_global(IPv4Address(int(address) & 0xFFFF_FFFF))
    return address.is_global and address in _GLOBAL_IPV6 and address.sixtofour is None and address not in _DOCUMENTATION
