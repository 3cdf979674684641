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


async def test_the_same_key_and_request_give_the_first_answer_again(desk: Desk) -> None:
    assert await desk.ask("k") == {"id": "ntf_1"}
    assert await desk.ask("k") == StoredResponse(201, {"id": "ntf_1"})
    assert desk.worked == 1


async def test_of_many_at_once_one_works_and_the_others_get_its_answer(desk: Desk) -> None:
    answers = await asyncio.gather(*(desk.ask("k") for _ in range(15)))
    assert desk.worked == 1
    assert sorted(isinstance(answer, StoredResponse) for answer in answers) == [False] + [True] * 14
    assert {answer.status for answer in answers if isinstance(answer, StoredResponse)} == {201}


async def test_a_second_request_waits_for_the_first_that_still_runs(desk: Desk) -> None:
    gate = asyncio.Event()
    first = asyncio.create_task(desk.ask("k", gate=gate))
    second = asyncio.create_task(desk.ask("k"))
    done, _ = await asyncio.wait({first, second}, timeout=0.3)
    assert not done
    gate.set()
    answers = await asyncio.gather(first, second)
    assert sorted(isinstance(answer, StoredResponse) for answer in answers) == [False, True]
    assert desk.worked == 1


async def test_a_request_that_failed_leaves_no_trace_and_the_one_that_waited_works(desk: Desk) -> None:
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


async def test_the_same_key_with_another_request_is_refused(desk: Desk) -> None:
    await desk.ask("k")
    with pytest.raises(IdempotencyMismatch):
        await desk.ask("k", digest=b"another")
    assert desk.worked == 1


async def test_owners_do_not_share_keys(desk: Desk) -> None:
    await desk.ask("k")
    assert await desk.ask("k", owner="another", digest=b"another") == {"id": "ntf_1"}
    assert desk.worked == 2


async def test_the_answer_is_kept_sealed(parts: Parts, desk: Desk) -> None:
    await desk.ask("k")
    kept = bytes(await parts.scalar("SELECT answer FROM idempotency_keys"))
    assert b"ntf_1" not in kept
    assert parts.context.keyring.open(kept, "idempotency") == b'{"id": "ntf_1"}'
