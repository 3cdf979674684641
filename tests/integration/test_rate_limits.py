"""Rate limits per address and per key: a client cannot use up the limit of another client."""

import asyncio
from typing import Any

import pytest

from gateway.domain.errors import RateLimited
from gateway.web.http import rate_limits
from gateway.web.http.client_address import ClientAddressResolver
from gateway.web.http.rate_limits import SharedBuckets, TokenBuckets
from tests.support.api import ADMIN, Api
from tests.support.gateway_parts import APP_ORIGIN


def set_limits(api: Api, **limiters: Any) -> None:
    """Replace limiters of the server by name."""
    for name, limiter in limiters.items():
        setattr(api.state.limits, name, limiter)


def frozen_buckets(name: str, per_minute: int) -> TokenBuckets:
    """Return token buckets that never refill, so that a slow test has the same result."""
    return TokenBuckets(name, per_minute, clock=lambda: 0.0)


async def test_key_over_its_limit_gets_429_with_retry_after(api: Api) -> None:
    """A key over its limit gets 429 with Retry-After; other keys are not affected."""
    set_limits(api, key_buckets=frozen_buckets("key", 2))
    first_response = await api.call("GET", "/v1/devices")
    assert (first_response.headers["RateLimit-Policy"], first_response.headers["RateLimit"]) == (
        '"key";q=2;w=60',
        '"key";r=1;t=60',
    )
    assert (await api.call("GET", "/v1/devices")).status == 200
    refused = await api.call("GET", "/v1/devices")
    assert (refused.status, refused.body["code"], refused.headers["Retry-After"]) == (429, "rate_limited", "30")
    assert (await api.call("GET", "/v1/vapid-public-key", key=api.publishable, origin=APP_ORIGIN)).status == 200
    assert (await api.call("GET", "/v1/applications", key=ADMIN)).status == 200


async def test_rate_limited_request_has_no_effect(api: Api) -> None:
    """A rate-limited request changes nothing."""
    set_limits(api, publishable_key_buckets=SharedBuckets("key", 1, clock=lambda: 0.0))
    assert (await api.call("POST", "/v1/devices", api.device(), key=api.publishable, origin=APP_ORIGIN)).status == 201
    before = await api.rows()
    for path, body in (("/v1/devices", api.device()), ("/v1/devices", api.device())):
        response = await api.call("POST", path, body, key=api.publishable, origin=APP_ORIGIN)
        assert response.status == 429
    assert await api.rows() == before


async def test_inbox_read_with_a_key_counts_once(api: Api) -> None:
    """An inbox request with an API key takes one token of the key's bucket."""
    device = await api.register()
    set_limits(api, key_buckets=frozen_buckets("key", 2))
    for _ in range(2):
        assert (await api.call("GET", f"/v1/devices/{device['id']}/inbox")).status == 200
    assert (await api.call("GET", f"/v1/devices/{device['id']}/inbox")).status == 429


async def test_address_is_limited_before_authentication(api: Api) -> None:
    """An address over its limit is refused before its credential is checked."""
    set_limits(api, address_buckets=frozen_buckets("address", 2))
    for _ in range(2):
        assert (await api.call("GET", "/v1/devices", key="sk_guessed")).status == 401
    refused = await api.call("GET", "/v1/devices", key="sk_guessed")
    assert (refused.status, refused.headers["Retry-After"]) == (429, "30")
    assert refused.headers["Access-Control-Allow-Origin"] == "*"  # pages of other origins can read the problem
    for path in ("/healthz", "/readyz", "/sdk/webpush.js"):
        assert (await api.call("GET", path, key=None)).status == 200, path


async def test_clients_behind_a_proxy_count_separately(api: Api) -> None:
    """Clients behind a trusted proxy count separately."""
    set_limits(api, address_buckets=frozen_buckets("address", 1))
    api.state.client_addresses = ClientAddressResolver(["127.0.0.1"])
    for client in ("198.51.100.1", "198.51.100.2"):
        statuses = [
            (await api.call("GET", "/v1/devices", headers={"X-Forwarded-For": client})).status for _ in range(2)
        ]
        assert statuses == [200, 429]


async def test_untrusted_forwarded_header_is_ignored(api: Api) -> None:
    """A client that is not a trusted proxy cannot choose its address."""
    set_limits(api, address_buckets=frozen_buckets("address", 1))
    statuses = [
        (await api.call("GET", "/v1/devices", headers={"X-Forwarded-For": f"198.51.100.{number}"})).status
        for number in range(3)
    ]
    assert statuses == [200, 429, 429]


async def test_default_limits_allow_a_burst_of_a_page(api: Api) -> None:
    """The default limits allow a burst of 300 requests."""
    responses = await asyncio.gather(
        *(api.call("GET", "/v1/vapid-public-key", key=api.publishable, origin=APP_ORIGIN) for _ in range(300))
    )
    assert {response.status for response in responses} == {200}


def test_number_of_buckets_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of stored buckets is bounded."""
    monkeypatch.setattr(rate_limits, "MAX_BUCKETS", 100)
    buckets = frozen_buckets("address", 1)
    for number in range(1000):
        buckets.acquire(number)
    assert len(buckets) == 100
    with pytest.raises(RateLimited):
        buckets.acquire(999)
