"""The four simulated vendors: which requests they accept, and the status and reason of each refusal."""

import json
import time
from typing import Any
from unittest.mock import ANY

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from http_ece import encrypt as http_ece_encrypt
from sim_sender import Sender, encrypt

from gateway.sim import DeviceKeys, Sim, Undecryptable, Vendor
from gateway.sim.base64url import decode
from gateway.sim.keys import load_point
from gateway.sim.profiles import SimFault

ALL_VENDORS = list(Vendor)
DAY_S = 86_400


# (status, reason) of each vendor for each fault, as observed and documented; ANY where the reason is not fixed.
F, M, A, W = Vendor.FCM, Vendor.MOZILLA, Vendor.APPLE, Vendor.WNS
REFUSALS: dict[SimFault, dict[Vendor, tuple[int, object]]] = {
    SimFault.UNKNOWN: {F: (404, ANY), M: (404, 102), A: (404, "BadDeviceToken"), W: (404, ANY)},
    SimFault.GONE: {F: (410, ANY), M: (410, 106), A: (410, "Unregistered"), W: (410, ANY)},
    SimFault.NO_TTL: {F: (400, ANY), M: (400, 111), A: (400, "BadTtl"), W: (400, ANY)},
    SimFault.BAD_TTL: {F: (400, ANY), M: (400, 112), A: (400, "BadTtl"), W: (400, ANY)},
    SimFault.BAD_TOPIC: {F: (400, ANY), M: (400, 113), A: (400, "BadWebPushTopic"), W: (400, ANY)},
    SimFault.BAD_URGENCY: {F: (400, ANY), M: (400, None), A: (400, "BadUrgency"), W: (400, ANY)},
    SimFault.BAD_ENCODING: {F: (400, ANY), M: (400, 110), A: (400, ANY), W: (400, ANY)},
    SimFault.TOO_LARGE: {F: (413, ANY), M: (413, 104), A: (413, "PayloadTooLarge"), W: (413, ANY)},
    SimFault.NO_VAPID: {F: (400, "UnauthorizedRegistration"), M: (401, 109), A: (403, "BadJwtToken"), W: (401, ANY)},
    SimFault.BAD_VAPID: {F: (403, "invalid JWT provided"), M: (401, 109), A: (403, "BadJwtToken"), W: (401, ANY)},
    SimFault.BAD_AUDIENCE: {F: (403, ANY), M: (401, 109), A: (403, "BadJwtToken"), W: (401, ANY)},
    SimFault.BAD_EXPIRY: {F: (403, "invalid JWT provided"), M: (401, 109), A: (403, "BadJwtToken"), W: (401, ANY)},
    SimFault.WRONG_KEY: {F: (403, ANY), M: (401, 109), A: (400, "VapidPkHashMismatch"), W: (403, ANY)},
}


def expected(vendor: Vendor, fault: SimFault) -> tuple[int, object]:
    """Return the expected (status, reason)."""
    return REFUSALS[fault][vendor]


async def test_each_vendor_has_its_own_origin(sim: Sim) -> None:
    """The four vendors have four different origins."""
    assert len(set(sim.origins.values())) == 4


@pytest.mark.parametrize("vendor", ALL_VENDORS)
async def test_accepted_message_decrypts_with_device_key(sim: Sim, sender: Sender, vendor: Vendor) -> None:
    """The log has the decrypted payload and the headers of an accepted message."""
    device = sim.subscribe(vendor, sender.public_key)
    reply = await sender.post(
        device.endpoint, encrypt(device, b'{"web_push": 8030}'), {"Topic": "a" * 32, "Urgency": "high"}
    )
    assert (reply.status, reply.headers["TTL"], reply.text) == (201, "60", "")
    assert reply.headers["Location"].startswith(sim.origins[vendor] + "/m/")
    [message] = device.messages
    assert message.json() == {"web_push": 8030}
    assert (message.ttl, message.urgency, message.topic, message.delivered) == (60, "high", "a" * 32, True)
    assert sim.counters[vendor] == {201: 1}


async def test_location_is_unique_per_message(sim: Sim, sender: Sender) -> None:
    """Every accepted message has a different URL."""
    device = sim.subscribe(Vendor.FCM)
    replies = [await sender.post(device.endpoint) for _ in range(3)]
    assert len({reply.headers["Location"] for reply in replies}) == 3


