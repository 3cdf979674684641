"""Which message is sent next: urgent before normal before bulk, and no host beyond what it can bear.

Senders take from here. Some of them only ever take urgent messages, so that an alert finds a free one even
when a campaign fills all others. A host that asks for less is given less (its limit is halved,
and grows again slowly with every success); messages above its limit are parked, not waited for,
so that a slow host holds up nobody else.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from gateway.domain.notification import Lane


class Letter(Protocol):
    @property
    def lane(self) -> Lane: ...
    @property
    def host(self) -> str: ...


L = TypeVar("L", bound=Letter)

URGENT, ALL = (Lane.URGENT,), tuple(Lane)


@dataclass(slots=True)
class _Host(Generic[L]):
    limit: float
    in_flight: int = 0
    parked: dict[Lane, deque[L]] = field(default_factory=lambda: {lane: deque() for lane in Lane})


class Lanes(Generic[L]):
    def __init__(self, per_host: int) -> None:
        """`per_host`: messages in flight to one host at the most."""
        self._per_host = per_host
        self._waiting: dict[Lane, deque[L]] = {lane: deque() for lane in Lane}
        self._hosts: dict[str, _Host[L]] = {}
        self._idle: deque[asyncio.Future[None]] = deque()
        self._idle_urgent: deque[asyncio.Future[None]] = deque()

    def put(self, lane: Lane, letters: Iterable[L]) -> None:
        before = len(self._waiting[lane])
        self._waiting[lane].extend(letters)
        self._wake(lane, len(self._waiting[lane]) - before)

    async def take(self, *, urgent_only: bool) -> L:
        """The next message to send; the caller must give it back with `done`."""
        idle = self._idle_urgent if urgent_only else self._idle
        lanes = URGENT if urgent_only else ALL
        while (letter := self._pop(lanes)) is None:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            idle.append(turn)
            await turn
        return letter

    def done(self, letter: L, *, slow_down: bool = False, accepted: bool = False) -> None:
        """The message was answered: the host's place is free again, and its limit learns."""
        host = self._hosts[letter.host]
        host.in_flight -= 1
        if slow_down:
            host.limit = max(1.0, host.limit / 2)
        elif accepted and host.limit < self._per_host:
            host.limit = min(float(self._per_host), host.limit + 1 / host.limit)
        free = int(host.limit) - host.in_flight
        for lane, parked in host.parked.items():
            while free > 0 and parked:
                self._waiting[lane].appendleft(parked.popleft())
                self._wake(lane, 1)
                free -= 1

    def limit(self, host: str) -> int:
        return int(self._host(host).limit)

    def _pop(self, lanes: tuple[Lane, ...]) -> L | None:
        for lane in lanes:
            waiting = self._waiting[lane]
            while waiting:
                letter = waiting.popleft()
                host = self._host(letter.host)
                if host.in_flight < int(host.limit):
                    host.in_flight += 1
                    return letter
                host.parked[lane].append(letter)
        return None

    def _host(self, name: str) -> _Host[L]:
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = _Host(float(self._per_host))
        return host

    def _wake(self, lane: Lane, count: int) -> None:
        pools = (self._idle_urgent, self._idle) if lane is Lane.URGENT else (self._idle,)
        for pool in pools:
            while count > 0 and pool:
                turn = pool.popleft()
                if not turn.done():
                    turn.set_result(None)
                    count -= 1
