"""Webhooks: signatures against the reference example, secret rotation, and event patterns."""

from base64 import b64decode
from datetime import UTC, datetime, timedelta

from gateway.domain.webhook_event import PATTERNS, TYPES, subscribed_types
from gateway.service.access.secrets import Keyring
from gateway.service.webhooks import signing
from gateway.service.webhooks.signing import Secret

NOW = datetime(2026, 12, 1, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_signature_matches_the_reference_example() -> None:
    """The example is from the tests of the Standard Webhooks reference libraries."""
    secret = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    now = datetime.fromtimestamp(1614265330, UTC)
    headers = signing.headers([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}', now)
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_every_valid_secret_signs_newest_first() -> None:
    """There is one signature per valid secret, in the order of the secrets; the expired third one has none."""
    texts = [signing.new_secret() for _ in range(3)]
    secrets = [Secret(texts[0]), Secret(texts[1], NOW + HOUR), Secret(texts[2], NOW)]
    signatures = signing.headers(secrets, "msg_1", b"{}", NOW)["webhook-signature"].split(" ")
    signatures_alone = [signing.headers([Secret(text)], "msg_1", b"{}", NOW)["webhook-signature"] for text in texts]
    assert signatures == signatures_alone[:2]


def test_rotation_does_not_extend_an_expiry() -> None:
    """A secret that has an expiry from a rotation before keeps that expiry; an overlap of 0 drops all old secrets."""
    secrets = signing.rotate([Secret("a")], "b", 24 * HOUR, NOW)
    assert secrets == [Secret("b"), Secret("a", NOW + 24 * HOUR)]
    secrets = signing.rotate(secrets, "c", 48 * HOUR, NOW + HOUR)
    assert secrets == [Secret("c"), Secret("b", NOW + 49 * HOUR), Secret("a", NOW + 24 * HOUR)]
    assert signing.rotate(secrets, "d", 0 * HOUR, NOW + HOUR) == [Secret("d")]


def test_number_of_secrets_is_bounded() -> None:
    """After many rotations only the five newest secrets remain."""
    secrets = [Secret("0")]
    for number in range(1, 20):
        secrets = signing.rotate(secrets, str(number), 24 * HOUR, NOW)
    assert [secret.text for secret in secrets] == ["19", "18", "17", "16", "15"]


def test_sealed_secrets_round_trip() -> None:
    """Decryption returns the same secrets; neither the ciphertext nor the repr contains their text."""
    keyring = Keyring(b"a master key for tests, 32 octets")
    stored = [Secret(signing.new_secret()), Secret(signing.new_secret(), NOW)]
    sealed = signing.seal(stored, keyring)
    assert signing.unseal(sealed, keyring) == stored
    assert stored[0].text.encode() not in sealed
    assert stored[0].text not in repr(stored)
    assert len(b64decode(stored[0].text.removeprefix("whsec_"))) == 32


def test_pattern_selects_one_type_or_a_family() -> None:
    """A pattern is one type, a family such as `device.*`, or `*` for every type."""
    assert subscribed_types(["*"]) == list(TYPES)
    assert subscribed_types(["device.gone", "notification.*"]) == [
        *["device.gone", "notification.accepted", "notification.started", "notification.done"],
        *["notification.cancelled", "notification.paused", "notification.resumed"],
    ]
    assert all(subscribed_types([pattern]) for pattern in PATTERNS)
