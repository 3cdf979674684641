"""VAPID tokens as an independent reader (PyJWT) sees them, when they are renewed, and who may sign."""

import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.push import vapid
from gateway.push.encryption import decode_base64url
from gateway.push.vapid import VapidKey, VapidSigner, check_subject

SUBJECT = "mailto:ops@example.com"
ORIGIN = "https://web.push.apple.com"
HOUR = 3600.0


def parts(header: str) -> tuple[str, str]:
    scheme, _, parameters = header.partition(" ")
    assert scheme == "vapid"
    token, key = parameters.split(",")
    assert token.startswith("t=")
    assert key.startswith("k=")
    return token[2:], key[2:]


def claims(header: str) -> dict[str, object]:
    """Verified with the key that the header itself names, as a push service does."""
    token, key = parts(header)
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), decode_base64url(key))
    told: dict[str, object] = jwt.decode(token, public, algorithms=["ES256"], audience=ORIGIN)
    return told


def test_the_token_says_who_to_whom_and_until_when() -> None:
    key, now = VapidKey.generate(), time.time()
    header = VapidSigner().authorization_header(key, SUBJECT, ORIGIN, now)
    assert claims(header) == {"aud": ORIGIN, "sub": SUBJECT, "exp": int(now + 12 * HOUR)}
    assert jwt.get_unverified_header(parts(header)[0]) == {"typ": "JWT", "alg": "ES256"}
    assert parts(header)[1] == key.public_text


def test_another_keys_signature_does_not_verify() -> None:
    token, _ = parts(VapidSigner().authorization_header(VapidKey.generate(), SUBJECT, ORIGIN, time.time()))
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(token, VapidKey.generate().private.public_key(), algorithms=["ES256"], audience=ORIGIN)


def test_an_https_subject_that_py_vapid_refuses_is_signed() -> None:
    header = VapidSigner().authorization_header(VapidKey.generate(), "https://example.com/contact", ORIGIN, time.time())
    assert claims(header)["sub"] == "https://example.com/contact"


def test_an_origin_with_a_port_is_signed() -> None:
    header = VapidSigner().authorization_header(VapidKey.generate(), SUBJECT, "http://127.0.0.1:9090", time.time())
    token, _ = parts(header)
    assert jwt.decode(token, options={"verify_signature": False})["aud"] == "http://127.0.0.1:9090"


def test_a_header_is_reused_until_an_hour_before_it_expires() -> None:
    key, signer, now = VapidKey.generate(), VapidSigner(), time.time()
    first = signer.authorization_header(key, SUBJECT, ORIGIN, now)
    assert signer.authorization_header(key, SUBJECT, ORIGIN, now + 10.99 * HOUR) == first
    renewed = signer.authorization_header(key, SUBJECT, ORIGIN, now + 11.01 * HOUR)
    assert renewed != first
    assert claims(renewed)["exp"] == int(now + 23.01 * HOUR)


def test_a_header_survives_a_small_step_of_the_clock_and_not_a_large_one() -> None:
    key, signer, now = VapidKey.generate(), VapidSigner(), time.time()
    first = signer.authorization_header(key, SUBJECT, ORIGIN, now)
    assert signer.authorization_header(key, SUBJECT, ORIGIN, now - 60) == first
    assert signer.authorization_header(key, SUBJECT, ORIGIN, now - 13 * HOUR) != first


def test_each_key_subject_and_origin_has_its_own_header() -> None:
    signer, now = VapidSigner(), time.time()
    keys = VapidKey.generate(), VapidKey.generate()
    headers = {
        signer.authorization_header(key, subject, origin, now)
        for key in keys
        for subject in (SUBJECT, "mailto:other@example.com")
        for origin in (ORIGIN, "https://fcm.googleapis.com")
    }
    assert len(headers) == 8


def test_the_oldest_header_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vapid, "MAX_CACHED_HEADERS", 2)
    key, signer, now = VapidKey.generate(), VapidSigner(), time.time()
    first, second, _ = (signer.authorization_header(key, SUBJECT, f"https://{host}.example.com", now) for host in "abc")
    assert signer.authorization_header(key, SUBJECT, "https://b.example.com", now) == second
    assert signer.authorization_header(key, SUBJECT, "https://a.example.com", now) != first


def test_a_key_comes_back_from_its_32_octets() -> None:
    key = VapidKey.generate()
    assert len(key.private_bytes()) == 32
    again = VapidKey.from_private_bytes(key.private_bytes())
    assert again == key
    assert again.private_bytes() == key.private_bytes()
    assert (len(again.public_key), again.public_key[0]) == (65, 4)
    assert decode_base64url(again.public_text) == again.public_key


@pytest.mark.parametrize("scalar", [b"", bytes(31), bytes(33), bytes(32), b"\xff" * 32])
def test_octets_that_are_no_private_key_are_refused(scalar: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        VapidKey.from_private_bytes(scalar)


def test_a_key_does_not_show_its_private_part() -> None:
    assert "private" not in repr(VapidKey.generate())


@pytest.mark.parametrize(
    "subject",
    [
        "mailto:ops@example.com",
        "mailto:first.last+push@mail.example.co.uk",
        "https://example.com",
        "https://x.y/",
        "https://example.com/contact?topic=push",
        "https://example.com:8443/contact",
        "https://xn--bcher-kva.example/",
    ],
)
def test_a_real_address_is_a_subject(subject: str) -> None:
    assert check_subject(subject) is None


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "ops@example.com",
        "mailto:",
        "mailto:ops",
        "mailto:@example.com",
        "mailto:ops@",
        "mailto:ops@localhost",
        "mailto:ops@push.localhost",
        "mailto:ops@printer.local",
        "mailto:ops@PRINTER.LOCAL",
        "mailto:ops@example.invalid",
        "mailto: ops@example.com",
        "mailto:ops@example.com ",
        "mailto:ops@example.com\n",
        "mailto:<ops@example.com>",
        "mailto:Ops <ops@example.com>",
        "mailto:a@example.com,b@example.com",
        "mailto:ops@example.com?subject=hi",
        "mailto:.ops@example.com",
        "mailto:o..ps@example.com",
        "mailto:ops@example",
        "mailto:ops@example..com",
        "mailto:ops@-example.com",
        "mailto:ops@192.0.2.1",
        "mailto:öps@example.com",
        "MAILTO:ops@example.com",
        "http://example.com/",
        "https://",
        "https:example.com",
        "https://localhost",
        "https://localhost:8443/",
        "https://printer.local/",
        "https://example.invalid/",
        "https://192.0.2.1/",
        "https://[2001:db8::1]/",
        "https://[::1/",
        "https://user@example.com/",
        "https://example.com:port/",
        "https://exa mple.com/",
        "https://example.com/\n",
        "https://bücher.example/",
        "https://example.com/" + "x" * 300,
    ],
)
def test_what_apple_would_refuse_is_no_subject(subject: str) -> None:
    assert check_subject(subject)
