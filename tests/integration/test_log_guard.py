"""The guard that searches the logs of all tests detects each kind of secret."""

import logging
import secrets
from base64 import b64encode
from collections.abc import Iterator
from uuid import UUID

import pytest
import structlog

from gateway.domain.ids import new_id
from gateway.service.access.secrets import new_key
from gateway.sim import Vendor
from tests.support import log_guard
from tests.support.api import Api
from tests.support.log_guard import Guard, SecretInLog, guard

log = structlog.get_logger("gateway.tests")


@pytest.fixture(autouse=True)
def discard_lines(check_logs_for_secrets: None) -> Iterator[None]:
    """Discard the lines that a test logs on purpose, before the guard checks them."""
    yield
    guard.clear()


@pytest.fixture
def unmasked_log() -> Iterator[None]:
    """Write log lines without masking."""
    with log_guard.without_masking():
        yield


def assert_leak_detected() -> None:
    """Check that the guard detects a secret in the recorded lines, and discard the lines."""
    with pytest.raises(SecretInLog):
        guard.check()
    guard.clear()


def test_key_in_a_log_line_is_detected(unmasked_log: None) -> None:
    """A generated key in a log line is detected."""
    key = new_key("sk")
    log.info("created", key=key)
    assert_leak_detected()
    logging.getLogger("a.library").warning("refused %s", key.removeprefix("sk_"))
    assert_leak_detected()


def test_masked_secrets_are_not_reported() -> None:
    """Secrets that the log masks are not reported."""
    guard.check()
    key = new_key("sk")
    log.info(f"created {key}", token=key, endpoint=f"https://push.example.org/p/{secrets.token_urlsafe(32)}")
    logging.getLogger("a.library").warning("refused %s", key)
    assert len(guard.pending_lines) == 2
    guard.check()


@pytest.mark.usefixtures("unmasked_log")
async def test_endpoints_keys_and_content_are_detected(api: Api) -> None:
    """Endpoints, subscription keys, message texts and database URLs in a log line are detected."""
    [subscriber] = api.parts.subscribe(Vendor.FCM, 1)
    await api.parts.register([subscriber])
    async with api.parts.run_worker():
        await api.parts.wait_until_done(
            (await api.parts.submit(content={"title": "T", "body": "Your parcel is here"})).id
        )
    guard.check()
    token = subscriber.endpoint.rpartition("/")[2]
    secrets_of_device = (subscriber.endpoint, token, subscriber.auth.hex(), b64encode(subscriber.auth).decode())
    for secret in (*secrets_of_device, "xy: Your parcel is here"):
        log.info("sent", to=secret)
        assert_leak_detected()
    for url in (api.parts.url, f"https://push.example.org/wpush/{'x' * 40}"):
        log.info("called", url=url)
        assert_leak_detected()


@pytest.mark.usefixtures("unmasked_log")
async def test_tokens_and_private_keys_are_detected(api: Api) -> None:
    """Device tokens, receipt tokens and JWTs in a log line are detected."""
    keyring = api.parts.context.keyring
    jwt = "eyJhbGciOiJFUzI1NiJ9.eyJhdWQiOiJodHRwcyJ9.c2lnbmF0dXJl"
    for secret in (keyring.issue_device_token(new_id()), keyring.issue_receipt_token(new_id(), new_id(), None, 1), jwt):
        log.info("created", value=secret)
        assert_leak_detected()


def test_plain_ids_and_addresses_are_not_reported() -> None:
    """Ids and addresses without secrets are not reported."""
    new_guard = Guard()
    new_guard.record(f"{UUID(int=1).hex} https://example.org/news/storm app_{new_id().hex} postgresql://me:***@db/x")
    new_guard.check()