async def test_body_is_optional(sim: Sim, sender: Sender) -> None:
    """A message without a body is valid (RFC 8030 section 5)."""
    device = sim.subscribe(Vendor.FCM)
    assert (await sender.post(device.endpoint)).status == 201
    assert device.messages[0].payload == b""


@pytest.mark.parametrize(
    ("vendor", "requested", "granted"),
    [
        (Vendor.FCM, 40 * DAY_S, 28 * DAY_S),
        (Vendor.MOZILLA, 40 * DAY_S, 30 * DAY_S),
        (Vendor.APPLE, 40 * DAY_S, 30 * DAY_S),
        (Vendor.WNS, 40 * DAY_S, 40 * DAY_S),
        (Vendor.MOZILLA, 10**30, 30 * DAY_S),
    ],
)
async def test_long_ttl_is_clamped_to_vendor_limit(
    sim: Sim, sender: Sender, vendor: Vendor, requested: int, granted: int
) -> None:
    """The response has the time to live that the vendor grants."""
    device = sim.subscribe(vendor)
    reply = await sender.post(device.endpoint, headers={"TTL": str(requested)})
    assert (reply.status, reply.headers["TTL"], device.messages[0].ttl) == (201, str(granted), granted)


@pytest.mark.parametrize("vendor", ALL_VENDORS)
@pytest.mark.parametrize(
    ("fault", "headers"),
    [
        (SimFault.NO_TTL, {"TTL": None}),
        (SimFault.BAD_TTL, {"TTL": "soon"}),
        (SimFault.BAD_TTL, {"TTL": "-1"}),
        (SimFault.BAD_TOPIC, {"Topic": "x" * 33}),
        (SimFault.BAD_TOPIC, {"Topic": "no spaces"}),
        (SimFault.BAD_TOPIC, {"Topic": ""}),
        (SimFault.BAD_URGENCY, {"Urgency": "extreme"}),
        (SimFault.BAD_ENCODING, {"Content-Encoding": "identity"}),
        (SimFault.BAD_ENCODING, {"Content-Encoding": None}),
    ],
)
async def test_invalid_header_gets_vendor_error(
    sim: Sim, sender: Sender, vendor: Vendor, fault: SimFault, headers: dict[str, str | None]
) -> None:
    """A message with an invalid header is rejected in the format of the vendor."""
    device = sim.subscribe(vendor, sender.public_key)
    reply = await sender.post(device.endpoint, encrypt(device, b"hello"), headers)
    assert (reply.status, reply.reason()) == expected(vendor, fault)
    assert device.messages == []
    assert sim.counters[vendor] == {400: 1}


@pytest.mark.parametrize("vendor", ALL_VENDORS)
async def test_body_limit_is_4096_octets(sim: Sim, sender: Sender, vendor: Vendor) -> None:
    """A body of 4,096 octets is accepted, and one octet more is too large."""
    device = sim.subscribe(vendor, sender.public_key)
    body = encrypt(device, b"x" * 3993)
    assert len(body) == 4096
    assert (await sender.post(device.endpoint, body)).status == 201
    reply = await sender.post(device.endpoint, body + b"x")
    assert (reply.status, reply.reason()) == expected(vendor, SimFault.TOO_LARGE)
    assert device.messages[0].payload == b"x" * 3993


@pytest.mark.parametrize("vendor", ALL_VENDORS)
@pytest.mark.parametrize(
    ("fault", "claims"),
    [
        (SimFault.BAD_AUDIENCE, {"aud": "https://elsewhere.example"}),
        (SimFault.BAD_AUDIENCE, {"aud": None}),
        (SimFault.BAD_EXPIRY, {"exp": int(time.time()) - 1}),
        (SimFault.BAD_EXPIRY, {"exp": int(time.time()) + DAY_S + 3600}),
        (SimFault.BAD_EXPIRY, {"exp": "tomorrow"}),
        (SimFault.BAD_EXPIRY, {"exp": None}),
    ],
)
async def test_invalid_vapid_claim_is_rejected(
    sim: Sim, sender: Sender, vendor: Vendor, fault: SimFault, claims: dict[str, Any]
) -> None:
    """Each invalid claim gets the error that the vendor sends for it."""
    device = sim.subscribe(vendor, sender.public_key)
    authorization = sender.vapid(device.endpoint, **claims)
    reply = await sender.post(device.endpoint, headers={"Authorization": authorization})
    assert (reply.status, reply.reason()) == expected(vendor, fault)


