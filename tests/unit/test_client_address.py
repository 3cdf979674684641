"""The client address of a request, with and without trusted proxies."""

import pytest
from aiohttp.test_utils import make_mocked_request

from gateway.web.http.client_address import ClientAddressResolver, site_of

PROXIES = ("10.0.0.0/8", "2001:db8::1")


def resolve(peer: str, *forwarded: str, proxies: tuple[str, ...] = PROXIES) -> str:
    """Return the client address of a request from `peer` with an X-Forwarded-For header for each of `forwarded`."""
    request = make_mocked_request("GET", "/", headers=[("X-Forwarded-For", value) for value in forwarded])
    return ClientAddressResolver(proxies).resolve(request.clone(remote=peer))


def test_peer_is_used_without_trusted_proxies() -> None:
    """Without trusted proxies, X-Forwarded-For is ignored."""
    assert resolve("203.0.113.7", "198.51.100.1", proxies=()) == "203.0.113.7"


def test_forwarded_header_of_an_untrusted_peer_is_ignored() -> None:
    """Any client can send X-Forwarded-For, so only a trusted proxy's header counts."""
    assert resolve("203.0.113.7", "198.51.100.1") == "203.0.113.7"


def test_last_untrusted_hop_is_the_client() -> None:
    """The last entry that is no trusted proxy is the client, who may have forged the entries before it."""
    assert resolve("10.0.0.1", "198.51.100.1") == "198.51.100.1"
    assert resolve("10.0.0.1", "1.2.3.4, 198.51.100.1, 10.1.1.1") == "198.51.100.1"
    assert resolve("10.0.0.1", "1.2.3.4", "198.51.100.1, 10.1.1.1") == "198.51.100.1"
    assert resolve("2001:db8::1", "198.51.100.1") == "198.51.100.1"


@pytest.mark.parametrize("forwarded", ["", "unknown", "198.51.100.1, nonsense", "300.1.1.1", ", ,"])
def test_invalid_forwarded_address_gives_the_proxy_address(forwarded: str) -> None:
    """An entry that is not an IP address is not used as the client address."""
    assert resolve("10.0.0.1", forwarded) == "10.0.0.1"


def test_number_of_hops_is_bounded() -> None:
    """Only the last entries of a long header are read."""
    assert resolve("10.0.0.1", ",".join(["198.51.100.1", *["10.0.0.2"] * 5000])) == "10.0.0.2"


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        ("198.51.100.1:4711", "198.51.100.1"),
        ("[2001:db8:1:2:3::4]:4711", "2001:db8:1::/56"),
        ("2001:db8:1:2ff:ffff::4", "2001:db8:1:200::/56"),
        ("::ffff:198.51.100.1", "198.51.100.1"),
    ],
)
def test_address_is_normalised(forwarded: str, expected: str) -> None:
    """Ports are removed, and IPv6 addresses count by their /56 network."""
    assert resolve("10.0.0.1", forwarded) == expected
    assert resolve(forwarded.partition(":4711")[0].strip("[]"), proxies=()) == expected


@pytest.mark.parametrize(
    ("key", "site"),
    [("198.51.100.1", "198.51.100.1"), ("2001:db8:1:200::/56", "2001:db8:1::/48"), ("unknown", "unknown")],
)
def test_site_is_the_48_network_of_ipv6(key: str, site: str) -> None:
    """Other addresses are their own site."""
    assert site_of(key) == site
