"""The vault: what is sealed opens for its own key and purpose only, and no token can be made by others."""

import os
import time
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain.ids import new_id
from gateway.service.access.secrets import MIN_MASTER_KEY_LENGTH, DecryptionFailed, Keyring, digest, new_key

VAULT = Keyring(b"k" * MIN_MASTER_KEY_LENGTH)
STRANGER = Keyring(b"s" * MIN_MASTER_KEY_LENGTH)
BASE64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
NOW = 1_800_000_000
UNHURRIED = settings(deadline=None)
uuids = st.uuids()


@UNHURRIED
@given(st.binary(max_size=200), st.sampled_from(["vapid", "identity", "idempotency"]))
def test_encrypted_data_decrypts(data: bytes, purpose: str) -> None:
    """Encrypted data decrypts with the same key and purpose."""
    assert VAULT.open(VAULT.seal(data, purpose), purpose) == data


@UNHURRIED
@given(st.binary(max_size=100))
def test_other_key_or_purpose_does_not_decrypt(data: bytes) -> None:
    """Another key or purpose does not decrypt it."""
    sealed = VAULT.seal(data, "vapid")
    for vault, purpose in ((STRANGER, "vapid"), (VAULT, "identity"), (VAULT, "")):
        with pytest.raises(DecryptionFailed):
            vault.open(sealed, purpose)


@UNHURRIED
@given(st.binary(max_size=60), st.data())
def test_changed_ciphertext_does_not_decrypt(data: bytes, choose: st.DataObject) -> None:
    """A changed ciphertext does not decrypt."""
    sealed = bytearray(VAULT.seal(data, "vapid"))
    sealed[choose.draw(st.integers(0, len(sealed) - 1))] ^= choose.draw(st.integers(1, 255))
    with pytest.raises(DecryptionFailed):
        VAULT.open(bytes(sealed), "vapid")


@UNHURRIED
@given(st.binary(max_size=60))
def test_random_bytes_do_not_decrypt(octets: bytes) -> None:
    """Random bytes do not decrypt."""
    with pytest.raises(DecryptionFailed):
        VAULT.open(octets, "vapid")


def test_ciphertexts_of_equal_data_differ() -> None:
    """Encrypting the same data twice gives different ciphertexts."""
    assert VAULT.seal(b"secret", "vapid") != VAULT.seal(b"secret", "vapid")
    assert b"secret" not in VAULT.seal(b"secret", "vapid")


def test_short_master_key_is_refused() -> None:
    """A master key that is too short is refused."""
    with pytest.raises(ValueError, match="32 octets"):
        Keyring(os.urandom(MIN_MASTER_KEY_LENGTH - 1))


@UNHURRIED
@given(uuids)
def test_device_token_is_valid_for_its_keyring_only(device_id: UUID) -> None:
    """A device token names its device and is valid for its own keyring only."""
    token = VAULT.device_token(device_id)
    assert token.startswith("dt_")
    assert VAULT.device_of(token) == device_id
    assert STRANGER.device_of(token) is None


@UNHURRIED
@given(uuids, uuids, st.none() | st.integers(0, 9), st.integers(NOW, NOW + 10_000_000))
def test_receipt_token_is_valid_until_it_expires(
    notification_id: UUID, device_id: UUID, variant: int | None, expires: int
) -> None:
    """A receipt token names its delivery until it expires."""
    token = VAULT.receipt_token(notification_id, device_id, variant, expires)
    assert len(token) == 66
    assert VAULT.receipt_of(token, NOW) == (notification_id, device_id, variant)
    assert VAULT.receipt_of(token, expires) == (notification_id, device_id, variant)
    assert VAULT.receipt_of(token, expires + 1) is None
    assert STRANGER.receipt_of(token, NOW) is None


@UNHURRIED
@given(uuids, uuids, st.integers(0, 63), st.integers(1, 63))
def test_token_with_one_changed_character_is_invalid(one: UUID, other: UUID, place: int, step: int) -> None:
    """A token with one changed character is invalid."""
    receipt, device = VAULT.receipt_token(one, other, None, NOW), VAULT.device_token(one)
    for token, read in ((receipt, lambda text: VAULT.receipt_of(text, NOW)), (device, VAULT.device_of)):
        at = place % len(token)
        changed = BASE64URL[(BASE64URL.index(token[at]) + step) % 64]
        assert read(token[:at] + changed + token[at + 1 :]) is None


@UNHURRIED
@given(st.integers(0, 70))
def test_truncated_or_longer_token_is_invalid(length: int) -> None:
    """A truncated or extended token is invalid."""
    receipt, device = VAULT.receipt_token(new_id(), new_id(), None, NOW), VAULT.device_token(new_id())
    for token, read in ((receipt, lambda text: VAULT.receipt_of(text, NOW)), (device, VAULT.device_of)):
        if length < len(token):
            assert read(token[:length]) is None
        assert read(token + "A" * (length + 1)) is None
        assert read(token + "=" * (length + 1)) is None


@UNHURRIED
@given(st.text(max_size=80))
def test_arbitrary_text_is_no_token(text: str) -> None:
    """Arbitrary text is not a token and raises no error."""
    for token in (text, f"dt_{text}"):
        assert VAULT.device_of(token) is None
        assert VAULT.receipt_of(token, NOW) is None


def test_token_kinds_are_not_interchangeable() -> None:
    """A token of one kind is not valid as the other."""
    device_id = new_id()
    assert VAULT.receipt_of(VAULT.device_token(device_id), int(time.time())) is None
    assert VAULT.device_of("dt_" + VAULT.receipt_token(new_id(), device_id, None, NOW)) is None
    assert VAULT.device_of(VAULT.device_token(device_id).removeprefix("dt_")) is None


def test_keys_are_unique_and_have_unique_digests() -> None:
    """New keys and their digests are unique."""
    keys = {new_key("sk") for _ in range(100)}
    assert len(keys) == len({digest(key) for key in keys}) == 100
    assert all(key.startswith("sk_") and len(key) >= 46 for key in keys)
