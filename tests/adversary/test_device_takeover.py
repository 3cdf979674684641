"""Devices: a stranger who knows only an endpoint cannot take its device over or register it again."""

from collections.abc import Mapping
from typing import Any

import pytest

from gateway.domain import ids
from gateway.push.encryption import encode_base64url
from gateway.sim import DeviceKeys, Vendor
from gateway.web.http.client_address import ClientAddressResolver
from gateway.web.http.rate_limits import AddressBuckets, SharedBuckets
from tests.support.api import Api, ApiResponse
from tests.support.bystander import Bystander
from tests.support.gateway_parts import APP_ORIGIN

# Subscription keys of a stranger, which do not belong to the endpoint.
STRANGER = DeviceKeys.generate()
STRANGERS_KEYS = {"p256dh": encode_base64url(STRANGER.p256dh), "auth": encode_base64url(STRANGER.auth)}


async def register(api: Api, body: Mapping[str, Any], address: str = "198.51.100.1") -> ApiResponse:
    """Register with the publishable key, as a page does; `address` is the client address after `trust_proxy`."""
    headers = {"X-Forwarded-For": address}
    return await api.call("POST", "/v1/devices", body, key=api.publishable, origin=APP_ORIGIN, headers=headers)


def trust_proxy(api: Api, **limiters: Any) -> None:
    """Take the client address from X-Forwarded-For, and set limiters of the server."""
    api.state.client_addresses = ClientAddressResolver(["127.0.0.1"])
    for name, limiter in limiters.items():
        setattr(api.state.limits, name, limiter)


def stop_clock() -> float:
    """Return a constant time, so that buckets never refill, however slow the machine is."""
    return 0.0


def with_endpoint(body: Mapping[str, Any], endpoint: str) -> dict[str, Any]:
    """Return the registration with `endpoint` instead of its endpoint."""
    return {**body, "subscription": {**body["subscription"], "endpoint": endpoint}}


def with_strangers_keys(body: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """Return the registration with the stranger's keys, and with `fields`."""
    return {**body, "subscription": {**body["subscription"], "keys": STRANGERS_KEYS}, **fields}


async def test_endpoint_alone_does_not_take_device_over(api: Api) -> None:
    """A stranger who knows the endpoint changes neither keys nor user, and gets no token."""
    body = api.device(user_id="anna", topics=["weather"])
    device = (await register(api, body)).body
    refused = await register(api, with_strangers_keys(body, user_id="eve", topics=["ads"]))
    assert (refused.status, refused.body["code"]) == (403, "device_proof_required")
    stored = await api.call_ok("GET", f"/v1/devices/{device['id']}")
    assert (stored["user_id"], stored["topics"]) == ("anna", ["weather"])
    async with api.parts.run_worker():
        sent = await api.call_ok(
            "POST", "/v1/notifications", {"audience": {"user_id": "anna"}, "content": {"title": "Hello anna"}}
        )
        assert (await api.parts.wait_until_done(ids.parse(ids.NOTIFICATION, sent["id"]) or ids.new_id())).accepted == 1


async def test_browser_and_token_holder_refresh_the_device(api: Api) -> None:
    """A registration with the stored keys refreshes the device; with other keys it needs the device's token."""
    body = api.device()
    device = (await register(api, body)).body
    assert (await register(api, body)).body == device
    renewed = await register(api, with_strangers_keys(body, device_token=device["device_token"]))
    assert (renewed.status, renewed.body) == (200, device)
    assert (await register(api, body)).status == 403
    other_device = (await register(api, api.device())).body
    assert (await register(api, {**body, "device_token": other_device["device_token"]})).status == 403
    assert (await register(api, {**body, "device_token": "dt_guessed"})).status == 403


async def test_back_end_may_replace_the_keys(api: Api) -> None:
    """A registration with the secret key may replace the keys of a device without its token."""
    body = api.device()
    device = (await register(api, body)).body
    replaced = await api.call("POST", "/v1/devices", with_strangers_keys(body))
    assert (replaced.status, replaced.body["id"]) == (200, device["id"])


@pytest.mark.parametrize("vendor", [Vendor.FCM, Vendor.MOZILLA, Vendor.WNS])
async def test_spellings_of_an_endpoint_are_one_device(api: Api, vendor: Vendor) -> None:
    """A stranger cannot register a device again under another spelling of its endpoint."""
    body = api.device(vendor)
    device = (await register(api, body)).body
    endpoint = body["subscription"]["endpoint"]
    separator = "&" if "?" in endpoint else "?"
    for spelling in (f"{endpoint}{separator}x=1", f"{endpoint}{separator}x=2"):
        refused = await register(api, with_strangers_keys(with_endpoint(body, spelling)))
        assert (refused.status, refused.body["code"]) == (403, "device_proof_required"), spelling
        assert (await register(api, with_endpoint(body, spelling))).body == device
    assert (await api.rows())["devices"] == 1


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://fcm.googleapis.com/v1/projects/shop/messages:send",
        "https://fcm.googleapis.com/fcm/send",
        "https://updates.push.services.mozilla.com/v1/aud",
        "https://api.push.apple.com/3/device/00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0",
        "https://db5p.notify.windows.com/admin?token=BQYAAA",
        "https://permanently-removed.invalid/fcm/send/cQz1",
    ],
)
async def test_vendor_api_is_no_endpoint(api: Api, endpoint: str) -> None:
    """URLs of a push service that are no push endpoints cannot be registered."""
    refused = await register(api, with_endpoint(api.device(), endpoint))
    assert (refused.status, refused.body["code"]) == (422, "endpoint_not_allowed")
    assert (await api.rows())["devices"] == 0


