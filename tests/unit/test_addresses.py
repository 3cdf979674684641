"""Whose address a request counts for, behind proxies and without."""

import pytest
from aiohttp.test_utils import make_mocked_request

from gateway.web.http.client_address import ClientAddressResolver

PROXIES = ("10.0.0.0/8", "2001:db8::1")


def address(peer: str, *forwarded: str, proxies: tuple[str, ...] = PROXIES) -> str:
    request = make_mocked_request("GET", "/", headers=[("X-Forwarded-For", one) for one in forwarded])
    return ClientAddressResolver(proxies).of(request.clone(remote=peer))


def test_without_proxies_it_is_the_peer_whatever_is_forwarded() -> None:
    assert address("203.0.113.7", "198.51.100.1", proxies=()) == "203.0.113.7"


def test_a_stranger_s_word_is_not_believed() -> None:
    assert address("203.0.113.7", "198.51.100.1") == "203.0.113.7"


def test_a_proxy_s_word_is_believed_and_no_further() -> None:
    """What stands before the last hop that is no proxy was said by whoever asks."""
    assert address("10.0.0.1", "198.51.100.1") == "198.51.100.1"
    assert address("10.0.0.1", "1.2.3.4, 198.51.100.1, 10.1.1.1") == "198.51.100.1"
    assert address("10.0.0.1", "1.2.3.4", "198.51.100.1, 10.1.1.1") == "198.51.100.1"
    assert address("2001:db8::1", "198.51.100.1") == "198.51.100.1"


@pytest.mark.parametrize("said", ["", "unknown", "198.51.100.1, nonsense", "300.1.1.1", ", ,"])
def test_what_is_no_address_leaves_it_at_the_proxy(said: str) -> None:
    assert address("10.0.0.1", said) == "10.0.0.1"


def test_only_so_many_hops_are_followed() -> None:
    assert address("10.0.0.1", ",".join(["198.51.100.1", *["10.0.0.2"] * 5000])) == "10.0.0.2"


@pytest.mark.parametrize(
    ("said", "counted"),
    [
        ("198.51.100.1:4711", "198.51.100.1"),
        ("[2001:db8:1:2:3::4]:4711", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::4", "2001:db8:1:2::/64"),
        ("::ffff:198.51.100.1", "198.51.100.1"),
    ],
)
def test_an_address_counts_as_one_however_it_is_written(said: str, counted: str) -> None:
    assert address("10.0.0.1", said) == counted
    assert address(said.partition(":4711")[0].strip("[]"), proxies=()) == counted