@pytest.mark.parametrize("vendor", ALL_VENDORS)
async def test_restricted_subscription_needs_its_vapid_key(sim: Sim, sender: Sender, vendor: Vendor) -> None:
    """Without a valid token of the subscription's own VAPID key, a message is rejected."""
    device = sim.subscribe(vendor, sender.public_key)
    other_sender = Sender(sender.http)
    # A valid signature of another key, with the public key of this subscription.
    forged = other_sender.vapid(device.endpoint, key=sender.public_key)
    replies = (
        await sender.post(device.endpoint, headers={"Authorization": None}),
        await other_sender.post(device.endpoint),
        await sender.post(device.endpoint, headers={"Authorization": forged}),
        await sender.post(device.endpoint, headers={"Authorization": "vapid t=x.y.z, k=!"}),
        await sender.post(device.endpoint, headers={"Authorization": "Bearer abc"}),
    )
    faults = (SimFault.NO_VAPID, SimFault.WRONG_KEY, SimFault.BAD_VAPID, SimFault.BAD_VAPID, SimFault.BAD_VAPID)
    assert [(reply.status, reply.reason()) for reply in replies] == [expected(vendor, fault) for fault in faults]
    assert (await sender.post(device.endpoint)).status == 201
    assert len(device.messages) == 1


async def test_vapid_header_of_other_vendor_is_rejected(sim: Sim, sender: Sender) -> None:
    """A header that is valid for one vendor is refused by another, although the simulator caches valid headers."""
    fcm, apple = sim.subscribe(Vendor.FCM, sender.public_key), sim.subscribe(Vendor.APPLE, sender.public_key)
    header: dict[str, str | None] = {"Authorization": sender.vapid(fcm.endpoint)}
    assert (await sender.post(fcm.endpoint, headers=header)).status == 201
    assert (await sender.post(fcm.endpoint, headers=header)).status == 201
    assert (await sender.post(apple.endpoint, headers=header)).status == 403


async def test_cached_vapid_header_expires(sender: Sender) -> None:
    """A token that was accepted before is rejected after its expiry."""
    now = time.time()
    async with Sim(clock=lambda: now) as sim:
        device = sim.subscribe(Vendor.FCM, sender.public_key)
        header: dict[str, str | None] = {"Authorization": sender.vapid(device.endpoint)}
        assert (await sender.post(device.endpoint, headers=header)).status == 201
        now += 13 * 3600
        assert (await sender.post(device.endpoint, headers=header)).status == 403


@pytest.mark.parametrize(
    ("subject", "status"),
    [
        ("mailto:push@example.com", 201),
        ("https://example.com", 201),
        ("https://push.example.com/contact", 201),
        ("mailto:a@localhost", 403),
        ("mailto:a@host.local", 403),
        ("mailto:a@host.invalid", 403),
        ("https://localhost", 403),
        ("https://box.local/contact", 403),
        ("push@example.com", 403),
        ("mailto: a@example.com", 403),
        (None, 403),
    ],
)
async def test_apple_requires_a_reachable_subject(sim: Sim, sender: Sender, subject: str | None, status: int) -> None:
    """Apple rejects subjects that other vendors accept."""
    apple, fcm = sim.subscribe(Vendor.APPLE, sender.public_key), sim.subscribe(Vendor.FCM, sender.public_key)
    for device, expected_status in ((apple, status), (fcm, 201)):
        authorization = sender.vapid(device.endpoint, sub=subject)
        assert (await sender.post(device.endpoint, headers={"Authorization": authorization})).status == expected_status


@pytest.mark.parametrize(("length", "status"), [(1, 400), (2, 201), (3, 201), (4, 201), (29, 400), (32, 201)])
async def test_apple_rejects_topics_that_are_not_base64(sim: Sim, sender: Sender, length: int, status: int) -> None:
    """Apple rejects topics of a length that base64 text cannot have; Mozilla accepts them."""
    apple, mozilla = sim.subscribe(Vendor.APPLE), sim.subscribe(Vendor.MOZILLA)
    assert (await sender.post(apple.endpoint, headers={"Topic": "t" * length})).status == status
    assert (await sender.post(mozilla.endpoint, headers={"Topic": "t" * length})).status == 201


