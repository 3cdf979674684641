"""Endpoint policy: the vendors' hosts, the hosts that the operator adds, and hostile URLs."""

import pytest

from gateway.domain.errors import EndpointNotAllowed
from gateway.push.endpoints import Endpoint, EndpointPolicy, vendor_name

VENDORS_ONLY = EndpointPolicy()


@pytest.mark.parametrize(
    ("endpoint", "host", "name"),
    [
        ("https://fcm.googleapis.com/fcm/send/dGVz:APA91b-_x", "fcm.googleapis.com", "FCM"),
        ("https://fcm.googleapis.com/wp/abc", "fcm.googleapis.com", "FCM"),
        (
            "https://updates.push.services.mozilla.com/wpush/v2/gAAAAA-_",
            "updates.push.services.mozilla.com",
            "Mozilla",
        ),
        ("https://web.push.apple.com/QGuQyavXutnMH", "web.push.apple.com", "Apple"),
        ("https://db5p.notify.windows.com/w/?token=BQYAAA%2b%3d", "db5p.notify.windows.com", "WNS"),
    ],
)
def test_vendor_hosts_are_allowed(endpoint: str, host: str, name: str) -> None:
    """An endpoint at a vendor's host is allowed without configuration and has the vendor's name."""
    assert VENDORS_ONLY.check(endpoint) == Endpoint(endpoint, f"https://{host}", host)
    assert vendor_name(host) == name


def test_endpoint_becomes_canonical() -> None:
    """The scheme and host become lower case, and the default port is removed."""
    endpoint = VENDORS_ONLY.check("HTTPS://FCM.GoogleAPIs.com:443/fcm/send/AbC")
    assert endpoint == Endpoint(
        "https://fcm.googleapis.com/fcm/send/AbC", "https://fcm.googleapis.com", "fcm.googleapis.com"
    )


HOSTILE = [
    # Not https.
    "http://fcm.googleapis.com/x",
    "ftp://fcm.googleapis.com/x",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "gopher://fcm.googleapis.com/x",
    "wss://updates.push.services.mozilla.com/",
    # Not absolute, no host, no path.
    "",
    "fcm.googleapis.com/x",
    "//fcm.googleapis.com/x",
    "https:/fcm.googleapis.com/x",
    "https:fcm.googleapis.com/x",
    "https:///fcm.googleapis.com/x",
    "https://",
    "https:///x",
    "https://fcm.googleapis.com",
    "https://fcm.googleapis.com?x",
    # Hosts that are not a push service.
    "https://example.com/x",
    "https://jmt17.google.com/fcm/send/x",
    "https://googleapis.com/x",
    "https://evil.fcm.googleapis.com/x",
    "https://fcm.googleapis.com.evil.com/x",
    "https://evilfcm.googleapis.com/x",
    "https://push.apple.com/x",
    "https://evilpush.apple.com/x",
    "https://web.push.apple.com.evil.com/x",
    "https://xpush.apple.com/x",
    "https://notify.windows.com/x",
    "https://evil.com/https://fcm.googleapis.com/x",
    # User information.
    "https://user@fcm.googleapis.com/x",
    "https://user:password@fcm.googleapis.com/x",
    "https://fcm.googleapis.com@evil.com/x",
    "https://fcm.googleapis.com:443@evil.com/x",
    "https://fcm.googleapis.com%40evil.com/x",
    # Fragments, and a query without a path.
    "https://fcm.googleapis.com/x#y",
    "https://fcm.googleapis.com#@evil.com/",
    "https://evil.com#fcm.googleapis.com/x",
    "https://evil.com?.push.apple.com/x",
    # Ports.
    "https://fcm.googleapis.com:8443/x",
    "https://fcm.googleapis.com:80/x",
    "https://fcm.googleapis.com:0/x",
    "https://fcm.googleapis.com:65979/x",
    "https://fcm.googleapis.com:/x",
    "https://fcm.googleapis.com:443:80/x",
    "https://fcm.googleapis.com:４４３/x",
    # IP addresses, however they are written.
    "https://127.0.0.1/x",
    "https://127.1/x",
    "https://2130706433/x",
    "https://0x7f000001/x",
    "https://0177.0.0.1/x",
    "https://0/x",
    "https://10.0.0.1/x",
    "https://169.254.169.254/latest/meta-data/",
    "https://[::1]/x",
    "https://[::ffff:127.0.0.1]/x",
    "https://[fe80::1%25eth0]/x",
    "https://localhost/x",
    # Dots and labels.
    "https://fcm.googleapis.com./x",
    "https://web.push.apple.com./x",
    "https://.push.apple.com/x",
    "https://a..push.apple.com/x",
    "https://-a.push.apple.com/x",
    "https://a_b.push.apple.com/x",
    "https://*.push.apple.com/x",
    f"https://{'a' * 64}.push.apple.com/x",
    f"https://{'a.' * 130}push.apple.com/x",
    # Characters that parsers disagree about.
    "https://fcm.googleapis.com\\@evil.com/x",
    "https://evil.com\\.push.apple.com/x",
    "https:\\\\fcm.googleapis.com/x",
    "https://fcm.googleapis.com/x\r\nHost: evil.com",
    "https://fcm.googleapis.com/x\n",
    "https://fcm.goo\tgleapis.com/x",
    " https://fcm.googleapis.com/x",
    "https://fcm.googleapis.com/x ",
    "https://fcm.googleapis.com/a b",
    "https://fcm.googleapis.com/\x00",
    "https://fcm.googleapis.com/\x7f",
    "https://fcm.googleapis.com%2f.evil.com/x",
    "https://%66cm.googleapis.com/x",
    # Characters that a browser maps to ASCII or that look like ASCII.
    "https://fcm。googleapis。com/x",
    "https://ｆcm.googleapis.com/x",
    "https://fcm.googleapis.com/ü",
    "https://wеb.push.apple.com/x",
    "https://fcm.googleapis.com／x",
    # Length.
    "https://fcm.googleapis.com/" + "x" * 2048,
]


