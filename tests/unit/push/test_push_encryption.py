"""Message encryption against the example of RFC 8291 and two independent implementations."""

import os
from base64 import urlsafe_b64encode

import http_ece
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from pywebpush import WebPusher

from gateway.domain.device import Subscription
from gateway.domain.errors import FieldError, PayloadTooLarge
from gateway.push.encryption import MAX_PAYLOAD, check_keys, decode_base64url, encode_base64url, encrypt


class Browser:
    """The key pair and auth secret of a browser's subscription."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.auth = os.urandom(16)
        self.point = self.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.subscription = Subscription("https://fcm.googleapis.com/fcm/send/x", self.point, self.auth)

    def decrypt(self, body: bytes) -> bytes:
        plain: bytes = http_ece.decrypt(body, private_key=self.key, auth_secret=self.auth, version="aes128gcm")
        return plain


BROWSER = Browser()


def private_key(text: str) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(decode_base64url(text), "big"), ec.SECP256R1())


def test_encrypt_reproduces_rfc_8291_appendix_a() -> None:
    """With the salt and keys of the RFC's example, the message has the same octets."""
    body = encrypt(
        b"When I grow up, I want to be a watermelon",
        Subscription(
            "https://push.example.net/push/JzLQ3raZJfFBR0aqvOMsLrt54w4rJUsV",
            decode_base64url("BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"),
            decode_base64url("BTBZMqHH6r4Tts7J_aSIgg"),
        ),
        salt=decode_base64url("DGv6ra1nlYgDCS1FRnbzlw"),
        ephemeral=private_key("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"),
    )
    assert encode_base64url(body) == (
        "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6Tlz"
        "AC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
    )


@given(st.binary(max_size=MAX_PAYLOAD))
@settings(max_examples=60)
def test_http_ece_decrypts_the_message(payload: bytes) -> None:
    """The reference implementation decrypts every payload."""
    assert BROWSER.decrypt(encrypt(payload, BROWSER.subscription)) == payload


@given(st.binary(min_size=1, max_size=MAX_PAYLOAD))
@settings(max_examples=30)
def test_message_equals_pywebpush_in_size_and_content(payload: bytes) -> None:
    """The gateway and pywebpush encrypt a payload to messages of the same size, header and content."""
    reference = WebPusher(
        {
            "endpoint": BROWSER.subscription.endpoint,
            "keys": {"p256dh": encode_base64url(BROWSER.point), "auth": encode_base64url(BROWSER.auth)},
        }
    ).encode(payload)["body"]
    message = encrypt(payload, BROWSER.subscription)
    assert BROWSER.decrypt(reference) == BROWSER.decrypt(message) == payload
    assert len(reference) == len(message) == 86 + len(payload) + 1 + 16
    # Record size and key id length: the part of the header that is not random.
    assert reference[16:21] == message[16:21] == b"\x00\x00\x10\x00A"


def test_payload_limit_is_3993_octets() -> None:
    """The largest payload gives a message of 4,096 octets."""
    assert MAX_PAYLOAD == 3993
    assert len(encrypt(b"x" * 3993, BROWSER.subscription)) == 4096
    with pytest.raises(PayloadTooLarge, match="3994 bytes; one push message holds at most 3993"):
        encrypt(b"x" * 3994, BROWSER.subscription)


def test_messages_have_fresh_salt_and_key() -> None:
    """Two messages with the same payload have different salts and ephemeral keys."""
    first, second = (encrypt(b"same", BROWSER.subscription) for _ in range(2))
    assert first[:16] != second[:16]
    assert first[21:86] != second[21:86]


def test_wrong_auth_secret_cannot_decrypt() -> None:
    """Decryption needs the subscription's auth secret as well as its private key."""
    body = encrypt(b"secret", BROWSER.subscription)
    with pytest.raises(http_ece.ECEException):
        http_ece.decrypt(body, private_key=BROWSER.key, auth_secret=os.urandom(16), version="aes128gcm")


