"""VAPID: tokens verified with an independent library (PyJWT), their renewal, and valid subjects."""

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


def split_header(header: str) -> tuple[str, str]:
    """Return the token and the public key of an Authorization header."""
    scheme, _, parameters = header.partition(" ")
    assert scheme == "vapid"
    token, key = parameters.split(",")
    assert token.startswith("t=")
    assert key.startswith("k=")
    return token[2:], key[2:]


def verified_claims(header: str) -> dict[str, object]:
    """Verify the token with the key in the header, as a push service does."""
    token, key = split_header(header)
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), decode_base64url(key))
    payload: dict[str, object] = jwt.decode(token, public, algorithms=["ES256"], audience=ORIGIN)
    return payload


def test_token_has_subject_audience_and_expiry() -> None:
    """The token has the claims of RFC 8292, and the Authorization header contains the public key."""
    key, now = VapidKey.generate(), time.time()
    header = VapidSigner().authorization_header(key, SUBJECT, ORIGIN, now)
    assert verified_claims(header) == {"aud": ORIGIN, "sub": SUBJECT, "exp": int(now + 12 * HOUR)}
    assert jwt.get_unverified_header(split_header(header)[0]) == {"typ": "JWT", "alg": "ES256"}
    assert split_header(header)[1] == key.public_text


def test_token_does_not_verify_with_another_key() -> None:
    """A token verifies only with the key that signed it."""
    token, _ = split_header(VapidSigner().authorization_header(VapidKey.generate(), SUBJECT, ORIGIN, time.time()))
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(token, VapidKey.generate().private.public_key(), algorithms=["ES256"], audience=ORIGIN)


def test_https_subject_is_signed() -> None:
    """The subject may be an https URL."""
    header = VapidSigner().authorization_header(VapidKey.generate(), "https://example.com/contact", ORIGIN, time.time())
    assert verified_claims(header)["sub"] == "https://example.com/contact"


def test_origin_with_port_is_signed() -> None:
    """The audience of an endpoint with a port contains the port."""
    header = VapidSigner().authorization_header(VapidKey.generate(), SUBJECT, "http://127.0.0.1:9090", time.time())
    token, _ = split_header(header)
    assert jwt.decode(token, options={"verify_signature": False})["aud"] == "http://127.0.0.1:9090"


def test_header_is_reused_until_an_hour_before_expiry() -> None:
    """The signer makes a new header when less than an hour of the old one's validity is left."""
    key, signer, now = VapidKey.generate(), VapidSigner(), time.time()
    first = signer.authorization_header(key, SUBJECT, ORIGIN, now)
    assert signer.authorization_header(key, SUBJECT, ORIGIN, now + 10.99 * HOUR) == first
    renewed = signer.authorization_header(key, SUBJECT, ORIGIN, now + 11.01 * HOUR)
    assert renewed != first
    assert verified_claims(renewed)["exp"] == int(now + 23.01 * HOUR)


def test_header_is_renewed_after_large_clock_step() -> None:
    """After the clock was set back by 13 hours, a cached header would expire later than RFC 8292 allows."""
    key, signer, now = VapidKey.generate(), VapidSigner(), time.time()
    first = signer.authorization_header(key, SUBJECT, ORIGIN, now)
    assert signer.authorization_header(key, SUBJECT, ORIGIN, now - 60) == first
    assert signer.authorization_header(key, SUBJECT, ORIGIN, now - 13 * HOUR) != first


def test_headers_differ_by_key_subject_and_origin() -> None:
    """Two keys, two subjects and two origins give eight headers."""
    signer, now = VapidSigner(), time.time()
    keys = VapidKey.generate(), VapidKey.generate()
    headers = {
        signer.authorization_header(key, subject, origin, now)
        for key in keys
        for subject in (SUBJECT, "mailto:other@example.com")
        for origin in (ORIGIN, "https://fcm.googleapis.com")
    }
    assert len(headers) == 8


def test_oldest_header_is_evicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a limit of two cached headers, the third evicts the first."""
    monkeypatch.setattr(vapid, "MAX_CACHED_HEADERS", 2)
    key, signer, now = VapidKey.generate(), VapidSigner(), time.time()
    first, second, _ = (signer.authorization_header(key, SUBJECT, f"https://{host}.example.com", now) for host in "abc")
    assert signer.authorization_header(key, SUBJECT, "https://b.example.com", now) == second
    assert signer.authorization_header(key, SUBJECT, "https://a.example.com", now) != first


def test_key_round_trips_through_32_octets() -> None:
    """A key restored from its private octets equals the original."""
    key = VapidKey.generate()
    assert len(key.private_bytes()) == 32
    restored = VapidKey.from_private_bytes(key.private_bytes())
    assert restored == key
    assert restored.private_bytes() == key.private_bytes()
    assert (len(restored.public_key), restored.public_key[0]) == (65, 4)
    assert decode_base64url(restored.public_text) == restored.public_key


@pytest.mark.parametrize("scalar", [b"", bytes(31), bytes(33), bytes(32), b"\xff" * 32])
def test_invalid_private_key_is_rejected(scalar: bytes) -> None:
    """Octets that are not a private key of the curve raise ValueError."""
    with pytest.raises(ValueError, match=r"."):
        VapidKey.from_private_bytes(scalar)


def test_key_repr_hides_the_private_key() -> None:
    """A key in a log or a traceback does not reveal its private part."""
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
def test_valid_subject_is_accepted(subject: str) -> None:
    """A mail address or an https URL with a public host is valid."""
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
def test_subject_that_apple_rejects_is_rejected(subject: str) -> None:
    """Apple rejects tokens with such a subject, so the gateway does not accept it from an application."""
    assert check_subject(subject)