@pytest.mark.parametrize("endpoint", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_endpoint_is_rejected_without_quoting_it(endpoint: str) -> None:
    """The error is printable and does not contain the endpoint."""
    with pytest.raises(EndpointNotAllowed) as error:
        VENDORS_ONLY.check(endpoint)
    assert error.value.detail.isprintable()
    assert not endpoint or endpoint not in error.value.detail


@pytest.mark.parametrize("endpoint", HOSTILE, ids=range(len(HOSTILE)))
def test_stored_hostile_endpoint_is_rejected(endpoint: str) -> None:
    """The check before sending rejects hostile endpoints, even with an allowed origin in the policy's cache."""
    policy = EndpointPolicy()
    policy.check("https://fcm.googleapis.com/wp/x")
    with pytest.raises(EndpointNotAllowed):
        policy.check_stored(endpoint)


def test_stored_endpoint_is_allowed_with_an_empty_cache() -> None:
    """A worker can send to an endpoint whose registration another process checked."""
    for endpoint in ("https://fcm.googleapis.com/fcm/send/a:b", "https://fcm.googleapis.com/fcm/send/a:b?c"):
        assert EndpointPolicy().check_stored(endpoint) == "https://fcm.googleapis.com"


TOKEN = "gAAAAABk-_~.=:x"


@pytest.mark.parametrize(
    ("spelling", "canonical"),
    [
        # Only WNS has its token in the query; at other vendors the query is removed.
        (f"https://fcm.googleapis.com/fcm/send/{TOKEN}?x=1", f"https://fcm.googleapis.com/fcm/send/{TOKEN}"),
        (f"https://fcm.googleapis.com/wp/{TOKEN}?", f"https://fcm.googleapis.com/wp/{TOKEN}"),
        ("https://fcm.googleapis.com/fcm/send/cQ%7A1%3Ax", "https://fcm.googleapis.com/fcm/send/cQz1:x"),
        (
            f"https://updates.push.services.mozilla.com/wpush/v1/{TOKEN}?x=1",
            f"https://updates.push.services.mozilla.com/wpush/v1/{TOKEN}",
        ),
        (f"https://web.push.apple.com/{TOKEN}?x=1&y", f"https://web.push.apple.com/{TOKEN}"),
        # WNS writes escapes in lower case.
        ("https://db5p.notify.windows.com/w/?token=B%2bQ%3d", "https://db5p.notify.windows.com/w/?token=B%2bQ%3d"),
        ("https://db5p.notify.windows.com/w/?token=B%2BQ=&x=1", "https://db5p.notify.windows.com/w/?token=B%2bQ%3d"),
        (
            "https://db5p.notify.windows.com/w/?x=1&token=%42%2BQ%3D",
            "https://db5p.notify.windows.com/w/?token=B%2bQ%3d",
        ),
        # A self-hosted autopush has Mozilla's form; for other servers the query may be part of the endpoint.
        ("https://up.example.org/wpush/v2/abc?x=1", "https://up.example.org/wpush/v2/abc"),
        ("https://up.example.org/UP?token=abc", "https://up.example.org/UP?token=abc"),
        ("https://up.example.org/upAbC?up=1", "https://up.example.org/upAbC?up=1"),
        ("https://up.example.org/a/b/../c", "https://up.example.org/a/b/../c"),
    ],
)
def test_spellings_of_an_endpoint_become_canonical(spelling: str, canonical: str) -> None:
    """Every spelling of an endpoint is converted to one canonical URL, which is unchanged by another check."""
    policy = EndpointPolicy(["up.example.org"])
    assert policy.check(spelling).url == canonical
    assert policy.check(canonical).url == canonical
    assert policy.check_stored(canonical) == policy.check_stored(spelling) == policy.check(spelling).origin


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://fcm.googleapis.com/",
        "https://fcm.googleapis.com/fcm/send/",
        "https://fcm.googleapis.com/fcm/send/..",
        "https://fcm.googleapis.com/fcm/send/a/b",
        "https://fcm.googleapis.com/fcm/send/a%2fb",
        "https://fcm.googleapis.com/fcm/send/a%zz",
        "https://fcm.googleapis.com/FCM/send/a",
        "https://fcm.googleapis.com/fcm/connect/subscribe",
        "https://fcm.googleapis.com/v1/projects/shop/messages:send",
        "https://updates.push.services.mozilla.com/m/1",
        "https://updates.push.services.mozilla.com/wpush/v9/a",
        "https://api.push.apple.com/3/device/00fc13",
        "https://db5p.notify.windows.com/?token=a",
        "https://db5p.notify.windows.com/w/",
        "https://db5p.notify.windows.com/w/?Token=a",
        "https://db5p.notify.windows.com/w/?token=a%20b",
    ],
)
def test_vendor_path_that_is_no_endpoint_is_rejected(endpoint: str) -> None:
    """At a vendor's host, only the paths of the vendor's push endpoints are allowed."""
    for check in (EndpointPolicy().check, EndpointPolicy().check_stored):
        with pytest.raises(EndpointNotAllowed, match="has no push endpoints at this path"):
            check(endpoint)


