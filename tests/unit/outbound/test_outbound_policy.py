"""Outbound policy: hosts on the public internet, hosts that the operator adds, and hostile URLs."""

from ipaddress import ip_address

import pytest

from gateway.domain.errors import AddressNotAllowed
from gateway.domain.public_addresses import is_global
from gateway.outbound.policy import OutboundPolicy

PUBLIC_ONLY = OutboundPolicy()


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("https://hooks.example.org", "https://hooks.example.org/"),
        ("HTTPS://Hooks.Example.ORG:443/In?x=Y", "https://hooks.example.org/In?x=Y"),
        ("https://hooks.example.org:8443/a/b?c=%2F&d[]=1", "https://hooks.example.org:8443/a/b?c=%2F&d[]=1"),
        ("https://hooks.example.org?a=1", "https://hooks.example.org/?a=1"),
        ("https://8.8.8.8/hook", "https://8.8.8.8/hook"),
        ("https://[2606:4700:4700:0::1111]:8443/", "https://[2606:4700:4700::1111]:8443/"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example/"),
        ("https://my_team.hooks.example.org/", "https://my_team.hooks.example.org/"),
    ],
)
def test_public_https_url_becomes_canonical(url: str, canonical: str) -> None:
    """The policy returns an allowed URL in its canonical form."""
    assert PUBLIC_ONLY.check(url) == canonical


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.org/",
        "ftp://hooks.example.org/",
        "file:///etc/passwd",
        "hooks.example.org/in",
        "//hooks.example.org/in",
        "https:/hooks.example.org",
        "https://",
        "https:///path",
        "",
        "https://user@hooks.example.org/",
        "https://user:word@hooks.example.org/",
        "https://hooks.example.org@127.0.0.1/",
        "https://hooks.example.org/#part",
        "https://hooks.example.org\\@127.0.0.1/",
        "https://hooks.example.org /",
        "https://hooks.example.org/a b",
        "https://hooks.example.org/\r\nX: y",
        "https://hooks.example.org:0/",
        "https://hooks.example.org:65536/",
        "https://hooks.example.org:4a/",
        "https://bücher.example/",
        "https://hooks%2eexample.org/",
        "https://hooks..example.org/",
        "https://hooks.example.org./",
        "https://" + "a" * 64 + ".example.org/",
        "https://hooks.example.org/" + "a" * 2048,
        # Names that do not exist on the public internet.
        "https://localhost/",
        "https://api.localhost/",
        "https://postgres/",
        "https://printer.local/",
        "https://metadata.google.internal/",
        "https://nas.lan/",
        "https://router.home.arpa/",
        "https://1.0.0.127.in-addr.arpa/",
        "https://build.corp/",
        "https://mail.test/",
        "https://nobody.invalid/",
        "https://hidden.onion/",
    ],
)
def test_private_insecure_or_malformed_url_is_rejected(url: str) -> None:
    """The error does not contain the rejected URL."""
    with pytest.raises(AddressNotAllowed) as error:
        PUBLIC_ONLY.check(url)
    assert url == "" or url not in error.value.detail


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "0x7f000001",
        "2130706433",
        "017700000001",
        "0177.0.0.1",
        "127.0.0.1.",
        "0",
        "0.0.0.0",  # noqa: S104 - the policy must reject it
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "239.1.2.3",
        "240.0.0.1",
        "255.255.255.255",
        "[::]",
        "[::1]",
        "[::127.0.0.1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a00:1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b:1::808:808]",
        "[2002:7f00:1::]",
        "[2002:a01:203::1]",
        "[2001:0:7f00:1::1]",
        "[2001:db8::1]",
        "[fe80::1]",
        "[fec0::1]",
        "[fd00::1]",
        "[ff02::1]",
        "[ff0e::1]",
        "[fe80::1%25eth0]",
        # Not IPv6 addresses.
        "[v1.x]",
        "[127.0.0.1]",
        "[8.8.8.8]",
    ],
)
def test_private_or_malformed_address_is_rejected(host: str) -> None:
    """An address that is not public is rejected in every notation, and so is one in brackets that is not IPv6."""
    with pytest.raises(AddressNotAllowed):
        PUBLIC_ONLY.check(f"https://{host}/")


