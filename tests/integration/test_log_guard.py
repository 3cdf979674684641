"""What looks through the logs of all tests finds what must not be there, however it came there."""

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
from tests.support.api import Api
from tests.support.log_guard import Guard, SecretInLog, guard

log = structlog.get_logger("gateway.tests")


@pytest.fixture(autouse=True)
def heard_by_nobody_else(check_logs_for_secrets: None) -> Iterator[None]:
    """What a test leaves on purpose is gone before the guard looks."""
    yield
    guard._lines.clear()


@pytest.fixture
def nothing_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the log masked nothing: what reaches it is then written as it is."""
    monkeypatch.setattr("gateway.log._SECRETS_IN_TEXT", ())
    monkeypatch.setattr("gateway.log._is_secret", lambda _: False)
    monkeypatch.setattr("gateway.log._is_endpoint", lambda _: False)
    from gateway.log import _mask_text

    _mask_text.cache_clear()


def leaks() -> None:
    with pytest.raises(SecretInLog):
        guard.check()
    guard._lines.clear()


def test_key_in_a_log_line_is_detected(nothing_masked: None) -> None:
    """A generated key in a log line is detected."""
    key = new_key("sk")
    log.info("made", key=key)
    leaks()
    logging.getLogger("a.library").warning("refused %s", key.removeprefix("sk_"))
    leaks()


def test_masked_secrets_are_not_reported() -> None:
    """Secrets that the log masks are not reported."""
    guard.check()
    key = new_key("sk")
    log.info(f"made {key}", token=key, endpoint=f"https://push.example.org/p/{secrets.token_urlsafe(32)}")
    logging.getLogger("a.library").warning("refused %s", key)
    assert len(guard._lines) == 2
    guard.check()


@pytest.mark.usefixtures("nothing_masked")
async def test_endpoints_keys_and_content_are_detected(api: Api) -> None:
    """Endpoints, subscription keys and message texts are detected."""
    [subscriber] = api.parts.subscribe(Vendor.FCM, 1)
    await api.parts.register([subscriber])
    async with api.parts.run_worker():
        await api.parts.wait_until_done(
            (await api.parts.submit(content={"title": "T", "body": "Your parcel is here"})).id
        )
    guard.check()
    token = subscriber.endpoint.rpartition("/")[2]
    said = (subscriber.endpoint, token, subscriber.auth.hex(), b64encode(subscriber.auth).decode())
    for secret in (*said, "xy: Your parcel is here"):
        log.info("sent", to=secret)
        leaks()
    for url in (api.parts.url, f"https://push.example.org/wpush/{'x' * 40}"):
        log.info("called", url=url)
        leaks()


@pytest.mark.usefixtures("nothing_masked")
async def test_tokens_and_private_keys_are_detected(api: Api) -> None:
    """Device tokens, receipt tokens and JWTs are detected."""
    vault = api.parts.context.keyring
    jwt = "eyJhbGciOiJFUzI1NiJ9.eyJhdWQiOiJodHRwcyJ9.c2lnbmF0dXJl"
    for secret in (vault.device_token(new_id()), vault.receipt_token(new_id(), new_id(), None, 1), jwt):
        log.info("made", it=secret)
        leaks()


def test_plain_ids_and_addresses_are_not_reported() -> None:
    """Ids and addresses without secrets are not reported."""
    listening = Guard()
    listening.record(f"{UUID(int=1).hex} https://example.org/news/storm app_{new_id().hex} postgresql://me:***@db/x")
    listening.check()
