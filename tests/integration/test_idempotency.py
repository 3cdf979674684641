"""Idempotency keys: the first request with a key is processed, and others get its stored response."""

import asyncio
from typing import Any

import pytest

from gateway.domain.errors import IdempotencyMismatch
from gateway.service.access import idempotency
from gateway.service.access.idempotency import StoredResponse
from tests.support.gateway_parts import Parts

# The owner of the keys, and the digest of the request that is repeated.
OWNER = "app"
DIGEST = b"digest of the request"


@pytest.fixture
def pool_size() -> int:
    return 20


class RequestHandler:
    """A request handler that counts the requests that it processed, as opposed to replayed."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.work_count = 0

    async def handle(
        self,
        key: str,
        *,
        owner: str = OWNER,
        digest: bytes = DIGEST,
        release: asyncio.Event | None = None,
        fails: bool = False,
    ) -> StoredResponse | dict[str, Any]:
        keyring = self.parts.context.keyring
        async with self.parts.engine.begin() as conn:
            stored = await idempotency.begin(conn, keyring, owner, key, digest)
            if stored is not None:
                return stored
            self.work_count += 1
            if release is not None:
                await release.wait()
            if fails:
                raise RuntimeError("the work failed")
            await idempotency.store_response(conn, keyring, owner, key, 201, b'{"id": "ntf_1"}')
            return {"id": "ntf_1"}


@pytest.fixture
def handler(parts: Parts) -> RequestHandler:
    """A request handler on the database of the test."""
    return RequestHandler(parts)


async def test_same_key_and_request_replays_the_response(handler: RequestHandler) -> None:
    """The same key and request return the stored response."""
    assert await handler.handle("k") == {"id": "ntf_1"}
    assert await handler.handle("k") == StoredResponse(201, {"id": "ntf_1"})
    assert handler.work_count == 1


async def test_concurrent_requests_with_one_key_work_once(handler: RequestHandler) -> None:
    """Of 15 concurrent requests with one key, one is processed and the others get its response."""
    responses = await asyncio.gather(*(handler.handle("k") for _ in range(15)))
    assert handler.work_count == 1
    assert sorted(isinstance(response, StoredResponse) for response in responses) == [False] + [True] * 14
    assert {response.status for response in responses if isinstance(response, StoredResponse)} == {201}


async def test_second_request_waits_for_the_first(handler: RequestHandler) -> None:
    """A second request with the same key waits until the first has been processed, and gets its response."""
    release = asyncio.Event()
    first = asyncio.create_task(handler.handle("k", release=release))
    second = asyncio.create_task(handler.handle("k"))
    done, _ = await asyncio.wait({first, second}, timeout=0.3)
    assert not done
    release.set()
    responses = await asyncio.gather(first, second)
    assert sorted(isinstance(response, StoredResponse) for response in responses) == [False, True]
    assert handler.work_count == 1


async def test_failed_request_leaves_no_key(handler: RequestHandler) -> None:
    """A failed request stores no response, and a request that waited for it is processed."""
    release = asyncio.Event()
    first = asyncio.create_task(handler.handle("k", release=release, fails=True))
    async with asyncio.timeout(5):
        while handler.work_count == 0:
            await asyncio.wait({first}, timeout=0.01)
    second = asyncio.create_task(handler.handle("k"))
    await asyncio.wait({second}, timeout=0.1)
    release.set()
    with pytest.raises(RuntimeError):
        await first
    assert await second == {"id": "ntf_1"}
    assert handler.work_count == 2


async def test_same_key_with_another_request_is_refused(handler: RequestHandler) -> None:
    """A request that differs from the stored request with the same key is refused."""
    await handler.handle("k")
    with pytest.raises(IdempotencyMismatch):
        await handler.handle("k", digest=b"another")
    assert handler.work_count == 1


async def test_owners_do_not_share_keys(handler: RequestHandler) -> None:
    """Two owners may use the same key for different requests."""
    await handler.handle("k")
    assert await handler.handle("k", owner="another", digest=b"another") == {"id": "ntf_1"}
    assert handler.work_count == 2


async def test_response_is_stored_encrypted(parts: Parts, handler: RequestHandler) -> None:
    """The stored response is encrypted."""
    await handler.handle("k")
    stored = bytes(await parts.scalar("SELECT answer FROM idempotency_keys"))
    assert b"ntf_1" not in stored
    assert parts.context.keyring.open(stored, "idempotency") == b'{"id": "ntf_1"}'