@pytest.mark.parametrize("address", ["8.8.8.8", "64:ff9b::808:808", "2a00:1450::1"])
def test_public_address_and_its_nat64_form_are_public(address: str) -> None:
    """An IPv6 address that NAT64 maps to a public IPv4 address is public."""
    assert is_global(ip_address(address))


@pytest.mark.parametrize(
    "address", ["::ffff:8.8.8.8", "2002:808:808::1", "2001:0:808:808::1", "64:ff9b::a00:1", "64:ff9b:1::808:808"]
)
def test_embedded_ipv4_is_not_public(address: str) -> None:
    """An IPv6 address that embeds an IPv4 address is not public, except for the NAT64 form of a public one."""
    assert not is_global(ip_address(address))


@pytest.mark.parametrize("port", [1, 22, 25, 80, 5432, 6379, 8444, 65535])
def test_ports_except_443_and_8443_need_an_operator_entry(port: int) -> None:
    """Without an entry of the operator, a URL may have only these two ports."""
    with pytest.raises(AddressNotAllowed, match=f"must be 443 or 8443, not {port}"):
        PUBLIC_ONLY.check(f"https://hooks.example.org:{port}/")
    policy = OutboundPolicy([f"https://hooks.example.org:{port}"])
    assert policy.check(f"https://hooks.example.org:{port}/") == f"https://hooks.example.org:{port}/"


def test_operator_entry_allows_exactly_its_origin() -> None:
    """A URL with another scheme, host, port or spelling of the address than the entry is rejected."""
    policy = OutboundPolicy(["http://127.0.0.1:9000", " HTTPS://hooks.lan/ ", "http://[::1]:80"])
    assert policy.check("http://127.0.0.1:9000/in") == "http://127.0.0.1:9000/in"
    assert policy.check("https://hooks.lan:443/in") == "https://hooks.lan/in"
    assert policy.check("http://[0:0::1]/") == "http://[::1]/"
    for other_url in (
        "http://127.0.0.1:9001/",
        "https://127.0.0.1:9000/",
        "http://127.0.0.2:9000/",
        "http://hooks.lan/",
        "http://127.1:9000/",
    ):
        with pytest.raises(AddressNotAllowed):
            policy.check(other_url)


@pytest.mark.parametrize(
    "entry", ["hooks.lan", "http://", "http://127.1:9000", "http://a@b", "http://hooks.lan/in", ""]
)
def test_entry_that_is_not_an_origin_is_rejected(entry: str) -> None:
    """An invalid entry of the operator raises ValueError when the policy is created."""
    with pytest.raises(ValueError, match="is not an origin"):
        OutboundPolicy([entry])


def test_host_with_public_and_private_address_is_rejected() -> None:
    """One private address among the addresses of a host is enough to reject the host."""
    PUBLIC_ONLY.check_resolved("hooks.example.org", 443, ["8.8.8.8", "2a00:1450::1"])
    for private_address in ("10.0.0.1", "::1", "fe80::1%2"):
        with pytest.raises(AddressNotAllowed, match=r"hooks\.example\.org"):
            PUBLIC_ONLY.check_resolved("hooks.example.org", 443, ["8.8.8.8", private_address])


def test_operator_host_may_be_private_on_its_port_only() -> None:
    """The operator's entry allows private addresses only on the port of the entry."""
    policy = OutboundPolicy(["https://hooks.example.org:8443"])
    policy.check_resolved("hooks.example.org", 8443, ["10.0.0.1"])
    with pytest.raises(AddressNotAllowed):
        policy.check_resolved("hooks.example.org", 443, ["10.0.0.1"])