def test_removed_subscription_is_rejected_at_any_setting() -> None:
    """Chromium's host for removed subscriptions is rejected even if the operator adds it."""
    for extra in (
        [],
        ["permanently-removed.invalid"],
        ["https://permanently-removed.invalid"],
        ["*.permanently.invalid"],
    ):
        with pytest.raises(EndpointNotAllowed, match="subscribe again"):
            EndpointPolicy(extra).check("https://permanently-removed.invalid/fcm/send/abc")


def test_wildcard_only_hosts_are_detected() -> None:
    """A host is wildcard-only if it matches a wildcard, but no exact entry and no exact host of a vendor."""
    policy = EndpointPolicy(["*.example.org", "push.example.org", "https://up.example.org:8443"])
    assert policy.is_wildcard_only("https://other.example.org")
    for exact in ("https://push.example.org", "https://up.example.org:8443", "https://fcm.googleapis.com"):
        assert not policy.is_wildcard_only(exact)
    assert not policy.is_wildcard_only("https://web.push.apple.com")
    assert policy.is_wildcard_only("https://other.push.apple.com")
    assert policy.is_wildcard_only("https://wns2-par02p.notify.windows.com")


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("http://fcm.googleapis.com/x", "must be an https: URL"),
        ("https://example.com/x", "example.com is not among the push services"),
        ("https://a@fcm.googleapis.com/x", "user name"),
        ("https://fcm.googleapis.com/x#y", "fragment"),
        ("https://fcm.googleapis.com:8443/x", "port must be 443, not 8443"),
        ("https://10.0.0.1/x", "IP address"),
        ("https://[::1]/x", "IP address"),
        ("https://fcm.googleapis.com./x", "not a plain DNS name"),
        ("https://fcm.googleapis.com", "no path"),
        ("https://fcm.googleapis.com/a b", "not valid in a URL"),
        ("https://fcm.googleapis.com/" + "x" * 2048, "longer than 2048"),
        ("/fcm/send/x", "not an absolute URL"),
    ],
)
def test_rejection_names_the_reason(endpoint: str, reason: str) -> None:
    """The error message says what is wrong with the endpoint."""
    with pytest.raises(EndpointNotAllowed, match=reason):
        VENDORS_ONLY.check(endpoint)


def test_endpoint_of_2048_characters_is_allowed() -> None:
    """The longest endpoint that can be stored is allowed."""
    start = "https://fcm.googleapis.com/wp/"
    assert VENDORS_ONLY.check(start + "x" * (2048 - len(start))).host == "fcm.googleapis.com"