@pytest.mark.parametrize(
    ("ttl", "policy", "status"),
    [("0", None, 400), ("0", "cache", 400), ("0", "no-cache", 201), ("60", None, 201), ("60", "no-cache", 400)],
)
async def test_wns_cache_policy_must_match_ttl(
    sim: Sim, sender: Sender, ttl: str, policy: str | None, status: int
) -> None:
    """WNS drops a message whose cache policy contradicts its time to live."""
    device = sim.subscribe(Vendor.WNS)
    reply = await sender.post(device.endpoint, headers={"TTL": ttl, "X-WNS-Cache-Policy": policy})
    assert reply.status == status
    outcome = "received" if status == 201 else "dropped"
    assert (reply.headers["X-WNS-Status"], reply.headers["X-WNS-NotificationStatus"]) == (outcome, outcome)


@pytest.mark.parametrize("vendor", ALL_VENDORS)
async def test_unknown_and_gone_endpoints_differ(sim: Sim, sender: Sender, vendor: Vendor) -> None:
    """The simulator has a different error for an endpoint that never existed and one that has ended."""
    device = sim.subscribe(vendor, sender.public_key)
    unknown = await sender.post(device.endpoint[:-1])
    assert (unknown.status, unknown.reason()) == expected(vendor, SimFault.UNKNOWN)
    sim.unsubscribe(device)
    gone = await sender.post(device.endpoint)
    assert (gone.status, gone.reason()) == expected(vendor, SimFault.GONE)


async def test_endpoint_is_unknown_to_other_vendors(sim: Sim, sender: Sender) -> None:
    """An endpoint exists only at the origin of its vendor."""
    device = sim.subscribe(Vendor.FCM)
    at_other_vendor = device.endpoint.replace(sim.origins[Vendor.FCM], sim.origins[Vendor.APPLE])
    assert (await sender.post(at_other_vendor)).status == 404


async def test_mozilla_errors_are_json(sim: Sim, sender: Sender) -> None:
    """An error of Mozilla has the fields of autopush."""
    device = sim.subscribe(Vendor.MOZILLA)
    problem = json.loads((await sender.post(device.endpoint, headers={"TTL": None})).text)
    assert problem["code"] == 400
    assert problem["errno"] == 111
    assert problem["error"] == "Bad Request"
    assert problem["message"] == "Missing TTL value"


async def test_message_for_other_device_is_undecryptable(sim: Sim, sender: Sender) -> None:
    """The simulator accepts a message for another device, and reading its payload fails."""
    alice, bob = sim.subscribe(Vendor.FCM), sim.subscribe(Vendor.FCM)
    assert (await sender.post(bob.endpoint, encrypt(alice, b"for Alice"))).status == 201
    with pytest.raises(Undecryptable, match="not encrypted for this device"):
        _ = bob.messages[0].payload


@pytest.mark.parametrize("body", [b"", b"short", bytes(103), bytes(16) + b"\0\0\x10\0\x41" + bytes(82)])
def test_garbage_is_undecryptable(body: bytes) -> None:
    """A body that is not an encrypted message raises Undecryptable."""
    with pytest.raises(Undecryptable):
        DeviceKeys.generate().decrypt(body)


def test_message_with_several_records_is_rejected() -> None:
    """A push message must have a single record (RFC 8291 section 4)."""
    keys = DeviceKeys.generate()
    body = http_ece_encrypt(
        b"x" * 300,
        salt=bytes(16),
        private_key=ec.generate_private_key(ec.SECP256R1()),
        dh=keys.p256dh,
        auth_secret=keys.auth,
        version="aes128gcm",
        rs=100,
    )
    with pytest.raises(Undecryptable, match="one record"):
        keys.decrypt(body)


def test_rfc_8291_example_decrypts() -> None:
    """The keys and the message are those of RFC 8291 appendix A."""
    keys = DeviceKeys(
        int.from_bytes(decode("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94")),
        decode("BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"),
        decode("BTBZMqHH6r4Tts7J_aSIgg"),
    )
    body = (
        "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A"
        "_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
    )
    assert keys.decrypt(decode(body)) == b"When I grow up, I want to be a watermelon"


def test_invalid_vapid_key_cannot_subscribe() -> None:
    """A key that is not a point on the curve is an error."""
    with pytest.raises(ValueError, match=r"curve|key"):
        load_point(b"\x04" + bytes(63) + b"\x01")
    with pytest.raises(ValueError, match="65 octets"):
        load_point(b"\x04")