def test_valid_keys_have_no_errors() -> None:
    """A valid public key and auth secret pass the check."""
    assert check_keys(BROWSER.point, BROWSER.auth) == []


@pytest.mark.parametrize(
    ("point", "detail"),
    [
        (b"", "this is 0"),
        (BROWSER.point[:64], "this is 64"),
        (BROWSER.point + b"\0", "this is 66"),
        (b"\x03" + BROWSER.point[1:33], "this is 33"),  # a valid point, but compressed
        (b"\x05" + BROWSER.point[1:], "begins with the octet 4"),
        (BROWSER.point[:64] + bytes([BROWSER.point[64] ^ 1]), "not a point on the curve"),
        (b"\x04" + bytes(64), "not a point on the curve"),
        (b"\x04" + b"\xff" * 64, "not a point on the curve"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_key_off_the_curve_is_an_error(point: bytes, detail: str) -> None:
    """The error has the pointer of the public key and the reason."""
    [error] = check_keys(point, BROWSER.auth)
    assert error.pointer == "/p256dh"
    assert detail in error.detail


def flip_bit(octets: bytes, bit: int | None) -> bytes:
    """Return the octets with one bit changed, or unchanged for None."""
    return octets if bit is None else (int.from_bytes(octets, "big") ^ (1 << bit)).to_bytes(len(octets), "big")


# The prime of P-256's field: the coordinates of a point are numbers below P.
P = 2**256 - 2**224 + 2**192 + 2**96 - 1


@given(st.integers(1, 2**255), st.one_of(st.none(), st.integers(0, 511)))
@settings(max_examples=200)
def test_curve_check_agrees_with_cryptography(scalar: int, bit: int | None) -> None:
    """A point with one flipped bit, or with none, is accepted exactly if the library accepts it."""
    public = ec.derive_private_key(scalar, ec.SECP256R1()).public_key()
    point = flip_bit(public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint), bit)
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError:
        assert check_keys(point, BROWSER.auth) != []
    else:
        assert check_keys(point, BROWSER.auth) == []


def test_coordinate_above_the_field_is_rejected() -> None:
    """The curve has a point with x = 5; x = 5 + P would be another encoding of the same point."""
    x = 5
    y_squared = (x**3 - 3 * x + 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B) % P
    y = pow(y_squared, (P + 1) // 4, P)
    assert check_keys(b"\x04" + x.to_bytes(32, "big") + y.to_bytes(32, "big"), BROWSER.auth) == []
    point_above_field = b"\x04" + (x + P).to_bytes(32, "big") + y.to_bytes(32, "big")
    with pytest.raises(ValueError, match="Invalid EC key"):
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point_above_field)
    assert check_keys(point_above_field, BROWSER.auth) != []


def test_errors_of_both_keys_are_returned() -> None:
    """Invalid keys give one error each."""
    errors = check_keys(b"", b"x" * 15)
    assert [error.pointer for error in errors] == ["/p256dh", "/auth"]
    assert errors[1] == FieldError("/auth", "must be 16 octets; this is 15")


@given(st.binary(min_size=1, max_size=100))
def test_base64url_decodes_with_and_without_padding(octets: bytes) -> None:
    """The text with and the text without `=` at the end both decode to the original octets."""
    assert decode_base64url(encode_base64url(octets)) == octets
    assert decode_base64url(urlsafe_b64encode(octets).decode()) == octets


@pytest.mark.parametrize(
    "junk", ["", "=", "a", "abcde", "ab+/", "ab cd", "abcd\n", "ab=", "abc==", "abcd=", "äbcd", "٣٣٣٣"]
)
def test_invalid_base64url_is_rejected(junk: str) -> None:
    """Text that is not base64url raises ValueError."""
    with pytest.raises(ValueError, match="base64url"):
        decode_base64url(junk)
