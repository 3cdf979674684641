"""The keyring: a ciphertext is bound to its key and purpose, and tokens cannot be forged."""

import os
import time
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.ids import new_id
from gateway.service.access.secrets import MIN_MASTER_KEY_LENGTH, DecryptionFailed, Keyring, digest, new_key

KEYRING = Keyring(b"k" * MIN_MASTER_KEY_LENGTH)
OTHER_KEYRING = Keyring(b"s" * MIN_MASTER_KEY_LENGTH)
BASE64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
NOW = 1_800_000_000
uuids = st.uuids()


@given(st.binary(max_size=200), st.sampled_from(["vapid", "identity", "idempotency"]))
def test_encrypted_data_decrypts(data: bytes, purpose: str) -> None:
    """Encrypted data decrypts with the same key and purpose."""
    assert KEYRING.open(KEYRING.seal(data, purpose), purpose) == data


@given(st.binary(max_size=100))
def test_other_key_or_purpose_does_not_decrypt(data: bytes) -> None:
    """Decryption with another key or another purpose raises DecryptionFailed."""
    sealed = KEYRING.seal(data, "vapid")
    for keyring, purpose in ((OTHER_KEYRING, "vapid"), (KEYRING, "identity"), (KEYRING, "")):
        with pytest.raises(DecryptionFailed):
            keyring.open(sealed, purpose)


@given(st.binary(max_size=60), st.data())
def test_changed_ciphertext_does_not_decrypt(data: bytes, draws: st.DataObject) -> None:
    """Decryption of a ciphertext with one changed octet raises DecryptionFailed."""
    sealed = bytearray(KEYRING.seal(data, "vapid"))
    sealed[draws.draw(st.integers(0, len(sealed) - 1))] ^= draws.draw(st.integers(1, 255))
    with pytest.raises(DecryptionFailed):
        KEYRING.open(bytes(sealed), "vapid")


@given(st.binary(max_size=60))
def test_random_bytes_do_not_decrypt(octets: bytes) -> None:
    """Random bytes do not decrypt."""
    with pytest.raises(DecryptionFailed):
        KEYRING.open(octets, "vapid")


def test_ciphertexts_of_equal_data_differ() -> None:
    """Encrypting the same data twice gives different ciphertexts."""
    assert KEYRING.seal(b"secret", "vapid") != KEYRING.seal(b"secret", "vapid")
    assert b"secret" not in KEYRING.seal(b"secret", "vapid")


def test_short_master_key_is_refused() -> None:
    """A master key that is too short is refused."""
    with pytest.raises(ValueError, match="32 octets"):
        Keyring(os.urandom(MIN_MASTER_KEY_LENGTH - 1))


@given(uuids)
def test_device_token_is_valid_for_its_keyring_only(device_id: UUID) -> None:
    """A device token contains the id of its device, and is valid only for the keyring that issued it."""
    token = KEYRING.issue_device_token(device_id)
    assert token.startswith("dt_")
    assert KEYRING.verify_device_token(token) == device_id
    assert OTHER_KEYRING.verify_device_token(token) is None


@given(uuids, uuids, st.none() | st.integers(0, 9), st.integers(NOW, NOW + 10_000_000))
def test_receipt_token_is_valid_until_it_expires(
    notification_id: UUID, device_id: UUID, variant: int | None, expires: int
) -> None:
    """A receipt token contains the ids of its delivery, and is valid until it expires."""
    token = KEYRING.issue_receipt_token(notification_id, device_id, variant, expires)
    assert len(token) == 66
    assert KEYRING.verify_receipt_token(token, NOW) == (notification_id, device_id, variant)
    assert KEYRING.verify_receipt_token(token, expires) == (notification_id, device_id, variant)
    assert KEYRING.verify_receipt_token(token, expires + 1) is None
    assert OTHER_KEYRING.verify_receipt_token(token, NOW) is None


@given(uuids, uuids, st.integers(0, 63), st.integers(1, 63))
def test_token_with_one_changed_character_is_invalid(first_id: UUID, second_id: UUID, position: int, step: int) -> None:
    """A token with one changed character is invalid."""
    receipt, device = KEYRING.issue_receipt_token(first_id, second_id, None, NOW), KEYRING.issue_device_token(first_id)
    for token, read in (
        (receipt, lambda text: KEYRING.verify_receipt_token(text, NOW)),
        (device, KEYRING.verify_device_token),
    ):
        index = position % len(token)
        changed = BASE64URL[(BASE64URL.index(token[index]) + step) % 64]
        assert read(token[:index] + changed + token[index + 1 :]) is None


@given(st.integers(0, 70))
def test_truncated_or_longer_token_is_invalid(length: int) -> None:
    """A truncated or extended token is invalid."""
    receipt, device = KEYRING.issue_receipt_token(new_id(), new_id(), None, NOW), KEYRING.issue_device_token(new_id())
    for token, read in (
        (receipt, lambda text: KEYRING.verify_receipt_token(text, NOW)),
        (device, KEYRING.verify_device_token),
    ):
        if length < len(token):
            assert read(token[:length]) is None
        assert read(token + "A" * (length + 1)) is None
        assert read(token + "=" * (length + 1)) is None


@given(st.text(max_size=80))
def test_arbitrary_text_is_no_token(text: str) -> None:
    """Arbitrary text is not a token and raises no error."""
    for token in (text, f"dt_{text}"):
        assert KEYRING.verify_device_token(token) is None
        assert KEYRING.verify_receipt_token(token, NOW) is None


def test_token_kinds_are_not_interchangeable() -> None:
    """A device token is no valid receipt token, and a receipt token is no valid device token."""
    device_id = new_id()
    assert KEYRING.verify_receipt_token(KEYRING.issue_device_token(device_id), int(time.time())) is None
    assert KEYRING.verify_device_token("dt_" + KEYRING.issue_receipt_token(new_id(), device_id, None, NOW)) is None
    assert KEYRING.verify_device_token(KEYRING.issue_device_token(device_id).removeprefix("dt_")) is None


def test_keys_are_unique_and_have_unique_digests() -> None:
    """New keys and their digests are unique."""
    keys = {new_key("sk") for _ in range(100)}
    assert len(keys) == len({digest(key) for key in keys}) == 100
    assert all(key.startswith("sk_") and len(key) >= 46 for key in keys)