def test_exact_host_does_not_allow_subdomains() -> None:
    """An entry without a wildcard allows only https at that host."""
    policy = EndpointPolicy(["Push.Example.org"])
    assert policy.check("https://push.example.org/up?token=1").host == "push.example.org"
    for other_url in ("https://a.push.example.org/x", "https://example.org/x", "http://push.example.org/x"):
        with pytest.raises(EndpointNotAllowed):
            policy.check(other_url)


def test_wildcard_allows_subdomains_only() -> None:
    """A wildcard allows subdomains at any depth, but neither the domain itself nor another port."""
    policy = EndpointPolicy(["*.example.org"])
    assert policy.check("https://a.example.org/x").host == "a.example.org"
    assert policy.check("https://a.b.example.org/x").host == "a.b.example.org"
    for other_url in ("https://example.org/x", "https://badexample.org/x", "https://a.example.org:8443/x"):
        with pytest.raises(EndpointNotAllowed):
            policy.check(other_url)


def test_origin_entry_allows_exactly_that_origin() -> None:
    """A URL with another scheme, host, port or spelling of the address than the entry is rejected."""
    policy = EndpointPolicy(["http://127.0.0.1:9090"])
    allowed = policy.check("http://127.0.0.1:9090/push/abc")
    assert allowed == Endpoint("http://127.0.0.1:9090/push/abc", "http://127.0.0.1:9090", "127.0.0.1:9090")
    for other_url in (
        "http://127.0.0.1:9091/x",
        "http://127.0.0.1/x",
        "https://127.0.0.1:9090/x",
        "http://localhost:9090/x",
        "http://127.1:9090/x",
        "http://a@127.0.0.1:9090/x",
        "http://127.0.0.1:9090.evil.com/x",
        "http://127.0.0.1:90900/x",
    ):
        with pytest.raises(EndpointNotAllowed):
            policy.check(other_url)


def test_origin_entry_may_have_ipv6_or_port() -> None:
    """An entry may be an origin with an IPv6 address or a port."""
    policy = EndpointPolicy(["http://[::1]:9090/", " https://push.example.org:8443 "])
    assert policy.check("http://[::1]:9090/x").host == "[::1]:9090"
    assert policy.check("https://push.example.org:8443/x").origin == "https://push.example.org:8443"
    with pytest.raises(EndpointNotAllowed):
        policy.check("https://push.example.org/x")


def test_default_port_is_dropped_from_origin() -> None:
    """The origin and host of an endpoint do not contain the default port of the scheme."""
    policy = EndpointPolicy(["http://127.0.0.1:80"])
    assert policy.check("http://127.0.0.1/x") == Endpoint("http://127.0.0.1/x", "http://127.0.0.1", "127.0.0.1")


def test_cached_origin_is_still_fully_checked() -> None:
    """An allowed origin in the cache does not allow another scheme, port or a fragment."""
    policy = EndpointPolicy()
    policy.check("https://fcm.googleapis.com/wp/x")
    for url in ("https://fcm.googleapis.com/x#y", "http://fcm.googleapis.com/x", "https://fcm.googleapis.com:444/x"):
        with pytest.raises(EndpointNotAllowed):
            policy.check(url)


@pytest.mark.parametrize(
    "entry",
    [
        "",
        " ",
        "*",
        "*.",
        "*.org",
        "*.*.example.org",
        "push.*.example.org",
        "*example.org",
        ".example.org",
        "example.org.",
        r".*\.example\.org",
        "^push",
        "push.example.org/path",
        "push.example.org:8443",
        "10.0.0.1",
        "*.0.0.1",
        "[::1]",
        "user@push.example.org",
        "bücher.example",
        "ftp://push.example.org",
        "https://",
        "https://push.example.org/path",
        "https://*.example.org",
        "https://user@push.example.org",
        "https://push.example.org:99999",
        "https://push.example.org?x",
    ],
)
def test_malformed_entry_is_rejected_with_its_text(entry: str) -> None:
    """The error message quotes the entry."""
    with pytest.raises(ValueError, match="push host") as error:
        EndpointPolicy(["ok.example.org", entry])
    assert repr(entry.strip()) in str(error.value)


def test_host_of_no_vendor_is_named_by_its_host_name() -> None:
    """The push service of a host that belongs to no vendor has the host name as its name."""
    assert vendor_name("push.example.org") == "push.example.org"
    assert vendor_name("evilpush.apple.com") == "evilpush.apple.com"
    assert vendor_name("127.0.0.1:9090") == "127.0.0.1:9090"