async def test_invented_devices_use_up_no_other_address(api: Api) -> None:
    """An address that invents devices gets half of the application's new devices; other addresses can register."""
    trust_proxy(api, new_device_buckets=SharedBuckets("new devices", 8, stop_clock))
    invented = [api.device() for _ in range(8)]
    statuses = [(await register(api, body)).status for body in invented]
    assert statuses == [201] * 4 + [429] * 4
    assert (await register(api, invented[0])).status == 200
    assert [(await register(api, api.device(), "203.0.113.7")).status for _ in range(2)] == [201, 201]
    assert (await register(api, api.device(), "203.0.113.8")).status == 201


async def test_new_devices_of_an_address_are_limited(api: Api) -> None:
    """An address can register two new devices, and all addresses of an IPv6 /56 network count as one address."""
    buckets = AddressBuckets("new devices", 2, stop_clock)
    trust_proxy(api, new_device_address_buckets=buckets)
    for first, second, third in (("198.51.100.1",) * 3, ("2001:db8::1", "2001:db8:0:1::1", "2001:db8:0:ff::1")):
        statuses = [(await register(api, api.device(), address)).status for address in (first, second, third)]
        assert statuses == [201, 201, 429]
    assert (await register(api, api.device(), "2001:db8:0:100::1")).status == 201
    # Registrations with the secret key are not limited.
    assert {(await api.call("POST", "/v1/devices", api.device())).status for _ in range(3)} == {201}


async def test_ipv6_site_is_limited_as_a_whole(api: Api) -> None:
    """All addresses of an IPv6 /48 network together get eight times the limit of one /56 network."""
    trust_proxy(api, address_buckets=AddressBuckets("address", 1, stop_clock))
    path, key = "/v1/vapid-public-key", {"key": api.publishable, "origin": APP_ORIGIN}
    for site, expected in (("2001:db8:1", [200] * 8 + [429]), ("2001:db8:2", [200] * 8 + [429])):
        addresses = [f"{site}:{number}00::1" for number in range(1, 10)]
        responses = [await api.call("GET", path, headers={"X-Forwarded-For": address}, **key) for address in addresses]
        assert [response.status for response in responses] == expected


async def test_publishable_key_is_shared_among_addresses(api: Api) -> None:
    """One address cannot use up the rate limit of the publishable key: others still get requests."""
    trust_proxy(api, publishable_key_buckets=SharedBuckets("key", 12, stop_clock))
    for address, refused in (("198.51.100.1", 6), ("198.51.100.2", 9)):
        assert [(await register(api, {}, address)).status for _ in range(12)].count(429) == refused
    assert (await register(api, api.device(), "203.0.113.7")).status == 201


async def test_endpoint_may_be_registered_in_two_applications(api: Api, bystander: Bystander) -> None:
    """A stranger's registration in one application changes no device of another, whose alert is on time."""
    for subscriber in list(api.parts.sim.subscribers)[:3]:
        body = {"subscription": subscriber.to_json()}
        assert (await register(api, with_strangers_keys(body))).status == 201
    await bystander.check_alert()
