"""Idempotency keys: the work is done once, and its first answer given again."""

import asyncio
from typing import Any

import pytest

from gateway.domain.errors import IdempotencyMismatch
from gateway.service.access import idempotency
from gateway.service.access.idempotency import StoredResponse
from tests.support.gateway_parts import Parts

OWNER = "app"
DIGEST = b"digest of the request"


@pytest.fixture
def pool_size() -> int:
    return 20


class Desk:
    """A request handler that counts how often it really worked."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.worked = 0

    async def ask(
        self,
        key: str,
        *,
        owner: str = OWNER,
        digest: bytes = DIGEST,
        gate: asyncio.Event | None = None,
        fails: bool = False,
    ) -> StoredResponse | dict[str, Any]:
        vault = self.parts.context.keyring
        async with self.parts.engine.begin() as conn:
            first = await idempotency.begin(conn, vault, owner, key, digest)
            if first is not None:
                return first
            self.worked += 1
            if gate is not None:
                await gate.wait()
            if fails:
                raise RuntimeError("the work failed")
            await idempotency.store_response(conn, vault, owner, key, 201, b'{"id": "ntf_1"}')
            return {"id": "ntf_1"}


@pytest.fixture
def desk(parts: Parts) -> Desk:
    return Desk(parts)


async def test_same_key_and_request_replays_the_response(desk: Desk) -> None:
    """The same key and request return the stored response."""
    assert await desk.ask("k") == {"id": "ntf_1"}
    assert await desk.ask("k") == StoredResponse(201, {"id": "ntf_1"})
    assert desk.worked == 1


async def test_concurrent_requests_with_one_key_work_once(desk: Desk) -> None:
    """Of many concurrent requests with one key, one works and the others get its response."""
    answers = await asyncio.gather(*(desk.ask("k") for _ in range(15)))
    assert desk.worked == 1
    assert sorted(isinstance(answer, StoredResponse) for answer in answers) == [False] + [True] * 14
    assert {answer.status for answer in answers if isinstance(answer, StoredResponse)} == {201}


async def test_second_request_waits_for_the_first(desk: Desk) -> None:
    """A second request with the same key waits for the first one."""
    gate = asyncio.Event()
    first = asyncio.create_task(desk.ask("k", gate=gate))
    second = asyncio.create_task(desk.ask("k"))
    done, _ = await asyncio.wait({first, second}, timeout=0.3)
    assert not done
    gate.set()
    answers = await asyncio.gather(first, second)
    assert sorted(isinstance(answer, StoredResponse) for answer in answers) == [False, True]
    assert desk.worked == 1


async def test_failed_request_leaves_no_key(desk: Desk) -> None:
    """A failed request stores nothing, and the waiting one does the work."""
    gate = asyncio.Event()
    first = asyncio.create_task(desk.ask("k", gate=gate, fails=True))
    async with asyncio.timeout(5):
        while desk.worked == 0:
            await asyncio.wait({first}, timeout=0.01)
    second = asyncio.create_task(desk.ask("k"))
    await asyncio.wait({second}, timeout=0.1)
    gate.set()
    with pytest.raises(RuntimeError):
        await first
    assert await second == {"id": "ntf_1"}
    assert desk.worked == 2


async def test_same_key_with_another_request_is_refused(desk: Desk) -> None:
    """The same key with another request is refused."""
    await desk.ask("k")
    with pytest.raises(IdempotencyMismatch):
        await desk.ask("k", digest=b"another")
    assert desk.worked == 1


async def test_owners_do_not_share_keys(desk: Desk) -> None:
    """Keys of different owners are independent."""
    await desk.ask("k")
    assert await desk.ask("k", owner="another", digest=b"another") == {"id": "ntf_1"}
    assert desk.worked == 2


async def test_response_is_stored_encrypted(parts: Parts, desk: Desk) -> None:
    """The stored response is encrypted."""
    await desk.ask("k")
    kept = bytes(await parts.scalar("SELECT answer FROM idempotency_keys"))
    assert b"ntf_1" not in kept
    assert parts.context.keyring.open(kept, "idempotency") == b'{"id": "ntf_1"}'
