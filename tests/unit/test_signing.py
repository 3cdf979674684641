"""Signatures of webhooks: the reference's own example, secrets that follow each other, what patterns ask for."""

from base64 import b64decode
from datetime import UTC, datetime, timedelta

from gateway.domain.webhook_event import PATTERNS, TYPES, subscribed_types
from gateway.service.access.secrets import Keyring
from gateway.service.webhooks import signing
from gateway.service.webhooks.signing import Secret

NOW = datetime(2026, 12, 1, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_the_example_of_the_reference_implementation_is_signed_alike() -> None:
    """From the Standard Webhooks libraries' own tests."""
    secret = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    now = datetime.fromtimestamp(1614265330, UTC)
    said = signing.headers([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}', now)
    assert said == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_every_secret_in_force_signs_the_newest_first() -> None:
    texts = [signing.new_secret() for _ in range(3)]
    held = [Secret(texts[0]), Secret(texts[1], NOW + HOUR), Secret(texts[2], NOW)]
    both = signing.headers(held, "msg_1", b"{}", NOW)["webhook-signature"].split(" ")
    alone = [signing.headers([Secret(text)], "msg_1", b"{}", NOW)["webhook-signature"] for text in texts]
    assert both == alone[:2]


def test_an_old_secret_ends_when_it_was_to_end_first() -> None:
    held = signing.rotate([Secret("a")], "b", 24 * HOUR, NOW)
    assert held == [Secret("b"), Secret("a", NOW + 24 * HOUR)]
    held = signing.rotate(held, "c", 48 * HOUR, NOW + HOUR)
    assert held == [Secret("c"), Secret("b", NOW + 49 * HOUR), Secret("a", NOW + 24 * HOUR)]
    assert signing.rotate(held, "d", 0 * HOUR, NOW + HOUR) == [Secret("d")]


def test_only_so_many_secrets_are_kept() -> None:
    held = [Secret("0")]
    for number in range(1, 20):
        held = signing.rotate(held, str(number), 24 * HOUR, NOW)
    assert [one.text for one in held] == ["19", "18", "17", "16", "15"]


def test_secrets_are_sealed_and_opened_as_they_were() -> None:
    vault = Keyring(b"a master key for tests, 32 octets")
    held = [Secret(signing.new_secret()), Secret(signing.new_secret(), NOW)]
    sealed = signing.seal(held, vault)
    assert signing.unseal(sealed, vault) == held
    assert held[0].text.encode() not in sealed
    assert held[0].text not in repr(held)
    assert len(b64decode(held[0].text.removeprefix("whsec_"))) == 32


def test_patterns_ask_for_a_type_a_family_or_everything() -> None:
    assert subscribed_types(["*"]) == list(TYPES)
    assert subscribed_types(["device.gone", "notification.*"]) == [
        *["device.gone", "notification.accepted", "notification.started", "notification.done"],
        *["notification.cancelled", "notification.paused", "notification.resumed"],
    ]
    assert all(subscribed_types([pattern]) for pattern in PATTERNS)
